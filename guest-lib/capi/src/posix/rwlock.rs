//! Process-shared read-write locks.
//!
//! Of the C library's 56 bytes the flag and the preference are kept, and the field for the writing
//! thread. The first word is ours: how many read, or that one writes, and whether somebody may sleep.
//! Whoever leaves it free wakes all who sleep, and they try again.

use super::theirs::theirs;
use super::time::{self, Until};
use super::{Slept, sleep, spot, wake};
use libc::{c_int, clockid_t, pthread_rwlock_t, timespec};
use std::sync::atomic::{AtomicU32, Ordering};
use vshmem::Spot;

unsafe extern "C-unwind" {
    fn __pthread_rwlock_rdlock(lock: *mut pthread_rwlock_t) -> c_int;
    fn __pthread_rwlock_wrlock(lock: *mut pthread_rwlock_t) -> c_int;
    fn __pthread_rwlock_tryrdlock(lock: *mut pthread_rwlock_t) -> c_int;
    fn __pthread_rwlock_trywrlock(lock: *mut pthread_rwlock_t) -> c_int;
    fn __pthread_rwlock_unlock(lock: *mut pthread_rwlock_t) -> c_int;
}

#[repr(C)]
struct RwLock {
    state: AtomicU32,
    theirs: [u32; 5],
    /// The thread that writes.
    writer: AtomicU32,
    shared: AtomicU32,
    more: [u32; 4],
    preference: AtomicU32,
}

const _: () = assert!(std::mem::offset_of!(RwLock, preference) == 48);
const _: () = assert!(size_of::<RwLock>() <= size_of::<pthread_rwlock_t>());

/// One writes.
const WRITING: u32 = 1 << 31;
/// Somebody may sleep.
const SLEEPERS: u32 = 1 << 30;
/// A writer may be among them.
const WRITERS: u32 = 1 << 29;
/// How many read.
const READERS: u32 = WRITERS - 1;
/// PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP, the only preference for writers that counts.
const FOR_WRITERS: u32 = 2;

#[derive(Clone, Copy)]
struct Ours {
    lock: &'static RwLock,
    spot: Spot<'static>,
}

#[inline]
fn ours(at: *mut pthread_rwlock_t) -> Option<Ours> {
    // SAFETY: the caller promises a lock.
    let lock = unsafe { &*at.cast::<RwLock>() };
    if lock.shared.load(Ordering::Relaxed) == 0 {
        return None;
    }
    Some(Ours { lock, spot: spot(lock)? })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Read,
    Write,
}

impl Ours {
    fn me(&self) -> u32 {
        self.spot.thread().0
    }

    /// What the word becomes by taking it so; `None` where that must wait.
    fn next(&self, state: u32, want: Want) -> Result<Option<u32>, c_int> {
        match want {
            Want::Write => Ok((state & (WRITING | READERS) == 0).then_some(state | WRITING)),
            Want::Read if state & READERS == READERS => Err(libc::EAGAIN),
            Want::Read => {
                let behind = state & WRITERS != 0
                    && self.lock.preference.load(Ordering::Relaxed) == FOR_WRITERS;
                Ok((state & WRITING == 0 && !behind).then_some(state + 1))
            }
        }
    }

    /// Takes it, if that is possible now; else the word as it is.
    fn attempt(&self, want: Want) -> Result<Result<(), u32>, c_int> {
        let mut state = self.lock.state.load(Ordering::SeqCst);
        while let Some(next) = self.next(state, want)? {
            // Acquire: what the last writer did is seen.
            let (order, failed) = (Ordering::Acquire, Ordering::SeqCst);
            match self.lock.state.compare_exchange_weak(state, next, order, failed) {
                Ok(_) => {
                    if want == Want::Write {
                        self.lock.writer.store(self.me(), Ordering::Relaxed);
                    }
                    return Ok(Ok(()));
                }
                Err(now) => state = now,
            }
        }
        Ok(Err(state))
    }

    fn lock(&self, want: Want, limit: Option<(clockid_t, *const timespec)>) -> c_int {
        self.wait(want, limit).err().unwrap_or(0)
    }

    fn wait(&self, want: Want, limit: Option<(clockid_t, *const timespec)>) -> Result<(), c_int> {
        if limit.is_some_and(|(clock, _)| !time::is_known(clock)) {
            return Err(libc::EINVAL);
        }
        let mut until = None;
        loop {
            let Err(state) = self.attempt(want)? else { return Ok(()) };
            if state & WRITING != 0 && self.lock.writer.load(Ordering::Relaxed) == self.me() {
                return Err(libc::EDEADLK);
            }
            if let (None, Some((clock, at))) = (&until, limit) {
                // SAFETY: the caller of the function that made `limit` promises a time.
                until = Some(unsafe { Until::new(clock, at) }.ok_or(libc::EINVAL)?);
            }
            let marked = state | SLEEPERS | if want == Want::Write { WRITERS } else { 0 };
            let (order, word) = (Ordering::SeqCst, &self.lock.state);
            if state != marked && word.compare_exchange(state, marked, order, order).is_err() {
                continue;
            }
            // While it cannot be had: other marks, and readers among readers, are no reason to wake.
            let still = || matches!(self.next(word.load(order), want), Ok(None));
            if sleep(self.spot, until.as_ref(), None, still) == Slept::TimedOut {
                return self.attempt(want)?.map_err(|_| libc::ETIMEDOUT);
            }
        }
    }

    fn try_lock(&self, want: Want) -> c_int {
        match self.attempt(want) {
            Ok(Ok(())) => 0,
            Ok(Err(_)) => libc::EBUSY,
            Err(e) => e,
        }
    }

    fn unlock(&self) -> c_int {
        let mut state = self.lock.state.load(Ordering::Relaxed);
        loop {
            let next = if state & WRITING != 0 || state & READERS <= 1 { 0 } else { state - 1 };
            if state & WRITING != 0 {
                self.lock.writer.store(0, Ordering::Relaxed);
            }
            // SeqCst: who is about to sleep sees this, or is seen asleep. The lock itself may be gone
            // after it.
            let order = Ordering::SeqCst;
            match self.lock.state.compare_exchange_weak(state, next, order, Ordering::Relaxed) {
                Ok(_) if next == 0 && state & SLEEPERS != 0 => {
                    wake(self.spot, u32::MAX);
                    return 0;
                }
                Ok(_) => return 0,
                Err(now) => state = now,
            }
        }
    }
}

/// The functions without a time, which the C library has under second names.
macro_rules! functions {
    ($($name:ident, $theirs:ident, |$ours:ident| $do:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(lock: *mut pthread_rwlock_t) -> c_int {
            match ours(lock) {
                // SAFETY: as the caller promises.
                None => unsafe { $theirs(lock) },
                Some($ours) => $do,
            }
        }
    )*};
}

functions! {
    pthread_rwlock_rdlock, __pthread_rwlock_rdlock, |ours| ours.lock(Want::Read, None);
    pthread_rwlock_wrlock, __pthread_rwlock_wrlock, |ours| ours.lock(Want::Write, None);
    pthread_rwlock_tryrdlock, __pthread_rwlock_tryrdlock, |ours| ours.try_lock(Want::Read);
    pthread_rwlock_trywrlock, __pthread_rwlock_trywrlock, |ours| ours.try_lock(Want::Write);
    pthread_rwlock_unlock, __pthread_rwlock_unlock, |ours| ours.unlock();
}

/// `pthread_rwlock_timedrdlock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_rwlock_timedrdlock(
    lock: *mut pthread_rwlock_t,
    at: *const timespec,
) -> c_int {
    match ours(lock) {
        None => {
            theirs!(pthread_rwlock_timedrdlock(lock: *mut pthread_rwlock_t, at: *const timespec))
        }
        Some(ours) => ours.lock(Want::Read, Some((libc::CLOCK_REALTIME, at))),
    }
}

/// `pthread_rwlock_timedwrlock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_rwlock_timedwrlock(
    lock: *mut pthread_rwlock_t,
    at: *const timespec,
) -> c_int {
    match ours(lock) {
        None => {
            theirs!(pthread_rwlock_timedwrlock(lock: *mut pthread_rwlock_t, at: *const timespec))
        }
        Some(ours) => ours.lock(Want::Write, Some((libc::CLOCK_REALTIME, at))),
    }
}

/// `pthread_rwlock_clockrdlock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_rwlock_clockrdlock(
    lock: *mut pthread_rwlock_t,
    clock: clockid_t,
    at: *const timespec,
) -> c_int {
    match ours(lock) {
        None => {
            theirs!(pthread_rwlock_clockrdlock(lock: *mut pthread_rwlock_t, clock: clockid_t, at: *const timespec))
        }
        Some(ours) => ours.lock(Want::Read, Some((clock, at))),
    }
}

/// `pthread_rwlock_clockwrlock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_rwlock_clockwrlock(
    lock: *mut pthread_rwlock_t,
    clock: clockid_t,
    at: *const timespec,
) -> c_int {
    match ours(lock) {
        None => {
            theirs!(pthread_rwlock_clockwrlock(lock: *mut pthread_rwlock_t, clock: clockid_t, at: *const timespec))
        }
        Some(ours) => ours.lock(Want::Write, Some((clock, at))),
    }
}
