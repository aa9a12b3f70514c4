//! Peers, tasks with what they have to give back, and lanes.

use super::objects;
use super::part::{Fault, Part, View, Who};
use super::waiting;
use crate::{Result, sem};
use std::collections::HashSet;
use vshmem_core::arena::Pool;
use vshmem_core::layout::{Table, attach, held, lane, obj, peer, set, task, undo};
use vshmem_core::region::Kind;
use vshmem_core::task::Owner;
use vshmem_core::txn::Stage;
use vshmem_core::{LaneId, Offset, Platform};

/// Completes what lane `id` has committed; notes a journal that cannot be.
pub(super) fn finish<P: Platform>(v: View<'_, P>, id: LaneId, part: &mut Part) {
    let Ok(slot) = v.r.lane(id) else { return };
    let at = slot.plus(lane::JOURNAL);
    if !v.r.lane_committed(id).unwrap_or(false) {
        return;
    }
    if let Err(e) = v.r.settle_lane(id, false) {
        let what = format!("its committed step cannot be completed: {} at {}", e.what, e.at);
        part.note(v, Fault::Journal, Who::Lane(id.0), at, what, &[at]);
    }
}

/// The peers' slots.
pub(super) fn peers<P: Platform>(v: View<'_, P>, part: &mut Part) {
    for index in 0..peer::COUNT as u32 {
        let Ok(at) = v.r.element(Table::Peers, index) else { return };
        let who = Who::Peer(index);
        let value = v.cell(at.plus(peer::STATE));
        let state = value & 0xff;
        let place = at.plus(peer::STATE);
        part.expect(v, state <= peer::CLAIMED, Fault::Peer, who, place, || {
            format!("state {state}")
        });
        part.expect(v, index != 0 || state == peer::LIVE, Fault::Peer, who, place, || {
            format!("the host is in state {state}")
        });
        let name = v.r.text(at.plus(peer::NAME), 64);
        let named = state != peer::LIVE || name.is_ok();
        part.expect(v, named, Fault::Peer, who, at.plus(peer::NAME), || {
            "its name is no text".to_owned()
        });
        // One that was fenced stays until its kernel is gone.
        let unreaped = state == peer::DEAD && index != 0 && value & peer::FENCED == 0;
        part.expect(v, !unreaped, Fault::Unreaped, who, place, || {
            "is dead: its end is for the host's endpoint to settle".to_owned()
        });
    }
}

/// The tasks' slots, and their lists under their locks.
pub(super) fn tasks<P: Platform>(
    v: View<'_, P>,
    part: &mut Part,
    mut locked: impl FnMut(Offset, Who, &mut Part, &dyn Fn(&mut Part)) -> Result<()>,
) -> Result<()> {
    for index in 0..v.r.table(Table::Tasks).count as u32 {
        let at = v.r.element(Table::Tasks, index)?;
        let who = Who::Task(index);
        part.lock_word(v, who, at.plus(task::LOCK));
        let place = at.plus(task::STATE);
        let state = v.word(place) & 0xff;
        let rests = [place, at.plus(task::UNDO), at.plus(task::ATTACH)];
        match state {
            task::FREE => {
                if v.cell(rests[1]) != 0 || v.cell(rests[2]) != 0 {
                    let what = "the slot is free, and still has records".to_owned();
                    part.note(v, Fault::Task, who, place, what, &rests);
                }
                continue;
            }
            task::CLAIMED | task::LIVE | task::DYING => {}
            _ => {
                part.note(v, Fault::Task, who, place, format!("state {state}"), &[place]);
                continue;
            }
        }
        let its = v.cell(at.plus(task::PEER));
        let there = v.r.peer(its).ok().flatten();
        let fenced = there.as_ref().is_some_and(|p| p.fenced);
        if there.is_none() {
            let what = format!("is of peer {its}, and there is none");
            part.note(
                v,
                Fault::Task,
                who,
                at.plus(task::PEER),
                what,
                &[place, at.plus(task::PEER)],
            );
        }
        if state == task::DYING && !fenced {
            let what = format!("pid {} of peer {its} is dead", v.cell(at.plus(task::PID)));
            part.note(v, Fault::Unreaped, who, place, what, &[place]);
        }
        let keeper = v.word(at.plus(task::KEEPER));
        let known = keeper == 0 || keeper & 0xffff <= v.r.table(Table::Tasks).count;
        part.expect(v, known, Fault::Task, who, at.plus(task::KEEPER), || {
            format!("its calls are made by {keeper:#x}, which is no task")
        });
        if v.cell(rests[1]) == 0 && v.cell(rests[2]) == 0 {
            continue;
        }
        locked(at.plus(task::LOCK), who, part, &|part| {
            undo_records(v, index, at.plus(task::UNDO), part);
            attachments(v, index, at.plus(task::ATTACH), part);
        })?;
    }
    for (lane, block) in std::mem::take(&mut part.wanted) {
        if !part.undo.contains(&block) {
            let slot = v.r.lane(LaneId(lane))?;
            let rests = [slot.plus(lane::STATUS), slot.plus(lane::WAIT_BLOCK)];
            let what = format!("sleeps with an undo record that no task has ({block:#x})");
            part.note(v, Fault::Undo, Who::Lane(lane), rests[1], what, &rests);
        }
    }
    Ok(())
}

fn undo_records<P: Platform>(v: View<'_, P>, index: u32, head: Offset, part: &mut Part) {
    let who = Who::Task(index);
    let (mut link, mut seen, mut sets) = (head, HashSet::new(), HashSet::new());
    while v.cell(link) != 0 {
        let cell = v.cell(link);
        if !seen.insert(cell) {
            let what = "its undo records form a circle".to_owned();
            return part.note(v, Fault::Undo, who, link, what, &[link]);
        }
        let size = |b: Offset| sem::undo_bytes(v.cell(b.plus(undo::NSEMS)));
        let Some(block) = part.block(v, Fault::Undo, who, link, Pool::Undo, size) else { return };
        part.undo.insert(cell);
        let of = v.cell(block.plus(undo::TASK));
        part.expect(v, of == index, Fault::Undo, who, block.plus(undo::TASK), || {
            format!("has the undo record of task {of}")
        });
        let (number, life) = (v.cell(block.plus(undo::SET)), v.cell(block.plus(undo::LIFE)));
        let nsems = v.cell(block.plus(undo::NSEMS));
        match v.r.object(Kind::Set, number) {
            Err(_) => {
                let at = block.plus(undo::SET);
                part.note(
                    v,
                    Fault::Undo,
                    who,
                    at,
                    format!("has one for set {number}"),
                    &[link, at],
                );
            }
            // That of a set which is gone makes room when there is need.
            Ok(at) if v.cell(at.plus(obj::LIFE)) != life => {}
            Ok(at) => {
                let has = v.cell(at.plus(set::NSEMS));
                if has != nsems {
                    let what = format!("has one of {nsems} semaphores for set {number} of {has}");
                    let rests = [link, at.plus(obj::LIFE)];
                    part.note(v, Fault::Undo, who, block.plus(undo::NSEMS), what, &rests);
                }
                if !sets.insert(number) {
                    let what = format!("has two undo records for set {number}");
                    part.note(v, Fault::Undo, who, link, what, &[link, at.plus(obj::LIFE)]);
                }
            }
        }
        link = block.plus(undo::TASK_NEXT);
    }
}

fn attachments<P: Platform>(v: View<'_, P>, index: u32, head: Offset, part: &mut Part) {
    let who = Who::Task(index);
    let (mut link, mut seen, mut segs) = (head, HashSet::new(), HashSet::new());
    while v.cell(link) != 0 {
        if !seen.insert(v.cell(link)) {
            let what = "its attachment records form a circle".to_owned();
            return part.note(v, Fault::Record, who, link, what, &[link]);
        }
        let size = |_| attach::SIZE;
        let Some(block) = part.block(v, Fault::Record, who, link, Pool::Misc, size) else { return };
        let cell = |o: u64| v.cell(block.plus(o));
        let (number, seq, count) = (cell(attach::SEG), cell(attach::LIFE), cell(attach::COUNT));
        let rests = [link, block.plus(attach::SEG), block.plus(attach::COUNT)];
        part.expect(v, count > 0, Fault::Record, who, block.plus(attach::COUNT), || {
            format!("has segment {number} attached no times")
        });
        if !segs.insert((number, seq)) {
            let what = format!("has two records of segment {number}");
            part.note(v, Fault::Record, who, link, what, &rests);
        }
        let life = v.r.object(Kind::Seg, number).map(|at| at.plus(obj::LIFE));
        match life {
            Ok(life) if v.cell(life) >> 2 == seq && v.cell(life) & 3 != obj::FREE => {}
            other => {
                let life = other.unwrap_or(block);
                let what = format!("has segment {number} attached, which is gone");
                part.note(v, Fault::Record, who, link, what, &[rests[0], rests[1], rests[2], life]);
            }
        }
        *part.records.entry((number, seq)).or_default() += u64::from(count);
        link = block.plus(attach::NEXT);
    }
}

/// The lanes: whose they are, what they hold, where they wait.
pub(super) fn lanes<P: Platform>(v: View<'_, P>, part: &mut Part) {
    let owners = v.r.table(Table::Owners).at;
    for id in 0..v.r.table(Table::Owners).count as u32 {
        let who = Who::Lane(id);
        let (at, Ok(slot)) = (owners.index(id.into(), 8), v.r.lane(LaneId(id))) else { return };
        let owner = v.r.lane_owner(LaneId(id)).ok().flatten();
        let journal = slot.plus(lane::JOURNAL);
        match owner {
            None => {
                part.expect(v, v.word(at) == 0, Fault::Lane, who, at, || {
                    format!("owner {:#x} is nobody", v.word(at))
                });
                idle(v, LaneId(id), at, slot, part);
            }
            Some(Owner::Task(t)) => {
                let there = v.r.task(t.index).is_ok_and(|now| now.is_some_and(|n| n.id == t));
                if !there {
                    let what = format!("is of a task {} that is gone", t.index);
                    let state = v.r.element(Table::Tasks, t.index).map(|s| s.plus(task::STATE));
                    part.note(v, Fault::Lane, who, at, what, &[at, state.unwrap_or(at)]);
                }
            }
            Some(Owner::Endpoint { peer: index, incarnation }) => {
                let now = v.r.peer(index).ok().flatten();
                // The slot may be on its way in, or out.
                if now.is_none_or(|p| p.incarnation != incarnation) {
                    let what = format!("is of the endpoint of a peer {index} that is gone");
                    part.note(v, Fault::Lane, who, at, what, &[at]);
                }
            }
        }
        if v.r.lane_committed(LaneId(id)).unwrap_or(false) {
            // Completed when the look began; now another's business, unless it stays.
            let what = "a committed step is not completed".to_owned();
            part.note(v, Fault::Journal, who, journal, what, &[journal]);
        }
        holds(v, who, slot, part);
        waiting::lane(v, id, slot, part);
    }
}

/// A lane of nobody holds nothing and waits for nothing.
fn idle<P: Platform>(v: View<'_, P>, id: LaneId, at: Offset, slot: Offset, part: &mut Part) {
    let who = Who::Lane(id.0);
    for (o, what) in [
        (lane::HELD_WHY, "holds something"),
        (lane::SPARE, "keeps a message block"),
        (lane::STATUS, "has an outcome to take"),
    ] {
        let place = slot.plus(o);
        if v.cell(place) != 0 {
            part.note(v, Fault::Lane, who, place, format!("is nobody's and {what}"), &[at, place]);
        }
    }
    let journal = slot.plus(lane::JOURNAL);
    if v.r.lane_stage(id).is_ok_and(|now| now.1 == Stage::Active) {
        let what = "is nobody's, and a step is under way".to_owned();
        part.note(v, Fault::Journal, who, journal, what, &[at, journal]);
    }
}

fn holds<P: Platform>(v: View<'_, P>, who: Who, slot: Offset, part: &mut Part) {
    let (says, index) = (slot.plus(lane::HELD), v.cell(slot.plus(lane::HELD_FOR)));
    let place = slot.plus(lane::HELD_WHY);
    let size = |b: Offset| objects::message_bytes(v, b);
    match v.cell(place) {
        held::NOTHING => {}
        held::SENDING => _ = part.block(v, Fault::Held, who, says, Pool::Msgs, size),
        held::RECEIVED => {
            part.block(v, Fault::Held, who, says, Pool::Msgs, size);
            let known = v.r.object(Kind::Queue, index).is_ok();
            part.expect(v, known, Fault::Held, who, slot.plus(lane::HELD_FOR), || {
                format!("holds a message of queue {index}, which does not exist")
            });
        }
        held::EXTENTS => {
            objects::extent_list(v, who, Fault::Held, says, index, false, part);
        }
        held::SEMS => {
            _ = part.block(v, Fault::Held, who, says, Pool::Sems, |_| sem::bytes(index));
        }
        held::UNDO => {
            _ = part.block(v, Fault::Held, who, says, Pool::Undo, |_| sem::undo_bytes(index));
        }
        // Whether the object is there is its own affair: others may have finished it.
        held::REMOVING => {}
        held::CHAIN => _ = objects::chain(v, who, Fault::Held, says, None, part),
        why => part.note(v, Fault::Held, who, place, format!("for reason {why}"), &[place]),
    }
    let spare = slot.plus(lane::SPARE);
    if v.cell(spare) != 0 {
        part.block(v, Fault::Held, who, spare, Pool::Msgs, size);
    }
}
