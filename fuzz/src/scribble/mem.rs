//! A memory in which somebody else writes between any two accesses, and which counts them.

use super::lies::Liar;
use std::cell::{Cell, RefCell};
use vshmem_core::mem::{HeapMem, Mem, Ordering, Park, Woken};
use vshmem_core::{Corrupt, Offset};

/// What ends a call that would never end: it needed more accesses than its bound.
#[derive(Debug)]
pub struct Endless(pub std::backtrace::Backtrace);
/// What ends a call whose process is to die here, or would sleep for ever.
#[derive(Debug)]
pub struct Died;

/// One process's view of a region; everything written can be taken back.
pub struct Hostile {
    inner: HeapMem,
    undo: RefCell<Vec<(Offset, u64)>>,
    accesses: Cell<u64>,
    bound: Cell<u64>,
    dies_at: Cell<Option<u64>>,
    clock: Cell<u64>,
    signal: Cell<bool>,
    /// Nobody's sleep ends any more.
    pub sleeps_on: Cell<bool>,
    pub liar: RefCell<Option<Liar>>,
}

impl Hostile {
    pub fn new(inner: HeapMem) -> Self {
        Self {
            inner,
            undo: RefCell::default(),
            accesses: Cell::new(0),
            bound: Cell::new(u64::MAX),
            dies_at: Cell::new(None),
            clock: Cell::new(0),
            signal: Cell::new(false),
            sleeps_on: Cell::new(false),
            liar: RefCell::new(None),
        }
    }

    /// A call begins: it may make so many accesses, and dies at one of them if told to.
    pub fn begin(&self, bound: u64, dies_at: Option<u64>, signal: bool) {
        self.accesses.set(0);
        self.bound.set(bound);
        self.dies_at.set(dies_at);
        self.signal.set(signal);
        if let Some(liar) = &mut *self.liar.borrow_mut() {
            liar.restart();
        }
    }

    /// Accesses since then, and turns of waiting.
    pub fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    /// Everything is as it was when the log was cut last.
    pub fn take_back(&self) {
        for (at, old) in self.undo.borrow_mut().drain(..).rev() {
            self.inner.store(at, old, Ordering::Relaxed).unwrap();
        }
    }

    /// From now on only later writes are taken back.
    pub fn keep(&self) {
        self.undo.borrow_mut().clear();
    }

    fn note(&self, at: Offset) {
        if let Ok(old) = self.inner.load(at, Ordering::Relaxed) {
            self.undo.borrow_mut().push((at, old));
        }
    }

    fn note_bytes(&self, at: Offset, len: u64) {
        let (first, last) = (at.0 / 8, at.0.saturating_add(len).min(self.inner.len()).div_ceil(8));
        (first..last).for_each(|word| self.note(Offset(word * 8)));
    }

    /// The other peer's store.
    pub fn lie(&self, at: Offset, value: u64) {
        self.note(at);
        let _ = self.inner.store(at, value, Ordering::Relaxed);
    }

    pub fn raw(&self) -> &HeapMem {
        &self.inner
    }

    fn tick(&self, at: Offset, cost: u64) {
        let n = self.accesses.get() + cost;
        self.accesses.set(n);
        if n > self.bound.get() {
            self.bound.set(u64::MAX);
            std::panic::panic_any(Endless(std::backtrace::Backtrace::force_capture()));
        }
        if self.dies_at.get().is_some_and(|end| n >= end) {
            self.dies_at.set(None);
            std::panic::panic_any(Died);
        }
        if let Some(liar) = &mut *self.liar.borrow_mut() {
            liar.between(self, n, at);
        }
    }
}

impl Mem for Hostile {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn load(&self, at: Offset, o: Ordering) -> Result<u64, Corrupt> {
        self.tick(at, 1);
        self.inner.load(at, o)
    }
    fn store(&self, at: Offset, v: u64, o: Ordering) -> Result<(), Corrupt> {
        self.tick(at, 1);
        self.note(at);
        self.inner.store(at, v, o)
    }
    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
        self.tick(at, 1);
        self.note(at);
        self.inner.cas(at, old, new)
    }
    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
        self.tick(at, 1);
        self.note(at);
        self.inner.fetch_or(at, bits)
    }
    fn swap(&self, at: Offset, v: u64) -> Result<u64, Corrupt> {
        self.tick(at, 1);
        self.note(at);
        self.inner.swap(at, v)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.tick(at, 1 + to.len() as u64 / 64);
        self.inner.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.tick(at, 1 + from.len() as u64 / 64);
        self.note_bytes(at, from.len() as u64);
        self.inner.write_bytes(at, from)
    }
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.tick(at, 1 + len / 64);
        self.note_bytes(at, len);
        self.inner.zero(at, len)
    }
    fn relax(&self, _: u32) {
        self.tick(Offset(0), 1);
    }
}

impl Park for Hostile {
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken {
        self.tick(at, 1);
        if self.inner.load(at, Ordering::Relaxed).is_ok_and(|w| w as u32 != expected) {
            return Woken::Maybe;
        }
        if self.signal.get() {
            return Woken::Interrupted;
        }
        match deadline {
            // Nobody else runs here: it would sleep for ever, as it may.
            None => std::panic::panic_any(Died),
            Some(_) if self.sleeps_on.get() => std::panic::panic_any(Died),
            Some(end) if self.clock.get() >= end => Woken::TimedOut,
            Some(_) => {
                self.clock.set(self.clock.get() + 1_000_000);
                Woken::Maybe
            }
        }
    }
    fn wake(&self, _: u32, _: Offset, _: u32) {}
    fn now(&self) -> u64 {
        self.clock.set(self.clock.get() + 1000);
        self.clock.get()
    }
    fn seconds(&self) -> u32 {
        1_000_000
    }
    fn spin(&self) -> u64 {
        20_000
    }
    fn interrupted(&self) -> bool {
        self.signal.get()
    }
}
