//! A lock that a signal handler can take as well.

use crate::sys;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

/// While it lives, no signal handler runs on the calling thread. (The system call itself: the C
/// library's functions may be our own.)
#[derive(Debug)]
pub(crate) struct Quiet {
    before: u64,
}

impl Quiet {
    /// But for those that are the C library's own affair.
    const ALL: u64 = !(1 << 31 | 1 << 32);

    pub fn new() -> Self {
        Self { before: sys::block(Self::ALL) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        sys::set_signal_mask(self.before);
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
    use std::mem::MaybeUninit;

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
