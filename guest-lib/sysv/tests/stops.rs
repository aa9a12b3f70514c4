//! Stopped at every access of every call, while others go on; then it continues.
#![allow(missing_docs, unused_imports, clippy::wildcard_imports)]

mod common;
use common::pause::{PauseMem, pausing};
use common::still::Still;
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

const ACTS: u8 = 17;

fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

/// 500 undo operations, after SETALL: the kernel does it.
#[test]
fn five_hundred_undo_operations_fit_one_step() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let set = sem::get(&r, &mut mine, &c, 1, 500, CREATE).unwrap();
    sem::setall(&r, &mut mine, &c, set, &[1; 500]).unwrap();
    let ops: Vec<_> = (0..500).map(|i| op(i, 1, UNDO)).collect();
    sem::op(&r, &mut mine, &c, set, &ops, None).unwrap();
}

/// such a sleeper poisons the set for everybody.
#[test]
fn a_sleeper_with_many_undo_operations_is_served() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let (d, other) = task(&r, &mut on, 11);
    let set = sem::get(&r, &mut mine, &c, 1, 500, CREATE).unwrap();
    let mut v = [1; 500];
    v[499] = 0;
    sem::setall(&r, &mut mine, &c, set, &v).unwrap();
    let id = other.id();
    std::thread::scope(|s| {
        let r = &r;
        s.spawn(move || {
            let ops: Vec<_> = (0..500).map(|i| op(i, -1, UNDO)).collect();
            println!("sleeper: {:?}", sem::op(r, &mut Lane::new(id), &d, set, &ops, None));
        });
        while sem::getncnt(r, &mut mine, &c, set, 499).unwrap() == 0 {
            std::thread::yield_now();
        }
        let got = sem::op(r, &mut mine, &c, set, &[op(499, 1, 0)], None);
        // free the sleeper so that the test ends
        if got.is_err() {
            let _ = sem::remove(r, &mut mine, &c, set);
        }
        got.unwrap();
    });
}

/// two reapers, one stopped at any access; meanwhile the other finishes and the slots find new owners.
#[test]
fn a_stopped_reaper_leaves_the_next_owner_of_the_slot_alone() {
    let mut bad = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
        sem::setval(&r, &mut mine, &c, set, 0, 5).unwrap();
        let queue = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
        msg::send(&r, &mut mine, &c, queue, 7, b"seven", 0, None).unwrap();
        // the dead task: -1 UNDO; lane waits
        let (v, vl) = task(&r, &mut on, 20);
        sem::op(&r, &mut Lane::new(vl.id()), &v, set, &[op(0, -1, UNDO)], None).unwrap();
        let second = endpoint(&r).id();
        let slow = pausing(&mem);
        let m2 = mem.clone();
        let vlane = vl.id();
        let vtask = v.task;
        let out = std::sync::Arc::new(std::sync::Mutex::new(None));
        let out2 = out.clone();
        slow.mem().stop_at(n, move || {
            let r = region(&m2);
            let mut on = Lane::new(second);
            reap::task(&r, &mut on, vtask).unwrap();
            let (w, wl) = task(&r, &mut on, 30);
            if w.task.index != vtask.index || wl.id() != vlane {
                return;
            }
            // New owner: takes 2 with UNDO, and holds them.
            sem::op(&r, &mut Lane::new(wl.id()), &w, set, &[op(0, -2, UNDO)], None).unwrap();
            // Its thread sleeps for 10.
            *out2.lock().unwrap() = Some((w, wl.id()));
        });
        let mut rl = endpoint(&r);
        let _ = reap::task(&slow, &mut rl, v.task);
        if slow.mem().pending() {
            break;
        }
        if out.lock().unwrap().is_some() {
            let now = sem::getval(&r, &mut mine, &c, set, 0).unwrap();
            if now != 3 {
                bad.entry(format!("value {now} instead of 3")).or_default().push(n);
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// the same, the new owner's thread sleeps in semop / holds a block between two transactions.
#[test]
fn a_stopped_reaper_leaves_the_next_owner_of_the_lane_alone() {
    let mut bad = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for n in 0..400 {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
        let (v, vl) = task(&r, &mut on, 20);
        let second = endpoint(&r).id();
        let slow = pausing(&mem);
        let m2 = mem.clone();
        let (vlane, vtask) = (vl.id(), v.task);
        let out = std::sync::Arc::new(std::sync::Mutex::new(None));
        let out2 = out.clone();
        slow.mem().stop_at(n, move || {
            let r = region(&m2);
            let mut on = Lane::new(second);
            reap::task(&r, &mut on, vtask).unwrap();
            let (w, wl) = task(&r, &mut on, 30);
            if wl.id() != vlane {
                return;
            }
            let r3 = region(&m2);
            let id = wl.id();
            let t = std::thread::spawn(move || {
                sem::op(&r3, &mut Lane::new(id), &w, set, &[op(0, -1, 0)], None)
            });
            let (c, mut l) = task(&r, &mut on, 40);
            while sem::getncnt(&r, &mut l, &c, set, 0).unwrap() == 0 {
                std::thread::yield_now();
            }
            *out2.lock().unwrap() = Some(t);
        });
        let mut rl = endpoint(&r);
        let res = reap::task(&slow, &mut rl, v.task);
        if slow.mem().pending() {
            break;
        }
        let t = out.lock().unwrap().take();
        if let Some(t) = t {
            std::thread::sleep(std::time::Duration::from_millis(3));
            if t.is_finished() {
                bad.entry(format!("semop(-1) on 0 returned {:?}", t.join().unwrap()))
                    .or_default()
                    .push(n);
            } else {
                sem::remove(&r, &mut mine, &c, set).unwrap();
                let got = t.join().unwrap();
                if got.is_ok() {
                    bad.entry(format!("semop(-1) on 0 returned {got:?}")).or_default().push(n);
                }
            }
        }
        if let Err(e) = res {
            bad.entry(format!("reaper: {e}")).or_default().push(n);
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// a receiver whose task is reaped while it sleeps (fenced, or taken for dead).
#[test]
fn a_task_reaped_while_it_runs_gets_an_error() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let (v, vl) = task(&r, &mut on, 20);
    let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
    let queue = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    // It received once before, so HELD names a block that is free.
    msg::send(&r, &mut mine, &c, queue, 7, b"seven", 0, None).unwrap();
    msg::recv(&r, &mut Lane::new(vl.id()), &v, queue, &mut [0; 8], 0, 0, None).unwrap();
    let id = vl.id();
    let m2 = mem.clone();
    let v2 = v.clone();
    let t = std::thread::spawn(move || {
        msg::recv(&region(&m2), &mut Lane::new(id), &v2, queue, &mut [0; 8], 0, 0, None)
    });
    let at = r.object(Kind::Queue, queue as u32 & 0x7fff).unwrap();
    while r.peek(at.plus(queue::RECV_HEAD)).unwrap() == 0 {
        std::thread::yield_now();
    }
    reap::task(&r, &mut on, v.task).unwrap();
    let got = t.join().unwrap();
    println!("receiver: {got:?}");
    // two sends now get the same block?
    let (m, ml) = task(&r, &mut on, 30);
    let _ = (m, ml);
    msg::send(&r, &mut mine, &c, queue, 1, b"one", 0, None).unwrap();
    let sent = msg::send(&r, &mut mine, &c, queue, 2, b"two", 0, None);
    println!(
        "second send {sent:?}; verify {:?}",
        msg::verify(&r, &mut mine, queue as u32 & 0x7fff)
    );
    let mut buf = [0; 8];
    println!("{:?}", msg::recv(&r, &mut mine, &c, queue, &mut buf, 0, NOWAIT, None));
    println!("{:?}", msg::recv(&r, &mut mine, &c, queue, &mut buf, 0, NOWAIT, None));
    // semop
    let (w, wl) = task(&r, &mut on, 31);
    let (id, m2, w2) = (wl.id(), mem.clone(), w.clone());
    let t = std::thread::spawn(move || {
        sem::op(&region(&m2), &mut Lane::new(id), &w2, set, &[op(0, -1, 0)], None)
    });
    while sem::getncnt(&r, &mut mine, &c, set, 0).unwrap() == 0 {
        std::thread::yield_now();
    }
    reap::task(&r, &mut on, w.task).unwrap();
    let s = t.join().unwrap();
    println!("semop: {s:?}");
    assert!(got.is_err() && s.is_err());
}

/// a robbed remover freezes 64-byte-strided words of foreign memory.
#[test]
fn a_robbed_remover_writes_nothing_foreign() {
    let mut bad = Vec::new();
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let (d, mut other) = task(&r, &mut on, 11);
        let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
        // A segment; its pages are zero.
        let seg = shm::get(&r, &mut mine, &c, 2, 2 << 20, CREATE).unwrap();
        let a = shm::attach(&r, &mut mine, &c, seg, 6).unwrap();
        let slow = pausing(&mem);
        let m2 = mem.clone();
        let id = other.id();
        let d2 = d.clone();
        slow.mem().stop_at(n, move || {
            let r = region(&m2);
            let mut on = Lane::new(id);
            if sem::remove(&r, &mut on, &d2, set).is_err() {
                return;
            }
            // 64 later the index comes round, with a large set.
            for i in 0..64 {
                let nsems = if i == 63 { 20_000 } else { 1 };
                let s = sem::get(&r, &mut on, &d2, 0, nsems, CREATE).unwrap();
                if i < 63 {
                    sem::remove(&r, &mut on, &d2, s).unwrap();
                }
            }
        });
        let _ = sem::remove(&slow, &mut mine, &c, set);
        if slow.mem().pending() {
            break;
        }
        let mut dirty = 0;
        for e in &a.extents {
            for p in 0..e.pages {
                for i in 0..64 {
                    let w = mem
                        .load(
                            Offset(u64::from(e.first_page + p) * 4096 + i * 64),
                            Ordering::Relaxed,
                        )
                        .unwrap();
                    dirty += u32::from(w != 0);
                }
            }
        }
        if dirty > 0 {
            bad.push((n, dirty));
        }
        let _ = &mut other;
    }
    assert!(bad.is_empty(), "words of a segment overwritten (stopped at access, words): {bad:?}");
}

/// attach by a thread of a reaped task leaks.
#[test]
fn an_attachment_after_reaping_is_refused() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let (v, vl) = task(&r, &mut on, 20);
    let seg = shm::get(&r, &mut mine, &c, 1, 4096, CREATE).unwrap();
    reap::task(&r, &mut on, v.task).unwrap();
    let got = shm::attach(&r, &mut Lane::new(vl.id()), &v, seg, 6);
    let (_, _) = task(&r, &mut on, 30);
    assert!(got.is_err(), "nattch {}", shm::stat(&r, &mut mine, &c, seg).unwrap().nattch);
}

/// more than a journal of senders becomes ready by one receive: nobody settles the rest.
#[test]
fn a_large_hand_over_is_finished() {
    let spec = {
        let mut s = vshmem_core::format::Spec::for_file("test", 64 << 20).unwrap();
        s.tasks = 400;
        s
    };
    let mem = HeapMem::new(spec.len);
    Region::format(mem.clone(), &spec).unwrap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let q = msg::get(&r, &mut mine, &c, 1, CREATE).unwrap();
    let at = r.object(Kind::Queue, q as u32 & 0x7fff).unwrap();
    for _ in 0..2 {
        msg::send(&r, &mut mine, &c, q, 1, &[0; 8192], 0, None).unwrap();
    }
    let n = 300;
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut all = Vec::new();
    for i in 0..n {
        let (w, l) = task(&r, &mut on, 100 + i);
        let (m, id, e) = (mem.clone(), l.id(), ended.clone());
        all.push(std::thread::spawn(move || {
            let got = msg::send(&region(&m), &mut Lane::new(id), &w, q, 2, &[0; 8], 0, None);
            e.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            got
        }));
    }
    let waiting = |r: &Region<HeapMem>| {
        (0..r.table(Table::Lanes).count as u32)
            .filter(|i| {
                let s = r.lane(LaneId(*i)).unwrap();
                r.peek(s.plus(lane::STATUS)).unwrap() == 1
                    && r.peek(s.plus(lane::WAIT_KIND)).unwrap() == waits::SEND
            })
            .count()
    };
    while waiting(&r) < n as usize {
        std::thread::yield_now();
    }
    msg::recv(&r, &mut mine, &c, q, &mut [0; 8192], 1, 0, None).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (left, dirty) = (waiting(&r), r.peek(at.plus(queue::DIRTY)).unwrap());
    reap::rescan(&r, &mut on, 0).unwrap();
    for t in all {
        t.join().unwrap().unwrap();
    }
    assert_eq!((left, dirty), (0, 0), "senders that fit still sleep, queue dirty");
}

/// a stopped second reaper of a peer frees the slot of the peer that came after.
#[test]
fn a_stopped_reaper_leaves_a_living_peer_alone() {
    let mut bad = std::collections::BTreeMap::<&str, Vec<u64>>::new();
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let first = endpoint(&r).id();
        let second = endpoint(&r).id();
        let p = r.claim_peer(7, [1; 16], 2, "a").unwrap().unwrap();
        r.set_peer_state(p, peer::DEAD).unwrap();
        let slow = pausing(&mem);
        let m2 = mem.clone();
        let id = std::rc::Rc::new(Cell::new(None));
        let id2 = id.clone();
        slow.mem().stop_at(n, move || {
            let r = region(&m2);
            let mut on = Lane::new(second);
            reap::peer(&r, &mut on, p).unwrap();
            assert_eq!(r.claim_peer(8, [2; 16], 2, "b").unwrap(), Some(p));
            let new = vshmem_core::task::NewTask {
                peer: p,
                pid: 5,
                start: 1,
                uid: 0,
                comm: "b",
                state: 2,
            };
            id2.set(r.claim_task(&mut on, &new).unwrap());
        });
        reap::peer(&slow, &mut Lane::new(first), p).unwrap();
        if slow.mem().pending() {
            break;
        }
        if r.peer(p).unwrap().is_none() {
            bad.entry("slot of a living peer is free").or_default().push(n);
        }
        let t = id.get().unwrap();
        if r.task(t.index).unwrap().is_none_or(|x| x.id != t || x.state != 2) {
            bad.entry("its living task was reaped").or_default().push(n);
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// a waker is stopped half-way through applying its hand-off; its sleeper is killed and reaped,
/// the lane finds a new owner who sleeps on another set; the waker goes on.
#[test]
fn a_half_applied_hand_off_does_not_reach_the_next_owner() {
    let mut bad = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for n in 0.. {
        let mem = heap();
        let r = region(&mem);
        let mut on = endpoint(&r);
        let (c, mut mine) = task(&r, &mut on, 10);
        let (_, other) = task(&r, &mut on, 11);
        let set = sem::get(&r, &mut mine, &c, 1, 1, CREATE).unwrap();
        let set2 = sem::get(&r, &mut mine, &c, 2, 1, CREATE).unwrap();
        let (v, vl) = task(&r, &mut on, 20);
        // The victim queues, then dies asleep: its thread is stopped for ever in sleep().
        let (vt, vlane) = (v.task, vl.id());
        let died = catch_unwind(AssertUnwindSafe(|| {
            // sleep() is the first access after queueing whose status is WAITING: die in it.
            let die = || std::panic::panic_any(vshmem_core::mem::Died);
            let s = Region::open(Still(mem.clone(), die)).unwrap();
            let _ = sem::op(&s, &mut Lane::new(vlane), &v, set, &[op(0, -1, 0)], None);
        }));
        assert!(died.is_err());
        assert_eq!(sem::getncnt(&r, &mut mine, &c, set, 0).unwrap(), 1);
        let slow = pausing(&mem);
        let m2 = mem.clone();
        let out = std::rc::Rc::new(RefCell::new(None));
        let (out2, c2, oid) = (out.clone(), c.clone(), other.id());
        let rid = endpoint(&r).id();
        slow.mem().stop_at(n, move || {
            let r = region(&m2);
            let mut on = Lane::new(rid);
            reap::lanes(&r, &mut on, Owner::Task(vt)).unwrap();
            let (w, wl) = task(&r, &mut on, 30);
            if wl.id() != vlane {
                return;
            }
            let (r3, id) = (region(&m2), wl.id());
            let t = std::thread::spawn(move || {
                sem::op(&r3, &mut Lane::new(id), &w, set2, &[op(0, -1, 0)], None)
            });
            let mut l = Lane::new(oid);
            while sem::getncnt(&r, &mut l, &c2, set2, 0).unwrap() == 0 {
                std::thread::yield_now();
            }
            *out2.borrow_mut() = Some(t);
        });
        let res = sem::op(&slow, &mut mine, &c, set, &[op(0, 1, 0)], None);
        if slow.mem().pending() {
            break;
        }
        if res.is_err() {
            bad.entry(format!("waker {res:?}")).or_default().push(n);
        }
        let t = out.borrow_mut().take();
        if let Some(t) = t {
            std::thread::sleep(std::time::Duration::from_millis(3));
            let _ = sem::remove(&r, &mut mine, &c, set2);
            let got = t.join().unwrap();
            if got.is_ok() {
                bad.entry(format!("semop(-1) on 0 returned {got:?}")).or_default().push(n);
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

/// One step of a program, on any platform: `which` chooses.
fn act<P: vshmem_core::Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &vshmem_sysv::Caller,
    ids: (i32, i32, i32),
    which: u8,
) -> Result<(), Error> {
    let (set, queue, seg) = ids;
    match which {
        0 => sem::op(r, on, c, set, &[op(0, -1, 0x800), op(1, 1, 0x800)], None),
        1 => sem::op(r, on, c, set, &[op(0, -1, 0x800 | UNDO)], None),
        2 => sem::remove(r, on, c, set),
        3 => sem::setall(r, on, c, set, &[9, 9]),
        4 => msg::send(r, on, c, queue, 2, &[7; 100], NOWAIT, None),
        5 => msg::recv(r, on, c, queue, &mut [0; 200], 0, NOWAIT, None).map(drop),
        6 => msg::remove(r, on, c, queue),
        7 => shm::get(r, on, c, 0, 70_000, CREATE).and_then(|i| shm::remove(r, on, c, i)),
        8 => shm::attach(r, on, c, seg, 6).map(drop),
        9 => shm::attach(r, on, c, seg, 6).and_then(|a| shm::detach(r, on, c, a.seg, a.life)),
        10 => shm::remove(r, on, c, seg),
        11 => sem::get(r, on, c, 77, 40, CREATE).map(drop),
        12 => msg::get(r, on, c, 77, CREATE).map(drop),
        13 => shm::get(r, on, c, 77, 9000, CREATE).map(drop),
        14 => msg::set(r, on, c, queue, 1000, 1000, 0o600, 9999),
        15 => sem::getall(r, on, c, set).map(drop),
        16 => msg::recv(r, on, c, queue, &mut [0; 200], 0, NOWAIT | 0o40_000, None).map(drop),
        _ => Ok(()),
    }
}

fn sound(r: &Region<HeapMem>) -> Result<(), String> {
    let mut units = 0u64;
    let mut seen = std::collections::HashSet::new();
    for i in 0..u64::from(arena::POOLS_COUNT * arena::CLASSES) {
        let at = Offset(sb::ARENA + arena::POOLS).index(i, arena::POOL_STRIDE);
        let size = 1u64 << (i % u64::from(arena::CLASSES));
        let mut next = r.peek(at).unwrap();
        while next != 0 {
            if !seen.insert(next) {
                return Err("a block is twice free".into());
            }
            units += size;
            next = r.peek(r.block(next).unwrap()).unwrap();
        }
        let (next, end) = (r.peek(at.plus(8)).unwrap(), r.peek(at.plus(16)).unwrap());
        let Some(left) = end.checked_sub(next) else {
            return Err(format!("pool {i} carves at {next} behind its end {end}"));
        };
        units += u64::from(left);
    }
    let used = r.pages().unwrap().0 * 64;
    if used != units {
        return Err(format!("{} units leaked", used as i64 - units as i64));
    }
    Ok(())
}

fn small() -> HeapMem {
    let mut spec = vshmem_core::format::Spec::new("small", 3 << 20);
    spec.tasks = 16;
    let mem = HeapMem::new(spec.len);
    Region::format(mem.clone(), &spec).unwrap();
    mem
}

/// What happens to a call that is stopped.
#[derive(Clone, Copy, PartialEq)]
enum Meets {
    /// Others call.
    Calls,
    /// Its task is taken for dead and reaped; a new one gets its slot and lane, and calls.
    Reaper,
}

fn pairwise(meets: Meets) {
    let mut bad = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for slow_act in 0..ACTS {
        for fast_act in 0..ACTS + 2 {
            // Of a new owner's calls, some that hold each kind of thing are enough.
            if meets == Meets::Reaper && ![1, 4, 5, 8, 18].contains(&fast_act) {
                continue;
            }
            for n in 0.. {
                let mem = small();
                let r = region(&mem);
                let mut on = endpoint(&r);
                let (c, mut mine) = task(&r, &mut on, 10);
                let (d, other) = task(&r, &mut on, 11);
                let ids = (
                    sem::get(&r, &mut mine, &c, 1, 2, CREATE).unwrap(),
                    msg::get(&r, &mut mine, &c, 1, CREATE).unwrap(),
                    shm::get(&r, &mut mine, &c, 1, 10_000, CREATE).unwrap(),
                );
                sem::setall(&r, &mut mine, &c, ids.0, &[5, 5]).unwrap();
                msg::send(&r, &mut mine, &c, ids.1, 1, b"one", 0, None).unwrap();
                let slow = pausing(&mem);
                let (m2, d2, oid, ct, rid, lane_id) =
                    (mem.clone(), d.clone(), other.id(), c.task, endpoint(&r).id(), mine.id());
                let fast = std::rc::Rc::new(Cell::new(false));
                let f2 = fast.clone();
                slow.mem().stop_at(n, move || {
                    let r = region(&m2);
                    let (mut l, mut d2) = (Lane::new(oid), d2);
                    if meets == Meets::Reaper {
                        let mut on = Lane::new(rid);
                        reap::task(&r, &mut on, ct).unwrap();
                        let mut mine;
                        loop {
                            (d2, mine) = task(&r, &mut on, 30);
                            if mine.id() == lane_id {
                                break;
                            }
                        }
                        l = mine;
                    }
                    match fast_act {
                        17 => {
                            reap::rescan(&r, &mut Lane::new(rid), 0).unwrap();
                        }
                        18 => {
                            for k in [2, 6, 10, 11, 12, 13] {
                                let _ = act(&r, &mut l, &d2, ids, k);
                            }
                        }
                        k => f2.set(act(&r, &mut l, &d2, ids, k).is_ok()),
                    }
                });
                let tag = format!("{slow_act} met {fast_act}");
                let res = act(&slow, &mut mine, &c, ids, slow_act);
                if let Err(Error::Corrupt(e)) = res {
                    bad.entry(format!("{tag}: {e}")).or_default().push(n);
                }
                let last = slow.mem().pending();
                // semantics: each op of 0/1 that succeeded took one from semaphore 0.
                if slow_act <= 1 && fast_act <= 1 && meets == Meets::Calls {
                    let took = i32::from(res.is_ok()) + i32::from(fast.get());
                    let v = sem::getval(&r, &mut Lane::new(rid), &c, ids.0, 0).unwrap();
                    if v != 5 - took {
                        bad.entry(format!("{tag}: value {v} after {took}")).or_default().push(n);
                    }
                }
                for t in r.tasks().unwrap() {
                    if let Err(x) = reap::task(&r, &mut on, t.id) {
                        bad.entry(format!("{tag}: cannot reap: {x}")).or_default().push(n);
                    }
                }
                let (e, mut l) = task(&r, &mut on, 99);
                for kind in Kind::ALL {
                    for i in vshmem_sysv::object::indices(&r, kind).unwrap() {
                        let at = r.object(kind, i).unwrap();
                        let id = (1 << 30)
                            | ((r.peek(at.plus(obj::LIFE)).unwrap() >> 2 & 0xfff) << 15) as i32
                            | i as i32;
                        if kind == Kind::Queue
                            && let Err(x) = msg::verify(&r, &mut l, i)
                        {
                            bad.entry(format!("{tag}: {x}")).or_default().push(n);
                        }
                        let gone = match kind {
                            Kind::Seg => {
                                let s = shm::stat(&r, &mut l, &e, id);
                                if s.is_ok_and(|s| s.nattch != 0) {
                                    bad.entry(format!("{tag}: nattch")).or_default().push(n);
                                }
                                shm::remove(&r, &mut l, &e, id)
                            }
                            Kind::Set => sem::remove(&r, &mut l, &e, id),
                            Kind::Queue => msg::remove(&r, &mut l, &e, id),
                        };
                        if let Err(x) = gone {
                            bad.entry(format!("{tag}: cannot remove {kind:?}: {x}"))
                                .or_default()
                                .push(n);
                        }
                    }
                }
                if let Err(x) = sound(&r) {
                    bad.entry(format!("{tag}: {x}")).or_default().push(n);
                }
                if last {
                    break;
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// every call stopped at every access while another does every other call.
#[test]
fn every_call_stopped_anywhere_while_others_call() {
    pairwise(Meets::Calls);
}

/// a task reaped while it runs: what it does with its lane afterwards harms nobody.
#[test]
fn every_call_whose_task_is_reaped_meanwhile_harms_nobody() {
    pairwise(Meets::Reaper);
}
