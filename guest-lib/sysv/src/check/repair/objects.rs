//! Objects, their directories, and who sleeps on them.

use super::{Mended, still, swap};
use crate::check::part::{Fault, Finding, Fix, View, Who};
use crate::object::{self, ANYONE, Object, flag};
use crate::waiters::List;
use crate::{Errno, Error, msg, park as parking, sem, shm};
use std::collections::HashMap;
use vshmem_core::arena::{class_of, to_cell};
use vshmem_core::layout::{
    self, PAGE, Table, attach, dir, extents, held, lane, obj, park, peer, queue, seg, sem as word,
    set, task, waits,
};
use vshmem_core::region::Kind;
use vshmem_core::task::Identity;
use vshmem_core::{Lane, LaneId, Offset, Platform, Txn, wait};

/// Entries that one more step of a mending may need.
const ROOM: usize = 64;

/// Counts, indices and keys of a kind, from its objects.
pub(super) fn directory<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding) -> Mended {
    let (Who::Directory(kind) | Who::Object(kind, ..)) = f.who else { return Ok(None) };
    v.r.transact(on, |txn| {
        let (at, table) = (kind.dir(), v.r.table(kind.table()));
        txn.lock(at.plus(dir::LOCK))?;
        let (mut live, mut total) = (0u32, 0u32);
        let (mut keys, mut chains) = (HashMap::new(), HashMap::<_, Vec<u32>>::new());
        let mut used = vec![0u32; v.r.table(kind.used()).count as usize];
        for index in 0..table.count as u32 {
            let object = table.at.index(index.into(), obj::STRIDE);
            if txn.get(object.plus(obj::LIFE))? & 3 == obj::FREE {
                continue;
            }
            live += 1;
            used[index as usize / 32] |= 1 << (index % 32);
            total = total.saturating_add(match kind {
                Kind::Seg => txn.get(object.plus(seg::PAGES))?,
                Kind::Set => txn.get(object.plus(set::NSEMS))?,
                Kind::Queue => 0,
            });
            let key = txn.get(object.plus(obj::KEY))? as i32;
            if key == flag::IPC_PRIVATE {
                continue;
            }
            if keys.insert(key, index).is_some() && txn.room() > ROOM {
                txn.set(object.plus(obj::KEY), 0)?;
                continue;
            }
            chains.entry(object::bucket(v.r, kind, key)).or_default().push(index);
        }
        txn.set(at.plus(dir::IN_USE), live)?;
        txn.set(at.plus(dir::TOTAL), total)?;
        if u64::from(txn.get(at.plus(dir::LAST))?) > table.count {
            txn.set(at.plus(dir::LAST), 0)?;
        }
        for (i, bits) in (0..).zip(used) {
            if txn.room() > ROOM {
                txn.set(v.r.table(kind.used()).at.index(i, 8), bits)?;
            }
        }
        let buckets = v.r.table(kind.keys());
        for head in (0..buckets.count).map(|i| buckets.at.index(i, 8)) {
            let members = chains.remove(&head).unwrap_or_default();
            if txn.room() < members.len() + ROOM || is_chain(txn, kind, head, &members)? {
                continue; // The rest is for the next round.
            }
            let mut link = head;
            for index in &members {
                txn.set(link, index + 1)?;
                link = table.at.index((*index).into(), obj::STRIDE).plus(obj::NEXT);
            }
            txn.set(link, 0)?;
        }
        Ok::<_, Error>(Some("made anew from the objects"))
    })
}

/// Whether the chain from `head` has exactly these members, in any order.
fn is_chain<P: Platform>(
    txn: &Txn<'_, P>,
    kind: Kind,
    head: Offset,
    members: &[u32],
) -> Result<bool, Error> {
    let (mut link, mut left) = (head, members.to_vec());
    while let Some(index) = txn.get(link)?.checked_sub(1) {
        let Some(place) = left.iter().position(|m| *m == index) else { return Ok(false) };
        left.swap_remove(place);
        link = txn.region().object(kind, index)?.plus(obj::NEXT);
    }
    Ok(left.is_empty())
}

/// An object of which some content is wrong.
pub(super) fn object<P: Platform>(
    v: View<'_, P>,
    on: &mut Lane,
    f: &Finding,
    kind: Kind,
    index: u32,
) -> Mended {
    let at = v.r.object(kind, index)?;
    let set_to = |on: &mut Lane, place: Offset, value: u32, how| {
        v.r.transact(on, |txn| {
            txn.lock(at.plus(obj::LOCK))?;
            if !still(txn, f)? {
                return Ok::<_, Error>(None);
            }
            txn.set(place, value)?;
            Ok(Some(how))
        })
    };
    match (f.fault, f.fix) {
        (Fault::Attached, Fix::Value(n)) => {
            set_to(on, at.plus(seg::NATTCH), n, "counts what its tasks record")
        }
        (Fault::Attached, _) => {
            let life = v.cell(at.plus(obj::LIFE));
            shm::remove_object(v.r, on, &Object { index, at, life, peer: ANYONE }, None)?;
            Ok(Some("it is gone"))
        }
        (Fault::Object, _) if f.at == at.plus(obj::MODE) => {
            let doomed = v.cell(at.plus(obj::LIFE)) & 3 == obj::DOOMED && kind == Kind::Seg;
            let flags = if kind == Kind::Seg { flag::SHM_LOCKED } else { 0 };
            let mode = v.cell(f.at) & (0o777 | flags) | if doomed { flag::SHM_DEST } else { 0 };
            set_to(on, f.at, mode, "it has a mode")
        }
        (Fault::Object, _) if f.at == at.plus(obj::KEY) || f.at == at.plus(obj::NAME) => {
            set_to(on, f.at, 0, "it has none")
        }
        (Fault::Object, _) if f.at == at.plus(obj::TYPE) => v.r.transact(on, |txn| {
            txn.lock(at.plus(obj::LOCK))?;
            txn.set_word(f.at, 0)?;
            Ok::<_, Error>(Some("it has none"))
        }),
        (Fault::Set, _) if f.at == at.plus(set::DIRTY) => sleepers(v, on, kind, index),
        // Not a cell of the set: a semaphore's word.
        (Fault::Set, _) if f.at.0.wrapping_sub(at.0) >= obj::STRIDE => {
            let named = word::PENDING | u64::from(word::WHO) << word::WHO_SHIFT;
            swap(v, f, v.word(f.at) & !named, "nobody wrote it")
        }
        (Fault::Queue, _) if f.at == at.plus(queue::DIRTY) => sleepers(v, on, kind, index),
        (Fault::Queue, _) => messages(v, on, f, at),
        (Fault::Ring, _) => v.r.transact(on, |txn| {
            txn.lock(at.plus(obj::LOCK))?;
            if !still(txn, f)? {
                return Ok::<_, Error>(None);
            }
            txn.set(at.plus(queue::RING), 0)?;
            txn.set(at.plus(queue::HAD), 0)?;
            txn.set(at.plus(queue::DIRTY), 1)?;
            Ok(Some("it does without a ring; what was in that is lost"))
        }),
        (Fault::Object, _) if f.at == at.plus(obj::ONLY) && kind == Kind::Seg => {
            disown(v, on, f, index)
        }
        (Fault::Segment, Fix::Value(n)) => {
            set_to(on, f.at, n, "set to what it is in every segment")
        }
        (Fault::Segment, _) if f.at == at.plus(seg::PAGES) => measure(v, on, f, at),
        _ => discard(v, on, kind, index),
    }
}

/// A segment withdrawn to nobody knows whom: as if removed, it goes with those who have it attached.
fn disown<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, index: u32) -> Mended {
    let at = v.r.object(Kind::Seg, index)?;
    v.r.transact(on, |txn| {
        txn.lock(at.plus(obj::LOCK))?;
        if !still(txn, f)? {
            return Ok::<_, Error>(None);
        }
        let (life, mode) = (txn.get(at.plus(obj::LIFE))?, txn.get(at.plus(obj::MODE))?);
        txn.set(at.plus(obj::LIFE), life & !3 | obj::DOOMED)?;
        txn.set(at.plus(obj::MODE), mode | flag::SHM_DEST)?;
        txn.set(at.plus(obj::KEY), 0)?;
        txn.set(at.plus(obj::ONLY), 0)?;
        Ok(Some("removed: it goes with its last attachment"))
    })
}

/// A segment is as large as its pages.
fn measure<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, at: Offset) -> Mended {
    v.r.transact(on, |txn| {
        txn.lock(at.plus(obj::LOCK))?;
        if !still(txn, f)? {
            return Ok::<_, Error>(None);
        }
        let (list, pages) = (txn.get(at.plus(seg::EXTENTS))?, txn.get(at.plus(seg::PAGES))?);
        let list = v.r.block(list)?;
        let count = txn.get(list.plus(extents::COUNT))?.min(shm::most_extents(pages));
        let mut sum = 0u64;
        for i in 0..count {
            sum += u64::from(txn.get(shm::extent_at(list, i).plus(8))?);
        }
        if sum != u64::from(pages) {
            return Ok(None);
        }
        txn.set(at.plus(seg::SIZE_LO), (sum * PAGE) as u32)?;
        txn.set(at.plus(seg::SIZE_HI), ((sum * PAGE) >> 32) as u32)?;
        Ok(Some("it is as large as its pages"))
    })
}

/// Keeps a queue's messages up to the first broken one, and counts them.
fn messages<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding, at: Offset) -> Mended {
    let most = v.r.mem().len() / 64;
    v.r.transact(on, |txn| {
        txn.lock(at.plus(obj::LOCK))?;
        if !still(txn, f)? {
            return Ok::<_, Error>(None);
        }
        let (mut link, mut last) = (at.plus(queue::HEAD), 0);
        let (mut n, mut bytes) = (0u32, 0u32);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..most {
            let cell = txn.get(link)?;
            let whole = |block: &Offset| {
                let size = txn.get(block.plus(layout::msg::SIZE)).unwrap_or(u32::MAX);
                let class = msg::block_bytes(size).and_then(class_of);
                let high = txn.get(block.plus(layout::msg::TYPE_HI)).unwrap_or(u32::MAX);
                let low = txn.get(block.plus(layout::msg::TYPE_LO)).unwrap_or(0);
                class.is_some_and(|c| block.0 + (64 << c) <= v.r.mem().len())
                    && (i64::from(high) << 32 | i64::from(low)) > 0
                    && high >> 31 == 0
            };
            let block = v.r.block(cell).ok().filter(whole).filter(|_| seen.insert(cell));
            let Some(block) = block else { break };
            n = n.saturating_add(1);
            bytes = bytes.saturating_add(msg::text_bytes(txn.get(block.plus(layout::msg::SIZE))?));
            last = to_cell(block);
            link = block.plus(layout::msg::NEXT);
        }
        txn.set(link, 0)?;
        for (o, value) in
            [(queue::TAIL, last), (queue::QNUM, n), (queue::CBYTES, bytes), (queue::DIRTY, 1)]
        {
            txn.set(at.plus(o), value)?;
        }
        Ok(Some("it keeps its messages up to the first broken one, and counts those"))
    })
}

/// Lanes that say they sleep on the object (or in the bucket) of that index in a list of `kind`.
fn claims<P: Platform>(v: View<'_, P>, kind: u32, index: u32) -> Vec<LaneId> {
    (0..v.r.table(Table::Lanes).count as u32)
        .map(LaneId)
        .filter(|id| {
            let Ok(slot) = v.r.lane(*id) else { return false };
            v.cell(slot.plus(lane::STATUS)) == wait::WAITING
                && v.cell(slot.plus(lane::WAIT_KIND)) == kind
                && v.cell(slot.plus(lane::WAIT_OBJ)) == index
        })
        .collect()
}

/// Whether what the sleeper's lane says can be acted on.
fn is_sound<P: Platform>(v: View<'_, P>, at: Offset, kind: u32, index: u32, id: LaneId) -> bool {
    let Ok(slot) = v.r.lane(id) else { return false };
    let cell = |o: u64| v.cell(slot.plus(o));
    let its = cell(lane::WAIT_PEER);
    let only = v.cell(at.plus(obj::ONLY));
    let known = u64::from(its) < peer::COUNT
        && Identity(cell(lane::WAIT_WHO)).peer() == its
        && u64::from(cell(lane::WAIT_TASK)) < v.r.table(Table::Tasks).count
        && v.r.lane_owner(id).is_ok_and(|o| o.is_some())
        && (only == 0 || only == its + 1);
    let nsems = v.cell(at.plus(set::NSEMS));
    known
        && match kind {
            waits::SEM => {
                let n = cell(lane::WAIT_N);
                let op = |i: u32| sem::unpack(v.word(slot.plus(lane::OPS).index(i.into(), 8)));
                n > 0 && n as usize <= lane::MAX_OPS && (0..n).all(|i| u32::from(op(i).num) < nsems)
            }
            waits::SEND => {
                cell(lane::HELD_WHY) == held::SENDING
                    && cell(lane::HELD) == cell(lane::WAIT_BLOCK)
                    && cell(lane::HELD_FOR) == index
            }
            _ => true,
        }
}

/// Makes the object's lists of sleepers anew, and serves who can go.
pub(super) fn sleepers<P: Platform>(
    v: View<'_, P>,
    on: &mut Lane,
    kind: Kind,
    index: u32,
) -> Mended {
    let at = v.r.object(kind, index)?;
    let life = v.cell(at.plus(obj::LIFE));
    let lists: &[List] = match kind {
        Kind::Seg => return Ok(None),
        Kind::Set => &[sem::wait_list(at)],
        Kind::Queue => &[msg::receivers(at), msg::senders(at)],
    };
    v.r.transact(on, |txn| {
        txn.lock(at.plus(obj::LOCK))?;
        for list in lists {
            let mut left = claims(v, list.kind, index);
            // In their order, as far as it can be told.
            let (mut all, mut link) = (Vec::new(), list.head);
            while let Some(id) = txn.get(link)?.checked_sub(1).map(LaneId) {
                let Some(i) = left.iter().position(|l| *l == id) else { break };
                all.push(left.remove(i));
                link = v.r.lane(id)?.plus(lane::WAIT_NEXT);
            }
            all.extend(left);
            let mut before = 0;
            let (mut link, mut n) = (list.head, 0);
            for id in all {
                let slot = v.r.lane(id)?;
                if txn.room() < ROOM || !is_sound(v, at, list.kind, index, id) {
                    txn.set(slot.plus(lane::WAIT_KIND), waits::NONE)?;
                    txn.set_status(id, wait::FAILED + Errno::EIDRM as u32)?;
                    continue;
                }
                txn.set(link, id.0 + 1)?;
                txn.set(slot.plus(lane::WAIT_PREV), before)?;
                (before, link, n) = (id.0 + 1, slot.plus(lane::WAIT_NEXT), n + 1);
            }
            txn.set(link, 0)?;
            txn.set(list.tail, before)?;
            if kind == Kind::Set {
                txn.set(at.plus(set::WAITERS), n)?;
                txn.set(at.plus(set::MIXED), 1)?;
            }
        }
        txn.set(at.plus(if kind == Kind::Set { set::DIRTY } else { queue::DIRTY }), 1)?;
        Ok::<_, Error>(())
    })?;
    let object = Object { index, at, life, peer: ANYONE };
    let turns = &mut crate::waiters::rounds(v.r);
    match kind {
        Kind::Set => sem::settle(v.r, on, &object, turns)?,
        _ => msg::settle(v.r, on, &object, turns)?,
    }
    Ok(Some("its sleepers are queued anew, and those that can go do"))
}

/// Wakes whoever is parked in the bucket, or says so: each looks at its word again.
pub(super) fn bucket<P: Platform>(v: View<'_, P>, on: &mut Lane, index: u32) -> Mended {
    let (at, lock) = parking::bucket(v.r, index)?;
    v.r.transact(on, |txn| {
        txn.lock(lock)?;
        let mut left = false;
        for id in claims(v, waits::PARK, index) {
            left |= txn.room() < ROOM;
            if !left {
                txn.set(v.r.lane(id)?.plus(lane::WAIT_KIND), waits::NONE)?;
                txn.set_status(id, wait::DONE)?;
            }
        }
        txn.set(at.plus(park::HEAD), 0)?;
        txn.set(at.plus(park::TAIL), 0)?;
        Ok::<_, Error>(Some("its sleepers are woken"))
    })
}

/// Whether a task records the segment as attached.
fn is_attached<P: Platform>(v: View<'_, P>, index: u32, life: u32) -> bool {
    (0..v.r.table(Table::Tasks).count as u32).any(|i| {
        let Ok(slot) = v.r.element(Table::Tasks, i) else { return false };
        let (mut link, mut n) = (slot.plus(task::ATTACH), 0);
        while let Ok(block) = v.r.block(v.cell(link)) {
            n += 1;
            let same = v.cell(block.plus(attach::SEG)) == index
                && v.cell(block.plus(attach::LIFE)) == life >> 2;
            // A circle is mended before; until then nobody can know.
            if same || n > v.r.table(Table::Segs).count {
                return true;
            }
            link = block.plus(attach::NEXT);
        }
        false
    })
}

/// Ends an object whatever it holds. Its sleepers are told EIDRM; what it had is nobody's then.
pub(super) fn discard<P: Platform>(
    v: View<'_, P>,
    on: &mut Lane,
    kind: Kind,
    index: u32,
) -> Mended {
    let at = v.r.object(kind, index)?;
    let kinds: &[u32] = match kind {
        Kind::Seg => &[],
        Kind::Set => &[waits::SEM],
        Kind::Queue => &[waits::RECV, waits::SEND],
    };
    v.r.transact(on, |txn| {
        txn.lock(kind.dir().plus(dir::LOCK))?;
        txn.lock(at.plus(obj::LOCK))?;
        let life = txn.get(at.plus(obj::LIFE))?;
        if life & 3 == obj::FREE {
            return Ok::<_, Error>(None);
        }
        if kind == Kind::Seg && is_attached(v, index, life) {
            return Ok(None);
        }
        for id in kinds.iter().flat_map(|k| claims(v, *k, index)) {
            if txn.room() < ROOM {
                return Ok(Some("some of its sleepers are told EIDRM"));
            }
            txn.set(v.r.lane(id)?.plus(lane::WAIT_KIND), waits::NONE)?;
            txn.set_status(id, wait::FAILED + Errno::EIDRM as u32)?;
        }
        // The directory is made anew from what there is, in the next round.
        txn.set(at.plus(obj::KEY), 0)?;
        txn.set(at.plus(obj::LIFE), life & !3 | obj::FREE)?;
        Ok(Some("removed: its content cannot be known; sleepers are told EIDRM"))
    })
}
