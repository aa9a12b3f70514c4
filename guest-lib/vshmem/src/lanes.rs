//! Which lane a thread runs its calls on.
//!
//! A thread needs one; a signal handler that interrupts a call and makes calls of its own needs
//! another, because the first is in the middle of a transaction. So every thread has a small stack
//! of lanes, claimed when first needed and given back when the thread ends.
//!
//! A handler may also jump out (`siglongjmp`) and never come back. Its lane is recognised by the
//! frame it was entered from: when a call comes from a frame that lies above, the one below is gone.

use crate::error::{Error, Result};
use crate::fork::Pending;
use crate::session::Seat;
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering, compiler_fence};
use vshmem_core::Lane;
use vshmem_core::layout::Table;
use vshmem_core::task::Owner;

/// Calls nested in one thread for which there is room from the start; for more, room is made.
const DEPTH: usize = 8;
/// Frames further apart than this are on different stacks.
const STACK: usize = 1 << 20;

struct Slot {
    lane: UnsafeCell<Option<Lane>>,
    frame: Cell<usize>,
}

/// Lanes of some nested calls, and those of calls nested deeper.
struct Slots {
    here: [Slot; DEPTH],
    /// A handler may come while this is set: whoever swaps wins.
    more: AtomicPtr<Slots>,
}

impl Slots {
    fn new() -> Self {
        let slot = |_| Slot { lane: UnsafeCell::new(None), frame: Cell::new(0) };
        Self { here: std::array::from_fn(slot), more: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Those of the calls nested deeper, if there were any.
    fn next(&self) -> Option<&Self> {
        // SAFETY: null, or made by `at`, and freed with `self` only. Relaxed: of the same thread.
        unsafe { self.more.load(Ordering::Relaxed).as_ref() }
    }

    /// The slot of a call at depth `at`.
    #[inline]
    fn at(&self, at: usize) -> &Slot {
        self.here.get(at).unwrap_or_else(|| self.deep(at))
    }

    #[cold]
    fn deep(&self, at: usize) -> &Slot {
        let mut slots = self;
        for _ in 0..at / DEPTH {
            slots = slots.next().unwrap_or_else(|| {
                let new = Box::into_raw(Box::new(Self::new()));
                let (null, order) = (ptr::null_mut(), Ordering::Relaxed);
                let at = match slots.more.compare_exchange(null, new, order, order) {
                    Ok(_) => new,
                    Err(other) => {
                        // SAFETY: made above, and shown to nobody.
                        drop(unsafe { Box::from_raw(new) });
                        other
                    }
                };
                // SAFETY: made by a box, now or by a handler, and freed with `self` only.
                unsafe { &*at }
            });
        }
        &slots.here[at % DEPTH]
    }

    /// All of them, the outermost first.
    fn all(&self) -> impl Iterator<Item = &Slot> {
        std::iter::successors(Some(self), |s| s.next()).flat_map(|s| &s.here)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let more = *self.more.get_mut();
        if !more.is_null() {
            // SAFETY: made by `at`.
            drop(unsafe { Box::from_raw(more) });
        }
    }
}

/// One thread's lanes.
pub(crate) struct Thread {
    seat: Cell<*const Seat>,
    depth: Cell<usize>,
    slots: Slots,
    /// The child being made by the `fork` this thread is in.
    pub pending: Cell<Option<Pending>>,
}

/// The threads' lanes of one session.
#[derive(Debug)]
pub(crate) struct Lanes {
    key: libc::pthread_key_t,
}

/// A lane in use; given back when dropped.
pub(crate) struct Entered<'a> {
    thread: &'a Thread,
    at: usize,
    /// Whether a call may be left by unwinding: then it is as if a handler had jumped out of it.
    unwinds: bool,
}

impl Lanes {
    pub fn new() -> std::io::Result<Self> {
        let mut key = 0;
        // SAFETY: room for the key; `end` takes what `thread` stores.
        match unsafe { libc::pthread_key_create(&raw mut key, Some(end)) } {
            0 => Ok(Self { key }),
            e => Err(std::io::Error::from_raw_os_error(e)),
        }
    }

    /// The calling thread's lanes, of whichever process it was in last.
    pub fn thread(&self) -> &Thread {
        // SAFETY: the key exists as long as `self`.
        let mut at = unsafe { libc::pthread_getspecific(self.key) }.cast::<Thread>();
        if at.is_null() {
            at = Box::into_raw(Box::new(Thread {
                seat: Cell::new(ptr::null()),
                depth: Cell::new(0),
                slots: Slots::new(),
                pending: Cell::new(None),
            }));
            // SAFETY: as above. Without memory for it the lanes are lost with this call, and the
            // task's reaper finds them.
            unsafe { libc::pthread_setspecific(self.key, at.cast()) };
        }
        // SAFETY: made above, now or earlier, and freed only by `end`, at the thread's end.
        unsafe { &*at }
    }

    /// Takes a lane of `seat` for one call of the calling thread.
    pub fn enter<'a>(&'a self, seat: &'a Seat) -> Result<Entered<'a>> {
        let thread = seat.lanes(self).thread();
        if !ptr::eq(thread.seat.get(), seat) {
            // Another process's: forgotten, not released.
            thread.forget();
            thread.seat.set(seat);
        }
        let here = ptr::from_ref(&thread).addr();
        if thread.depth.get() > 0 {
            thread.abandon_below(seat, here)?;
        }
        let at = thread.depth.get();
        let slot = thread.slots.at(at);
        slot.frame.set(here);
        thread.depth.set(at + 1);
        // A handler that comes from here on takes the next slot.
        compiler_fence(Ordering::SeqCst);
        let entered = Entered { thread, at, unwinds: false };
        // SAFETY: slot `at` belongs to this call until `entered` is dropped.
        let lane = unsafe { &mut *slot.lane.get() };
        let new = lane.is_none();
        if new {
            *lane = seat.region.claim_lane(Owner::Task(seat.task))?;
            if lane.is_none() {
                return Err(Error::Lanes(seat.region.table(Table::Lanes).count));
            }
        }
        // After the claim: whoever shuts the task out marks it first, and then looks for its lanes.
        if let Err(shut_out) = seat.region.check_task(seat.task) {
            if let Some(unused) = lane.take_if(|_| new) {
                seat.region.release_lane(unused.id(), Owner::Task(seat.task))?;
            }
            return Err(if shut_out.is_fenced() { Error::Fenced } else { shut_out.into() });
        }
        Ok(entered)
    }

    /// Gives the calling thread new lanes. The old ones are kept for the calls that still use them.
    pub fn renew(&self) {
        // SAFETY: the key exists as long as `self`.
        unsafe { libc::pthread_setspecific(self.key, ptr::null()) };
        self.thread();
    }

    /// Leaves the calling thread without lanes, and without giving them back: they are gone.
    pub fn forget(&self) {
        self.thread().forget();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let mine = ptr::from_ref(self.thread()).cast_mut();
        // SAFETY: the key is this session's own. Other threads' lanes go with the task.
        unsafe { libc::pthread_key_delete(self.key) };
        // SAFETY: made by `thread`; nothing refers to it any more.
        drop(unsafe { Box::from_raw(mine) });
    }
}

impl Entered<'_> {
    /// Runs `f`, out of which the thread may be cancelled, or end in a handler.
    pub fn run<T>(&mut self, f: impl FnOnce(&mut Lane) -> T) -> T {
        self.unwinds = true;
        let done = f(self.lane());
        self.unwinds = false;
        done
    }

    /// The lane.
    pub fn lane(&mut self) -> &mut Lane {
        // SAFETY: slot `at` belongs to `self`, which is borrowed mutably; handlers that interrupt
        // take higher ones.
        let lane = unsafe { &mut *self.thread.slots.at(self.at).lane.get() };
        lane.as_mut().expect("`enter` claimed it")
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.unwinds {
            // What the lane has begun is taken back by the next call from above, or at the end.
            return;
        }
        compiler_fence(Ordering::SeqCst);
        self.thread.depth.set(self.at);
    }
}

impl Thread {
    /// Whether a call is under way: then this is a handler's doing.
    pub fn in_call(&self) -> bool {
        self.depth.get() > 0
    }

    /// The lanes of the calls under way.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        let slots = self.slots.all().take(self.depth.get());
        // SAFETY: of the calling thread, which only reads numbers of them.
        slots.filter_map(|s| unsafe { &*s.lane.get() }.as_ref())
    }

    fn forget(&self) {
        self.depth.set(0);
        for slot in self.slots.all() {
            // SAFETY: the lanes belong to another process by now; no call of this one uses them.
            unsafe { *slot.lane.get() = None };
        }
    }

    /// Takes back the lanes of calls whose frames no longer exist.
    fn abandon_below(&self, seat: &Seat, here: usize) -> Result<()> {
        let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: only asks.
        unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) };
        // SAFETY: zeroed, then filled by the call.
        let stack = unsafe { stack.assume_init() };
        let alternate = stack.ss_sp.addr()..stack.ss_sp.addr().saturating_add(stack.ss_size);
        let on_alternate = stack.ss_flags & libc::SS_ONSTACK != 0;
        while let Some(at) = self.depth.get().checked_sub(1) {
            let slot = self.slots.at(at);
            let frame = slot.frame.get();
            let gone = match (on_alternate, alternate.contains(&frame)) {
                (false, true) => true,
                (true, false) => false,
                _ => frame <= here && here - frame < STACK,
            };
            if !gone {
                break;
            }
            // SAFETY: the call that used this slot will never run again.
            if let Some(lane) = unsafe { &mut *slot.lane.get() } {
                vshmem_sysv::abandon(&seat.region, lane)?;
            }
            self.depth.set(at);
        }
        Ok(())
    }
}

/// The end of a thread: its lanes go back.
extern "C" fn end(thread: *mut libc::c_void) {
    // SAFETY: what `Lanes::thread` stored, handed back by the C library exactly once.
    let thread = unsafe { Box::from_raw(thread.cast::<Thread>()) };
    // SAFETY: seats are never freed while their session lives, and a session deletes its key first.
    let Some(seat) = (unsafe { thread.seat.get().as_ref() }) else { return };
    if !seat.is_current() {
        return;
    }
    for slot in thread.slots.all() {
        // SAFETY: no call of this thread runs any more.
        let Some(mut lane) = (unsafe { &mut *slot.lane.get() }).take() else { continue };
        // The thread may have ended inside a call. A region too corrupt for this is the reaper's to
        // report.
        let _ = vshmem_sysv::release(&seat.region, &mut lane, Owner::Task(seat.task));
    }
}
