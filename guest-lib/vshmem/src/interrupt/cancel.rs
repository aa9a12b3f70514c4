//! `pthread_cancel` of a thread that sleeps in `msgsnd` or `msgrcv`.
//!
//! The C library makes a system call a place to be cancelled at by having the thread cancelled at
//! any time for as long as the call lasts: then `pthread_cancel` sends it a signal, which the thread
//! never returns from. So do we, for the sleep alone. What the thread leaves behind, a lane in a
//! queue, is taken back at its end, as where a handler jumps out of a call.

use libc::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

static ALLOWED: AtomicBool = AtomicBool::new(false);
const ASYNCHRONOUS: c_int = 1;

unsafe extern "C-unwind" {
    fn pthread_setcanceltype(kind: c_int, before: *mut c_int) -> c_int;
}

pub(super) fn allow() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// While it lives, the thread may be cancelled at any time.
pub(crate) struct Cancel {
    before: Option<c_int>,
}

impl Cancel {
    pub fn sleep() -> Self {
        let mut before = None;
        if ALLOWED.load(Ordering::Relaxed) {
            // SAFETY: room for the kind before; the thread is between two steps, and whatever is
            // left of its call is taken back at its end.
            unsafe { pthread_setcanceltype(ASYNCHRONOUS, before.insert(0)) };
        }
        Self { before }
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: what it was before.
            unsafe { pthread_setcanceltype(before, std::ptr::null_mut()) };
        }
    }
}
