//! `sem_t`: the value in the low half of a word, the number of those who wait in the high half, as
//! the C library has it; then whether it is shared.
//!
//! A waiter that is killed leaves the number too high. That costs its posters a look for sleepers,
//! nothing else.

use super::theirs::theirs;
use super::time::{self, Until};
use super::{Slept, pthread_testcancel, sleep, spot, wake};
use crate::global;
use libc::{c_int, clockid_t, sem_t, timespec};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vshmem::Spot;

/// The C library's `struct new_sem`.
#[repr(C)]
struct Sem {
    data: AtomicU64,
    /// 0, or a flag for shared ones.
    shared: AtomicU32,
}

const WAITER: u64 = 1 << 32;
const MOST: u32 = c_int::MAX as u32;

const fn value(data: u64) -> u32 {
    data as u32
}

const _: () = assert!(size_of::<Sem>() <= size_of::<sem_t>());

/// The semaphore, and its place, if it is ours to serve.
#[inline]
fn ours(sem: *mut sem_t) -> Option<(&'static Sem, Spot<'static>)> {
    let spot = spot(sem)?;
    // SAFETY: in an attached segment, so there is memory, which is used by atomics only; the caller
    // promises a semaphore, and keeps it for the call.
    let sem = unsafe { &*sem.cast::<Sem>() };
    (sem.shared.load(Ordering::Relaxed) != 0).then_some((sem, spot))
}

/// Takes one, if there is any.
#[inline]
fn take(sem: &Sem) -> bool {
    let mut data = sem.data.load(Ordering::Relaxed);
    while value(data) > 0 {
        // Acquire: what its poster did before is seen.
        match sem.data.compare_exchange_weak(data, data - 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => data = now,
        }
    }
    false
}

fn failed(e: c_int) -> c_int {
    global::set_errno(e);
    -1
}

fn wait(sem: &Sem, spot: Spot<'_>, until: Option<&Until>) -> c_int {
    loop {
        // A cancellation point, also when there is nothing to wait for. Nothing is taken yet, and
        // nobody counted.
        // SAFETY: no frame up to the program's has anything to drop.
        unsafe { pthread_testcancel() };
        if take(sem) {
            return 0;
        }
        // SeqCst: either the poster sees this, or we see its value.
        sem.data.fetch_add(WAITER, Ordering::SeqCst);
        let still = || value(sem.data.load(Ordering::SeqCst)) == 0;
        let slept = sleep(spot, until, None, still);
        sem.data.fetch_sub(WAITER, Ordering::Relaxed);
        match slept {
            Slept::Maybe => {}
            // The kernel restarts a wait without a limit after such handlers.
            Slept::Interrupted { restart: true } if until.is_none() => {}
            Slept::TimedOut | Slept::Interrupted { .. } if take(sem) => return 0,
            Slept::TimedOut => return failed(libc::ETIMEDOUT),
            Slept::Interrupted { .. } => return failed(libc::EINTR),
        }
    }
}

/// `sem_wait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sem_wait(sem: *mut sem_t) -> c_int {
    match ours(sem) {
        None => theirs!(sem_wait(sem: *mut sem_t)),
        Some((sem, spot)) => wait(sem, spot, None),
    }
}

/// # Safety
/// As `sem_clockwait`.
unsafe fn timed(sem: &Sem, spot: Spot<'_>, clock: clockid_t, at: *const timespec) -> c_int {
    // SAFETY: as the caller promises.
    let Some(until) = (unsafe { Until::new(clock, at) }) else { return failed(libc::EINVAL) };
    wait(sem, spot, Some(&until))
}

/// `sem_timedwait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sem_timedwait(sem: *mut sem_t, at: *const timespec) -> c_int {
    match ours(sem) {
        None => theirs!(sem_timedwait(sem: *mut sem_t, at: *const timespec)),
        // SAFETY: as the caller promises.
        Some((sem, spot)) => unsafe { timed(sem, spot, libc::CLOCK_REALTIME, at) },
    }
}

/// `sem_clockwait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sem_clockwait(
    sem: *mut sem_t,
    clock: clockid_t,
    at: *const timespec,
) -> c_int {
    match ours(sem) {
        None => theirs!(sem_clockwait(sem: *mut sem_t, clock: clockid_t, at: *const timespec)),
        Some(_) if !time::is_known(clock) => failed(libc::EINVAL),
        // SAFETY: as the caller promises.
        Some((sem, spot)) => unsafe { timed(sem, spot, clock, at) },
    }
}

/// `sem_post`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sem_post(sem: *mut sem_t) -> c_int {
    let Some((sem, spot)) = ours(sem) else { return theirs!(sem_post(sem: *mut sem_t)) };
    let mut data = sem.data.load(Ordering::Relaxed);
    loop {
        if value(data) == MOST {
            return failed(libc::EOVERFLOW);
        }
        // SeqCst: see `wait`.
        match sem.data.compare_exchange_weak(data, data + 1, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => data = now,
        }
    }
    // The semaphore itself may be gone from here on: whoever took the one may have destroyed it.
    if data >= WAITER {
        wake(spot, 1);
    }
    0
}
