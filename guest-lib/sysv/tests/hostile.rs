//! Hostile contents: an error that says where, never a panic or an endless loop.
#![allow(missing_docs, unused_imports, clippy::wildcard_imports)]

mod common;
use common::{CREATE, caller, endpoint, heap, region, task};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_core::layout::*;
use vshmem_core::mem::{HeapMem, Mem, Ordering, Park, Woken};
use vshmem_core::region::Kind;
use vshmem_core::task::Owner;
use vshmem_core::{Corrupt, Lane, LaneId, Offset, Region};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Errno, Error, msg, reap, sem, shm};

const UNDO: i16 = 0x1000;
const NOWAIT: i32 = 0o4000;

fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

fn within(s: u64, f: impl FnOnce() + Send + 'static) -> bool {
    let t = std::thread::spawn(f);
    for _ in 0..s * 100 {
        if t.is_finished() {
            t.join().unwrap();
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}

/// lock word of a committed journal that does not list it.
#[test]
fn a_lock_no_journal_lists_is_reported() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
    let at = r.object(Kind::Set, set as u32 & 0x7fff).unwrap();
    let l = r.lane(LaneId(15)).unwrap();
    mem.store(l.plus(lane::JOURNAL), 5 << 2 | 2, Ordering::Release).unwrap();
    mem.store(at.plus(obj::LOCK), 5 << 15 | 16, Ordering::Release).unwrap();
    assert!(
        within(60, move || {
            println!("{:?}", sem::stat(&r, &mut mine, &c, set));
        }),
        "endless"
    );
}

/// undo records in a circle.
#[test]
fn a_circle_of_undo_records_is_reported() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
    sem::op(&r, &mut mine, &c, set, &[op(0, 1, UNDO)], None).unwrap();
    let slot = r.element(Table::Tasks, c.task.index).unwrap();
    let head = r.peek(slot.plus(task::UNDO)).unwrap();
    r.init(r.block(head).unwrap().plus(undo::TASK_NEXT), head).unwrap();
    assert!(
        within(60, move || {
            println!("{:?}", reap::task(&r, &mut on, c.task));
        }),
        "endless"
    );
}

/// a chain of messages in a circle, held by a dead lane.
#[test]
fn a_circle_of_messages_is_reported() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let q = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    msg::send(&r, &mut mine, &c, q, 1, b"x", 0, None).unwrap();
    let at = r.object(Kind::Queue, q as u32 & 0x7fff).unwrap();
    let head = r.peek(at.plus(queue::HEAD)).unwrap();
    r.init(r.block(head).unwrap().plus(vshmem_core::layout::msg::NEXT), head).unwrap();
    assert!(
        within(60, move || {
            println!("{:?}", vshmem_sysv::msg::remove(&r, &mut mine, &c, q));
        }),
        "endless"
    );
}

/// undo record with 2^32-1 semaphores; R6e: QNUM 2^32-1 and a circle.
#[test]
fn an_undo_record_larger_than_the_memory_is_reported() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
    sem::op(&r, &mut mine, &c, set, &[op(0, 1, UNDO)], None).unwrap();
    let slot = r.element(Table::Tasks, c.task.index).unwrap();
    let head = r.peek(slot.plus(task::UNDO)).unwrap();
    r.init(r.block(head).unwrap().plus(undo::NSEMS), u32::MAX).unwrap();
    assert!(
        within(60, move || {
            println!("{:?}", reap::task(&r, &mut on, c.task));
        }),
        "endless"
    );
}

#[test]
fn a_queue_that_counts_too_much_is_reported() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let q = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    msg::send(&r, &mut mine, &c, q, 1, b"x", 0, None).unwrap();
    let at = r.object(Kind::Queue, q as u32 & 0x7fff).unwrap();
    let head = r.peek(at.plus(queue::HEAD)).unwrap();
    r.init(r.block(head).unwrap().plus(vshmem_core::layout::msg::NEXT), head).unwrap();
    r.init(at.plus(queue::QNUM), u32::MAX).unwrap();
    assert!(
        within(60, move || {
            println!(
                "{:?}",
                vshmem_sysv::msg::recv(&r, &mut mine, &c, q, &mut [0; 4], 99, NOWAIT, None)
            );
        }),
        "endless"
    );
}

/// arithmetic on hostile cells.
#[test]
fn extreme_numbers_do_not_panic() {
    let mut bad = Vec::new();
    let mut case = |name: &str, f: &dyn Fn()| {
        if catch_unwind(AssertUnwindSafe(f)).is_err() {
            bad.push(name.to_owned());
        }
    };
    let setup = || {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
        sem::op(&r, &mut mine, &c, set, &[op(0, 1, UNDO)], None).unwrap();
        let slot = r.element(Table::Tasks, c.task.index).unwrap();
        let head = r.block(r.peek(slot.plus(task::UNDO)).unwrap()).unwrap();
        let q = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
        msg::send(&r, &mut mine, &c, q, 1, b"x", 0, None).unwrap();
        let seg = shm::get(&r, &mut mine, &c, 1, 4096, CREATE).unwrap();
        (r, on, c, mine, set, head, q, seg)
    };
    case("undo adjustment i32::MIN, semop", &|| {
        let (r, _, c, mut mine, set, head, ..) = setup();
        r.init(head.plus(undo::FIRST), i32::MIN as u32).unwrap();
        let _ = sem::op(&r, &mut mine, &c, set, &[op(0, 1, UNDO)], None);
    });
    case("undo adjustment i32::MAX, reaper", &|| {
        let (r, mut on, c, _, _, head, ..) = setup();
        r.init(head.plus(undo::FIRST), i32::MAX as u32).unwrap();
        let _ = reap::task(&r, &mut on, c.task);
    });
    case("waiters u32::MAX", &|| {
        let (r, _, c, mut mine, set, ..) = setup();
        let at = r.object(Kind::Set, set as u32 & 0x7fff).unwrap();
        r.init(at.plus(set::WAITERS), u32::MAX).unwrap();
        let _ = sem::op(&r, &mut mine, &c, set, &[op(0, -9, 0)], Some(r.mem().now() + 10_000_000));
    });
    case("nattch u32::MAX", &|| {
        let (r, _, c, mut mine, _, _, _, seg) = setup();
        let at = r.object(Kind::Seg, seg as u32 & 0x7fff).unwrap();
        r.init(at.plus(seg::NATTCH), u32::MAX).unwrap();
        let _ = shm::attach(&r, &mut mine, &c, seg, 6);
    });
    case("attach record count u32::MAX", &|| {
        let (r, _, c, mut mine, _, _, _, seg) = setup();
        shm::attach(&r, &mut mine, &c, seg, 6).unwrap();
        let slot = r.element(Table::Tasks, c.task.index).unwrap();
        let at = r.block(r.peek(slot.plus(task::ATTACH)).unwrap()).unwrap();
        r.init(at.plus(attach::COUNT), u32::MAX).unwrap();
        let _ = shm::attach(&r, &mut mine, &c, seg, 6);
    });
    case("MSG_COPY of message i64::MIN (caller's argument)", &|| {
        let (r, _, c, mut mine, _, _, q, _) = setup();
        let _ = vshmem_sysv::msg::recv(
            &r,
            &mut mine,
            &c,
            q,
            &mut [0; 9],
            i64::MIN,
            NOWAIT | 0o40_000,
            None,
        );
    });
    case("waiting receiver of type i64::MIN", &|| {
        let (r, mut on, c, mut mine, _, _, q, _) = setup();
        vshmem_sysv::msg::recv(&r, &mut mine, &c, q, &mut [0; 9], 0, NOWAIT, None).unwrap();
        let (_, l) = task(&r, &mut on, 50);
        let s = r.lane(l.id()).unwrap();
        r.init(s.plus(lane::WAIT_KIND), waits::RECV).unwrap();
        r.init(s.plus(lane::WAIT_TYPE + 8), 0x8000_0000).unwrap();
        let at = r.object(Kind::Queue, q as u32 & 0x7fff).unwrap();
        r.init(at.plus(queue::RECV_HEAD), l.id().0 + 1).unwrap();
        let _ = vshmem_sysv::msg::send(&r, &mut mine, &c, q, 1, b"x", 0, None);
    });
    assert!(bad.is_empty(), "panics: {bad:#?}");
}
