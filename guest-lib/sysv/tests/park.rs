//! Parking: nothing is missed, whoever dies or stops wherever.
#![allow(missing_docs)]

mod common;
use common::pause::{PauseMem, pausing};
use common::still::Still;
use common::{dying, endpoint, heap, region, task};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use vshmem_core::layout::{Table, lane, park as bucket};
use vshmem_core::mem::{Died, HeapMem, Ordering, Park};
use vshmem_core::{Lane, LaneId, Offset, Platform, Region, wait};
use vshmem_sysv::park::{self, Key, Limits};
use vshmem_sysv::{Caller, Errno, Error, reap};

const KEY: Key = Key { seg: 3, life: 9, at: 0x1008 };
const NO_LIMITS: Limits = Limits { deadline: None, owner: None };

/// Leaves a task asleep for `key` whose thread is gone but which nobody has reaped.
fn sleeper(mem: &HeapMem, on: &mut Lane, pid: u32, key: Key) -> (Caller, LaneId) {
    let r = region(mem);
    let (c, mut mine) = task(&r, on, pid);
    let id = mine.id();
    let gone: fn() = || std::panic::panic_any(Died);
    let asleep = Region::open(Still(mem.clone(), gone)).unwrap();
    let died = catch_unwind(AssertUnwindSafe(|| {
        park::wait(&asleep, &mut mine, &c, key, NO_LIMITS, || true)
    }));
    assert!(died.is_err());
    assert!(is_asleep(&r, id));
    (c, id)
}

fn is_asleep<P: Platform>(r: &Region<P>, id: LaneId) -> bool {
    r.peek(r.lane(id).unwrap().plus(lane::STATUS)).unwrap() == wait::WAITING
}

fn nobody_is_parked(r: &Region<HeapMem>) -> bool {
    let place = r.table(Table::Parking);
    (0..place.count).all(|i| {
        let at = place.at.index(i, place.stride);
        r.peek(at.plus(bucket::HEAD)).unwrap() == 0 && r.peek(at.plus(bucket::TAIL)).unwrap() == 0
    })
}

#[test]
fn wakes_go_to_those_of_their_key_in_order_of_arrival() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let other = Key { life: 10, ..KEY };
    assert_eq!(park::wake(&r, &mut on, KEY, 9), Ok(0));
    let ids: Vec<_> = [KEY, other, KEY, KEY]
        .into_iter()
        .enumerate()
        .map(|(i, key)| sleeper(&mem, &mut on, 10 + i as u32, key).1)
        .collect();
    assert!(park::anyone(&r, KEY).unwrap());
    assert_eq!(park::wake(&r, &mut on, KEY.plus(4), 9), Ok(0));
    assert_eq!(park::wake(&r, &mut on, KEY, 1), Ok(1));
    assert_eq!(
        ids.iter().map(|i| is_asleep(&r, *i)).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    assert_eq!(park::wake(&r, &mut on, KEY, u32::MAX), Ok(2));
    assert!(is_asleep(&r, ids[1]));
    assert_eq!(park::wake(&r, &mut on, other, u32::MAX), Ok(1));
    assert!(!park::anyone(&r, KEY).unwrap() && nobody_is_parked(&r));
}

/// More than one transaction wakes.
#[test]
fn all_are_woken_however_many() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, _) = task(&r, &mut on, 10);
    let woken = AtomicUsize::new(0);
    let lanes: Vec<_> =
        std::iter::from_fn(|| r.claim_lane(vshmem_core::task::Owner::Task(c.task)).unwrap())
            .collect();
    let (n, word) = (lanes.len(), AtomicU64::new(0));
    std::thread::scope(|s| {
        for mut lane in lanes {
            let (r, c, woken, word) = (&r, &c, &woken, &word);
            s.spawn(move || {
                while word.load(Ordering::SeqCst) == 0 {
                    park::wait(r, &mut lane, c, KEY, NO_LIMITS, || {
                        word.load(Ordering::SeqCst) == 0
                    })
                    .unwrap();
                }
                woken.fetch_add(1, Ordering::SeqCst);
            });
        }
        word.store(1, Ordering::SeqCst);
        park::wake(&r, &mut on, KEY, u32::MAX).unwrap();
    });
    assert!(n > 20);
    assert_eq!(woken.into_inner(), n);
    assert!(nobody_is_parked(&r));
}

#[test]
fn a_wait_ends_by_the_word_by_time_and_for_a_reaped_task() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    park::wait(&r, &mut mine, &c, KEY, NO_LIMITS, || false).unwrap();
    let asked = Cell::new(0);
    // It changes while the lane is queued: no sleep.
    let once = || asked.replace(asked.get() + 1) < 1;
    park::wait(&r, &mut mine, &c, KEY, NO_LIMITS, once).unwrap();
    assert!(asked.get() >= 2 && nobody_is_parked(&r));
    let limits = Limits { deadline: Some(r.mem().now() + 2_000_000), owner: None };
    let late = park::wait(&r, &mut mine, &c, KEY, limits, || true);
    assert_eq!(late, Err(Error::Errno(Errno::EAGAIN)));
    assert!(r.mem().now() >= limits.deadline.unwrap() && nobody_is_parked(&r));
    reap::task(&r, &mut on, c.task).unwrap();
    let fenced = park::wait(&r, &mut mine, &c, KEY, NO_LIMITS, || true);
    assert_eq!(fenced, Err(Error::Errno(Errno::EIDRM)));
    assert!(nobody_is_parked(&r));
}

/// The first sleeper dies after each store of its call, in which it is also woken: the second gets
/// the wake if the first may not have acted on it.
#[test]
fn a_sleeper_that_dies_anywhere_leaves_its_wake_to_the_next() {
    let mut passed_on = 0;
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let doomed = dying(&mem);
        doomed.mem().die_after(n);
        let second = Cell::new(None);
        let asked = Cell::new(0);
        let waker = endpoint(&r).id();
        let died = catch_unwind(AssertUnwindSafe(|| {
            park::wait(&doomed, &mut mine, &c, KEY, NO_LIMITS, || {
                if asked.replace(asked.get() + 1) == 1 {
                    let mut on = Lane::new(waker);
                    second.set(Some(sleeper(&mem, &mut on, 20, KEY).1));
                    assert_eq!(park::wake(&r, &mut on, KEY, 1), Ok(1));
                }
                true
            })
            .unwrap();
        }));
        reap::task(&r, &mut on, c.task).unwrap();
        if let Some(second) = second.get() {
            // Dead or not, it says nothing of having acted.
            assert!(!is_asleep(&r, second), "after {n} stores");
            passed_on += 1;
        }
        reap::task(&r, &mut on, c.task).unwrap();
        assert!(nobody_is_parked(&r), "after {n} stores");
        if died.is_ok() {
            break;
        }
    }
    assert!(passed_on > 1);
}

#[test]
fn a_waker_that_dies_anywhere_wakes_one_or_none_and_the_next_wakes_the_rest() {
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let ids: Vec<_> = (0..3).map(|i| sleeper(&mem, &mut on, 20 + i, KEY).1).collect();
        let doomed = dying(&mem);
        doomed.mem().die_after(n);
        let died =
            catch_unwind(AssertUnwindSafe(|| park::wake(&doomed, &mut mine, KEY, 1).unwrap()));
        reap::task(&r, &mut on, c.task).unwrap();
        let asleep = ids.iter().filter(|i| is_asleep(&r, **i)).count();
        assert!((2..4).contains(&asleep), "after {n} stores");
        assert_eq!(park::wake(&r, &mut on, KEY, u32::MAX), Ok(asleep as u32));
        assert!(nobody_is_parked(&r));
        if died.is_ok() {
            assert_eq!(asleep, 2);
            return assert!(n > 10);
        }
    }
}

/// A sleeper is stopped at every access of its call; meanwhile the word changes and the wake goes
/// out. It must not sleep on.
#[test]
fn a_wake_at_any_moment_of_the_call_ends_it() {
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let word = Rc::new(Cell::new(0));
        let inner = PauseMem::new(mem.clone());
        let (waker, other, changed) = (endpoint(&r).id(), mem.clone(), word.clone());
        inner.stop_at(n, move || {
            changed.set(1);
            let r = region(&other);
            if park::anyone(&r, KEY).unwrap() {
                park::wake(&r, &mut Lane::new(waker), KEY, 1).unwrap();
            }
        });
        let (sleeps, seen) = (Rc::new(Cell::new(0)), word.clone());
        let counted = sleeps.clone();
        let slow = Region::open(Still(inner, move || {
            counted.set(counted.get() + 1);
            assert!(seen.get() == 0 || counted.get() < 10, "the wake at access {n} was missed");
        }))
        .unwrap();
        while word.get() == 0 {
            park::wait(&slow, &mut mine, &c, KEY, NO_LIMITS, || word.get() == 0).unwrap();
        }
        assert!(nobody_is_parked(&r));
        if sleeps.get() > 3 {
            return assert!(n > 20);
        }
    }
}

/// As above, for a waker that is stopped, while the sleeper dies and is reaped, and its lane finds
/// a new owner that sleeps for something else.
#[test]
fn a_stopped_waker_leaves_the_next_owner_of_the_lane_alone() {
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (_, mut mine) = task(&r, &mut on, 10);
        let (c, first) = sleeper(&mem, &mut on, 20, KEY);
        let other = Key { seg: 4, ..KEY };
        let slow = pausing(&mem);
        let (reaper, m) = (endpoint(&r).id(), mem.clone());
        slow.mem().stop_at(n, move || {
            let mut on = Lane::new(reaper);
            reap::task(&region(&m), &mut on, c.task).unwrap();
            assert_eq!(sleeper(&m, &mut on, 30, other).1, first);
        });
        park::wake(&slow, &mut mine, KEY, 1).unwrap();
        if slow.mem().pending() {
            return assert!(n > 20);
        }
        assert!(is_asleep(&r, first), "stopped at access {n}");
        assert_eq!(park::wake(&r, &mut on, other, 1), Ok(1));
        assert!(nobody_is_parked(&r));
    }
}

#[test]
fn the_death_of_an_owner_wakes_those_who_want_to_hear_of_it() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (owner, _) = task(&r, &mut on, 10);
    let (_, indifferent) = sleeper(&mem, &mut on, 20, KEY);
    let (c, mut mine) = task(&r, &mut on, 30);
    let limits = Limits { deadline: None, owner: Some(owner.task.index) };
    let reaper = endpoint(&r).id();
    let slept = Cell::new(0);
    let m = mem.clone();
    let asleep = Region::open(Still(mem.clone(), move || {
        if slept.replace(slept.get() + 1) == 0 {
            reap::task(&region(&m), &mut Lane::new(reaper), owner.task).unwrap();
        }
        assert!(slept.get() < 10, "not told of the owner's death");
    }))
    .unwrap();
    park::wait(&asleep, &mut mine, &c, KEY, limits, || true).unwrap();
    assert!(is_asleep(&r, indifferent));
}

/// What no correct peer writes is reported; nobody walks a circle for ever.
#[test]
fn a_corrupt_bucket_is_reported() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, id) = sleeper(&mem, &mut on, 10, KEY);
    let (_, second) = sleeper(&mem, &mut on, 11, KEY);
    let slot = r.lane(id).unwrap();
    let bad = |result: vshmem_sysv::Result<u32>| matches!(result, Err(Error::Corrupt(_)));
    let place = r.table(Table::Parking);
    let heads = (0..place.count).map(|i| place.at.index(i, place.stride).plus(bucket::HEAD));
    let head = heads.into_iter().find(|at| r.peek(*at).unwrap() != 0).unwrap();
    let mut set = |at: Offset, value: u32| {
        r.transact(&mut on, |txn| txn.set(at, value)).unwrap();
    };
    let mut waker = endpoint(&r);
    // A circle of lanes that wait for another key.
    let next = r.lane(second).unwrap().plus(lane::WAIT_NEXT);
    set(next, id.0 + 1);
    set(slot.plus(lane::WAIT_PLACE), 7);
    set(r.lane(second).unwrap().plus(lane::WAIT_PLACE), 7);
    assert!(bad(park::wake(&r, &mut waker, KEY, 1)));
    set(next, 0);
    // A head that is no lane, or one that waits for something else.
    for wrong in [u32::MAX, waker.id().0 + 1] {
        set(head, wrong);
        assert!(bad(park::wake(&r, &mut waker, KEY, 1)));
    }
    set(head, id.0 + 1);
    // A bucket that there is not: its task's other lanes are freed all the same.
    set(slot.plus(lane::WAIT_OBJ), u32::MAX);
    assert!(matches!(reap::task(&r, &mut waker, c.task), Err(Error::Corrupt(_))));
}
