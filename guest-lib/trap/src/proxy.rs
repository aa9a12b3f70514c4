//! The region as the supervisor's threads use it: a sleep on behalf of a caller ends when a signal
//! waits for that caller, or when it is gone.
//!
//! A caller that waits for its answer cannot be interrupted (the listener is installed so), and
//! nothing tells the supervisor that it should be. So a sleep is cut into slices, and after each the
//! caller's state is looked at in `/proc`.

use crate::listener::Listener;
use crate::process::Process;
use crate::status::Status;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;
use vshmem::Mapping;
use vshmem_core::mem::{Mem, Ordering, Park, Woken};
use vshmem_core::{Corrupt, Offset};

/// Nanoseconds between two looks at the caller, in the first second and later.
const SLICES: [u64; 2] = [4_000_000, 10_000_000];
const SECOND: u64 = 1_000_000_000;

/// What ended a sleep early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Nothing did.
    Nothing,
    /// A signal for which the program has a handler, or that may be another thread's.
    Handler,
    /// A signal without one, certainly this thread's: a stop.
    Other,
    /// The caller is gone.
    Gone,
}

/// On whose behalf a thread of the supervisor sleeps.
pub struct Watch {
    pub listener: &'static Listener,
    pub id: u64,
    pub status: Arc<File>,
    pub process: Arc<Process>,
}

impl Watch {
    fn look(&self) -> Why {
        if self.process.dead.load(Atomic::Acquire) || !self.listener.waits(self.id) {
            return Why::Gone;
        }
        let Ok(status) = Status::read(&self.status) else { return Why::Gone };
        let signals = status.interrupting();
        if signals == 0 {
            // A stop that another thread has taken waits for this one too, and shows nowhere else.
            let stops = status.threads > 1 && self.process.stops();
            return if stops { Why::Other } else { Why::Nothing };
        }
        let own = status.own_signals & !status.blocked != 0 || status.threads == 1;
        if signals & status.caught == 0 && own { Why::Other } else { Why::Handler }
    }
}

/// See the module.
pub struct Proxy {
    mapping: &'static Mapping,
    watch: RefCell<Option<Watch>>,
    why: Cell<Why>,
}

impl Proxy {
    pub fn new(mapping: &'static Mapping) -> Self {
        Self { mapping, watch: RefCell::new(None), why: Cell::new(Why::Nothing) }
    }

    /// From now on, sleeps are on behalf of this caller; of nobody for `None`.
    pub fn set_watch(&self, watch: Option<Watch>) {
        *self.watch.borrow_mut() = watch;
        self.why.set(Why::Nothing);
    }

    /// What ended the last sleep early.
    pub fn why(&self) -> Why {
        self.why.get()
    }
}

impl Park for Proxy {
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken {
        let watch = self.watch.borrow();
        let Some(watch) = watch.as_ref() else {
            return self.mapping.sleep(at, expected, deadline);
        };
        let began = self.now();
        loop {
            // Whoever sets it wakes this thread, which must not sleep again.
            if watch.process.dead.load(Atomic::Acquire) {
                self.why.set(Why::Gone);
                return Woken::Interrupted;
            }
            let now = self.now();
            let slice = now + SLICES[usize::from(now.saturating_sub(began) > SECOND)];
            let until = deadline.map_or(slice, |d| d.min(slice));
            match self.mapping.sleep(at, expected, Some(until)) {
                Woken::TimedOut if deadline.is_none_or(|d| self.now() < d) => {}
                other => return other,
            }
            let why = watch.look();
            if why != Why::Nothing {
                self.why.set(why);
                return Woken::Interrupted;
            }
        }
    }

    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        self.mapping.wake(lane, at, peer);
    }
    fn now(&self) -> u64 {
        self.mapping.now()
    }
    fn seconds(&self) -> u32 {
        self.mapping.seconds()
    }
    fn spin(&self) -> u64 {
        self.mapping.spin()
    }
    fn waited(&self, took: u64, slept: bool) {
        self.mapping.waited(took, slept);
    }
}

impl Mem for Proxy {
    fn len(&self) -> u64 {
        self.mapping.len()
    }
    fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt> {
        self.mapping.load(at, order)
    }
    fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt> {
        self.mapping.store(at, value, order)
    }
    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
        self.mapping.cas(at, old, new)
    }
    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
        self.mapping.fetch_or(at, bits)
    }
    fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt> {
        self.mapping.swap(at, value)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.mapping.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.mapping.write_bytes(at, from)
    }
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.mapping.zero(at, len)
    }
    fn relax(&self, i: u32) {
        self.mapping.relax(i);
    }
}
