//! A memory whose owner is stopped at a chosen access.
#![allow(missing_docs, dead_code)]

use std::cell::{Cell, RefCell};
use vshmem_core::mem::{HeapMem, Mem, Ordering, Park, Woken};
use vshmem_core::{Corrupt, Offset, Region};

/// Stopped (SIGSTOP) before its n-th access; others run `hook`; then it goes on.
pub struct PauseMem {
    inner: HeapMem,
    left: Cell<Option<u64>>,
    n: Cell<u64>,
    hook: RefCell<Option<Box<dyn FnOnce()>>>,
}
impl PauseMem {
    pub fn new(inner: HeapMem) -> Self {
        Self { inner, left: Cell::new(None), n: Cell::new(0), hook: RefCell::new(None) }
    }
    pub fn stop_at(&self, n: u64, hook: impl FnOnce() + 'static) {
        self.left.set(Some(n));
        *self.hook.borrow_mut() = Some(Box::new(hook));
    }
    fn tick(&self) {
        self.n.set(self.n.get() + 1);
        if let Some(left) = self.left.get() {
            if left == 0 {
                self.left.set(None);
                let hook = self.hook.borrow_mut().take();
                if let Some(h) = hook {
                    h()
                }
            } else {
                self.left.set(Some(left - 1));
            }
        }
    }
    pub fn pending(&self) -> bool {
        self.hook.borrow().is_some()
    }
}
impl Mem for PauseMem {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, at: Offset, o: Ordering) -> Result<u64, Corrupt> {
        self.tick();
        self.inner.load(at, o)
    }
    fn store(&self, at: Offset, v: u64, o: Ordering) -> Result<(), Corrupt> {
        self.tick();
        self.inner.store(at, v, o)
    }
    fn cas(&self, at: Offset, a: u64, b: u64) -> Result<bool, Corrupt> {
        self.tick();
        self.inner.cas(at, a, b)
    }
    fn fetch_or(&self, at: Offset, b: u64) -> Result<u64, Corrupt> {
        self.tick();
        self.inner.fetch_or(at, b)
    }
    fn swap(&self, at: Offset, v: u64) -> Result<u64, Corrupt> {
        self.tick();
        self.inner.swap(at, v)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.tick();
        self.inner.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, f: &[u8]) -> Result<(), Corrupt> {
        self.tick();
        self.inner.write_bytes(at, f)
    }
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.tick();
        self.inner.zero(at, len)
    }
    fn relax(&self, i: u32) {
        self.inner.relax(i)
    }
}
impl Park for PauseMem {
    fn sleep(&self, at: Offset, e: u32, d: Option<u64>) -> Woken {
        self.tick();
        self.inner.sleep(at, e, d)
    }
    fn wake(&self, l: u32, at: Offset, p: u32) {
        self.inner.wake(l, at, p)
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
pub fn pausing(mem: &HeapMem) -> Region<PauseMem> {
    Region::open(PauseMem::new(mem.clone())).unwrap()
}
