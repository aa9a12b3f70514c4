//! `sem_t` and process-shared pthread objects in attached segments.
//!
//! The C library lets their users sleep on futexes, which never leave their kernel: a `sem_wait` in
//! one guest would not hear of a `sem_post` in another. So the functions that sleep and wake are
//! taken over here, for objects that are process-shared and lie in a segment of a region; these
//! sleep on [`Spot`]s. Everything else is handed to the C library at once, at the price of a look at
//! the object's flags and, if it is shared, at two bounds.
//!
//! | object | its bytes |
//! |---|---|
//! | `sem_t` | as the C library has them |
//! | mutex | as the C library has them, but for the owner, which also names the kernel; of a robust mutex the lock word names the task |
//! | condition variable, barrier, rwlock | initialised and destroyed by the C library; what lies between is ours ([`cond`], [`barrier`], [`rwlock`]) |
//!
//! Objects that are being initialised need no attention: what the C library's `*_init` and the static
//! initialisers write is what the functions here begin with.
//!
//! A sleep here ends by itself after a second at the latest, and its function looks at the object
//! again. So what a wake did not reach (its sender was killed, or is a program without this library)
//! is late, not lost.

mod barrier;
mod cond;
mod mutex;
mod rwlock;
mod sem;
mod theirs;
mod time;

use crate::global;
use libc::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use time::Until;
use vshmem::sysv::park::Limits;
use vshmem::{Slept, Spot};

unsafe extern "C-unwind" {
    /// Ends the calling thread if it was cancelled.
    fn pthread_testcancel();
}

/// Threads cancelled so far, at the least.
static CANCELLED: AtomicU32 = AtomicU32::new(0);

/// The place of an object, if it lies in a segment.
#[inline]
fn spot<T>(of: *const T) -> Option<Spot<'static>> {
    // SAFETY: the program's sessions are never freed.
    unsafe { Spot::at(of as usize) }
}

/// Sleeps at `spot` while `still` says so, until `until` at the latest, or for no reason. Leaves
/// errno alone.
///
/// Never fails: without a lane (the region has no more) it naps and looks again, and says so once.
#[cold]
fn sleep(
    spot: Spot<'_>,
    until: Option<&Until>,
    owner: Option<u32>,
    still: impl Fn() -> bool,
) -> Slept {
    let errno = global::errno();
    let slept = spot.now().and_then(|now| {
        let deadline = match until.map(|u| u.after(now)) {
            None => None,
            Some(Some(deadline)) => Some(deadline),
            Some(None) => return Ok(Slept::TimedOut),
        };
        match spot.wait(Limits { deadline, owner }, still)? {
            // By another clock it may be early yet.
            Slept::TimedOut if until.is_some_and(|u| !u.has_passed()) => Ok(Slept::Maybe),
            slept => Ok(slept),
        }
    });
    let slept = slept.unwrap_or_else(|e| {
        global::tell(&e);
        nap();
        if until.is_some_and(Until::has_passed) { Slept::TimedOut } else { Slept::Maybe }
    });
    global::set_errno(errno);
    slept
}

fn nap() {
    let short = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // SAFETY: a time, and nowhere for the rest.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const short, std::ptr::null_mut::<u8>()) };
}

/// Wakes `n` sleepers at `spot`; how many there were. Leaves errno alone.
#[inline]
fn wake(spot: Spot<'_>, n: u32) -> u32 {
    let errno = global::errno();
    // They look by themselves within a second.
    let woken = spot.wake(n).unwrap_or(0);
    global::set_errno(errno);
    woken
}

/// Tells a person, once for each kind of object, what cannot be done for it.
#[cold]
fn warn(what: &'static str, spot: Spot<'_>, instead: &'static str) {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let kind = what.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into())) % 64;
    if TOLD.fetch_or(1 << kind, Ordering::Relaxed) >> kind & 1 != 0 {
        return;
    }
    let errno = global::errno();
    let (id, at) = (spot.segment_id().unwrap_or(-1), spot.key().at);
    let text = format!(
        "vshmem: {what} at offset {at:#x} of segment {id} works only among the processes of one \
         kernel: those of others would sleep for ever; {instead}\n"
    );
    // SAFETY: the text's bytes. If nobody listens, nobody is told.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    global::set_errno(errno);
}

/// `pthread_cancel`: a thread that sleeps here learns of it by being woken.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_cancel(thread: libc::pthread_t) -> c_int {
    let rc = crate::next::next!(pthread_cancel(thread: libc::pthread_t) -> c_int);
    CANCELLED.fetch_add(1, Ordering::SeqCst);
    let errno = global::errno();
    // What fails here is late: it looks by itself within a second.
    global::each(|session| drop(session.nudge()));
    global::set_errno(errno);
    rc
}
