/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything that differs between the kernels this module builds on, and
 * nothing else: the other files read as if only the newest existed.
 */
#ifndef VSHMEM_COMPAT_H
#define VSHMEM_COMPAT_H

#include <linux/mm.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "uio_vshmem needs Linux 6.1 or later"
#endif

/*
 * From 6.15 on, mappings of device pages hold page references and pfn_t goes
 * away. map.c relies on the older rule (an unmapped page has exactly one
 * reference) to know when the BAR may go; it must be ported, not just built.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
#error "uio_vshmem is not ported to Linux 6.15 and later yet"
#endif

#if !defined(CONFIG_64BIT) || defined(__BIG_ENDIAN)
#error "uio_vshmem needs a 64-bit little-endian kernel: the region's words are"
#endif

#if !IS_ENABLED(CONFIG_ZONE_DEVICE) || !IS_ENABLED(CONFIG_FS_DAX)
#error "uio_vshmem needs CONFIG_ZONE_DEVICE and CONFIG_FS_DAX"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}

static inline void vm_flags_clear(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags &= ~flags;
}
#endif

/* 6.6 names the size of a huge fault by its order. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
#define VSHMEM_HUGE_ARG		enum page_entry_size size
#define vshmem_huge_is_pmd()	(size == PE_SIZE_PMD)
#else
#define VSHMEM_HUGE_ARG		unsigned int order
#define vshmem_huge_is_pmd()	(order == PMD_SHIFT - PAGE_SHIFT)
#endif

#endif
