//! A region with something of everything in it.
#![allow(missing_docs, dead_code)]

use super::still::Still;
use super::{CREATE, endpoint, heap, region, task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_core::layout::{Table, obj};
use vshmem_core::mem::{Died, HeapMem, Ordering};
use vshmem_core::region::Kind;
use vshmem_core::{Lane, LaneId, Offset, Region};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, msg, park, sem, shm};

pub struct Full {
    pub mem: HeapMem,
    pub r: Region<HeapMem>,
    /// The endpoint's.
    pub on: Lane,
    /// Creator, with its lane.
    pub me: Caller,
    pub mine: Lane,
    /// A set {0, 5} on which `sleepers[0]` waits for -1.
    pub set: i32,
    /// An empty queue on which `sleepers[1]` waits for type 7, with a message of type 1.
    pub wanted: i32,
    /// A full queue into which `sleepers[2]` wants to send.
    pub full: i32,
    /// Attached by the creator, 3 pages.
    pub seg: i32,
    /// Removed and still attached.
    pub doomed: i32,
    /// On a set, for a message, for room, parked.
    pub sleepers: [(Caller, LaneId); 4],
}

type Asleep = Region<Still<HeapMem, fn()>>;

fn die() {
    std::panic::panic_any(Died);
}

/// Runs `call` as a process that never comes back from its sleep.
pub fn asleep(mem: &HeapMem, call: impl FnOnce(&Asleep)) {
    let r = Region::open(Still(mem.clone(), die as fn())).unwrap();
    let slept = catch_unwind(AssertUnwindSafe(|| call(&r)));
    assert!(slept.is_err_and(|payload| payload.is::<Died>()), "it did not sleep");
}

pub fn full() -> Full {
    full_in(heap())
}

pub fn full_in(mem: HeapMem) -> Full {
    std::panic::set_hook(Box::new(|info| {
        if !info.payload().is::<Died>() {
            eprintln!("{info}");
        }
    }));
    let r = region(&mem);
    let mut on = endpoint(&r);
    let (me, mut mine) = task(&r, &mut on, 10);
    let (c, on_me) = (&me, &mut mine);
    let set = sem::get(&r, on_me, c, 1, 2, CREATE).unwrap();
    sem::setall(&r, on_me, c, set, &[0, 5]).unwrap();
    sem::op(&r, on_me, c, set, &[SemBuf { num: 1, op: 2, flg: 0x1000 }], None).unwrap();
    let wanted = msg::get(&r, on_me, c, 1, CREATE).unwrap();
    msg::send(&r, on_me, c, wanted, 1, &[1; 100], 0, None).unwrap();
    let full = msg::get(&r, on_me, c, 2, CREATE).unwrap();
    for _ in 0..2 {
        msg::send(&r, on_me, c, full, 1, &[2; 8192], 0, None).unwrap();
    }
    // Its block stays with the lane.
    msg::send(&r, on_me, c, wanted, 1, &[3; 20], 0, None).unwrap();
    msg::recv(&r, on_me, c, wanted, &mut [0; 100], 0, 0, None).unwrap();
    let seg = shm::get(&r, on_me, c, 1, 9000, CREATE).unwrap();
    let held = shm::attach(&r, on_me, c, seg, 6).unwrap();
    let doomed = shm::get(&r, on_me, c, 0, 5000, CREATE).unwrap();
    shm::attach(&r, on_me, c, doomed, 6).unwrap();
    shm::remove(&r, on_me, c, doomed).unwrap();
    let sleepers = [20, 21, 22, 23].map(|pid| task(&r, &mut on, pid));
    let lane = |i: usize| Lane::new(sleepers[i].1.id());
    asleep(&mem, |r| {
        let ops = [SemBuf { num: 1, op: 1, flg: 0x1000 }, SemBuf { num: 0, op: -1, flg: 0x1000 }];
        let _ = sem::op(r, &mut lane(0), &sleepers[0].0, set, &ops, None);
    });
    asleep(&mem, |r| {
        let _ = msg::recv(r, &mut lane(1), &sleepers[1].0, wanted, &mut [0; 9], 7, 0, None);
    });
    asleep(&mem, |r| {
        let _ = msg::send(r, &mut lane(2), &sleepers[2].0, full, 1, b"more", 0, None);
    });
    asleep(&mem, |r| {
        let key = park::Key { seg: held.seg, life: held.life, at: 64 };
        let _ = park::wait(r, &mut lane(3), &sleepers[3].0, key, park::Limits::default(), || true);
    });
    let sleepers = sleepers.map(|(c, lane)| (c, lane.id()));
    Full { mem, r, on, me, mine, set, wanted, full, seg, doomed, sleepers }
}

impl Full {
    pub fn at(&self, kind: Kind, id: i32) -> Offset {
        self.r.object(kind, id as u32 & 0x7fff).unwrap()
    }

    pub fn slot(&self, sleeper: usize) -> Offset {
        self.r.lane(self.sleepers[sleeper].1).unwrap()
    }

    pub fn task(&self) -> Offset {
        self.r.element(Table::Tasks, self.me.task.index).unwrap()
    }

    /// The block that the cell at `at` names.
    pub fn block(&self, at: Offset) -> Offset {
        self.r.block(self.r.peek(at).unwrap()).unwrap()
    }

    /// Puts another value into a cell.
    pub fn put(&self, at: Offset, value: u32) {
        self.r.init(at, value).unwrap();
    }

    pub fn add(&self, at: Offset, n: i32) {
        self.put(at, self.r.peek(at).unwrap().wrapping_add_signed(n));
    }

    pub fn word(&self, at: Offset, word: u64) {
        use vshmem_core::mem::Mem;
        self.mem.store(at, word, Ordering::Release).unwrap();
    }

    pub fn key_of(&self, kind: Kind, id: i32) -> u32 {
        self.r.peek(self.at(kind, id).plus(obj::KEY)).unwrap()
    }
}
