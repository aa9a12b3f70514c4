//! A region that is really mapped: the memory half of every real transport.
//!
//! [`MappedMem`] makes no system call and owns nothing. Whoever maps the region (the endpoint, the
//! `vshmem` library) builds one over its mapping and adds a [`crate::mem::Park`] that suits the
//! transport: futexes, or the module's ioctls.

use crate::mem::{Corrupt, Mem, Offset, Ordering};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

const _: () = assert!(cfg!(target_endian = "little"), "regions are little-endian");

/// The words of a mapped region.
///
/// Invariants, promised by the caller of [`MappedMem::new`]:
///
/// * M1: `base .. base + len` is mapped readable and writable for as long as this value lives, and
///   lies in one allocation (a mapping);
/// * M2: `base` is aligned to 8, and `len` is a multiple of 8 below `isize::MAX`;
/// * M3: this process touches the bytes only through atomics or raw copies. No reference to plain
///   bytes of the region exists.
///
/// Peers write the same bytes at any time, hostile ones too; so every access here is atomic, also
/// the copies of bytes, which go by relaxed words (as fast as plain ones).
#[derive(Debug)]
pub struct MappedMem {
    base: NonNull<u8>,
    len: u64,
}

// SAFETY: M1 holds for every thread of the process; all accesses are atomic.
unsafe impl Send for MappedMem {}
// SAFETY: as above; there is no state besides the mapped words.
unsafe impl Sync for MappedMem {}

impl MappedMem {
    /// The region whose first byte ([`crate::layout::REGION_BASE`] into the file) is at `base`.
    ///
    /// # Safety
    /// M1 to M3 of [`MappedMem`] hold. Backing that shrinks (a truncated file) breaks M1: use
    /// memory that is sealed, or whose owner is trusted not to shrink it.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: u64) -> Self {
        Self { base, len }
    }

    /// Where the region begins in this process.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The low half of the word at `at`: the word a futex sleeps on.
    ///
    /// # Errors
    /// `at` is misaligned or outside the region.
    #[inline]
    pub fn futex_word(&self, at: Offset) -> Result<&AtomicU32, Corrupt> {
        let word: *const AtomicU64 = self.word(at)?;
        // SAFETY: M1 and `word`'s check put all 8 bytes inside the mapping; little-endian (asserted
        // above) puts the low half first; atomics may be shared while peers write.
        Ok(unsafe { &*word.cast::<AtomicU32>() })
    }

    /// Turns an offset into an address; `word` does it for one word, nobody else does. No reference to
    /// what is there may be formed: peers write it at any time.
    ///
    /// # Errors
    /// The range is outside the region.
    #[inline]
    pub fn bytes(&self, at: Offset, len: u64) -> Result<NonNull<u8>, Corrupt> {
        if len > self.len || at.0 > self.len - len {
            return Err(refused(Offset(at.0 & !7)));
        }
        // SAFETY: checked above: at most one past the end of the mapping (M1); M2 makes the
        // offset fit `isize`.
        Ok(unsafe { self.base.add(at.0 as usize) })
    }

    #[inline]
    fn word(&self, at: Offset) -> Result<&AtomicU64, Corrupt> {
        // Both checks in one: the bits of a misaligned offset come to the top. M2: the length is a
        // multiple of 8, so an aligned word that begins inside ends inside.
        if at.0.rotate_right(3) >= self.len / 8 {
            return Err(refused(at));
        }
        // SAFETY: checked above: inside the mapping (M1); M2 makes the offset fit `isize`.
        let word = unsafe { self.base.add(at.0 as usize) }.cast::<AtomicU64>();
        // SAFETY: M1 and the bounds checked above, M2 and the check above the alignment; an atomic
        // may be shared while peers write, and the mapping outlives `self`'s borrow.
        Ok(unsafe { word.as_ref() })
    }

    /// `n` words from `at` on, checked once.
    #[inline]
    fn words(&self, at: Offset, n: usize) -> Result<&[AtomicU64], Corrupt> {
        if !at.0.is_multiple_of(8) {
            return Err(refused(at));
        }
        let first = self.bytes(at, (n as u64).saturating_mul(8))?.cast::<AtomicU64>();
        // SAFETY: as in `word`, for all `n` of them, which the bounds check put inside the mapping.
        Ok(unsafe { std::slice::from_raw_parts(first.as_ptr(), n) })
    }

    #[inline]
    fn byte(&self, at: Offset) -> Result<&AtomicU8, Corrupt> {
        let byte = self.bytes(at, 1)?.cast::<AtomicU8>();
        // SAFETY: as in `word`; a byte needs no alignment.
        Ok(unsafe { byte.as_ref() })
    }
}

/// What is wrong with an offset that was not let through.
#[cold]
const fn refused(at: Offset) -> Corrupt {
    Corrupt::new(
        at,
        if at.0.is_multiple_of(8) { "offset outside the region" } else { "misaligned offset" },
    )
}

/// Splits `len` bytes at `at` into bytes up to the first whole word, whole words, and the rest.
fn split(at: Offset, len: usize) -> (usize, usize) {
    let head = ((8 - at.0 % 8) % 8) as usize;
    let head = head.min(len);
    (head, (len - head) / 8 * 8)
}

impl Mem for MappedMem {
    #[inline]
    fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt> {
        Ok(self.word(at)?.load(order))
    }

    #[inline]
    fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt> {
        self.word(at)?.store(value, order);
        Ok(())
    }

    #[inline]
    fn store_words(&self, at: Offset, words: &[u64]) -> Result<(), Corrupt> {
        for (to, word) in self.words(at, words.len())?.iter().zip(words) {
            // Release, as the trait promises.
            to.store(*word, Ordering::Release);
        }
        Ok(())
    }

    #[inline]
    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
        let word = self.word(at)?;
        // Acquire-release, as the trait promises; its callers name the partners.
        Ok(word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    #[inline]
    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
        Ok(self.word(at)?.fetch_or(bits, Ordering::AcqRel))
    }

    #[inline]
    fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt> {
        Ok(self.word(at)?.swap(value, Ordering::AcqRel))
    }

    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.bytes(at, to.len() as u64)?;
        let (head, words) = split(at, to.len());
        let (first, rest) = to.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(words);
        // Relaxed throughout: the words that published these bytes order the copies.
        for (i, b) in (0..).zip(first) {
            *b = self.byte(at.plus(i))?.load(Ordering::Relaxed);
        }
        let at = at.plus(head as u64);
        if words > 0 {
            for (chunk, word) in middle.chunks_exact_mut(8).zip(self.words(at, words / 8)?) {
                chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
            }
        }
        let at = at.plus(words as u64);
        for (i, b) in (0..).zip(last) {
            *b = self.byte(at.plus(i))?.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.bytes(at, from.len() as u64)?;
        let (head, words) = split(at, from.len());
        let (first, rest) = from.split_at(head);
        let (middle, last) = rest.split_at(words);
        // Relaxed throughout: a later store or transaction publishes these bytes.
        for (i, b) in (0..).zip(first) {
            self.byte(at.plus(i))?.store(*b, Ordering::Relaxed);
        }
        let at = at.plus(head as u64);
        if words > 0 {
            for (chunk, to) in middle.chunks_exact(8).zip(self.words(at, words / 8)?) {
                let mut word = [0; 8];
                word.copy_from_slice(chunk);
                to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
            }
        }
        let at = at.plus(words as u64);
        for (i, b) in (0..).zip(last) {
            self.byte(at.plus(i))?.store(*b, Ordering::Relaxed);
        }
        Ok(())
    }

    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.bytes(at, len)?;
        let head = (at.0.wrapping_neg() % 8).min(len);
        let words = (len - head) / 8;
        // Relaxed throughout, as in `write_bytes`.
        for i in 0..head {
            self.byte(at.plus(i))?.store(0, Ordering::Relaxed);
        }
        let at = at.plus(head);
        if words > 0 {
            self.words(at, words as usize)?.iter().for_each(|w| w.store(0, Ordering::Relaxed));
        }
        for i in words * 8..len - head {
            self.byte(at.plus(i))?.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn relax(&self, i: u32) {
        // A lock's owner is done within a microsecond or is not running at all.
        if i < 128 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory for a test, as words, so that M2 holds.
    fn with_region(words: usize, test: impl FnOnce(&MappedMem)) {
        let mut memory: Vec<u64> = vec![0; words];
        let base = NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
        // SAFETY: the vector is aligned, lives until the end of this function and is not touched
        // by anything else in between.
        test(&unsafe { MappedMem::new(base, words as u64 * 8) });
        drop(memory);
    }

    #[test]
    fn bytes_come_back_at_every_alignment_and_length_without_touching_their_neighbours() {
        with_region(8, |mem| {
            for at in 0..17 {
                for len in 0..40usize {
                    mem.write_bytes(Offset(0), &[0xee; 64]).unwrap();
                    let text: Vec<u8> = (1..=len as u8).collect();
                    mem.write_bytes(Offset(at), &text).unwrap();
                    let mut all = [0; 64];
                    mem.read_bytes(Offset(0), &mut all).unwrap();
                    let end = at as usize + len;
                    assert_eq!(&all[at as usize..end], &text[..]);
                    assert!(all[..at as usize].iter().chain(&all[end..]).all(|b| *b == 0xee));
                    let mut back = vec![0; len];
                    mem.read_bytes(Offset(at), &mut back).unwrap();
                    assert_eq!(back, text);
                    mem.zero(Offset(at), len as u64).unwrap();
                    mem.read_bytes(Offset(0), &mut all).unwrap();
                    assert!(all[at as usize..end].iter().all(|b| *b == 0));
                    assert!(all[..at as usize].iter().chain(&all[end..]).all(|b| *b == 0xee));
                }
            }
        });
    }

    #[test]
    fn what_is_outside_or_misaligned_is_refused() {
        with_region(2, |mem| {
            for at in [1, 4, 16, 17, u64::MAX - 7, u64::MAX] {
                assert!(mem.load(Offset(at), Ordering::Relaxed).is_err(), "{at}");
                assert!(mem.cas(Offset(at), 0, 1).is_err(), "{at}");
            }
            assert!(mem.futex_word(Offset(2)).is_err());
            assert!(mem.read_bytes(Offset(9), &mut [0; 8]).is_err());
            assert!(mem.write_bytes(Offset(u64::MAX), &[0; 8]).is_err());
            assert!(mem.zero(Offset(8), u64::MAX).is_err());
            assert!(mem.zero(Offset(8), 9).is_err());
            assert!(mem.read_bytes(Offset(16), &mut []).is_ok());
        });
    }

    #[test]
    fn the_futex_word_is_the_low_half() {
        with_region(1, |mem| {
            mem.store(Offset(0), 7 << 32 | 5, Ordering::Relaxed).unwrap();
            assert_eq!(mem.futex_word(Offset(0)).unwrap().load(Ordering::Relaxed), 5);
        });
    }
}
