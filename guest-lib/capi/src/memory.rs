//! The caller's memory.
//!
//! The kernel gives EFAULT for a bad pointer; a library that follows one dies. Null and its
//! neighbourhood are recognised here for nothing; of a text that crosses into further pages each is
//! tried with a system call that only reads. A pointer that is wild in any other way ends the
//! program with SIGSEGV.

use libc::c_int;
use vshmem::sysv::Errno;
use vshmem::{Error, Result};

/// Nothing is ever mapped below (`vm.mmap_min_addr`).
const LOWEST: usize = 0x1_0000;
const PAGE: usize = 4096;

/// Whether `at` cannot be memory.
#[inline]
pub fn bad<T>(at: *const T) -> bool {
    (at as usize) < LOWEST
}

/// EFAULT for what cannot be memory.
pub fn check<T>(at: *const T) -> Result<()> {
    if bad(at) { Err(Errno::EFAULT.into()) } else { Ok(()) }
}

/// EFAULT if any page after the first of `len` bytes at `at` cannot be read. (The first holds what
/// the caller has already read.)
pub fn check_text(at: *const u8, len: usize) -> Result<()> {
    let end = (at as usize).checked_add(len).ok_or(Error::from(Errno::EFAULT))?;
    let mut page = (at as usize & !(PAGE - 1)) + PAGE;
    while page < end {
        if !readable(page) {
            return Err(Errno::EFAULT.into());
        }
        page += PAGE;
    }
    Ok(())
}

/// Whether the eight bytes at `at` can be read: the kernel copies the signal set first, and then
/// refuses to do the nonsense asked with it.
fn readable(at: usize) -> bool {
    const NONSENSE: c_int = -1;
    // SAFETY: the kernel only reads eight bytes, or fails with EFAULT.
    let rc = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, NONSENSE, at, std::ptr::null::<u8>(), 8usize)
    };
    rc == 0 || crate::global::errno() != libc::EFAULT
}
