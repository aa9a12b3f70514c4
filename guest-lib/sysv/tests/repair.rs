//! Repair: what was damaged is whole again, whatever dies meanwhile, and programs go on.
#![allow(missing_docs)]

mod common;
use common::damage::ALL;
use common::full::{Full, full_in};
use common::{CREATE, small, task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_core::layout::lane;
use vshmem_core::mem::{CrashMem, Died};
use vshmem_core::{Lane, Region, wait};
use vshmem_sysv::check;
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{msg, sem, shm};

/// What cannot be mended while a program has the segment mapped.
const STAYS: &[&str] =
    &["extents outside", "too many extents", "pages outside", "two segments in one place"];

/// New objects can be made, used and removed.
fn others_go_on(f: &mut Full) {
    let (c, mut lane) = task(&f.r, &mut f.on, 90);
    let (r, on) = (&f.r, &mut lane);
    let set = sem::get(r, on, &c, 70, 3, CREATE).unwrap();
    sem::op(r, on, &c, set, &[SemBuf { num: 1, op: 1, flg: 0x1000 }], None).unwrap();
    let queue = msg::get(r, on, &c, 70, CREATE).unwrap();
    msg::send(r, on, &c, queue, 2, &[5; 100], 0o4000, None).unwrap();
    msg::recv(r, on, &c, queue, &mut [0; 100], 2, 0o4000, None).unwrap();
    let seg = shm::get(r, on, &c, 70, 9000, CREATE).unwrap();
    shm::attach(r, on, &c, seg, 6).unwrap();
    sem::remove(r, on, &c, set).unwrap();
    msg::remove(r, on, &c, queue).unwrap();
    shm::remove(r, on, &c, seg).unwrap();
    vshmem_sysv::reap::task(r, &mut f.on, c.task).unwrap();
}

#[test]
fn each_damage_is_mended_and_programs_go_on() {
    let mut wrong = Vec::new();
    for (name, _, damage) in ALL.into_iter().flatten() {
        let mut f = full_in(small());
        damage(&f);
        let repair = check::repair(&f.r, &mut f.on, 1, || ()).unwrap();
        let mut left = repair.left;
        if STAYS.contains(name) {
            assert!(!left.is_empty(), "{name} may be mended beside who uses it");
            assert!(left.iter().all(|f| !check::remedy(f).is_empty()));
            // The remedy: its users end.
            let _ = vshmem_sysv::reap::task(&f.r, &mut f.on, f.me.task);
            left = check::repair(&f.r, &mut f.on, 1, || ()).unwrap().left;
        }
        if !left.is_empty() || repair.done.is_empty() && !STAYS.contains(name) {
            let left: Vec<_> = left.iter().map(|f| format!("{:?} {f}", f.fault)).collect();
            wrong.push(format!("{name}: left {left:#?} done {:#?}", repair.done));
            continue;
        }
        others_go_on(&mut f);
        let found = check::look(&f.r, &mut f.on).unwrap();
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_repair_that_dies_anywhere_is_continued_by_the_next() {
    let mut deaths = 0;
    let mut seen = std::collections::HashSet::new();
    for (name, fault, damage) in ALL.into_iter().flatten().filter(|d| !STAYS.contains(&d.0)) {
        // Every store for each kind of finding, some for all that lead to it.
        let step = if seen.insert(fault) { 1 } else { 13 };
        for n in (0..).step_by(step) {
            let f = full_in(small());
            damage(&f);
            let doomed =
                Region::with_geometry(CrashMem::new(f.mem.clone()), f.r.geometry().clone());
            let (c, lane) = task(&f.r, &mut Lane::new(f.on.id()), 80);
            doomed.mem().die_after(n);
            let died = catch_unwind(AssertUnwindSafe(|| {
                let on = &mut Lane::new(lane.id());
                check::repair(&doomed, on, 1, || ()).unwrap();
            }));
            if let Err(payload) = &died {
                assert!(payload.is::<Died>(), "{name}: a real panic after {n} stores");
            }
            let on = &mut Lane::new(f.on.id());
            let _ = vshmem_sysv::reap::task(&f.r, on, c.task);
            let repair = check::repair(&f.r, on, 1, || ()).unwrap();
            assert!(repair.left.is_empty(), "{name}, death after {n} stores: {repair:#?}");
            if died.is_ok() {
                break;
            }
            deaths += 1;
        }
    }
    println!("{deaths} deaths");
}

#[test]
fn sleepers_whose_set_is_beyond_repair_are_told() {
    let mut f = full_in(small());
    f.put(f.at(vshmem_core::region::Kind::Set, f.set).plus(vshmem_core::layout::set::NSEMS), 0);
    let repair = check::repair(&f.r, &mut f.on, 1, || ()).unwrap();
    assert!(repair.left.is_empty(), "{repair:#?}");
    let status = f.r.peek(f.slot(0).plus(lane::STATUS)).unwrap();
    assert_eq!(status, wait::FAILED + vshmem_sysv::Errno::EIDRM as u32);
    let gone = sem::getval(&f.r, &mut f.mine, &f.me, f.set, 0);
    assert_eq!(gone.unwrap_err().errno(), 22);
    // The others sleep on.
    for sleeper in 1..4 {
        assert_eq!(f.r.peek(f.slot(sleeper).plus(lane::STATUS)).unwrap(), wait::WAITING);
    }
}
