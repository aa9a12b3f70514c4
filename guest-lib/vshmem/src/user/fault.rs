//! SIGSEGV and SIGBUS: our own faults are put right, all others are the program's.
//!
//! [`fault`] stands in the kernel for both, whatever the program has set. What that is, flags and
//! mask included, is kept in [`PROGRAM`], so that the program finds it again. A fault that is not
//! ours goes on to the program's handler, or, where it has none, to the default action: that is put
//! in place, and the instruction runs into it once more, so that the core shows where it happened.
//!
//! Two things of the kernel's are not kept: a program that ignores one of the two and execs passes
//! on the default instead, and one that ignores it and is sent it finds a system call interrupted.

use super::copy;
use crate::interrupt::{Action, DEFAULT, RESTORER, interrupted_at, is_handler, restorer, run};
use libc::{c_int, c_void, siginfo_t};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];
/// The only code above 0 that does not come from the interrupted instruction.
const BUS_MCEERR_AO: c_int = 5;

/// What the program has set for a signal. Changed under the lock of all dispositions; the handler
/// reads the first two.
struct Program {
    handler: AtomicUsize,
    flags: AtomicU64,
    mask: AtomicU64,
    /// Whether ours stood in the kernel before.
    stood: AtomicBool,
}

static PROGRAM: [Program; 2] = [const {
    Program {
        handler: AtomicUsize::new(libc::SIG_DFL),
        flags: AtomicU64::new(0),
        mask: AtomicU64::new(0),
        stood: AtomicBool::new(false),
    }
}; 2];

impl Program {
    fn of(signal: c_int) -> Option<&'static Self> {
        SIGNALS.iter().position(|s| *s == signal).map(|i| &PROGRAM[i])
    }

    fn get(&self) -> Action {
        let order = Ordering::Relaxed;
        Action {
            handler: self.handler.load(order),
            flags: self.flags.load(order),
            restorer: 0,
            mask: self.mask.load(order),
        }
    }

    fn set(&self, to: &Action) {
        let order = Ordering::Relaxed;
        self.flags.store(to.flags, order);
        self.mask.store(to.mask, order);
        // Release: pairs with the Acquire in `take_handler`, so that it finds the handler's own
        // preparations.
        self.handler.store(to.handler, Ordering::Release);
    }
}

/// Whether `signal` is one of those that we stand before.
pub(crate) fn is_guarded(signal: c_int) -> bool {
    SIGNALS.contains(&signal)
}

pub(crate) fn address() -> usize {
    fault as *const () as usize
}

/// The handler that the program has set for `signal`, if it is guarded.
pub(crate) fn handler(signal: c_int) -> Option<usize> {
    Program::of(signal).map(|p| p.handler.load(Ordering::Relaxed))
}

/// Ours, in the place of `program`'s.
fn ours(program: &Action) -> Action {
    let siginfo = libc::SA_SIGINFO as u64;
    if is_handler(program.handler) {
        // What runs only once is counted by us: a fault of our own is none of it.
        let flags = program.flags & !u64::from(libc::SA_RESETHAND as u32) | siginfo;
        return Action { handler: address(), flags, ..*program };
    }
    let (restorer, flag) = restorer();
    // On another stack, if there is one: it may be the stack that is at fault.
    let flags = siginfo | libc::SA_RESTART as u64 | libc::SA_ONSTACK as u64 | flag;
    Action { handler: address(), flags, restorer, mask: 0 }
}

/// Stands before the program from now on; with `known`, also before what it has just set. To be
/// called under the lock of all dispositions.
pub(crate) fn adopt(signal: c_int, known: bool) {
    let (Some(now), Some(program)) = (Action::of(signal), Program::of(signal)) else { return };
    // A stranger's handler that came later may itself lead back to ours: it is let be.
    let stood = program.stood.swap(true, Ordering::Relaxed);
    if now.handler != address() && (known || !stood) {
        program.set(&now);
        ours(&now).set(signal);
    }
}

/// `sigaction` for a guarded signal: the action before, or the C library's result. To be called
/// under the lock of all dispositions.
pub(crate) fn action(
    signal: c_int,
    new: Option<libc::sigaction>,
    next: impl FnOnce(*const libc::sigaction) -> c_int,
) -> Result<Action, c_int> {
    let Some(program) = Program::of(signal) else { return Err(-1) };
    let before = program.get();
    let Some(new) = new else { return Ok(before) };
    // SAFETY: a signal set begins with the kernel's mask.
    let mask = unsafe { (&raw const new.sa_mask).cast::<u64>().read() };
    let unmaskable = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    let flags = u64::from(new.sa_flags as u32);
    let set = Action { handler: new.sa_sigaction, flags, restorer: 0, mask: mask & !unmaskable };
    // First what is called: ours stands there already.
    program.set(&set);
    let stand_in = ours(&set);
    let mut kernels = new;
    kernels.sa_sigaction = stand_in.handler;
    kernels.sa_flags = stand_in.flags as u32 as c_int;
    // SAFETY: as above.
    unsafe { (&raw mut kernels.sa_mask).cast::<u64>().write(stand_in.mask) };
    let rc = next(&raw const kernels);
    if rc != 0 {
        program.set(&before);
        return Err(rc);
    }
    // The C library's own flag, which a program sees as well.
    let own = Action::of(signal).map_or(0, |now| now.flags & RESTORER);
    program.set(&Action { flags: flags | own, ..set });
    Ok(before)
}

/// Writes `action` where the C library would.
pub(crate) fn show(action: &Action, to: &mut libc::sigaction) {
    to.sa_sigaction = action.handler;
    to.sa_flags = action.flags as u32 as c_int;
    // SAFETY: a signal set begins with the kernel's mask.
    unsafe { (&raw mut to.sa_mask).cast::<u64>().write(action.mask) };
}

/// The handler to run for `signal`; one that is to run only once is forgotten.
fn take_handler(signal: c_int) -> usize {
    let Some(program) = Program::of(signal) else { return libc::SIG_DFL };
    // Acquire: see `Program::set`.
    let handler = program.handler.load(Ordering::Acquire);
    let once = program.flags.load(Ordering::Relaxed) & u64::from(libc::SA_RESETHAND as u32) != 0;
    if once && is_handler(handler) {
        program.handler.store(libc::SIG_DFL, Ordering::Relaxed);
    }
    handler
}

/// The handler of both signals.
///
/// # Safety
/// Called by the kernel, or by a handler that stands before it, with what the kernel gave.
unsafe extern "C-unwind" fn fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's.
    let code = unsafe { info.as_ref() }.map_or(0, |i| i.si_code);
    // By an instruction, and not by somebody who sent it.
    let raised = code > 0 && !(signal == libc::SIGBUS && code == BUS_MCEERR_AO);
    if raised
        // SAFETY: the kernel's.
        && let Some(at) = unsafe { interrupted_at(context) }
        && let Some(further) = copy::fixup(*at as usize)
    {
        *at = further as _;
        return;
    }
    let handler = take_handler(signal);
    if is_handler(handler) {
        // SAFETY: as the kernel would call it.
        unsafe { run(handler, signal, info, context) };
    } else if raised || handler == libc::SIG_DFL {
        DEFAULT.set(signal);
        if !raised {
            // Its sender's words go with it; it comes as soon as this handler returns.
            // SAFETY: the kernel only reads them.
            unsafe {
                let (pid, thread) = (libc::getpid(), libc::syscall(libc::SYS_gettid));
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, thread, signal, info);
            }
        }
    }
}
