// SPDX-License-Identifier: GPL-2.0
/* /dev/vshmemN: opening, and the ioctls of vshmem_abi.h. */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/hash.h>
#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vshmem.h"

/*
 * Doorbells of one open file: 50,000 a second, 1,024 at once. Of one user:
 * twice that, since whoever may attach gets as many open files as it asks for.
 */
#define VSHMEM_RING_INTERVAL	(NSEC_PER_SEC / 50000)
#define VSHMEM_USER_INTERVAL	(NSEC_PER_SEC / 100000)
#define VSHMEM_RING_BURST	1024
#define VSHMEM_USER_BURST	2048

static void vshmem_release_dev(struct kref *ref)
{
	struct vshmem_dev *dev = container_of(ref, struct vshmem_dev, ref);

	iput(dev->inode);
	kvfree(dev->buckets);
	kfree(dev);
}

void vshmem_put(struct vshmem_dev *dev)
{
	kref_put(&dev->ref, vshmem_release_dev);
}

static int vshmem_open(struct inode *inode, struct file *file)
{
	/* misc_open() excludes misc_deregister(): the device is alive. */
	struct vshmem_dev *dev = container_of(file->private_data,
					      struct vshmem_dev, misc);
	struct vshmem_file *vf = kzalloc(sizeof(*vf), GFP_KERNEL_ACCOUNT);

	if (!vf)
		return -ENOMEM;
	spin_lock_init(&vf->ring.lock);
	kref_get(&dev->ref);
	vf->dev = dev;
	file->private_data = vf;
	/* All mappings hang on one inode, for futexes and for vshmem_zap(). */
	file->f_mapping = dev->inode->i_mapping;
	return 0;
}

static int vshmem_release(struct inode *inode, struct file *file)
{
	struct vshmem_file *vf = file->private_data;

	vshmem_put(vf->dev);
	kfree(vf);
	return 0;
}

/*
 * Token bucket in its clock form: @due is the time at which the bucket would
 * be full again. Over the limit the caller sleeps for its own token; a
 * doorbell is delayed, never dropped.
 */
static int vshmem_throttle(struct vshmem_meter *m, u64 interval, u64 burst)
{
	u64 now = ktime_get_ns();
	ktime_t turn;
	u64 due;

	burst *= interval;
	spin_lock(&m->lock);
	due = max(m->due, now) + interval;
	m->due = due;
	spin_unlock(&m->lock);
	if (due <= now + burst)
		return 0;

	turn = ns_to_ktime(due - burst);
	do {
		if (signal_pending(current)) {
			spin_lock(&m->lock);
			m->due -= interval;
			spin_unlock(&m->lock);
			return -EINTR;
		}
		set_current_state(TASK_INTERRUPTIBLE);
	} while (schedule_hrtimeout(&turn, HRTIMER_MODE_ABS));
	return 0;
}

static struct vshmem_meter *vshmem_user(struct vshmem_dev *dev)
{
	u32 uid = __kuid_val(current_uid());

	return &dev->user[uid ? 1 + hash_32(uid, 32) % (VSHMEM_USERS - 1) : 0];
}

static long vshmem_ioc_info(struct vshmem_dev *dev, void __user *arg)
{
	struct vshmem_info info = {
		.bar2_size	= dev->mem_size,
		.ivposition	= dev->ivposition,
		.vectors	= dev->vectors,
		.bound		= !!rcu_access_pointer(dev->binding),
		.abi		= VSHMEM_ABI_VERSION,
	};

	if (READ_ONCE(dev->dead))
		return -ENODEV;
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long vshmem_ioc_bind(struct vshmem_dev *dev, void __user *arg)
{
	struct vshmem_bind geo;
	long ret;
	int idx;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (copy_from_user(&geo, arg, sizeof(geo)))
		return -EFAULT;
	if (!vshmem_enter(dev, &idx))
		return -ENODEV;
	ret = vshmem_bind(dev, &geo);
	vshmem_exit(idx);
	return ret;
}

static long vshmem_ioc_unbind(struct vshmem_dev *dev)
{
	int idx;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (!vshmem_enter(dev, &idx))
		return -ENODEV;
	vshmem_unbind(dev);
	vshmem_exit(idx);
	return 0;
}

static long vshmem_ioc_wait(struct vshmem_dev *dev, void __user *arg)
{
	struct vshmem_wait req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	return vshmem_wait(dev, &req);
}

static long vshmem_ioc_wake(struct vshmem_dev *dev, void __user *arg)
{
	struct vshmem_wake req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.pad || !vshmem_word_ok(dev, req.off))
		return -EINVAL;
	if (READ_ONCE(dev->dead))
		return -ENODEV;
	return vshmem_wake(dev, req.off, req.count, true);
}

static long vshmem_ioc_ring(struct vshmem_file *vf, void __user *arg)
{
	struct vshmem_ring req;
	int ret, idx;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.peer > 0xffff || req.vector > 0xff)
		return -EINVAL;
	ret = vshmem_throttle(&vf->ring, VSHMEM_RING_INTERVAL, VSHMEM_RING_BURST);
	if (!ret)
		ret = vshmem_throttle(vshmem_user(vf->dev), VSHMEM_USER_INTERVAL,
				      VSHMEM_USER_BURST);
	if (ret)
		return ret;
	if (!vshmem_enter(vf->dev, &idx))
		return -ENODEV;
	vshmem_doorbell(vf->dev, req.peer, req.vector);
	vshmem_exit(idx);
	return 0;
}

static long vshmem_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vshmem_file *vf = file->private_data;
	void __user *uarg = (void __user *)arg;

	switch (cmd) {
	case VSHMEM_IOC_INFO:
		return vshmem_ioc_info(vf->dev, uarg);
	case VSHMEM_IOC_WAIT:
		return vshmem_ioc_wait(vf->dev, uarg);
	}

	/* What follows acts upon others; reading only is a promise not to. */
	if (!(file->f_mode & FMODE_WRITE))
		return -EBADF;
	switch (cmd) {
	case VSHMEM_IOC_BIND:
		return vshmem_ioc_bind(vf->dev, uarg);
	case VSHMEM_IOC_UNBIND:
		return vshmem_ioc_unbind(vf->dev);
	case VSHMEM_IOC_WAKE:
		return vshmem_ioc_wake(vf->dev, uarg);
	case VSHMEM_IOC_RING:
		return vshmem_ioc_ring(vf, uarg);
	}
	return -ENOTTY;
}

const struct file_operations vshmem_fops = {
	.owner		= THIS_MODULE,
	.open		= vshmem_open,
	.release	= vshmem_release,
	.unlocked_ioctl	= vshmem_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.mmap		= vshmem_mmap,
	/* msync() succeeds: there is nothing behind the memory. */
	.fsync		= noop_fsync,
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	/* Addresses that agree with the offset modulo 2 MiB. */
	.get_unmapped_area = thp_get_unmapped_area,
#endif
};
