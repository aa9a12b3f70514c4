//! What somebody does right now, for people: who waits where, who holds what.
//!
//! Nothing here takes a lock or waits: the parts of what is seen are of slightly different moments,
//! and contents may be hostile, so that all of it is a hint.

use crate::Result;
use crate::object::{self, id_of};
use vshmem_core::layout::{
    Table, arena, dir, lane, obj, queue, sb, seg, sem, set, task, undo, waits,
};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::task::{Owner, TaskId};
pub use vshmem_core::txn::Stage;
use vshmem_core::txn::lock_holder;
use vshmem_core::{LaneId, Offset, Platform, Region, wait};

/// Undo records of a task that are looked at.
const RECORDS: usize = 256;

/// Semaphores of a set that are looked at.
const MOST: u32 = 4096;

/// What a sleeper waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// That operations on this set can go: the first of them.
    Set {
        /// The set.
        id: i32,
        /// Semaphore.
        num: u16,
        /// Its operation.
        op: i16,
    },
    /// A message of this queue.
    Message {
        /// The queue.
        id: i32,
    },
    /// Room in this queue.
    Room {
        /// The queue.
        id: i32,
    },
    /// A wake at a word of a segment.
    Word {
        /// The segment.
        id: i32,
    },
}

/// A lane that somebody has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneNow {
    /// Which.
    pub id: LaneId,
    /// Whose.
    pub owner: Owner,
    /// The number of its transaction; grows by one with each, attempts included.
    pub sequence: u64,
    /// How far that is.
    pub stage: Stage,
    /// What its thread sleeps for.
    pub awaited: Option<Awaited>,
}

/// All lanes that somebody has.
///
/// # Errors
/// The region's tables are not where they were.
pub fn lanes<P: Platform>(r: &Region<P>) -> Result<Vec<LaneNow>> {
    let mut all = Vec::new();
    for i in 0..r.table(Table::Owners).count as u32 {
        let id = LaneId(i);
        let Some(owner) = r.lane_owner(id)? else { continue };
        let slot = r.lane(id)?;
        let (sequence, stage) = r.lane_stage(id)?;
        let waits = r.peek(slot.plus(lane::STATUS))? == wait::WAITING;
        let awaited = if waits { awaited(r, slot) } else { None };
        all.push(LaneNow { id, owner, sequence, stage, awaited });
    }
    Ok(all)
}

fn awaited<P: Platform>(r: &Region<P>, slot: Offset) -> Option<Awaited> {
    let index = r.peek(slot.plus(lane::WAIT_OBJ)).ok()?;
    let id = |kind, index| {
        let life = r.peek(r.object(kind, index).ok()?.plus(obj::LIFE)).ok()?;
        Some(id_of(r, index, life))
    };
    Some(match r.peek(slot.plus(lane::WAIT_KIND)).ok()? {
        waits::SEM => {
            let op = r.mem().load(slot.plus(lane::OPS), Ordering::Relaxed).ok()?;
            let (num, op) = (op as u16, (op >> 16) as u16 as i16);
            Awaited::Set { id: id(Kind::Set, index)?, num, op }
        }
        waits::RECV => Awaited::Message { id: id(Kind::Queue, index)? },
        waits::SEND => Awaited::Room { id: id(Kind::Queue, index)? },
        waits::PARK => {
            Awaited::Word { id: id(Kind::Seg, r.peek(slot.plus(lane::WAIT_SEG)).ok()?)? }
        }
        _ => return None,
    })
}

/// What a task's death would take back of a semaphore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promised {
    /// The set.
    pub id: i32,
    /// Semaphore.
    pub num: u16,
    /// What would be added: 1 where it took one with SEM_UNDO.
    pub adjustment: i32,
}

/// What a task holds of semaphores: its adjustments that are not zero.
///
/// # Errors
/// There is no such task slot.
pub fn promised<P: Platform>(r: &Region<P>, of: TaskId) -> Result<Vec<Promised>> {
    let mut all = Vec::new();
    let mut next = r.peek(r.element(Table::Tasks, of.index)?.plus(task::UNDO))?;
    for _ in 0..RECORDS {
        if next == 0 {
            break;
        }
        let Ok(block) = r.block(next) else { break };
        // One that is damaged, or changes meanwhile, is skipped.
        let _ = of_record(r, of, block, &mut all);
        next = r.peek(block.plus(undo::TASK_NEXT))?;
    }
    Ok(all)
}

fn of_record<P: Platform>(
    r: &Region<P>,
    of: TaskId,
    block: Offset,
    all: &mut Vec<Promised>,
) -> Result<()> {
    let index = r.peek(block.plus(undo::SET))?;
    let life = r.peek(block.plus(undo::LIFE))?;
    let set_at = r.object(Kind::Set, index)?;
    if r.peek(block.plus(undo::TASK))? != of.index || r.peek(set_at.plus(obj::LIFE))? != life {
        return Ok(());
    }
    let sems = r.block(r.peek(set_at.plus(set::SEMS))?)?;
    let n = r.peek(block.plus(undo::NSEMS))?.min(r.peek(set_at.plus(set::NSEMS))?);
    for num in 0..n.min(MOST) {
        let at = block.plus(undo::FIRST).index(num.into(), undo::STRIDE);
        let adjustment = r.peek(at)? as i32;
        let epoch = sems.index(u64::from(num) + 1, sem::STRIDE).plus(sem::EPOCH);
        if adjustment != 0 && r.peek(at.plus(8))? == r.peek(epoch)? {
            all.push(Promised { id: id_of(r, index, life), num: num as u16, adjustment });
        }
    }
    Ok(())
}

/// What a lock guards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guarded {
    /// One object.
    Object(Kind, i32),
    /// The list of all objects of a kind.
    Directory(Kind),
    /// The memory that is free.
    Arena,
    /// What a task has.
    Task(TaskId),
}

/// A lock, and who took it: a lane, in its transaction of that number. It is held if that is still so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// What it guards.
    pub guards: Guarded,
    /// The lane.
    pub lane: LaneId,
    /// The transaction.
    pub sequence: u64,
}

/// Every lock that is not free, but those of the parking lot.
///
/// # Errors
/// The region's tables are not where they were.
pub fn locks<P: Platform>(r: &Region<P>) -> Result<Vec<Lock>> {
    let mut all = Vec::new();
    let mut look = |at: Offset, guards| {
        let word = r.mem().load(at, Ordering::Acquire)?;
        // Nobody clears the word of a step that is over.
        if let Some((lane, sequence)) = lock_holder(word)
            && r.is_free(at).is_ok_and(|free| !free)
        {
            all.push(Lock { guards, lane, sequence });
        }
        Ok::<_, crate::Error>(())
    };
    look(Offset(sb::ARENA + arena::LOCK), Guarded::Arena)?;
    for kind in Kind::ALL {
        look(kind.dir().plus(dir::LOCK), Guarded::Directory(kind))?;
        for index in object::indices(r, kind)? {
            let at = r.object(kind, index)?;
            let id = id_of(r, index, r.peek(at.plus(obj::LIFE))?);
            look(at.plus(obj::LOCK), Guarded::Object(kind, id))?;
        }
    }
    for t in r.tasks()? {
        look(r.element(Table::Tasks, t.id.index)?.plus(task::LOCK), Guarded::Task(t.id))?;
    }
    Ok(all)
}

/// How often an object was changed, as a number that grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changes {
    /// What.
    pub kind: Kind,
    /// Its id.
    pub id: i32,
    /// Semaphores changed, messages sent and received, or attachments begun and ended; wraps.
    pub count: u32,
}

/// How often the objects were changed.
///
/// # Errors
/// The region's tables are not where they were.
pub fn changes<P: Platform>(r: &Region<P>) -> Result<Vec<Changes>> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for index in object::indices(r, kind)? {
            let at = r.object(kind, index)?;
            let life = r.peek(at.plus(obj::LIFE))?;
            // The tag of a cell grows with each change of it.
            let tag = |of| {
                Ok::<_, crate::Error>((r.mem().load(at.plus(of), Ordering::Relaxed)? >> 32) as u32)
            };
            let count = match kind {
                Kind::Seg => tag(seg::NATTCH)?,
                Kind::Queue => tag(queue::QNUM)?,
                Kind::Set => changes_of_set(r, at).unwrap_or(0),
            };
            all.push(Changes { kind, id: id_of(r, index, life), count });
        }
    }
    Ok(all)
}

fn changes_of_set<P: Platform>(r: &Region<P>, at: Offset) -> Result<u32> {
    let sems = r.block(r.peek(at.plus(set::SEMS))?)?;
    let mut sum = 0_u32;
    for num in 0..r.peek(at.plus(set::NSEMS))?.min(MOST) {
        let word = r.mem().load(sems.index(u64::from(num) + 1, sem::STRIDE), Ordering::Relaxed)?;
        sum = sum.wrapping_add((word >> sem::SEQ_SHIFT) as u32);
    }
    Ok(sum)
}

/// Pages of memory that are in use, and all there are.
///
/// # Errors
/// The region's tables are not where they were.
pub fn pages<P: Platform>(r: &Region<P>) -> Result<(u32, u64)> {
    let used = r.peek(Offset(sb::ARENA + arena::PAGES))?;
    Ok((used, r.table(Table::Pages).count))
}

/// A number that differs when wakes for peer `of` were posted or taken; 0 where none wait to be taken.
///
/// # Errors
/// There is no such peer.
pub fn wakes<P: Platform>(r: &Region<P>, of: u32) -> Result<u64> {
    let row = r.element(Table::Wake, of)?;
    let mut sum = 0;
    for i in 0..vshmem_core::layout::wake::SUMMARY {
        sum |= r.mem().load(row.index(i, 8), Ordering::Relaxed)?;
    }
    Ok(sum)
}
