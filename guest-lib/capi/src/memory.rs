//! Pointers that are looked at before a call is known to be ours.
//!
//! What calls of System V IPC are given is [`vshmem::user`]'s business. But the path of an `open`
//! belongs to a program that may have nothing to do with us, and in whose place no fault is caught:
//! there only null and its neighbourhood are recognised.

/// Nothing is ever mapped below (`vm.mmap_min_addr`).
const LOWEST: usize = 0x1_0000;

/// Whether `at` cannot be memory.
#[inline]
pub fn bad<T>(at: *const T) -> bool {
    (at as usize) < LOWEST
}
