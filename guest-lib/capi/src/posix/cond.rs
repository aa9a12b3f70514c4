//! Process-shared condition variables.
//!
//! Of the C library's 48 bytes its flags are kept (`__wrefs`: shared, and which clock). The first word
//! is ours: a number that every signal and broadcast raises. A waiter notes it while it has the
//! mutex, and sleeps while it stays the same. A signal raises it and wakes the one who has slept
//! longest: of those who noted an older number some sleep, and one of them is woken; the others are
//! about to sleep, and will not. So nobody who waited before is missed. Who is woken by somebody
//! else's number has a spurious wake-up, which POSIX allows.

use super::theirs::{COND, theirs};
use super::time::{self, Until};
use super::{CANCELLED, Slept, mutex, pthread_testcancel, sleep, spot, wake};
use libc::{c_int, clockid_t, pthread_cond_t, pthread_mutex_t, timespec};
use std::sync::atomic::{AtomicU32, Ordering};
use vshmem::Spot;

#[repr(C)]
struct Cond {
    number: AtomicU32,
    theirs: [u32; 8],
    flags: AtomicU32,
}

const _: () = assert!(std::mem::offset_of!(Cond, flags) == 36);
const _: () = assert!(size_of::<Cond>() <= size_of::<pthread_cond_t>());

const SHARED: u32 = 1;
const MONOTONIC: u32 = 2;

#[inline]
fn ours(at: *mut pthread_cond_t) -> Option<(&'static Cond, Spot<'static>)> {
    // SAFETY: the caller promises a condition variable.
    let cond = unsafe { &*at.cast::<Cond>() };
    if cond.flags.load(Ordering::Relaxed) & SHARED == 0 {
        return None;
    }
    Some((cond, spot(cond)?))
}

/// # Safety
/// `with` is a mutex that the caller has locked.
unsafe fn wait(
    (cond, spot): (&Cond, Spot<'_>),
    with: *mut pthread_mutex_t,
    until: Option<&Until>,
) -> c_int {
    // The mutex is locked, as it is to be when a thread is cancelled here.
    // SAFETY: no frame up to the program's has anything to drop.
    unsafe { pthread_testcancel() };
    let cancelled = CANCELLED.load(Ordering::SeqCst);
    let number = cond.number.load(Ordering::SeqCst);
    // SAFETY: as the caller promises.
    let rc = unsafe { mutex::pthread_mutex_unlock(with) };
    if rc != 0 {
        return rc;
    }
    let mut late = false;
    let mut nudged = false;
    let same = || cond.number.load(Ordering::SeqCst) == number;
    while same() && !late && !nudged {
        late = sleep(spot, until, None, same) == Slept::TimedOut;
        nudged = CANCELLED.load(Ordering::SeqCst) != cancelled;
    }
    // Signalled at the last moment is signalled.
    late &= same();
    nudged &= same();
    // SAFETY: as the caller promises.
    let rc = unsafe { mutex::pthread_mutex_lock(with) };
    if nudged {
        // Somebody was cancelled; if it was another thread, this is a spurious wake-up. One that was
        // signalled does not look: the signal would be lost with it.
        // SAFETY: as above; the mutex is locked again.
        unsafe { pthread_testcancel() };
    }
    match rc {
        0 if late => libc::ETIMEDOUT,
        rc => rc,
    }
}

/// # Safety
/// As `pthread_cond_clockwait`.
unsafe fn timed(
    of: (&Cond, Spot<'_>),
    with: *mut pthread_mutex_t,
    clock: clockid_t,
    at: *const timespec,
) -> c_int {
    // SAFETY: as the caller promises.
    let Some(until) = (unsafe { Until::new(clock, at) }) else { return libc::EINVAL };
    // SAFETY: as the caller promises.
    unsafe { wait(of, with, Some(&until)) }
}

fn signal((cond, spot): (&Cond, Spot<'_>), n: u32) -> c_int {
    // SeqCst: a waiter that is about to sleep sees it, or is seen asleep.
    cond.number.fetch_add(1, Ordering::SeqCst);
    wake(spot, n);
    0
}

/// `pthread_cond_wait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cond_wait(
    cond: *mut pthread_cond_t,
    with: *mut pthread_mutex_t,
) -> c_int {
    match ours(cond) {
        None => {
            theirs!(pthread_cond_wait[COND](cond: *mut pthread_cond_t, with: *mut pthread_mutex_t))
        }
        // SAFETY: as the caller promises.
        Some(ours) => unsafe { wait(ours, with, None) },
    }
}

/// `pthread_cond_timedwait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cond_timedwait(
    cond: *mut pthread_cond_t,
    with: *mut pthread_mutex_t,
    at: *const timespec,
) -> c_int {
    let Some(ours) = ours(cond) else {
        return theirs!(pthread_cond_timedwait[COND](cond: *mut pthread_cond_t, with: *mut pthread_mutex_t, at: *const timespec));
    };
    let monotonic = ours.0.flags.load(Ordering::Relaxed) & MONOTONIC != 0;
    let clock = if monotonic { libc::CLOCK_MONOTONIC } else { libc::CLOCK_REALTIME };
    // SAFETY: as the caller promises.
    unsafe { timed(ours, with, clock, at) }
}

/// `pthread_cond_clockwait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cond_clockwait(
    cond: *mut pthread_cond_t,
    with: *mut pthread_mutex_t,
    clock: clockid_t,
    at: *const timespec,
) -> c_int {
    match ours(cond) {
        None => {
            theirs!(pthread_cond_clockwait(cond: *mut pthread_cond_t, with: *mut pthread_mutex_t, clock: clockid_t, at: *const timespec))
        }
        Some(_) if !time::is_known(clock) => libc::EINVAL,
        // SAFETY: as the caller promises.
        Some(ours) => unsafe { timed(ours, with, clock, at) },
    }
}

/// `pthread_cond_signal`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cond_signal(cond: *mut pthread_cond_t) -> c_int {
    match ours(cond) {
        None => theirs!(pthread_cond_signal[COND](cond: *mut pthread_cond_t)),
        Some(ours) => signal(ours, 1),
    }
}

/// `pthread_cond_broadcast`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cond_broadcast(cond: *mut pthread_cond_t) -> c_int {
    match ours(cond) {
        None => theirs!(pthread_cond_broadcast[COND](cond: *mut pthread_cond_t)),
        Some(ours) => signal(ours, u32::MAX),
    }
}
