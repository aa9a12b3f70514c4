//! A signal handler that runs while a call waits ends the call with EINTR, as in the kernel.
//!
//! A system call that sleeps is interrupted by the kernel. But a call of ours also waits in this
//! process: it spins, queues its lane, and is on its way into the sleep. A handler that runs then
//! would go unnoticed, and the call would sleep on. So handlers are counted, per thread, and a call
//! does not sleep once the count differs from what it was when the call began:
//!
//! - From the first call that may wait on, [`trampoline`] stands in for every handler of the
//!   process: it counts, and goes on to the program's own. Before that nothing is touched.
//! - Between the comparison and the system call there is an instruction's time. A handler that
//!   interrupts there, or the system call itself, has the trampoline move the interrupted program
//!   to the place that returns EINTR ([`sleep()`]).
//!
//! The kernel's disposition stays the truth: flags and mask are the program's, so SA_RESETHAND,
//! SA_NODEFER, SA_ONSTACK and the rest are the kernel's work. Only SA_SIGINFO is added, without
//! which the trampoline would not learn what was interrupted. Whoever takes the C library's
//! `sigaction` and `signal` into their hands ([`Signals`]) sees to it that programs set and get
//! their own handlers. A handler installed by other means (a direct system call) is found when it
//! first interrupts a sleep; until then what it does to a call that is about to sleep goes unseen.

mod action;
mod cancel;
mod sleep;
mod stop;

use crate::lanes::Lanes;
use crate::lock::{Lock, Quiet};
use crate::session::Seat;
use crate::user::{self, fault};
pub(crate) use action::{Action, DEFAULT, RESTORER, restorer};
pub(crate) use cancel::Cancel;
use libc::{c_int, c_void, siginfo_t};
pub(crate) use sleep::{interrupted_at, sleep};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence,
};
pub(crate) use stop::Ends;
use vshmem_core::LaneId;

/// Signals are numbered from 1 to here.
const LAST: c_int = 64;

/// What a thread keeps for its handlers. Only the thread itself and its handlers touch it: relaxed
/// atomics, so that each access is one.
#[repr(C)]
struct Thread {
    /// Handlers run.
    count: AtomicU64,
    /// The count when the current call began.
    entry: AtomicU64,
    /// The current [`Call`]; 0 for none.
    call: AtomicU32,
    /// Whether this thread counts in [`stop`].
    stoppable: AtomicU32,
    /// Handlers run during a [`Call::Park`] that were installed without SA_RESTART.
    plain: AtomicU64,
    /// The thread's number, once it was asked for in process `pid`.
    id: AtomicU32,
    pid: AtomicU32,
    /// Whether our own handler of SIGCONT ran where nothing is to end.
    unheard: AtomicU32,
    /// What is known of its signal mask: see [`user`].
    mask: AtomicU32,
    /// What the current call needs to be ended, once it has a lane; the seat is null before that.
    /// Kept by value: a jump may have left the call, and its frame.
    lanes: AtomicPtr<Lanes>,
    seat: AtomicPtr<Seat>,
    lane: AtomicU32,
}

/// The call that a handler interrupts.
struct Interrupted {
    lanes: *mut Lanes,
    seat: *mut Seat,
    lane: u32,
}

impl Interrupted {
    fn of(thread: &Thread) -> Self {
        let seat = thread.seat.swap(ptr::null_mut(), Ordering::Relaxed);
        let (lanes, lane) = (&thread.lanes, &thread.lane);
        Self { lanes: lanes.load(Ordering::Relaxed), seat, lane: lane.load(Ordering::Relaxed) }
    }

    /// It waits no more, whatever the handler does.
    fn end(&self) {
        // SAFETY: null, or of a session in which this thread is in a call.
        let Some(seat) = (unsafe { self.seat.as_ref() }) else { return };
        if !seat.is_current() {
            // Of a parent that forked in a handler.
            return;
        }
        // SAFETY: of the same session.
        let lanes = unsafe { &*self.lanes };
        // A handler of another signal finds the call ended, or ends it.
        let _quiet = Quiet::new();
        // Without a lane the call ends all the same, when the handler has returned.
        let Ok(mut entered) = lanes.enter(seat) else { return };
        let _ = vshmem_sysv::interrupt(&seat.region, entered.lane(), LaneId(self.lane));
    }

    /// The handler returns to it.
    fn back(&self, thread: &Thread) {
        thread.lanes.store(self.lanes, Ordering::Relaxed);
        thread.lane.store(self.lane, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        thread.seat.store(self.seat, Ordering::Relaxed);
    }
}

/// Where the mask is in it, for the few instructions that look there themselves.
pub(crate) const MASK_AT: usize = offset_of!(Thread, mask);

/// What the calling thread knows of its mask.
pub(crate) fn mask() -> &'static AtomicU32 {
    &sleep::thread().mask
}

/// Calls that may wait. They differ in what happens to their sleep when the process is stopped and
/// continued without any handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// It ends with EINTR.
    Semop = 1,
    /// It goes on.
    Message = 2,
    /// As before; and which handlers ran decides whether it begins anew: [`Waiting::restarts`].
    Park = 3,
}

/// The program's own handlers by signal; 0 where it never had one that the trampoline stood for.
static HANDLERS: [AtomicUsize; LAST as usize + 1] =
    [const { AtomicUsize::new(0) }; LAST as usize + 1];
/// Those of them that were installed with SA_SIGINFO, by bit.
static SIGINFO: AtomicU64 = AtomicU64::new(0);
/// The process whose handlers are counted; 0 before the first call that waits.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// Whether [`fault`] is to stand before the program as well.
static GUARD: AtomicBool = AtomicBool::new(false);
/// Held while dispositions change.
pub(crate) static CHANGING: Lock<()> = Lock::new(());

/// A handler of the program, as it was set.
#[derive(Clone, Copy)]
struct Own {
    handler: usize,
    siginfo: bool,
}

impl Own {
    fn of(signal: c_int) -> Self {
        Self {
            handler: HANDLERS[signal as usize].load(Ordering::Relaxed),
            siginfo: SIGINFO.load(Ordering::Relaxed) >> (signal - 1) & 1 != 0,
        }
    }

    /// Makes it what the trampoline calls for `signal`.
    fn set(self, signal: c_int) {
        let bit = 1 << (signal - 1);
        if self.siginfo {
            SIGINFO.fetch_or(bit, Ordering::Relaxed);
        } else {
            SIGINFO.fetch_and(!bit, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in the trampoline, so that it finds the handler's own
        // preparations as the kernel would let it.
        HANDLERS[signal as usize].store(self.handler, Ordering::Release);
    }
}

fn trampoline_address() -> usize {
    trampoline as *const () as usize
}

/// A handler that stands before the program's, or where it has none.
fn is_ours(at: usize) -> bool {
    at == trampoline_address() || at == stop::address()
}

/// A function, rather than nothing or something special.
pub(crate) fn is_handler(at: usize) -> bool {
    at != libc::SIG_DFL && at != libc::SIG_IGN
}

/// Signals whose handlers are the C library's own affair: `pthread_cancel`, `setuid`.
fn is_internal(signal: c_int) -> bool {
    (32..34).contains(&signal)
}

/// Runs in place of every handler.
///
/// "C-unwind": the C library unwinds through it when a thread is cancelled or ends in a handler.
///
/// # Safety
/// Called by the kernel, or by a handler that stands before it, with what the kernel gave.
unsafe extern "C-unwind" fn trampoline(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // Acquire: see `Own::set`.
    let at = HANDLERS.get(signal as usize).map_or(0, |h| h.load(Ordering::Acquire));
    // SAFETY: as the caller promises.
    unsafe { run(at, signal, info, context) };
}

/// Runs the program's handler at `at`, if it has one, as one that is counted.
///
/// # Safety
/// As for [`trampoline`]; `at` is a handler, or none.
pub(crate) unsafe fn run(at: usize, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let thread = sleep::thread();
    thread.count.fetch_add(1, Ordering::Relaxed);
    if signal == libc::SIGCONT && is_handler(at) {
        stop::all_end();
    }
    if thread.call.load(Ordering::Relaxed) == Call::Park as u32 && !restarts(signal) {
        thread.plain.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the kernel's context.
    unsafe { sleep::leave(context) };
    // The call will not sleep on, and the handler may never return to it.
    stop::over(thread);
    let call = Interrupted::of(thread);
    call.end();
    // It runs with another mask, and may return to another one.
    user::mask_changed();
    if is_handler(at) {
        // SAFETY: a handler takes these arguments, or only the first of them, for which the
        // calling convention is the same.
        let handler: unsafe extern "C-unwind" fn(c_int, *mut siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(at) };
        // SAFETY: the kernel would have called it, with the same.
        unsafe { handler(signal, info, context) };
        user::mask_changed();
    }
    // It may have been about to wait, and another handler may come.
    call.back(thread);
}

/// Puts the trampoline in front of the handler that the kernel has for `signal`. Says whether it
/// has one that goes uncounted: after the trampoline stood there once, a stranger's handler may
/// itself lead back to the trampoline, and is let be (unless `known`: the program has just set it).
fn adopt(signal: c_int, known: bool) -> bool {
    if fault::is_guarded(signal) && GUARD.load(Ordering::Relaxed) {
        fault::adopt(signal, known);
        return false;
    }
    let Some(mut now) = Action::of(signal) else { return false };
    if !is_handler(now.handler) {
        return false;
    }
    let siginfo = now.flags & libc::SA_SIGINFO as u64 != 0;
    if now.handler == stop::address() {
        return false;
    }
    if now.handler == trampoline_address() {
        if siginfo {
            return false;
        }
    } else if !known && Own::of(signal).handler != 0 {
        return true;
    } else {
        Own { handler: now.handler, siginfo }.set(signal);
    }
    now.handler = trampoline_address();
    now.flags |= libc::SA_SIGINFO as u64;
    now.set(signal);
    true
}

/// Looks at all dispositions; whether any handler went uncounted.
fn adopt_all() -> bool {
    (1..=LAST).filter(|s| !is_internal(*s) && adopt(*s, false)).count() > 0
}

/// Counts handlers from now on.
#[cold]
fn activate(pid: u32) {
    let _changing = CHANGING.lock();
    adopt_all();
    // Release: the table is there for whoever finds this.
    OWNER.store(pid, Ordering::Release);
}

/// The process has become `pid`, a task of a region.
pub(crate) fn attached(pid: u32) {
    if GUARD.load(Ordering::Relaxed) && OWNER.load(Ordering::Acquire) != pid {
        activate(pid);
    }
}

/// A child has its parent's handlers, and its parent's table.
pub(crate) fn in_child() {
    CHANGING.reopen();
    stop::in_child(sleep::thread());
    if OWNER.load(Ordering::Relaxed) != 0 {
        OWNER.store(std::process::id(), Ordering::Release);
    }
}

/// Whether this process counts. A child made by `vfork` shares the memory, but not the
/// dispositions: it is not the owner.
fn is_active() -> bool {
    // Acquire: pairs with the Release in `activate`.
    let owner = OWNER.load(Ordering::Acquire);
    owner != 0 && owner == std::process::id()
}

/// A call under way, while it lives; handlers that run from here on end its sleep.
pub(crate) struct Waiting {
    before: (u64, u32),
    plain: u64,
}

impl Waiting {
    /// Begins `call` in process `pid`.
    pub fn begin(call: Call, pid: u32) -> Self {
        if OWNER.load(Ordering::Acquire) != pid {
            activate(pid);
        }
        let thread = sleep::thread();
        let order = Ordering::Relaxed;
        let before = (thread.entry.load(order), thread.call.load(order));
        // One that was left by a jump.
        thread.seat.store(ptr::null_mut(), order);
        thread.entry.store(thread.count.load(order), order);
        thread.call.store(call as u32, order);
        Self { before, plain: thread.plain.load(order) }
    }

    /// Whether a call that the kernel restarts after handlers with SA_RESTART is to begin anew, now
    /// that it was interrupted.
    pub fn restarts(&self) -> bool {
        interrupted() && sleep::thread().plain.load(Ordering::Relaxed) == self.plain
    }

    /// The call has got `lane`, on which it may wait until [`Waiting::over`].
    pub fn on(&self, lanes: &Lanes, seat: &Seat, lane: LaneId) {
        let thread = sleep::thread();
        thread.lanes.store(ptr::from_ref(lanes).cast_mut(), Ordering::Relaxed);
        thread.lane.store(lane.0, Ordering::Relaxed);
        // A handler that finds the seat finds the rest.
        compiler_fence(Ordering::SeqCst);
        thread.seat.store(ptr::from_ref(seat).cast_mut(), Ordering::Relaxed);
    }

    /// The call waits no more, and gives up its lane.
    pub fn over(&self) {
        sleep::thread().seat.store(ptr::null_mut(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let thread = sleep::thread();
        thread.entry.store(self.before.0, Ordering::Relaxed);
        thread.call.store(self.before.1, Ordering::Relaxed);
    }
}

/// Names the calling thread, and it alone; not 0.
pub(crate) fn this_thread() -> usize {
    std::ptr::from_ref(sleep::thread()).addr()
}

/// Whether the sleep of this thread is one of `semop`.
pub(crate) fn in_semop() -> bool {
    sleep::thread().call.load(Ordering::Relaxed) == Call::Semop as u32
}

/// Whether the sleep of this thread is one of `msgsnd` or `msgrcv`.
pub(crate) fn in_message() -> bool {
    sleep::thread().call.load(Ordering::Relaxed) == Call::Message as u32
}

/// Whether a handler has run on this thread since its call began.
pub(crate) fn interrupted() -> bool {
    let thread = sleep::thread();
    thread.call.load(Ordering::Relaxed) != 0
        && thread.count.load(Ordering::Relaxed) != thread.entry.load(Ordering::Relaxed)
}

/// Whether the handler of `signal` is installed with SA_RESTART.
fn restarts(signal: c_int) -> bool {
    Action::of(signal).is_some_and(|a| a.flags & libc::SA_RESTART as u64 != 0)
}

/// The number of the calling thread of process `pid`, as the kernel knows it.
#[inline]
pub(crate) fn thread_id(pid: u32) -> u32 {
    let thread = sleep::thread();
    if thread.pid.load(Ordering::Relaxed) == pid {
        return thread.id.load(Ordering::Relaxed);
    }
    // SAFETY: cannot fail.
    let id = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
    thread.id.store(id, Ordering::Relaxed);
    thread.pid.store(pid, Ordering::Relaxed);
    id
}

/// Whether what has just interrupted this thread's sleep was only our own handler of SIGCONT.
pub(crate) fn unheard() -> bool {
    sleep::thread().unheard.swap(0, Ordering::Relaxed) != 0
}

/// Whether some handler is uncounted, and may have run; those that can be are counted from now on.
#[cold]
pub(crate) fn uncounted() -> bool {
    let _changing = CHANGING.lock();
    adopt_all()
}

/// For a library that has taken the C library's functions for signals into its hands: through it a
/// program sets and sees its own handlers, whatever stands in front of them.
#[derive(Debug)]
pub struct Signals;

impl Signals {
    /// From the first attachment on, calls that are given a bad address fail with EFAULT instead of
    /// ending the program ([`crate::user`]). To be called before that, by a library that also
    /// passes on [`Signals::action`], [`Signals::handler`] and [`Signals::mask_changed`].
    pub fn guard() {
        GUARD.store(true, Ordering::Relaxed);
    }

    /// From now on the sleep of `msgsnd` and `msgrcv` is a place where a thread may be cancelled: it
    /// unwinds from there, through the functions that called.
    pub fn cancellation_points() {
        cancel::allow();
    }

    /// Tells that the calling thread may have another signal mask now.
    #[inline]
    pub fn mask_changed() {
        user::mask_changed();
    }

    /// `sigaction`; `next` is the C library's.
    ///
    /// # Safety
    /// As for `sigaction`: both pointers are null or valid, and the handler is one.
    pub unsafe fn action(
        signal: c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction,
        next: impl FnOnce(*const libc::sigaction, *mut libc::sigaction) -> c_int,
    ) -> c_int {
        if OWNER.load(Ordering::Relaxed) == 0 || !(1..=LAST).contains(&signal) {
            return next(new, old);
        }
        let changing = CHANGING.lock();
        if fault::is_guarded(signal) && GUARD.load(Ordering::Relaxed) && is_active() {
            // SAFETY: as the caller promises; copied before `old`, perhaps the same, is written.
            let new = (!new.is_null()).then(|| unsafe { *new });
            return match fault::action(signal, new, |new| next(new, std::ptr::null_mut())) {
                Err(rc) => rc,
                Ok(before) => {
                    // SAFETY: as the caller promises.
                    if let Some(old) = unsafe { old.as_mut() } {
                        fault::show(&before, old);
                    }
                    0
                }
            };
        }
        let before = Own::of(signal);
        let stand_in = |new: &libc::sigaction| {
            is_handler(new.sa_sigaction)
                && !is_ours(new.sa_sigaction)
                && !is_internal(signal)
                && is_active()
        };
        // SAFETY: as the caller promises; copied before `old`, perhaps the same, is written.
        let new_one = (!new.is_null()).then(|| unsafe { *new });
        let rc = match new_one {
            Some(mut action) if stand_in(&action) => {
                let siginfo = action.sa_flags & libc::SA_SIGINFO != 0;
                // First the table: the trampoline may already stand there.
                Own { handler: action.sa_sigaction, siginfo }.set(signal);
                action.sa_sigaction = trampoline_address();
                action.sa_flags |= libc::SA_SIGINFO;
                let rc = next(&raw const action, old);
                if rc != 0 {
                    before.set(signal);
                }
                rc
            }
            _ => next(new, old),
        };
        if let Some(new) = new_one
            && rc == 0
            && !is_handler(new.sa_sigaction)
        {
            let siginfo = new.sa_flags & libc::SA_SIGINFO != 0;
            Own { siginfo, ..before }.set(signal);
            stop::disposed(signal);
        }
        drop(changing);
        if rc == 0 && !old.is_null() {
            // SAFETY: the caller's, just written.
            let old = unsafe { &mut *old };
            if is_ours(old.sa_sigaction) {
                old.sa_sigaction = before.handler;
                if !is_handler(before.handler) {
                    // Ours alone: the program has none.
                    old.sa_flags = 0;
                }
            } else if old.sa_sigaction != libc::SIG_DFL {
                return rc;
            }
            // Of a handler that has run once, some kernels keep the flags.
            if is_handler(before.handler) && !before.siginfo {
                old.sa_flags &= !libc::SA_SIGINFO;
            }
        }
        rc
    }

    /// `signal` and its relatives, which return the handler before; `next` is the C library's.
    pub fn handler(signal: c_int, next: impl FnOnce() -> usize) -> usize {
        if OWNER.load(Ordering::Relaxed) == 0 || !(1..=LAST).contains(&signal) {
            return next();
        }
        // They set what flags they like, and some also the mask: ours is to come after.
        let guarded = fault::is_guarded(signal).then(|| fault::handler(signal)).flatten();
        let before = Own::of(signal);
        let old = next();
        if is_active() && !is_internal(signal) {
            let _changing = CHANGING.lock();
            if !adopt(signal, true) {
                stop::disposed(signal);
            }
        }
        match guarded {
            Some(before) if old == fault::address() => before,
            _ if is_ours(old) => before.handler,
            _ => old,
        }
    }
}
