//! The robust mutexes a thread has locked, for its end.
//!
//! When a process dies, its task does; but a thread may end alone. Its list is looked through then,
//! after all other destructors, which may still unlock.

use super::{Mutex, robust};
use crate::posix::spot;
use libc::c_void;
use std::cell::RefCell;
use std::sync::OnceLock;

/// The rounds of destructors that the C library makes (PTHREAD_DESTRUCTOR_ITERATIONS).
const ROUNDS: u32 = 4;

#[derive(Default)]
struct Held {
    /// The thread, as mutexes know it.
    me: u32,
    mutexes: Vec<*const Mutex>,
    round: u32,
}

type List = RefCell<Held>;

fn key() -> Option<libc::pthread_key_t> {
    static KEY: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: room for the key; `end` takes what is stored under it.
        (unsafe { libc::pthread_key_create(&raw mut key, Some(end)) } == 0).then_some(key)
    })
}

/// The calling thread's list.
fn with<T>(make: bool, f: impl FnOnce(&mut Held) -> T) -> Option<T> {
    let key = key()?;
    // SAFETY: made above.
    let mut at = unsafe { libc::pthread_getspecific(key) }.cast::<List>();
    if at.is_null() {
        if !make {
            return None;
        }
        at = Box::into_raw(Box::default());
        // SAFETY: as above.
        unsafe { libc::pthread_setspecific(key, at.cast()) };
    }
    // SAFETY: made by `Box`, this thread's alone, freed by `end` only.
    let list = unsafe { &*at };
    // Taken only in a handler that interrupted a change: mutexes are not for handlers.
    list.try_borrow_mut().ok().map(|mut held| f(&mut held))
}

/// The calling thread, `me`, has `mutex`, or is about to.
pub(super) fn add(mutex: &Mutex, me: u32) {
    with(true, |held| {
        if held.me != me {
            // A child's: its parent's mutexes are the parent's.
            held.mutexes.clear();
            held.me = me;
        }
        held.mutexes.push(mutex);
    });
}

/// It has it no more.
pub(super) fn remove(mutex: &Mutex) {
    with(false, |held| {
        if let Some(at) = held.mutexes.iter().rposition(|m| std::ptr::eq(*m, mutex)) {
            held.mutexes.swap_remove(at);
        }
    });
}

extern "C" fn end(list: *mut c_void) {
    let at = list.cast::<List>();
    // SAFETY: what `with` stored; this thread's.
    let held = unsafe { &*at };
    if let Ok(mut held) = held.try_borrow_mut() {
        held.round += 1;
        if held.round < ROUNDS
            && !held.mutexes.is_empty()
            && let Some(key) = key()
        {
            // Again, after the others.
            // SAFETY: as in `with`.
            unsafe { libc::pthread_setspecific(key, list) };
            return;
        }
        for mutex in &held.mutexes {
            // In a segment that was detached with the mutex locked there is nothing to see to.
            let Some(spot) = spot(*mutex) else { continue };
            // SAFETY: in an attached segment, and used by atomics only.
            robust::abandon(unsafe { &**mutex }, spot, held.me);
        }
    }
    // SAFETY: made by `Box`; nobody uses it any more.
    drop(unsafe { Box::from_raw(at) });
}
