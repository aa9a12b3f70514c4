//! SEM_UNDO: what a task's death takes back.
//!
//! A task has one record per set it used SEM_UNDO on, with an adjustment per semaphore. The record
//! changes in the same transaction as the semaphore, so there is no moment at which one is done and
//! the other is not. SETVAL and SETALL cancel all adjustments of a semaphore by raising its epoch.

use super::{MAX_VALUE, Word, freeze, intent, ops, sem_at, sems_of};
use crate::object::{ANYONE, Held, Object};
use crate::waiters::rounds;
use crate::{Caller, Errno, Result};
use vshmem_core::arena::{Pool, to_cell};
use vshmem_core::layout::{Table, arena, held, obj, sem, set, task, undo};
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, TaskId};
use vshmem_core::{Corrupt, Lane, Offset, Platform, Region, Txn};

/// Records looked through without a lock. One that is farther behind is moved to the front.
const NEAR: u32 = 128;

/// Adjustments taken back in one transaction.
const BATCH: u32 = 128;

/// Bytes of a record.
pub(crate) fn bytes(nsems: u32) -> u64 {
    undo::FIRST + u64::from(nsems) * undo::STRIDE
}

pub(super) fn adjustment_at(block: Offset, num: u16) -> Offset {
    block.plus(undo::FIRST).index(num.into(), undo::STRIDE)
}

/// Whether the kernel has room for an adjustment.
pub(super) fn in_range(adjustment: i32) -> bool {
    (-MAX_VALUE - 1..=MAX_VALUE).contains(&adjustment)
}

/// The caller's adjustment of semaphore `num`; 0 if it was made before the last SETVAL.
pub(super) fn get<P: Platform>(
    txn: &Txn<'_, P>,
    sems: Offset,
    block: Offset,
    num: u16,
) -> Result<i32> {
    let at = adjustment_at(block, num);
    let epoch = txn.get(sem_at(sems, num.into()).plus(sem::EPOCH))?;
    Ok(if txn.get(at.plus(8))? == epoch { txn.get(at)? as i32 } else { 0 })
}

pub(super) fn put<P: Platform>(
    txn: &mut Txn<'_, P>,
    sems: Offset,
    block: Offset,
    num: u16,
    adjustment: i32,
) -> Result<()> {
    let at = adjustment_at(block, num);
    let epoch = txn.get(sem_at(sems, num.into()).plus(sem::EPOCH))?;
    if txn.get(at.plus(8))? != epoch {
        txn.set(at.plus(8), epoch)?;
    }
    if txn.get(at)? as i32 != adjustment {
        txn.set(at, adjustment as u32)?;
    }
    Ok(())
}

/// The caller's record for the set, made if need be.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn record<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    object: &Object,
) -> Result<Offset> {
    if let Some(block) = search(r, c, object)? {
        return Ok(block);
    }
    let nsems = r.peek(object.at.plus(set::NSEMS))?;
    let block = r.transact(on, |txn| {
        let Some(block) = txn.alloc(Pool::Undo, bytes(nsems))? else {
            return Err(crate::Error::from(Errno::ENOMEM));
        };
        Held::note(txn, held::UNDO, to_cell(block), nsems, 0)?;
        Ok(block)
    })?;
    for i in 0..nsems {
        r.init(block.plus(undo::FIRST).index(i.into(), undo::STRIDE), 0)?;
        r.init(block.plus(undo::FIRST).index(i.into(), undo::STRIDE).plus(8), 0)?;
    }
    r.init(block.plus(undo::TASK), c.task.index)?;
    r.init(block.plus(undo::SET), object.index)?;
    r.init(block.plus(undo::LIFE), object.life)?;
    r.init(block.plus(undo::NSEMS), nsems)?;
    let slot = r.element(Table::Tasks, c.task.index)?;
    r.transact(on, |txn| {
        txn.lock(slot.plus(task::LOCK))?;
        crate::object::alive(txn, c.task)?;
        let head = txn.get(slot.plus(task::UNDO))?;
        // Another thread of the task may have been faster.
        let (found, stale) = walk(txn, head, object)?;
        if let Some((before, found)) = found {
            if let Some(before) = before {
                // To the front, where it is found without all this: it was far behind.
                txn.set(before.plus(undo::TASK_NEXT), txn.get(found.plus(undo::TASK_NEXT))?)?;
                txn.set(found.plus(undo::TASK_NEXT), head)?;
                txn.set(slot.plus(task::UNDO), to_cell(found))?;
            }
            txn.free(Pool::Undo, bytes(nsems), block)?;
            Held::clear(txn, held::UNDO, block)?;
            return Ok(found);
        }
        let mut next = head;
        if let Some((before, at)) = stale {
            // The record of a set that is gone makes room.
            let after = txn.get(at.plus(undo::TASK_NEXT))?;
            let old = txn.get(at.plus(undo::NSEMS))?;
            match before {
                Some(before) => txn.set(before.plus(undo::TASK_NEXT), after)?,
                None => next = after,
            }
            txn.free(Pool::Undo, bytes(old), at)?;
        }
        txn.set(block.plus(undo::TASK_NEXT), next)?;
        txn.set(slot.plus(task::UNDO), to_cell(block))?;
        Held::clear(txn, held::UNDO, block)?;
        Ok(block)
    })
}

/// The record without a lock: only the task itself changes its list while it lives.
pub(super) fn search<P: Platform>(
    r: &Region<P>,
    c: &Caller,
    object: &Object,
) -> Result<Option<Offset>> {
    let mut next = r.peek(r.element(Table::Tasks, c.task.index)?.plus(task::UNDO))?;
    // A list that other threads change under us is at worst walked in vain: the caller looks again.
    for _ in 0..NEAR {
        if next == 0 {
            return Ok(None);
        }
        let Ok(block) = r.block(next) else { return Ok(None) };
        if r.peek(block.plus(undo::SET))? == object.index
            && r.peek(block.plus(undo::LIFE))? == object.life
            && r.peek(block.plus(undo::TASK))? == c.task.index
        {
            return Ok(Some(block));
        }
        next = r.peek(block.plus(undo::TASK_NEXT))?;
    }
    Ok(None)
}

/// A record, after its predecessor.
type Place = (Option<Offset>, Offset);

/// The record of `object` in the list, and one whose set is gone.
fn walk<P: Platform>(
    txn: &Txn<'_, P>,
    head: u32,
    object: &Object,
) -> Result<(Option<Place>, Option<Place>)> {
    let (mut next, mut before, mut stale) = (head, None, None);
    for _ in 0..txn.region().table(Table::Sets).count * 2 {
        if next == 0 {
            return Ok((None, stale));
        }
        let block = txn.region().block(next)?;
        let (index, life) = (txn.get(block.plus(undo::SET))?, txn.get(block.plus(undo::LIFE))?);
        if index == object.index && life == object.life {
            return Ok((Some((before, block)), None));
        }
        let now = txn.region().peek(txn.region().object(Kind::Set, index)?.plus(obj::LIFE))?;
        if stale.is_none() && now != life {
            stale = Some((before, block));
        }
        before = Some(block);
        next = txn.get(block.plus(undo::TASK_NEXT))?;
    }
    Err(Corrupt::new(txn.region().block(head)?, "undo records form a circle").into())
}

/// Takes back everything the dead task at `slot` adjusted, then drops its records.
///
/// Any number of reapers may do this at once; each adjustment is zeroed in the step that applies it.
pub(crate) fn apply<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: TaskId,
    who: Identity,
) -> Result<()> {
    let slot = r.element(Table::Tasks, id.index)?;
    let (mut sems, mut turns) = (0, rounds(r));
    for _ in 0..=r.table(Table::Sets).count * 2 {
        let head = r.peek(slot.plus(task::UNDO))?;
        if head == 0 {
            return Ok(());
        }
        let block = r.block(head)?;
        let index = r.peek(block.plus(undo::SET))?;
        let life = r.peek(block.plus(undo::LIFE))?;
        let nsems = r.peek(block.plus(undo::NSEMS))?;
        if bytes(nsems) > arena::MAX_BLOCK || block.plus(bytes(nsems)).0 > r.mem().len() {
            return Err(Corrupt::new(block, "undo record larger than the memory").into());
        }
        let object = Object { index, at: r.object(Kind::Set, index)?, life, peer: ANYONE };
        // No more semaphores than there can be are in all records, a set's in one of them.
        sems += u64::from(nsems);
        if sems > r.mem().len() / undo::STRIDE {
            return Err(Corrupt::new(slot, "undo records form a circle").into());
        }
        let mut first = 0;
        while first < nsems {
            let last = (first + BATCH).min(nsems);
            let more =
                r.transact(on, |txn| take_back(txn, &object, id, block, first..last, who))?;
            if more {
                ops::settle(r, on, &object, &mut turns)?;
            }
            first = last;
        }
        r.transact(on, |txn| {
            txn.lock(slot.plus(task::LOCK))?;
            if !first_of(txn, id, block)? {
                return Ok::<_, crate::Error>(()); // Another reaper was faster.
            }
            let next = txn.get(block.plus(undo::TASK_NEXT))?;
            txn.set(slot.plus(task::UNDO), next)?;
            Ok(txn.free(Pool::Undo, bytes(nsems), block)?)
        })?;
    }
    Err(Corrupt::new(slot, "undo records form a circle").into())
}

/// Whether `block` is still the dead task's first record: a reaper that was stopped may find it
/// freed, or another task's, or the slot another task's. Takes the task's lock.
fn first_of<P: Platform>(txn: &mut Txn<'_, P>, id: TaskId, block: Offset) -> Result<bool> {
    let slot = txn.region().element(Table::Tasks, id.index)?;
    txn.lock(slot.plus(task::LOCK))?;
    Ok(txn.word(slot.plus(task::STATE))? == id.incarnation << 8 | task::DYING
        && txn.get(slot.plus(task::UNDO))? == to_cell(block))
}

fn take_back<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    id: TaskId,
    block: Offset,
    range: std::ops::Range<u32>,
    who: Identity,
) -> Result<bool> {
    match object.lock(txn) {
        Ok(()) => {}
        // The set is gone, and with it what there was to undo.
        Err(crate::Error::Errno(_)) => return Ok(false),
        Err(corrupt) => return Err(corrupt),
    }
    if !first_of(txn, id, block)? {
        return Ok(false); // Another reaper was faster.
    }
    let (sems, have) = sems_of(txn, object)?;
    let waiters = txn.get(object.at.plus(set::WAITERS))?;
    // The kernel notes the time of every set the dead task had a record of, changed or not.
    let now = txn.region().mem().seconds();
    txn.set(object.at.plus(set::OTIME), now)?;
    for num in range.start..range.end.min(have) {
        let num16 = num as u16;
        let at = sem_at(sems, num);
        intent::settle(txn.region(), Word(txn.word(at)?))?;
        let adjustment = get(txn, sems, block, num16)?;
        if adjustment == 0 {
            continue;
        }
        freeze(txn.region(), at)?;
        let word = Word(txn.word(at)?);
        let value = word.value().saturating_add(adjustment).clamp(0, MAX_VALUE);
        txn.set_word(at, word.next(value, who, waiters > 0).0)?;
        put(txn, sems, block, num16, 0)?;
    }
    // Even where no value changed: the kernel's `exit_sem` looks at the sleepers again, and one of
    // IPC_NOWAIT that now blocks there ends with EAGAIN.
    if waiters > 0 { ops::hand_off(txn, object, ops::Change::All) } else { Ok(false) }
}

/// Frees a record that was never linked, for the reaper.
pub(crate) fn free_block<P: Platform>(
    txn: &mut Txn<'_, P>,
    nsems: u32,
    block: Offset,
) -> Result<()> {
    Ok(txn.free(Pool::Undo, bytes(nsems), block)?)
}
