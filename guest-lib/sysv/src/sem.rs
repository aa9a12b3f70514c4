//! Semaphore sets: `semget`, `semop`, `semtimedop`, `semctl`.
//!
//! A semaphore is one word: value, last writer, sequence and the *frozen* flag. Without waiters a
//! one-operation `semop` is a compare-and-swap on it ([`op_fast`]), with SEM_UNDO and the adjustment
//! that belongs to it one and a second one after it (`sem::intent`). Everything else is a
//! transaction under the set's lock that first freezes the words it looks at, so that no fast
//! operation can slip in between; the words stay frozen while anybody waits on the set, and every
//! operation then goes through the transaction that serves the waiters.

mod ctl;
mod intent;
#[cfg(all(test, loom))]
mod model;
mod ops;
mod undo;

use crate::object::{Get, Held, Object, flag};
use crate::{Caller, Errno, Result};
use vshmem_core::arena::{Pool, to_cell};
use vshmem_core::layout::{Limit, arena, dir, held, sem, set};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::task::Identity;
use vshmem_core::{Corrupt, Lane, LaneId, Offset, Platform, Region, Turns, Txn};

pub use ctl::{
    SemInfo, SetStat, getall, getncnt, getpid, getval, getzcnt, info, nsems, remove, set, setall,
    setval, stat, stat_index,
};
pub(crate) use ctl::{dismiss_others, end};
pub(crate) use intent::release as release_intent;
pub use ops::{op, op_fast};
pub(crate) use ops::{renew_words, settle, unpack, unqueue, wait_list};
pub(crate) use undo::{apply as apply_undo, bytes as undo_bytes, free_block as free_undo};

/// Largest value (Linux: `SEMVMX`).
pub const MAX_VALUE: i32 = 32_767;

/// `struct sembuf`, bytes and all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SemBuf {
    /// Semaphore.
    pub num: u16,
    /// Added; 0 waits for zero.
    pub op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flg: i16,
}

impl SemBuf {
    fn nowait(self) -> bool {
        i32::from(self.flg) & flag::IPC_NOWAIT != 0
    }

    fn undo(self) -> bool {
        i32::from(self.flg) & flag::SEM_UNDO != 0
    }
}

/// A semaphore's word, taken apart.
#[derive(Clone, Copy)]
struct Word(u64);

impl Word {
    fn value(self) -> i32 {
        (self.0 & sem::VALUE) as i32
    }

    fn frozen(self) -> bool {
        self.0 & sem::FROZEN != 0
    }

    fn who(self) -> Identity {
        Identity((self.0 >> sem::WHO_SHIFT) as u32 & sem::WHO)
    }

    /// The lane that it names in place of a writer.
    fn lane(self) -> Option<LaneId> {
        let lane = (self.0 >> sem::WHO_SHIFT) as u32 & sem::WHO;
        (self.0 & sem::PENDING != 0).then_some(LaneId(lane))
    }

    fn next(self, value: i32, who: Identity, frozen: bool) -> Self {
        let seq = (self.0 >> sem::SEQ_SHIFT).wrapping_add(1) << sem::SEQ_SHIFT;
        let frozen = if frozen { sem::FROZEN } else { 0 };
        Self(seq | u64::from(who.0) << sem::WHO_SHIFT | frozen | (value as u64 & sem::VALUE))
    }

    /// As [`Word::next`], with an adjustment that lane `id` tells of.
    fn pending(self, value: i32, id: LaneId) -> Self {
        Self(self.next(value, Identity(id.0), false).0 | sem::PENDING)
    }

    /// The same with the writer in it, and frozen or not.
    fn told(self, who: Identity, frozen: bool) -> Self {
        let rest = self.0 & (sem::VALUE | u64::MAX << sem::SEQ_SHIFT);
        let frozen = if frozen { sem::FROZEN } else { 0 };
        Self(rest | u64::from(who.0) << sem::WHO_SHIFT | frozen)
    }
}

/// Where semaphore `num` of the block at `sems` is; slot 0 is the arena's link.
pub(crate) fn sem_at(sems: Offset, num: u32) -> Offset {
    sems.index(u64::from(num) + 1, sem::STRIDE)
}

pub(crate) fn bytes(nsems: u32) -> u64 {
    (u64::from(nsems) + 1) * sem::STRIDE
}

/// What is said of a semaphore that changes whenever it is looked at.
const RESTLESS: &str = "semaphore never comes to rest";

/// Stops fast operations on the semaphore at `at` until a transaction writes it unfrozen. Harmless
/// when the caller's lock was stolen: the next operation merely takes the slow way.
fn freeze<P: Platform>(r: &Region<P>, at: Offset) -> Result<()> {
    let mut turns = Turns::new();
    loop {
        turns.pass(1, at, RESTLESS)?;
        let word = Word(r.mem().load(at, Ordering::Acquire)?);
        intent::settle(r, word)?;
        if word.frozen() || r.mem().cas(at, word.0, word.told(intent::writer(r, word)?, true).0)? {
            return Ok(());
        }
    }
}

/// The block of semaphores and their number, checked.
fn sems_of<P: Platform>(txn: &Txn<'_, P>, object: &Object) -> Result<(Offset, u32)> {
    let sems = txn.region().block(txn.get(object.at.plus(set::SEMS))?)?;
    let nsems = txn.get(object.at.plus(set::NSEMS))?;
    if bytes(nsems) > arena::MAX_BLOCK
        || sems.0.saturating_add(bytes(nsems)) > txn.region().mem().len()
    {
        return Err(Corrupt::new(object.at, "set with more semaphores than memory").into());
    }
    // Block and number belong together only under our own lock, and the callers freeze by them.
    txn.valid()?;
    Ok((sems, nsems))
}

/// `semget`.
///
/// # Errors
/// `EINVAL` for `nsems` out of range, 0 for a new set, or more than an existing one has; `ENOENT`,
/// `EEXIST`, `EACCES`, `ENOSPC` (sets, semaphores), `ENOMEM`.
///
/// # If the caller dies
/// The set is there whole, or not at all.
pub fn get<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    key: i32,
    nsems: i32,
    flags: i32,
) -> Result<i32> {
    let nsems = u32::try_from(nsems).map_err(|_| Errno::EINVAL)?;
    if u64::from(nsems) > r.limit(Limit::Semmsl)? {
        return Err(Errno::EINVAL.into());
    }
    let get = Get { kind: Kind::Set, key, flags };
    let fits = |txn: &Txn<'_, P>, o: &Object| {
        Ok(txn.get(o.at.plus(set::NSEMS)).map(|have| nsems <= have)?)
    };
    if let Some(id) = get.existing(r, on, c, fits)? {
        return Ok(id);
    }
    if nsems == 0 {
        return Err(Errno::EINVAL.into());
    }
    let total = Kind::Set.dir().plus(dir::TOTAL);
    let limit = r.limit(Limit::Semmns)?;
    if u64::from(r.peek(total)?) + u64::from(nsems) > limit {
        return Err(Errno::ENOSPC.into());
    }
    // 1. A block, remembered by the lane.
    let block = reserve(r, on, nsems)?;
    // 2. Private: its words begin unfrozen, their sequence goes on.
    for num in 0..nsems {
        let at = sem_at(block, num);
        let old = Word(r.mem().load(at.plus(sem::WORD), Ordering::Relaxed)?);
        // Release: published with the set below.
        r.mem().store(at, old.next(0, Identity(0), false).0, Ordering::Release)?;
        r.mem().store(at.plus(sem::OTIME), 0, Ordering::Relaxed)?;
    }
    // 3. The set, in one step with letting go of the block.
    r.transact(on, |txn| {
        let fill = |txn: &mut Txn<'_, P>, object: &Object| {
            let used = txn.get(total)?;
            txn.set(total, used.saturating_add(nsems))?;
            for (cell, value) in [
                (set::NSEMS, nsems),
                (set::SEMS, to_cell(block)),
                (set::HEAD, 0),
                (set::TAIL, 0),
                (set::WAITERS, 0),
                (set::DIRTY, 0),
                (set::OTIME, 0),
            ] {
                txn.set(object.at.plus(cell), value)?;
            }
            Ok(())
        };
        txn.lock(Kind::Set.dir().plus(dir::LOCK))?;
        if u64::from(txn.get(total)?) + u64::from(nsems) > limit {
            // Somebody created one since we looked.
            return give_back(txn, nsems, block).map(|()| Err(Errno::ENOSPC));
        }
        match get.create(txn, c, Limit::Semmni, fits, fill) {
            Ok(Ok(object)) => {
                Held::clear(txn, held::SEMS, block)?;
                Ok(Ok(object.id(r)))
            }
            // Somebody was faster, or there is no room: the block goes back in the same step.
            Ok(Err(id)) => give_back(txn, nsems, block).map(|()| Ok(id)),
            Err(crate::Error::Errno(e)) => give_back(txn, nsems, block).map(|()| Err(e)),
            Err(corrupt) => Err(corrupt),
        }
    })?
    .map_err(Into::into)
}

/// A block for `nsems` semaphores, which the lane holds.
///
/// # Errors
/// `ENOMEM`.
fn reserve<P: Platform>(r: &Region<P>, on: &mut Lane, nsems: u32) -> Result<Offset> {
    r.transact(on, |txn| {
        let Some(block) = txn.alloc(Pool::Sems, bytes(nsems))? else {
            return Err(crate::Error::from(Errno::ENOMEM));
        };
        Held::note(txn, held::SEMS, to_cell(block), nsems, 0)?;
        Ok(block)
    })
}

fn give_back<P: Platform>(txn: &mut Txn<'_, P>, nsems: u32, block: Offset) -> Result<()> {
    txn.free(Pool::Sems, bytes(nsems), block)?;
    Held::clear(txn, held::SEMS, block)
}

/// Frees the semaphores of a set that is never to be, for the reaper.
pub(crate) fn free_block<P: Platform>(
    txn: &mut Txn<'_, P>,
    nsems: u32,
    block: Offset,
) -> Result<()> {
    Ok(txn.free(Pool::Sems, bytes(nsems), block)?)
}
