/* SPDX-License-Identifier: GPL-2.0 */
/* What the module's parts know of each other. */
#ifndef VSHMEM_H
#define VSHMEM_H

#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/memremap.h>
#include <linux/miscdevice.h>
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/siphash.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/uio_driver.h>
#include <linux/workqueue.h>

#include "compat.h"
#include "vshmem_abi.h"

/* QEMU masks the vector to 8 bits; two are used, a few more do not hurt. */
#define VSHMEM_VECTORS_MAX	32
#define VSHMEM_WAIT_BITS	10

/* Registers in BAR0. */
#define VSHMEM_REG_IVPOSITION	0x08
#define VSHMEM_REG_DOORBELL	0x0c

struct vshmem_bucket;	/* wait.c */

/* How many doorbells there were, see vshmem_throttle(). */
struct vshmem_meter {
	spinlock_t	lock;
	u64		due;
};

/* Of doorbells: root, and all other users by a hash of their number. */
#define VSHMEM_USERS	16

struct vshmem_vector {
	struct vshmem_dev	*dev;
	unsigned int		nr;
	struct uio_info		uio;
	char			uio_name[24];
	char			irq_name[40];
};

/* What BIND told us. Immutable but for @todo; replaced under RCU. */
struct vshmem_binding {
	struct rcu_head		rcu;
	struct vshmem_bind	geo;
	/*
	 * Summary bits taken out of the region and not yet looked after. They
	 * stay in private memory because putting them back would take an
	 * atomic OR, see vshmem_take().
	 */
	spinlock_t		lock;
	u64			todo[VSHMEM_SUMMARY_WORDS_MAX];
};

/*
 * One PCI device. The driver holds a reference from probe to remove, each
 * open file one more; the region and the registers are gone after remove, so
 * everyone else touches them between vshmem_enter() and vshmem_exit() only.
 */
struct vshmem_dev {
	struct kref		ref;
	int			nr;		/* the N of /dev/vshmemN */
	bool			dead;		/* set for good, by remove or reboot */
	struct pci_dev		*pdev;
	void __iomem		*regs;		/* BAR0 */
	void			*mem;		/* BAR2, write-back */
	phys_addr_t		mem_phys;
	u64			mem_size;
	u32			ivposition;
	struct dev_pagemap	pgmap;
	int			idle_refs;	/* of a page nobody has pinned */
	struct inode		*inode;		/* owner of the BAR2 pages */
	struct vshmem_binding __rcu *binding;
	struct mutex		bind_lock;	/* writers of @binding */
	struct work_struct	drain_work;
	struct vshmem_bucket	*buckets;	/* sleepers, hashed by offset */
	siphash_key_t		hash_key;	/* nobody can aim at a bucket */
	struct vshmem_meter	user[VSHMEM_USERS];
	struct miscdevice	misc;
	char			name[20];
	struct notifier_block	panic_nb;
	struct notifier_block	reboot_nb;
	unsigned int		vectors;
	struct vshmem_vector	vector[];
};

/* One open file of /dev/vshmemN. */
struct vshmem_file {
	struct vshmem_dev	*dev;
	struct vshmem_meter	ring;
};

extern struct srcu_struct vshmem_srcu;

/* Whether the device is there; it stays until vshmem_exit(). */
static inline bool vshmem_enter(struct vshmem_dev *dev, int *idx)
{
	*idx = srcu_read_lock(&vshmem_srcu);
	if (!READ_ONCE(dev->dead))
		return true;
	srcu_read_unlock(&vshmem_srcu, *idx);
	return false;
}

static inline void vshmem_exit(int idx)
{
	srcu_read_unlock(&vshmem_srcu, idx);
}

/* No overflow: neither sum nor product of untrusted numbers is formed. */
static inline bool vshmem_range_ok(const struct vshmem_dev *dev, u64 off,
				   u64 len)
{
	return len <= dev->mem_size && off <= dev->mem_size - len;
}

static inline bool vshmem_word_ok(const struct vshmem_dev *dev, u64 off)
{
	return !(off % sizeof(u32)) && vshmem_range_ok(dev, off, sizeof(u32));
}

static inline void vshmem_doorbell(struct vshmem_dev *dev, u32 peer, u32 vector)
{
	/* writel() orders earlier stores to the region before the doorbell. */
	writel(peer << 16 | vector, dev->regs + VSHMEM_REG_DOORBELL);
}

/* chardev.c: /dev/vshmemN */
extern const struct file_operations vshmem_fops;
void vshmem_put(struct vshmem_dev *dev);

/* map.c: struct pages for BAR2, mmap and faults */
int vshmem_map_init(void);
void vshmem_map_exit(void);
int vshmem_map_bar2(struct vshmem_dev *dev);
void vshmem_zap(struct vshmem_dev *dev);
void vshmem_wait_unpinned(struct vshmem_dev *dev);
int vshmem_mmap(struct file *file, struct vm_area_struct *vma);

/* wait.c: sleepers, the wake bitmap, the binding */
int vshmem_wait_init(struct vshmem_dev *dev);
int vshmem_wait(struct vshmem_dev *dev, const struct vshmem_wait *req);
unsigned int vshmem_wake(struct vshmem_dev *dev, u64 off, unsigned int count,
			 bool may_sleep);
void vshmem_wake_all(struct vshmem_dev *dev);
int vshmem_bind(struct vshmem_dev *dev, const struct vshmem_bind *geo);
void vshmem_unbind(struct vshmem_dev *dev);
void vshmem_drain_irq(struct vshmem_dev *dev, unsigned int vector);
void vshmem_announce_death(struct vshmem_dev *dev);

#endif
