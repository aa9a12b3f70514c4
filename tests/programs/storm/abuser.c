/*
 * Does to an attach socket and to the door of VMs what no program should.
 *
 *   abuser SOCKET DOOR SEED ROUNDS      one of the two may be "-"
 *
 * Everything follows from the seed but for what the scheduler does. Nothing
 * here waits long: an answer that does not come is as good as one. Prints how
 * much it did, and exits with 0 whatever it met. The messages are those of
 * guest-lib/core/src/attach.rs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_FDS 253	/* the most that the kernel lets one packet carry */
#define POOL 300

struct request {
	uint32_t tag, version, op, zero;
	uint64_t a, b;
};

static const char *attach_path, *door_path;
static uint64_t state;
static long answered, refused, cut, unsent;
static int pool[POOL], pooled;

static uint64_t rnd(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static unsigned below(unsigned n)
{
	return rnd() % n;
}

static int percent(unsigned n)
{
	return below(100) < n;
}

static void nap(void)
{
	usleep(below(2000));
}

static int dial(const char *path)
{
	int type = path == door_path ? SOCK_STREAM : SOCK_SEQPACKET;
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 2 };
	int s = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	if (s < 0)
		return -1;
	strncpy(to.sun_path, path, sizeof(to.sun_path) - 1);
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(s, (struct sockaddr *)&to, sizeof(to))) {
		close(s);
		return -1;
	}
	return s;
}

/* A descriptor to give away; `self` is the connection it goes over. */
static int gift(int self)
{
	int two[2], fd = -1;

	switch (below(9)) {
	case 0:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 1:
		if (pipe2(two, O_CLOEXEC))
			return -1;
		close(two[1]);
		return two[0];
	case 2:
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, two))
			return -1;
		close(two[1]);
		return two[0];
	case 3:
		fd = memfd_create("gift", MFD_CLOEXEC);
		if (fd >= 0 && ftruncate(fd, 1 << 20))
			return -1;
		return fd;
	case 4:
		return syscall(SYS_pidfd_open, percent(50) ? getpid() : getppid(), 0);
	case 5:
		return eventfd(0, EFD_CLOEXEC);
	case 6:
		return dup(self);
	case 7:
		return open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	default:
		/* Its description in /proc is one line for each that it watches. */
		fd = epoll_create1(EPOLL_CLOEXEC);
		for (int i = 0; i < 200; i++) {
			int e = eventfd(0, EFD_CLOEXEC);
			struct epoll_event none = { .events = EPOLLIN };

			epoll_ctl(fd, EPOLL_CTL_ADD, e, &none);
			close(e);
		}
		return fd;
	}
}

/* Sends bytes and descriptors without waiting; the descriptors are closed. */
static int give(int s, const void *bytes, size_t len, int *fds, unsigned n)
{
	static _Alignas(struct cmsghdr) char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
	struct iovec part = { (void *)bytes, len };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
	int ok;

	if (n) {
		m.msg_control = control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	ok = sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
	while (n--)
		close(fds[n]);
	unsent += !ok;
	return ok;
}

static unsigned gifts(int s, int *fds, unsigned most)
{
	unsigned n = 0;

	while (n < most && (fds[n] = gift(s)) >= 0)
		n++;
	return n;
}

/* Takes an answer if one comes soon. */
static void hear(int s, int wait_ms)
{
	static _Alignas(struct cmsghdr) char control[256];
	char bytes[512];
	struct iovec part = { bytes, sizeof(bytes) };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct pollfd p = { .fd = s, .events = POLLIN };
	uint32_t status;

	if (poll(&p, 1, wait_ms) <= 0)
		return;
	ssize_t n = recvmsg(s, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n <= 0) {
		cut++;
		return;
	}
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
				close(((int *)CMSG_DATA(c))[i]);
	memcpy(&status, bytes + 8, sizeof(status));
	answered++;
	refused += status != 0;
}

static struct request request(unsigned op)
{
	struct request r = { 0x6d687376, 1, op, 0, 0, 0 };

	r.a = percent(80) ? below(80) : rnd();
	r.b = percent(80) ? below(4) : rnd();
	return r;
}

/* Random bytes, random descriptors. */
static void garbage(void)
{
	static char bytes[70000];
	int fds[MAX_FDS], s = dial(percent(20) && door_path ? door_path : attach_path);
	unsigned packets = 1 + below(4);

	if (s < 0)
		return;
	while (packets--) {
		unsigned len = percent(70) ? below(80) : below(sizeof(bytes));
		unsigned n = percent(50) ? 0 : percent(50) ? below(4) : MAX_FDS;

		for (unsigned i = 0; i < len; i += 8)
			memcpy(bytes + i, &(uint64_t){ rnd() }, len - i < 8 ? len - i : 8);
		give(s, bytes, len, fds, gifts(s, fds, n));
		if (percent(30))
			hear(s, 20);
	}
	close(s);
}

/* A valid conversation with something changed. */
static void mutated(void)
{
	struct request talk[8];
	int fds[MAX_FDS], s = dial(attach_path);
	unsigned n = 2 + below(6);

	if (s < 0)
		return;
	talk[0] = request(1);
	for (unsigned i = 1; i < n; i++)
		talk[i] = request(percent(30) ? 1 : 2 + below(5));
	if (percent(30)) {	/* reorder */
		unsigned i = below(n), j = below(n);
		struct request t = talk[i];

		talk[i] = talk[j];
		talk[j] = t;
	}
	if (percent(40)) {	/* flip */
		unsigned bit = below(n * sizeof(*talk) * 8);

		((unsigned char *)talk)[bit / 8] ^= 1 << bit % 8;
	}
	unsigned at_cut = percent(30) ? below(n) : n, twice = percent(30) ? below(n) : n;
	for (unsigned i = 0; i < n; i++) {
		unsigned op = talk[i].op;
		size_t len = i == at_cut ? below(sizeof(*talk)) : sizeof(*talk);
		unsigned with = op == 2 || op == 6 ? 1 : percent(10) ? below(8) : 0;

		for (int again = i == twice; again >= 0; again--)
			give(s, &talk[i], len, fds, gifts(s, fds, with));
		if (percent(70))
			hear(s, 20);
		if (percent(5))
			shutdown(s, below(3));
	}
	close(s);
}

/* Asks and never reads. */
static void deaf(void)
{
	int fds[1], s = dial(attach_path);
	struct request r = request(1);

	for (int i = 0; s >= 0 && i < 600; i++) {
		if (!give(s, &r, sizeof(r), fds, percent(5) ? gifts(s, fds, 1) : 0))
			break;
		r = request(percent(50) ? 1 : 4);
		if (i % 64 == 63)
			nap();
	}
	if (percent(50))
		pool[pooled++ % POOL] = s;
	else
		close(s);
}

/* Connects and says nothing, or a byte now and then, for long. */
static void silent(void)
{
	unsigned n = percent(10) ? 100 : 1 + below(5);

	while (n--) {
		int *place = &pool[pooled++ % POOL];
		int s = dial(percent(10) && door_path ? door_path : attach_path);

		if (*place > 0)
			close(*place);
		*place = s;
		if (s >= 0 && percent(50))
			send(s, "v", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
}

static void half_closed(void)
{
	int fds[8], s = dial(percent(30) && door_path ? door_path : attach_path);
	struct request r = request(1);

	if (s < 0)
		return;
	give(s, &r, sizeof(r), fds, gifts(s, fds, below(3)));
	shutdown(s, below(3));
	hear(s, 20);
	give(s, &r, sizeof(r), fds, 0);
	hear(s, 5);
	close(s);
}

/* Who asks is not who connected; identities that are not its own. */
static void liar(void)
{
	int s = dial(attach_path);
	struct request r = request(1);
	struct ucred who = { .pid = 1, .uid = 0, .gid = 0 };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(who))];
	struct iovec part = { &r, sizeof(r) };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };

	if (s < 0)
		return;
	if (percent(50))
		unshare(CLONE_NEWUSER | CLONE_NEWPID);
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(who));
	memcpy(CMSG_DATA(c), &who, sizeof(who));
	sendmsg(s, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (!fork()) {
		int t = percent(50) ? dial(attach_path) : s;

		give(t, &r, sizeof(r), NULL, 0);
		hear(t, 20);
		/* A child whose parent is gone, on its connection. */
		if (!fork()) {
			nap();
			r = request(3);
			give(t, &r, sizeof(r), NULL, 0);
			hear(t, 5);
		}
		_exit(0);
	}
	hear(s, 20);
	while (waitpid(-1, NULL, 0) > 0)
		;
	close(s);
}

/* Registers children, real ones and others, with sockets of all kinds. */
static void forks(void)
{
	int s = dial(attach_path), two[2];
	struct request r = request(1);

	if (s < 0)
		return;
	give(s, &r, sizeof(r), NULL, 0);
	hear(s, 50);
	for (int i = 0; i < 4; i++) {
		if (socketpair(AF_UNIX, percent(80) ? SOCK_SEQPACKET : SOCK_STREAM, 0, two))
			break;
		r = request(2);
		give(s, &r, sizeof(r), &two[1], 1);
		r = request(3);
		/* Its own other end lies in its queue. */
		int own = dup(two[0]);
		give(two[0], &r, sizeof(r), &own, 1);
		close(two[0]);
	}
	hear(s, 20);
	close(s);
}

/* A connection whose last close waits for a peer that does not read. */
static void lingering(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger minutes = { .l_onoff = 1, .l_linger = 300 };
	static int readers[32];
	static unsigned kept;
	socklen_t len = sizeof(at);
	int door = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), *reader = &readers[kept++ % 32];
	char block[4096] = { 0 };

	if (*reader > 0)
		close(*reader);
	*reader = -1;
	if (!bind(door, (struct sockaddr *)&at, sizeof(at)) && !listen(door, 1) &&
	    !getsockname(door, (struct sockaddr *)&at, &len) &&
	    !connect(s, (struct sockaddr *)&at, len))
		*reader = accept(door, NULL, NULL);
	close(door);
	while (*reader >= 0 && send(s, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
	int go[2];
	if (pipe2(go, O_CLOEXEC))
		return;
	pid_t pid = fork();
	if (!pid) {
		struct request r = request(percent(50) ? 6 : 1);
		int c = dial(attach_path);
		char byte;

		/* Until it is nobody else's: the last close must not be our parent's. */
		close(go[1]);
		if (read(go[0], &byte, 1) < 0)
			_exit(1);

		/* Only now: who exits does not linger, so what is left is the receiver's. */
		setsockopt(s, SOL_SOCKET, SO_LINGER, &minutes, sizeof(minutes));
		if (percent(50))
			give(c, &r, sizeof(r), (int[]){ dup(s) }, 1);
		give(c, &r, percent(50) ? sizeof(r) : 7, (int[]){ dup(s) }, 1);
		_exit(0);
	}
	close(s);
	close(go[0]);
	close(go[1]);
	waitpid(pid, NULL, 0);
}

/* A task that dies in the middle of what it says. */
static void dying(void)
{
	pid_t pid = fork();

	if (!pid) {
		int fds[8], s = dial(attach_path);

		for (;;) {
			struct request r = request(1 + below(6));

			give(s, &r, sizeof(r), fds, gifts(s, fds, below(2)));
			hear(s, 1);
		}
	}
	nap();
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* A process with as many mappings as the kernel allows attaches over and over. */
static void fat(void)
{
	pid_t pid = fork();

	if (!pid) {
		struct request r = request(1);

		for (int i = 0; i < 60000; i++)
			if (mmap(NULL, 4096, i % 2 ? PROT_READ : PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
				break;
		for (int i = 0; i < 20; i++) {
			int s = dial(attach_path);

			give(s, &r, sizeof(r), NULL, 0);
			hear(s, 100);
			close(s);
		}
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	struct rlimit files;
	long rounds;

	if (argc != 5)
		return 2;
	door_path = strcmp(argv[2], "-") ? argv[2] : NULL;
	attach_path = strcmp(argv[1], "-") ? argv[1] : door_path;
	state = strtoull(argv[3], NULL, 0);
	rounds = atol(argv[4]);
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	for (long i = 0; i < rounds; i++) {
		unsigned kind = below(100);

		if (kind < 25)
			garbage();
		else if (kind < 55)
			mutated();
		else if (kind < 60)
			deaf();
		else if (kind < 70)
			silent();
		else if (kind < 78)
			half_closed();
		else if (kind < 88)
			forks();
		else if (kind < 92)
			dying();
		else if (kind < 95)
			lingering();
		else if (kind < 96)
			fat();
		else {
			/* A name space is for the rest of a process's life. */
			pid_t pid = fork();

			if (!pid) {
				liar();
				_exit(0);
			}
			waitpid(pid, NULL, 0);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	printf("answered %ld refused %ld cut %ld unsent %ld\n", answered, refused, cut, unsent);
	return 0;
}
