//! The C library's calls that make a child and run no handlers of `pthread_atfork`.
//!
//! A child with its own memory is announced and born as one of `fork` is ([`Forking`]). One that runs
//! in this memory (`vfork`) is another process all the same ([`Sharing`]). Threads are neither, nor
//! are processes that share memory and `SEM_UNDO` (`CLONE_SYSVSEM`): they act as this one.

use crate::next::next;
use crate::raw;
use libc::{c_int, c_long, c_void, pid_t};
use std::arch::naked_asm;
use std::ptr;
use vshmem::{Forking, Sharing};

/// What a child shares with its parent, as far as it matters here.
enum Child {
    /// Nothing: its memory is a copy.
    Apart,
    /// The memory; with `CLONE_VFORK` its parent waits.
    Within { waited_for: bool },
    /// All that matters.
    Same,
}

impl Child {
    fn of(flags: c_int) -> Self {
        if flags & (libc::CLONE_THREAD | libc::CLONE_SYSVSEM) != 0 && flags & libc::CLONE_VM != 0 {
            Self::Same
        } else if flags & libc::CLONE_VM != 0 {
            Self::Within { waited_for: flags & libc::CLONE_VFORK != 0 }
        } else if flags & libc::CLONE_FILES != 0 {
            // It must not close what it shares; it finds out by itself that it is a child.
            Self::Same
        } else {
            Self::Apart
        }
    }
}

/// Makes a child by `make`, which returns in both, and 0 in the child.
fn fork_by(make: impl FnOnce() -> c_long) -> c_long {
    Forking::before();
    let pid = make();
    if pid == 0 {
        Forking::in_child();
    } else {
        Forking::in_parent();
    }
    pid
}

/// `_Fork`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Fork() -> pid_t {
    let make = || next!(_Fork() -> pid_t);
    fork_by(|| make().into()) as pid_t
}

/// The system calls `fork`, `clone` and `clone3` that return twice.
///
/// # Safety
/// As the system call's.
pub(crate) unsafe fn by_number(number: c_long, args: [usize; 6]) -> c_long {
    // SAFETY: as the caller promises.
    let make = || raw::result(unsafe { vshmem::system_call(number, args) });
    let (flags, stack) = match number {
        libc::SYS_clone => (args[0], args[1]),
        libc::SYS_clone3 => {
            let head = ptr::with_exposed_provenance::<u64>(args[0]);
            if args[1] < 8 * 8 || head.is_null() {
                return make();
            }
            // SAFETY: the caller's `clone_args`, of eight words at least: flags first, stack sixth.
            let words = unsafe { (head.read_unaligned(), head.add(5).read_unaligned()) };
            (words.0 as usize, words.1 as usize)
        }
        _ => (0, 0),
    };
    match Child::of(flags as c_int) {
        Child::Apart if stack == 0 => fork_by(make),
        // On another stack it would not come back here.
        _ => make(),
    }
}

type Main = unsafe extern "C" fn(*mut c_void) -> c_int;

struct Start {
    main: Main,
    arg: *mut c_void,
}

/// Where a child of [`clone`] with its own memory begins.
unsafe extern "C" fn begin(start: *mut c_void) -> c_int {
    // SAFETY: the child's copy of what `clone` made; the parent frees its own.
    let Start { main, arg } = unsafe { start.cast::<Start>().read() };
    Forking::in_child();
    // SAFETY: as the caller of `clone` promised.
    unsafe { main(arg) }
}

/// `clone`. Variadic in C: the last three are there with some flags only.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clone(
    main: Option<Main>,
    stack: *mut c_void,
    flags: c_int,
    arg: *mut c_void,
    parent_tid: *mut pid_t,
    tls: *mut c_void,
    child_tid: *mut pid_t,
) -> c_int {
    let pass = |main: Option<Main>, arg: *mut c_void| {
        next!(clone(
            main: Option<Main>,
            stack: *mut c_void,
            flags: c_int,
            arg: *mut c_void,
            parent_tid: *mut pid_t,
            tls: *mut c_void,
            child_tid: *mut pid_t
        ) -> c_int)
    };
    match (Child::of(flags), main) {
        (Child::Apart, Some(main)) => {
            Forking::before();
            let start = Box::into_raw(Box::new(Start { main, arg }));
            let pid = pass(Some(begin), start.cast());
            Forking::in_parent();
            // SAFETY: made above; the child has a copy.
            drop(unsafe { Box::from_raw(start) });
            pid
        }
        (Child::Within { waited_for }, Some(_)) => {
            Sharing::begin();
            let pid = pass(main, arg);
            match u32::try_from(pid) {
                Ok(pid) if !waited_for => Sharing::goes_on(pid),
                Ok(pid) => Sharing::end(pid),
                Err(_) => Sharing::end(0),
            }
            pid
        }
        _ => pass(main, arg),
    }
}

extern "C" fn before_vfork() {
    Sharing::begin();
}

extern "C" fn after_vfork(rc: isize) -> pid_t {
    let pid = raw::result(rc) as pid_t;
    Sharing::end(u32::try_from(pid).unwrap_or(0));
    pid
}

/// `vfork`.
///
/// Both return from it, the child first, which then uses the stack for its own calls: so nothing of
/// importance lies there between, and the address to return to is kept in a register.
///
/// # Safety
/// As the C library's.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn vfork() -> pid_t {
    naked_asm!(
        "sub rsp, 8",
        "call {before}",
        "add rsp, 8",
        "pop rdi",
        "mov eax, {vfork}",
        "syscall",
        "push rdi",
        "test rax, rax",
        "jz 2f",
        "mov rdi, rax",
        "sub rsp, 8",
        "call {after}",
        "add rsp, 8",
        "2: ret",
        before = sym before_vfork,
        after = sym after_vfork,
        vfork = const libc::SYS_vfork,
    )
}

/// `vfork`; see the other one.
///
/// # Safety
/// As the C library's.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn vfork() -> pid_t {
    naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "bl {before}",
        "ldp x29, x30, [sp], #16",
        "mov x0, #{flags}",
        "mov x1, #0",
        "mov x2, #0",
        "mov x3, #0",
        "mov x4, #0",
        "mov x8, #{clone}",
        "svc #0",
        "cbz x0, 2f",
        "stp x29, x30, [sp, #-16]!",
        "bl {after}",
        "ldp x29, x30, [sp], #16",
        "2: ret",
        before = sym before_vfork,
        after = sym after_vfork,
        flags = const libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
        clone = const libc::SYS_clone,
    )
}
