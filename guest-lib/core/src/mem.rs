//! Words, offsets and what the rest of the crate borrows from its surroundings.

use std::fmt;

#[cfg(loom)]
pub use loom::sync::atomic::fence;
pub use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub use std::sync::atomic::fence;

/// Bytes from the region's base; never an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset `n` bytes further on; saturates, so that hostile sums fail the bounds check.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// The start of element `i` of a table of `stride` bytes each that begins here.
    #[must_use]
    pub const fn index(self, i: u64, stride: u64) -> Self {
        self.plus(i.saturating_mul(stride))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The region holds something that no correct peer writes.
///
/// It names where and what; the operation that met it changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("region corrupt at {at}: {what}")]
pub struct Corrupt {
    /// Where it was found.
    pub at: Offset,
    /// What is wrong there.
    pub what: &'static str,
}

impl Corrupt {
    /// A report of `what` at `at`.
    #[must_use]
    pub const fn new(at: Offset, what: &'static str) -> Self {
        Self { at, what }
    }

    const FENCED: &'static str =
        "the journal was taken away: its task was reaped or its peer fenced";

    /// A report that is none of corruption: who meets it was taken for dead and shut out.
    #[must_use]
    pub const fn fenced(at: Offset) -> Self {
        Self::new(at, Self::FENCED)
    }

    /// Whether this is [`Corrupt::fenced`].
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.what == Self::FENCED
    }
}

/// Shared 64-bit words, addressed by offset.
///
/// An implementation is the one function that turns an offset into an address: it refuses what is
/// misaligned or outside. Peers write the same memory at any time, so no reference to it is ever
/// formed; every access is atomic, or a copy of bytes.
pub trait Mem {
    /// Bytes in the region.
    fn len(&self) -> u64;

    /// Whether there is no memory at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Loads a word.
    ///
    /// # Errors
    /// `at` is misaligned or outside the region.
    fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt>;

    /// Stores a word.
    ///
    /// # Errors
    /// `at` is misaligned or outside the region.
    fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt>;

    /// Stores words one after another, each with release.
    ///
    /// # Errors
    /// `at` is misaligned, or some of them are outside the region.
    #[inline]
    fn store_words(&self, at: Offset, words: &[u64]) -> Result<(), Corrupt> {
        for (i, word) in (0..).zip(words) {
            self.store(at.index(i, 8), *word, Ordering::Release)?;
        }
        Ok(())
    }

    /// Replaces `old` by `new` (acquire-release); `false` where the word held something else.
    ///
    /// # Errors
    /// `at` is misaligned or outside the region.
    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt>;

    /// Sets bits (acquire-release) and returns the word as it was.
    ///
    /// # Errors
    /// `at` is misaligned or outside the region.
    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt>;

    /// Exchanges a word (acquire-release).
    ///
    /// # Errors
    /// `at` is misaligned or outside the region.
    fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt>;

    /// Copies bytes out of the region.
    ///
    /// # Errors
    /// The range is outside the region.
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt>;

    /// Copies bytes into the region.
    ///
    /// # Errors
    /// The range is outside the region.
    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt>;

    /// Zeroes bytes of the region.
    ///
    /// # Errors
    /// The range is outside the region.
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt>;

    /// Has whole pages of the region read as zeros and gives their memory back; `false` where that
    /// cannot be done or would not pay, and nothing has changed. They must be the caller's own.
    fn discard(&self, at: Offset, len: u64) -> bool {
        let _ = (at, len);
        false
    }

    /// Passes the time in the `i`-th turn of a short wait: spins first, yields later.
    fn relax(&self, i: u32);
}

/// Why a sleeper returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// Somebody woke it, or the word had changed, or for no reason: look at the word.
    Maybe,
    /// The deadline passed.
    TimedOut,
    /// A signal arrived.
    Interrupted,
}

/// Sleep, wake and clocks: the second half of a transport.
pub trait Park {
    /// Sleeps while the low half of the word at `at` is `expected`, until `deadline`
    /// (nanoseconds of [`Park::now`]).
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken;

    /// Wakes the sleeper of `lane` (whose status word is at `at`), a task of `peer`. A hint that
    /// may be lost with its sender.
    fn wake(&self, lane: u32, at: Offset, peer: u32);

    /// Monotonic nanoseconds.
    fn now(&self) -> u64;

    /// Seconds since the epoch, cheaply.
    fn seconds(&self) -> u32;

    /// How long, in nanoseconds, to spin before sleeping; 0 on one CPU without other kernels.
    fn spin(&self) -> u64;

    /// Whether a signal handler has run in this thread since its call began: then it sleeps no more.
    fn interrupted(&self) -> bool {
        false
    }

    /// Tells how a wait ended that was not over at once: how long it took in nanoseconds, and
    /// whether it came to a sleep. What [`Park::spin`] answers next may follow from it.
    fn waited(&self, took: u64, slept: bool) {
        let _ = (took, slept);
    }
}

/// Everything [`crate::Region`] needs from its surroundings.
pub trait Platform: Mem + Park {}
impl<T: Mem + Park> Platform for T {}

mod heap;
pub use heap::{CrashMem, Died, HeapMem};
