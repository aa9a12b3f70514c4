//! What is withdrawn is gone for other kernels' tasks, and for them alone.
#![allow(missing_docs)]

mod common;

use common::pause::pausing;
use common::{CREATE, caller, endpoint, heap, region};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;
use vshmem_core::layout::{lane, obj, peer, task};
use vshmem_core::mem::HeapMem;
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, NewTask, Owner};
use vshmem_core::{Lane, LaneId, Platform, Region, wait};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{
    Caller, Errno, Error, Result, msg, number_of, reap, sem, shm, withdraw, withdrawn_to,
};

const NOWAIT: i32 = 0o4000;

fn guest<P: Platform>(r: &Region<P>) -> u32 {
    r.claim_peer(7, [1; 16], 2, "guest").unwrap().unwrap()
}

/// A task of `peer`, with its lane.
fn task_of<P: Platform>(r: &Region<P>, peer: u32, pid: u32) -> (Caller, Lane) {
    let new = NewTask { peer, pid, start: 1, uid: 1000, comm: "test", state: task::LIVE };
    let id = r.claim_task(&mut endpoint(r), &new).unwrap().unwrap();
    let lane = r.claim_lane(Owner::Task(id)).unwrap().unwrap();
    (Caller { who: Identity::new(peer, pid), ..caller(id, pid) }, lane)
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> Errno {
    match result {
        Err(Error::Errno(e)) => e,
        other => panic!("{other:?}"),
    }
}

/// Fails the test if `f` does not end.
fn within<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, end) = mpsc::channel();
    std::thread::spawn(move || done.send(f()));
    end.recv_timeout(Duration::from_secs(60)).expect("the test hangs, or failed")
}

struct Three {
    mem: HeapMem,
    r: Region<HeapMem>,
    other: u32,
    mine: (Caller, Lane),
    ids: [(Kind, i32); 3],
}

/// An object of each kind with key 5, the set's and the queue's with something in it, of a task of
/// the host.
fn three() -> Three {
    let mem = heap();
    let r = region(&mem);
    let other = guest(&r);
    let (c, mut on) = task_of(&r, 0, 10);
    let set = sem::get(&r, &mut on, &c, 5, 2, CREATE).unwrap();
    sem::setall(&r, &mut on, &c, set, &[3, 0]).unwrap();
    let queue = msg::get(&r, &mut on, &c, 5, CREATE).unwrap();
    msg::send(&r, &mut on, &c, queue, 1, b"one", 0, None).unwrap();
    let segment = shm::get(&r, &mut on, &c, 5, 4096, CREATE).unwrap();
    let ids = [(Kind::Set, set), (Kind::Queue, queue), (Kind::Seg, segment)];
    Three { mem, r, other, mine: (c, on), ids }
}

/// Any use of the object.
fn touch<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, kind: Kind, id: i32) -> Result<()> {
    match kind {
        Kind::Set => sem::getval(r, on, c, id, 0).map(drop),
        Kind::Queue => msg::stat(r, on, c, id).map(drop),
        Kind::Seg => shm::stat(r, on, c, id).map(drop),
    }
}

fn find<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, kind: Kind) -> Result<i32> {
    match kind {
        Kind::Set => sem::get(r, on, c, 5, 0, 0),
        Kind::Queue => msg::get(r, on, c, 5, 0),
        Kind::Seg => shm::get(r, on, c, 5, 0, 0),
    }
}

#[test]
fn others_lose_it_and_its_own_kernel_goes_on() {
    let Three { r, other, mine: (c, mut on), ids, .. } = three();
    let (d, mut there) = task_of(&r, 0, 11);
    let (o, mut far) = task_of(&r, other, 12);
    for (kind, id) in ids {
        assert_eq!(find(&r, &mut far, &o, kind).unwrap(), id);
        assert_eq!(withdraw(&r, &mut on, &c, kind, id).unwrap(), []);
        let index = id & 0x7fff;
        assert_eq!(withdrawn_to(&r, kind, index).unwrap(), Some(0));
        // By id for those here, by key for nobody.
        touch(&r, &mut on, &c, kind, id).unwrap();
        touch(&r, &mut there, &d, kind, id).unwrap();
        assert_eq!(errno(touch(&r, &mut far, &o, kind, id)), Errno::EINVAL);
        for (c, on) in [(&c, &mut on), (&o, &mut far)] {
            assert_eq!(errno(find(&r, on, c, kind)), Errno::ENOENT);
        }
        // Again is no mistake; for others there is nothing to withdraw or remove.
        assert_eq!(withdraw(&r, &mut on, &c, kind, id).unwrap(), []);
        assert_eq!(errno(withdraw(&r, &mut far, &o, kind, id)), Errno::EINVAL);
    }
    let [(_, set), (_, queue), (_, segment)] = ids;
    for num in [0, 1] {
        let op = SemBuf { num, op: 1, flg: 0 };
        assert!(matches!(sem::op_fast(&r, &o, set, op), None | Some(Err(_))));
        assert_eq!(errno(sem::op(&r, &mut far, &o, set, &[op], None)), Errno::EINVAL);
        sem::op(&r, &mut on, &c, set, &[op], None).unwrap();
        // The first operation after the withdrawal has thawed the word.
        assert_eq!(sem::op_fast(&r, &c, set, op), Some(Ok(())));
    }
    assert_eq!(sem::getall(&r, &mut on, &c, set).unwrap(), [5, 2]);
    assert_eq!(errno(sem::setall(&r, &mut far, &o, set, &[0, 0])), Errno::EINVAL);
    assert_eq!(errno(sem::remove(&r, &mut far, &o, set)), Errno::EINVAL);
    assert_eq!(errno(sem::stat_index(&r, &mut far, &o, set & 0x7fff, true)), Errno::EINVAL);
    assert_eq!(errno(msg::send(&r, &mut far, &o, queue, 1, b"", NOWAIT, None)), Errno::EINVAL);
    let got = msg::recv(&r, &mut far, &o, queue, &mut [0; 9], 0, NOWAIT, None);
    assert_eq!(errno(got), Errno::EINVAL);
    assert_eq!(msg::recv(&r, &mut on, &c, queue, &mut [0; 9], 0, NOWAIT, None).unwrap(), (1, 3));
    assert_eq!(errno(shm::attach(&r, &mut far, &o, segment, 6)), Errno::EINVAL);
    shm::attach(&r, &mut on, &c, segment, 6).unwrap();
    // The key is free for an object that is shared.
    let new = sem::get(&r, &mut far, &o, 5, 1, CREATE).unwrap();
    assert_ne!(new, set);
    assert_eq!(sem::get(&r, &mut on, &c, 5, 0, 0).unwrap(), new);
    assert_eq!(withdrawn_to(&r, Kind::Set, new & 0x7fff).unwrap(), None);
    assert_eq!(number_of(new), 0);
}

#[test]
fn only_owner_creator_and_administrator_may() {
    let Three { r, mine: (c, mut on), ids, .. } = three();
    let (mut d, mut there) = task_of(&r, 0, 11);
    d.uid = 2000;
    for (kind, id) in ids {
        assert_eq!(errno(withdraw(&r, &mut there, &d, kind, id)), Errno::EPERM);
        assert_eq!(withdrawn_to(&r, kind, id & 0x7fff).unwrap(), None);
        assert_eq!(find(&r, &mut on, &c, kind).unwrap(), id);
    }
    d.sys_admin = true;
    for (kind, id) in ids {
        assert_eq!(withdraw(&r, &mut there, &d, kind, id).unwrap(), []);
        touch(&r, &mut on, &c, kind, id).unwrap();
    }
    assert_eq!(errno(withdraw(&r, &mut on, &c, Kind::Set, 1 << 30 | 77)), Errno::EINVAL);
}

fn waiting(r: &Region<HeapMem>, on: &Lane) -> bool {
    let at = r.lane(on.id()).unwrap().plus(lane::STATUS);
    r.peek(at).unwrap() == wait::WAITING
}

/// Sleepers of both kernels on everything one can sleep on.
#[test]
fn sleepers_of_others_are_sent_away_and_those_here_sleep_on() {
    within(|| {
        let Three { mem, r, other, mine: (c, mut on), ids, .. } = three();
        let [(_, set), (_, queue), _] = ids;
        let full = msg::get(&r, &mut on, &c, 6, CREATE).unwrap();
        while msg::send(&r, &mut on, &c, full, 1, &[0; 4096], NOWAIT, None).is_ok() {}
        type Wait = fn(&Region<HeapMem>, &mut Lane, &Caller, [i32; 3]) -> Result<()>;
        let waits: [Wait; 5] = [
            |r, on, c, ids| sem::op(r, on, c, ids[0], &[SemBuf { num: 1, op: -1, flg: 0 }], None),
            |r, on, c, ids| sem::op(r, on, c, ids[0], &[SemBuf { num: 0, op: 0, flg: 0 }], None),
            |r, on, c, ids| {
                let ops =
                    [SemBuf { num: 0, op: -1, flg: 0x1000 }, SemBuf { num: 1, op: -1, flg: 0 }];
                sem::op(r, on, c, ids[0], &ops, None)
            },
            |r, on, c, ids| msg::recv(r, on, c, ids[1], &mut [0; 9], 9, 0, None).map(drop),
            |r, on, c, ids| msg::send(r, on, c, ids[2], 2, &[0; 4096], 0, None),
        ];
        let mut all = Vec::new();
        for (i, wait) in waits.into_iter().enumerate() {
            for from in [0, other] {
                let (d, mut lane) = task_of(&r, from, 100 + i as u32 * 2 + from);
                let here = Lane::new(lane.id());
                let r = region(&mem);
                let thread =
                    std::thread::spawn(move || wait(&r, &mut lane, &d, [set, queue, full]));
                all.push((i, from, here, thread));
            }
        }
        while !all.iter().all(|(_, _, lane, _)| waiting(&r, lane)) {
            std::thread::yield_now();
        }
        for (kind, id) in [(Kind::Set, set), (Kind::Queue, queue), (Kind::Queue, full)] {
            withdraw(&r, &mut on, &c, kind, id).unwrap();
        }
        let (far, near): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, from, ..)| *from != 0);
        for (i, _, _, thread) in far {
            assert_eq!(errno(thread.join().unwrap()), Errno::EIDRM, "wait {i}");
        }
        assert!(near.iter().all(|(_, _, lane, _)| waiting(&r, lane)));
        assert_eq!(sem::getncnt(&r, &mut on, &c, set, 1).unwrap(), 2);
        assert_eq!(sem::getzcnt(&r, &mut on, &c, set, 0).unwrap(), 1);
        // What they wait for comes: 3 - 1 of the first, then two more for the others.
        msg::send(&r, &mut on, &c, queue, 9, b"nine", 0, None).unwrap();
        msg::recv(&r, &mut on, &c, full, &mut [0; 4096], 0, 0, None).unwrap();
        sem::op(&r, &mut on, &c, set, &[SemBuf { num: 1, op: 2, flg: 0 }], None).unwrap();
        sem::op(&r, &mut on, &c, set, &[SemBuf { num: 0, op: -2, flg: 0 }], None).unwrap();
        for (i, _, _, thread) in near {
            assert_eq!(thread.join().unwrap(), Ok(()), "wait {i}");
        }
        assert_eq!(sem::getall(&r, &mut on, &c, set).unwrap(), [0, 0]);
    });
}

#[test]
fn more_sleepers_than_one_transaction_holds_are_all_sent_away() {
    within(|| {
        let mem = heap();
        let r = region(&mem);
        let other = guest(&r);
        let (c, mut on) = task_of(&r, 0, 10);
        let set = sem::get(&r, &mut on, &c, 5, 1, CREATE).unwrap();
        // Threads of one task; a region of this size has lanes for few.
        let (d, first) = task_of(&r, other, 20);
        let mut lanes = vec![first];
        while let Some(lane) = r.claim_lane(Owner::Task(d.task)).unwrap() {
            lanes.push(lane);
        }
        let mut threads = Vec::new();
        let ids: Vec<LaneId> = lanes.iter().map(Lane::id).collect();
        for mut lane in lanes {
            let (d, r) = (d.clone(), region(&mem));
            threads.push(std::thread::spawn(move || {
                sem::op(&r, &mut lane, &d, set, &[SemBuf { num: 0, op: -1, flg: 0 }], None)
            }));
        }
        while !ids.iter().all(|id| waiting(&r, &Lane::new(*id))) {
            std::thread::yield_now();
        }
        withdraw(&r, &mut on, &c, Kind::Set, set).unwrap();
        for thread in threads {
            assert_eq!(errno(thread.join().unwrap()), Errno::EIDRM);
        }
    });
}

#[test]
fn what_others_have_attached_they_keep_and_are_named() {
    let Three { r, other, mine: (c, mut on), ids, .. } = three();
    let id = ids[2].1;
    let (o, mut far) = task_of(&r, other, 12);
    let (p, mut further) = task_of(&r, other, 13);
    let got = shm::attach(&r, &mut far, &o, id, 6).unwrap();
    shm::attach(&r, &mut far, &o, id, 4).unwrap();
    shm::attach(&r, &mut further, &p, id, 6).unwrap();
    shm::attach(&r, &mut on, &c, id, 6).unwrap();
    let mut holders = withdraw(&r, &mut on, &c, Kind::Seg, id).unwrap();
    holders.sort_by_key(|h| h.pid);
    let seen: Vec<_> = holders.iter().map(|h| (h.task, h.peer, h.pid, h.times)).collect();
    assert_eq!(seen, [(o.task, other, 12, 2), (p.task, other, 13, 1)]);
    assert_eq!(errno(shm::attach(&r, &mut far, &o, id, 4)), Errno::EINVAL);
    // A piece more of what it has (a hole in the middle) is counted, and all of it let go.
    shm::attach(&r, &mut far, &o, id, 0).unwrap();
    assert_eq!(shm::stat(&r, &mut on, &c, id).unwrap().nattch, 5);
    for _ in 0..3 {
        shm::detach(&r, &mut far, &o, got.seg, got.life).unwrap();
    }
    // Forked before or after, a child has what its parent has.
    let (child, _) = task_of(&r, other, 14);
    shm::inherit(&r, &mut further, p.task, child.task, |_, _| 0).unwrap();
    assert_eq!(withdraw(&r, &mut on, &c, Kind::Seg, id).unwrap().len(), 2);
    reap::task(&r, &mut endpoint(&r), p.task).unwrap();
    reap::task(&r, &mut endpoint(&r), child.task).unwrap();
    assert_eq!(withdraw(&r, &mut on, &c, Kind::Seg, id).unwrap(), []);
    assert_eq!(shm::stat(&r, &mut on, &c, id).unwrap().nattch, 1);
}

#[test]
fn undo_of_others_is_kept() {
    let Three { r, other, mine: (c, mut on), ids, .. } = three();
    let id = ids[0].1;
    let (o, mut far) = task_of(&r, other, 12);
    let lock = [SemBuf { num: 0, op: -2, flg: 0x1000 }];
    sem::op(&r, &mut far, &o, id, &lock, None).unwrap();
    withdraw(&r, &mut on, &c, Kind::Set, id).unwrap();
    assert_eq!(sem::getval(&r, &mut on, &c, id, 0).unwrap(), 1);
    reap::task(&r, &mut endpoint(&r), o.task).unwrap();
    assert_eq!(sem::getval(&r, &mut on, &c, id, 0).unwrap(), 3);
}

#[test]
fn it_ends_with_the_kernel_it_was_withdrawn_to() {
    let Three { r, other, mine: (c, mut on), .. } = three();
    let (o, mut far) = task_of(&r, other, 12);
    let before = r.pages().unwrap().0;
    let set = sem::get(&r, &mut far, &o, 7, 3, CREATE).unwrap();
    let queue = msg::get(&r, &mut far, &o, 7, CREATE).unwrap();
    msg::send(&r, &mut far, &o, queue, 1, b"lost", 0, None).unwrap();
    let segment = shm::get(&r, &mut far, &o, 7, 1 << 20, CREATE).unwrap();
    let held = shm::get(&r, &mut far, &o, 8, 4096, CREATE).unwrap();
    let got = shm::attach(&r, &mut on, &c, held, 6).unwrap();
    let shared = msg::get(&r, &mut far, &o, 9, CREATE).unwrap();
    for (kind, id) in [(Kind::Set, set), (Kind::Queue, queue), (Kind::Seg, segment)] {
        assert_eq!(withdraw(&r, &mut far, &o, kind, id).unwrap(), []);
    }
    assert_eq!(withdraw(&r, &mut far, &o, Kind::Seg, held).unwrap().len(), 1);
    r.set_peer_state(other, peer::DEAD).unwrap();
    for _ in 0..2 {
        reap::peer(&r, &mut endpoint(&r), other).unwrap();
    }
    // What was shared is there, what somebody has attached until he lets go, the rest is gone.
    msg::stat(&r, &mut on, &c, shared).unwrap();
    let life = |kind, id: i32| {
        let at = r.object(kind, id as u32 & 0x7fff).unwrap();
        r.peek(at.plus(obj::LIFE)).unwrap() & 3
    };
    for (kind, id) in [(Kind::Set, set), (Kind::Queue, queue), (Kind::Seg, segment)] {
        assert_eq!(life(kind, id), obj::FREE, "{kind:?}");
    }
    assert_eq!(life(Kind::Seg, held), obj::DOOMED);
    shm::detach(&r, &mut on, &c, got.seg, got.life).unwrap();
    assert_eq!(life(Kind::Seg, held), obj::FREE);
    // Blocks are carved from a few pages; the segment's 256 are free.
    assert!(r.pages().unwrap().0 < before + 256, "{} of {before}", r.pages().unwrap().0);
}

/// Stopped at every access of a call, an other's task finds the object withdrawn when it goes on: its
/// call has happened before, or fails; it never happens after.
#[test]
fn no_call_of_others_happens_after_the_withdrawal() {
    type Call =
        fn(&Region<common::pause::PauseMem>, &mut Lane, &Caller, &[(Kind, i32); 3]) -> Result<()>;
    let calls: [(&str, Call); 8] = [
        ("fast semop", |r, _, c, ids| {
            let op = SemBuf { num: 0, op: 1, flg: 0 };
            sem::op_fast(r, c, ids[0].1, op).unwrap_or(Err(Errno::EIDRM.into()))
        }),
        ("semop", |r, on, c, ids| {
            let ops = [SemBuf { num: 0, op: 1, flg: 0 }, SemBuf { num: 1, op: 1, flg: 0 }];
            sem::op(r, on, c, ids[0].1, &ops, None)
        }),
        ("semop with undo", |r, on, c, ids| {
            sem::op(r, on, c, ids[0].1, &[SemBuf { num: 0, op: 1, flg: 0x1000 }], None)
        }),
        ("SETALL", |r, on, c, ids| sem::setall(r, on, c, ids[0].1, &[8, 9])),
        ("msgsnd", |r, on, c, ids| msg::send(r, on, c, ids[1].1, 2, b"two", NOWAIT, None)),
        ("msgrcv", |r, on, c, ids| {
            msg::recv(r, on, c, ids[1].1, &mut [0; 9], 0, NOWAIT, None).map(drop)
        }),
        ("shmat", |r, on, c, ids| shm::attach(r, on, c, ids[2].1, 6).map(drop)),
        ("IPC_SET", |r, on, c, ids| shm::set(r, on, c, ids[2].1, 1000, 1000, 0o640)),
    ];
    for (name, call) in calls {
        let mut refused = 0;
        for n in 0.. {
            let Three { mem, r, other, mine, ids } = three();
            let (o, mut far) = task_of(&r, other, 12);
            let slow = pausing(&mem);
            let seen = Rc::new(Cell::new(None));
            let (note, m2) = (seen.clone(), mem.clone());
            slow.mem().stop_at(n, move || {
                let (r, (c, mut on)) = (region(&m2), mine);
                for (kind, id) in ids {
                    withdraw(&r, &mut on, &c, kind, id).unwrap();
                }
                note.set(Some(state(&r, &mut on, &c, &ids)));
            });
            let done = call(&slow, &mut far, &o, &ids);
            let Some(then) = seen.take() else {
                assert_eq!(done, Ok(()), "{name}");
                break;
            };
            let (d, mut on) = task_of(&r, 0, 30);
            let now = state(&r, &mut on, &d, &ids);
            assert_eq!(now, then, "{name}, stopped at access {n}: {done:?}");
            match done {
                Ok(()) => {}
                Err(Error::Errno(Errno::EINVAL | Errno::EIDRM)) => refused += 1,
                other => panic!("{name}, stopped at access {n}: {other:?}"),
            }
        }
        assert!(refused > 0, "{name} was never refused");
    }
}

type State = (Vec<u16>, u64, u64, u32);

fn state(r: &Region<HeapMem>, on: &mut Lane, c: &Caller, ids: &[(Kind, i32); 3]) -> State {
    let values = sem::getall(r, on, c, ids[0].1).unwrap();
    let messages = msg::stat(r, on, c, ids[1].1).unwrap().qnum;
    let segment = shm::stat(r, on, c, ids[2].1).unwrap();
    (values, messages, segment.nattch, segment.perm.mode)
}
