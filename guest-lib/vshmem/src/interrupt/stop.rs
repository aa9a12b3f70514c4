//! `semop` ends with EINTR when its process was stopped and continued, without any handler.
//!
//! The module's sleep does so by itself; a futex wait is restarted by the kernel. So while a thread
//! sleeps in `semop` on a futex, and only then, `SIGCONT` has a handler, [`continued`]. Its sleep is
//! also on a word of the process, [`STOPS`], by which that handler, which runs in one thread, ends
//! the sleep of all. A disposition of the program's own is left alone; its handler does the same.
//! (Before Linux 5.16 there is no sleep on two words: there one of several sleepers is ended.)

use super::action::{Action, DEFAULT, restorer};
use super::{HANDLERS, Thread, is_handler, run};
use libc::{SIGCONT, c_int, c_void, siginfo_t};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Threads asleep in `semop`; the first installs, the last removes. Relaxed everywhere: a race
/// between the two at worst lets one sleeper sleep on over a stop, which harms nothing.
static SLEEPERS: AtomicU32 = AtomicU32::new(0);
/// Counts continuations. Threads of this process sleep on it.
static STOPS: AtomicU32 = AtomicU32::new(0);

/// Where our own handler of `SIGCONT` is.
pub(super) fn address() -> usize {
    continued as *const () as usize
}

/// The handler of `SIGCONT` where the program has none.
///
/// # Safety
/// Called by the kernel, with what it gives.
unsafe extern "C-unwind" fn continued(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    all_end();
    let thread = super::sleep::thread();
    if thread.stoppable.load(Ordering::Relaxed) != 0 {
        // SAFETY: as the caller promises.
        unsafe { run(libc::SIG_DFL, signal, info, context) };
    } else {
        // What else this thread does goes on, as it would without a handler.
        thread.unheard.store(1, Ordering::Relaxed);
    }
}

/// The process was continued: every thread's sleep in `semop` ends.
pub(super) fn all_end() {
    STOPS.fetch_add(1, Ordering::Relaxed);
    if SLEEPERS.load(Ordering::Relaxed) > 0 {
        let (word, how) = (STOPS.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG);
        // SAFETY: waking does not touch the word.
        unsafe { libc::syscall(libc::SYS_futex, word, how, c_int::MAX) };
    }
}

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
    let ours = Action { handler: address(), flags, restorer, mask: 0 };
    put_back(ours.exchange(SIGCONT));
}

fn remove() {
    if !has_own() {
        put_back(DEFAULT.exchange(SIGCONT));
    }
}

/// Lets be what is not ours: ignored, or a handler set by other means.
fn put_back(before: Action) {
    if before.handler != libc::SIG_DFL && before.handler != address() {
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

/// One of the words of `futex_waitv`.
#[repr(C)]
struct Word {
    value: u64,
    at: u64,
    flags: u32,
    reserved: u32,
}

/// `FUTEX2_SIZE_U32`.
const U32: u32 = 2;

/// While it lives, a continuation of the process ends this thread's sleep.
pub(crate) struct Ends {
    stops: u32,
}

impl Ends {
    pub fn sleep() -> Self {
        let stops = STOPS.load(Ordering::Relaxed);
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
        Self { stops }
    }

    /// The sleep on `word` while it is `expected`, until `until` of the monotonic clock; the errno
    /// of what ended it, or `None` where this kernel cannot.
    pub fn wait(&self, word: &AtomicU32, expected: u32, until: &libc::timespec) -> Option<i32> {
        static MISSING: AtomicBool = AtomicBool::new(false);
        if MISSING.load(Ordering::Relaxed) {
            return None;
        }
        let at = |word: &AtomicU32| word.as_ptr().expose_provenance() as u64;
        let private = U32 | libc::FUTEX_PRIVATE_FLAG as u32;
        let words = [
            Word { value: expected.into(), at: at(word), flags: U32, reserved: 0 },
            Word { value: self.stops.into(), at: at(&STOPS), flags: private, reserved: 0 },
        ];
        let (n, until) = (words.len(), std::ptr::from_ref(until).expose_provenance());
        let words = (&raw const words).expose_provenance();
        let args = [words, n, 0, until, libc::CLOCK_MONOTONIC as usize, 0];
        // SAFETY: the kernel only reads the words and the time.
        let ended = unsafe { super::sleep(libc::SYS_futex_waitv, args) };
        if matches!(ended, libc::ENOSYS | libc::EPERM) {
            MISSING.store(true, Ordering::Relaxed);
            return None;
        }
        let continued = STOPS.load(Ordering::Relaxed) != self.stops;
        Some(if continued && matches!(ended, 0 | libc::EAGAIN) { libc::EINTR } else { ended })
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        over(super::sleep::thread());
    }
}
