//! `semop` ends with EINTR when its process was stopped and continued, without any handler.
//!
//! The module's sleep does so by itself; a futex wait is restarted by the kernel. So while a thread
//! sleeps in `semop` on a futex, and only then, `SIGCONT` has a handler: the trampoline, which goes
//! on to nothing. (At any other time it would interrupt other calls, which a stop does not.) A
//! disposition of the program's own is left alone. Of several threads that sleep, one is ended.

use super::action::{Action, DEFAULT, restorer};
use super::{HANDLERS, Thread, is_handler, trampoline_address};
use libc::{SIGCONT, c_int};
use std::sync::atomic::{AtomicU32, Ordering};

/// Threads asleep in `semop`; the first installs, the last removes. Relaxed everywhere: a race
/// between the two at worst lets one sleeper sleep on over a stop, which harms nothing.
static SLEEPERS: AtomicU32 = AtomicU32::new(0);

/// A handler of the program's, which the trampoline stands for, ends the sleep anyway.
fn has_own() -> bool {
    is_handler(HANDLERS[SIGCONT as usize].load(Ordering::Relaxed))
}

fn install() {
    if has_own() {
        return;
    }
    let (restorer, flag) = restorer();
    let flags = (libc::SA_SIGINFO | libc::SA_RESTART) as u64 | flag;
    let ours = Action { handler: trampoline_address(), flags, restorer, mask: 0 };
    put_back(ours.exchange(SIGCONT));
}

fn remove() {
    if !has_own() {
        put_back(DEFAULT.exchange(SIGCONT));
    }
}

/// Lets be what is not ours: ignored, or a handler set by other means.
fn put_back(before: Action) {
    if before.handler != libc::SIG_DFL && before.handler != trampoline_address() {
        before.set(SIGCONT);
    }
}

/// The program gave up its own handler of `signal`.
pub(super) fn disposed(signal: c_int) {
    if signal == SIGCONT {
        HANDLERS[SIGCONT as usize].store(libc::SIG_DFL, Ordering::Relaxed);
    }
}

/// The calling thread sleeps no more.
pub(super) fn over(thread: &Thread) {
    // A handler may come between any two steps: whoever swaps counts.
    if thread.stoppable.swap(0, Ordering::Relaxed) != 0
        && SLEEPERS.fetch_sub(1, Ordering::Relaxed) == 1
    {
        remove();
    }
}

/// A child has one thread, and that does not sleep.
pub(super) fn in_child(thread: &Thread) {
    thread.stoppable.store(0, Ordering::Relaxed);
    if SLEEPERS.swap(0, Ordering::Relaxed) != 0 {
        remove();
    }
}

/// While it lives, a continuation of the process ends this thread's sleep.
pub(crate) struct Ends;

impl Ends {
    pub fn sleep() -> Self {
        let thread = super::sleep::thread();
        if thread.stoppable.swap(1, Ordering::Relaxed) == 0
            && SLEEPERS.fetch_add(1, Ordering::Relaxed) == 0
        {
            install();
            if thread.stoppable.load(Ordering::Relaxed) == 0 {
                // A handler came first, and found nothing to remove.
                remove();
            }
        }
        Self
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        over(super::sleep::thread());
    }
}
