//! Parking: threads that sleep until somebody changes a word of a segment.
//!
//! What a futex is within one kernel, this is between kernels: [`wait`] sleeps while the caller says
//! that nothing has changed, [`wake`] ends the sleep of some who wait for the same [`Key`]. What the
//! words mean is the callers' business (`sem_t`, mutexes, barriers).
//!
//! Sleepers are linked into one of [`park::COUNT`] buckets, chosen by a hash of the key. Waking when
//! nobody sleeps costs a fence and one load ([`anyone`]).
//!
//! # Nothing is missed
//!
//! The waker changes its word, then looks at the bucket; the sleeper enters the bucket, then looks
//! at the word. Both have a sequentially consistent fence in between, so one of them sees the other.
//!
//! What deaths could still lose is found again:
//!
//! * a sleeper that dies of its wake, before it could act on it: its lane says that it was woken, and
//!   the reaper wakes the next in its place. (The kernel does not: there, the semaphore of a killed
//!   waiter stays at 1 while others sleep.)
//! * a waker that dies between its change and the wake: no sleep is longer than [`SLICE`], after
//!   which its thread looks at the word again.
//!
//! So every return may be for no reason, and the caller looks at its word again each time.

use crate::waiters::{List, Patience, UNSETTLED, rounds, sleep};
use crate::{Caller, Errno, Error, Result};
use vshmem_core::layout::{Table, lane, park, waits};
use vshmem_core::mem::{Ordering, fence};
use vshmem_core::task::Owner;
use vshmem_core::{Corrupt, Lane, LaneId, Offset, Platform, Region, Txn, wait as status};

#[cfg(all(test, loom))]
mod model;

/// The longest single sleep in nanoseconds.
pub const SLICE: u64 = 1_000_000_000;
/// Sleepers woken in one transaction: what one journal holds at ten entries each.
const BATCH: u32 = 32;
/// Journal entries that one wake may need.
const ONE_WAKE: usize = 16;

/// A place in a segment, the same in every process that has it attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Key {
    /// The segment's index.
    pub seg: u32,
    /// The sequence number in its id: a later segment of this index is another.
    pub life: u32,
    /// Bytes from the segment's start.
    pub at: u64,
}

impl Key {
    /// The key of the place `n` bytes further on.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self { at: self.at.wrapping_add(n), ..self }
    }

    pub(crate) fn bucket(self) -> u32 {
        // Fibonacci hashing: its high bits depend on all of them.
        let mixed = self.at ^ u64::from(self.seg) << 40 ^ u64::from(self.life) << 20;
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - park::COUNT.ilog2())) as u32
    }

    fn put<P: Platform>(self, txn: &mut Txn<'_, P>, slot: Offset) -> Result<()> {
        txn.set(slot.plus(lane::WAIT_SEG), self.seg)?;
        txn.set(slot.plus(lane::WAIT_LIFE), self.life)?;
        txn.set(slot.plus(lane::WAIT_PLACE), self.at as u32)?;
        Ok(txn.set(slot.plus(lane::WAIT_PLACE + 8), (self.at >> 32) as u32)?)
    }

    /// What the lane at `slot` waits for, or waited for last.
    pub(crate) fn of<P: Platform>(r: &Region<P>, slot: Offset) -> Result<Self> {
        let cell = |o| r.peek(slot.plus(o));
        let (low, high) = (cell(lane::WAIT_PLACE)?, cell(lane::WAIT_PLACE + 8)?);
        Ok(Self {
            seg: cell(lane::WAIT_SEG)?,
            life: cell(lane::WAIT_LIFE)?,
            at: u64::from(high) << 32 | u64::from(low),
        })
    }
}

/// The id of the segment a key is in, as programs know it.
pub fn segment_id<P: Platform>(r: &Region<P>, key: Key) -> i32 {
    crate::object::id_of(r, key.seg, key.life << 2)
}

/// How and how long to wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// When to give up, in nanoseconds of the platform's clock.
    pub deadline: Option<u64>,
    /// Index of a task whose death ends the sleep.
    pub owner: Option<u32>,
}

fn bucket_at<P: Platform>(r: &Region<P>, index: u32) -> Result<Offset> {
    Ok(r.element(Table::Parking, index)?)
}

pub(crate) fn list(at: Offset) -> List {
    List { head: at.plus(park::HEAD), tail: at.plus(park::TAIL), kind: waits::PARK }
}

/// Sleeps while `still` says so: until woken, for [`SLICE`] at the most, or for no reason.
///
/// `still` reads memory that other processes write; it is asked again once the sleeper can be found.
///
/// # Errors
/// EAGAIN when the deadline has passed, EINTR when a signal handler ran, EIDRM where the caller's
/// task was taken for dead.
///
/// # If the caller dies
/// The reaper takes it out of its bucket, and passes a wake on that it was given.
pub fn wait<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    key: Key,
    limits: Limits,
    still: impl Fn() -> bool,
) -> Result<()> {
    let mut patience = Patience::new(r, limits.deadline);
    while still() {
        if patience.turn() {
            continue;
        }
        let slept = queue_and_sleep(r, on, c, key, limits, &still);
        patience.over(true);
        return slept;
    }
    patience.over(false);
    Ok(())
}

fn queue_and_sleep<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    key: Key,
    limits: Limits,
    still: &impl Fn() -> bool,
) -> Result<()> {
    let late = |now: u64| limits.deadline.is_some_and(|d| d <= now);
    let now = r.mem().now();
    if late(now) {
        return Err(Errno::EAGAIN.into());
    }
    let index = key.bucket();
    let at = bucket_at(r, index)?;
    r.transact(on, |txn| {
        txn.lock(at.plus(park::LOCK))?;
        crate::object::alive(txn, c.task)?;
        let slot = txn.region().lane(txn.lane())?;
        key.put(txn, slot)?;
        txn.set(slot.plus(lane::WAIT_OWNER), limits.owner.map_or(0, |i| i + 1))?;
        list(at).push(txn, index, c)
    })?;
    // SeqCst: pairs with the fence in `anyone`.
    fence(Ordering::SeqCst);
    // One that was woken as well acts on what it was woken for.
    if !still() && r.transact(on, |txn| unqueue(txn, at, txn.lane()))? {
        return Ok(());
    }
    let slice = now.saturating_add(SLICE);
    let until = limits.deadline.map_or(slice, |d| d.min(slice));
    match sleep(r, on, Some(until), |txn| unqueue(txn, at, txn.lane())) {
        Err(Error::Errno(Errno::EAGAIN)) if !late(r.mem().now()) => Ok(()),
        slept => slept,
    }
}

/// Whether somebody may sleep where `key` leads. To be asked after the change that would wake it.
///
/// # Errors
/// Never after a successful open.
pub fn anyone<P: Platform>(r: &Region<P>, key: Key) -> Result<bool> {
    // SeqCst: pairs with the fence of the sleeper.
    fence(Ordering::SeqCst);
    Ok(r.peek(bucket_at(r, key.bucket())?.plus(park::HEAD))? != 0)
}

/// Ends the sleep of the `n` who have waited longest for `key`; how many there were.
///
/// # Errors
/// The region is corrupt.
///
/// # If the caller dies
/// Some may have been woken; the others look at their word within [`SLICE`].
pub fn wake<P: Platform>(r: &Region<P>, on: &mut Lane, key: Key, n: u32) -> Result<u32> {
    let at = bucket_at(r, key.bucket())?;
    let mut woken = 0;
    while woken < n {
        let most = BATCH.min(n - woken);
        let some = r.transact(on, |txn| {
            txn.lock(at.plus(park::LOCK))?;
            wake_some(txn, at, key, most)
        })?;
        woken += some;
        if some < most {
            break;
        }
    }
    Ok(woken)
}

fn wake_some<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, key: Key, most: u32) -> Result<u32> {
    let lanes = txn.region().table(Table::Lanes).count;
    let mut next = list(at).first(txn)?;
    let mut woken = 0;
    let mut passed = 0;
    while let Some(id) = next
        && woken < most
    {
        next = list(at).after(txn, id)?;
        passed += 1;
        if passed > lanes {
            return Err(Corrupt::new(at, "parked threads form a circle").into());
        }
        let slot = txn.region().lane(id)?;
        // The key of a queued lane was written in the transaction that queued it.
        if Key::of(txn.region(), slot)? == key {
            wake_one(txn, at, id)?;
            woken += 1;
        }
    }
    Ok(woken)
}

fn wake_one<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, id: LaneId) -> Result<()> {
    list(at).settle(txn, id, Ok(()))?;
    let slot = txn.region().lane(id)?;
    Ok(txn.set(slot.plus(lane::WAIT_KIND), waits::WOKEN)?)
}

/// Takes lane `id` out of the bucket at `at`; `false` if it was no longer in it.
pub(crate) fn unqueue<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, id: LaneId) -> Result<bool> {
    txn.lock(at.plus(park::LOCK))?;
    let slot = txn.region().lane(id)?;
    if txn.get(slot.plus(lane::STATUS))? != status::WAITING {
        return Ok(false);
    }
    list(at).remove(txn, id)?;
    txn.set(slot.plus(lane::STATUS), status::IDLE)?;
    Ok(true)
}

/// The bucket of that index, and its lock.
pub(crate) fn bucket<P: Platform>(r: &Region<P>, index: u32) -> Result<(Offset, Offset)> {
    let at = bucket_at(r, index)?;
    Ok((at, at.plus(park::LOCK)))
}

/// Gives the wake that lane `id` got, and may not have lived to act on, to the next.
pub(crate) fn pass_on<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: LaneId,
    owner: Option<Owner>,
) -> Result<()> {
    let slot = r.lane(id)?;
    if r.peek(slot.plus(lane::WAIT_KIND))? != waits::WOKEN {
        return Ok(());
    }
    let key = Key::of(r, slot)?;
    let at = bucket_at(r, key.bucket())?;
    r.transact(on, |txn| {
        txn.lock(at.plus(park::LOCK))?;
        if txn.get(slot.plus(lane::WAIT_KIND))? != waits::WOKEN || r.lane_owner(id)? != owner {
            return Ok(()); // Another reaper was faster.
        }
        txn.set(slot.plus(lane::WAIT_KIND), waits::NONE)?;
        wake_some(txn, at, key, 1).map(drop)
    })
}

/// Wakes every parked lane of which `which` says so, to look at its word again. It goes by the buckets:
/// of them there are as many however many lanes there are, and most are empty.
fn nudge<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    which: impl Fn(LaneId, Offset) -> Result<bool>,
) -> Result<()> {
    let mut met = Ok(());
    for index in 0..r.table(Table::Parking).count as u32 {
        let (at, lock) = bucket(r, index)?;
        let mut more = r.peek(at.plus(park::HEAD))? != 0;
        let mut turns = rounds(r);
        while more {
            let some = r.transact(on, |txn| {
                txn.lock(lock)?;
                for id in list(at).each(txn)? {
                    if !which(id, txn.region().lane(id)?)? {
                        continue;
                    }
                    if txn.room() < ONE_WAKE {
                        return Ok::<_, Error>(true);
                    }
                    wake_one(txn, at, id)?;
                }
                Ok(false)
            });
            more = matches!(some, Ok(true)) && turns.pass(1, at, UNSETTLED).is_ok();
            met = met.and(some.map(drop));
        }
    }
    met
}

/// Wakes those who wanted to hear of the death of the task in slot `index`.
pub(crate) fn bereave<P: Platform>(r: &Region<P>, on: &mut Lane, index: u32) -> Result<()> {
    nudge(r, on, |_, slot| Ok(r.peek(slot.plus(lane::WAIT_OWNER))? == index + 1))
}

/// Wakes every parked thread of the caller's own task, to look at its word (or at whether it was
/// cancelled).
///
/// # Errors
/// The region is corrupt.
pub fn nudge_own<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller) -> Result<()> {
    nudge(r, on, |id, _| Ok(r.lane_owner(id)? == Some(Owner::Task(c.task))))
}
