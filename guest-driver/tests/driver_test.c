// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of uio_vshmem on a real device, run as root inside a guest:
 *
 *   driver_test [--module FILE.ko] [NAME...]    all tests, or those named
 *   driver_test pingpong SIDE ROUNDS            SIDE 0 in one guest, 1 in another
 *   driver_test bind                            bind, for the harness's death tests
 *
 * It scribbles over the upper half of BAR2: give it a scratch region. Prints
 * "ok NAME", "skip NAME: why" or "FAIL NAME: why" per test and exits with 1
 * when any failed. Build: cc -static -O2 -Wall -Wextra -o driver_test
 * driver_test.c (it needs ../uio_vshmem/vshmem_abi.h only).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../uio_vshmem/vshmem_abi.h"

#define HUGE_PAGE	(2ul << 20)
#define LANES		512u
#define LANE_STRIDE	4096u
#define STATUS_OFF	64u

static char node[64] = "/dev/vshmem0";
static char pci_name[64];	/* 0000:00:04.0 */
static const char *module_path;
static uint64_t bar_size;
static uint64_t base;		/* our half of BAR2 */
static uint32_t my_id, my_vectors;

/* A test ends by returning; a failed check ends its process. */
static void fail_at(int line, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stdout, "# line %d: %s\n", line, text);
	fflush(stdout);
	_exit(1);
}
#define FAIL(...)	fail_at(__LINE__, __VA_ARGS__)
#define CHECK(c)	do { if (!(c)) FAIL("%s (errno %d)", #c, errno); } while (0)
/* The call must fail with that errno. */
#define REFUSED(call, want) do {					\
	errno = 0;							\
	long r_ = (long)(call);						\
	if (r_ != -1 || errno != (want))				\
		FAIL("%s: got %ld errno %d, want errno %d", #call, r_,	\
		     errno, (want));					\
} while (0)

#define SKIP	77

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static int open_dev(int flags)
{
	int fd = open(node, flags | O_CLOEXEC);

	if (fd < 0)
		FAIL("open %s: %s", node, strerror(errno));
	return fd;
}

static void *map_at(int fd, uint64_t off, size_t len, int prot)
{
	void *p = mmap(NULL, len, prot, MAP_SHARED, fd, (off_t)off);

	if (p == MAP_FAILED)
		FAIL("mmap %#" PRIx64 "+%#zx: %s", off, len, strerror(errno));
	return p;
}

static int wait_word(int fd, uint64_t off, uint32_t expected, int64_t ms)
{
	struct vshmem_wait w = { .off = off, .expected = expected };

	if (ms >= 0) {
		int64_t t = now_ns() + ms * 1000000;

		w.flags = VSHMEM_WAIT_DEADLINE;
		w.sec = t / 1000000000;
		w.nsec = t % 1000000000;
	}
	return ioctl(fd, VSHMEM_IOC_WAIT, &w);
}

static int wake_word(int fd, uint64_t off, uint32_t count)
{
	struct vshmem_wake w = { .off = off, .count = count };

	return ioctl(fd, VSHMEM_IOC_WAKE, &w);
}

static int ring(int fd, uint32_t peer, uint32_t vector)
{
	struct vshmem_ring r = { .peer = peer, .vector = vector };

	return ioctl(fd, VSHMEM_IOC_RING, &r);
}

/* Where SIDE (a peer of the ping-pong; 0 in the other tests) keeps its things. */
static uint64_t side_off(unsigned side) { return base + side * (4ul << 20); }
static uint64_t wake_off(unsigned side) { return side_off(side) + 65536; }
static uint64_t lane_off(unsigned side, unsigned lane)
{
	return side_off(side) + (1ul << 20) + lane * LANE_STRIDE + STATUS_OFF;
}

static struct vshmem_bind geometry(unsigned side)
{
	return (struct vshmem_bind){
		.peer_off = side_off(side),
		.wake_off = wake_off(side),
		.lanes_off = side_off(side) + (1ul << 20),
		.lane_stride = LANE_STRIDE,
		.lane_count = LANES,
		.status_off = STATUS_OFF,
		.summary_words = VSHMEM_SUMMARY_WORDS_MAX,
		.dead_value = 0xdead,
		.host_id = 0xfff0,
		.host_vector = 1,
		.wake_vector = 0,
	};
}

/* What a waker in another peer does, but for the doorbell. */
static void set_wake_bit(volatile void *bitmap, unsigned lane)
{
	uint64_t *word = (uint64_t *)bitmap;
	unsigned leaf = lane / 64;

	__atomic_fetch_or(&word[VSHMEM_SUMMARY_WORDS_MAX + leaf],
			  1ull << (lane % 64), __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&word[leaf / 64], 1ull << (leaf % 64),
			  __ATOMIC_SEQ_CST);
}

static pid_t fork_checked(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid)
		alarm(60);
	return pid;
}

static void reap_ok(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		FAIL("child ended with status %#x", status);
}

/* Until PID sleeps in a system call (state S, in ioctl or futex). */
static void until_asleep(pid_t pid)
{
	char path[64], line[512];

	for (int i = 0; i < 100000; i++) {
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		FILE *f = fopen(path, "r");
		CHECK(f && fgets(line, sizeof(line), f));
		fclose(f);
		char *p = strrchr(line, ')');
		if (p && p[2] == 'S')
			return;
		sched_yield();
	}
	FAIL("process %d does not sleep", pid);
}

static int uio_open(const char *name)
{
	char path[400], text[64];
	struct dirent *e;
	int fd = -1;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/uio", pci_name);
	DIR *d = opendir(path);
	CHECK(d);
	while (fd < 0 && (e = readdir(d))) {
		if (strncmp(e->d_name, "uio", 3))
			continue;
		snprintf(path, sizeof(path), "/sys/class/uio/%s/name", e->d_name);
		FILE *f = fopen(path, "r");
		CHECK(f && fgets(text, sizeof(text), f));
		fclose(f);
		text[strcspn(text, "\n")] = 0;
		if (strcmp(text, name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		CHECK(fd >= 0);
	}
	closedir(d);
	if (fd < 0)
		FAIL("no UIO device named %s", name);
	return fd;
}

static int uio_read(int fd, int timeout_ms, int32_t *count)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, timeout_ms) != 1)
		return 0;
	return read(fd, count, sizeof(*count)) == sizeof(*count);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		FAIL("write %s to %s: %s", text, path, strerror(errno));
	close(fd);
}

static void unbind_driver(void)
{
	write_file("/sys/bus/pci/drivers/uio_vshmem/unbind", pci_name);
}

static void bind_driver(void)
{
	write_file("/sys/bus/pci/drivers/uio_vshmem/bind", pci_name);
	for (int i = 0; i < 1000 && access(node, F_OK); i++)
		poll(NULL, 0, 5);	/* devtmpfs makes the node */
	CHECK(!access(node, F_OK));
}

/* ------------------------------------------------------------ mapping */

static int info_describes_the_device(void)
{
	struct vshmem_info i;
	int fd = open_dev(O_RDONLY);

	CHECK(!ioctl(fd, VSHMEM_IOC_INFO, &i));
	CHECK(i.abi == VSHMEM_ABI_VERSION && i.vectors >= 1);
	CHECK(i.bar2_size >= 16ul << 20 && !(i.bar2_size & (i.bar2_size - 1)));
	CHECK(i.ivposition <= 0xffff);
	REFUSED(ioctl(fd, _IO(VSHMEM_IOC_MAGIC, 99)), EBADF);
	int rw = open_dev(O_RDWR);
	REFUSED(ioctl(rw, _IO(VSHMEM_IOC_MAGIC, 99)), ENOTTY);
	REFUSED(ioctl(rw, VSHMEM_IOC_INFO, (void *)8), EFAULT);
	REFUSED(ioctl(rw, VSHMEM_IOC_WAIT, (void *)8), EFAULT);

	struct stat st;
	CHECK(!stat(node, &st) && (st.st_mode & 0777) == 0600 && !st.st_uid);
	return 0;
}

static int mmap_outside_the_bar_is_refused(void)
{
	int fd = open_dev(O_RDWR), rw = PROT_READ | PROT_WRITE;

	REFUSED(mmap(NULL, 4096, rw, MAP_SHARED, fd, bar_size), EINVAL);
	REFUSED(mmap(NULL, 8192, rw, MAP_SHARED, fd, bar_size - 4096), EINVAL);
	REFUSED(mmap(NULL, bar_size + 4096, rw, MAP_SHARED, fd, 0), EINVAL);
	REFUSED(mmap(NULL, 8192, rw, MAP_SHARED, fd, 0x7ffffffffffff000 - 4096),
		EINVAL);
	/* Wraps around 2^64: the kernel itself has a word for it. */
	errno = 0;
	CHECK(mmap(NULL, 8192, rw, MAP_SHARED, fd, -4096) == MAP_FAILED);
	REFUSED(mmap(NULL, 4096, rw, MAP_PRIVATE, fd, 0), EINVAL);
	REFUSED(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EINVAL);

	/* Growing a mapping must not step over the end either. */
	char *p = map_at(fd, bar_size - 4096, 4096, rw);
	REFUSED(mremap(p, 4096, 8192, MREMAP_MAYMOVE), EFAULT);
	*(volatile char *)p = 1;
	return 0;
}

static int read_only_descriptor_cannot_be_upgraded(void)
{
	int fd = open_dev(O_RDONLY);
	struct vshmem_bind g = geometry(0);

	REFUSED(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, base),
		EACCES);
	volatile char *p = map_at(fd, base, 4096, PROT_READ);
	char c = *p;
	REFUSED(mprotect((void *)p, 4096, PROT_READ | PROT_WRITE), EACCES);
	REFUSED(mprotect((void *)p, 4096, PROT_WRITE), EACCES);

	/* Nor by way of /proc, which ignores page protection where it may. */
	int mem = open("/proc/self/mem", O_RDWR);
	CHECK(mem >= 0);
	CHECK(pwrite(mem, "x", 1, (off_t)(uintptr_t)p) == -1);
	CHECK(*p == c);

	/* Nor by a system call that writes to it. */
	int pipes[2];
	CHECK(!pipe(pipes) && write(pipes[1], "y", 1) == 1);
	REFUSED(read(pipes[0], (void *)p, 1), EFAULT);

	REFUSED(wake_word(fd, base, 1), EBADF);
	REFUSED(ring(fd, my_id, 0), EBADF);
	REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), EBADF);
	REFUSED(ioctl(fd, VSHMEM_IOC_UNBIND), EBADF);

	pid_t pid = fork_checked();
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		*p = 1;
		_exit(0);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	return 0;
}

static int offsets_are_bytes_and_addresses_are_chosen(void)
{
	int fd = open_dev(O_RDWR), rw = PROT_READ | PROT_WRITE;
	uint64_t off = base + 3 * HUGE_PAGE + 5 * 4096;
	char *whole = map_at(fd, base, 8 * HUGE_PAGE, rw);
	char *want = mmap(NULL, 16 * HUGE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(want != MAP_FAILED);
	want += 7 * 4096;
	char *p = mmap(want, 2 * 4096, rw, MAP_SHARED | MAP_FIXED, fd, off);
	CHECK(p == want);
	strcpy(p + 4096, "here");
	CHECK(!strcmp(whole + (off - base) + 4096, "here"));
	whole[off - base] = 'z';
	CHECK(*p == 'z');

	/* Protection can be lowered and raised again on a writable one. */
	CHECK(!mprotect(p, 8192, PROT_READ));
	CHECK(*p == 'z' && !mprotect(p, 8192, rw));
	*p = 'y';
	CHECK(whole[off - base] == 'y');
	CHECK(!msync(p, 8192, MS_SYNC));

	/* A hole in the middle of a huge page leaves the rest in place. */
	char *h = whole + 2 * HUGE_PAGE;
	memset(h, 'h', HUGE_PAGE);
	CHECK(!munmap(h + 4096, 4096));
	CHECK(h[0] == 'h' && h[8192] == 'h' && h[HUGE_PAGE - 1] == 'h');
	CHECK(!mprotect(h + 8192, 4096, PROT_READ));
	CHECK(h[8192] == 'h');
	h[12288] = 'i';
	return 0;
}

static long minor_faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt;
}

static long faults_of_touching(volatile char *p, size_t len)
{
	long before = minor_faults();

	for (size_t i = 0; i < len; i += 4096)
		p[i]++;
	return minor_faults() - before;
}

static int aligned_mappings_get_huge_pages(void)
{
	int fd = open_dev(O_RDWR), rw = PROT_READ | PROT_WRITE;
	size_t len = 4 * HUGE_PAGE;
	char *p = map_at(fd, base, len, rw);

	minor_faults();
	if ((uintptr_t)p % HUGE_PAGE)
		FAIL("%p for an aligned offset is not aligned", (void *)p);
	int64_t t0 = now_ns();
	long huge = faults_of_touching(p, len);
	int64_t t1 = now_ns();
	CHECK(!munmap(p, len));

	/* One page off: small pages, same bytes. */
	char *hint = mmap(NULL, len + 2 * HUGE_PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(hint != MAP_FAILED);
	hint = (char *)(((uintptr_t)hint + HUGE_PAGE) & ~(HUGE_PAGE - 1)) + 4096;
	p = mmap(hint, len, rw, MAP_SHARED | MAP_FIXED, fd, base);
	CHECK(p == hint);
	int64_t t2 = now_ns();
	long small = faults_of_touching(p, len);
	int64_t t3 = now_ns();
	printf("# 8 MiB: %ld faults, %" PRId64 " us huge; %ld faults, %" PRId64
	       " us small\n", huge, (t1 - t0) / 1000, small, (t3 - t2) / 1000);
	CHECK(huge <= 4 + 2 && small >= 4 * 512);

	/* Read first, then write: one mapping, upgraded in place. */
	p = map_at(fd, base, len, rw);
	long reads = minor_faults();
	for (size_t i = 0; i < len; i += 4096)
		(void)((volatile char *)p)[i];
	reads = minor_faults() - reads;
	long writes = faults_of_touching(p, len);
	CHECK(reads <= 6 && writes <= 6);
	return 0;
}

static int system_calls_read_and_write_the_mapping(void)
{
	int fd = open_dev(O_RDWR), pipes[2];
	size_t len = 1 << 16;
	char *p = map_at(fd, base + HUGE_PAGE, len, PROT_READ | PROT_WRITE);
	char *q = malloc(len);

	CHECK(!pipe(pipes) && q);
	CHECK(fcntl(pipes[1], F_SETPIPE_SZ, 1 << 20) > 0);
	for (size_t i = 0; i < len; i++)
		p[i] = (char)(i * 7);
	CHECK(write(pipes[1], p, len) == (ssize_t)len);
	CHECK(read(pipes[0], q, len) == (ssize_t)len && !memcmp(p, q, len));
	memset(q, 'q', len);
	CHECK(write(pipes[1], q, len) == (ssize_t)len);
	CHECK(read(pipes[0], p, len) == (ssize_t)len && !memcmp(p, q, len));

	/* get_user_pages proper: pages go into the pipe, not bytes. */
	struct iovec v = { p, 4096 };
	CHECK(vmsplice(pipes[1], &v, 1, 0) == 4096);
	p[0] = 'r';
	CHECK(read(pipes[0], q, 4096) == 4096 && q[0] == 'r');
	return 0;
}

/* ------------------------------------------------------------ futexes */

static long futex(uint32_t *word, int op, uint32_t val, struct timespec *ts)
{
	return syscall(SYS_futex, word, op, val, ts, NULL, 0);
}

static void futex_pair(int fd_a, int fd_b, uint64_t off)
{
	struct timespec ts = { 20, 0 };
	uint32_t *a = map_at(fd_a, off & ~4095ul, 4096, PROT_READ | PROT_WRITE);
	uint32_t *b = map_at(fd_b, off & ~4095ul, 4096, PROT_READ | PROT_WRITE);

	a += off % 4096 / 4;
	b += off % 4096 / 4;
	*a = 0;
	pid_t pid = fork_checked();
	if (!pid) {
		while (__atomic_load_n(a, __ATOMIC_SEQ_CST) == 0)
			if (futex(a, FUTEX_WAIT, 0, &ts) && errno != EAGAIN)
				FAIL("futex wait: %s", strerror(errno));
		_exit(0);
	}
	until_asleep(pid);
	__atomic_store_n(b, 1, __ATOMIC_SEQ_CST);
	CHECK(futex(b, FUTEX_WAKE, 1, NULL) == 1);
	reap_ok(pid);
}

static int shared_futex_works_across_processes(void)
{
	int a = open_dev(O_RDWR), b = open_dev(O_RDWR);
	struct stat st;

	futex_pair(a, a, base + 128);
	futex_pair(a, b, base + 128);
	/* A second node of the same device must give the same futex key. */
	CHECK(!stat(node, &st));
	unlink("/tmp/vshmem-second");
	CHECK(!mknod("/tmp/vshmem-second", S_IFCHR | 0600, st.st_rdev));
	int c = open("/tmp/vshmem-second", O_RDWR);
	unlink("/tmp/vshmem-second");
	CHECK(c >= 0);
	futex_pair(a, c, base + 128);

	/* Inside a huge page, and in one process huge, in the other small. */
	volatile char *h = map_at(a, base, HUGE_PAGE, PROT_READ | PROT_WRITE);
	h[0]++;
	futex_pair(a, b, base + 77 * 4096 + 8);
	uint32_t *big = (uint32_t *)(h + 99 * 4096);
	uint32_t *small = map_at(b, base + 99 * 4096, 4096, PROT_READ | PROT_WRITE);
	*big = 0;
	pid_t pid = fork_checked();
	if (!pid) {
		struct timespec ts = { 20, 0 };
		_exit(futex(big, FUTEX_WAIT, 0, &ts) ? 1 : 0);
	}
	until_asleep(pid);
	CHECK(futex(small, FUTEX_WAKE, 1, NULL) == 1);
	reap_ok(pid);
	return 0;
}

/* ------------------------------------------------------- WAIT and WAKE */

static void nothing(int sig) { (void)sig; }

static int wait_reports_its_outcomes(void)
{
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

	*w = 7;
	REFUSED(wait_word(fd, base, 8, -1), EAGAIN);
	int64_t t0 = now_ns();
	REFUSED(wait_word(fd, base, 7, 30), ETIMEDOUT);
	CHECK(now_ns() - t0 >= 30000000);
	REFUSED(wait_word(fd, base, 7, 0), ETIMEDOUT);

	REFUSED(wait_word(fd, base + 2, 7, 1), EINVAL);
	REFUSED(wait_word(fd, bar_size, 7, 1), EINVAL);
	REFUSED(wait_word(fd, bar_size - 2, 7, 1), EINVAL);
	REFUSED(wait_word(fd, UINT64_MAX - 3, 7, 1), EINVAL);
	REFUSED(wake_word(fd, bar_size, 1), EINVAL);
	REFUSED(wake_word(fd, UINT64_MAX - 3, 1), EINVAL);
	REFUSED(wake_word(fd, base + 1, 1), EINVAL);
	struct vshmem_wait bad = { .off = base, .expected = 7, .flags = 2 };
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	bad.flags = VSHMEM_WAIT_DEADLINE;
	bad.nsec = 1000000000;
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	bad.nsec = -1;
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	bad.nsec = 0;
	bad.sec = -1;
	REFUSED(ioctl(fd, VSHMEM_IOC_WAIT, &bad), EINVAL);
	struct vshmem_wake padded = { .off = base, .count = 1, .pad = 1 };
	REFUSED(ioctl(fd, VSHMEM_IOC_WAKE, &padded), EINVAL);

	CHECK(wake_word(fd, base, 1) == 0);
	CHECK(wake_word(fd, base, 0) == 0);
	REFUSED(wait_word(open_dev(O_RDONLY), base, 8, -1), EAGAIN);
	return 0;
}

static int a_signal_ends_wait_even_with_sa_restart(void)
{
	struct sigaction sa = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

	*w = 0;
	CHECK(!sigaction(SIGUSR1, &sa, NULL));
	for (int timed = 0; timed < 2; timed++) {
		pid_t pid = fork_checked();
		if (!pid) {
			REFUSED(wait_word(fd, base, 0, timed ? 30000 : -1), EINTR);
			_exit(0);
		}
		until_asleep(pid);
		CHECK(!kill(pid, SIGUSR1));
		reap_ok(pid);
		CHECK(wake_word(fd, base, 1) == 0);	/* left the queue */
	}
	/* As semop does: also when the signal was a stop and a continue. */
	pid_t pid = fork_checked();
	if (!pid) {
		REFUSED(wait_word(fd, base, 0, 30000), EINTR);
		_exit(0);
	}
	int status;
	until_asleep(pid);
	CHECK(!kill(pid, SIGSTOP));
	CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	CHECK(!kill(pid, SIGCONT));
	reap_ok(pid);
	return 0;
}

static int wake_counts_and_spares_other_words(void)
{
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);
	pid_t pid[6];

	w[0] = w[16] = 0;
	for (int i = 0; i < 6; i++) {
		pid[i] = fork_checked();
		if (!pid[i])
			_exit(wait_word(fd, base + (i == 5 ? 64 : 0), 0, 30000));
		until_asleep(pid[i]);	/* so the order is known */
	}
	CHECK(wake_word(fd, base, 1) == 1);
	reap_ok(pid[0]);		/* first come, first served */
	CHECK(wake_word(fd, base, 3) == 3);
	for (int i = 1; i < 4; i++)
		reap_ok(pid[i]);
	CHECK(wake_word(fd, base, UINT32_MAX) == 1);
	reap_ok(pid[4]);
	CHECK(wake_word(fd, base, 10) == 0);
	CHECK(waitpid(pid[5], NULL, WNOHANG) == 0);
	CHECK(wake_word(fd, base + 64, 10) == 1);
	reap_ok(pid[5]);
	return 0;
}

static int no_wake_up_is_lost(void)
{
	int fd = open_dev(O_RDWR);
	uint32_t *w = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);
	const uint32_t rounds = 20000;

	w[0] = w[32] = 0;
	pid_t pid = fork_checked();
	uint64_t mine = base + (pid ? 0 : 128), other = base + (pid ? 128 : 0);
	uint32_t *me = w + (pid ? 0 : 32), *you = w + (pid ? 32 : 0);
	int64_t t0 = now_ns();
	for (uint32_t r = 1; r <= rounds; r++) {
		if (pid) {
			__atomic_store_n(you, r, __ATOMIC_SEQ_CST);
			CHECK(wake_word(fd, other, 1) >= 0);
		}
		while (__atomic_load_n(me, __ATOMIC_SEQ_CST) != r)
			if (wait_word(fd, mine, r - 1, 20000) && errno != EAGAIN)
				FAIL("round %u: %s", r, strerror(errno));
		if (!pid) {
			__atomic_store_n(you, r, __ATOMIC_SEQ_CST);
			CHECK(wake_word(fd, other, 1) >= 0);
		}
	}
	if (!pid)
		_exit(0);
	printf("# WAIT/WAKE ping-pong in one guest: %.1f us RTT\n",
	       (double)(now_ns() - t0) / rounds / 1000);
	reap_ok(pid);
	return 0;
}

/* -------------------------------------------------------- BIND and RING */

static int bind_refuses_hostile_values(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind good = geometry(0), g;
	struct vshmem_info i;
	const uint64_t bitmap = 8ull * VSHMEM_SUMMARY_WORDS_MAX * 65;

#define BAD(...) do { g = good; __VA_ARGS__;				\
	REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), EINVAL); } while (0)
	BAD(g.peer_off = bar_size);
	BAD(g.peer_off = bar_size - 4);
	BAD(g.peer_off = UINT64_MAX - 7);
	BAD(g.peer_off += 4);
	BAD(g.wake_off = bar_size - bitmap + 8);
	BAD(g.wake_off = UINT64_MAX - 7);
	BAD(g.wake_off += 1);
	BAD(g.summary_words = 0);
	BAD(g.summary_words = VSHMEM_SUMMARY_WORDS_MAX + 1);
	BAD(g.summary_words = UINT32_MAX);
	BAD(g.lanes_off = bar_size - (uint64_t)LANES * LANE_STRIDE + 8);
	BAD(g.lanes_off = UINT64_MAX - 7);
	BAD(g.lanes_off += 4);
	BAD(g.lane_stride = 0);
	BAD(g.lane_stride = 4);
	BAD(g.lane_stride = 4100);
	BAD(g.lane_stride = UINT32_MAX & ~7u);
	BAD(g.lane_stride = UINT32_MAX & ~7u; g.lane_count = 32768);
	BAD(g.lane_count = 0);
	BAD(g.lane_count = UINT32_MAX);
	BAD(g.summary_words = 1; g.lane_count = 4097; g.lane_stride = 8;
	    g.status_off = 0);
	BAD(g.status_off = LANE_STRIDE);
	BAD(g.status_off = LANE_STRIDE - 4);
	BAD(g.status_off = UINT32_MAX);
	BAD(g.status_off = UINT32_MAX & ~7u);
	BAD(g.host_id = 0x10000);
	BAD(g.host_vector = 256);
	BAD(g.wake_vector = my_vectors);
	BAD(g.pad[0] = 1);
	BAD(g.pad[1] = 1);
#undef BAD
	/* The extremes that fit. */
	g = good;
	g.wake_off = bar_size - bitmap;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	g = good;
	g.lane_stride = 8;
	g.status_off = 0;
	g.lane_count = 32768;
	g.lanes_off = bar_size - 32768 * 8;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	CHECK(!ioctl(fd, VSHMEM_IOC_INFO, &i) && i.bound == 1);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	CHECK(!ioctl(fd, VSHMEM_IOC_INFO, &i) && i.bound == 0);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));

	REFUSED(ring(fd, 0x10000, 0), EINVAL);
	REFUSED(ring(fd, my_id, 256), EINVAL);
	CHECK(!ring(fd, 0xfffe, 9));	/* nobody there: the device ignores it */
	return 0;
}

static int bind_needs_cap_sys_admin(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	pid_t pid = fork_checked();

	if (!pid) {
		CHECK(!setgid(1000) && !setuid(1000));
		REFUSED(open(node, O_RDWR), EACCES);
		REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), EPERM);
		REFUSED(ioctl(fd, VSHMEM_IOC_UNBIND), EPERM);
		/* The rest needs the descriptor only. */
		CHECK(wake_word(fd, base, 1) == 0);
		CHECK(!ring(fd, my_id, 0));
		map_at(fd, base, 4096, PROT_READ | PROT_WRITE);
		_exit(0);
	}
	reap_ok(pid);
	return 0;
}

static int a_doorbell_drains_the_bitmap_and_wakes_the_lane(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	char *m = map_at(fd, base, 4ul << 20, PROT_READ | PROT_WRITE);
	static const unsigned lanes[] = { 0, 5, 63, 64, 300, LANES - 1 };
	enum { N = sizeof(lanes) / sizeof(lanes[0]) };
	pid_t pid[N];

	memset(m, 0, 4ul << 20);
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	for (unsigned i = 0; i < N; i++) {
		pid[i] = fork_checked();
		if (!pid[i])
			_exit(wait_word(fd, lane_off(0, lanes[i]), 0, 30000));
		until_asleep(pid[i]);
	}
	/* One at a time first: nobody else may wake. */
	set_wake_bit(m + (wake_off(0) - base), lanes[1]);
	CHECK(!ring(fd, my_id, 0));
	reap_ok(pid[1]);
	CHECK(!waitpid(pid[0], NULL, WNOHANG) && !waitpid(pid[2], NULL, WNOHANG));
	/* The rest by one doorbell; a lane that does not exist among them. */
	for (unsigned i = 0; i < N; i++)
		set_wake_bit(m + (wake_off(0) - base), lanes[i]);
	set_wake_bit(m + (wake_off(0) - base), LANES + 3);
	CHECK(!ring(fd, my_id, 0));
	for (unsigned i = 0; i < N; i++)
		if (i != 1)
			reap_ok(pid[i]);
	uint64_t *bits = (uint64_t *)(m + (wake_off(0) - base));
	for (unsigned i = 0; i < VSHMEM_SUMMARY_WORDS_MAX * 65; i++)
		CHECK(!__atomic_load_n(&bits[i], __ATOMIC_SEQ_CST));

	/* Bits set while nothing was bound are found by the next BIND. */
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	pid_t late = fork_checked();
	if (!late)
		_exit(wait_word(fd, lane_off(0, 400), 0, 30000));
	until_asleep(late);
	set_wake_bit(bits, 400);
	CHECK(!ring(fd, my_id, 0));
	CHECK(!waitpid(late, NULL, WNOHANG));
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	reap_ok(late);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	return 0;
}

static int a_hostile_bitmap_is_survived(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	char *m = map_at(fd, base, 4ul << 20, PROT_READ | PROT_WRITE);
	char *bits = m + (wake_off(0) - base);
	uint32_t *word = (uint32_t *)(m + (lane_off(0, 9) - base));

	memset(m, 0, 4ul << 20);
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	/* One process fills it without end and rings, another must still get
	 * through: a sleeper on lane 9, woken over and over. */
	pid_t evil = fork_checked();
	if (!evil) {
		for (;;) {
			memset(bits, 0xff, 8 * VSHMEM_SUMMARY_WORDS_MAX * 65);
			ring(fd, my_id, 0);
		}
	}
	int64_t end = now_ns() + 1500000000;
	unsigned wakes = 0;
	while (now_ns() < end) {
		if (!wait_word(fd, lane_off(0, 9), *word, 5000))
			wakes++;
		else
			FAIL("sleeper under fire: %s", strerror(errno));
	}
	CHECK(!kill(evil, SIGKILL) && waitpid(evil, NULL, 0) == evil);
	printf("# hostile bitmap: %u wake-ups of one lane in 1.5 s\n", wakes);
	CHECK(wakes > 10);

	/* And afterwards all is as before. */
	memset(bits, 0, 8 * VSHMEM_SUMMARY_WORDS_MAX * 65);
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	return 0;
}

static int ring_is_rate_limited_and_never_drops(void)
{
	struct sigaction sa = { .sa_handler = nothing, .sa_flags = SA_RESTART };
	int fd = open_dev(O_RDWR);
	const int n = 6000;

	int64_t t0 = now_ns();
	for (int i = 0; i < 1000; i++)
		CHECK(!ring(fd, 0xfffe, 0));
	int64_t t1 = now_ns();
	for (int i = 1000; i < n; i++)
		CHECK(!ring(fd, 0xfffe, 0));
	int64_t t2 = now_ns();
	printf("# doorbells: %.2f us each in the burst, %d in %.1f ms after\n",
	       (double)(t1 - t0) / 1e6, n - 1000, (double)(t2 - t1) / 1e6);
	CHECK(t2 - t0 >= (n - 1024) * 20000ll);

	/*
	 * The sleep for a token ends with a signal. It is short, so many
	 * signals are needed for one to meet it.
	 */
	CHECK(!sigaction(SIGALRM, &sa, NULL));
	struct itimerval every = { { 0, 337 }, { 0, 337 } }, off = { 0 };
	CHECK(!setitimer(ITIMER_REAL, &every, NULL));
	bool interrupted = false;
	for (int64_t end = now_ns() + 30000000000ll;
	     !interrupted && now_ns() < end;)
		if (ring(fd, 0xfffe, 0)) {
			CHECK(errno == EINTR);
			interrupted = true;
		}
	CHECK(!setitimer(ITIMER_REAL, &off, NULL));
	CHECK(interrupted);
	return 0;
}

static int uio_events_count_interrupts_per_vector(void)
{
	int fd = open_dev(O_RDWR);
	int wake = uio_open("vshmem-wake");
	int32_t first, n;

	if (my_vectors < 2)
		return SKIP;
	int control = uio_open("vshmem-control"), second = uio_open("vshmem-control");
	/* A fresh descriptor has nothing to read. */
	CHECK(!uio_read(control, 50, &n) && !uio_read(wake, 0, &n));
	CHECK(!ring(fd, my_id, 1));
	CHECK(uio_read(control, 5000, &first));
	CHECK(!uio_read(wake, 50, &n));
	/* Each descriptor sees the event; counts go up. */
	CHECK(uio_read(second, 5000, &n) && n == first);
	CHECK(!ring(fd, my_id, 1));
	CHECK(uio_read(control, 5000, &n) && n == first + 1);
	CHECK(!ring(fd, my_id, 0));
	CHECK(uio_read(wake, 5000, &n));
	/* A local wake-up by writing. */
	int32_t one = 1;
	CHECK(write(control, &one, sizeof(one)) == sizeof(one));
	CHECK(uio_read(control, 1000, &n) && n == first + 2);

	/* BAR0: a page of it maps, more does not; IVPosition reads back. */
	volatile uint32_t *regs = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				       MAP_SHARED, control, 0);
	CHECK(regs != MAP_FAILED);
	char path[128], text[32];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", pci_name);
	FILE *f = fopen(path, "r");
	CHECK(f && fgets(text, sizeof(text), f));
	fclose(f);
	uint64_t in_page = strtoull(text, NULL, 16) & 4095;
	CHECK(regs[in_page / 4 + 2] == my_id);
	REFUSED(mmap(NULL, 8192, PROT_READ, MAP_SHARED, control, 0), EINVAL);
	return 0;
}

/* ------------------------------------------------------ unbind and rmmod */

static volatile sig_atomic_t bus_errors;
static char *volatile bus_page;

static void on_sigbus(int sig)
{
	(void)sig;
	bus_errors++;
	/* Put something there, so that the access can be repeated. */
	mmap(bus_page, 4096, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static int unbind_is_safe_with_mappings_and_sleepers_alive(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(0);
	struct vshmem_info info;
	char *huge = map_at(fd, base, HUGE_PAGE, PROT_READ | PROT_WRITE);
	char *small = map_at(fd, base + 4096, 4096, PROT_READ | PROT_WRITE);
	int uio = uio_open("vshmem-wake");
	pid_t sleeper[3];

	huge[512] = 'a';	/* byte 0 is the peer word of geometry(0) */
	small[0] = 'b';
	*(uint32_t *)(huge + 256) = 0;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	for (int i = 0; i < 2; i++) {
		sleeper[i] = fork_checked();
		if (!sleeper[i]) {
			REFUSED(wait_word(fd, base + 256, 0, i ? 30000 : -1),
				ENODEV);
			bus_page = huge;
			signal(SIGBUS, on_sigbus);
			*(volatile char *)huge = 1;
			CHECK(bus_errors == 1);
			_exit(0);
		}
		until_asleep(sleeper[i]);
	}
	sleeper[2] = fork_checked();
	if (!sleeper[2]) {
		int32_t n;
		CHECK(read(uio, &n, sizeof(n)) == -1);
		_exit(0);
	}
	until_asleep(sleeper[2]);

	unbind_driver();
	for (int i = 0; i < 3; i++)
		reap_ok(sleeper[i]);
	CHECK(access(node, F_OK) == -1);
	REFUSED(ioctl(fd, VSHMEM_IOC_INFO, &info), ENODEV);
	REFUSED(ioctl(fd, VSHMEM_IOC_BIND, &g), ENODEV);
	REFUSED(ioctl(fd, VSHMEM_IOC_UNBIND), ENODEV);
	REFUSED(wait_word(fd, base, 0, -1), ENODEV);
	REFUSED(wake_word(fd, base, 1), ENODEV);
	REFUSED(ring(fd, my_id, 0), ENODEV);
	REFUSED(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, base), ENODEV);
	signal(SIGBUS, on_sigbus);
	bus_page = huge;
	*(volatile char *)huge = 1;
	bus_page = small;
	*(volatile char *)small = 1;
	CHECK(bus_errors == 2);
	/* System calls and futexes meet a hole, not the old page. */
	int pipes[2];
	CHECK(!pipe(pipes));
	REFUSED(write(pipes[1], huge + 8192, 16), EFAULT);
	REFUSED(futex((uint32_t *)(huge + 8192), FUTEX_WAKE, 1, NULL), EFAULT);

	/* The device comes back; what was opened before stays dead. */
	bind_driver();
	int again = open_dev(O_RDWR);
	REFUSED(ioctl(fd, VSHMEM_IOC_INFO, &info), ENODEV);
	CHECK(!ioctl(again, VSHMEM_IOC_INFO, &info) && !info.bound);
	char *p = map_at(again, base, 8192, PROT_READ);
	CHECK(p[512] == 'a' && p[4096] == 'b');	/* the memory is the host's */
	REFUSED(write(pipes[1], huge + 12288, 16), EFAULT);
	return 0;
}

static int removal_while_bound_marks_the_peer_dead(void)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(1);
	uint32_t *peer = map_at(fd, side_off(1), 4096, PROT_READ | PROT_WRITE);

	peer[0] = 1;
	peer[1] = 77;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	unbind_driver();
	bind_driver();
	fd = open_dev(O_RDWR);
	peer = map_at(fd, side_off(1), 4096, PROT_READ | PROT_WRITE);
	CHECK(peer[0] == 0xdead && peer[1] == 77);
	/* After UNBIND it is nobody's death. */
	peer[0] = 1;
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g) && !ioctl(fd, VSHMEM_IOC_UNBIND));
	unbind_driver();
	bind_driver();
	fd = open_dev(O_RDWR);
	peer = map_at(fd, side_off(1), 4096, PROT_READ);
	CHECK(peer[0] == 1);
	return 0;
}

static int removal_waits_for_pinned_pages(void)
{
	int fd = open_dev(O_RDWR), pipes[2];
	char *p = map_at(fd, base + HUGE_PAGE, 4096, PROT_READ | PROT_WRITE), q[8];
	struct iovec v = { p, 4096 };

	CHECK(!pipe(pipes));
	strcpy(p, "pinned");
	CHECK(vmsplice(pipes[1], &v, 1, 0) == 4096);
	pid_t pid = fork_checked();
	if (!pid) {
		close(pipes[0]);
		close(pipes[1]);
		unbind_driver();
		_exit(0);
	}
	/* The node goes early in removal, the driver's device not at all yet. */
	for (int i = 0; i < 2000 && !access(node, F_OK); i++)
		poll(NULL, 0, 5);
	CHECK(access(node, F_OK) == -1);
	poll(NULL, 0, 300);
	CHECK(waitpid(pid, NULL, WNOHANG) == 0);
	CHECK(read(pipes[0], q, 7) == 7 && !strcmp(q, "pinned"));
	close(pipes[0]);
	close(pipes[1]);
	reap_ok(pid);
	bind_driver();
	return 0;
}

static int faults_and_calls_race_with_removal(void)
{
	pid_t pid[4];
	const int rounds = 15;

	for (int i = 0; i < 4; i++) {
		pid[i] = fork_checked();
		if (pid[i])
			continue;
		signal(SIGBUS, SIG_IGN);
		for (unsigned n = 0;; n++) {
			int fd = open(node, O_RDWR);
			if (fd < 0) {
				poll(NULL, 0, 1);
				continue;
			}
			/* In a grandchild: SIGBUS is the expected end. */
			pid_t g = fork();
			if (!g) {
				signal(SIGBUS, SIG_DFL);
				struct vshmem_bind geo = geometry(0);
				for (int r = 0; r < 200; r++) {
					char *p = mmap(NULL, 2 * HUGE_PAGE,
						PROT_READ | PROT_WRITE, MAP_SHARED,
						fd, base + (r & 1) * 4096);
					if (p == MAP_FAILED)
						_exit(0);
					p[8192] = 1;
					p[HUGE_PAGE + 4096 * r] = 1;
					futex((uint32_t *)(p + 8), FUTEX_WAKE, 1, NULL);
					ring(fd, my_id, 0);
					if (i == 0)
						ioctl(fd, VSHMEM_IOC_BIND, &geo);
					if (i == 1)
						wait_word(fd, base, 0, 1);
					munmap(p, 2 * HUGE_PAGE);
				}
				_exit(0);
			}
			waitpid(g, NULL, 0);
			close(fd);
		}
	}
	for (int r = 0; r < rounds; r++) {
		poll(NULL, 0, 20);
		unbind_driver();
		bind_driver();
	}
	for (int i = 0; i < 4; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	return 0;
}

static int module_can_be_removed_and_loaded_again(void)
{
	int fd = open_dev(O_RDWR);
	char *p = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

	if (!module_path)
		return SKIP;
	p[0] = 'm';
	/* A file open: the kernel says no, and nothing changes. */
	REFUSED(syscall(SYS_delete_module, "uio_vshmem", O_NONBLOCK), EAGAIN);
	CHECK(p[0] == 'm' && wake_word(fd, base, 1) == 0);
	close(fd);
	/* So does a mapping, which holds the file. */
	REFUSED(syscall(SYS_delete_module, "uio_vshmem", O_NONBLOCK), EAGAIN);
	CHECK(!munmap(p, 4096));
	for (int i = 0; i < 3; i++) {
		/* What an earlier test has killed may still be closing. */
		long gone = -1;
		for (int n = 0; n < 1000 && gone; n++) {
			gone = syscall(SYS_delete_module, "uio_vshmem", O_NONBLOCK);
			if (gone)
				poll(NULL, 0, 5);
		}
		CHECK(!gone);
		CHECK(access(node, F_OK) == -1);
		int ko = open(module_path, O_RDONLY | O_CLOEXEC);
		CHECK(ko >= 0);
		CHECK(!syscall(SYS_finit_module, ko, "", 0));
		close(ko);
		for (int n = 0; n < 1000 && access(node, F_OK); n++)
			poll(NULL, 0, 5);
		fd = open_dev(O_RDWR);
		p = map_at(fd, base, 4096, PROT_READ);
		CHECK(p[0] == 'm');
		munmap(p, 4096);
		close(fd);
	}
	return 0;
}

/* A second device of the family, without MSI-X, must be left alone. */
static int ivshmem_plain_is_refused_with_a_message(void)
{
	DIR *d = opendir("/sys/bus/pci/devices");
	struct dirent *e;
	char path[400], text[32], line[1024];
	bool plain = false, said = false;

	CHECK(d);
	while ((e = readdir(d))) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", e->d_name);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		CHECK(fgets(text, sizeof(text), f));
		fclose(f);
		if (strcmp(text, "0x1110\n") || !strcmp(e->d_name, pci_name))
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource1", e->d_name);
		if (!access(path, F_OK))
			continue;	/* it has an MSI-X table */
		plain = true;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", e->d_name);
		CHECK(access(path, F_OK) == -1);
	}
	closedir(d);
	if (!plain)
		return SKIP;
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	CHECK(fd >= 0);
	ssize_t n;
	while ((n = read(fd, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		line[n > 0 ? n : 0] = 0;
		if (strstr(line, "uio_vshmem") && strstr(line, "ivshmem-plain"))
			said = true;
	}
	CHECK(said);
	return 0;
}

/* ------------------------------------------------------- two guests */

static int compare_ns(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *what, int64_t *ns, unsigned n)
{
	int64_t sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += ns[i];
	qsort(ns, n, sizeof(*ns), compare_ns);
	printf("%s: RTT mean %.1f us, p50 %.1f, p99 %.1f, max %.1f (%u turns)\n",
	       what, (double)sum / n / 1e3, (double)ns[n / 2] / 1e3,
	       (double)ns[n - n / 100 - 1] / 1e3, (double)ns[n - 1] / 1e3, n);
}

/* Values only grow: the other side may be at its next meeting already. */
static void meet(uint32_t *mine, uint32_t *other, uint32_t value)
{
	int64_t end = now_ns() + 120000000000ll;

	__atomic_store_n(mine, value, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(other, __ATOMIC_SEQ_CST) < value)
		if (now_ns() > end)
			FAIL("the other side did not come");
}

/*
 * SIDE 0 starts each turn. Lane 3 of each side is where it sleeps. Cells of
 * side s, from its base: 64 its ivshmem id, 128 a meeting point. They must be
 * zero when the two start.
 */
static int pingpong(unsigned side, unsigned rounds)
{
	int fd = open_dev(O_RDWR);
	struct vshmem_bind g = geometry(side);
	char *m = map_at(fd, base, 8ul << 20, PROT_READ | PROT_WRITE);
	char *me = m + (side_off(side) - base), *you = m + (side_off(!side) - base);
	uint32_t *my_word = (uint32_t *)(m + (lane_off(side, 3) - base));
	uint32_t *your_word = (uint32_t *)(m + (lane_off(!side, 3) - base));
	void *your_bits = m + (wake_off(!side) - base);
	uint32_t *mine = (uint32_t *)(me + 128), *other = (uint32_t *)(you + 128);
	int uio = uio_open("vshmem-wake");
	int64_t *ns = malloc(rounds * sizeof(*ns));
	int32_t n;

	CHECK(ns && my_vectors >= 1);
	CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
	*(volatile uint32_t *)(me + 64) = my_id;
	*my_word = 0;
	meet(mine, other, 1);
	uint32_t peer = *(volatile uint32_t *)(you + 64);

	/* Both running, through the memory alone. */
	uint32_t *hot_me = (uint32_t *)(me + 256), *hot_you = (uint32_t *)(you + 256);
	*hot_me = 0;
	meet(mine, other, 2);
	int64_t t0 = now_ns();
	unsigned spins = rounds * 20;
	for (uint32_t r = 1; r <= spins; r++) {
		if (!side)
			__atomic_store_n(hot_you, r, __ATOMIC_RELEASE);
		while (__atomic_load_n(hot_me, __ATOMIC_ACQUIRE) != r)
			;
		if (side)
			__atomic_store_n(hot_you, r, __ATOMIC_RELEASE);
	}
	if (!side)
		printf("spin: RTT mean %.3f us (%u turns)\n",
		       (double)(now_ns() - t0) / spins / 1e3, spins);

	/* WAIT in one guest, bit and RING in the other. */
	meet(mine, other, 3);
	for (uint32_t r = 1; r <= rounds; r++) {
		int64_t start = now_ns();
		if (!side) {
			__atomic_store_n(your_word, r, __ATOMIC_SEQ_CST);
			set_wake_bit(your_bits, 3);
			CHECK(!ring(fd, peer, 0));
		}
		while (__atomic_load_n(my_word, __ATOMIC_SEQ_CST) != r)
			if (wait_word(fd, lane_off(side, 3), r - 1, 10000) &&
			    errno != EAGAIN)
				FAIL("round %u: %s", r, strerror(errno));
		if (side) {
			__atomic_store_n(your_word, r, __ATOMIC_SEQ_CST);
			set_wake_bit(your_bits, 3);
			CHECK(!ring(fd, peer, 0));
		}
		ns[r - 1] = now_ns() - start;
	}
	if (!side)
		report("WAIT/RING", ns, rounds);

	/* The bare notification: doorbell, blocking read of the UIO device. */
	CHECK(!ioctl(fd, VSHMEM_IOC_UNBIND));
	while (uio_read(uio, 0, &n))
		;
	meet(mine, other, 4);
	for (unsigned r = 0; r < rounds; r++) {
		int64_t start = now_ns();
		if (!side)
			CHECK(!ring(fd, peer, 0));
		CHECK(read(uio, &n, sizeof(n)) == sizeof(n));
		if (side)
			CHECK(!ring(fd, peer, 0));
		ns[r] = now_ns() - start;
	}
	if (!side)
		report("doorbell/UIO read", ns, rounds);

	/* Cross-machine atomics: both add, none may be lost. */
	uint64_t *sum = (uint64_t *)(m + 512);
	if (!side)
		__atomic_store_n(sum, 0, __ATOMIC_SEQ_CST);
	meet(mine, other, 5);
	for (unsigned i = 0; i < 500000; i++)
		__atomic_fetch_add(sum, 1, __ATOMIC_SEQ_CST);
	meet(mine, other, 6);
	printf("counter: %" PRIu64 " of 1000000\n", *(volatile uint64_t *)sum);
	return *(volatile uint64_t *)sum == 1000000 ? 0 : 1;
}

/* ------------------------------------------------------------- runner */

#define T(f) { #f, f }
static const struct {
	const char *name;
	int (*run)(void);
} tests[] = {
	T(info_describes_the_device),
	T(mmap_outside_the_bar_is_refused),
	T(read_only_descriptor_cannot_be_upgraded),
	T(offsets_are_bytes_and_addresses_are_chosen),
	T(aligned_mappings_get_huge_pages),
	T(system_calls_read_and_write_the_mapping),
	T(shared_futex_works_across_processes),
	T(wait_reports_its_outcomes),
	T(a_signal_ends_wait_even_with_sa_restart),
	T(wake_counts_and_spares_other_words),
	T(no_wake_up_is_lost),
	T(bind_refuses_hostile_values),
	T(bind_needs_cap_sys_admin),
	T(a_doorbell_drains_the_bitmap_and_wakes_the_lane),
	T(a_hostile_bitmap_is_survived),
	T(ring_is_rate_limited_and_never_drops),
	T(uio_events_count_interrupts_per_vector),
	T(ivshmem_plain_is_refused_with_a_message),
	T(unbind_is_safe_with_mappings_and_sleepers_alive),
	T(removal_while_bound_marks_the_peer_dead),
	T(removal_waits_for_pinned_pages),
	T(faults_and_calls_race_with_removal),
	T(module_can_be_removed_and_loaded_again),
};

static void find_device(void)
{
	char path[128], target[256];
	struct vshmem_info i;
	int fd;

	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, VSHMEM_IOC_INFO, &i)) {
		fprintf(stderr, "%s: %s; is uio_vshmem loaded and an ivshmem-doorbell device there?\n",
			node, strerror(errno));
		exit(2);
	}
	close(fd);
	bar_size = i.bar2_size;
	base = bar_size / 2;
	my_id = i.ivposition;
	my_vectors = i.vectors;
	snprintf(path, sizeof(path), "/sys/class/misc/%s/device", node + 5);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0) {
		perror(path);
		exit(2);
	}
	target[n] = 0;
	snprintf(pci_name, sizeof(pci_name), "%s", strrchr(target, '/') + 1);
}

static bool wanted(const char *name, char **names, int n)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(name, names[i]))
			return true;
	return n == 0;
}

int main(int argc, char **argv)
{
	int failed = 0, passed = 0, skipped = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	find_device();
	if (argc == 4 && !strcmp(argv[1], "pingpong")) {
		alarm(300);
		return pingpong(!!atoi(argv[2]), (unsigned)atoi(argv[3]));
	}
	if (argc == 2 && !strcmp(argv[1], "bind")) {
		struct vshmem_bind g = geometry(0);
		int fd = open_dev(O_RDWR);
		uint32_t *peer = map_at(fd, base, 4096, PROT_READ | PROT_WRITE);

		*peer = 1;
		CHECK(!ioctl(fd, VSHMEM_IOC_BIND, &g));
		return 0;
	}
	argc--;
	argv++;
	if (argc >= 2 && !strcmp(argv[0], "--module")) {
		module_path = argv[1];
		argc -= 2;
		argv += 2;
	}

	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		int status;

		if (!wanted(tests[i].name, argv, argc))
			continue;
		fflush(stdout);
		pid_t pid = fork();
		if (!pid) {
			/* The watchdog; everything a test forks dies with it. */
			setpgid(0, 0);
			alarm(90);
			int ret = tests[i].run();
			fflush(stdout);
			_exit(ret);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid) {
			perror("driver_test");
			return 2;
		}
		kill(-pid, SIGKILL);
		if (WIFEXITED(status) && !WEXITSTATUS(status)) {
			printf("ok %s\n", tests[i].name);
			passed++;
		} else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP) {
			printf("skip %s: not in this set-up\n", tests[i].name);
			skipped++;
		} else {
			printf("FAIL %s: %s %d\n", tests[i].name,
			       WIFEXITED(status) ? "exit" : "signal",
			       WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
			failed++;
		}
	}
	printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
	return failed ? 1 : 0;
}
