//! Each kind of damage, once.
#![allow(missing_docs, dead_code, clippy::wildcard_imports)]

use super::full::Full;
use vshmem_core::arena::{Pool, class_of, pool_at, to_cell};
use vshmem_core::layout::*;
use vshmem_core::mem::{Mem, Ordering};
use vshmem_core::region::Kind;
use vshmem_core::{Lane, LaneId, Offset, wait};
use vshmem_sysv::check::Fault;

/// What is damaged, what a look must find, and how it is done.
pub type Damage = (&'static str, Fault, fn(&Full));

fn queue(f: &Full) -> Offset {
    f.at(Kind::Queue, f.wanted)
}

fn set(f: &Full) -> Offset {
    f.at(Kind::Set, f.set)
}

fn seg(f: &Full) -> Offset {
    f.at(Kind::Seg, f.seg)
}

fn sem_of(f: &Full, num: u64) -> Offset {
    f.block(set(f).plus(set::SEMS)).index(num + 1, sem::STRIDE)
}

fn extents_of(f: &Full) -> Offset {
    f.block(seg(f).plus(seg::EXTENTS))
}

fn message(f: &Full) -> Offset {
    f.block(queue(f).plus(queue::HEAD))
}

fn undo_of(f: &Full) -> Offset {
    f.block(f.task().plus(task::UNDO))
}

fn record_of(f: &Full) -> Offset {
    f.block(f.task().plus(task::ATTACH))
}

fn free_task(f: &Full) -> Offset {
    f.r.element(Table::Tasks, f.r.table(Table::Tasks).count as u32 - 1).unwrap()
}

fn free_lane(f: &Full) -> (Offset, Offset) {
    let id = f.r.table(Table::Lanes).count as u32 - 1;
    (f.r.element(Table::Owners, id).unwrap(), f.r.lane(LaneId(id)).unwrap())
}

fn list(pool: Pool, size: u64) -> Offset {
    pool_at(pool, class_of(size).unwrap())
}

/// A queue of three messages in a ring, and the ring; both in its list where `listed` says so.
fn ringed(f: &Full, listed: bool) -> (Offset, Offset) {
    let on = &mut Lane::new(f.mine.id());
    let id = vshmem_sysv::msg::get(&f.r, on, &f.me, 33, super::CREATE).unwrap();
    let at = f.at(Kind::Queue, id);
    f.put(at.plus(queue::HAD), 16);
    for _ in 0..3 {
        vshmem_sysv::msg::send(&f.r, on, &f.me, id, 1, b"in a ring", 0, None).unwrap();
    }
    assert_eq!(f.r.peek(at.plus(queue::HEAD)).unwrap(), 0);
    if listed {
        vshmem_sysv::msg::verify(&f.r, on, id as u32 & 0x7fff).unwrap();
        assert_ne!(f.r.peek(at.plus(queue::HEAD)).unwrap(), 0);
    }
    (at, f.block(at.plus(queue::RING)))
}

const RINGS: &[Damage] = &[
    ("ring outside", Fault::Ring, |f| f.put(ringed(f, false).0.plus(queue::RING), 3)),
    ("ring of another", Fault::Ring, |f| f.put(ringed(f, false).1.plus(ring::QUEUE), 77)),
    ("more messages than places", Fault::Ring, |f| {
        let at = ringed(f, false).1.plus(ring::SENT);
        f.word(at, f.mem.load(at, Ordering::Acquire).unwrap() + (100 << ring::COUNT_SHIFT));
    }),
    ("a place's block outside", Fault::Ring, |f| f.put(ringed(f, false).1.plus(ring::BLOCK), 4)),
    ("a place's block too large", Fault::Ring, |f| {
        let at = ringed(f, false).1.plus(ring::BLOCK);
        f.put(at, f.r.peek(at).unwrap() | 3);
    }),
    ("open beside older messages", Fault::Ring, |f| {
        let at = ringed(f, true).1.plus(ring::SENT);
        f.word(at, f.mem.load(at, Ordering::Acquire).unwrap() & !ring::CLOSED);
    }),
];

const SUPERBLOCK: &[Damage] = &[
    ("magic", Fault::Superblock, |f| f.word(Offset(sb::MAGIC), 0)),
    ("table", Fault::Superblock, |f| f.word(Offset(sb::TABLES + 24 * 5), 4096)),
    ("number", Fault::Superblock, |f| f.word(Offset(sb::NUMBER), 3)),
    ("limit", Fault::Limit, |f| f.word(Offset(sb::LIMITS + 8 * Limit::Semopm as u64), 501)),
    ("a lock of no lane", Fault::Lock, |f| f.word(set(f).plus(obj::LOCK), 1 << 15 | 0x7fff)),
    ("a lock of a step to come", Fault::Lock, |f| {
        f.word(free_task(f).plus(task::LOCK), 1 << 40 | 1)
    }),
];

const DIRECTORY: &[Damage] = &[
    ("objects counted", Fault::Directory, |f| f.add(Kind::Set.dir().plus(dir::IN_USE), 1)),
    ("semaphores counted", Fault::Directory, |f| f.add(Kind::Set.dir().plus(dir::TOTAL), -1)),
    ("pages counted", Fault::Directory, |f| f.add(Kind::Seg.dir().plus(dir::TOTAL), 1)),
    ("last index", Fault::Directory, |f| f.put(Kind::Seg.dir().plus(dir::LAST), 1 << 20)),
    ("index unmarked", Fault::Index, |f| f.put(f.r.table(Table::SetUsed).at, 0)),
    ("index marked", Fault::Index, |f| f.add(f.r.table(Table::QueueUsed).at, 1 << 20)),
    ("key chain emptied", Fault::Key, |f| {
        let keys = f.r.table(Table::SetKeys);
        (0..keys.count).for_each(|i| f.put(keys.at.index(i, 8), 0));
    }),
    ("key chain to nowhere", Fault::Key, |f| f.put(f.r.table(Table::SegKeys).at, 1 << 20)),
    ("key chain a circle", Fault::Key, |f| {
        f.put(set(f).plus(obj::NEXT), f.set as u32 & 0x7fff | 1)
    }),
    ("another key", Fault::Key, |f| f.put(set(f).plus(obj::KEY), 2)),
    ("one key twice", Fault::Key, |f| f.put(f.at(Kind::Queue, f.full).plus(obj::KEY), 1)),
    ("state", Fault::Object, |f| f.put(queue(f).plus(obj::LIFE), 3)),
    ("mode", Fault::Object, |f| f.put(set(f).plus(obj::MODE), 0o4600)),
    ("withdrawn to whom", Fault::Object, |f| f.put(seg(f).plus(obj::ONLY), 65)),
    ("withdrawn with a key", Fault::Object, |f| f.put(seg(f).plus(obj::ONLY), 1)),
    ("type", Fault::Object, |f| f.word(seg(f).plus(obj::TYPE), 1)),
    ("name", Fault::Object, |f| f.put(seg(f).plus(obj::NAME), 1)),
];

const OBJECTS: &[Damage] = &[
    ("size", Fault::Segment, |f| f.put(seg(f).plus(seg::SIZE_LO), 90_000)),
    ("extents outside", Fault::Segment, |f| f.put(seg(f).plus(seg::EXTENTS), u32::MAX)),
    ("too many extents", Fault::Segment, |f| f.put(extents_of(f).plus(extents::COUNT), 1000)),
    ("pages outside", Fault::Segment, |f| f.put(extents_of(f).plus(extents::FIRST), 1 << 30)),
    ("references", Fault::Segment, |f| f.put(extents_of(f).plus(extents::FIRST + 16), 2)),
    ("nattch", Fault::Attached, |f| f.add(seg(f).plus(seg::NATTCH), 1)),
    ("removed and not attached", Fault::Attached, |f| {
        f.put(f.at(Kind::Seg, f.doomed).plus(seg::NATTCH), 0);
    }),
    ("no semaphores", Fault::Set, |f| f.put(set(f).plus(set::NSEMS), 0)),
    ("semaphores outside", Fault::Set, |f| f.put(set(f).plus(set::SEMS), 1)),
    ("semaphore of no lane", Fault::Set, |f| f.word(sem_of(f, 1), sem::PENDING | 0x7fff << 16)),
    ("set dirty", Fault::Set, |f| f.put(set(f).plus(set::DIRTY), 2)),
    ("qnum", Fault::Queue, |f| f.add(queue(f).plus(queue::QNUM), 1)),
    ("cbytes", Fault::Queue, |f| f.add(queue(f).plus(queue::CBYTES), -1)),
    ("tail", Fault::Queue, |f| f.put(queue(f).plus(queue::TAIL), 77)),
    ("messages in a circle", Fault::Queue, |f| {
        f.put(message(f).plus(msg::NEXT), to_cell(message(f)));
    }),
    ("message outside", Fault::Queue, |f| f.put(message(f).plus(msg::NEXT), 3)),
    ("message too long", Fault::Queue, |f| f.put(message(f).plus(msg::SIZE), 1 << 30)),
    ("message type", Fault::Queue, |f| f.put(message(f).plus(msg::TYPE_LO), 0)),
];

const SLEEPERS: &[Damage] = &[
    ("sleepers counted", Fault::Waiters, |f| f.put(set(f).plus(set::WAITERS), 2)),
    ("sleeper of nobody", Fault::Waiters, |f| {
        f.put(queue(f).plus(queue::RECV_HEAD), f.r.table(Table::Lanes).count as u32);
    }),
    ("sleeper that does not exist", Fault::Waiters, |f| f.put(set(f).plus(set::HEAD), 1 << 20)),
    ("sleepers in a circle", Fault::Waiters, |f| {
        f.put(f.slot(0).plus(lane::WAIT_NEXT), f.sleepers[0].1.0 + 1);
    }),
    ("previous sleeper", Fault::Waiters, |f| f.put(f.slot(2).plus(lane::WAIT_PREV), 1)),
    ("last sleeper", Fault::Waiters, |f| f.put(set(f).plus(set::TAIL), 0)),
    ("sleeper's peer", Fault::Waiters, |f| f.put(f.slot(1).plus(lane::WAIT_PEER), 77)),
    ("sleeper's operations", Fault::Waiters, |f| f.put(f.slot(0).plus(lane::WAIT_N), 501)),
    ("sleeper's semaphore", Fault::Waiters, |f| f.word(f.slot(0).plus(lane::OPS), 9)),
    ("sleeper's message", Fault::Waiters, |f| f.add(f.slot(2).plus(lane::WAIT_BLOCK), 1)),
    ("parked sleepers", Fault::Waiters, |f| {
        let bucket = f.r.peek(f.slot(3).plus(lane::WAIT_OBJ)).unwrap();
        f.put(f.r.element(Table::Parking, bucket).unwrap().plus(park::TAIL), 0);
    }),
    ("parked for another place", Fault::Waiters, |f| f.add(f.slot(3).plus(lane::WAIT_PLACE), 64)),
    ("can go and sleeps", Fault::Overlooked, |f| {
        f.word(sem_of(f, 0), sem::FROZEN | 1);
    }),
    ("can be passed unseen", Fault::Overlooked, |f| f.word(sem_of(f, 0), 0)),
    ("its message is there", Fault::Overlooked, |f| f.put(f.slot(1).plus(lane::WAIT_TYPE), 1)),
    ("its room is there", Fault::Overlooked, |f| {
        f.put(f.at(Kind::Queue, f.full).plus(queue::QBYTES), 1 << 20);
    }),
    ("waits where nobody looks", Fault::Waiting, |f| {
        f.put(set(f).plus(set::HEAD), 0);
        f.put(set(f).plus(set::TAIL), 0);
        f.put(set(f).plus(set::WAITERS), 0);
    }),
    ("waits for nothing", Fault::Waiting, |f| {
        f.put(free_lane(f).1.plus(lane::STATUS), wait::WAITING)
    }),
];

const PEOPLE: &[Damage] = &[
    ("whose undo record", Fault::Undo, |f| f.put(undo_of(f).plus(undo::TASK), 99)),
    ("undo record of what set", Fault::Undo, |f| f.put(undo_of(f).plus(undo::SET), 1 << 20)),
    ("undo records in a circle", Fault::Undo, |f| {
        f.put(undo_of(f).plus(undo::TASK_NEXT), to_cell(undo_of(f)));
    }),
    ("undo record's length", Fault::Undo, |f| f.put(undo_of(f).plus(undo::NSEMS), 3)),
    ("undo record outside", Fault::Undo, |f| f.put(f.task().plus(task::UNDO), 9)),
    ("sleeper's undo record", Fault::Undo, |f| f.add(f.slot(0).plus(lane::WAIT_BLOCK), 4)),
    ("attached no times", Fault::Record, |f| f.put(record_of(f).plus(attach::COUNT), 0)),
    ("attached what is gone", Fault::Record, |f| f.add(record_of(f).plus(attach::LIFE), 1)),
    ("attachments in a circle", Fault::Record, |f| {
        f.put(record_of(f).plus(attach::NEXT), to_cell(record_of(f)));
    }),
    ("task's state", Fault::Task, |f| f.word(free_task(f).plus(task::STATE), 9)),
    ("task's peer", Fault::Task, |f| f.put(f.task().plus(task::PEER), 40)),
    ("task's keeper", Fault::Task, |f| f.word(f.task().plus(task::KEEPER), 0x8001)),
    ("free slot with records", Fault::Task, |f| f.put(free_task(f).plus(task::UNDO), 1)),
    ("dying task", Fault::Unreaped, |f| {
        f.r.set_task_state(f.me.task, task::DYING).unwrap();
    }),
    ("dead peer", Fault::Unreaped, |f| {
        let at = f.r.element(Table::Peers, 5).unwrap();
        f.put(at.plus(peer::STATE), peer::DEAD);
    }),
    ("peer's state", Fault::Peer, |f| f.put(f.r.element(Table::Peers, 5).unwrap(), 7)),
    ("no host", Fault::Peer, |f| f.put(f.r.table(Table::Peers).at, peer::EMPTY)),
    ("peer's name", Fault::Peer, |f| {
        f.word(f.r.table(Table::Peers).at.plus(peer::NAME), u64::MAX);
    }),
    ("lane of a task that is gone", Fault::Lane, |f| f.word(free_lane(f).0, 5 << 16 | 1)),
    ("lane of an endpoint that is gone", Fault::Lane, |f| f.word(free_lane(f).0, 9 << 16 | 0x8003)),
    ("lane of nobody", Fault::Lane, |f| f.word(free_lane(f).0, 9 << 16)),
    ("lane's status", Fault::Lane, |f| f.put(f.slot(0).plus(lane::STATUS), 77)),
    ("nobody's lane keeps a block", Fault::Lane, |f| {
        let mine = f.r.lane(f.mine.id()).unwrap().plus(lane::SPARE);
        f.put(free_lane(f).1.plus(lane::SPARE), f.r.peek(mine).unwrap());
        f.put(mine, 0);
    }),
    ("journal too long", Fault::Journal, |f| {
        let slot = free_lane(f).1;
        f.word(slot.plus(lane::ENTRIES), 5000);
        f.word(slot.plus(lane::JOURNAL), 3 << 2 | 2);
    }),
    ("nobody's journal", Fault::Journal, |f| {
        f.word(free_lane(f).1.plus(lane::JOURNAL), 3 << 2 | 1)
    }),
    ("held why", Fault::Held, |f| f.put(f.slot(0).plus(lane::HELD_WHY), 9)),
    ("spare outside", Fault::Held, |f| f.put(f.slot(0).plus(lane::SPARE), 9)),
    ("held of what queue", Fault::Held, |f| {
        f.put(f.slot(2).plus(lane::HELD_WHY), held::RECEIVED);
        f.put(f.slot(2).plus(lane::HELD_FOR), 1 << 20);
    }),
];

const MEMORY: &[Damage] = &[
    ("free list to nowhere", Fault::Arena, |f| f.put(list(Pool::Undo, 64), 5)),
    ("free list a circle", Fault::Arena, |f| {
        let at = list(Pool::Msgs, 64);
        let carve = f.block(at.plus(8));
        f.put(at.plus(8), to_cell(carve) + 1);
        f.put(at, to_cell(carve));
        f.put(carve, to_cell(carve));
    }),
    ("carved backwards", Fault::Arena, |f| f.add(list(Pool::Msgs, 64).plus(16), -2000)),
    ("page count", Fault::Pages, |f| f.add(Offset(sb::ARENA + arena::PAGES), 1)),
    ("pages of tables", Fault::Pages, |f| f.put(f.r.table(Table::PageUsed).at, 1)),
    ("pages of tables dirty", Fault::Pages, |f| f.put(f.r.table(Table::PageDirty).at, 1)),
    ("two segments in one place", Fault::Shared, |f| {
        let other = f.block(f.at(Kind::Seg, f.doomed).plus(seg::EXTENTS));
        let first = f.r.peek(other.plus(extents::FIRST)).unwrap();
        f.put(extents_of(f).plus(extents::FIRST), first);
    }),
    ("a message that is free", Fault::Shared, |f| {
        let at = list(Pool::Msgs, 140);
        f.put(at, to_cell(message(f)));
        f.put(message(f), 0);
    }),
    ("a page marked free", Fault::Unmarked, |f| {
        let page = f.r.peek(extents_of(f).plus(extents::FIRST)).unwrap();
        let at = f.r.table(Table::PageUsed).at.index(u64::from(page / 32), 8);
        let bits = f.r.peek(at).unwrap();
        f.put(at, bits & !(1 << (page % 32)));
    }),
    ("a page of nobody", Fault::Leaked, |f| {
        let page = f.r.mem().len() / PAGE - 2;
        let at = f.r.table(Table::PageUsed).at.index(page / 32, 8);
        f.put(at, f.r.peek(at).unwrap() | 1 << (page % 32));
        f.add(Offset(sb::ARENA + arena::PAGES), 1);
    }),
    ("a message of nobody", Fault::Leaked, |f| {
        let at = queue(f);
        for o in [queue::HEAD, queue::TAIL, queue::QNUM, queue::CBYTES] {
            f.put(at.plus(o), 0);
        }
    }),
    ("a spare of nobody", Fault::Leaked, |f| {
        f.put(f.r.lane(f.mine.id()).unwrap().plus(lane::SPARE), 0)
    }),
    ("a segment of nobody", Fault::Leaked, |f| f.put(seg(f).plus(obj::LIFE), 0)),
];

pub const ALL: [&[Damage]; 7] = [SUPERBLOCK, DIRECTORY, OBJECTS, RINGS, SLEEPERS, PEOPLE, MEMORY];
