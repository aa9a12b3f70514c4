/* What the parts of module.c share: the random numbers, the device, and a touch that survives. */
#ifndef STORM_MODULE_H
#define STORM_MODULE_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../../../guest-driver/uio_vshmem/vshmem_abi.h"
#include "../../../guest-driver/uio_vshmem/vshmem_region.h"

#define MAPS 24

/* What all threads of a process storm at. Racy on purpose. */
static struct {
	int rw, ro, fds[8], uio[4];
	uint64_t size;		/* of BAR2 */
	char *harmless;		/* two pages of it */
	struct { char *at; size_t len; } map[MAPS];
	int root;
} all;

static __thread uint64_t state;
static __thread sigjmp_buf back;
static __thread volatile sig_atomic_t touching;

static uint64_t rnd(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t n)
{
	return rnd() % n;
}

static int percent(unsigned n)
{
	return below(100) < n;
}

/* A number as it should be, at an edge, or any. */
static uint64_t odd(uint64_t good)
{
	static const uint64_t edges[] = {
		0, 1, 3, 4095, 4096, 1u << 21, (1u << 21) - 4096, 0x7fffffff, 0x80000000,
		0xffffffff, 0x100000000, 1ull << 52, (1ull << 63) - 1, 1ull << 63, ~0ull, ~0ull << 12,
	};

	switch (below(8)) {
	case 0:
		return edges[below(sizeof(edges) / sizeof(*edges))];
	case 1:
		return all.size - below(3) * 4096;
	case 2:
		return rnd();
	case 3:
		return good + below(16) - 8;
	default:
		return good;
	}
}

static int a_fd(void)
{
	return percent(40) ? all.rw : percent(40) ? all.ro : all.fds[below(8)];
}

/*
 * Bytes of BAR2 that may be overwritten while others use the region: the wake bitmaps, which only
 * wake for nothing, and the last quarter, where nothing has been put yet.
 */
static uint64_t scribble_off(void)
{
	if (percent(30))
		return VSHMEM_REGION_BASE + 0x4000 + VSHMEM_PEER_COUNT * VSHMEM_PEER_STRIDE +
		       below(VSHMEM_PEER_COUNT * VSHMEM_WAKE_STRIDE / 8) * 8;
	return all.size / 4 * 3 + below(all.size / 32) * 8;
}

/* An address in a mapping; the mapping may be gone already. */
static char *place(size_t *left)
{
	unsigned i = below(MAPS);
	char *at = all.map[i].at;
	size_t len = all.map[i].len;

	if (!at || !len) {
		*left = 0;
		return (char *)odd(0);
	}
	size_t off = percent(50) ? below(len / 4096 + 1) * 4096 : below(len);
	*left = off < len ? len - off : 0;
	return at + off;
}

static void on_fault(int sig)
{
	if (touching)
		siglongjmp(back, sig);
	signal(sig, SIG_DFL);
}

/* A child that does not outlive its parent, not even one that dies before the child has run. */
static pid_t fork_tied(void)
{
	pid_t parent = getpid(), pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
	}
	return pid;
}

/* Reads a byte of a mapping. */
static void touch(void)
{
	size_t left;
	volatile char *at = place(&left);

	if (!left)
		return;
	touching = 1;
	if (!sigsetjmp(back, 1))
		(void)*at;
	touching = 0;
}

#endif
