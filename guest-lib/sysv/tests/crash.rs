//! Death at every store of every call: afterwards the reaper runs, and the call has happened
//! entirely or not at all, nothing is leaked, and others go on.
#![allow(missing_docs)]

mod common;
use common::{CREATE, caller, dying, endpoint, region, small, task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_core::layout::Table;
use vshmem_core::mem::{CrashMem, Died, HeapMem, Mem};
use vshmem_core::region::Kind;
use vshmem_core::task::Owner;
use vshmem_core::{Lane, LaneId, Offset, Region};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, Result, msg, reap, sem, shm, withdraw, withdrawn_to};

const UNDO: i16 = 0x1000;
const NOWAIT: i32 = 0o4000;

/// Objects, pages and lanes in use.
fn census(r: &Region<HeapMem>) -> (usize, u64, usize) {
    let lanes = (0..r.table(Table::Lanes).count as u32)
        .filter(|i| r.lane_owner(LaneId(*i)).unwrap().is_some())
        .count();
    (reap::objects(r).unwrap(), r.pages().unwrap().0, lanes)
}

/// Every invariant holds; no block is lost.
fn sound<P: vshmem_core::Platform>(r: &Region<P>, on: &mut Lane) {
    let found = vshmem_sysv::check::look(r, on).unwrap();
    assert!(found.is_empty(), "{}", found.iter().map(|f| format!("{f}\n")).collect::<String>());
}

struct Scene {
    mem: HeapMem,
    set: i32,
    queue: i32,
    seg: i32,
    victim: Caller,
    lane: LaneId,
}

/// A set {5, 5}, a queue with one message, a segment, and a task about to die.
fn scene() -> Scene {
    let mem = small();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 2, CREATE).unwrap();
    sem::setall(&r, &mut mine, &c, set, &[5, 5]).unwrap();
    let queue = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    msg::send(&r, &mut mine, &c, queue, 7, b"seven", 0, None).unwrap();
    let seg = shm::get(&r, &mut mine, &c, 1, 10_000, CREATE).unwrap();
    let (victim, lane) = task(&r, &mut on, 20);
    Scene { mem, set, queue, seg, victim, lane: lane.id() }
}

/// Runs `call` with death after each number of stores in turn, reaps, and hands the survivors'
/// view to `check`, with whether the call had returned.
fn die_everywhere(
    call: impl Fn(&Region<CrashMem>, &mut Lane, &Caller, &Scene) -> Result<()>,
    check: impl Fn(&Region<HeapMem>, &mut Lane, &Caller, &Scene, bool),
) {
    for n in 0.. {
        let scene = scene();
        let doomed = dying(&scene.mem);
        doomed.mem().die_after(n);
        let died = catch_unwind(AssertUnwindSafe(|| {
            call(&doomed, &mut Lane::new(scene.lane), &scene.victim, &scene).unwrap();
        }));
        if let Err(payload) = &died {
            assert!(payload.is::<Died>(), "a real panic after {n} stores");
        }
        let r = region(&scene.mem);
        let mut on = endpoint(&r);
        reap::task(&r, &mut on, scene.victim.task).unwrap();
        // Twice: reaping is idempotent.
        reap::task(&r, &mut on, scene.victim.task).unwrap();
        let (me, mut lane) = task(&r, &mut on, 30);
        sound(&r, &mut lane);
        check(&r, &mut lane, &me, &scene, died.is_ok());
        if died.is_ok() {
            assert!(n > 3, "the call stores nothing");
            return;
        }
    }
}

#[test]
fn a_death_inside_a_fast_semop_adds_once_or_not_at_all() {
    let op = SemBuf { num: 0, op: 2, flg: 0 };
    let mut n = 0;
    loop {
        let scene = scene();
        let doomed = dying(&scene.mem);
        doomed.mem().die_after(n);
        let died = catch_unwind(AssertUnwindSafe(|| {
            sem::op_fast(&doomed, &scene.victim, scene.set, op).unwrap().unwrap();
        }));
        let r = region(&scene.mem);
        let mut on = endpoint(&r);
        let (me, mut lane) = task(&r, &mut on, 30);
        let value = sem::getval(&r, &mut lane, &me, scene.set, 0).unwrap();
        assert!(value == 5 || value == 7);
        if died.is_ok() {
            return assert_eq!(value, 7);
        }
        n += 1;
    }
}

#[test]
fn a_death_inside_a_withdrawal_leaves_the_object_shared_or_withdrawn() {
    for kind in Kind::ALL {
        let id = |s: &Scene| match kind {
            Kind::Seg => s.seg,
            Kind::Set => s.set,
            Kind::Queue => s.queue,
        };
        die_everywhere(
            |r, on, c, s| withdraw(r, on, c, kind, id(s)).map(drop),
            |r, on, c, s, returned| {
                let found = match kind {
                    Kind::Seg => shm::get(r, on, c, 1, 0, 0),
                    Kind::Set => sem::get(r, on, c, 1, 0, 0),
                    Kind::Queue => msg::get(r, on, c, 1, 0),
                };
                let gone = withdrawn_to(r, kind, id(s) & 0x7fff).unwrap().is_some();
                // Key and access change in one step.
                assert_eq!(found.is_err(), gone, "{found:?}");
                assert!(gone || !returned);
                // Here it works on either way, fast and slow.
                let ops = |by| [SemBuf { num: 0, op: by, flg: 0 }];
                for by in [1, -1] {
                    sem::op(r, on, c, s.set, &ops(by), None).unwrap();
                    assert_eq!(sem::op_fast(r, c, s.set, ops(by)[0]), Some(Ok(())));
                }
                msg::recv(r, on, c, s.queue, &mut [0; 9], 0, NOWAIT, None).unwrap();
                shm::attach(r, on, c, s.seg, 6).unwrap();
                assert_eq!(withdraw(r, on, c, kind, id(s)).unwrap(), []);
            },
        );
    }
}

#[test]
fn a_death_inside_a_semop_of_several_operations_is_all_or_nothing() {
    die_everywhere(
        |r, on, c, s| {
            let ops = [SemBuf { num: 0, op: -3, flg: 0 }, SemBuf { num: 1, op: 4, flg: 0 }];
            sem::op(r, on, c, s.set, &ops, None)
        },
        |r, on, c, s, returned| {
            let values = sem::getall(r, on, c, s.set).unwrap();
            assert!(values == [5, 5] && !returned || values == [2, 9], "{values:?}");
            // And the set still works, fast and slow.
            sem::op(r, on, c, s.set, &[SemBuf { num: 0, op: -1, flg: 0 }], None).unwrap();
        },
    );
}

#[test]
fn whatever_a_dead_task_promised_to_undo_is_undone_exactly_once() {
    die_everywhere(
        |r, on, c, s| {
            sem::op(r, on, c, s.set, &[SemBuf { num: 0, op: -3, flg: UNDO }], None)?;
            sem::op(r, on, c, s.set, &[SemBuf { num: 1, op: 4, flg: UNDO }], None)?;
            sem::op(r, on, c, s.set, &[SemBuf { num: 0, op: -1, flg: UNDO }], None)
        },
        |r, on, c, s, _| {
            assert_eq!(sem::getall(r, on, c, s.set).unwrap(), [5, 5]);
        },
    );
}

#[test]
fn a_message_is_sent_once_or_not_at_all_and_never_lost() {
    die_everywhere(
        |r, on, c, s| {
            msg::send(r, on, c, s.queue, 8, b"eight", 0, None)?;
            let mut buf = [0; 16];
            msg::recv(r, on, c, s.queue, &mut buf, 8, 0, None).map(drop)
        },
        |r, on, c, s, returned| {
            let mut seen = Vec::new();
            let mut buf = [0; 16];
            while let Ok((mtype, n)) = msg::recv(r, on, c, s.queue, &mut buf, 0, NOWAIT, None) {
                seen.push((mtype, buf[..n].to_vec()));
            }
            let seven = (7, b"seven".to_vec());
            let eight = (8, b"eight".to_vec());
            let fine = seen == [seven.clone()]
                || (!returned
                    && (seen == [seven.clone(), eight.clone()] || seen == [eight, seven]));
            assert!(fine, "{seen:?}");
        },
    );
}

#[test]
fn attachments_of_the_dead_are_dropped_and_a_doomed_segment_goes() {
    die_everywhere(
        |r, on, c, s| {
            let a = shm::attach(r, on, c, s.seg, 0o6)?;
            let again = shm::attach(r, on, c, s.seg, 0o4)?;
            shm::detach(r, on, c, a.seg, a.life)?;
            shm::remove(r, on, c, s.seg)?;
            shm::detach(r, on, c, again.seg, again.life)
        },
        |r, on, c, s, returned| match shm::stat(r, on, c, s.seg) {
            Ok(stat) => {
                assert!(!returned && stat.nattch == 0, "{stat:?}");
                assert_eq!(stat.perm.mode & 0o1000, 0, "a removed segment without attachments");
            }
            Err(_) => assert_eq!(shm::info(r).unwrap().used_ids, 0),
        },
    );
}

#[test]
fn no_death_leaks_a_block_a_page_a_lane_or_an_id() {
    // Everything at once: create, use, remove. Whatever dies where, after removing what is left
    // the region is as before.
    let whole = |r: &Region<CrashMem>, on: &mut Lane, c: &Caller| -> Result<()> {
        let set = sem::get(r, on, c, 2, 3, CREATE)?;
        sem::op(r, on, c, set, &[SemBuf { num: 2, op: 1, flg: UNDO }], None)?;
        let queue = msg::get(r, on, c, 2, CREATE)?;
        msg::send(r, on, c, queue, 1, &[1; 100], 0, None)?;
        msg::send(r, on, c, queue, 1, &[2; 3000], 0, None)?;
        let seg = shm::get(r, on, c, 2, 300_000, CREATE)?;
        let a = shm::attach(r, on, c, seg, 0o6)?;
        shm::detach(r, on, c, a.seg, a.life)?;
        shm::remove(r, on, c, seg)?;
        msg::remove(r, on, c, queue)?;
        sem::remove(r, on, c, set)
    };
    let clean = |r: &Region<HeapMem>, on: &mut Lane, c: &Caller| {
        for kind in Kind::ALL {
            let id = match kind {
                Kind::Seg => shm::get(r, on, c, 2, 0, 0),
                Kind::Set => sem::get(r, on, c, 2, 0, 0),
                Kind::Queue => msg::get(r, on, c, 2, 0),
            };
            if let Ok(id) = id {
                match kind {
                    Kind::Seg => shm::remove(r, on, c, id),
                    Kind::Set => sem::remove(r, on, c, id),
                    Kind::Queue => msg::remove(r, on, c, id),
                }
                .unwrap();
            }
        }
    };
    let s = scene();
    let r = region(&s.mem);
    let mut on = endpoint(&r);
    let (me, mut mine) = task(&r, &mut on, 30);
    let doomed = dying(&s.mem);
    // Once without dying, so that the pools have carved what they need.
    whole(&doomed, &mut Lane::new(s.lane), &s.victim).unwrap();
    reap::task(&r, &mut on, s.victim.task).unwrap();
    let before = census(&r);
    for n in 0.. {
        let (victim, lane) = task(&r, &mut on, 40);
        doomed.mem().die_after(n);
        let mut lane = Lane::new(lane.id());
        let victim = caller(victim.task, 40);
        let died = catch_unwind(AssertUnwindSafe(|| whole(&doomed, &mut lane, &victim).unwrap()));
        reap::task(&r, &mut on, victim.task).unwrap();
        clean(&r, &mut mine, &me);
        assert_eq!(census(&r), before, "after {n} stores");
        sound(&r, &mut mine);
        if died.is_ok() {
            return assert!(n > 300);
        }
    }
}

#[test]
fn a_sleeper_is_served_though_its_waker_dies_anywhere() {
    use std::sync::atomic::{AtomicBool, Ordering};
    for n in 0..60 {
        let s = scene();
        let r = region(&s.mem);
        let mut on = endpoint(&r);
        let (sleeper, lane) = task(&r, &mut on, 50);
        let served = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (r, served, set) = (&r, &served, s.set);
            scope.spawn(move || {
                let mut lane = Lane::new(lane.id());
                let ops = [SemBuf { num: 0, op: -6, flg: 0 }];
                sem::op(r, &mut lane, &sleeper, set, &ops, None).unwrap();
                served.store(true, Ordering::Release);
            });
            let (me, mut mine) = task(r, &mut on, 60);
            while sem::getncnt(r, &mut mine, &me, set, 0).unwrap() == 0 {
                std::thread::yield_now();
            }
            let doomed = dying(&s.mem);
            doomed.mem().die_after(n);
            let died = catch_unwind(AssertUnwindSafe(|| {
                let mut lane = Lane::new(s.lane);
                sem::op(
                    &doomed,
                    &mut lane,
                    &s.victim,
                    set,
                    &[SemBuf { num: 0, op: 2, flg: 0 }],
                    None,
                )
                .unwrap();
            }));
            reap::task(r, &mut on, s.victim.task).unwrap();
            let value = sem::getval(r, &mut mine, &me, set, 0).unwrap();
            if value == 5 {
                // It died before its commit: the sleeper still sleeps, and is served now.
                assert!(died.is_err() && !served.load(Ordering::Acquire));
                sem::op(r, &mut mine, &me, set, &[SemBuf { num: 0, op: 2, flg: 0 }], None).unwrap();
            }
            assert_eq!(sem::getval(r, &mut mine, &me, set, 0).unwrap(), 1);
        });
        assert!(served.load(Ordering::Acquire));
        sound(&r, &mut on);
    }
}

/// A task that has everything a reaper has to take back: adjustments on two sets, attachments of a
/// living and of a removed segment, a message received and not copied.
fn leave_everything(s: &Scene) {
    let r = region(&s.mem);
    let (c, on) = (&s.victim, &mut Lane::new(s.lane));
    let other = sem::get(&r, on, c, 9, 1, CREATE).unwrap();
    let ops = [SemBuf { num: 0, op: -3, flg: UNDO }, SemBuf { num: 1, op: 4, flg: UNDO }];
    sem::op(&r, on, c, s.set, &ops, None).unwrap();
    sem::op(&r, on, c, other, &[SemBuf { num: 0, op: 9, flg: UNDO }], None).unwrap();
    shm::attach(&r, on, c, s.seg, 0o6).unwrap();
    shm::attach(&r, on, c, s.seg, 0o6).unwrap();
    let gone = shm::get(&r, on, c, 0, 5000, CREATE).unwrap();
    shm::attach(&r, on, c, gone, 0o6).unwrap();
    shm::remove(&r, on, c, gone).unwrap();
    // Received, and dead before the copy: the store after the taking transaction's is its last.
    for n in 0.. {
        let doomed = dying(&s.mem);
        doomed.mem().die_after(n);
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _ = msg::recv(&doomed, &mut Lane::new(s.lane), c, s.queue, &mut [0; 9], 0, 0, None);
        }));
        let at = r.object(Kind::Queue, s.queue as u32 & 0x7fff).unwrap();
        if r.peek(at.plus(vshmem_core::layout::queue::QNUM)).unwrap() == 0 {
            return;
        }
    }
}

fn all_is_taken_back(s: &Scene) {
    let r = region(&s.mem);
    let mut on = endpoint(&r);
    let (me, mut mine) = task(&r, &mut on, 30);
    assert_eq!(sem::getall(&r, &mut mine, &me, s.set).unwrap(), [5, 5]);
    let other = sem::get(&r, &mut mine, &me, 9, 0, 0).unwrap();
    assert_eq!(sem::getval(&r, &mut mine, &me, other, 0).unwrap(), 0);
    assert_eq!(shm::stat(&r, &mut mine, &me, s.seg).unwrap().nattch, 0);
    assert_eq!(shm::info(&r).unwrap().used_ids, 1);
    let mut buf = [0; 16];
    let got = msg::recv(&r, &mut mine, &me, s.queue, &mut buf, 0, NOWAIT, None);
    assert_eq!(got, Ok((7, 5)));
    assert!(r.task(s.victim.task.index).unwrap().is_none_or(|t| t.id != s.victim.task));
    sound(&r, &mut mine);
}

#[test]
fn a_reaper_that_dies_anywhere_is_continued_by_the_next() {
    for n in 0.. {
        let s = scene();
        leave_everything(&s);
        let doomed = dying(&s.mem);
        let lane = endpoint(&region(&s.mem)).id();
        doomed.mem().die_after(n);
        let died = catch_unwind(AssertUnwindSafe(|| {
            reap::task(&doomed, &mut Lane::new(lane), s.victim.task).unwrap();
        }));
        let r = region(&s.mem);
        reap::task(&r, &mut endpoint(&r), s.victim.task).unwrap();
        all_is_taken_back(&s);
        if died.is_ok() {
            return assert!(n > 100);
        }
    }
}

#[test]
fn two_reapers_at_once_take_everything_back_once() {
    for _ in 0..200 {
        let s = scene();
        leave_everything(&s);
        let r = region(&s.mem);
        let lanes = [endpoint(&r), endpoint(&r)];
        std::thread::scope(|scope| {
            for mut lane in lanes {
                let (r, id) = (&r, s.victim.task);
                scope.spawn(move || reap::task(r, &mut lane, id).unwrap());
            }
        });
        all_is_taken_back(&s);
    }
}

/// While a word names a lane, the lane tells who wrote it; the lane may be another's soon.
#[test]
fn the_last_writer_of_a_semaphore_is_known_after_its_lane_is_another_s() {
    let s = scene();
    let r = region(&s.mem);
    let mut on = endpoint(&r);
    let mut lane = Lane::new(s.lane);
    let undo = |num| [SemBuf { num, op: 1, flg: UNDO }];
    let pid = |on: &mut Lane, num| sem::getpid(&r, on, &s.victim, s.set, num).unwrap();
    for num in [0, 0, 1, 0] {
        sem::op(&r, &mut lane, &s.victim, s.set, &undo(num), None).unwrap();
    }
    assert_eq!((pid(&mut on, 0), pid(&mut on, 1)), (20, 20));
    vshmem_sysv::release(&r, &mut lane, Owner::Task(s.victim.task)).unwrap();
    let (next, mut same) = task(&r, &mut on, 30);
    assert_eq!(same.id(), s.lane);
    sem::op(&r, &mut same, &next, s.set, &undo(1), None).unwrap();
    sem::op(&r, &mut same, &next, s.set, &undo(1), None).unwrap();
    assert_eq!((pid(&mut on, 0), pid(&mut on, 1)), (20, 30));
    reap::task(&r, &mut on, next.task).unwrap();
    let (_, after) = task(&r, &mut on, 40);
    assert_eq!(after.id(), s.lane);
    assert_eq!((pid(&mut on, 0), pid(&mut on, 1)), (20, 30));
    reap::task(&r, &mut on, s.victim.task).unwrap();
    assert_eq!(sem::getall(&r, &mut on, &s.victim, s.set).unwrap(), [5, 5]);
    sound(&r, &mut on);
}

/// Big ones are given back to the system as they are freed, small ones zeroed when they are taken.
#[test]
fn a_segment_reads_as_zeros_whoever_died_giving_back_its_pages() {
    for size in [8_000, 300_000] {
        die_everywhere(
            |r, on, c, _| {
                let id = shm::get(r, on, c, 0, size, CREATE)?;
                let held = shm::attach(r, on, c, id, 0o6)?;
                for e in &held.extents {
                    let at = Offset(u64::from(e.first_page) * 4096);
                    r.mem().write_bytes(at, &vec![0xff; e.pages as usize * 4096])?;
                }
                shm::remove(r, on, c, id)?;
                shm::detach(r, on, c, held.seg, held.life)
            },
            |r, on, c, _, _| {
                // Some of them lie where the other lay.
                for _ in 0..3 {
                    let id = shm::get(r, on, c, 0, size, CREATE).unwrap();
                    let new = shm::attach(r, on, c, id, 0o6).unwrap();
                    for e in &new.extents {
                        let mut bytes = vec![1; e.pages as usize * 4096];
                        let at = Offset(u64::from(e.first_page) * 4096);
                        r.mem().read_bytes(at, &mut bytes).unwrap();
                        assert!(bytes.iter().all(|b| *b == 0), "{size} bytes");
                    }
                    shm::remove(r, on, c, id).unwrap();
                    shm::detach(r, on, c, new.seg, new.life).unwrap();
                }
            },
        );
    }
}
