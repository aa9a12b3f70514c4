//! What a look shows of who waits, holds, and is in the middle of something.
#![allow(missing_docs)]

mod common;
use common::pause::pausing;
use common::{CREATE, endpoint, heap, region, task};
use std::sync::{Arc, Mutex};
use vshmem_core::Lane;
use vshmem_core::region::Kind;
use vshmem_core::task::Owner;
use vshmem_sysv::look::{self, Awaited, Guarded, Stage};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{msg, sem};

const UNDO: i16 = 0x1000;

fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

#[test]
fn sleepers_promises_and_changes_are_seen() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let (d, mut other) = task(&r, &mut on, 11);
    let set = sem::get(&r, &mut mine, &c, 1, 3, CREATE).unwrap();
    let queue = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    sem::setall(&r, &mut mine, &c, set, &[5, 5, 0]).unwrap();
    sem::op(&r, &mut mine, &c, set, &[op(1, -2, UNDO), op(0, 1, UNDO)], None).unwrap();
    let promised = look::promised(&r, c.task).unwrap();
    let told: Vec<_> = promised.iter().map(|p| (p.id, p.num, p.adjustment)).collect();
    assert_eq!(told, [(set, 0, -1), (set, 1, 2)]);
    assert_eq!(look::promised(&r, d.task).unwrap(), []);
    // SETVAL takes a promise back.
    sem::setval(&r, &mut mine, &c, set, 1, 7).unwrap();
    assert_eq!(look::promised(&r, c.task).unwrap().len(), 1);

    let count = |kind| {
        let all = look::changes(&r).unwrap();
        all.iter().find(|c| c.kind == kind).unwrap().count
    };
    let (sets, queues) = (count(Kind::Set), count(Kind::Queue));
    for _ in 0..10 {
        sem::op_fast(&r, &c, set, op(0, 1, 0)).unwrap().unwrap();
    }
    msg::send(&r, &mut mine, &c, queue, 1, b"x", 0, None).unwrap();
    assert_eq!(count(Kind::Set) - sets, 10);
    assert_eq!(count(Kind::Queue) - queues, 1);

    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| sem::op(&r, &mut other, &d, set, &[op(2, -3, 0)], None));
        let its = || {
            let lanes = look::lanes(&r).unwrap();
            lanes.iter().find(|l| l.owner == Owner::Task(d.task)).unwrap().awaited
        };
        while its().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(its(), Some(Awaited::Set { id: set, num: 2, op: -3 }));
        sem::setval(&r, &mut mine, &c, set, 2, 3).unwrap();
        waiter.join().unwrap().unwrap();
        assert_eq!(its(), None);
    });
}

#[test]
fn who_is_stopped_with_a_lock_is_seen_with_it() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 2, CREATE).unwrap();
    sem::setall(&r, &mut mine, &c, set, &[5, 5]).unwrap();
    let mut seen = [false; 2];
    for n in 0.. {
        let slow = pausing(&mem);
        let found = Arc::new(Mutex::new(None));
        let (to, inner, me) = (found.clone(), mem.clone(), mine.id());
        slow.mem().stop_at(n, move || {
            let r = region(&inner);
            let lane = look::lanes(&r).unwrap().into_iter().find(|l| l.id == me).unwrap();
            let its = |l: &look::Lock| l.lane == me && l.sequence == lane.sequence;
            let locks: Vec<_> = look::locks(&r).unwrap().into_iter().filter(its).collect();
            *to.lock().unwrap() = Some((lane.stage, locks));
        });
        sem::op(&slow, &mut mine, &c, set, &[op(0, -1, 0), op(1, 1, 0)], None).unwrap();
        sem::op(&r, &mut mine, &c, set, &[op(0, 1, 0), op(1, -1, 0)], None).unwrap();
        if slow.mem().pending() {
            break;
        }
        let (stage, locks) = found.lock().unwrap().take().unwrap();
        let guarded: Vec<_> = locks.iter().map(|l| l.guards).collect();
        if guarded.is_empty() {
            continue;
        }
        assert_eq!(guarded, [Guarded::Object(Kind::Set, set)]);
        match stage {
            Stage::Over => panic!("at rest, and with a lock"),
            Stage::Active => seen[0] = true,
            Stage::Committed => seen[1] = true,
        }
    }
    assert_eq!(seen, [true; 2]);
    let _: Lane = mine;
}
