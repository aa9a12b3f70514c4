/* SPDX-License-Identifier: GPL-2.0 */
/* Part of driver_test.c: what its tests share. */

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

#include "../../uio_vshmem/vshmem_abi.h"

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
