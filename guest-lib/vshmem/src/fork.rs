//! What happens around `fork`.
//!
//! A child has its parent's mappings from its first instruction, so a child of a process with
//! segments attached must count before it exists:
//!
//! 1. before: claim a task for the child, give it the parent's attachments ([`shm::inherit`]), and
//!    send the endpoint one end of a socket pair: the connection of that task;
//! 2. in the parent: close the other end. If there is no child, the endpoint sees the end of the
//!    connection and frees the task;
//! 3. in the child: say hello over it, so that the endpoint learns its pid.
//!
//! A child without attachments starts with nothing and attaches when it makes its first call. So
//! does one made behind the C library's back (`clone`), which is recognised by its wiped page; its
//! inherited attachments count from then on.

use crate::credentials::Ids;
use crate::error::{Error, Result};
use crate::fd::Fd;
use crate::interrupt;
use crate::link;
use crate::pieces;
use crate::session::{Seat, Shared};
use crate::sharing;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use vshmem_core::Region;
use vshmem_core::attach::{Op, Request};
use vshmem_core::layout::task;
use vshmem_core::task::{NewTask, TaskId};
use vshmem_sysv::{reap, shm};

/// A child about to be born.
#[derive(Debug)]
pub(crate) struct Pending {
    task: TaskId,
    near: Fd,
}

const SESSIONS: usize = 16;

/// The sessions of this process, for the handlers, which get no argument.
static SESSIONS_HERE: [AtomicPtr<Shared>; SESSIONS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; SESSIONS];
static HANDLERS: Once = Once::new();

/// For a library that has taken the C library's functions into its hands that make a child without
/// running the handlers of `pthread_atfork`. Each of the three is run by the thread that forks.
#[derive(Debug)]
pub struct Forking;

impl Forking {
    /// Before the child is made. Whoever calls this calls one of the others.
    pub fn before() {
        before();
    }

    /// In the parent, also where there is no child after all.
    pub fn in_parent() {
        in_parent();
    }

    /// In the child, before anything else.
    pub fn in_child() {
        in_child();
    }
}

/// Threads that look at sessions they found above; no session ends meanwhile.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn register(shared: &Shared) -> Result<()> {
    HANDLERS.call_once(|| {
        // SAFETY: three functions that live as long as this code. When the C library has no memory
        // for them, children are still recognised by their wiped page.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
    let here = ptr::from_ref(shared).cast_mut();
    let free = |slot: &&AtomicPtr<Shared>| {
        // Release: `shared` is complete. Nothing is read through a failure.
        slot.compare_exchange(ptr::null_mut(), here, Ordering::Release, Ordering::Relaxed).is_ok()
    };
    SESSIONS_HERE.iter().find(free).map(drop).ok_or(Error::Sessions(SESSIONS))
}

/// Takes a session out; afterwards no handler uses it.
pub(crate) fn unregister(shared: &Shared) {
    let here = ptr::from_ref(shared).cast_mut();
    for slot in &SESSIONS_HERE {
        // SeqCst, with the load and the counter in `each`: either that finds the slot empty, or
        // the loop below finds it counted.
        let _ = slot.compare_exchange(here, ptr::null_mut(), Ordering::SeqCst, Ordering::Relaxed);
    }
    while LOOKING.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
}

pub(crate) fn each(f: impl Fn(&Shared)) {
    LOOKING.fetch_add(1, Ordering::SeqCst);
    for slot in &SESSIONS_HERE {
        // SAFETY: registered sessions are alive, and stay so while this thread is counted.
        if let Some(shared) = unsafe { slot.load(Ordering::SeqCst).as_ref() } {
            f(shared);
        }
    }
    LOOKING.fetch_sub(1, Ordering::SeqCst);
}

extern "C" fn before() {
    pieces::before_fork();
    each(|s| {
        // What a process in another's memory makes counts for itself, later.
        let pending = s.seated().filter(|seat| !seat.is_guest()).and_then(|seat| {
            let (any, without) = pieces::inherited(s);
            // Failing, the child counts its attachments itself with its first call.
            any.then(|| announce(s, seat, without).ok()).flatten()
        });
        if pending.is_some() {
            s.lanes.thread().pending.set(pending);
        }
    });
}

extern "C" fn in_parent() {
    each(|s| {
        if s.seated().is_some() {
            drop(s.lanes.thread().pending.take());
        }
    });
    pieces::after_fork();
}

extern "C" fn in_child() {
    // Whoever else was counted does not exist here.
    LOOKING.store(0, Ordering::SeqCst);
    interrupt::in_child();
    sharing::in_child();
    each(|s| {
        s.state.reopen();
        s.link.reopen();
        let mut state = s.state.lock();
        state.alone();
        if state.seat.is_none() {
            return;
        }
        drop(state);
        let pending = s.lanes.thread().pending.take();
        if s.lanes.thread().in_call() {
            s.leave_parents_calls();
            return;
        }
        s.lanes.forget();
        s.link.lock().hang_up();
        if let Some(pending) = pending {
            be_born(s, pending);
        }
    });
    pieces::in_child();
    pieces::after_fork();
}

/// Step 1.
fn announce(s: &Shared, seat: &Seat, without: impl Fn(u32, u32) -> u32) -> Result<Pending> {
    let r = &seat.region;
    let mut entered = s.lanes.enter(seat)?;
    let lane = entered.lane();
    let me = r.task(seat.task.index)?;
    let comm = me.as_ref().map_or("", |t| &t.comm);
    let uid = me.as_ref().map_or(0, |t| t.uid);
    let new = NewTask { peer: seat.peer, pid: seat.pid, start: 0, uid, comm, state: task::CLAIMED };
    let child = r.claim_task(lane, &new)?.ok_or(vshmem_sysv::Errno::ENOSPC)?;
    let give_back = |lane: &mut _, e: Error| {
        let _ = reap::task(r, lane, child);
        Err(e)
    };
    if let Err(e) = shm::inherit(r, lane, seat.task, child, without) {
        return give_back(lane, e.into());
    }
    let ask = Request { op: Op::Fork, a: child.index.into(), b: child.incarnation };
    let sent = link::pair().and_then(|(near, far)| Ok((Fd::adopt(near)?, far)));
    let (near, far) = match sent {
        Ok(ends) => ends,
        Err(e) => return give_back(lane, Error::Segment(e)),
    };
    match s.link.lock().ask(&ask, Some(far.as_raw_fd())) {
        Ok(_) => Ok(Pending { task: child, near }),
        Err(e) => give_back(lane, e),
    }
}

/// Step 3.
fn be_born(s: &Shared, pending: Pending) {
    let mut state = s.state.lock();
    let Some(parent) = state.seat else { return };
    // SAFETY: kept by the state; this process's copy of it.
    let parent = unsafe { parent.as_ref() };
    if s.link.lock().hello(pending.near).is_err() {
        // The endpoint will free the task; the first call attaches.
        return;
    }
    let region =
        Region::with_geometry(parent.region.mem().inherited(), parent.region.geometry().clone());
    region.mem().enter(region.geometry());
    let seat = Seat::new(region, pending.task, parent.peer, &Ids::read());
    s.take(&mut state, seat);
}
