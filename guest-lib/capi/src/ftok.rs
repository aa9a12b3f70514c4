//! `ftok`: one file and one letter give one key on every peer.
//!
//! The C library mixes in the numbers of device and inode, which differ between machines, and
//! between two mounts of one file system. Here the low 24 bits come from the file's canonical path,
//! so peers that see a file under one path get one key; the high 8 bits are the letter, as ever.
//! Hard links are different files to it, and a file replaced by another keeps its key.
//! `VSHMEM_FTOK=plain` switches the C library's way back on.

use crate::global;
use libc::{c_char, c_int, key_t};
use std::mem::MaybeUninit;

fn plain() -> bool {
    // SAFETY: a string with its end.
    let value = unsafe { libc::getenv(c"VSHMEM_FTOK".as_ptr()) };
    // SAFETY: the environment's strings have an end.
    !value.is_null() && unsafe { std::ffi::CStr::from_ptr(value) } == c"plain"
}

/// FNV-1a, folded to 24 bits.
fn hash(path: &[u8]) -> u32 {
    let full = path
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    ((full >> 40 ^ full >> 20 ^ full) & 0xff_ffff) as u32
}

/// `ftok(3)`.
///
/// # Safety
/// `path` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftok(path: *const c_char, letter: c_int) -> key_t {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the caller's string, and room for the result. The kernel finds out whether there is
    // a string at all; `realpath` would not.
    if unsafe { libc::stat(path, stat.as_mut_ptr()) } != 0 {
        return -1;
    }
    if !global::in_use() || plain() {
        // SAFETY: filled by the call.
        let stat = unsafe { stat.assume_init() };
        let key = (stat.st_ino as u32 & 0xffff)
            | (stat.st_dev as u32 & 0xff) << 16
            | (letter as u32 & 0xff) << 24;
        return key.cast_signed();
    }
    let mut full = [0 as c_char; libc::PATH_MAX as usize];
    // SAFETY: the caller's string, and the room `realpath` asks for.
    if unsafe { libc::realpath(path, full.as_mut_ptr()) }.is_null() {
        return -1;
    }
    // SAFETY: filled with a string by the call.
    let full = unsafe { std::ffi::CStr::from_ptr(full.as_ptr()) };
    let key = hash(full.to_bytes()) | (letter as u32 & 0xff) << 24;
    // 0 would be IPC_PRIVATE, and -1 an error.
    match key {
        0 => 1,
        u32::MAX => (u32::MAX - 1).cast_signed(),
        key => key.cast_signed(),
    }
}
