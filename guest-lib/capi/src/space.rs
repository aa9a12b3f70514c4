//! The calls that change what is mapped where. The kernel counts the mappings of a segment; so do
//! we, where one is attached. Elsewhere (memory is unmapped and protected all day long) it is two
//! comparisons on the way to the kernel.
//!
//! Libraries for message passing overwrite the code of some of these functions, and of `shmat` and
//! `shmdt`, with a jump to their own, which then makes the call by number. So [`raw`](crate::raw)
//! must not come here again: what it shares with the functions that have C's names is inlined.

use crate::raw::{kernel, result};
use libc::{c_int, c_void, off_t, size_t};
use std::ptr;
use vshmem::AddressSpace;

fn address(rc: libc::c_long) -> *mut c_void {
    ptr::with_exposed_provenance_mut(rc as usize)
}

/// `munmap(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munmap(at: *mut c_void, len: size_t) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { unmap(at, len) }
}

/// # Safety
/// As [`munmap`].
#[inline(always)]
pub(crate) unsafe fn unmap(at: *mut c_void, len: size_t) -> c_int {
    if AddressSpace::touches(at.addr(), len) {
        // SAFETY: as the caller promises.
        return result(unsafe { AddressSpace::unmap(at.expose_provenance(), len) }) as c_int;
    }
    // SAFETY: as the caller promises.
    unsafe { kernel!(SYS_munmap, at, len) as c_int }
}

/// `mmap(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: as the caller promises.
    unsafe { map(at, len, protection, flags, fd, offset) }
}

/// # Safety
/// As [`mmap`].
#[inline(always)]
pub(crate) unsafe fn map(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if flags & libc::MAP_FIXED != 0 && AddressSpace::touches(at.addr(), len) {
        let at = at.expose_provenance();
        // SAFETY: as the caller promises.
        let rc = unsafe { AddressSpace::map_over(at, len, protection, flags, fd, offset) };
        return address(result(rc));
    }
    // SAFETY: as the caller promises.
    address(unsafe { kernel!(SYS_mmap, at, len, protection, flags, fd, offset) })
}

/// `mmap64`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    at: *mut c_void,
    len: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: as the caller promises.
    unsafe { map(at, len, protection, flags, fd, offset) }
}

/// `mremap(2)`. Variadic in C: the last is there with some flags only.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    at: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    to: *mut c_void,
) -> *mut c_void {
    // SAFETY: as the caller promises.
    unsafe { remap(at, old, new, flags, to) }
}

/// # Safety
/// As [`mremap`].
#[inline(always)]
pub(crate) unsafe fn remap(
    at: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    to: *mut c_void,
) -> *mut c_void {
    let fixed = flags & libc::MREMAP_FIXED != 0;
    if AddressSpace::touches(at.addr(), old) || (fixed && AddressSpace::touches(to.addr(), new)) {
        let (at, to) = (at.expose_provenance(), to.expose_provenance());
        // SAFETY: as the caller promises.
        return address(result(unsafe { AddressSpace::remap(at, old, new, flags, to) }));
    }
    // SAFETY: as the caller promises.
    address(unsafe { kernel!(SYS_mremap, at, old, new, flags, to) })
}

/// `mprotect(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mprotect(at: *mut c_void, len: size_t, protection: c_int) -> c_int {
    if AddressSpace::touches(at.addr(), len) {
        let at = at.expose_provenance();
        // SAFETY: as the caller promises.
        return result(unsafe { AddressSpace::protect(at, len, protection) }) as c_int;
    }
    // SAFETY: as the caller promises.
    unsafe { kernel!(SYS_mprotect, at, len, protection) as c_int }
}

/// `madvise(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(at: *mut c_void, len: size_t, advice: c_int) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { advise(at, len, advice) }
}

/// # Safety
/// As [`madvise`].
#[inline(always)]
pub(crate) unsafe fn advise(at: *mut c_void, len: size_t, advice: c_int) -> c_int {
    if AddressSpace::touches(at.addr(), len) {
        let at = at.expose_provenance();
        // SAFETY: as the caller promises.
        return result(unsafe { AddressSpace::advise(at, len, advice) }) as c_int;
    }
    // SAFETY: as the caller promises.
    unsafe { kernel!(SYS_madvise, at, len, advice) as c_int }
}

/// # Safety
/// `at` may be anything.
unsafe fn lock(at: *const c_void, len: size_t, how: Option<c_int>) -> c_int {
    if AddressSpace::touches(at.addr(), len) {
        let at = at.expose_provenance();
        // SAFETY: changes no memory.
        return result(unsafe { AddressSpace::lock(at, len, how) }) as c_int;
    }
    // SAFETY: change no memory.
    let rc = unsafe {
        match how {
            Some(0) => kernel!(SYS_mlock, at, len),
            Some(how) => kernel!(SYS_mlock2, at, len, how),
            None => kernel!(SYS_munlock, at, len),
        }
    };
    rc as c_int
}

/// `mlock(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock(at: *const c_void, len: size_t) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { lock(at, len, Some(0)) }
}

/// `mlock2(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlock2(at: *const c_void, len: size_t, flags: c_int) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { lock(at, len, Some(flags)) }
}

/// `munlock(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn munlock(at: *const c_void, len: size_t) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { lock(at, len, None) }
}

/// `mlockall(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn mlockall(flags: c_int) -> c_int {
    if AddressSpace::touches(0, usize::MAX) {
        return result(AddressSpace::lock_all(Some(flags))) as c_int;
    }
    // SAFETY: no pointers.
    unsafe { kernel!(SYS_mlockall, flags) as c_int }
}

/// `munlockall(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn munlockall() -> c_int {
    if AddressSpace::touches(0, usize::MAX) {
        return result(AddressSpace::lock_all(None)) as c_int;
    }
    // SAFETY: no pointers.
    unsafe { kernel!(SYS_munlockall) as c_int }
}
