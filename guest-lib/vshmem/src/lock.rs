//! A lock that a signal handler can take as well.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// While it lives, no signal handler runs on the calling thread.
#[derive(Debug)]
pub(crate) struct Quiet {
    before: libc::sigset_t,
}

impl Quiet {
    pub fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: fills `all`, which is big enough.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was filled above; `before` is filled by the call, which cannot fail with
        // these arguments.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: filled above.
        Self { before: unsafe { before.assume_init() } }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: `before` came from the kernel.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// A value one thread uses at a time, with its signals blocked: so a handler never meets the lock
/// taken by the very thread it interrupted.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a `Guard`, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub fn lock(&self) -> Guard<'_, T> {
        let quiet = Quiet::new();
        // Acquire: pairs with the Release of the last guard.
        while self.taken.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        Guard { lock: self, _quiet: quiet }
    }

    /// Opens the lock in a child just forked, where its holder does not exist.
    pub fn reopen(&self) {
        // Release: as a guard would.
        self.taken.store(false, Ordering::Release);
    }
}

pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    // Dropped after `drop` below: signals come back once the lock is open.
    _quiet: Quiet,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `lock`.
        self.lock.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_turns() {
        let lock = Lock::new(0u64);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..1000).for_each(|_| *lock.lock() += 1));
            }
        });
        assert_eq!(*lock.lock(), 4000);
    }

    #[test]
    fn signals_are_blocked_inside_and_as_before_outside() {
        let blocked = || {
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: only asks.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr()) };
            // SAFETY: filled by the call.
            unsafe { libc::sigismember(set.as_ptr(), libc::SIGUSR1) == 1 }
        };
        let lock = Lock::new(());
        assert!(!blocked());
        let guard = lock.lock();
        assert!(blocked());
        drop(guard);
        assert!(!blocked());
    }
}
