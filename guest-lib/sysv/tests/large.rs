//! Calls that change more than one journal has room for: all of it, or nothing, all the same.
#![allow(missing_docs)]

mod common;

use common::pause::{PauseMem, pausing};
use common::still::Still;
use common::{CREATE, caller, dying, endpoint, region, task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_core::format::Spec;
use vshmem_core::layout::lane;
use vshmem_core::mem::{Died, HeapMem};
use vshmem_core::region::Kind;
use vshmem_core::task::Owner;
use vshmem_core::{Lane, LaneId, Region, wait};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, Errno, Result, check, msg, object, reap, sem};

/// More than the 250 that one step writes.
const MANY: usize = 300;
const UNDO: i16 = 0x1000;
const NOWAIT: i16 = 0o4000;

/// A region with a set and a queue, and tasks that use them.
struct Scene {
    mem: HeapMem,
    set: i32,
    queue: i32,
    me: Caller,
    victim: Caller,
    lane: LaneId,
}

impl Scene {
    fn new() -> Self {
        let spec = Spec { tasks: 400, ..Spec::for_file("large", 32 << 20).unwrap() };
        let mem = HeapMem::new(spec.len);
        let r = Region::format(mem.clone(), &spec).unwrap();
        let mut on = endpoint(&r);
        let (me, mut mine) = task(&r, &mut on, 10);
        let set = sem::get(&r, &mut mine, &me, 1, MANY as i32, CREATE).unwrap();
        sem::setall(&r, &mut mine, &me, set, &[5; MANY]).unwrap();
        let queue = msg::get(&r, &mut mine, &me, 1, CREATE).unwrap();
        msg::send(&r, &mut mine, &me, queue, 7, b"seven", 0, None).unwrap();
        let (victim, lane) = task(&r, &mut on, 20);
        Self { mem, set, queue, me, victim, lane: lane.id() }
    }

    /// Puts many lanes to sleep on the set, or on the queue, and leaves them so.
    fn asleep(&self, kind: Kind) -> Vec<LaneId> {
        let asleep = Still(self.mem.clone(), || std::panic::panic_any(Died));
        let r = Region::open(asleep).unwrap();
        let owner = Owner::Task(self.me.task);
        let sleep = |_| {
            let mut on = r.claim_lane(owner).unwrap().unwrap();
            let id = on.id();
            let slept = catch_unwind(AssertUnwindSafe(|| match kind {
                Kind::Set => sem::op(&r, &mut on, &self.me, self.set, &[add(0, -9)], None),
                _ => {
                    msg::recv(&r, &mut on, &self.me, self.queue, &mut [0; 9], 9, 0, None).map(drop)
                }
            }));
            assert!(slept.is_err_and(|why| why.is::<Died>()));
            id
        };
        (0..MANY).map(sleep).collect()
    }

    /// Lets the victim make `call` and die after `n` stores: whether it had returned.
    fn die(&self, n: u64, call: impl Fn(&Region<vshmem_core::mem::CrashMem>, &mut Lane)) -> bool {
        let doomed = dying(&self.mem);
        doomed.mem().die_after(n);
        let died = catch_unwind(AssertUnwindSafe(|| call(&doomed, &mut Lane::new(self.lane))));
        died.is_ok_and(|()| true)
    }

    fn reaped(&self) -> (Region<HeapMem>, Lane) {
        let r = region(&self.mem);
        reap::task(&r, &mut endpoint(&r), self.victim.task).unwrap();
        all_is_well(&r);
        let (_, on) = task(&r, &mut endpoint(&r), 30);
        (r, on)
    }
}

fn all_is_well(r: &Region<HeapMem>) {
    let found = check::look(r, &mut endpoint(r)).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}

fn add(num: u16, op: i16) -> SemBuf {
    SemBuf { num, op, flg: 0 }
}

fn status(r: &Region<HeapMem>, id: LaneId) -> u32 {
    r.peek(r.lane(id).unwrap().plus(lane::STATUS)).unwrap()
}

/// Numbers of stores after which to die: the first, and then every so many, where one store is as
/// another.
fn moments() -> impl Iterator<Item = u64> {
    (0..12).chain((12..).step_by(151))
}

#[test]
fn a_death_inside_a_setall_sets_all_or_none() {
    for n in moments() {
        let s = Scene::new();
        let (r, c) = (region(&s.mem), &s.me);
        let (pages, _) = r.pages().unwrap();
        let returned = s.die(n, |r, on| {
            sem::setall(r, on, &s.victim, s.set, &[7; MANY]).unwrap();
        });
        let (r, mut on) = s.reaped();
        let values = sem::getall(&r, &mut on, c, s.set).unwrap();
        assert!(values == [5; MANY] && !returned || values == [7; MANY], "after {n} stores");
        // Fast and slow ways still work, and nothing is lost.
        sem::op(&r, &mut on, c, s.set, &[add(299, 1), add(0, 1)], None).unwrap();
        assert_eq!(sem::op_fast(&r, c, s.set, add(299, -1)), Some(Ok(())));
        sem::remove(&r, &mut on, c, s.set).unwrap();
        let other = sem::get(&r, &mut on, c, 2, MANY as i32, CREATE).unwrap();
        assert!(r.pages().unwrap().0 <= pages + 5, "pages were lost after {n} stores");
        sem::remove(&r, &mut on, c, other).unwrap();
        if returned {
            return assert!(n > 600);
        }
    }
}

#[test]
fn setall_serves_sleepers_and_cancels_undo() {
    let s = Scene::new();
    let asleep = s.asleep(Kind::Set);
    let r = region(&s.mem);
    let mut on = Lane::new(s.lane);
    let mut ops = [add(1, -3)];
    ops[0].flg = UNDO;
    sem::op(&r, &mut on, &s.victim, s.set, &ops, None).unwrap();
    let mut values = [7; MANY];
    values[0] = 20;
    sem::setall(&r, &mut on, &s.victim, s.set, &values).unwrap();
    // Two took nine each, in order of arrival.
    let done = |id: &LaneId| status(&r, *id) == wait::DONE;
    assert_eq!(asleep.iter().take_while(|id| done(id)).count(), 2);
    assert_eq!(asleep.iter().filter(|id| done(id)).count(), 2);
    let (r, mut on) = s.reaped();
    assert_eq!(sem::getval(&r, &mut on, &s.me, s.set, 0).unwrap(), 2);
    assert_eq!(sem::getval(&r, &mut on, &s.me, s.set, 1).unwrap(), 7, "an undo outlived SETALL");
}

#[test]
fn an_operation_stopped_while_setall_moves_the_set_is_not_lost() {
    // What the set leaves is another set's at once.
    for n in 0.. {
        let s = Scene::new();
        let slow: Region<PauseMem> = pausing(&s.mem);
        let (mem, me, set, lane) = (s.mem.clone(), s.me.clone(), s.set, s.lane);
        slow.mem().stop_at(n, move || {
            let (r, mut on) = (region(&mem), Lane::new(lane));
            sem::setall(&r, &mut on, &me, set, &[7; MANY]).unwrap();
            let other = sem::get(&r, &mut on, &me, 2, MANY as i32, CREATE).unwrap();
            sem::op(&r, &mut on, &me, other, &[add(3, 5)], None).unwrap();
        });
        let op = SemBuf { num: 3, op: -1, flg: NOWAIT };
        let fast = sem::op_fast(&slow, &s.victim, s.set, op);
        let (r, mut on) = s.reaped();
        let value = |on: &mut Lane, id| sem::getval(&r, on, &s.me, id, 3).unwrap();
        let took = i32::from(fast == Some(Ok(())));
        if slow.mem().pending() {
            assert_eq!(value(&mut on, s.set), 5 - took);
            return assert!(n > 5 && took == 1);
        }
        let other = sem::get(&r, &mut on, &s.me, 2, 0, 0).unwrap();
        assert_eq!(value(&mut on, other), 5, "stopped at access {n}: it took another set's");
        // Before the SETALL, which forgot it, or after.
        let now = value(&mut on, s.set);
        assert!(now == 7 || now == 7 - took, "stopped at access {n}: {now} after {took}");
    }
}

fn remove<P: vshmem_core::Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    kind: Kind,
    s: &Scene,
) -> Result<()> {
    match kind {
        Kind::Set => sem::remove(r, on, c, s.set),
        _ => msg::remove(r, on, c, s.queue),
    }
}

/// Whether all sleepers sleep on and the object is there, or it is gone and all know.
fn all_or_none(r: &Region<HeapMem>, on: &mut Lane, kind: Kind, s: &Scene, asleep: &[LaneId]) {
    let sleeping = asleep.iter().filter(|id| status(r, **id) == wait::WAITING).count();
    let gone = wait::FAILED + Errno::EIDRM as u32;
    let told = asleep.iter().filter(|id| status(r, **id) == gone).count();
    let there = match kind {
        Kind::Set => sem::get(r, on, &s.me, 1, 0, 0).is_ok(),
        _ => msg::get(r, on, &s.me, 1, 0).is_ok(),
    };
    let expected = if there { (MANY, 0) } else { (0, MANY) };
    assert_eq!((sleeping, told), expected, "{kind:?} there: {there}");
    if there {
        remove(r, on, &s.me, kind, s).unwrap();
    }
    assert!(object::indices(r, kind).unwrap().is_empty());
}

#[test]
fn a_death_inside_a_removal_with_many_sleepers_removes_it_for_all_or_none() {
    for kind in [Kind::Set, Kind::Queue] {
        for n in moments() {
            let s = Scene::new();
            let asleep = s.asleep(kind);
            let returned = s.die(n, |r, on| remove(r, on, &caller_of(&s), kind, &s).unwrap());
            let (r, mut on) = s.reaped();
            all_or_none(&r, &mut on, kind, &s, &asleep);
            if returned {
                assert!(n > 600);
                break;
            }
        }
    }
}

fn caller_of(s: &Scene) -> Caller {
    caller(s.victim.task, 20)
}

#[test]
fn a_stopped_remover_holds_up_nobody() {
    for kind in [Kind::Set, Kind::Queue] {
        let mut middle = 0;
        for n in (0..).step_by(499) {
            let s = Scene::new();
            let asleep = s.asleep(kind);
            let slow = pausing(&s.mem);
            let (mem, seen) = (s.mem.clone(), std::rc::Rc::new(std::cell::Cell::new((0, 0))));
            let (ids, into) = (asleep.clone(), seen.clone());
            slow.mem().stop_at(n, move || {
                let r = region(&mem);
                let sleeping = || ids.iter().filter(|id| status(&r, **id) == wait::WAITING).count();
                let before = sleeping();
                all_is_well(&r);
                // Twice: the first completes what was committed.
                for _ in 0..2 {
                    reap::rescan(&r, &mut endpoint(&r), 0).unwrap();
                }
                all_is_well(&r);
                into.set((before, sleeping()));
            });
            remove(&slow, &mut Lane::new(s.lane), &s.victim, kind, &s).unwrap();
            let last = slow.mem().pending();
            let (before, after) = seen.get();
            assert!(last || after == 0 || after == MANY && before == MANY, "{kind:?} at {n}");
            middle += usize::from(before > 0 && before < MANY);
            let (r, mut on) = s.reaped();
            all_or_none(&r, &mut on, kind, &s, &asleep);
            if last {
                break;
            }
        }
        assert!(middle > 3, "never stopped in the middle");
    }
}
