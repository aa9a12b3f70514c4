//! `semop` ends with EINTR when its process was stopped and continued, without any handler.
//!
//! A futex wait does not: after `SIGCONT` the kernel restarts it. So while a thread sleeps in
//! `semop`, and only then, `SIGCONT` has a handler that does nothing: the process continues as
//! ever, and the wait returns. A disposition of the program's own is left alone.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    /// This thread is inside `semop` or `semtimedop`.
    static IN_SEMOP: Cell<bool> = const { Cell::new(false) };
}

/// Threads asleep in `semop`; the first installs, the last removes. Relaxed everywhere: a race
/// between the two at worst lets one sleeper sleep on over a stop, which harms nothing.
static SLEEPERS: AtomicU32 = AtomicU32::new(0);

extern "C" fn nothing(_: libc::c_int) {}

/// Marks the thread as inside `semop` while it lives.
pub(crate) struct InSemop {
    before: bool,
}

impl InSemop {
    pub fn new() -> Self {
        Self { before: IN_SEMOP.with(|c| c.replace(true)) }
    }
}

impl Drop for InSemop {
    fn drop(&mut self) {
        IN_SEMOP.with(|c| c.set(self.before));
    }
}

fn replace(with: Option<&libc::sigaction>) -> libc::sigaction {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    let with = with.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: valid structures; the handler is a function that touches nothing.
    unsafe { libc::sigaction(libc::SIGCONT, with, before.as_mut_ptr()) };
    // SAFETY: zeroed, then filled by the call.
    unsafe { before.assume_init() }
}

fn action(handler: libc::sighandler_t) -> libc::sigaction {
    // SAFETY: all zeros is a valid `sigaction`: default disposition, no flags, empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    action
}

fn ours() -> libc::sighandler_t {
    nothing as *const () as libc::sighandler_t
}

/// Whether a stop has to end the sleep of this thread: it sleeps in `semop`.
pub(crate) fn matters() -> bool {
    IN_SEMOP.with(Cell::get)
}

/// While it lives, `SIGCONT` ends this thread's sleep.
pub(crate) struct Ends;

impl Ends {
    pub fn sleep() -> Self {
        if SLEEPERS.fetch_add(1, Ordering::Relaxed) == 0 {
            let before = replace(Some(&action(ours())));
            if before.sa_sigaction != libc::SIG_DFL && before.sa_sigaction != ours() {
                replace(Some(&before));
            }
        }
        Self
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        if SLEEPERS.fetch_sub(1, Ordering::Relaxed) == 1 {
            let before = replace(Some(&action(libc::SIG_DFL)));
            if before.sa_sigaction != ours() {
                replace(Some(&before));
            }
        }
    }
}
