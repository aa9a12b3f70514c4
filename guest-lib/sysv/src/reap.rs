//! Cleaning up after the dead.
//!
//! Every function here may run any number of times, and by any number of reapers at once: each
//! step checks under a lock that it is still to be done, and does it in the transaction that
//! records it as done. A reaper that dies leaves the rest to the next.

use crate::object::{self, Object};
use crate::{Error, Result, msg, sem, shm};
use vshmem_core::layout::{Table, arena, held, lane, obj, peer, queue, sb, set, task, waits};
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, Owner, TaskId};
use vshmem_core::{Lane, LaneId, Offset, Platform, Region, wait};

/// Guards what a dead lane holds against two reapers at once.
const ARENA: Offset = Offset(sb::ARENA + arena::LOCK);
/// Messages freed in one transaction.
const BATCH: u32 = 100;

/// Reaps a dead task: its transactions are settled, its threads leave their queues, received
/// messages go back, SEM_UNDO is applied, attachments are dropped, its lanes and slot are freed.
///
/// # Errors
/// The region is corrupt, or the reaper's own memory is exhausted.
///
/// # If the caller dies
/// The slot stays `DYING`; reap it again.
pub fn task<P: Platform>(r: &Region<P>, on: &mut Lane, id: TaskId) -> Result<()> {
    if !r.set_task_state(id, task::DYING)? {
        let now = r.task(id.index)?;
        if !now.is_some_and(|t| t.id == id && t.state == task::DYING) {
            return Ok(()); // Reaped already; the slot may have a new owner.
        }
    }
    lanes(r, on, Owner::Task(id))?;
    shm::detach_all(r, on, id)?;
    let slot = r.element(Table::Tasks, id.index)?;
    let who = Identity::new(r.peek(slot.plus(task::PEER))?, r.peek(slot.plus(task::PID))?);
    sem::apply_undo(r, on, slot, who)?;
    r.set_task_state(id, task::FREE)?;
    // It may have died between its own step and the hand-offs that step made possible.
    rescan(r, on, who.peer())
}

/// Frees the lanes of a dead (or replaced) owner. The reaper's own lane, if among them, stays.
///
/// # Errors
/// The region is corrupt.
pub fn lanes<P: Platform>(r: &Region<P>, on: &mut Lane, owner: Owner) -> Result<()> {
    for id in r.lanes_of(owner)? {
        if id == on.id() {
            continue;
        }
        r.settle_lane(id, true)?;
        unqueue(r, on, id)?;
        drop_held(r, on, id)?;
        r.release_lane(id, owner)?;
    }
    Ok(())
}

/// Reaps a dead peer: all its tasks, its endpoint's lanes, then its slot.
///
/// # Errors
/// As [`task`].
pub fn peer<P: Platform>(r: &Region<P>, on: &mut Lane, index: u32) -> Result<()> {
    for dead in r.tasks()?.into_iter().filter(|t| t.peer == index) {
        task(r, on, dead.id)?;
    }
    if let Some(entry) = r.peer(index)? {
        lanes(r, on, Owner::Endpoint { peer: index, incarnation: entry.incarnation })?;
        if index != 0 && entry.state == peer::DEAD {
            r.set_peer_state(index, peer::EMPTY)?;
        }
    }
    Ok(())
}

/// Takes a lane that no longer runs out of the list it waits in.
pub(crate) fn unqueue<P: Platform>(r: &Region<P>, on: &mut Lane, id: LaneId) -> Result<()> {
    let slot = r.lane(id)?;
    if r.peek(slot.plus(lane::STATUS))? != wait::WAITING {
        return Ok(());
    }
    let kind = r.peek(slot.plus(lane::WAIT_KIND))?;
    let index = r.peek(slot.plus(lane::WAIT_OBJ))?;
    match kind {
        waits::SEM => {
            let at = r.object(Kind::Set, index)?;
            r.transact(on, |txn| sem::unqueue(txn, at, id))?;
        }
        waits::RECV | waits::SEND => {
            let at = r.object(Kind::Queue, index)?;
            r.transact(on, |txn| msg::unqueue(txn, at, id))?;
        }
        _ => {}
    }
    Ok(())
}

/// Drops what lane `id` holds: blocks are freed, a received message goes back to its queue.
pub(crate) fn drop_held<P: Platform>(r: &Region<P>, on: &mut Lane, id: LaneId) -> Result<()> {
    let slot = r.lane(id)?;
    loop {
        let why = r.peek(slot.plus(lane::HELD_WHY))?;
        let index = r.peek(slot.plus(lane::HELD_FOR))?;
        match why {
            held::NOTHING => return Ok(()),
            held::RECEIVED => {
                let life = r.peek(slot.plus(lane::HELD_LIFE))?;
                let object = Object { index, at: r.object(Kind::Queue, index)?, life };
                if r.transact(on, |txn| msg::give_back(txn, &object, slot))? {
                    msg::settle(r, on, &object)?;
                }
            }
            _ => {
                r.transact(on, |txn| {
                    txn.lock(ARENA)?;
                    if txn.get(slot.plus(lane::HELD_WHY))? != why {
                        return Ok::<_, Error>(());
                    }
                    let cell = txn.get(slot.plus(lane::HELD))?;
                    let block = if why == held::SCRUB { Offset(0) } else { r.block(cell)? };
                    let n = txn.get(slot.plus(lane::HELD_FOR))?;
                    match why {
                        held::SENDING => msg::free(txn, block)?,
                        held::SEMS => sem::free_block(txn, n, block)?,
                        held::UNDO => sem::free_undo(txn, n, block)?,
                        held::EXTENTS => return shm::free_extents(txn, slot).map(drop),
                        held::CHAIN => return msg::free_chain(txn, slot, BATCH),
                        held::SCRUB => txn.free_run(cell, n)?,
                        _ => {
                            let what = "lane holds something of no known kind";
                            return Err(vshmem_core::Corrupt::new(slot, what).into());
                        }
                    }
                    Ok(txn.set(slot.plus(lane::HELD_WHY), held::NOTHING)?)
                })?;
            }
        }
    }
}

/// What every endpoint does about once a second: completes transactions whose owner was stopped
/// after its commit, finishes hand-offs nobody finished, and wakes sleepers of `peer` whose wake
/// got lost. All of it is idempotent.
///
/// # Errors
/// The region is corrupt.
pub fn rescan<P: Platform>(r: &Region<P>, on: &mut Lane, of: u32) -> Result<()> {
    let owners = r.table(Table::Owners);
    let mut sleepers = false;
    for i in 0..owners.count as u32 {
        let id = LaneId(i);
        if id == on.id() || r.lane_owner(id)?.is_none() {
            continue;
        }
        if r.lane_committed(id)? {
            r.settle_lane(id, false)?;
        }
        let slot = r.lane(id)?;
        let status = r.peek(slot.plus(lane::STATUS))?;
        sleepers |= status == wait::WAITING;
        if status != wait::IDLE
            && status != wait::WAITING
            && r.peek(slot.plus(lane::WAIT_PEER))? == of
        {
            r.mem().wake(i, slot.plus(lane::STATUS), of);
        }
    }
    if !sleepers {
        return Ok(()); // Nobody to hand anything to.
    }
    for index in object::indices(r, Kind::Set)? {
        let at = r.object(Kind::Set, index)?;
        if r.peek(at.plus(set::DIRTY))? != 0 {
            let life = r.peek(at.plus(obj::LIFE))?;
            sem::settle(r, on, &Object { index, at, life })?;
        }
    }
    for index in object::indices(r, Kind::Queue)? {
        let at = r.object(Kind::Queue, index)?;
        if r.peek(at.plus(queue::DIRTY))? != 0 {
            let life = r.peek(at.plus(obj::LIFE))?;
            msg::settle(r, on, &Object { index, at, life })?;
        }
    }
    Ok(())
}

/// How many objects of all kinds there are.
///
/// # Errors
/// The region is corrupt.
pub fn objects<P: Platform>(r: &Region<P>) -> Result<usize> {
    Kind::ALL.iter().map(|k| Ok(object::in_use(r, *k)?.0 as usize)).sum()
}
