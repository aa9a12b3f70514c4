// SPDX-License-Identifier: GPL-2.0
/*
 * Sleeping and waking on words of the region, and the wake bitmap.
 *
 * A sleeper queues itself, then reads the word; a waker changes the word, then
 * looks for sleepers. Whichever comes second sees the other, so no wake-up is
 * lost, with the waker in this kernel (WAKE) or in another (a bit in the wake
 * bitmap, then a doorbell, then vshmem_drain_irq()).
 *
 * The bitmap is written by every peer and trusted by nobody: a bit can at
 * worst wake a sleeper that has nothing to do.
 */
#include <linux/hrtimer.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "vshmem.h"

/* Leaves (64 lanes each) that one interrupt or one work item looks after. */
#define VSHMEM_DRAIN_LEAVES	4

/*
 * A lane has one sleeper. A few more are tolerated; a process that queues
 * thousands on one word does not get them all woken with interrupts off.
 */
#define VSHMEM_LANE_WAKES	16

struct vshmem_bucket {
	spinlock_t		lock;
	struct list_head	waiters;	/* oldest first */
	u64			arrivals;	/* how many there ever were */
};

/* On the stack of its task. Nobody looks at it once @woken is set. */
struct vshmem_waiter {
	struct list_head	node;
	struct task_struct	*task;
	u64			off;
	u64			arrival;
	bool			woken;
};

/* Tasks taken off a queue in one go. */
#define VSHMEM_WAKE_BATCH	16

static void vshmem_drain_work(struct work_struct *work);

static struct vshmem_bucket *vshmem_bucket(struct vshmem_dev *dev, u64 off)
{
	/*
	 * With a key, so that a process cannot fill the bucket of somebody
	 * else's word with sleepers, which the interrupt handler would walk.
	 */
	return &dev->buckets[siphash_1u64(off, &dev->hash_key) %
			     (1 << VSHMEM_WAIT_BITS)];
}

int vshmem_wait_init(struct vshmem_dev *dev)
{
	unsigned int i;

	mutex_init(&dev->bind_lock);
	get_random_bytes(&dev->hash_key, sizeof(dev->hash_key));
	for (i = 0; i < VSHMEM_USERS; i++)
		spin_lock_init(&dev->user[i].lock);
	INIT_WORK(&dev->drain_work, vshmem_drain_work);
	dev->buckets = kvmalloc_array(1 << VSHMEM_WAIT_BITS,
				      sizeof(*dev->buckets), GFP_KERNEL);
	if (!dev->buckets)
		return -ENOMEM;
	for (i = 0; i < 1 << VSHMEM_WAIT_BITS; i++) {
		spin_lock_init(&dev->buckets[i].lock);
		INIT_LIST_HEAD(&dev->buckets[i].waiters);
		dev->buckets[i].arrivals = 0;
	}
	return 0;
}

/*
 * Takes up to @max waiters on @off (on anything, if @any) off their queue and
 * wakes them; returns how many. Those that arrived after the first @before
 * are not touched: woken, they may be back at once, and would keep whoever
 * wakes them all here for ever. The waking comes after the unlocking: a
 * sleeper must not run into a lock whose holder the host has just preempted
 * in its favour (measured: 3 ms instead of 0.1 on a busy host).
 */
static unsigned int vshmem_wake_batch(struct vshmem_bucket *bucket, u64 off,
				      bool any, u64 before, unsigned int max)
{
	struct task_struct *task[VSHMEM_WAKE_BATCH];
	struct vshmem_waiter *w, *next;
	unsigned int n = 0, i;
	unsigned long flags;

	max = min_t(unsigned int, max, VSHMEM_WAKE_BATCH);
	spin_lock_irqsave(&bucket->lock, flags);
	list_for_each_entry_safe(w, next, &bucket->waiters, node) {
		if (n == max || w->arrival >= before)
			break;
		if (!any && w->off != off)
			continue;
		list_del(&w->node);
		task[n++] = get_task_struct(w->task);
		/* The last access: pairs with the acquire in vshmem_wait(). */
		smp_store_release(&w->woken, true);
	}
	spin_unlock_irqrestore(&bucket->lock, flags);

	for (i = 0; i < n; i++) {
		wake_up_process(task[i]);
		put_task_struct(task[i]);
	}
	return n;
}

/* Wakes up to @count sleepers on @off, first come first served. */
unsigned int vshmem_wake(struct vshmem_dev *dev, u64 off, unsigned int count,
			 bool may_sleep)
{
	struct vshmem_bucket *bucket = vshmem_bucket(dev, off);
	unsigned int woken = 0, n;
	u64 before;

	/*
	 * Between the caller's change of the word and this look at the queue;
	 * pairs with set_current_state() in vshmem_wait().
	 */
	smp_mb();
	if (list_empty(&bucket->waiters))
		return 0;
	before = READ_ONCE(bucket->arrivals);
	do {
		n = vshmem_wake_batch(bucket, off, false, before, count - woken);
		woken += n;
		if (may_sleep)
			cond_resched();
	} while (n == VSHMEM_WAKE_BATCH);
	return woken;
}

/* The device is dead: everyone returns ENODEV, late-comers by themselves. */
void vshmem_wake_all(struct vshmem_dev *dev)
{
	unsigned int i;

	for (i = 0; i < 1 << VSHMEM_WAIT_BITS; i++) {
		u64 before = READ_ONCE(dev->buckets[i].arrivals);

		while (vshmem_wake_batch(&dev->buckets[i], 0, true, before,
					 UINT_MAX))
			cond_resched();
	}
}

static int vshmem_compare(struct vshmem_dev *dev, u64 off, u32 expected)
{
	u32 word;
	int idx;

	if (!vshmem_enter(dev, &idx))
		return -ENODEV;
	word = READ_ONCE(*(u32 *)(dev->mem + off));
	vshmem_exit(idx);
	return word == expected ? 0 : -EAGAIN;
}

/* Whether a waker has taken @w off its queue. Afterwards it is off anyway. */
static bool vshmem_unqueue(struct vshmem_bucket *bucket,
			   struct vshmem_waiter *w)
{
	unsigned long flags;

	if (smp_load_acquire(&w->woken))
		return true;
	spin_lock_irqsave(&bucket->lock, flags);
	if (!w->woken)
		list_del(&w->node);
	spin_unlock_irqrestore(&bucket->lock, flags);
	return w->woken;
}

int vshmem_wait(struct vshmem_dev *dev, const struct vshmem_wait *req)
{
	struct vshmem_waiter w = { .task = current, .off = req->off };
	struct vshmem_bucket *bucket;
	ktime_t deadline, *timeout = NULL;
	unsigned long flags;
	bool expired;
	int ret;

	if (req->flags & ~VSHMEM_WAIT_DEADLINE || !vshmem_word_ok(dev, req->off))
		return -EINVAL;
	if (req->flags & VSHMEM_WAIT_DEADLINE) {
		if (req->sec < 0 || req->nsec < 0 || req->nsec >= NSEC_PER_SEC)
			return -EINVAL;
		deadline = ktime_set(req->sec, req->nsec);
		timeout = &deadline;
	}

	bucket = vshmem_bucket(dev, req->off);
	do {
		expired = false;
		spin_lock_irqsave(&bucket->lock, flags);
		list_add_tail(&w.node, &bucket->waiters);
		w.arrival = bucket->arrivals++;
		spin_unlock_irqrestore(&bucket->lock, flags);

		/* Full barrier: queue first, then look at the word. */
		set_current_state(TASK_INTERRUPTIBLE);
		ret = vshmem_compare(dev, req->off, req->expected);
		if (!ret && !signal_pending(current) && !READ_ONCE(w.woken))
			expired = !schedule_hrtimeout_range(timeout,
					current->timer_slack_ns,
					HRTIMER_MODE_ABS);
		__set_current_state(TASK_RUNNING);

		/* A wake-up meant for us is ours, whatever else happened. */
		if (vshmem_unqueue(bucket, &w))
			return READ_ONCE(dev->dead) ? -ENODEV : 0;
		if (ret)
			return ret;
		if (expired)
			return -ETIMEDOUT;
		/* Not ERESTARTSYS: System V calls end with EINTR, always. */
		if (signal_pending(current))
			return -EINTR;
		/* Woken for nothing: somebody else's late wake-up. */
	} while (1);
}

/*
 * Takes all bits out of a word of the region.
 *
 * Only xchg() may be used on memory that other machines change: a kernel with
 * one processor patches the lock prefix out of its other atomic instructions
 * (alternatives_smp), and they then lose updates between machines. The prefix
 * of xchg is implied by the processor.
 */
static u64 vshmem_take(u64 *word)
{
	return READ_ONCE(*word) ? xchg(word, 0) : 0;
}

static u64 *vshmem_summary(struct vshmem_dev *dev,
			   const struct vshmem_binding *b)
{
	return dev->mem + b->geo.wake_off;
}

static u64 *vshmem_leaves(struct vshmem_dev *dev,
			  const struct vshmem_binding *b)
{
	return vshmem_summary(dev, b) + b->geo.summary_words;
}

static void vshmem_collect(struct vshmem_dev *dev, struct vshmem_binding *b)
{
	u64 *summary = vshmem_summary(dev, b);
	unsigned long flags;
	unsigned int s;

	spin_lock_irqsave(&b->lock, flags);
	for (s = 0; s < b->geo.summary_words; s++)
		b->todo[s] |= vshmem_take(&summary[s]);
	spin_unlock_irqrestore(&b->lock, flags);
}

static void vshmem_drain_leaf(struct vshmem_dev *dev, struct vshmem_binding *b,
			      unsigned int leaf)
{
	/* A hostile summary may name leaves that no lane has: taken all the same. */
	u64 bits = vshmem_take(&vshmem_leaves(dev, b)[leaf]);

	while (bits) {
		u64 lane = leaf * 64 + __ffs64(bits);

		bits &= bits - 1;
		if (lane >= b->geo.lane_count)
			return;
		/* Inside BAR2: vshmem_check_geometry() proved it. */
		vshmem_wake(dev, b->geo.lanes_off +
			    lane * b->geo.lane_stride + b->geo.status_off,
			    VSHMEM_LANE_WAKES, false);
	}
}

/*
 * Looks after a bounded number of leaves; true when some are left. New bits
 * are not collected on the way, so that a peer that sets them as fast as we
 * clear them cannot keep us here: its next doorbell comes after.
 */
static bool vshmem_drain(struct vshmem_dev *dev, struct vshmem_binding *b)
{
	unsigned int leaves = VSHMEM_DRAIN_LEAVES;
	unsigned long flags;
	bool left = false;
	unsigned int s;

	spin_lock_irqsave(&b->lock, flags);
	for (s = 0; s < b->geo.summary_words; s++) {
		while (b->todo[s]) {
			unsigned int bit = __ffs64(b->todo[s]);

			if (!leaves--) {
				left = true;
				goto out;
			}
			b->todo[s] &= b->todo[s] - 1;
			vshmem_drain_leaf(dev, b, s * 64 + bit);
		}
	}
out:
	spin_unlock_irqrestore(&b->lock, flags);
	return left;
}

/* From the interrupt handler of @vector. */
void vshmem_drain_irq(struct vshmem_dev *dev, unsigned int vector)
{
	struct vshmem_binding *b;

	rcu_read_lock();
	b = rcu_dereference(dev->binding);
	if (b && b->geo.wake_vector == vector) {
		vshmem_collect(dev, b);
		if (vshmem_drain(dev, b))
			queue_work(system_highpri_wq, &dev->drain_work);
	}
	rcu_read_unlock();
}

static void vshmem_drain_work(struct work_struct *work)
{
	struct vshmem_dev *dev = container_of(work, struct vshmem_dev,
					      drain_work);
	struct vshmem_binding *b;

	rcu_read_lock();
	b = rcu_dereference(dev->binding);
	if (b && vshmem_drain(dev, b))
		queue_work(system_highpri_wq, &dev->drain_work);
	rcu_read_unlock();
}

static int vshmem_check_geometry(struct vshmem_dev *dev,
				 const struct vshmem_bind *g)
{
	u64 leaf_words, bitmap, lanes;

	if (g->pad[0] || g->pad[1])
		return -EINVAL;
	if (g->host_id > 0xffff || g->host_vector > 0xff ||
	    g->wake_vector >= dev->vectors)
		return -EINVAL;
	if (g->peer_off % 8 || !vshmem_range_ok(dev, g->peer_off, 8))
		return -EINVAL;

	if (!g->summary_words || g->summary_words > VSHMEM_SUMMARY_WORDS_MAX)
		return -EINVAL;
	leaf_words = g->summary_words * 64ULL;
	bitmap = (g->summary_words + leaf_words) * 8;
	if (g->wake_off % 8 || !vshmem_range_ok(dev, g->wake_off, bitmap))
		return -EINVAL;

	/* 32-bit factors: the product fits 64 bits. */
	lanes = (u64)g->lane_stride * g->lane_count;
	if (!g->lane_count || g->lane_count > leaf_words * 64)
		return -EINVAL;
	if (g->lane_stride % 8 || g->status_off % 8 ||
	    g->lane_stride < 8 || g->status_off > g->lane_stride - 8)
		return -EINVAL;
	if (g->lanes_off % 8 || !vshmem_range_ok(dev, g->lanes_off, lanes))
		return -EINVAL;
	return 0;
}

static void vshmem_set_binding(struct vshmem_dev *dev, struct vshmem_binding *b)
{
	mutex_lock(&dev->bind_lock);
	b = rcu_replace_pointer(dev->binding, b,
				lockdep_is_held(&dev->bind_lock));
	mutex_unlock(&dev->bind_lock);
	if (b)
		kfree_rcu(b, rcu);
}

/* Within vshmem_enter(). */
int vshmem_bind(struct vshmem_dev *dev, const struct vshmem_bind *geo)
{
	struct vshmem_binding *b;
	int ret;

	ret = vshmem_check_geometry(dev, geo);
	if (ret)
		return ret;
	b = kzalloc(sizeof(*b), GFP_KERNEL_ACCOUNT);
	if (!b)
		return -ENOMEM;
	b->geo = *geo;
	spin_lock_init(&b->lock);
	/*
	 * Look at every leaf once: doorbells may have come while nothing was
	 * bound, and an earlier binding may have left bits in its @todo.
	 */
	memset(b->todo, 0xff, geo->summary_words * sizeof(b->todo[0]));
	vshmem_set_binding(dev, b);
	queue_work(system_highpri_wq, &dev->drain_work);
	return 0;
}

void vshmem_unbind(struct vshmem_dev *dev)
{
	vshmem_set_binding(dev, NULL);
}

/* Panic, reboot, remove: may not sleep, may not take a lock. */
void vshmem_announce_death(struct vshmem_dev *dev)
{
	struct vshmem_binding *b;

	rcu_read_lock();
	b = rcu_dereference(dev->binding);
	if (b) {
		WRITE_ONCE(*(u32 *)(dev->mem + b->geo.peer_off),
			   b->geo.dead_value);
		vshmem_doorbell(dev, b->geo.host_id, b->geo.host_vector);
	}
	rcu_read_unlock();
}
