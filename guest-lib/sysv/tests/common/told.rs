//! A memory whose owner dies at a chosen store and sleeps as told, in a time that
//! stands still but for that.
#![allow(missing_docs, dead_code)]

use vshmem_core::mem::{CrashMem, Mem, Ordering, Park, Woken};
use vshmem_core::{Corrupt, Offset};

pub struct Told {
    pub mem: CrashMem,
    /// What happens while it sleeps, and how that ends.
    pub asleep: Box<dyn Fn() -> Woken>,
    pub clock: std::cell::Cell<u64>,
}

impl Mem for Told {
    fn len(&self) -> u64 {
        self.mem.len()
    }
    fn load(&self, at: Offset, o: Ordering) -> Result<u64, Corrupt> {
        self.mem.load(at, o)
    }
    fn store(&self, at: Offset, v: u64, o: Ordering) -> Result<(), Corrupt> {
        self.mem.store(at, v, o)
    }
    fn cas(&self, at: Offset, a: u64, b: u64) -> Result<bool, Corrupt> {
        self.mem.cas(at, a, b)
    }
    fn fetch_or(&self, at: Offset, b: u64) -> Result<u64, Corrupt> {
        self.mem.fetch_or(at, b)
    }
    fn swap(&self, at: Offset, v: u64) -> Result<u64, Corrupt> {
        self.mem.swap(at, v)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.mem.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.mem.write_bytes(at, from)
    }
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.mem.zero(at, len)
    }
    fn relax(&self, i: u32) {
        self.mem.relax(i)
    }
}

impl Park for Told {
    fn sleep(&self, at: Offset, expected: u32, _: Option<u64>) -> Woken {
        if self.mem.load(at, Ordering::Acquire).is_ok_and(|w| w as u32 != expected) {
            return Woken::Maybe;
        }
        let woken = (self.asleep)();
        if woken == Woken::TimedOut {
            self.clock.set(u64::MAX / 2);
        }
        woken
    }
    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        self.mem.wake(lane, at, peer)
    }
    fn now(&self) -> u64 {
        self.clock.get()
    }
    fn seconds(&self) -> u32 {
        0
    }
    fn spin(&self) -> u64 {
        0
    }
}
