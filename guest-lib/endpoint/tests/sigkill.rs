//! SIGKILL at every store of a process's calls: a real one, attached through a real endpoint, which
//! sees it die. Afterwards the checker finds nothing, the call has happened or not, and others go on.

mod common;

use common::{World, caller, dial, reply, request};
use std::cell::Cell;
use std::sync::Arc;
use vshmem_core::attach::Op;
use vshmem_core::format::Spec;
use vshmem_core::mem::{Mem, Ordering, Park, Woken};
use vshmem_core::task::{Owner, TaskId};
use vshmem_core::{Corrupt, Lane, Offset, Region};
use vshmem_endpoint::{HostEvents, Memory};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, Result, check, msg, sem, shm};

const CREATE: i32 = 0o1600;
const UNDO: i16 = 0x1000;
const NOWAIT: i32 = 0o4000;

/// The mapping of a process that the kernel kills before a chosen store.
struct Killed {
    inner: Memory,
    left: Cell<u64>,
}

impl Killed {
    fn storing(&self) {
        if self.left.get() == 0 {
            // SAFETY: only sends a signal, to this process, which ends by it here.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        self.left.set(self.left.get() - 1);
    }
}

impl Mem for Killed {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, at: Offset, o: Ordering) -> std::result::Result<u64, Corrupt> {
        self.inner.load(at, o)
    }
    fn store(&self, at: Offset, v: u64, o: Ordering) -> std::result::Result<(), Corrupt> {
        self.storing();
        self.inner.store(at, v, o)
    }
    fn cas(&self, at: Offset, a: u64, b: u64) -> std::result::Result<bool, Corrupt> {
        self.storing();
        self.inner.cas(at, a, b)
    }
    fn fetch_or(&self, at: Offset, bits: u64) -> std::result::Result<u64, Corrupt> {
        self.storing();
        self.inner.fetch_or(at, bits)
    }
    fn swap(&self, at: Offset, v: u64) -> std::result::Result<u64, Corrupt> {
        self.storing();
        self.inner.swap(at, v)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> std::result::Result<(), Corrupt> {
        self.inner.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, from: &[u8]) -> std::result::Result<(), Corrupt> {
        self.storing();
        self.inner.write_bytes(at, from)
    }
    fn zero(&self, at: Offset, len: u64) -> std::result::Result<(), Corrupt> {
        self.storing();
        self.inner.zero(at, len)
    }
    fn relax(&self, i: u32) {
        self.inner.relax(i);
    }
}

impl Park for Killed {
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken {
        self.inner.sleep(at, expected, deadline)
    }
    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        self.inner.wake(lane, at, peer);
    }
    fn now(&self) -> u64 {
        self.inner.now()
    }
    fn seconds(&self) -> u32 {
        self.inner.seconds()
    }
    fn spin(&self) -> u64 {
        0
    }
}

#[derive(Clone, Copy)]
struct Ids {
    set: i32,
    queue: i32,
    seg: i32,
}

type Call = fn(&Region<Killed>, &mut Lane, &Caller, Ids) -> Result<()>;

const fn op(num: u16, op: i16, flg: i16) -> SemBuf {
    SemBuf { num, op, flg }
}

/// Each in a process of its own; what it has attached or may undo goes with it in any case.
const CALLS: &[(&str, Call)] = &[
    ("semop", |r, on, c, i| sem::op(r, on, c, i.set, &[op(0, -2, 0), op(1, 3, 0)], None)),
    ("semop with SEM_UNDO", |r, on, c, i| sem::op(r, on, c, i.set, &[op(0, -2, UNDO)], None)),
    ("SETALL", |r, on, c, i| sem::setall(r, on, c, i.set, &[1, 2])),
    ("msgsnd", |r, on, c, i| msg::send(r, on, c, i.queue, 2, b"two", 0, None)),
    ("msgrcv", |r, on, c, i| msg::recv(r, on, c, i.queue, &mut [0; 9], 0, 0, None).map(drop)),
    ("shmget", |r, on, c, _| shm::get(r, on, c, 60, 50_000, CREATE).map(drop)),
    ("shmat and shmdt", |r, on, c, i| {
        let a = shm::attach(r, on, c, i.seg, 6)?;
        shm::detach(r, on, c, a.seg, a.life)
    }),
    ("semget", |r, on, c, _| sem::get(r, on, c, 60, 3, CREATE).map(drop)),
    ("IPC_RMID of a set", |r, on, c, i| sem::remove(r, on, c, i.set)),
    ("IPC_RMID of a queue", |r, on, c, i| msg::remove(r, on, c, i.queue)),
    ("IPC_RMID of a segment", |r, on, c, i| shm::remove(r, on, c, i.seg)),
];

/// The objects as each round finds them.
fn objects(w: &mut World) -> Ids {
    let (c, r, on) = (w.caller(), &w.region, &mut w.lane);
    let set = sem::get(r, on, &c, 50, 2, CREATE).unwrap();
    sem::setall(r, on, &c, set, &[5, 5]).unwrap();
    let queue = msg::get(r, on, &c, 50, CREATE).unwrap();
    msg::send(r, on, &c, queue, 1, b"one", NOWAIT, None).unwrap();
    let seg = shm::get(r, on, &c, 50, 9000, CREATE).unwrap();
    Ids { set, queue, seg }
}

/// What others see, and takes it away.
fn outcome(w: &mut World, ids: Ids) -> String {
    let (c, r, on) = (w.caller(), &w.region, &mut w.lane);
    let values = sem::getall(r, on, &c, ids.set).map_err(|e| e.errno());
    let mut messages = Vec::new();
    let mut buf = [0; 9];
    while let Ok((mtype, n)) = msg::recv(r, on, &c, ids.queue, &mut buf, 0, NOWAIT, None) {
        messages.push((mtype, buf[..n].to_vec()));
    }
    let there = msg::stat(r, on, &c, ids.queue).is_ok();
    let nattch = shm::stat(r, on, &c, ids.seg).map(|s| s.nattch).map_err(|e| e.errno());
    let new = [shm::get(r, on, &c, 60, 0, 0), sem::get(r, on, &c, 60, 0, 0)];
    let made = new.map(|n| n.is_ok());
    for seg in [Ok(ids.seg), new[0]].into_iter().flatten() {
        let _ = shm::remove(r, on, &c, seg);
    }
    for set in [Ok(ids.set), new[1]].into_iter().flatten() {
        let _ = sem::remove(r, on, &c, set);
    }
    let _ = msg::remove(r, on, &c, ids.queue);
    format!("{values:?} {there} {messages:?} {nattch:?} {made:?}")
}

/// The life of the process: `true` at its end if it got there.
fn live(socket: &std::path::Path, len: u64, ids: Ids, call: Call, stores: u64) -> bool {
    let to = dial(socket);
    request(&to, Op::Attach, TaskId { index: 0, incarnation: 0 }, &[]);
    let Some((reply, fds)) = reply(&to) else { return false };
    let id = TaskId { index: reply.task, incarnation: reply.incarnation };
    let inner = Memory::map(&fds[0], len, Arc::new(HostEvents::new())).unwrap();
    let r = Region::open(Killed { inner, left: Cell::new(stores) }).unwrap();
    let mut lane = r.claim_lane(Owner::Task(id)).unwrap().unwrap();
    call(&r, &mut lane, &caller(id, std::process::id()), ids).is_ok()
}

/// Runs the call in a process that is killed at its store number `stores`; whether it was.
fn killed(w: &mut World, ids: Ids, call: Call, stores: u64) -> bool {
    let (socket, len) = (w.socket(), Spec::for_file("test", common::SIZE).unwrap().len);
    // SAFETY: the child uses the allocator, which the C library opens in the child, and ends itself.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = live(&socket, len, ids, call, stores);
        // SAFETY: ends the child without the test harness.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    // SAFETY: a child of this test.
    let ended = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(ended >= 0);
    // SAFETY: a new descriptor, of nobody else.
    let ended: std::os::fd::OwnedFd =
        unsafe { std::os::fd::FromRawFd::from_raw_fd(i32::try_from(ended).unwrap()) };
    w.until(std::os::fd::AsFd::as_fd(&ended));
    w.settle();
    let mut status = 0;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status) || libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    libc::WIFSIGNALED(status)
}

#[test]
fn a_process_killed_at_any_store_leaves_its_call_done_or_not_done() {
    let mut w = World::new();
    let mut kills = 0;
    for (name, call) in CALLS {
        let mut seen = Vec::new();
        for stores in [0, u64::MAX].into_iter().chain(1..) {
            let ids = objects(&mut w);
            let was = killed(&mut w, ids, *call, stores);
            kills += u64::from(was);
            assert_eq!(w.slots(), 0, "{name}, killed at store {stores}: not reaped");
            let found = check::look(&w.region, &mut w.lane).unwrap();
            assert!(found.is_empty(), "{name}, killed at store {stores}: {found:#?}");
            let now = outcome(&mut w, ids);
            if stores == 0 || stores == u64::MAX {
                assert_eq!(was, stores == 0);
                seen.push(now);
            } else {
                assert!(
                    seen.contains(&now),
                    "{name}, killed at store {stores}: {now}, not {seen:?}"
                );
                if !was {
                    break;
                }
            }
        }
    }
    println!("{kills} processes killed");
    assert!(kills > 300, "{kills}");
}
