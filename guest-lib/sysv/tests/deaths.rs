//! Death at every store of every operation. Afterwards the endpoint's work is done, every invariant
//! holds, the operation has happened entirely or not at all, and others go on.
//!
//! One table, so that an operation that is missing is seen to be.
#![allow(missing_docs, clippy::wildcard_imports)]

mod common;
use common::full::{Full, asleep, full_in};
use common::told::Told;
use common::{CREATE, region, small, task};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use vshmem_core::layout::{msg as msg_layout, *};
use vshmem_core::mem::{CrashMem, Died, HeapMem, Woken};
use vshmem_core::region::Kind;
use vshmem_core::task::{NewTask, Owner};
use vshmem_core::{Lane, LaneId, Region};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{
    Caller, Errno, Error, Result, check, msg, object, park as parking, reap, sem, shm,
};

const UNDO: i16 = 0x1000;
const NOWAIT: i32 = 0o4000;
const COPY: i32 = 0o40_000;

/// Everything, and those who die.
struct Scene {
    f: Full,
    /// Dies in the operation; it has a lane for its signal handlers too.
    victim: Caller,
    lane: LaneId,
    second: LaneId,
    /// Died before, asleep, and has not been reaped.
    dead: Caller,
    /// A guest with a task of its own.
    guest: u32,
    /// Works while the victim sleeps.
    helper: Caller,
    helping: LaneId,
    held: shm::Attachment,
}

fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

fn scene() -> Scene {
    let mut f = full_in(small());
    let r = region(&f.mem);
    let (victim, mut lane) = task(&r, &mut f.on, 40);
    let second = r.claim_lane(Owner::Task(victim.task)).unwrap().unwrap().id();
    let held = shm::attach(&r, &mut lane, &victim, f.seg, 6).unwrap();
    sem::op(&r, &mut lane, &victim, f.set, &[op(1, 1, UNDO)], None).unwrap();
    let (dead, mut its) = task(&r, &mut f.on, 41);
    sem::op(&r, &mut its, &dead, f.set, &[op(1, -1, UNDO)], None).unwrap();
    shm::attach(&r, &mut its, &dead, f.seg, 6).unwrap();
    asleep(&f.mem, |r| {
        let _ = sem::op(r, &mut its, &dead, f.set, &[op(0, -3, UNDO)], None);
    });
    let guest = r.claim_peer(7, [1; 16], 2, "guest").unwrap().unwrap();
    let new = NewTask { peer: guest, pid: 9, start: 1, uid: 1000, comm: "g", state: task::LIVE };
    let id = r.claim_task(&mut f.on, &new).unwrap().unwrap();
    let mut there = r.claim_lane(Owner::Task(id)).unwrap().unwrap();
    let mut c = common::caller(id, 9);
    c.who = vshmem_core::task::Identity::new(guest, 9);
    let own = msg::get(&r, &mut there, &c, 50, CREATE).unwrap();
    msg::send(&r, &mut there, &c, own, 1, b"own", 0, None).unwrap();
    vshmem_sysv::withdraw(&r, &mut there, &c, Kind::Queue, own).unwrap();
    shm::attach(&r, &mut there, &c, f.seg, 6).unwrap();
    r.claim_lane(Owner::Endpoint { peer: guest, incarnation: 1 }).unwrap().unwrap();
    let (helper, helping) = task(&r, &mut f.on, 42);
    let (lane, helping) = (lane.id(), helping.id());
    Scene { f, victim, lane, second, dead, guest, helper, helping, held }
}

type Dying = Region<Told>;

/// What becomes of the victim's sleep.
#[derive(Clone, Copy)]
enum Sleep {
    /// There is none.
    None,
    /// It dies of it.
    Dies,
    /// Its time is over.
    Late,
    /// A signal comes.
    Signal,
    /// The helper does this.
    Served(fn(&Region<HeapMem>, &mut Lane, &Caller, &Scene)),
}

struct Op {
    name: &'static str,
    sleep: Sleep,
    run: fn(&Dying, &mut Lane, &Caller, &Scene) -> Result<()>,
    /// States in between in which it may be left, by their number: each is a whole of its own.
    between: usize,
}

const fn does(name: &'static str, run: fn(&Dying, &mut Lane, &Caller, &Scene) -> Result<()>) -> Op {
    Op { name, sleep: Sleep::None, run, between: 0 }
}

impl Op {
    const fn sleeping(self, sleep: Sleep) -> Self {
        Self { sleep, ..self }
    }

    const fn between(self, between: usize) -> Self {
        Self { between, ..self }
    }
}

/// The call must fail so.
fn fails<T: std::fmt::Debug>(done: Result<T>, errno: Errno) -> Result<()> {
    assert_eq!(done.unwrap_err(), Error::Errno(errno));
    Ok(())
}

const SEMAPHORES: &[Op] = &[
    does("semop, fast, on a set of one's own", |r, on, c, _| {
        let set = sem::get(r, on, c, 60, 1, CREATE)?;
        sem::op_fast(r, c, set, op(0, 2, 0)).unwrap()
    })
    .between(1),
    does("semop that serves a sleeper", |r, on, c, s| {
        sem::op(r, on, c, s.f.set, &[op(0, 1, 0)], None)
    }),
    does("semop that serves all", |r, on, c, s| {
        sem::op(r, on, c, s.f.set, &[op(0, 9, 0), op(1, -2, 0)], None)
    }),
    does("semop of several", |r, on, c, s| {
        sem::op(r, on, c, s.f.set, &[op(1, -3, 0), op(1, 1, 0)], None)
    }),
    does("semop that cannot go", |r, on, c, s| {
        fails(sem::op(r, on, c, s.f.set, &[op(0, -1, 0o4000)], None), Errno::EAGAIN)
    }),
    does("semop with SEM_UNDO again", |r, on, c, s| {
        sem::op(r, on, c, s.f.set, &[op(1, 2, UNDO)], None)
    }),
    does("semop with SEM_UNDO on another set", |r, on, c, _| {
        let set = sem::get(r, on, c, 60, 1, CREATE)?;
        sem::op(r, on, c, set, &[op(0, 2, UNDO)], None)
    }),
    does("semop that sleeps", |r, on, c, s| {
        sem::op(r, on, c, s.f.set, &[op(1, 1, UNDO), op(0, -9, UNDO)], None)
    })
    .sleeping(Sleep::Dies),
    does("semtimedop that is late", |r, on, c, s| {
        fails(sem::op(r, on, c, s.f.set, &[op(0, -9, 0)], Some(5)), Errno::EAGAIN)
    })
    .sleeping(Sleep::Late),
    does("semop that is interrupted", |r, on, c, s| {
        fails(sem::op(r, on, c, s.f.set, &[op(0, -9, UNDO)], None), Errno::EINTR)
    })
    .sleeping(Sleep::Signal),
    does("semop that is served", |r, on, c, s| sem::op(r, on, c, s.f.set, &[op(1, -7, 0)], None))
        .sleeping(Sleep::Served(|r, on, c, s| {
            sem::op(r, on, c, s.f.set, &[op(1, 2, 0)], None).unwrap();
        })),
    does("SETVAL", |r, on, c, s| sem::setval(r, on, c, s.f.set, 0, 1)),
    does("SETALL", |r, on, c, s| sem::setall(r, on, c, s.f.set, &[3, 9])),
    does("GETALL", |r, on, c, s| sem::getall(r, on, c, s.f.set).map(drop)),
    does("GETVAL", |r, on, c, s| sem::getval(r, on, c, s.f.set, 0).map(drop)),
    does("GETNCNT", |r, on, c, s| sem::getncnt(r, on, c, s.f.set, 0).map(drop)),
    does("IPC_STAT of a set", |r, on, c, s| sem::stat(r, on, c, s.f.set).map(drop)),
    does("IPC_SET of a set", |r, on, c, s| sem::set(r, on, c, s.f.set, 1000, 5, 0o640)),
    does("IPC_RMID of a set", |r, on, c, s| sem::remove(r, on, c, s.f.set)),
    does("semget of a new set", |r, on, c, _| sem::get(r, on, c, 60, 3, CREATE).map(drop)),
    does("semget of a private set", |r, on, c, _| sem::get(r, on, c, 0, 3, CREATE).map(drop)),
    does("semget of one that is there", |r, on, c, _| sem::get(r, on, c, 1, 2, 0).map(drop)),
    does("semget of too many", |r, on, c, _| {
        r.set_limit(Limit::Semmni, 1)?;
        fails(sem::get(r, on, c, 60, 3, CREATE), Errno::ENOSPC)
    }),
];

const QUEUES: &[Op] = &[
    does("msgget of a new queue", |r, on, c, _| msg::get(r, on, c, 60, CREATE).map(drop)),
    does("msgget of one that is there", |r, on, c, _| msg::get(r, on, c, 1, 0).map(drop)),
    does("msgsnd", |r, on, c, s| msg::send(r, on, c, s.f.wanted, 3, b"three", 0, None)),
    does("msgsnd to a sleeping receiver", |r, on, c, s| {
        msg::send(r, on, c, s.f.wanted, 7, b"seven", 0, None)
    }),
    does("msgsnd to one without room", |r, on, c, s| {
        msg::send(r, on, c, s.f.wanted, 7, &[7; 99], 0, None)
    }),
    does("msgsnd to a full queue", |r, on, c, s| {
        fails(msg::send(r, on, c, s.f.full, 1, b"no", NOWAIT, None), Errno::EAGAIN)
    }),
    does("msgsnd that sleeps", |r, on, c, s| msg::send(r, on, c, s.f.full, 1, b"no", 0, None))
        .sleeping(Sleep::Dies),
    does("msgsnd that is late", |r, on, c, s| {
        fails(msg::send(r, on, c, s.f.full, 1, b"no", 0, Some(5)), Errno::EAGAIN)
    })
    .sleeping(Sleep::Late),
    does("msgsnd that is interrupted", |r, on, c, s| {
        fails(msg::send(r, on, c, s.f.full, 1, b"no", 0, None), Errno::EINTR)
    })
    .sleeping(Sleep::Signal),
    does("msgsnd that is let in", |r, on, c, s| msg::send(r, on, c, s.f.full, 1, b"in", 0, None))
        .sleeping(Sleep::Served(|r, on, c, s| {
            msg::recv(r, on, c, s.f.full, &mut [0; 8192], 0, 0, None).unwrap();
        })),
    does("msgrcv", |r, on, c, s| {
        msg::recv(r, on, c, s.f.wanted, &mut [0; 100], 0, 0, None).map(drop)
    }),
    does("two messages by one block", |r, on, c, s| {
        msg::recv(r, on, c, s.f.wanted, &mut [0; 100], 0, 0, None)?;
        msg::send(r, on, c, s.f.wanted, 1, &[9; 100], 0, None)
    })
    .between(1),
    does("msgrcv that lets a sender in", |r, on, c, s| {
        msg::recv(r, on, c, s.f.full, &mut [0; 8192], 0, 0, None).map(drop)
    })
    // The sender is in, and the message came back.
    .between(1),
    does("msgrcv of what is not there", |r, on, c, s| {
        fails(msg::recv(r, on, c, s.f.wanted, &mut [0; 9], 8, NOWAIT, None), Errno::ENOMSG)
    }),
    does("msgrcv that sleeps", |r, on, c, s| {
        msg::recv(r, on, c, s.f.wanted, &mut [0; 9], 8, 0, None).map(drop)
    })
    .sleeping(Sleep::Dies),
    does("msgrcv that is late", |r, on, c, s| {
        fails(msg::recv(r, on, c, s.f.wanted, &mut [0; 9], 8, 0, Some(5)), Errno::EAGAIN)
    })
    .sleeping(Sleep::Late),
    does("msgrcv that is interrupted", |r, on, c, s| {
        fails(msg::recv(r, on, c, s.f.wanted, &mut [0; 9], 8, 0, None), Errno::EINTR)
    })
    .sleeping(Sleep::Signal),
    does("msgrcv that is handed one", |r, on, c, s| {
        msg::recv(r, on, c, s.f.wanted, &mut [0; 9], 8, 0, None).map(drop)
    })
    .sleeping(Sleep::Served(|r, on, c, s| {
        msg::send(r, on, c, s.f.wanted, 8, b"eight", 0, None).unwrap();
    }))
    // Sent, and given back by the dead.
    .between(1),
    does("MSG_COPY", |r, on, c, s| {
        msg::recv(r, on, c, s.f.wanted, &mut [0; 100], 0, COPY | NOWAIT, None).map(drop)
    }),
    does("IPC_STAT of a queue", |r, on, c, s| msg::stat(r, on, c, s.f.wanted).map(drop)),
    does("IPC_SET of a queue", |r, on, c, s| msg::set(r, on, c, s.f.full, 1000, 5, 0o640, 16_000)),
    does("IPC_RMID of a queue with a receiver", |r, on, c, s| msg::remove(r, on, c, s.f.wanted)),
    does("IPC_RMID of a queue with a sender", |r, on, c, s| msg::remove(r, on, c, s.f.full)),
];

const SEGMENTS: &[Op] = &[
    does("shmget of a new segment", |r, on, c, _| shm::get(r, on, c, 60, 50_000, CREATE).map(drop)),
    does("shmget of one that is there", |r, on, c, _| shm::get(r, on, c, 1, 0, 0).map(drop)),
    does("shmget of too much", |r, on, c, _| {
        fails(shm::get(r, on, c, 60, 64 << 20, CREATE), Errno::ENOMEM)
    }),
    does("shmat", |r, on, c, s| shm::attach(r, on, c, s.f.seg, 6).map(drop)),
    does("shmat of one's first", |r, on, c, s| shm::attach(r, on, c, s.f.doomed, 6).map(drop)),
    does("shmdt", |r, on, c, s| shm::detach(r, on, c, s.held.seg, s.held.life)),
    does("shmdt of the last of a removed one", |r, on, c, _| {
        let seg = shm::get(r, on, c, 0, 9000, CREATE)?;
        let a = shm::attach(r, on, c, seg, 6)?;
        shm::remove(r, on, c, seg)?;
        shm::detach(r, on, c, a.seg, a.life)
    })
    // Made; removed or not, its attachment goes with the dead.
    .between(1),
    does("shmat that is taken back", |r, on, c, s| {
        let a = shm::attach(r, on, c, s.f.seg, 6)?;
        shm::cancel(r, on, c, a.seg, a.life, a.before)
    }),
    does("IPC_STAT of a segment", |r, on, c, s| shm::stat(r, on, c, s.f.seg).map(drop)),
    does("IPC_SET of a segment", |r, on, c, s| shm::set(r, on, c, s.f.seg, 1000, 5, 0o640)),
    does("SHM_LOCK", |r, on, c, s| shm::set_locked(r, on, c, s.f.seg, true, 1 << 20)),
    does("IPC_RMID of an attached segment", |r, on, c, s| shm::remove(r, on, c, s.f.seg)),
    does("IPC_RMID of a segment", |r, on, c, _| {
        let seg = shm::get(r, on, c, 60, 9000, CREATE)?;
        shm::remove(r, on, c, seg)
    })
    .between(1),
    does("shm_rmid_forced", |r, on, c, _| {
        shm::get(r, on, c, 60, 9000, CREATE)?;
        r.set_limit(Limit::ShmRmidForced, 1)?;
        shm::destroy_orphans(r, on)
    })
    .between(1),
    does("fork", |r, on, c, _| {
        let new =
            NewTask { peer: 0, pid: 40, start: 0, uid: 1000, comm: "c", state: task::CLAIMED };
        let child = r.claim_task(on, &new)?.unwrap();
        shm::inherit(r, on, c.task, child, |_, _| 0)?;
        r.name_task(child, 45, 1).map(drop)?;
        Ok(())
    }),
    does("exec", |r, on, c, _| shm::detach_all(r, on, c.task)),
];

const PARKING: &[Op] = &[
    does("park", |r, on, c, s| {
        parking::wait(r, on, c, key(s, 128), parking::Limits::default(), || true)
    })
    .sleeping(Sleep::Dies),
    does("park for a while", |r, on, c, s| {
        let limits = parking::Limits { deadline: Some(5), owner: Some(s.dead.task.index) };
        fails(parking::wait(r, on, c, key(s, 64), limits, || true), Errno::EAGAIN)
    })
    .sleeping(Sleep::Late),
    does("park until woken", |r, on, c, s| {
        parking::wait(r, on, c, key(s, 128), parking::Limits::default(), || true)
    })
    .sleeping(Sleep::Served(|r, on, _, s| {
        assert_eq!(parking::wake(r, on, key(s, 128), 1).unwrap(), 1);
    })),
    does("unpark", |r, on, _, s| parking::wake(r, on, key(s, 64), 9).map(drop)),
    does("unpark nobody", |r, on, _, s| parking::wake(r, on, key(s, 128), 9).map(drop)),
    does("nudge", |r, on, c, _| parking::nudge_own(r, on, c)),
];

const PEOPLE: &[Op] = &[
    does("withdrawing a segment", |r, on, c, s| {
        vshmem_sysv::withdraw(r, on, c, Kind::Seg, s.f.seg).map(drop)
    }),
    does("withdrawing a set", |r, on, c, s| {
        vshmem_sysv::withdraw(r, on, c, Kind::Set, s.f.set).map(drop)
    }),
    does("withdrawing a queue", |r, on, c, s| {
        vshmem_sysv::withdraw(r, on, c, Kind::Queue, s.f.full).map(drop)
    }),
    does("a task's coming", |r, on, _, _| {
        let new = NewTask { peer: 0, pid: 77, start: 1, uid: 1, comm: "new", state: task::LIVE };
        r.claim_task(on, &new).map(drop).map_err(Into::into)
    }),
    does("a thread's coming", |r, _, c, _| {
        r.claim_lane(Owner::Task(c.task)).map(drop).map_err(Into::into)
    }),
    does("a thread's end", |r, on, c, s| {
        msg::recv(r, on, c, s.f.wanted, &mut [0; 100], 0, 0, None)?;
        vshmem_sysv::release(r, on, Owner::Task(c.task))
    }),
    does("a task's own end", |r, on, c, _| {
        reap::task(r, on, c.task)?;
        r.release_lane(on.id(), Owner::Task(c.task)).map(drop).map_err(Into::into)
    }),
    does("reaping a task", |r, on, _, s| reap::task(r, on, s.dead.task)),
    does("reaping a task's lanes", |r, on, _, s| reap::lanes(r, on, Owner::Task(s.dead.task))),
    does("reaping a guest", |r, on, _, s| {
        r.set_peer_state(s.guest, peer::DEAD)?;
        reap::peer(r, on, s.guest)
    }),
    does("a guest's coming", |r, _, _, _| {
        r.claim_peer(8, [2; 16], 2, "new").map(drop).map_err(Into::into)
    }),
    does("rescan", |r, on, _, _| reap::rescan(r, on, 0)),
    does("a handler that interrupts semop", |r, _, c, s| {
        asleep(&s.f.mem, |r| {
            let _ = sem::op(r, &mut Lane::new(s.lane), c, s.f.set, &[op(0, -9, UNDO)], None);
        });
        vshmem_sysv::interrupt(r, &mut Lane::new(s.second), s.lane)
    }),
    does("a jump out of msgsnd", |r, _, c, s| {
        asleep(&s.f.mem, |r| {
            let _ = msg::send(r, &mut Lane::new(s.lane), c, s.f.full, 1, b"x", 0, None);
        });
        vshmem_sysv::abandon(r, &mut Lane::new(s.lane))
    }),
    does("a jump out of park", |r, _, c, s| {
        asleep(&s.f.mem, |r| {
            let limits = parking::Limits::default();
            let _ = parking::wait(r, &mut Lane::new(s.lane), c, key(s, 64), limits, || true);
        });
        vshmem_sysv::abandon(r, &mut Lane::new(s.lane))
    }),
];

fn key(s: &Scene, at: u64) -> parking::Key {
    parking::Key { seg: s.held.seg, life: s.held.life, at }
}

/// What programs can see of the region, but for times.
fn seen(s: &Scene) -> String {
    let r = region(&s.f.mem);
    let mut out = String::new();
    let cells = |out: &mut String, at: vshmem_core::Offset, which: &[u64]| {
        for o in which {
            let _ = write!(out, " {:x}", r.peek(at.plus(*o)).unwrap());
        }
    };
    let common = [obj::LIFE, obj::KEY, obj::ONLY, obj::MODE, obj::UID, obj::GID, obj::CPID];
    for kind in Kind::ALL {
        for index in object::indices(&r, kind).unwrap() {
            let at = r.object(kind, index).unwrap();
            let _ = write!(out, "\n{kind:?} {index}:");
            cells(&mut out, at, &common);
            match kind {
                Kind::Seg => cells(&mut out, at, &[seg::SIZE_LO, seg::NATTCH]),
                Kind::Set => {
                    cells(&mut out, at, &[set::HEAD, set::TAIL, set::WAITERS]);
                    let sems = r.block(r.peek(at.plus(set::SEMS)).unwrap()).unwrap();
                    for i in 1..=u64::from(r.peek(at.plus(set::NSEMS)).unwrap()) {
                        let value =
                            r.peek(sems.index(i, vshmem_core::layout::sem::STRIDE)).unwrap()
                                & 0x7fff;
                        let _ = write!(out, " ={value}");
                    }
                }
                Kind::Queue => {
                    let lists = [queue::RECV_HEAD, queue::RECV_TAIL, queue::SEND_HEAD];
                    cells(&mut out, at, &lists);
                    let mut next = r.peek(at.plus(queue::HEAD)).unwrap();
                    while next != 0 {
                        let m = r.block(next).unwrap();
                        let mut text = [0; 1];
                        use vshmem_core::mem::Mem;
                        r.mem().read_bytes(m.plus(msg_layout::BYTES), &mut text).unwrap();
                        let (t, n) = (m.plus(msg_layout::TYPE_LO), m.plus(msg_layout::SIZE));
                        let (t, n) = (r.peek(t).unwrap(), r.peek(n).unwrap());
                        let _ = write!(out, " ({t} {n} {text:?})");
                        next = r.peek(m.plus(msg_layout::NEXT)).unwrap();
                    }
                }
            }
        }
    }
    for t in r.tasks().unwrap() {
        let _ = write!(out, "\ntask {} {} {}", t.id.index, t.peer, t.pid);
    }
    for p in r.peers().unwrap() {
        let _ = write!(out, "\npeer {} {}", p.index, p.state);
    }
    for (_, lane) in &s.f.sleepers {
        let at = r.lane(*lane).unwrap();
        let _ = write!(out, "\n{lane:?}");
        cells(&mut out, at, &[lane::STATUS, lane::HELD_WHY]);
    }
    out
}

/// What the endpoints do after deaths.
fn settle(s: &mut Scene) {
    let r = region(&s.f.mem);
    let on = &mut s.f.on;
    reap::task(&r, on, s.victim.task).unwrap();
    for t in r.tasks().unwrap() {
        if t.state == task::DYING || t.state == task::CLAIMED {
            reap::task(&r, on, t.id).unwrap();
        }
    }
    for p in r.peers().unwrap() {
        if p.state == peer::CLAIMED {
            r.set_peer_state(p.index, peer::DEAD).unwrap();
        }
        reap::peer(&r, on, p.index).unwrap();
    }
    // All of it may be done again.
    reap::task(&r, on, s.victim.task).unwrap();
    reap::rescan(&r, on, 0).unwrap();
}

fn sound(s: &mut Scene, when: &str) {
    let found = check::look(&s.f.r, &mut s.f.on).unwrap();
    assert!(found.is_empty(), "{when}: {found:#?}");
}

/// Others can do everything they could before.
fn others_go_on(s: &mut Scene) {
    let r = region(&s.f.mem);
    r.set_limit(Limit::Semmni, 99).unwrap();
    let (c, mut lane) = task(&r, &mut s.f.on, 90);
    let on = &mut lane;
    if sem::get(&r, on, &c, 1, 0, 0).is_ok() {
        sem::op(&r, on, &c, s.f.set, &[op(1, 1, UNDO)], None).unwrap();
    }
    if let Ok(queue) = msg::get(&r, on, &c, 1, 0) {
        msg::send(&r, on, &c, queue, 2, b"on", NOWAIT, None).unwrap();
        msg::recv(&r, on, &c, queue, &mut [0; 9], 2, NOWAIT, None).unwrap();
    }
    if let Ok(seg) = shm::get(&r, on, &c, 1, 0, 0) {
        shm::attach(&r, on, &c, seg, 6).unwrap();
    }
    let (set, queue) = (sem::get(&r, on, &c, 70, 1, CREATE), msg::get(&r, on, &c, 70, CREATE));
    let seg = shm::get(&r, on, &c, 70, 9000, CREATE).unwrap();
    sem::remove(&r, on, &c, set.unwrap()).unwrap();
    msg::remove(&r, on, &c, queue.unwrap()).unwrap();
    shm::remove(&r, on, &c, seg).unwrap();
    reap::task(&r, &mut s.f.on, c.task).unwrap();
}

/// Runs it with death after `n` stores, or none; what is seen then, and whether it died.
fn once(op: &Op, n: Option<u64>) -> (String, bool, u64) {
    let s = Rc::new(scene());
    let crash = CrashMem::new(s.f.mem.clone());
    let (what, helped) = (op.sleep, Rc::downgrade(&s));
    let asleep = move || match what {
        Sleep::None => panic!("it sleeps"),
        Sleep::Dies => std::panic::panic_any(Died),
        Sleep::Late => Woken::TimedOut,
        Sleep::Signal => Woken::Interrupted,
        Sleep::Served(f) => {
            let s = helped.upgrade().unwrap();
            f(&s.f.r, &mut Lane::new(s.helping), &s.helper, &s);
            Woken::Maybe
        }
    };
    let told = Told { mem: crash, asleep: Box::new(asleep), clock: std::cell::Cell::new(0) };
    let r = Region::open(told).unwrap();
    if let Some(n) = n {
        r.mem().mem.die_after(n);
    }
    let died = catch_unwind(AssertUnwindSafe(|| {
        (op.run)(&r, &mut Lane::new(s.lane), &s.victim, &s).unwrap();
    }));
    if let Err(payload) = &died {
        assert!(payload.is::<Died>(), "{}: a real panic after {n:?} stores", op.name);
    }
    let stores = r.mem().mem.stores();
    drop(r);
    let mut s = Rc::into_inner(s).unwrap();
    settle(&mut s);
    let when = format!("{}, death after {stores} stores", op.name);
    sound(&mut s, &when);
    let what = seen(&s);
    others_go_on(&mut s);
    sound(&mut s, &format!("{when}, and others went on"));
    (what, died.is_err(), stores)
}

fn die_everywhere(ops: &[Op]) {
    for op in ops {
        let (before, ..) = once(op, Some(0));
        let (after, ..) = once(op, None);
        let mut between = BTreeSet::new();
        let mut n = 0;
        loop {
            let (now, died, stores) = once(op, Some(n));
            if now != before && now != after {
                between.insert(now);
            }
            // One that dies asleep has died of that, not of a store.
            if !died || stores < n {
                break;
            }
            n += 1;
        }
        let count = between.len();
        let text = between.into_iter().collect::<Vec<_>>().join("\n-- or");
        assert_eq!(count, op.between, "{}:{before}\n--{after}\n-- between:{text}", op.name);
        println!("{n:5} stores: {}", op.name);
    }
}

macro_rules! tables {
    ($($name:ident: $table:ident;)*) => {$(
        #[test]
        fn $name() {
            die_everywhere($table);
        }
    )*};
}

tables! {
    no_death_inside_a_call_on_semaphores_leaves_it_half_done: SEMAPHORES;
    no_death_inside_a_call_on_queues_leaves_it_half_done: QUEUES;
    no_death_inside_a_call_on_segments_leaves_it_half_done: SEGMENTS;
    no_death_while_parking_leaves_it_half_done: PARKING;
    no_death_while_coming_going_and_reaping_leaves_it_half_done: PEOPLE;
}
