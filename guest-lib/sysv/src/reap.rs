//! Cleaning up after the dead.
//!
//! Every function here may run any number of times, and by any number of reapers at once: each
//! step checks under a lock that it is still to be done, and does it in the transaction that
//! records it as done. A reaper that dies leaves the rest to the next.

use crate::object::{self, ANYONE, Held, Object};
use crate::waiters::rounds;
use crate::{Error, Result, msg, park, removal, sem, shm, withdraw};
use vshmem_core::arena::Left;
use vshmem_core::layout::{Table, arena, held, lane, obj, peer, queue, sb, set, task, waits};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, Owner, TaskId};
use vshmem_core::txn::next_cell;
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
    settle_task(r, on, id, Fate::Dead, true)
}

/// The same for one of many, after which the caller does [`rescan()`]: it looks at every lane.
///
/// # Errors
/// As [`task()`].
///
/// # If the caller dies
/// The next endpoint rescans when it begins.
pub fn one_of_many<P: Platform>(r: &Region<P>, on: &mut Lane, id: TaskId) -> Result<()> {
    settle_task(r, on, id, Fate::Dead, false)
}

/// What is known of an owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It will do nothing more.
    Dead,
    /// Shut out, it may come back and finish the store it was stopped in ([`peer::FENCED`]): what
    /// is its own to write stays its own.
    Fenced,
}

fn settle_task<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: TaskId,
    fate: Fate,
    alone: bool,
) -> Result<()> {
    if !r.set_task_state(id, task::DYING)? {
        let now = r.task(id.index)?;
        if !now.is_some_and(|t| t.id == id && t.state == task::DYING) {
            return Ok(()); // Reaped already; the slot may have a new owner.
        }
    }
    let slot = r.element(Table::Tasks, id.index)?;
    let who = Identity::new(r.peek(slot.plus(task::PEER))?, r.peek(slot.plus(task::PID))?);
    // One corrupt object must not keep the dead task's other promises from being kept.
    let lanes = settle_lanes(r, on, Owner::Task(id), fate);
    let detached = shm::detach_all(r, on, id).and_then(|()| shm::forced_end(r, on));
    let undone = sem::apply_undo(r, on, id, who);
    lanes.and(detached).and(undone)?;
    if fate == Fate::Dead {
        r.set_task_state(id, task::FREE)?;
    }
    let heard = park::bereave(r, on, id.index);
    // It may have died between its own step and the hand-offs that step made possible.
    if alone {
        rescan(r, on, who.peer())?
    }
    heard
}

/// Frees the lanes of a dead (or replaced) owner. The reaper's own lane, if among them, stays.
///
/// # Errors
/// The region is corrupt.
pub fn lanes<P: Platform>(r: &Region<P>, on: &mut Lane, owner: Owner) -> Result<()> {
    settle_lanes(r, on, owner, Fate::Dead)
}

fn settle_lanes<P: Platform>(r: &Region<P>, on: &mut Lane, owner: Owner, fate: Fate) -> Result<()> {
    let mut met = Ok(());
    for id in r.lanes_of(owner)? {
        if id == on.id() {
            met = met.and(sem::release_intent(r, id));
            met = met.and(drop_spare(r, on, id, Some(owner)));
            continue;
        }
        let mut clear = || {
            if !r.fence_lane(id, owner)? {
                return Ok(()); // Another reaper was faster.
            }
            sem::release_intent(r, id)?;
            unqueue(r, on, id, Some(owner), wait::IDLE)?;
            park::pass_on(r, on, id, Some(owner))?;
            forget_outcome(r, id, owner)?;
            if fate == Fate::Fenced {
                return give_back(r, on, id, owner);
            }
            msg::leave(r, on, id, Some(owner))?;
            drop_held(r, on, id, Some(owner))?;
            drop_spare(r, on, id, Some(owner))?;
            r.release_lane(id, owner)?;
            Ok(())
        };
        met = met.and(clear());
    }
    met
}

/// Takes an outcome that its sleeper did not live to take: a lane of nobody waits for nothing.
fn forget_outcome<P: Platform>(r: &Region<P>, id: LaneId, owner: Owner) -> Result<()> {
    let at = r.lane(id)?.plus(lane::STATUS);
    // The word first and the owner last: the swap fails if the next owner has slept since.
    let word = r.mem().load(at, Ordering::Acquire)?;
    let settled = !matches!(word as u32, wait::IDLE | wait::WAITING);
    if settled && r.lane_owner(id)? == Some(owner) {
        r.mem().cas(at, word, next_cell(word, wait::IDLE))?;
    }
    Ok(())
}

/// Of what a fenced lane holds, a message it received goes back to its queue; the rest is memory it
/// may still be writing.
fn give_back<P: Platform>(r: &Region<P>, on: &mut Lane, id: LaneId, owner: Owner) -> Result<()> {
    if r.peek(r.lane(id)?.plus(lane::HELD_WHY))? == held::RECEIVED {
        drop_held(r, on, id, Some(owner))?;
    }
    Ok(())
}

/// Shuts out a peer that is marked [`peer::FENCED`]: none of its tasks' calls has an effect any
/// more, and others go on as after their deaths. What they may be in the middle of writing, their
/// slots and lanes, is left for [`peer()`], once their kernel is known to be gone.
///
/// # Errors
/// As [`task()`].
///
/// # If the caller dies
/// The peer is marked; the next endpoint of the host shuts it out.
pub fn fenced<P: Platform>(r: &Region<P>, on: &mut Lane, index: u32) -> Result<()> {
    let same = |p: &vshmem_core::task::Peer| p.fenced;
    let Some(entry) = r.peer(index)?.filter(same) else { return Ok(()) };
    let mut tasks = r.tasks()?;
    tasks.retain(|t| t.peer == index);
    for t in &tasks {
        r.set_task_state(t.id, task::DYING)?;
    }
    let mut met = sem::renew_words(r).and(msg::renew(r, on));
    let owner = Owner::Endpoint { peer: index, incarnation: entry.incarnation };
    met = met.and(settle_lanes(r, on, owner, Fate::Fenced));
    for t in &tasks {
        met = met.and(settle_lanes(r, on, Owner::Task(t.id), Fate::Fenced));
    }
    for t in tasks {
        met = met.and(settle_task(r, on, t.id, Fate::Fenced, false));
    }
    met.and(rescan(r, on, index))
}

/// Reaps a dead peer: all its tasks, its endpoint's lanes, what was withdrawn to it, then its slot.
///
/// # Errors
/// As [`task()`].
pub fn peer<P: Platform>(r: &Region<P>, on: &mut Lane, index: u32) -> Result<()> {
    let dead = |p: &vshmem_core::task::Peer| p.state == peer::DEAD && !p.fenced;
    let Some(entry) = r.peer(index)?.filter(dead) else { return Ok(()) };
    let tasks = r.tasks()?;
    // Still dead: what was read belonged to it, and not to the next owner of its slot.
    if r.peer(index)?.filter(dead).is_none_or(|now| now.incarnation != entry.incarnation) {
        return Ok(());
    }
    let tasks: Vec<_> = tasks.into_iter().filter(|t| t.peer == index).collect();
    // First nobody waits any more: one task may wait for another ([`layout::task::KEEPER`]), with
    // its undo records.
    for dead in &tasks {
        lanes(r, on, Owner::Task(dead.id))?;
    }
    for dead in tasks {
        one_of_many(r, on, dead.id)?;
    }
    rescan(r, on, index)?;
    lanes(r, on, Owner::Endpoint { peer: index, incarnation: entry.incarnation })?;
    withdraw::bury(r, on, &entry)?;
    if index != 0 {
        r.free_peer(index, entry.incarnation)?;
    }
    Ok(())
}

/// Takes a lane that no longer runs out of the list it waits in.
///
/// A set or queue leaves it with `status`. `owner` is who it belonged to: a reaper that was stopped
/// may find it somebody else's. Each step reads what it acts on first and the owner last; and it
/// cannot lose the owner after that, since the other reaper has to take the same lock before it
/// releases the lane.
pub(crate) fn unqueue<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: LaneId,
    owner: Option<Owner>,
    status: u32,
) -> Result<()> {
    let slot = r.lane(id)?;
    let here = |txn: &vshmem_core::Txn<'_, P>, kind, index| {
        Ok::<_, Error>(
            txn.get(slot.plus(lane::WAIT_KIND))? == kind
                && txn.get(slot.plus(lane::WAIT_OBJ))? == index
                && r.lane_owner(id)? == owner,
        )
    };
    if r.peek(slot.plus(lane::STATUS))? != wait::WAITING {
        return Ok(());
    }
    let kind = r.peek(slot.plus(lane::WAIT_KIND))?;
    let index = r.peek(slot.plus(lane::WAIT_OBJ))?;
    match kind {
        waits::SEM => {
            let at = r.object(Kind::Set, index)?;
            r.transact(on, |txn| {
                txn.lock(at.plus(obj::LOCK))?;
                Ok::<_, Error>(here(txn, kind, index)? && sem::unqueue(txn, at, id, status)?)
            })?;
        }
        waits::RECV | waits::SEND => {
            let at = r.object(Kind::Queue, index)?;
            r.transact(on, |txn| {
                txn.lock(at.plus(obj::LOCK))?;
                Ok::<_, Error>(here(txn, kind, index)? && msg::unqueue(txn, at, id, status)?)
            })?;
        }
        waits::PARK => {
            let (at, lock) = park::bucket(r, index)?;
            r.transact(on, |txn| {
                txn.lock(lock)?;
                Ok::<_, Error>(here(txn, kind, index)? && park::unqueue(txn, at, id)?)
            })?;
        }
        // Taken out by a step of which the outcome is still to be written, by an owner that was
        // stopped: it must not be written to the lane's next owner.
        _ => {
            for other in 0..r.table(Table::Lanes).count as u32 {
                if other != on.id().0 && r.lane_committed(LaneId(other))? {
                    r.settle_lane(LaneId(other), false)?;
                }
            }
        }
    }
    Ok(())
}

/// Drops what the caller's own lane holds.
pub(crate) fn drop_own<P: Platform>(r: &Region<P>, on: &mut Lane) -> Result<()> {
    let owner = r.lane_owner(on.id())?;
    drop_held(r, on, on.id(), owner)
}

/// Drops what lane `id` holds: blocks are freed, a received message goes back to its queue.
pub(crate) fn drop_held<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: LaneId,
    owner: Option<Owner>,
) -> Result<()> {
    let slot = r.lane(id)?;
    // A step frees many messages or a run of pages: it has fewer than there are pages.
    for _ in 0..=r.table(Table::Pages).count {
        let why = r.peek(slot.plus(lane::HELD_WHY))?;
        let index = r.peek(slot.plus(lane::HELD_FOR))?;
        match why {
            held::NOTHING => return Ok(()),
            held::RECEIVED => {
                let life = r.peek(slot.plus(lane::HELD_LIFE))?;
                let object =
                    Object { index, at: r.object(Kind::Queue, index)?, life, peer: ANYONE };
                if r.lane_owner(id)? != owner {
                    return Ok(());
                }
                let back = |txn: &mut vshmem_core::Txn<'_, P>| {
                    txn.lock(object.at.plus(obj::LOCK))?;
                    let same = txn.get(slot.plus(lane::HELD_WHY))? == why
                        && txn.get(slot.plus(lane::HELD_FOR))? == index
                        && txn.get(slot.plus(lane::HELD_LIFE))? == life
                        && r.lane_owner(id)? == owner;
                    Ok::<_, Error>(same && msg::give_back(txn, &object, slot)?)
                };
                if r.transact(on, back)? {
                    msg::settle(r, on, &object, &mut rounds(r))?;
                }
            }
            held::REMOVING => {
                if r.lane_owner(id)? != owner {
                    return Ok(());
                }
                removal::finish(r, on, slot)?;
                if on.id() != id {
                    // The messages of the queue that it removed.
                    drop_own(r, on)?;
                }
                r.transact(on, |txn| {
                    txn.lock(ARENA)?;
                    let same = txn.get(slot.plus(lane::HELD_WHY))? == why;
                    if same && r.lane_owner(id)? == owner {
                        Held::drop_of(txn, slot)?;
                    }
                    Ok::<_, Error>(())
                })?;
            }
            _ => {
                // What a dead lane holds another reaper may be freeing too.
                let own = why == held::EXTENTS && id == on.id();
                let zeroed = if own { shm::discard(r, slot)? } else { None };
                // An endpoint frees what the dead had.
                let living = id == on.id() && matches!(owner, Some(Owner::Task(_)));
                let rest = if living { Left::Warm } else { Left::Cold };
                r.transact(on, |txn| {
                    txn.lock(ARENA)?;
                    let n = txn.get(slot.plus(lane::HELD_FOR))?;
                    if txn.get(slot.plus(lane::HELD_WHY))? != why || r.lane_owner(id)? != owner {
                        return Ok::<_, Error>(());
                    }
                    let block = r.block(txn.get(slot.plus(lane::HELD))?)?;
                    match why {
                        held::SENDING => msg::free(txn, block)?,
                        held::SEMS => sem::free_block(txn, n, block)?,
                        held::UNDO => sem::free_undo(txn, n, block)?,
                        held::EXTENTS => {
                            return shm::free_extents(txn, slot, zeroed, rest).map(drop);
                        }
                        held::CHAIN => return msg::free_chain(txn, slot, BATCH),
                        _ => {
                            let what = "lane holds something of no known kind";
                            return Err(vshmem_core::Corrupt::new(slot, what).into());
                        }
                    }
                    Held::drop_of(txn, slot)
                })?;
                if r.lane_owner(id)? != owner {
                    return Ok(());
                }
            }
        }
    }
    Err(vshmem_core::Corrupt::new(slot, "what a lane holds has no end").into())
}

/// Frees the message block lane `id` kept for later.
pub(crate) fn drop_spare<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: LaneId,
    owner: Option<Owner>,
) -> Result<()> {
    let spare = r.lane(id)?.plus(lane::SPARE);
    if r.peek(spare)? == 0 {
        return Ok(());
    }
    r.transact(on, |txn| {
        txn.lock(ARENA)?;
        let cell = txn.get(spare)?;
        if cell == 0 || r.lane_owner(id)? != owner {
            return Ok(()); // Another reaper was faster.
        }
        msg::free(txn, r.block(cell)?)?;
        Ok(txn.set(spare, 0)?)
    })
}

/// Whether whoever owns a lane is no longer there, and so nobody will come to free it: a task that
/// died in the middle of settling its own end, or that was taken for dead and took one more lane.
fn is_gone<P: Platform>(r: &Region<P>, owner: Owner) -> Result<bool> {
    Ok(match owner {
        Owner::Task(id) => {
            let (state, incarnation) = r.task_state(id.index)?;
            state == task::FREE || incarnation != id.incarnation
        }
        Owner::Endpoint { peer, incarnation } => {
            r.peer(peer)?.is_none_or(|now| now.incarnation != incarnation)
        }
    })
}

/// What every endpoint does about once a second: completes transactions whose owner was stopped
/// after its commit, frees lanes whose owner is no more, finishes hand-offs nobody finished, and
/// wakes sleepers of `peer` whose wake got lost. All of it is idempotent.
///
/// # Errors
/// The region is corrupt.
pub fn rescan<P: Platform>(r: &Region<P>, on: &mut Lane, of: u32) -> Result<()> {
    let owners = r.table(Table::Owners);
    let mut sleepers = false;
    // Every lane and every object gets its turn, whatever is wrong with another one.
    let mut met = Ok(());
    for i in 0..owners.count as u32 {
        let id = LaneId(i);
        if id == on.id() {
            continue;
        }
        let Some(owner) = r.lane_owner(id)? else { continue };
        if r.lane_committed(id)? {
            met = met.and(r.settle_lane(id, false).map_err(Error::from));
        }
        // One that names no slot at all is nobody's either; `region check` says so.
        if is_gone(r, owner).unwrap_or(false) {
            met = met.and(lanes(r, on, owner));
        }
        let slot = r.lane(id)?;
        // A remover that was stopped holds up nobody who has to hear that the object is gone.
        if r.peek(slot.plus(lane::HELD_WHY))? == held::REMOVING {
            met = met.and(removal::finish(r, on, slot).and_then(|()| drop_own(r, on)));
        }
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
        return met; // Nobody to hand anything to.
    }
    for (kind, dirty) in [(Kind::Set, set::DIRTY), (Kind::Queue, queue::DIRTY)] {
        for index in object::indices(r, kind)? {
            let at = r.object(kind, index)?;
            if r.peek(at.plus(dirty))? == 0 {
                continue;
            }
            let object = Object { index, at, life: r.peek(at.plus(obj::LIFE))?, peer: ANYONE };
            met = met.and(match kind {
                Kind::Set => sem::settle(r, on, &object, &mut rounds(r)),
                _ => msg::settle(r, on, &object, &mut rounds(r)),
            });
        }
    }
    met
}

/// How many objects of all kinds there are.
///
/// # Errors
/// The region is corrupt.
pub fn objects<P: Platform>(r: &Region<P>) -> Result<usize> {
    Kind::ALL.iter().map(|k| Ok(object::in_use(r, *k)?.0 as usize)).sum()
}
