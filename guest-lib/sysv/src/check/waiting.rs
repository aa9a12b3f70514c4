//! Who waits where: the lists of sleepers and the parking buckets.

use super::part::{Fault, Part, View, Who};
use crate::Result;
use crate::park;
use crate::waiters::List;
use std::collections::HashSet;
use vshmem_core::layout::{self, Table, lane, obj, peer, waits};
use vshmem_core::region::Kind;
use vshmem_core::{LaneId, Offset, Platform, wait};

/// The sleepers of one list, first in first, and whether those are all. Each must say of itself what
/// the list says of it.
pub(super) fn list<P: Platform>(
    v: View<'_, P>,
    list: List,
    index: u32,
    who: Who,
    part: &mut Part,
) -> (Vec<u32>, bool) {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    let (mut link, mut before) = (list.head, 0);
    while let Some(id) = v.cell(link).checked_sub(1) {
        let Ok(slot) = v.r.lane(LaneId(id)) else {
            let what = format!("lane {id} is queued, and does not exist");
            part.note(v, Fault::Waiters, who, link, what, &[link]);
            return (all, false);
        };
        let status = slot.plus(lane::STATUS);
        if !seen.insert(id) {
            let what = format!("its sleepers form a circle from lane {id} on");
            part.note(v, Fault::Waiters, who, link, what, &[link, status]);
            return (all, false);
        }
        let cell = |o: u64| v.cell(slot.plus(o));
        if cell(lane::STATUS) != wait::WAITING
            || cell(lane::WAIT_KIND) != list.kind
            || cell(lane::WAIT_OBJ) != index
        {
            let what = format!("lane {id} is queued, and does not wait for it");
            part.note(v, Fault::Waiters, who, link, what, &[link, status]);
            return (all, false);
        }
        let back = slot.plus(lane::WAIT_PREV);
        part.expect(v, v.cell(back) == before, Fault::Waiters, who, back, || {
            format!("lane {id} is queued behind another than it says")
        });
        asleep(v, who, slot, id, part);
        part.queued.insert(id, (list.kind, index));
        all.push(id);
        before = id + 1;
        link = slot.plus(lane::WAIT_NEXT);
    }
    part.expect(v, v.cell(list.tail) == before, Fault::Waiters, who, list.tail, || {
        "its last sleeper is another than the end of its list".to_owned()
    });
    (all, true)
}

/// A sleeper can be woken, and may wait here.
fn asleep<P: Platform>(v: View<'_, P>, who: Who, slot: Offset, id: u32, part: &mut Part) {
    let status = slot.plus(lane::STATUS);
    let its = v.cell(slot.plus(lane::WAIT_PEER));
    let task = v.cell(slot.plus(lane::WAIT_TASK));
    let tasks = v.r.table(Table::Tasks).count;
    let identity = vshmem_core::task::Identity(v.cell(slot.plus(lane::WAIT_WHO)));
    if u64::from(its) >= peer::COUNT || identity.peer() != its || u64::from(task) >= tasks {
        let what = format!("lane {id} sleeps as task {task} of peer {its}");
        part.note(v, Fault::Waiters, who, slot.plus(lane::WAIT_PEER), what, &[status]);
    }
    if v.r.lane_owner(LaneId(id)).is_ok_and(|o| o.is_none()) {
        let what = format!("lane {id} sleeps, and is nobody's");
        part.note(v, Fault::Waiters, who, status, what, &[status]);
    }
    if let Who::Object(kind, index, _) = who
        && kind != Kind::Seg
    {
        let at = v.r.table(kind.table()).at.index(index.into(), obj::STRIDE).plus(obj::ONLY);
        let only = v.cell(at);
        part.expect(v, only == 0 || only == its.wrapping_add(1), Fault::Waiters, who, at, || {
            format!("lane {id} of peer {its} sleeps, from which it was withdrawn")
        });
    }
}

/// All parking buckets.
pub(super) fn buckets<P: Platform>(
    v: View<'_, P>,
    part: &mut Part,
    mut locked: impl FnMut(Offset, Who, &mut Part, &dyn Fn(&mut Part)) -> Result<()>,
) -> Result<()> {
    for index in 0..layout::park::COUNT as u32 {
        let at = v.r.element(Table::Parking, index)?;
        let who = Who::Bucket(index);
        part.lock_word(v, who, at.plus(layout::park::LOCK));
        if v.cell(at.plus(layout::park::HEAD)) == 0 && v.cell(at.plus(layout::park::TAIL)) == 0 {
            continue;
        }
        locked(at.plus(layout::park::LOCK), who, part, &|part| {
            let (parked, _) = list(v, park::list(at), index, who, part);
            for id in parked {
                let Ok(slot) = v.r.lane(LaneId(id)) else { continue };
                if park::Key::of(v.r, slot).is_ok_and(|k| k.bucket() != index) {
                    let what = format!("lane {id} sleeps for a place that belongs elsewhere");
                    let status = slot.plus(lane::STATUS);
                    part.note(v, Fault::Waiters, who, status, what, &[status]);
                }
            }
        })?;
    }
    Ok(())
}

/// Of a lane: whether it waits where it says.
pub(super) fn lane<P: Platform>(v: View<'_, P>, id: u32, slot: Offset, part: &mut Part) {
    let status = slot.plus(lane::STATUS);
    let (now, kind) = (v.cell(status), v.cell(slot.plus(lane::WAIT_KIND)));
    let index = v.cell(slot.plus(lane::WAIT_OBJ));
    let known = matches!(now, wait::IDLE | wait::WAITING | wait::DONE)
        || now
            .checked_sub(wait::FAILED)
            .is_some_and(|e| crate::Errno::from_raw(e as i32).is_some());
    let who = Who::Lane(id);
    part.expect(v, known, Fault::Lane, who, status, || format!("wait status {now:#x}"));
    if now != wait::WAITING || part.queued.get(&id) == Some(&(kind, index)) {
        return;
    }
    let what = match kind {
        waits::SEM => format!("waits on set {index}, which does not know"),
        waits::RECV => format!("waits for a message of queue {index}, which does not know"),
        waits::SEND => format!("waits for room in queue {index}, which does not know"),
        waits::PARK => format!("is parked in bucket {index}, which does not know"),
        _ => format!("waits for nothing (list {kind})"),
    };
    part.note(v, Fault::Waiting, who, status, what, &[status]);
}
