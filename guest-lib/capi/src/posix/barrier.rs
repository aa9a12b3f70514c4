//! Process-shared barriers.
//!
//! Of the C library's bytes the number of parties and the flag are kept. The first word is ours: the
//! round, and how many of it have arrived. The last to arrive begins the next round, which is what the
//! others sleep for.

use super::theirs::theirs;
use super::{nap, sleep, spot, wake};
use libc::{c_int, pthread_barrier_t};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vshmem::Spot;

#[repr(C)]
struct Barrier {
    /// Arrived in the low half, the round in the high half.
    state: AtomicU64,
    parties: AtomicU32,
    shared: AtomicU32,
    /// Threads inside `pthread_barrier_wait`; too high where one was killed there.
    inside: AtomicU32,
}

const _: () = assert!(size_of::<Barrier>() <= size_of::<pthread_barrier_t>());

/// How often `destroy` looks, at a millisecond each, until it takes the last ones for dead.
const PATIENCE: u32 = 1000;

const fn round(state: u64) -> u32 {
    (state >> 32) as u32
}

fn ours(at: *mut pthread_barrier_t) -> Option<(&'static Barrier, Spot<'static>)> {
    let spot = spot(at)?;
    // SAFETY: in an attached segment; the caller promises a barrier.
    let barrier = unsafe { &*at.cast::<Barrier>() };
    (barrier.shared.load(Ordering::Relaxed) != 0).then_some((barrier, spot))
}

/// `pthread_barrier_wait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_barrier_wait(barrier: *mut pthread_barrier_t) -> c_int {
    let Some((barrier, spot)) = ours(barrier) else {
        return theirs!(pthread_barrier_wait(barrier: *mut pthread_barrier_t));
    };
    barrier.inside.fetch_add(1, Ordering::Relaxed);
    let parties = barrier.parties.load(Ordering::Relaxed);
    let mut state = barrier.state.load(Ordering::Relaxed);
    let (mine, last) = loop {
        let last = state as u32 >= parties.saturating_sub(1);
        let next = if last { u64::from(round(state).wrapping_add(1)) << 32 } else { state + 1 };
        // SeqCst: who is about to sleep sees the new round, or is seen asleep; and everybody sees
        // what the others did before.
        match barrier.state.compare_exchange_weak(state, next, Ordering::SeqCst, Ordering::Relaxed)
        {
            Ok(_) => break (round(state), last),
            Err(now) => state = now,
        }
    };
    if last {
        wake(spot, u32::MAX);
    } else {
        let still = || round(barrier.state.load(Ordering::SeqCst)) == mine;
        while still() {
            sleep(spot, None, None, still);
        }
    }
    // Release: it may be destroyed from here on.
    barrier.inside.fetch_sub(1, Ordering::Release);
    if last { libc::PTHREAD_BARRIER_SERIAL_THREAD } else { 0 }
}

/// `pthread_barrier_destroy`: waits for those who are still leaving.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_barrier_destroy(barrier: *mut pthread_barrier_t) -> c_int {
    let Some((barrier, _)) = ours(barrier) else {
        return theirs!(pthread_barrier_destroy(barrier: *mut pthread_barrier_t));
    };
    for _ in 0..PATIENCE {
        // Acquire: they have done with it.
        if barrier.inside.load(Ordering::Acquire) == 0 {
            break;
        }
        nap();
    }
    // What the C library's would wait for.
    barrier.state.store(0, Ordering::Relaxed);
    barrier.inside.store(0, Ordering::Relaxed);
    0
}
