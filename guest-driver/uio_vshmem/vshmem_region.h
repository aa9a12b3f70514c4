/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* Made from guest-lib/core/src/layout.rs by `cargo run -p vshmem-core --example header`. */
#ifndef VSHMEM_REGION_H
#define VSHMEM_REGION_H

#define VSHMEM_REGION_VERSION	0x4
#define VSHMEM_REGION_MAGIC	0xa0d4d454d485356
#define VSHMEM_REGION_BASE	0x200000
#define VSHMEM_PAGE_SHIFT	0xc
#define VSHMEM_PEER_STRIDE	0x100
#define VSHMEM_PEER_COUNT	0x40
#define VSHMEM_PEER_EMPTY	0x0
#define VSHMEM_PEER_LIVE	0x1
#define VSHMEM_PEER_DEAD	0x2
#define VSHMEM_PEER_HOST_IVSHMEM	0xfff0
#define VSHMEM_VECTOR_WAKE	0x0
#define VSHMEM_VECTOR_CONTROL	0x1
#define VSHMEM_WAKE_SUMMARY_WORDS	0x8
#define VSHMEM_WAKE_STRIDE	0x1080
#define VSHMEM_LANES_MAX	0x3fff
#define VSHMEM_LANE_STRIDE	0xc000
#define VSHMEM_LANE_STATUS	0x0

#endif
