//! Dispositions as the kernel has them.
//!
//! Asked and set by system calls made directly: the C library's functions may be our own.

use libc::{c_int, c_long};
use std::mem::MaybeUninit;
use std::ptr;

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Action {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: u64,
}

/// What a signal does that nobody has set anything for.
pub(crate) const DEFAULT: Action =
    Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
/// `SA_RESTORER`, which the C library adds where the processor needs it.
pub(crate) const RESTORER: u64 = 0x0400_0000;

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

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    // Debuggers and unwinders know a signal's frame by exactly these instructions.
    ".pushsection .text.vshmem_restore, \"ax\", %progbits",
    ".globl vshmem_restore",
    ".hidden vshmem_restore",
    ".type vshmem_restore, %function",
    "nop",
    "vshmem_restore:",
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0", // mov rax, SYS_rt_sigreturn
    "syscall",
    ".size vshmem_restore, . - vshmem_restore",
    ".popsection",
);

/// Where a handler returns to that no C library has installed, and the flag that says so.
#[cfg(target_arch = "x86_64")]
pub(crate) fn restorer() -> (usize, u64) {
    unsafe extern "C" {
        static vshmem_restore: u8;
    }
    ((&raw const vshmem_restore).addr(), RESTORER)
}

/// The kernel's own.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn restorer() -> (usize, u64) {
    (0, 0)
}
