//! One object, looked at under its lock.

use super::part::{Fault, Fix, Part, View, Who};
use super::waiting;
use crate::object::flag;
use crate::{msg, sem, shm};
use std::collections::HashMap;
use vshmem_core::arena::Pool;
use vshmem_core::layout::{
    self, PAGE, Table, arena, extents, held, lane, obj, peer, queue, seg, sem as word, set,
};
use vshmem_core::region::Kind;
use vshmem_core::{LaneId, Offset, Platform};

/// The object at `index`, if there is one.
pub(super) fn one<P: Platform>(v: View<'_, P>, kind: Kind, index: u32, part: &mut Part) {
    let Ok(at) = v.r.object(kind, index) else { return };
    let who = Who::of(v, kind, index);
    let life = v.cell(at.plus(obj::LIFE));
    if life & 3 == obj::FREE {
        return;
    }
    common(v, kind, who, at, life, part);
    match kind {
        Kind::Seg => segment(v, who, index, at, life, part),
        Kind::Set => semaphores(v, who, index, at, part),
        Kind::Queue => messages(v, who, index, at, life, part),
    }
}

fn common<P: Platform>(
    v: View<'_, P>,
    kind: Kind,
    who: Who,
    at: Offset,
    life: u32,
    part: &mut Part,
) {
    let state = life & 3;
    let known = state == obj::LIVE || state == obj::DOOMED;
    part.expect(v, known, Fault::Object, who, at.plus(obj::LIFE), || format!("state {state}"));
    let ends = state != obj::DOOMED || kind == Kind::Seg || is_being_removed(v, kind, who, life);
    part.expect(v, ends, Fault::Object, who, at.plus(obj::LIFE), || {
        "is removed, and nobody is at it".to_owned()
    });
    let mode = v.cell(at.plus(obj::MODE));
    let flags = match (kind, state) {
        (Kind::Seg, obj::DOOMED) => flag::SHM_LOCKED | flag::SHM_DEST,
        (Kind::Seg, _) => flag::SHM_LOCKED,
        _ => 0,
    };
    let good = mode & !(0o777 | flags) == 0
        && (state != obj::DOOMED || kind != Kind::Seg || mode & flag::SHM_DEST != 0);
    part.expect(v, good, Fault::Object, who, at.plus(obj::MODE), || format!("mode {mode:o}"));
    let (key, only) = (v.cell(at.plus(obj::KEY)), v.cell(at.plus(obj::ONLY)));
    part.expect(v, u64::from(only) <= peer::COUNT, Fault::Object, who, at.plus(obj::ONLY), || {
        format!("withdrawn to peer {}", only.wrapping_sub(1))
    });
    let keyless = only != 0 || state == obj::DOOMED;
    part.expect(v, !keyless || key == 0, Fault::Object, who, at.plus(obj::KEY), || {
        format!("is withdrawn or removed, and has key {key:#x}")
    });
    part.expect(v, v.word(at.plus(obj::TYPE)) == 0, Fault::Object, who, at.plus(obj::TYPE), || {
        "has a type, as no System V object has".to_owned()
    });
    part.expect(v, v.cell(at.plus(obj::NAME)) == 0, Fault::Object, who, at.plus(obj::NAME), || {
        "has a long name, as no System V object has".to_owned()
    });
}

/// Whether a lane holds the removal of a doomed set or queue.
fn is_being_removed<P: Platform>(v: View<'_, P>, kind: Kind, who: Who, life: u32) -> bool {
    let Who::Object(_, index, _) = who else { return false };
    (0..v.r.table(Table::Lanes).count as u32).any(|id| {
        let Ok(slot) = v.r.lane(LaneId(id)) else { return false };
        let holds = [(lane::HELD_WHY, held::REMOVING), (lane::HELD, kind as u32)];
        let what = [(lane::HELD_FOR, index), (lane::HELD_LIFE, life)];
        holds.into_iter().chain(what).all(|(o, value)| v.cell(slot.plus(o)) == value)
    })
}

fn segment<P: Platform>(
    v: View<'_, P>,
    who: Who,
    index: u32,
    at: Offset,
    life: u32,
    part: &mut Part,
) {
    let (size, pages) = (v.pair(at.plus(seg::SIZE_LO)), v.cell(at.plus(seg::PAGES)));
    part.expect(
        v,
        size > 0 && size.div_ceil(PAGE) == pages.into(),
        Fault::Segment,
        who,
        at.plus(seg::PAGES),
        || format!("{size} bytes in {pages} pages"),
    );
    extent_list(v, who, Fault::Segment, at.plus(seg::EXTENTS), pages, true, part);
    let nattch = at.plus(seg::NATTCH);
    let word = v.word(nattch);
    part.expect(
        v,
        life & 3 != obj::DOOMED || word as u32 > 0,
        Fault::Attached,
        who,
        nattch,
        || "is removed and nobody has it attached, and it is there".to_owned(),
    );
    part.counts.push((who, (index, life >> 2), nattch, word));
}

/// The list of extents that the cell at `says` names, and the pages in it: all of `pages`, or part.
pub(super) fn extent_list<P: Platform>(
    v: View<'_, P>,
    who: Who,
    fault: Fault,
    says: Offset,
    pages: u32,
    whole: bool,
    part: &mut Part,
) {
    let Some(list) = part.block(v, fault, who, says, Pool::Misc, |_| shm::list_bytes(pages)) else {
        return;
    };
    let count = v.cell(list.plus(extents::COUNT));
    if count > shm::most_extents(pages) {
        let at = list.plus(extents::COUNT);
        return part.note(v, fault, who, at, format!("{count} extents"), &[says, at]);
    }
    let mut sum = 0u64;
    for i in 0..count {
        let extent = shm::extent_at(list, i);
        let n = v.cell(extent.plus(8));
        sum += u64::from(n);
        part.run(v, fault, who, extent, n);
        let refs = v.cell(extent.plus(16));
        if refs != 1 {
            let at = extent.plus(16);
            let rests = v.evidence(&[says, at]);
            part.push(fault, who, at, format!("{refs} references"), rests, Fix::Value(1));
        }
    }
    let good = if whole { sum == u64::from(pages) } else { sum <= u64::from(pages) };
    part.expect(v, good, fault, who, list.plus(extents::COUNT), || {
        format!("its extents have {sum} pages, it {pages}")
    });
}

fn semaphores<P: Platform>(v: View<'_, P>, who: Who, index: u32, at: Offset, part: &mut Part) {
    let nsems = v.cell(at.plus(set::NSEMS));
    let most = arena::MAX_BLOCK / word::STRIDE - 1;
    let some = nsems > 0 && u64::from(nsems) <= most;
    part.expect(v, some, Fault::Set, who, at.plus(set::NSEMS), || format!("{nsems} semaphores"));
    let block = some
        .then(|| {
            part.block(v, Fault::Set, who, at.plus(set::SEMS), Pool::Sems, |_| sem::bytes(nsems))
        })
        .flatten();
    let dirty = v.cell(at.plus(set::DIRTY));
    part.expect(v, dirty <= 1, Fault::Set, who, at.plus(set::DIRTY), || format!("dirty {dirty}"));
    let (waiting, whole) = waiting::list(v, sem::wait_list(at), index, who, part);
    let counted = v.cell(at.plus(set::WAITERS));
    if whole {
        part.expect(
            v,
            counted as usize == waiting.len(),
            Fault::Waiters,
            who,
            at.plus(set::WAITERS),
            || format!("counts {counted} sleepers, {} are queued", waiting.len()),
        );
    }
    let Some(block) = block else { return };
    // Whoever sleeps on a doomed one is about to be sent away.
    if v.cell(at.plus(obj::LIFE)) & 3 == obj::DOOMED {
        return;
    }
    for num in 0..nsems {
        pending(v, who, sem::sem_at(block, num).plus(word::WORD), num, part);
    }
    for id in waiting {
        sleeper(v, who, at, (block, nsems), id, part);
    }
}

/// A semaphore that names a lane in place of its last writer names one that somebody has.
fn pending<P: Platform>(v: View<'_, P>, who: Who, place: Offset, num: u32, part: &mut Part) {
    let now = v.word(place);
    if now & word::PENDING == 0 {
        return;
    }
    let id = (now >> word::WHO_SHIFT) as u32 & word::WHO;
    let there = v.r.lane_owner(LaneId(id)).is_ok_and(|owner| owner.is_some());
    part.expect(v, there, Fault::Set, who, place, || {
        format!("semaphore {num} was written by lane {id}, which is nobody's")
    });
}

/// One that sleeps on a set has operations that cannot go, on semaphores that no fast operation
/// changes.
fn sleeper<P: Platform>(
    v: View<'_, P>,
    who: Who,
    at: Offset,
    (block, nsems): (Offset, u32),
    id: u32,
    part: &mut Part,
) {
    let Ok(slot) = v.r.lane(LaneId(id)) else { return };
    let (status, n) = (slot.plus(lane::STATUS), v.cell(slot.plus(lane::WAIT_N)));
    let undo = v.cell(slot.plus(lane::WAIT_BLOCK));
    if undo != 0 {
        part.wanted.push((id, undo));
    }
    if n == 0 || n as usize > lane::MAX_OPS {
        let what = format!("lane {id} sleeps with {n} operations");
        return part.note(v, Fault::Waiters, who, slot.plus(lane::WAIT_N), what, &[status]);
    }
    let mixed = at.plus(set::MIXED);
    let first = sem::unpack(v.word(slot.plus(lane::OPS)));
    if v.cell(mixed) == 0 && (n > 1 || first.op == 0) {
        let what = format!("lane {id} waits for more than one lower value, unmarked");
        part.note(v, Fault::Waiters, who, mixed, what, &[status, mixed]);
    }
    let mut values = HashMap::new();
    for i in 0..n {
        let op = sem::unpack(v.word(slot.plus(lane::OPS).index(i.into(), 8)));
        if u32::from(op.num) >= nsems {
            let what = format!("lane {id} sleeps with an operation on semaphore {}", op.num);
            return part.note(v, Fault::Waiters, who, slot.plus(lane::OPS), what, &[status]);
        }
        let place = sem::sem_at(block, op.num.into()).plus(word::WORD);
        let now = v.word(place);
        if now & word::FROZEN == 0 {
            let what = format!(
                "lane {id} sleeps, and semaphore {}, which it has looked at, can change unseen",
                op.num
            );
            return part.note(v, Fault::Overlooked, who, place, what, &[status, place]);
        }
        let value = values.entry(op.num).or_insert((now & word::VALUE) as i64);
        let next = *value + i64::from(op.op);
        if next < 0 || op.op == 0 && *value != 0 {
            return; // Here it waits.
        }
        *value = next;
    }
    if v.cell(at.plus(set::DIRTY)) == 0 {
        let what = format!("lane {id} sleeps, and all its {n} operations can go");
        part.note(v, Fault::Overlooked, who, status, what, &[status]);
    }
}

fn messages<P: Platform>(
    v: View<'_, P>,
    who: Who,
    index: u32,
    at: Offset,
    life: u32,
    part: &mut Part,
) {
    let cell = |o: u64| v.cell(at.plus(o));
    let qnum = cell(queue::QNUM);
    let (types, whole) = chain(v, who, Fault::Queue, at.plus(queue::HEAD), Some(qnum), part);
    let dirty = cell(queue::DIRTY);
    part.expect(v, dirty <= 1, Fault::Queue, who, at.plus(queue::DIRTY), || {
        format!("dirty {dirty}")
    });
    if whole {
        let bytes: u64 = types.iter().map(|(_, _, size)| u64::from(*size)).sum();
        let last = types.last().map_or(0, |(block, ..)| vshmem_core::arena::to_cell(*block));
        let wrong = [
            (queue::QNUM, u64::from(qnum), types.len() as u64, "messages"),
            (queue::CBYTES, u64::from(cell(queue::CBYTES)), bytes, "bytes"),
        ];
        for (o, counted, real, what) in wrong {
            part.expect(v, counted == real, Fault::Queue, who, at.plus(o), || {
                format!("counts {counted} {what}, holds {real}")
            });
        }
        part.expect(v, cell(queue::TAIL) == last, Fault::Queue, who, at.plus(queue::TAIL), || {
            "its last message is another than the end of its chain".to_owned()
        });
    }
    // Whoever sleeps on a doomed one is about to be sent away.
    let there = life & 3 == obj::LIVE;
    let (receivers, _) = waiting::list(v, msg::receivers(at), index, who, part);
    let (senders, _) = waiting::list(v, msg::senders(at), index, who, part);
    let more = super::ring::ring(v, who, index, at, life, part);
    for id in receivers {
        let Ok(slot) = v.r.lane(LaneId(id)) else { continue };
        let want = msg::Want {
            mtype: v.pair(slot.plus(lane::WAIT_TYPE)) as i64,
            except: v.cell(slot.plus(lane::WAIT_N)) != 0,
            room: v.pair(slot.plus(lane::WAIT_SIZE)),
        };
        if there && dirty == 0 && types.iter().any(|(_, mtype, _)| want.takes(*mtype)) {
            let status = slot.plus(lane::STATUS);
            let what = format!("lane {id} waits for a message that is there");
            part.note(v, Fault::Overlooked, who, status, what, &[status]);
        }
    }
    for id in senders {
        let Ok(slot) = v.r.lane(LaneId(id)) else { continue };
        let holds = |o: u64| v.cell(slot.plus(o));
        let status = slot.plus(lane::STATUS);
        let its = holds(lane::HELD_WHY) == held::SENDING
            && holds(lane::HELD) == holds(lane::WAIT_BLOCK)
            && holds(lane::HELD_FOR) == index
            && holds(lane::HELD_LIFE) >> 2 == life >> 2;
        if !its {
            let what = format!("lane {id} waits to send a message that it does not hold");
            part.note(v, Fault::Waiters, who, slot.plus(lane::WAIT_BLOCK), what, &[status]);
            continue;
        }
        let Ok(block) = v.r.block(holds(lane::WAIT_BLOCK)) else { continue };
        let size = u64::from(msg::text_bytes(v.cell(block.plus(layout::msg::SIZE))));
        let all = u64::from(cell(queue::QBYTES));
        let (n, bytes) = (u64::from(qnum) + more.0, u64::from(cell(queue::CBYTES)) + more.1);
        let fits = bytes + size <= all && n < all;
        if there && dirty == 0 && fits {
            let what = format!("lane {id} waits for room that is there");
            part.note(v, Fault::Overlooked, who, status, what, &[status]);
        }
    }
}

/// Bytes of a message's block; more than any block has where what it says is nonsense.
pub(super) fn message_bytes<P: Platform>(v: View<'_, P>, block: Offset) -> u64 {
    msg::block_bytes(v.cell(block.plus(layout::msg::SIZE))).unwrap_or(2 * arena::MAX_BLOCK)
}

/// Messages linked from the cell at `says`, with types and sizes, and whether that is all of them.
/// `most` is how many there should be.
pub(super) fn chain<P: Platform>(
    v: View<'_, P>,
    who: Who,
    fault: Fault,
    says: Offset,
    most: Option<u32>,
    part: &mut Part,
) -> (Vec<(Offset, i64, u32)>, bool) {
    let mut all = Vec::new();
    let mut link = says;
    // More than counted is wrong; how many more does not matter.
    let room = v.r.mem().len() / 64;
    let most = most.map_or(room, |n| (u64::from(n) + 1).min(room));
    while v.cell(link) != 0 {
        if all.len() as u64 >= most {
            part.note(v, fault, who, link, "more messages linked than counted".to_owned(), &[link]);
            return (all, false);
        }
        let size = |b: Offset| message_bytes(v, b);
        let Some(block) = part.block(v, fault, who, link, Pool::Msgs, size) else {
            return (all, false);
        };
        let mtype = v.pair(block.plus(layout::msg::TYPE_LO)) as i64;
        part.expect(v, mtype > 0, fault, who, block.plus(layout::msg::TYPE_LO), || {
            format!("a message of type {mtype}")
        });
        all.push((block, mtype, msg::text_bytes(v.cell(block.plus(layout::msg::SIZE)))));
        link = block.plus(layout::msg::NEXT);
    }
    (all, true)
}
