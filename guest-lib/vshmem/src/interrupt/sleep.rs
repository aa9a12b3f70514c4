//! The system call of a sleep, which a handler that runs just before it still ends.
//!
//! ```text
//!  begin:        has a handler run since the call began?   yes: interrupted
//!                system call
//!  end:          return its result
//!  interrupted:  return -EINTR
//! ```
//!
//! The trampoline moves a program that it interrupted at `begin` or later, but before `end`, to
//! `interrupted`. That is where a system call stands that the kernel would restart (SA_RESTART);
//! one that it would not stands at `end`, with EINTR for its result.
//!
//! The counter is a variable of each thread, in the static part of its storage, so that a handler
//! reaches it without the C library (which might allocate). Rust has no way to ask for that.

use super::Thread;
use libc::c_void;
use std::arch::global_asm;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("vshmem sleeps by a few instructions of assembly: write them for this processor");

global_asm!(
    ".pushsection .tbss.vshmem_thread, \"awT\", %nobits",
    ".balign 8",
    ".globl vshmem_thread_state",
    ".hidden vshmem_thread_state",
    ".type vshmem_thread_state, %object",
    ".size vshmem_thread_state, {size}",
    "vshmem_thread_state: .zero {size}",
    ".popsection",
    size = const size_of::<Thread>(),
);

// rdi: the number and arguments, rsi: the counter, rdx: what it must be.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".pushsection .text.vshmem_sleep, \"ax\", %progbits",
    ".globl vshmem_sleep, vshmem_sleep_begin, vshmem_sleep_end, vshmem_sleep_interrupted",
    ".hidden vshmem_sleep, vshmem_sleep_begin, vshmem_sleep_end, vshmem_sleep_interrupted",
    ".type vshmem_sleep, %function",
    "vshmem_sleep:",
    ".cfi_startproc",
    "mov r11, rsi",
    "mov rcx, rdx",
    "mov rax, [rdi]",
    "mov rsi, [rdi + 16]",
    "mov rdx, [rdi + 24]",
    "mov r10, [rdi + 32]",
    "mov r8, [rdi + 40]",
    "mov r9, [rdi + 48]",
    "mov rdi, [rdi + 8]",
    "vshmem_sleep_begin:",
    "cmp [r11], rcx",
    "jne vshmem_sleep_interrupted",
    "syscall",
    "vshmem_sleep_end:",
    "ret",
    "vshmem_sleep_interrupted:",
    "mov rax, {interrupted}",
    "ret",
    ".cfi_endproc",
    ".size vshmem_sleep, . - vshmem_sleep",
    ".globl vshmem_thread",
    ".hidden vshmem_thread",
    ".type vshmem_thread, %function",
    "vshmem_thread:",
    ".cfi_startproc",
    "mov rax, fs:0",
    "add rax, [rip + vshmem_thread_state@GOTTPOFF]",
    "ret",
    ".cfi_endproc",
    ".size vshmem_thread, . - vshmem_thread",
    ".popsection",
    interrupted = const -libc::EINTR,
);

// x0: the number and arguments, x1: the counter, x2: what it must be.
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".pushsection .text.vshmem_sleep, \"ax\", %progbits",
    ".globl vshmem_sleep, vshmem_sleep_begin, vshmem_sleep_end, vshmem_sleep_interrupted",
    ".hidden vshmem_sleep, vshmem_sleep_begin, vshmem_sleep_end, vshmem_sleep_interrupted",
    ".type vshmem_sleep, %function",
    "vshmem_sleep:",
    ".cfi_startproc",
    "mov x9, x0",
    "mov x10, x1",
    "mov x11, x2",
    "ldr x8, [x9]",
    "ldp x0, x1, [x9, #8]",
    "ldp x2, x3, [x9, #24]",
    "ldp x4, x5, [x9, #40]",
    "vshmem_sleep_begin:",
    "ldr x12, [x10]",
    "cmp x12, x11",
    "b.ne vshmem_sleep_interrupted",
    "svc #0",
    "vshmem_sleep_end:",
    "ret",
    "vshmem_sleep_interrupted:",
    "mov x0, #{interrupted}",
    "ret",
    ".cfi_endproc",
    ".size vshmem_sleep, . - vshmem_sleep",
    ".globl vshmem_thread",
    ".hidden vshmem_thread",
    ".type vshmem_thread, %function",
    "vshmem_thread:",
    ".cfi_startproc",
    "mrs x0, tpidr_el0",
    "adrp x1, :gottprel:vshmem_thread_state",
    "ldr x1, [x1, :gottprel_lo12:vshmem_thread_state]",
    "add x0, x0, x1",
    "ret",
    ".cfi_endproc",
    ".size vshmem_thread, . - vshmem_thread",
    ".popsection",
    interrupted = const -libc::EINTR,
);

// Unwinding: a thread may be cancelled in its sleep.
unsafe extern "C-unwind" {
    fn vshmem_sleep(call: *const [usize; 7], counter: *const AtomicU64, expected: u64) -> isize;
}

unsafe extern "C" {
    safe fn vshmem_thread() -> *const c_void;
    static vshmem_sleep_begin: u8;
    static vshmem_sleep_end: u8;
    static vshmem_sleep_interrupted: u8;
}

const _: () = assert!(offset_of!(Thread, count) == 0 && align_of::<Thread>() <= 8);

/// The calling thread's. Async-signal-safe; not to be handed to another thread.
pub(super) fn thread() -> &'static Thread {
    // SAFETY: storage of the calling thread, zeroed at its start, which is what a `Thread` of
    // atomics may be; only this thread asks for it, and so not after its end.
    unsafe { &*vshmem_thread().cast() }
}

/// Makes the system call `number`, unless a handler has run on this thread since its current call
/// began; its errno, EINTR in that case, 0 for success.
///
/// # Safety
/// As for the system call.
pub(crate) unsafe fn sleep(number: libc::c_long, args: [usize; 6]) -> i32 {
    let thread = thread();
    let count = || thread.count.load(Ordering::Relaxed);
    // Outside of a call there is none since when one could have run.
    let in_call = thread.call.load(Ordering::Relaxed) != 0;
    let entry = if in_call { thread.entry.load(Ordering::Relaxed) } else { count() };
    let [a, b, c, d, e, f] = args;
    let call = [number as usize, a, b, c, d, e, f];
    // SAFETY: as the caller promises; seven words, and a counter that lives as long as the thread.
    let rc = unsafe { vshmem_sleep(&raw const call, &raw const thread.count, entry) };
    if rc < 0 { -rc as i32 } else { 0 }
}

#[cfg(target_arch = "x86_64")]
type Counter = libc::greg_t;
#[cfg(target_arch = "aarch64")]
type Counter = u64;

/// The program counter of what a signal interrupted.
///
/// # Safety
/// `context` is null or what the kernel gave a handler, which still runs.
pub(crate) unsafe fn interrupted_at<'a>(context: *mut c_void) -> Option<&'a mut Counter> {
    // SAFETY: as the caller promises.
    let context = unsafe { context.cast::<libc::ucontext_t>().as_mut() }?;
    #[cfg(target_arch = "x86_64")]
    return Some(&mut context.uc_mcontext.gregs[libc::REG_RIP as usize]);
    #[cfg(target_arch = "aarch64")]
    return Some(&mut context.uc_mcontext.pc);
}

/// Ends the sleep that a signal interrupted or was about to prevent.
///
/// # Safety
/// `context` is null or what the kernel gave a handler.
pub(super) unsafe fn leave(context: *mut c_void) {
    // SAFETY: as the caller promises.
    let Some(at) = (unsafe { interrupted_at(context) }) else { return };
    let (begin, end) = (&raw const vshmem_sleep_begin, &raw const vshmem_sleep_end);
    if (begin.addr()..end.addr()).contains(&(*at as usize)) {
        *at = (&raw const vshmem_sleep_interrupted).addr() as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    /// Where a handler returns to that interrupted a program at `at`.
    fn returns_to(at: usize) -> usize {
        // SAFETY: zeros are valid: numbers and null pointers.
        let mut context: libc::ucontext_t = unsafe { MaybeUninit::zeroed().assume_init() };
        #[cfg(target_arch = "x86_64")]
        let place = &raw mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        #[cfg(target_arch = "aarch64")]
        let place = &raw mut context.uc_mcontext.pc;
        // SAFETY: inside `context`, of which nothing else is borrowed.
        unsafe { *place = at as _ };
        // SAFETY: looks like the kernel's.
        unsafe { leave((&raw mut context).cast()) };
        // SAFETY: as above.
        unsafe { *place as usize }
    }

    #[test]
    fn whoever_is_about_to_sleep_does_not() {
        let (begin, end) = (&raw const vshmem_sleep_begin, &raw const vshmem_sleep_end);
        let (begin, end) = (begin.addr(), end.addr());
        let interrupted = (&raw const vshmem_sleep_interrupted).addr();
        assert!((4..32).contains(&(end - begin)));
        for at in begin..end {
            assert_eq!(returns_to(at), interrupted);
        }
        for at in [0, begin - 1, end, interrupted] {
            assert_eq!(returns_to(at), at);
        }
    }

    #[test]
    fn the_result_is_the_systems_unless_a_handler_ran() {
        let close = |fd: usize| {
            // SAFETY: no descriptor of anybody's.
            unsafe { sleep(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) }
        };
        let nowhere = i32::MAX as usize;
        assert_eq!(close(nowhere), libc::EBADF);
        let _call = super::super::Waiting::begin(super::super::Call::Message, std::process::id());
        assert_eq!(close(nowhere), libc::EBADF);
        thread().count.fetch_add(1, Ordering::Relaxed);
        assert_eq!(close(nowhere), libc::EINTR);
        // A call in the handler has yet to be interrupted.
        let nested = super::super::Waiting::begin(super::super::Call::Semop, std::process::id());
        assert_eq!(close(nowhere), libc::EBADF);
        drop(nested);
        assert_eq!(close(nowhere), libc::EINTR);
    }
}
