//! A memory whose owner only sleeps as it is told.
#![allow(missing_docs, dead_code)]

use vshmem_core::mem::{Mem, Ordering, Park, Woken};
use vshmem_core::{Corrupt, Offset};

/// A memory whose time stands still, so that no sleep ends by itself; `asleep` says what to do then.
pub struct Still<M, F>(pub M, pub F);

impl<M: Mem, F> Mem for Still<M, F> {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn load(&self, at: Offset, o: Ordering) -> Result<u64, Corrupt> {
        self.0.load(at, o)
    }
    fn store(&self, at: Offset, v: u64, o: Ordering) -> Result<(), Corrupt> {
        self.0.store(at, v, o)
    }
    fn cas(&self, at: Offset, a: u64, b: u64) -> Result<bool, Corrupt> {
        self.0.cas(at, a, b)
    }
    fn fetch_or(&self, at: Offset, b: u64) -> Result<u64, Corrupt> {
        self.0.fetch_or(at, b)
    }
    fn swap(&self, at: Offset, v: u64) -> Result<u64, Corrupt> {
        self.0.swap(at, v)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.0.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, f: &[u8]) -> Result<(), Corrupt> {
        self.0.write_bytes(at, f)
    }
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.0.zero(at, len)
    }
    fn relax(&self, i: u32) {
        self.0.relax(i)
    }
}
impl<M: Park, F: Fn()> Park for Still<M, F> {
    fn sleep(&self, at: Offset, expected: u32, _: Option<u64>) -> Woken {
        (self.1)();
        self.0.sleep(at, expected, None)
    }
    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        self.0.wake(lane, at, peer)
    }
    fn now(&self) -> u64 {
        0
    }
    fn seconds(&self) -> u32 {
        0
    }
    fn spin(&self) -> u64 {
        0
    }
}
