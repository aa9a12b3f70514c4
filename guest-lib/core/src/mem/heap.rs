//! Memories for tests: a heap one, and one that dies at a chosen store.

use super::{Corrupt, Mem, Offset, Ordering, Park, Woken};
#[cfg(loom)]
use loom::sync::atomic::AtomicU64;
use std::cell::Cell;
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;

/// A region in this process's heap; clones share it.
///
/// Sleeping is a yield, waking nothing: every sleeper looks at its word again anyway.
#[derive(Clone)]
pub struct HeapMem {
    words: Arc<[AtomicU64]>,
}

impl HeapMem {
    /// `len` zeroed bytes, rounded up to whole words.
    #[must_use]
    pub fn new(len: u64) -> Self {
        let n = usize::try_from(len.div_ceil(8)).expect("a heap region fits the address space");
        Self { words: (0..n).map(|_| AtomicU64::new(0)).collect() }
    }

    fn word(&self, at: Offset) -> Result<&AtomicU64, Corrupt> {
        if !at.0.is_multiple_of(8) {
            return Err(Corrupt::new(at, "misaligned offset"));
        }
        usize::try_from(at.0 / 8)
            .ok()
            .and_then(|i| self.words.get(i))
            .ok_or(Corrupt::new(at, "offset outside the region"))
    }

    fn each_byte(
        &self,
        at: Offset,
        len: usize,
        mut f: impl FnMut(usize, u8) -> Option<u8>,
    ) -> Result<(), Corrupt> {
        for i in 0..len {
            let byte = at.plus(i as u64);
            let word = self.word(Offset(byte.0 & !7))?;
            let shift = (byte.0 & 7) * 8;
            let old = word.load(Ordering::Relaxed);
            if let Some(new) = f(i, (old >> shift) as u8) {
                word.store(old & !(0xff << shift) | u64::from(new) << shift, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

impl Mem for HeapMem {
    fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt> {
        Ok(self.word(at)?.load(order))
    }

    fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt> {
        self.word(at)?.store(value, order);
        Ok(())
    }

    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
        let word = self.word(at)?;
        Ok(word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
        Ok(self.word(at)?.fetch_or(bits, Ordering::AcqRel))
    }

    fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt> {
        Ok(self.word(at)?.swap(value, Ordering::AcqRel))
    }

    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.each_byte(at, to.len(), |i, b| {
            to[i] = b;
            None
        })
    }

    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.each_byte(at, from.len(), |i, _| Some(from[i]))
    }

    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        for i in 0..len / 8 {
            self.word(at.plus(i * 8))?.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn discard(&self, at: Offset, len: u64) -> bool {
        self.zero(at, len).is_ok()
    }

    fn relax(&self, _: u32) {
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(not(loom))]
        std::thread::yield_now();
    }
}

impl Park for HeapMem {
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken {
        let changed = self.load(at, Ordering::Acquire).is_ok_and(|w| w as u32 != expected);
        if !changed && deadline.is_some_and(|d| self.now() >= d) {
            return Woken::TimedOut;
        }
        self.relax(0);
        Woken::Maybe
    }

    fn wake(&self, _: u32, _: Offset, _: u32) {}

    fn now(&self) -> u64 {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let start = START.get_or_init(std::time::Instant::now);
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn seconds(&self) -> u32 {
        if cfg!(loom) {
            return 0; // A model's runs must not differ by the second they are made in.
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_secs() as u32)
    }

    fn spin(&self) -> u64 {
        0
    }
}

/// The panic payload with which [`CrashMem`] kills its thread.
#[derive(Debug)]
pub struct Died;

/// A view of a [`HeapMem`] whose owner dies right after a chosen number of stores.
///
/// Death is a panic with [`Died`]; catch it with `std::panic::catch_unwind` and look at the region
/// through another view.
pub struct CrashMem {
    inner: HeapMem,
    left: Cell<Option<u64>>,
    stores: Cell<u64>,
}

impl CrashMem {
    /// A view of `inner` that never dies until told to.
    #[must_use]
    pub fn new(inner: HeapMem) -> Self {
        Self { inner, left: Cell::new(None), stores: Cell::new(0) }
    }

    /// Dies after `stores` more stores: 0 dies before the first.
    pub fn die_after(&self, stores: u64) {
        self.left.set(Some(stores));
    }

    /// Stores made so far.
    #[must_use]
    pub fn stores(&self) -> u64 {
        self.stores.get()
    }

    fn storing(&self) {
        if let Some(left) = self.left.get() {
            if left == 0 {
                std::panic::panic_any(Died);
            }
            self.left.set(Some(left - 1));
        }
        self.stores.set(self.stores.get() + 1);
    }
}

impl Mem for CrashMem {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt> {
        self.inner.load(at, order)
    }

    fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt> {
        self.storing();
        self.inner.store(at, value, order)
    }

    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
        self.storing();
        self.inner.cas(at, old, new)
    }

    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
        self.storing();
        self.inner.fetch_or(at, bits)
    }

    fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt> {
        self.storing();
        self.inner.swap(at, value)
    }

    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.inner.read_bytes(at, to)
    }

    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.storing();
        self.inner.write_bytes(at, from)
    }

    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.storing();
        self.inner.zero(at, len)
    }

    fn discard(&self, at: Offset, len: u64) -> bool {
        self.storing();
        self.inner.discard(at, len)
    }

    fn relax(&self, i: u32) {
        self.inner.relax(i);
    }
}

impl Park for CrashMem {
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken {
        self.inner.sleep(at, expected, deadline)
    }

    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        self.storing();
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
