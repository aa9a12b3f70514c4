//! A peer that is declared dead while it is stopped, and comes back: nothing that it does has an
//! effect any more, wherever it was stopped.
#![allow(missing_docs)]

mod common;
use common::pause::{PauseMem, pausing};
use common::{CREATE, caller, endpoint, heap, region, task};
use std::sync::{Arc, Mutex};
use vshmem_core::layout::{Table, held, lane, peer, sem as words, task as tasks};
use vshmem_core::mem::{HeapMem, Mem, Ordering, Park};
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, NewTask, Owner};
use vshmem_core::txn::lock_holder;
use vshmem_core::{Lane, LaneId, Offset, Region, wait};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, Errno, Error, check, msg, reap, sem, shm};

const UNDO: i16 = 0x1000;
const NOWAIT: i32 = 0o4000;
/// Pages of which the tests use some.
const PAGES: u64 = 128;
/// Lanes, likewise.
const USED_LANES: u64 = 12;

fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

/// A guest with one task, its objects, and a task of the host.
struct Scene {
    mem: HeapMem,
    peer: u32,
    victim: Caller,
    lane: LaneId,
    other: Caller,
    others: LaneId,
    set: i32,
    queue: i32,
    segment: i32,
}

/// And the lane of its task, as whoever claimed it holds it.
fn scene() -> (Scene, Lane) {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (other, mut mine) = task(&r, &mut on, 10);
    let peer = r.claim_peer(7, [1; 16], 2, "guest").unwrap().unwrap();
    let new = NewTask { peer, pid: 20, start: 1, uid: 1000, comm: "victim", state: tasks::LIVE };
    let id = r.claim_task(&mut on, &new).unwrap().unwrap();
    let lane = r.claim_lane(Owner::Task(id)).unwrap().unwrap();
    let victim = Caller { who: Identity::new(peer, 20), ..caller(id, 20) };
    let set = sem::get(&r, &mut mine, &other, 1, 4, CREATE).unwrap();
    sem::setall(&r, &mut mine, &other, set, &[5, 5, 0, 5]).unwrap();
    let queue = msg::get(&r, &mut mine, &other, 1, CREATE).unwrap();
    for n in 1..4 {
        msg::send(&r, &mut mine, &other, queue, n, b"before", 0, None).unwrap();
    }
    let segment = shm::get(&r, &mut mine, &other, 1, 8192, CREATE).unwrap();
    let (id, others) = (lane.id(), mine.id());
    (Scene { mem, peer, victim, lane: id, other, others, set, queue, segment }, lane)
}

impl Scene {
    fn fence(&self) {
        let r = region(&self.mem);
        let mut on = Lane::new(endpoint(&r).id());
        let incarnation = r.peer(self.peer).unwrap().unwrap().incarnation;
        assert!(r.fence_peer(self.peer, incarnation).unwrap());
        reap::fenced(&r, &mut on, self.peer).unwrap();
        assert!(!r.fence_peer(self.peer, incarnation).unwrap(), "fenced twice");
        reap::fenced(&r, &mut on, self.peer).unwrap();
    }

    /// Others go on, and take what memory is free.
    fn go_on(&self) {
        let r = region(&self.mem);
        let mut on = Lane::new(self.others);
        let c = &self.other;
        let queue = msg::get(&r, &mut on, c, 0, CREATE).unwrap();
        for _ in 0..8 {
            msg::send(&r, &mut on, c, queue, 1, &[0x11; 100], 0, None).unwrap();
            msg::send(&r, &mut on, c, queue, 1, &[0x11; 1000], 0, None).unwrap();
        }
        for _ in 0..4 {
            let segment = shm::get(&r, &mut on, c, 0, 16384, CREATE).unwrap();
            let attached = shm::attach(&r, &mut on, c, segment, 6).unwrap();
            for e in &attached.extents {
                for page in e.first_page..e.first_page + e.pages {
                    self.mem.write_bytes(Offset(u64::from(page) * 4096), &[0x22; 4096]).unwrap();
                }
            }
        }
        let set = sem::get(&r, &mut on, c, 0, 6, CREATE).unwrap();
        sem::setall(&r, &mut on, c, set, &[3; 6]).unwrap();
        let mut lanes = Vec::new();
        for pid in 50..54 {
            let (_, lane) = task(&r, &mut on, pid);
            lanes.push(lane.id());
        }
        assert!(!lanes.contains(&self.lane), "the lane of a fenced task is given to another");
    }

    /// Every word, but those of lanes that nobody took.
    fn words(&self) -> Vec<(u64, u64)> {
        let r = region(&self.mem);
        let lanes = r.table(Table::Lanes);
        let unused =
            lanes.at.plus(USED_LANES * lane::STRIDE).0..lanes.at.index(lanes.count, lanes.stride).0;
        let len = r.table(Table::Pages).at.plus(PAGES * 4096).0;
        let all = (0..unused.start).step_by(8).chain((unused.end..len).step_by(8));
        all.map(|at| (at, self.mem.load(Offset(at), Ordering::Relaxed).unwrap())).collect()
    }

    /// What the victim may still write: its own lane, what that holds, and hints.
    fn own(&self, at: u64, before: u64, now: u64) -> bool {
        let r = region(&self.mem);
        let slot = r.lane(self.lane).unwrap();
        if (slot.0..slot.0 + lane::STRIDE).contains(&at) {
            return true;
        }
        // Letting go of a lock that nobody respected any more, or taking one that nobody held for a
        // transaction that is over, which nobody respects.
        let (seq, _) = r.lane_stage(self.lane).unwrap();
        let taken = lock_holder(now).is_some_and(|(lane, taken)| {
            lane == self.lane && taken < seq && r.is_free(Offset(at)).unwrap()
        });
        if taken || now == 0 && before & 0x7fff == u64::from(self.lane.0) + 1 {
            return true;
        }
        let block = r.peek(slot.plus(lane::HELD)).unwrap();
        let inside = |from: u64, len: u64| (from..from + len).contains(&at);
        match r.peek(slot.plus(lane::HELD_WHY)).unwrap() {
            held::EXTENTS => {
                let block = r.block(block).unwrap();
                let extents = r.peek(block.plus(8)).unwrap();
                let page = |i: u64, n: u64| {
                    u64::from(r.peek(block.plus(0x20 + i * 32 + n * 8)).unwrap()) * 4096
                };
                if (0..u64::from(extents)).any(|i| inside(page(i, 0), page(i, 1))) {
                    return true;
                }
            }
            held::NOTHING => {}
            _ if inside(r.block(block).unwrap().0, 2048) => return true,
            _ => {}
        }
        // A semaphore's time, and that its next user takes the slow way.
        let place = r.table(Kind::Set.table());
        (0..place.count).any(|i| {
            let set = place.at.index(i, place.stride);
            let block = r.peek(set.plus(vshmem_core::layout::set::SEMS)).unwrap();
            let Ok(sems) = r.block(block) else { return false };
            let from = at.wrapping_sub(sems.0);
            block != 0
                && from < 8 * words::STRIDE
                && (from % words::STRIDE == words::OTIME
                    || from % words::STRIDE == 0 && now == before | words::FROZEN)
        })
    }
}

type Act = fn(&Scene, &Region<PauseMem>, &mut Lane) -> Result<(), Error>;

const ACTS: &[(&str, Act)] = &[
    ("one operation", |s, r, on| {
        let fast = sem::op_fast(r, &s.victim, s.set, op(0, -1, 0));
        fast.unwrap_or_else(|| sem::op(r, on, &s.victim, s.set, &[op(0, -1, 0)], None))
    }),
    ("one operation with undo", |s, r, on| {
        sem::op(r, on, &s.victim, s.set, &[op(0, -1, UNDO)], None)
    }),
    ("two operations", |s, r, on| {
        sem::op(r, on, &s.victim, s.set, &[op(0, -1, 0), op(1, 1, UNDO)], None)
    }),
    ("waiting", |s, r, on| {
        let soon = r.mem().now() + 2_000_000;
        match sem::op(r, on, &s.victim, s.set, &[op(2, -1, 0)], Some(soon)) {
            Err(Error::Errno(Errno::EAGAIN)) => Ok(()),
            other => other,
        }
    }),
    ("setting all", |s, r, on| sem::setall(r, on, &s.victim, s.set, &[1; 4])),
    ("sending", |s, r, on| {
        msg::send(r, on, &s.victim, s.queue, 9, &[0x33; 900], NOWAIT, None).map(drop)
    }),
    ("receiving", |s, r, on| {
        msg::recv(r, on, &s.victim, s.queue, &mut [0; 64], 0, NOWAIT, None).map(drop)
    }),
    ("making a segment", |s, r, on| shm::get(r, on, &s.victim, 5, 40_000, CREATE).map(drop)),
    ("attaching", |s, r, on| shm::attach(r, on, &s.victim, s.segment, 6).map(drop)),
    ("removing a queue", |s, r, on| msg::remove(r, on, &s.victim, s.queue)),
    ("removing a set", |s, r, on| sem::remove(r, on, &s.victim, s.set)),
];

fn stopped_in(name: &str, act: Act) {
    let mut ended = [0, 0];
    // All of the first accesses, then every third: the places of interest are many.
    for n in (0..12).chain((12..).step_by(3)) {
        let (s, mut on) = scene();
        let s = Arc::new(s);
        let slow = pausing(&s.mem);
        let then = Arc::new(Mutex::new(None));
        let (inner, snapshot) = (s.clone(), then.clone());
        slow.mem().stop_at(n, move || {
            inner.fence();
            inner.go_on();
            *snapshot.lock().unwrap() = Some(inner.words());
        });
        let got = act(&s, &slow, &mut on);
        if slow.mem().pending() {
            break;
        }
        match got {
            Ok(()) => ended[0] += 1,
            Err(Error::Errno(Errno::EIDRM)) => ended[1] += 1,
            Err(e) => panic!("{name}, stopped at access {n}: {e}"),
        }
        let before = then.lock().unwrap().take().unwrap();
        for ((at, before), (_, now)) in before.into_iter().zip(s.words()) {
            assert!(
                before == now || s.own(at, before, now),
                "{name}, stopped at access {n}: {before:#x} became {now:#x} at {at:#x}"
            );
        }
        // Nor does anything it begins later.
        let again = act(&s, &slow, &mut on);
        let out = matches!(again, Err(Error::Errno(Errno::EIDRM | Errno::EINVAL)));
        assert!(out, "{name}, after {n}: {again:?}");
        let r = region(&s.mem);
        let mut on = Lane::new(endpoint(&r).id());
        assert_eq!(check::look(&r, &mut on).unwrap(), [], "{name}, after {n}");
        // Its kernel has gone: so has all of it.
        assert!(r.set_peer_state(s.peer, peer::DEAD).unwrap());
        reap::peer(&r, &mut on, s.peer).unwrap();
        assert_eq!(r.peer(s.peer).unwrap(), None);
        assert_eq!(r.lane_owner(s.lane).unwrap(), None);
        assert_eq!(check::look(&r, &mut on).unwrap(), [], "{name}, after {n} and the end");
        assert_eq!(r.peek(r.lane(s.lane).unwrap().plus(lane::STATUS)).unwrap(), wait::IDLE);
    }
    println!("{name}: {} times it had happened, {} times it had not", ended[0], ended[1]);
    assert!(ended[1] > 0, "{name} was never stopped in time");
}

#[test]
fn a_task_fenced_at_any_access_of_a_call_has_no_effect_afterwards() {
    // Each on a thread: they take seconds in a debug build.
    std::thread::scope(|scope| {
        for (name, act) in ACTS {
            scope.spawn(|| stopped_in(name, *act));
        }
    });
}

#[test]
fn what_a_fenced_task_held_is_free_at_once() {
    let (s, mut on) = scene();
    let r = region(&s.mem);
    sem::op(&r, &mut on, &s.victim, s.set, &[op(0, -5, UNDO)], None).unwrap();
    shm::attach(&r, &mut on, &s.victim, s.segment, 6).unwrap();
    s.fence();
    let (c, mut mine) = (&s.other, Lane::new(s.others));
    assert_eq!(sem::getval(&r, &mut mine, c, s.set, 0).unwrap(), 5);
    assert_eq!(shm::stat(&r, &mut mine, c, s.segment).unwrap().nattch, 0);
    assert_eq!(sem::op_fast(&r, &s.victim, s.set, op(0, -1, 0)), Some(Err(Errno::EIDRM.into())));
    assert!(r.check_task(s.victim.task).unwrap_err().is_fenced());
    // A living peer's slot is not this one's, though the guest enters anew.
    assert_ne!(r.claim_peer(7, [1; 16], 2, "guest").unwrap(), Some(s.peer));
}
