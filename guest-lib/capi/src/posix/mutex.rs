//! Process-shared mutexes.
//!
//! The lock word is the C library's: 0 free, 1 taken, 2 taken and somebody may sleep. The owner is a
//! thread's number with its kernel's above it, so that a thread of another kernel with the same
//! number is another.
//!
//! # Robust ones
//!
//! There the lock word names the owner's task, so that whoever waits can tell whether it lives, and
//! is woken by its reaper if it dies:
//!
//! | bits | |
//! |---|---|
//! | 0-15 | incarnation of the owner's task |
//! | 16-29 | index of its slot + 1; 0: nobody's |
//! | 30 | the owner died |
//! | 31 | somebody may sleep |
//!
//! A thread that ends with such a mutex locked, while its process lives, hands it on itself:
//! [`held`]. As in the kernel, a mutex that is not robust stays locked when its owner dies.
//!
//! Priority protocols stay the C library's: no kernel can lend its priorities to a thread of another.

mod held;
mod robust;

use super::theirs::theirs;
use super::time::{self, Until};
use super::{Slept, sleep, spot, wake, warn};
use libc::{c_int, clockid_t, pthread_mutex_t, timespec};
use std::sync::atomic::{AtomicU32, Ordering};
use vshmem::Spot;

unsafe extern "C-unwind" {
    fn __pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int;
    fn __pthread_mutex_trylock(mutex: *mut pthread_mutex_t) -> c_int;
    fn __pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int;
}

/// The C library's `struct __pthread_mutex_s`.
#[repr(C)]
pub(super) struct Mutex {
    lock: AtomicU32,
    /// How often a recursive one is locked.
    count: AtomicU32,
    owner: AtomicU32,
    users: AtomicU32,
    kind: AtomicU32,
    spins: AtomicU32,
    /// Of a robust one, the thread that has it locked. (The C library's list of them.)
    thread: AtomicU32,
}

const _: () = assert!(size_of::<Mutex>() <= size_of::<pthread_mutex_t>());

/// Bits of `kind`.
const TYPE: u32 = 3;
const RECURSIVE: u32 = 1;
const ERRORCHECK: u32 = 2;
const ROBUST: u32 = 16;
const PROTOCOLS: u32 = 32 | 64;
const SHARED: u32 = 128;
/// One that was destroyed.
const DESTROYED: u32 = u32::MAX;

const FREE: u32 = 0;
const TAKEN: u32 = 1;
const CONTENDED: u32 = 2;

/// A mutex that is ours to serve.
#[derive(Clone, Copy)]
pub(super) struct Ours {
    mutex: &'static Mutex,
    spot: Spot<'static>,
    kind: u32,
}

#[inline]
fn ours(at: *mut pthread_mutex_t) -> Option<Ours> {
    // SAFETY: the caller promises a mutex.
    let mutex = unsafe { &*at.cast::<Mutex>() };
    let kind = mutex.kind.load(Ordering::Relaxed);
    if kind & SHARED == 0 { None } else { shared(mutex, kind) }
}

fn shared(mutex: &'static Mutex, kind: u32) -> Option<Ours> {
    let spot = spot(mutex)?;
    if kind == DESTROYED {
        return None;
    }
    if kind & PROTOCOLS != 0 {
        warn(
            "a mutex with a priority protocol",
            spot,
            "initialise it with PTHREAD_PRIO_NONE, which any kernel can keep",
        );
        return None;
    }
    Some(Ours { mutex, spot, kind })
}

impl Ours {
    /// The calling thread.
    #[inline]
    fn me(&self) -> u32 {
        self.spot.thread().0
    }

    fn is_mine(&self) -> bool {
        self.mutex.owner.load(Ordering::Relaxed) == self.me()
    }

    /// Notes that the caller has it now.
    fn own(&self) {
        self.mutex.owner.store(self.me(), Ordering::Relaxed);
        // Changed only by whoever has the mutex.
        let users = self.mutex.users.load(Ordering::Relaxed);
        self.mutex.users.store(users.wrapping_add(1), Ordering::Relaxed);
        if self.kind & TYPE == RECURSIVE {
            self.mutex.count.store(1, Ordering::Relaxed);
        }
    }

    /// What a thread gets that has it already; `None` where it waits for itself.
    fn again(&self) -> Option<c_int> {
        match self.kind & TYPE {
            RECURSIVE => {
                let count = self.mutex.count.load(Ordering::Relaxed);
                let Some(more) = count.checked_add(1) else { return Some(libc::EAGAIN) };
                self.mutex.count.store(more, Ordering::Relaxed);
                Some(0)
            }
            ERRORCHECK => Some(libc::EDEADLK),
            _ => None,
        }
    }

    fn try_take(&self) -> bool {
        // Acquire: what its last owner did is seen.
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        self.mutex.lock.compare_exchange(FREE, TAKEN, acquire, relaxed).is_ok()
    }

    fn lock(&self, until: Option<&Limit>) -> c_int {
        if self.kind & ROBUST != 0 {
            return robust::lock(self, until);
        }
        if self.kind & TYPE != 0
            && self.is_mine()
            && let Some(rc) = self.again()
        {
            return rc;
        }
        if !self.try_take()
            && let Err(e) = self.wait(until)
        {
            return e;
        }
        self.own();
        0
    }

    #[cold]
    fn wait(&self, until: Option<&Limit>) -> Result<(), c_int> {
        let until = until.map(Limit::get).transpose()?;
        // Whoever slept cannot know whether others do, and so takes it as contended.
        // SeqCst: either the owner that lets go sees this, or we see that it did.
        while self.mutex.lock.swap(CONTENDED, Ordering::SeqCst) != FREE {
            let still = || self.mutex.lock.load(Ordering::SeqCst) == CONTENDED;
            if sleep(self.spot, until.as_ref(), None, still) == Slept::TimedOut {
                return Err(libc::ETIMEDOUT);
            }
        }
        Ok(())
    }

    fn try_lock(&self) -> c_int {
        if self.kind & ROBUST != 0 {
            return robust::try_lock(self);
        }
        if self.kind & TYPE == RECURSIVE
            && self.is_mine()
            && let Some(rc) = self.again()
        {
            return rc;
        }
        if !self.try_take() {
            return libc::EBUSY;
        }
        self.own();
        0
    }

    fn unlock(&self) -> c_int {
        if self.kind & ROBUST != 0 {
            return robust::unlock(self);
        }
        if self.kind & TYPE == RECURSIVE || self.kind & TYPE == ERRORCHECK {
            if !self.is_mine() || self.mutex.lock.load(Ordering::Relaxed) == FREE {
                return libc::EPERM;
            }
            if self.kind & TYPE == RECURSIVE {
                let count = self.mutex.count.load(Ordering::Relaxed).saturating_sub(1);
                self.mutex.count.store(count, Ordering::Relaxed);
                if count > 0 {
                    return 0;
                }
            }
        }
        self.mutex.owner.store(0, Ordering::Relaxed);
        let users = self.mutex.users.load(Ordering::Relaxed);
        self.mutex.users.store(users.wrapping_sub(1), Ordering::Relaxed);
        let spot = self.spot;
        // SeqCst: see `wait`. The mutex itself may be gone after this.
        if self.mutex.lock.swap(FREE, Ordering::SeqCst) == CONTENDED {
            wake(spot, 1);
        }
        0
    }
}

/// A time whose form is looked at only by those who have to wait.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    clock: clockid_t,
    at: *const timespec,
}

impl Limit {
    fn get(&self) -> Result<Until, c_int> {
        // SAFETY: the caller of the function that made this promises a time.
        unsafe { Until::new(self.clock, self.at) }.ok_or(libc::EINVAL)
    }
}

/// `pthread_mutex_lock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int {
    match ours(mutex) {
        // SAFETY: as the caller promises.
        None => unsafe { __pthread_mutex_lock(mutex) },
        Some(mutex) => mutex.lock(None),
    }
}

/// `pthread_mutex_trylock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_mutex_trylock(mutex: *mut pthread_mutex_t) -> c_int {
    match ours(mutex) {
        // SAFETY: as the caller promises.
        None => unsafe { __pthread_mutex_trylock(mutex) },
        Some(mutex) => mutex.try_lock(),
    }
}

/// `pthread_mutex_unlock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int {
    match ours(mutex) {
        // SAFETY: as the caller promises.
        None => unsafe { __pthread_mutex_unlock(mutex) },
        Some(mutex) => mutex.unlock(),
    }
}

/// `pthread_mutex_timedlock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_mutex_timedlock(
    mutex: *mut pthread_mutex_t,
    at: *const timespec,
) -> c_int {
    match ours(mutex) {
        None => theirs!(pthread_mutex_timedlock(mutex: *mut pthread_mutex_t, at: *const timespec)),
        Some(mutex) => mutex.lock(Some(&Limit { clock: libc::CLOCK_REALTIME, at })),
    }
}

/// `pthread_mutex_clocklock`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_mutex_clocklock(
    mutex: *mut pthread_mutex_t,
    clock: clockid_t,
    at: *const timespec,
) -> c_int {
    match ours(mutex) {
        None => {
            theirs!(pthread_mutex_clocklock(mutex: *mut pthread_mutex_t, clock: clockid_t, at: *const timespec))
        }
        Some(_) if !time::is_known(clock) => libc::EINVAL,
        Some(mutex) => mutex.lock(Some(&Limit { clock, at })),
    }
}
