/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of /dev/vshmemN, shared by the module and user space.
 *
 * Every field has a fixed width and every gap is named, so that a 32-bit
 * program and a 64-bit kernel see the same bytes. Offsets count bytes from
 * the start of BAR2. The module knows nothing of the region's format beyond
 * what VSHMEM_IOC_BIND tells it. The Rust mirror is src/abi.rs; a test
 * compares the two.
 */
#ifndef VSHMEM_ABI_H
#define VSHMEM_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Bumped by every incompatible change; VSHMEM_IOC_INFO reports it. */
#define VSHMEM_ABI_VERSION	1

/*
 * A wake bitmap is summary_words 64-bit words followed by 64 times as many
 * leaf words. Bit b of leaf l stands for lane 64 * l + b; bit l % 64 of
 * summary word l / 64 says that leaf l may be non-zero.
 */
#define VSHMEM_SUMMARY_WORDS_MAX	8

struct vshmem_info {
	__aligned_u64	bar2_size;
	__u32		ivposition;	/* this device's ivshmem id */
	__u32		vectors;	/* MSI-X vectors, one UIO device each */
	__u32		bound;		/* 1 after BIND, 0 after UNBIND */
	__u32		abi;		/* VSHMEM_ABI_VERSION */
};

struct vshmem_bind {
	__aligned_u64	peer_off;	/* this peer's state word (64-bit) */
	__aligned_u64	wake_off;	/* this peer's wake bitmap */
	__aligned_u64	lanes_off;	/* lane 0 */
	__u32		lane_stride;	/* bytes from one lane to the next */
	__u32		lane_count;
	__u32		status_off;	/* the word waited on, inside a lane */
	__u32		summary_words;	/* 1 .. VSHMEM_SUMMARY_WORDS_MAX */
	__u32		dead_value;	/* stored at peer_off on panic, reboot */
	__u32		host_id;	/* whom to ring then ... */
	__u32		host_vector;	/* ... and on which vector */
	__u32		wake_vector;	/* whose interrupt drains the bitmap */
	__u32		pad[2];		/* zero */
};

#define VSHMEM_WAIT_DEADLINE	1u	/* sec and nsec: CLOCK_MONOTONIC */

struct vshmem_wait {
	__aligned_u64	off;		/* a 32-bit word */
	__u32		expected;
	__u32		flags;
	__s64		sec __attribute__((aligned(8)));
	__s64		nsec __attribute__((aligned(8)));
};

struct vshmem_wake {
	__aligned_u64	off;
	__u32		count;		/* wake at most so many */
	__u32		pad;		/* zero */
};

struct vshmem_ring {
	__u32		peer;		/* ivshmem id */
	__u32		vector;
};

#define VSHMEM_IOC_MAGIC	0xb8

/* Any descriptor. */
#define VSHMEM_IOC_INFO		_IOR(VSHMEM_IOC_MAGIC, 0, struct vshmem_info)
/* CAP_SYS_ADMIN; replaces an earlier binding in one step. */
#define VSHMEM_IOC_BIND		_IOW(VSHMEM_IOC_MAGIC, 1, struct vshmem_bind)
/* CAP_SYS_ADMIN. */
#define VSHMEM_IOC_UNBIND	_IO(VSHMEM_IOC_MAGIC, 2)
/* 0: woken. EAGAIN: word differs. ETIMEDOUT. EINTR: any signal. ENODEV. */
#define VSHMEM_IOC_WAIT		_IOW(VSHMEM_IOC_MAGIC, 3, struct vshmem_wait)
/* Returns how many local waiters were woken. Needs a writable descriptor. */
#define VSHMEM_IOC_WAKE		_IOW(VSHMEM_IOC_MAGIC, 4, struct vshmem_wake)
/* 0 or EINTR; rate-limited per open file. Needs a writable descriptor. */
#define VSHMEM_IOC_RING		_IOW(VSHMEM_IOC_MAGIC, 5, struct vshmem_ring)

#endif
