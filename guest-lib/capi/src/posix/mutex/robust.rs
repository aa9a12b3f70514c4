//! Robust mutexes: the next owner learns that the last one died.

use super::{Limit, Mutex, Ours, RECURSIVE, TYPE, held};
use crate::posix::{Slept, sleep, wake};
use libc::c_int;
use std::sync::atomic::Ordering;
use vshmem::Spot;

const SLEEPERS: u32 = 1 << 31;
const DIED: u32 = 1 << 30;
const TASK: u32 = DIED - 1;
const INCARNATION: u32 = 0xffff;

/// What the C library has in the owner field of a mutex whose owner died: not yet consistent again,
/// and never again.
const INCONSISTENT: u32 = i32::MAX as u32;
const NOT_RECOVERABLE: u32 = INCONSISTENT - 1;

/// The calling task, as lock words name it; `None` without one.
fn my_task(spot: Spot<'_>) -> Option<u32> {
    let task = spot.task().ok()?;
    let slot = (task.index + 1) << 16;
    (slot <= TASK).then_some(slot | task.incarnation as u32 & INCARNATION)
}

/// Slot of the task that has the mutex.
const fn slot(word: u32) -> u32 {
    (word & TASK) >> 16
}

/// Whether the task that has the mutex is gone. One that cannot be looked up is not there.
fn is_dead(spot: Spot<'_>, word: u32) -> bool {
    let Some(index) = slot(word).checked_sub(1) else { return true };
    let living = spot.living_task(index).unwrap_or(None);
    living.is_none_or(|i| i as u32 & INCARNATION != word & INCARNATION)
}

enum Tried {
    Mine(c_int),
    /// This is what the lock word says.
    Taken(u32),
}

/// Takes it, if nobody alive has it; `mark` says whether somebody may sleep.
fn attempt(of: &Ours, task: u32, mark: u32) -> Tried {
    let lock = &of.mutex.lock;
    let mut word = lock.load(Ordering::SeqCst);
    loop {
        if of.mutex.owner.load(Ordering::Relaxed) == NOT_RECOVERABLE {
            return Tried::Mine(libc::ENOTRECOVERABLE);
        }
        let died = word & DIED != 0 || (word & TASK != 0 && is_dead(of.spot, word));
        if word & TASK != 0 && !died {
            return Tried::Taken(word);
        }
        let new = task | word & SLEEPERS | mark;
        // Announced first: a thread that ends in between looks at the mutex, and finds another's.
        held::add(of.mutex, of.me());
        // Acquire: what its last owner did is seen.
        match lock.compare_exchange(word, new, Ordering::Acquire, Ordering::SeqCst) {
            Err(now) => {
                held::remove(of.mutex);
                word = now;
            }
            Ok(_) => {
                of.mutex.thread.store(of.me(), Ordering::Relaxed);
                of.mutex.count.store(1, Ordering::Relaxed);
                let owner = if died { INCONSISTENT } else { of.me() };
                // The last owner may have given it up for good, as it let go.
                if of.mutex.owner.load(Ordering::Relaxed) == NOT_RECOVERABLE {
                    release(of.mutex, of.spot);
                    return Tried::Mine(libc::ENOTRECOVERABLE);
                }
                of.mutex.owner.store(owner, Ordering::Relaxed);
                return Tried::Mine(if died { libc::EOWNERDEAD } else { 0 });
            }
        }
    }
}

fn is_mine(of: &Ours, task: u32) -> bool {
    of.mutex.lock.load(Ordering::Relaxed) & TASK == task
        && of.mutex.thread.load(Ordering::Relaxed) == of.me()
}

pub(super) fn lock(of: &Ours, until: Option<&Limit>) -> c_int {
    let Some(task) = my_task(of.spot) else { return libc::EAGAIN };
    if is_mine(of, task)
        && let Some(rc) = of.again()
    {
        return rc;
    }
    let mut mark = 0;
    let mut time = None;
    loop {
        let word = match attempt(of, task, mark) {
            Tried::Mine(rc) => return rc,
            Tried::Taken(word) => word,
        };
        if let (None, Some(until)) = (time, until) {
            match until.get() {
                Ok(until) => time = Some(until),
                Err(e) => return e,
            }
        }
        let marked = word | SLEEPERS;
        let (order, lock) = (Ordering::SeqCst, &of.mutex.lock);
        if word != marked && lock.compare_exchange(word, marked, order, order).is_err() {
            continue;
        }
        let still = || lock.load(order) == marked && !is_dead(of.spot, marked);
        let owner = slot(marked).checked_sub(1);
        if sleep(of.spot, time.as_ref(), owner, still) == Slept::TimedOut {
            return libc::ETIMEDOUT;
        }
        // Whoever slept cannot know whether others do.
        mark = SLEEPERS;
    }
}

pub(super) fn try_lock(of: &Ours) -> c_int {
    let Some(task) = my_task(of.spot) else { return libc::EAGAIN };
    if is_mine(of, task)
        && let Some(rc) = of.again()
    {
        return rc;
    }
    match attempt(of, task, 0) {
        Tried::Mine(rc) => rc,
        Tried::Taken(_) => libc::EBUSY,
    }
}

pub(super) fn unlock(of: &Ours) -> c_int {
    if !my_task(of.spot).is_some_and(|task| is_mine(of, task)) {
        return libc::EPERM;
    }
    if of.kind & TYPE == RECURSIVE {
        let count = of.mutex.count.load(Ordering::Relaxed).saturating_sub(1);
        of.mutex.count.store(count, Ordering::Relaxed);
        if count > 0 {
            return 0;
        }
    }
    let inconsistent = of.mutex.owner.load(Ordering::Relaxed) == INCONSISTENT;
    let owner = if inconsistent { NOT_RECOVERABLE } else { 0 };
    of.mutex.owner.store(owner, Ordering::Relaxed);
    of.mutex.count.store(0, Ordering::Relaxed);
    release(of.mutex, of.spot);
    0
}

/// Lets go. The thread's list keeps it until it is free, and the word names the task until then.
fn release(mutex: &Mutex, spot: Spot<'_>) {
    mutex.thread.store(0, Ordering::Relaxed);
    let hopeless = mutex.owner.load(Ordering::Relaxed) == NOT_RECOVERABLE;
    let word = mutex.lock.swap(0, Ordering::SeqCst);
    held::remove(mutex);
    if word & SLEEPERS != 0 {
        // When nobody can have it again, everybody is to know.
        wake(spot, if hopeless { u32::MAX } else { 1 });
    }
}

/// The thread `me`, which has the mutex, ends.
pub(super) fn abandon(mutex: &Mutex, spot: Spot<'_>, me: u32) {
    if mutex.thread.load(Ordering::Relaxed) != me {
        return;
    }
    mutex.thread.store(0, Ordering::Relaxed);
    let word = mutex.lock.swap(DIED, Ordering::SeqCst);
    if word & SLEEPERS != 0 {
        wake(spot, 1);
    }
}
