//! Dispositions as the kernel has them.
//!
//! Asked and set by system calls made directly: the C library's functions may be our own.

use libc::{c_int, c_long};
use std::mem::MaybeUninit;
use std::ptr;

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Action {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: u64,
}

/// Bytes of a signal mask.
const MASK: usize = 8;

impl Action {
    /// The disposition of `signal`.
    pub fn of(signal: c_int) -> Option<Self> {
        let mut old = MaybeUninit::<Self>::zeroed();
        let none = ptr::null::<Self>();
        // SAFETY: room for the answer.
        let rc = unsafe { call(signal, none, old.as_mut_ptr()) };
        // SAFETY: zeroed, then filled by the call.
        (rc == 0).then(|| unsafe { old.assume_init() })
    }

    /// Makes this the disposition of `signal`.
    pub fn set(&self, signal: c_int) {
        // It fails for signals that cannot be handled, which `of` never showed with a handler.
        // SAFETY: only functions that are handlers are put into an `Action`.
        unsafe { call(signal, self, ptr::null_mut()) };
    }

    /// Makes this the disposition of `signal`; the one before.
    pub fn exchange(&self, signal: c_int) -> Self {
        let mut old = MaybeUninit::<Self>::zeroed();
        // SAFETY: as in `set`, with room for the answer.
        unsafe { call(signal, self, old.as_mut_ptr()) };
        // SAFETY: zeroed, then perhaps filled by the call.
        unsafe { old.assume_init() }
    }
}

/// # Safety
/// `new` is null or a disposition whose handler is one; `old` is null or has room for one.
unsafe fn call(signal: c_int, new: *const Action, old: *mut Action) -> c_long {
    // SAFETY: as the caller promises.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, MASK) }
}
