//! Lanes, tasks and peers.

use super::{Mended, still, swap};
use crate::check::part::{Fault, Finding, View};
use crate::{Errno, Error, reap};
use vshmem_core::layout::{Table, arena, attach, held, lane, peer, sb, task, undo, waits};

use vshmem_core::{Lane, LaneId, Offset, Platform, wait};

/// Tells the sleeper of lane `id` that what it waits for is gone; a lane of nobody just rests.
fn dismiss<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, id: u32) -> Mended {
    let slot = v.r.lane(LaneId(id))?;
    let owned = v.r.lane_owner(LaneId(id))?.is_some();
    v.r.transact(on, |txn| {
        // The arena's lock stands between two repairs; the words' tags between this and others.
        txn.lock(Offset(sb::ARENA + arena::LOCK))?;
        if !still(txn, f)? {
            return Ok::<_, Error>(None);
        }
        txn.set(slot.plus(lane::WAIT_KIND), waits::NONE)?;
        if owned {
            txn.set_status(LaneId(id), wait::FAILED + Errno::EIDRM as u32)?;
            return Ok(Some("its sleeper is told EIDRM"));
        }
        txn.set(slot.plus(lane::STATUS), wait::IDLE)?;
        Ok(Some("the lane is at rest"))
    })
}

pub(super) fn lane<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, id: u32) -> Mended {
    let slot = v.r.lane(LaneId(id))?;
    let owners = v.r.element(Table::Owners, id)?;
    match f.fault {
        Fault::Waiting => dismiss(v, on, f, id),
        // It sleeps with another's undo record.
        Fault::Undo => {
            let owner = v.r.lane_owner(LaneId(id))?;
            reap::unqueue(v.r, on, LaneId(id), owner, wait::FAILED + Errno::EIDRM as u32)?;
            v.r.mem().wake(id, slot.plus(lane::STATUS), v.cell(slot.plus(lane::WAIT_PEER)));
            Ok(Some("its sleeper is told EIDRM"))
        }
        Fault::Journal => {
            let word = v.word(f.at);
            let rest = ((word >> 2) + 2) << 2;
            swap(v, f, rest, "the step is given up, however much of it was done")
        }
        Fault::Lane if f.at == owners => match v.r.lane_owner(LaneId(id))? {
            Some(owner) => {
                reap::lanes(v.r, on, owner)?;
                Ok(Some("the lane is free"))
            }
            None => swap(v, f, 0, "the lane is free"),
        },
        Fault::Lane if f.at == slot.plus(lane::STATUS) => dismiss(v, on, f, id),
        // The block is nobody's then, and given back as such.
        Fault::Lane | Fault::Held => v.r.transact(on, |txn| {
            txn.lock(Offset(sb::ARENA + arena::LOCK))?;
            if !still(txn, f)? {
                return Ok::<_, Error>(None);
            }
            if f.at == slot.plus(lane::SPARE) {
                txn.set(f.at, 0)?;
            } else {
                txn.set(slot.plus(lane::HELD_WHY), held::NOTHING)?;
            }
            Ok(Some("the lane holds it no more"))
        }),
        _ => Ok(None),
    }
}

pub(super) fn task<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, index: u32) -> Mended {
    let slot = v.r.element(Table::Tasks, index)?;
    match f.fault {
        Fault::Undo | Fault::Record => cut(v, on, f, slot),
        Fault::Unreaped => {
            let Some(now) = v.r.task(index)? else { return Ok(None) };
            reap::task(v.r, on, now.id)?;
            Ok(Some("reaped"))
        }
        Fault::Task if f.at == slot.plus(task::KEEPER) => swap(v, f, 0, "nobody makes its calls"),
        Fault::Task if f.at == slot.plus(task::STATE) => {
            let word = v.word(f.at);
            if word & 0xff != task::FREE {
                return swap(v, f, word & !0xff | task::FREE, "the slot is free");
            }
            v.r.transact(on, |txn| {
                txn.lock(slot.plus(task::LOCK))?;
                if !still(txn, f)? {
                    return Ok::<_, Error>(None);
                }
                txn.set(slot.plus(task::UNDO), 0)?;
                txn.set(slot.plus(task::ATTACH), 0)?;
                Ok(Some("the slot has no records"))
            })
        }
        // Of a peer that is gone: nobody else will.
        Fault::Task if f.at == slot.plus(task::PEER) => {
            let Some(now) = v.r.task(index)? else { return Ok(None) };
            reap::task(v.r, on, now.id)?;
            Ok(Some("reaped"))
        }
        _ => Ok(None),
    }
}

/// Takes the record in which something is wrong out of its task's list; where that is the list
/// itself, it ends there.
fn cut<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, slot: Offset) -> Mended {
    let (head, next, size) = match f.fault {
        Fault::Undo => (slot.plus(task::UNDO), undo::TASK_NEXT, undo::FIRST),
        _ => (slot.plus(task::ATTACH), attach::NEXT, attach::SIZE),
    };
    let most = v.r.mem().len() / 64;
    v.r.transact(on, |txn| {
        txn.lock(slot.plus(task::LOCK))?;
        if !still(txn, f)? {
            return Ok::<_, Error>(None);
        }
        let mut link = head;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..most {
            let cell = txn.get(link)?;
            let block = v.r.block(cell).ok().filter(|_| seen.insert(cell));
            let Some(block) = block else {
                if cell == 0 {
                    return Ok(None);
                }
                break;
            };
            let inside = (block..block.plus(size)).contains(&f.at) && f.at != block.plus(next);
            if link == f.at && f.evidence.len() > 1 || inside {
                let after = txn.get(block.plus(next))?;
                txn.set(link, after)?;
                return Ok(Some("the record is dropped"));
            }
            if link == f.at {
                break;
            }
            link = block.plus(next);
        }
        txn.set(link, 0)?;
        Ok(Some("the records from there on are dropped"))
    })
}

pub(super) fn peer<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, index: u32) -> Mended {
    let slot = v.r.element(Table::Peers, index)?;
    if f.at == slot.plus(peer::NAME) {
        v.r.mem().zero(f.at, 64)?;
        return Ok(Some("it has no name"));
    }
    if index == 0 {
        return Ok(v.r.set_peer_state(0, peer::LIVE)?.then_some("it is live"));
    }
    if f.fault == Fault::Peer {
        v.r.set_peer_state(index, peer::DEAD)?;
    }
    reap::peer(v.r, on, index)?;
    Ok(Some("reaped"))
}
