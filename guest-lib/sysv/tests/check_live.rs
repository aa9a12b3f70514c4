//! The checker beside work in progress: what it reports is so.
#![allow(missing_docs)]

mod common;
use common::still::Still;
use common::{CREATE, endpoint, heap, region, task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vshmem_core::layout::queue;
use vshmem_core::mem::{Died, HeapMem, Park};
use vshmem_core::region::Kind;
use vshmem_core::{Lane, Region};
use vshmem_sysv::check::{self, Fault};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, msg, reap, sem, shm};

const NOWAIT: i32 = 0o4000;

fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

/// Everything that moves memory, lists and counts, again and again.
fn work(r: &Region<HeapMem>, on: &mut Lane, c: &Caller, i: u64, set: i32, queue: i32) {
    let soon = || Some(r.mem().now() + 200_000);
    let _ = sem::op(r, on, c, set, &[op(0, 1, 0x1000), op(1, -1, 0)], soon());
    let _ = sem::op(r, on, c, set, &[op(0, -1, 0x1000), op(1, 1, 0)], soon());
    let _ = sem::op_fast(r, c, set, op(1, 1, 0));
    let _ = msg::send(r, on, c, queue, 1 + i as i64 % 3, &[7; 60], NOWAIT, None);
    let _ = msg::recv(r, on, c, queue, &mut [0; 60], i as i64 % 3, 0, soon());
    let key = 100 + (i % 7) as i32;
    let (other, seg) = (sem::get(r, on, c, key, 3, CREATE), shm::get(r, on, c, key, 9000, CREATE));
    if let Ok(seg) = seg
        && let Ok(a) = shm::attach(r, on, c, seg, 6)
    {
        let _ = shm::remove(r, on, c, seg);
        let _ = shm::detach(r, on, c, a.seg, a.life);
    }
    if let Ok(other) = other {
        let _ = sem::op(r, on, c, other, &[op(2, 1, 0x1000)], None);
        let _ = sem::remove(r, on, c, other);
    }
    if let Ok(q) = msg::get(r, on, c, key, CREATE) {
        let _ = msg::send(r, on, c, q, 1, &[1; 300], NOWAIT, None);
        let _ = msg::remove(r, on, c, q);
    }
}

/// Dead in its sleep, served all the same: the lane goes back as it was.
#[test]
fn an_outcome_that_its_sleeper_did_not_live_to_take_leaves_with_it() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let (d, mut other) = task(&r, &mut on, 11);
    let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
    let gone: fn() = || std::panic::panic_any(Died);
    let asleep = Region::open(Still(mem.clone(), gone)).unwrap();
    let died = catch_unwind(AssertUnwindSafe(|| {
        sem::op(&asleep, &mut other, &d, set, &[op(0, -1, 0)], None)
    }));
    assert!(died.is_err());
    sem::op(&r, &mut mine, &c, set, &[op(0, 1, 0)], None).unwrap();
    reap::task(&r, &mut on, d.task).unwrap();
    assert_eq!(check::look(&r, &mut on).unwrap(), []);
}

#[test]
fn under_load_it_reports_what_is_broken_and_nothing_else() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 2, CREATE).unwrap();
    sem::setall(&r, &mut mine, &c, set, &[1, 1]).unwrap();
    let busy = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    let still = msg::get(&r, &mut mine, &c, 2, CREATE).unwrap();
    msg::send(&r, &mut mine, &c, still, 1, b"x", 0, None).unwrap();
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for i in 0..3 {
            let (c, mut lane) = task(&r, &mut on, 20 + i);
            let (r, stop, rounds) = (region(&mem), &stop, &rounds);
            scope.spawn(move || {
                for i in u64::from(i).. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    work(&r, &mut lane, &c, i, set, busy);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let pause = || std::thread::sleep(Duration::from_millis(2));
        let begun = Instant::now();
        let (mut looks, mut seen) = (0, 0);
        while begun.elapsed() < Duration::from_secs(2) || looks < 20 {
            let first = check::look(&r, &mut on).unwrap();
            seen += first.len();
            let found = check::check(&r, &mut on, pause).unwrap();
            if !found.is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
            assert!(found.is_empty(), "{found:#?}");
            looks += 1;
        }
        let at = r.object(Kind::Queue, still as u32 & 0x7fff).unwrap().plus(queue::QNUM);
        r.init(at, 2).unwrap();
        let found = check::check(&r, &mut on, pause).unwrap();
        stop.store(true, Ordering::Relaxed);
        println!("{looks} checks, {seen} mixtures seen by single looks, {rounds:?} rounds");
        assert_eq!(found.iter().map(|f| f.fault).collect::<Vec<_>>(), [Fault::Queue], "{found:#?}");
        r.init(at, 1).unwrap();
    });
    // Quiet: one look is exact.
    let found = check::look(&r, &mut on).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}
