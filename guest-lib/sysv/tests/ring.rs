//! A busy queue's ring: everything that programs see is as without it, whoever dies or stops where.
#![allow(missing_docs)]

mod common;
use common::pause::pausing;
use common::{CREATE, dying, endpoint, heap, region, small, task};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use vshmem_core::layout::{queue, ring};
use vshmem_core::mem::{Died, HeapMem, Ordering};
use vshmem_core::region::Kind;
use vshmem_core::{Lane, Offset, Platform, Region};
use vshmem_sysv::{Caller, Errno, Error, Result, check, flag, msg, reap};

const NOWAIT: i32 = flag::IPC_NOWAIT;

fn at<P: Platform>(r: &Region<P>, id: i32) -> Offset {
    r.object(Kind::Queue, id as u32 & 0x7fff).unwrap()
}

fn ring_of<P: Platform>(r: &Region<P>, id: i32) -> Offset {
    r.block(r.peek(at(r, id).plus(queue::RING)).unwrap()).unwrap()
}

fn word<P: Platform>(r: &Region<P>, at: Offset) -> u64 {
    r.mem().load(at, Ordering::Acquire).unwrap()
}

/// Positions that were sent to.
fn sent<P: Platform>(r: &Region<P>, id: i32) -> u32 {
    (word(r, ring_of(r, id).plus(ring::SENT)) >> ring::COUNT_SHIFT) as u32
}

/// Places that nobody can use.
fn stuck<P: Platform>(r: &Region<P>, ring: Offset) -> usize {
    let place = |i| word(r, ring.plus(ring::PLACE).index(i, 8)) & ring::STATE;
    (0..ring::PLACES).filter(|i| place(*i) == ring::SKIPPED).count()
}

/// A queue that has an open ring, furnished for messages of up to 216 bytes, and nothing in it.
fn busy<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller) -> i32 {
    let id = msg::get(r, on, c, 7, CREATE).unwrap();
    // As if it had been busy for longer.
    r.init(at(r, id).plus(queue::HAD), 16).unwrap();
    for _ in 0..75 {
        send(r, on, c, id, 1, 8).unwrap();
        take(r, on, c, id, 0).unwrap();
    }
    let before = sent(r, id);
    send(r, on, c, id, 1, 8).unwrap();
    take(r, on, c, id, 0).unwrap();
    assert_eq!(sent(r, id), before + 1, "the ring is open");
    assert_eq!(r.peek(at(r, id).plus(queue::QNUM)).unwrap(), 0);
    id
}

/// Sends `n` bytes; the first two of four say the type.
fn send<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    mtype: i64,
    n: usize,
) -> Result<()> {
    let mut text = vec![0; n];
    for (i, b) in text.iter_mut().enumerate() {
        *b = (mtype as usize + i) as u8;
    }
    msg::send(r, on, c, id, mtype, &text[..], NOWAIT, None)
}

fn take<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    want: i64,
) -> Result<(i64, usize)> {
    let mut text = [0; 4096];
    let (mtype, n) = msg::recv(r, on, c, id, &mut text, want, NOWAIT, None)?;
    for (i, b) in text[..n].iter().enumerate() {
        assert_eq!(*b, (mtype as usize + i) as u8, "byte {i} of {n} of type {mtype}");
    }
    Ok((mtype, n))
}

/// Everything that is in the queue, taken by `c`.
fn all<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Vec<i64> {
    std::iter::from_fn(|| match take(r, on, c, id, 0) {
        Ok((mtype, _)) => Some(mtype),
        Err(Error::Errno(Errno::ENOMSG)) => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

fn sound(r: &Region<HeapMem>, on: &mut Lane, when: &str) {
    let found = check::look(r, on).unwrap();
    assert!(found.is_empty(), "{when}: {found:#?}");
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What a queue is by the manual page.
#[derive(Default)]
struct Model(VecDeque<(i64, usize)>);

impl Model {
    fn fits(&self, n: usize) -> bool {
        self.0.iter().map(|m| m.1).sum::<usize>() + n <= 16384 && self.0.len() < 16384
    }

    fn find(&self, want: i64, except: bool) -> Option<usize> {
        if want >= 0 {
            return self.0.iter().position(|m| want == 0 || (m.0 == want) != except);
        }
        let lowest = self.0.iter().map(|m| m.0).filter(|t| *t <= -want).min()?;
        self.0.iter().position(|m| m.0 == lowest)
    }
}

#[test]
fn calls_through_the_ring_are_as_the_manual_page_has_them() {
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let id = busy(&r, &mut mine, &c);
    let (mut model, mut rng) = (Model::default(), Rng(7));
    let mut through = 0;
    for step in 0..30_000 {
        let before = sent(&r, id);
        match rng.below(20) {
            0..=8 => {
                // Long bursts of small ones, sometimes one that is too large for a place.
                let n = if rng.below(30) == 0 { rng.below(3000) } else { rng.below(200) } as usize;
                let mtype = 1 + rng.below(3) as i64;
                let done = send(&r, &mut mine, &c, id, mtype, n);
                if model.fits(n) {
                    done.unwrap();
                    model.0.push_back((mtype, n));
                } else {
                    assert_eq!(done.unwrap_err(), Error::Errno(Errno::EAGAIN), "step {step}");
                }
                through += u32::from(sent(&r, id) == before.wrapping_add(1));
            }
            9..=18 => {
                // In spells, as programs are.
                let searches = step / 500 % 3 == 0 && rng.below(3) == 0;
                let want = if searches { rng.below(7) as i64 - 3 } else { 0 };
                let flags = if searches && rng.below(4) == 0 { flag::MSG_EXCEPT } else { 0 };
                let mut text = [0; 4096];
                let room = if rng.below(20) == 0 { 50 } else { 4096 };
                let buf = &mut text[..room];
                let done = msg::recv(&r, &mut mine, &c, id, buf, want, NOWAIT | flags, None);
                match model.find(want, flags != 0 && want > 0) {
                    None => assert_eq!(done, Err(Error::Errno(Errno::ENOMSG)), "step {step}"),
                    Some(i) if model.0[i].1 > room => {
                        assert_eq!(done, Err(Error::Errno(Errno::E2BIG)), "step {step}");
                    }
                    Some(i) => assert_eq!(done, Ok(model.0.remove(i).unwrap()), "step {step}"),
                }
            }
            _ => {
                let stat = msg::stat(&r, &mut mine, &c, id).unwrap();
                let bytes: usize = model.0.iter().map(|m| m.1).sum();
                assert_eq!((stat.qnum, stat.cbytes), (model.0.len() as u64, bytes as u64));
                assert_eq!((stat.lspid, stat.lrpid), (10, 10));
            }
        }
        if step % 1000 == 0 {
            sound(&r, &mut on, "on the way");
        }
    }
    assert!(through > 3000, "only {through} went through the ring");
    let rest = all(&r, &mut mine, &c, id);
    assert_eq!(rest, model.0.iter().map(|m| m.0).collect::<Vec<_>>());
    msg::remove(&r, &mut mine, &c, id).unwrap();
    sound(&r, &mut on, "at the end");
}

#[test]
fn a_ring_serves_one_queue_after_another() {
    let mem = small();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let mut rings = std::collections::BTreeSet::new();
    for round in 0..50 {
        let id = busy(&r, &mut mine, &c);
        rings.insert(ring_of(&r, id).0);
        for i in 0..round {
            send(&r, &mut mine, &c, id, 1 + i, 9).unwrap();
        }
        let full = r.peek(at(&r, id).plus(queue::QNUM)).unwrap();
        assert!(full < 50, "the ring is used");
        msg::remove(&r, &mut mine, &c, id).unwrap();
        sound(&r, &mut on, "after a removal");
    }
    assert_eq!(rings.len(), 1);
}

/// What is done to a queue of five messages, of types 1 to 5, in the ring.
type Act = (&'static str, fn(&Region<HeapMem>, &mut Lane, &Caller, i32));

const ACTS: &[Act] = &[
    ("nothing", |_, _, _, _| {}),
    ("a send", |r, on, c, id| send(r, on, c, id, 60, 9).unwrap()),
    ("a receive", |r, on, c, id| {
        let _ = take(r, on, c, id, 0);
    }),
    ("two receives", |r, on, c, id| {
        let _ = take(r, on, c, id, 0);
        let _ = take(r, on, c, id, 0);
    }),
    ("a receive by type", |r, on, c, id| {
        let _ = take(r, on, c, id, 4);
    }),
    ("IPC_STAT", |r, on, c, id| {
        msg::stat(r, on, c, id).unwrap();
    }),
    ("a round and more", |r, on, c, id| {
        for _ in 0..100 {
            send(r, on, c, id, 61, 9).unwrap();
            take(r, on, c, id, 0).unwrap();
        }
    }),
    ("a large one", |r, on, c, id| send(r, on, c, id, 62, 3000).unwrap()),
];

/// The victim's call; returns the types it received.
type Call<P> = fn(&Region<P>, &mut Lane, &Caller, i32) -> Result<Vec<i64>>;

macro_rules! calls {
    () => {
        &[
            ("msgsnd", |r, on, c, id| send(r, on, c, id, 50, 30).map(|()| vec![])),
            ("msgsnd, large", |r, on, c, id| send(r, on, c, id, 50, 3000).map(|()| vec![])),
            ("msgrcv", |r, on, c, id| take(r, on, c, id, 0).map(|m| vec![m.0])),
            ("msgrcv by type", |r, on, c, id| take(r, on, c, id, 3).map(|m| vec![m.0])),
            ("msgrcv of none", |r, on, c, id| match take(r, on, c, id, 40) {
                Err(Error::Errno(Errno::ENOMSG)) => Ok(vec![]),
                other => other.map(|m| vec![m.0]),
            }),
            ("IPC_STAT", |r, on, c, id| msg::stat(r, on, c, id).map(|_| vec![])),
            ("IPC_SET", |r, on, c, id| {
                msg::set(r, on, c, id, 1000, 1000, 0o600, 16384).map(|()| vec![])
            }),
        ]
    };
}

struct Scene {
    mem: HeapMem,
    r: Region<HeapMem>,
    on: Lane,
    me: Caller,
    mine: Lane,
    victim: Caller,
    /// With a step behind it.
    lane: Lane,
    id: i32,
}

fn scene() -> Scene {
    std::panic::set_hook(Box::new(|info| {
        if !info.payload().is::<Died>() {
            eprintln!("{info}");
        }
    }));
    let mem = small();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (me, mut mine) = task(&r, &mut on, 10);
    let (victim, mut lane) = task(&r, &mut on, 20);
    let id = busy(&r, &mut mine, &me);
    msg::stat(&r, &mut lane, &victim, id).unwrap();
    for i in 1..=5 {
        send(&r, &mut mine, &me, id, i, 20).unwrap();
    }
    assert_eq!(r.peek(at(&r, id).plus(queue::QNUM)).unwrap(), 0, "all are in the ring");
    Scene { mem, r, on, me, mine, victim, lane, id }
}

/// After a death: nothing is wrong, and every place of the ring can be used again.
fn goes_on(s: &mut Scene, when: &str) {
    sound(&s.r, &mut s.on, when);
    for _ in 0..ring::PLACES + 10 {
        send(&s.r, &mut s.mine, &s.me, s.id, 1, 9).unwrap();
        take(&s.r, &mut s.mine, &s.me, s.id, 0).unwrap();
    }
    assert_eq!(stuck(&s.r, ring_of(&s.r, s.id)), 0, "{when}: places are lost");
    msg::remove(&s.r, &mut s.mine, &s.me, s.id).unwrap();
    sound(&s.r, &mut s.on, when);
}

/// Death at every store of every call, others go on before the reaper comes.
#[test]
fn death_at_every_store_leaves_all_or_nothing() {
    let calls: &[(&str, Call<_>)] = calls!();
    for (name, call) in calls {
        for (between, act) in ACTS {
            let (mut whole, mut gone) = (0, false);
            for n in 0.. {
                let mut s = scene();
                let r = dying(&s.mem);
                r.mem().die_after(n);
                let died = catch_unwind(AssertUnwindSafe(|| {
                    call(&r, &mut s.lane, &s.victim, s.id).unwrap()
                }));
                let when = format!("{name}, dead after {n} stores, then {between}");
                if let Err(payload) = &died {
                    assert!(payload.is::<Died>(), "{when}");
                }
                let mut got = died.as_ref().map_or(vec![], Clone::clone);
                // What `act` takes is not looked at: it may be anything that is there.
                let counted = between.contains("receive") || between.contains("round");
                act(&s.r, &mut s.mine, &s.me, s.id);
                reap::task(&s.r, &mut s.on, s.victim.task).unwrap();
                sound(&s.r, &mut s.on, &when);
                let left = all(&s.r, &mut s.mine, &s.me, s.id);
                got.extend(&left);
                got.sort_unstable();
                let mut once = got.clone();
                once.dedup();
                assert_eq!(
                    got.iter().filter(|t| **t < 60).count(),
                    once.iter().filter(|t| **t < 60).count(),
                    "{when}: doubled {got:?}"
                );
                if !counted {
                    let mine = got.iter().filter(|t| **t <= 5).count();
                    // One that was received went with its receiver; from that step on, for good.
                    let went = died.is_err() && name.starts_with("msgrcv") && mine == 4;
                    assert!(went || mine == 5 && (!gone || died.is_ok()), "{when}: {got:?}");
                    gone |= went;
                }
                whole += usize::from(got.contains(&50));
                goes_on(&mut s, &when);
                if died.is_ok() {
                    let sends = whole > 0 || counted;
                    assert_eq!(
                        sends && name.starts_with("msgsnd"),
                        name.starts_with("msgsnd"),
                        "{when}"
                    );
                    break;
                }
            }
        }
    }
}

/// Stopped at every access of every call, while others do something; then it goes on, or is reaped as
/// one that does.
#[test]
fn a_stop_at_every_access_loses_and_doubles_nothing() {
    let calls: &[(&str, Call<_>)] = calls!();
    for (name, call) in calls {
        for (between, act) in ACTS {
            for reaped in [false, true] {
                for n in 0.. {
                    let mut s = scene();
                    let slow = pausing(&s.mem);
                    let (mem, victim, id, act) = (s.mem.clone(), s.victim.clone(), s.id, *act);
                    let (me, lane) = (s.me.clone(), s.mine.id());
                    let endpoint = s.on.id();
                    let seen = Rc::new(RefCell::new(Vec::new()));
                    slow.mem().stop_at(n, move || {
                        let r = region(&mem);
                        act(&r, &mut Lane::new(lane), &me, id);
                        if reaped {
                            reap::task(&r, &mut Lane::new(endpoint), victim.task).unwrap();
                        }
                    });
                    let done = call(&slow, &mut s.lane, &s.victim, s.id);
                    let when = format!("{name}, stopped at {n}, {between}, reaped: {reaped}");
                    if slow.mem().pending() {
                        break;
                    }
                    s.on = Lane::new(s.on.id());
                    s.mine = Lane::new(s.mine.id());
                    let takes = between.contains("receive") || between.contains("round");
                    match &done {
                        Ok(got) => seen.borrow_mut().extend(got),
                        Err(e) if reaped => {
                            let fenced = matches!(e, Error::Corrupt(c) if c.is_fenced());
                            assert!(fenced || *e == Error::Errno(Errno::EIDRM), "{when}: {e}");
                        }
                        Err(Error::Errno(Errno::ENOMSG)) if takes => {}
                        Err(e) => panic!("{when}: {e}"),
                    }
                    sound(&s.r, &mut s.on, &when);
                    let mut got = seen.borrow().clone();
                    got.extend(all(&s.r, &mut s.mine, &s.me, s.id));
                    let mut counts = BTreeMap::new();
                    for t in got {
                        *counts.entry(t).or_insert(0) += 1;
                    }
                    let doubled = counts.iter().any(|(t, n)| *t < 60 && *n > 1);
                    assert!(!doubled, "{when}: doubled {counts:?}");
                    if !takes {
                        let mine = counts.keys().filter(|t| **t <= 5).count();
                        assert_eq!(mine, 5, "{when}: lost {counts:?}");
                    }
                    if name.starts_with("msgsnd") && !reaped && !between.contains("round") {
                        assert_eq!(counts.get(&50), Some(&1), "{when}: {counts:?}");
                    }
                    goes_on(&mut s, &when);
                }
            }
        }
    }
}

/// Several senders and receivers at once, and somebody who looks and searches.
#[test]
fn threads_lose_and_double_nothing_and_keep_each_senders_order() {
    const EACH: u32 = 4000;
    let mem = heap();
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (c, mut mine) = task(&r, &mut on, 10);
    let id = busy(&r, &mut mine, &c);
    let people: Vec<_> = (0..6).map(|i| task(&r, &mut on, 20 + i)).collect();
    let got = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for (who, (c, lane)) in people.into_iter().enumerate() {
            let (r, got) = (region(&mem), &got);
            s.spawn(move || {
                let mut on = lane;
                if who < 3 {
                    for i in 0..EACH {
                        let text = [who as u32, i].map(u32::to_le_bytes).concat();
                        msg::send(&r, &mut on, &c, id, 1 + who as i64, &text[..], 0, None).unwrap();
                    }
                    return;
                }
                let mut mine = Vec::new();
                for _ in 0..EACH {
                    let mut text = [0; 8];
                    let (_, n) = msg::recv(&r, &mut on, &c, id, &mut text, 0, 0, None).unwrap();
                    assert_eq!(n, 8);
                    let word = |i: usize| u32::from_le_bytes(text[i..i + 4].try_into().unwrap());
                    mine.push((word(0), word(4)));
                }
                for sender in 0..3 {
                    let order: Vec<_> = mine.iter().filter(|m| m.0 == sender).collect();
                    assert!(order.is_sorted(), "of sender {sender}");
                }
                got.lock().unwrap().extend(mine);
            });
        }
        let other = region(&mem);
        let c = &c;
        s.spawn(move || {
            let other = &other;
            for _ in 0..300 {
                let _ = msg::stat(other, &mut mine, c, id).unwrap();
                assert_eq!(take(other, &mut mine, c, id, 99), Err(Error::Errno(Errno::ENOMSG)));
                std::thread::yield_now();
            }
        });
    });
    let mut got = got.into_inner().unwrap();
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), 3 * EACH as usize);
    sound(&r, &mut on, "after all");
    assert_eq!(stuck(&r, ring_of(&r, id)), 0);
}
