/*
 * Random calls at uio_vshmem, in a guest:
 *
 *   module FROM USER SEED PROCESSES     FROM: an attach socket, or /dev/vshmemN
 *   module flood FROM USER SECONDS PEER
 *
 * The descriptors are had first, then the process becomes USER (0 stays root and also storms at
 * the UIO devices). Each process storms with three threads for a moment and is killed; everything
 * but the scheduler's doing follows from the seed. Prints what it did; 0 unless it could not begin.
 */
#define _GNU_SOURCE
#include "module.h"

#include <grp.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "module_calls.h"

#define THREADS 3

/* As a task gets them: one for reading and writing, one for reading. */
static int attach(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	uint32_t ask[8] = { 0x6d687376, 1, 1 }, answer[64];
	_Alignas(struct cmsghdr) char control[64];
	struct iovec part = { answer, sizeof(answer) };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strncpy(to.sun_path, path, sizeof(to.sun_path) - 1);
	if (connect(s, (struct sockaddr *)&to, sizeof(to)) || send(s, ask, sizeof(ask), 0) < 0 ||
	    recvmsg(s, &m, 0) < 0 || answer[2] || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&all.rw, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	memcpy(&all.ro, CMSG_DATA(CMSG_FIRSTHDR(&m)) + sizeof(int), sizeof(int));
	return s;
}

static int become(int user)
{
	return user && (setgroups(0, NULL) || setresgid(user, user, user) ||
			setresuid(user, user, user)) ? -1 : 0;
}

static int begin(const char *from, int user)
{
	struct vshmem_info info;

	int is_device = !strncmp(from, "/dev/", 5);

	/* Who attaches is that user; the device is root's to open. */
	if (!is_device && become(user))
		return -1;
	if (is_device) {
		all.rw = open(from, O_RDWR | O_CLOEXEC);
		all.ro = open(from, O_RDONLY | O_CLOEXEC);
	} else if (attach(from) < 0) {
		return -1;
	}
	if (ioctl(all.rw, VSHMEM_IOC_INFO, &info) || all.ro < 0)
		return -1;
	all.size = info.bar2_size;
	all.root = !user;
	for (int i = 0; i < 4; i++) {
		char name[32];

		snprintf(name, sizeof(name), "/dev/uio%d", i);
		all.uio[i] = user ? -1 : open(name, O_RDWR | O_CLOEXEC);
	}
	return is_device ? become(user) : 0;
}

static void on_nothing(int sig)
{
	(void)sig;
}

static void *storm(void *seed)
{
	state = (uint64_t)seed;
	for (;;)
		one_call();
	return NULL;
}

static void process(uint64_t seed)
{
	struct sigaction nothing = { .sa_handler = on_nothing };
	pthread_t thread[THREADS];

	state = seed;
	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	sigaction(SIGUSR1, &nothing, NULL);
	for (int i = 0; i < 8; i++)
		all.fds[i] = dup(i % 2 ? all.rw : all.ro);
	all.harmless = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, all.rw, all.size / 4 * 3);
	for (int i = 0; i < MAPS / 2; i++)
		do_mmap(i, 1);
	for (uintptr_t i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, storm, (void *)(rnd() + i)))
			_exit(1);
	for (;;) {
		usleep(below(2000));
		pthread_kill(thread[below(THREADS)], SIGUSR1);
	}
}


/* Rings a peer as often as it can, with ever new descriptors: each may ring a thousand at once. */
static int flood(const char *from, int user, int seconds, unsigned peer)
{
	struct timespec begun, now;
	long rung = 0, descriptors = 0;

	if (begin(from, user))
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		struct vshmem_ring to = { .peer = peer };

		for (int i = 0; i < 1000 && !ioctl(all.rw, VSHMEM_IOC_RING, &to); i++)
			rung++;
		close(all.rw);
		close(all.ro);
		int s = attach(from);
		if (s < 0)
			break;
		close(s);
		descriptors++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begun.tv_sec < seconds);
	clock_gettime(CLOCK_MONOTONIC, &now);
	printf("rung %ld descriptors %ld milliseconds %ld\n", rung, descriptors,
	       (now.tv_sec - begun.tv_sec) * 1000 + (now.tv_nsec - begun.tv_nsec) / 1000000);
	return 0;
}

int main(int argc, char **argv)
{
	long faults = 0, ended = 0, killed = 0, processes;
	uint64_t seed;

	if (argc == 6 && !strcmp(argv[1], "flood"))
		return flood(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
	if (argc != 5)
		return 2;
	seed = strtoull(argv[3], NULL, 0);
	processes = atol(argv[4]);
	if (begin(argv[1], atoi(argv[2]))) {
		perror(argv[1]);
		return 1;
	}
	for (long i = 0; i < processes; i++) {
		int status;
		pid_t pid = fork_tied();

		if (!pid) {
			setpgid(0, 0);
			process(seed * 1000003 + i);
		}
		setpgid(pid, pid);
		usleep(30000 + seed * (i + 1) * 7919 % 60000);
		/* What it forked goes with it. */
		kill(-pid, SIGKILL);
		if (waitpid(pid, &status, 0) != pid)
			return 1;
		if (WIFEXITED(status))
			ended++;
		else if (WTERMSIG(status) == SIGKILL)
			killed++;
		else
			faults++;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	printf("processes %ld killed %ld faults %ld ended %ld\n", processes, killed, faults, ended);
	return 0;
}
