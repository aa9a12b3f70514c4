//! Sleeping on words of attached segments, and waking who sleeps there: a futex that reaches other
//! kernels.

use crate::error::Result;
use crate::interrupt;
use crate::objects::Attached;
use crate::session::{Seat, Session, Shared};
use crate::whereabouts;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use vshmem_core::task::{Identity, TaskId};
use vshmem_sysv::park::{self, Key, Limits};
use vshmem_sysv::{Errno, Error};

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slept {
    /// Somebody woke it, or for no reason: look at the word.
    Maybe,
    /// The deadline passed.
    TimedOut,
    /// A signal handler ran.
    Interrupted {
        /// Every handler that ran was installed with SA_RESTART.
        restart: bool,
    },
}

/// A place in an attached segment.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    shared: &'a Shared,
    key: Key,
}

impl Spot<'static> {
    /// The place at address `at`, if a segment is attached there. Costs two loads where none is near.
    ///
    /// # Safety
    /// The session it was attached through lives as long as the spot is used.
    #[inline]
    #[must_use]
    pub unsafe fn at(at: usize) -> Option<Self> {
        let found = whereabouts::find(at)?;
        // SAFETY: the session lives, as the caller promises.
        Some(Self { shared: unsafe { &*found.shared }, key: found.key })
    }
}

impl Spot<'_> {
    /// The place `n` bytes further on.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self { key: self.key.plus(n), ..self }
    }

    /// The segment, and the place in it.
    #[must_use]
    pub const fn key(&self) -> Key {
        self.key
    }

    fn seat(&self) -> Result<&Seat> {
        self.shared.seat()
    }

    /// The segment's id.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn segment_id(&self) -> Result<i32> {
        Ok(park::segment_id(&self.seat()?.region, self.key))
    }

    /// Nanoseconds of the clock that deadlines are measured with.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn now(&self) -> Result<u64> {
        Ok(vshmem_core::mem::Park::now(self.seat()?.region.mem()))
    }

    /// The calling process's task.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn task(&self) -> Result<TaskId> {
        Ok(self.seat()?.task)
    }

    /// The calling thread, to others in this region; nobody where the process cannot attach.
    #[inline]
    #[must_use]
    pub fn thread(&self) -> Identity {
        let of = |seat: &Seat| Identity::new(seat.peer, interrupt::thread_id(seat.pid));
        match self.shared.seated() {
            Some(seat) => of(seat),
            None => self.seat().map_or(Identity(0), of),
        }
    }

    /// The incarnation of the task in slot `index`, while it lives.
    ///
    /// # Errors
    /// There is no such slot, or the process cannot attach.
    pub fn living_task(&self, index: u32) -> Result<Option<u64>> {
        use vshmem_core::layout::task::{CLAIMED, LIVE};
        let (state, incarnation) = self.seat()?.region.task_state(index)?;
        Ok(matches!(state, CLAIMED | LIVE).then_some(incarnation))
    }

    /// Sleeps while `still` says so: until woken, late, interrupted, or for no reason, at the latest
    /// after a second.
    ///
    /// # Errors
    /// The process cannot attach, or has no lane for this thread.
    ///
    /// # If the caller dies
    /// It sleeps no more; a wake that it was given goes to the next.
    pub fn wait(&self, limits: Limits, still: impl Fn() -> bool) -> Result<Slept> {
        let seat = self.seat()?;
        let waiting = interrupt::Waiting::begin(interrupt::Call::Park, seat.pid);
        let mut entered = self.shared.lanes.enter(seat)?;
        match park::wait(&seat.region, entered.lane(), seat.caller(), self.key, limits, still) {
            Ok(()) => Ok(Slept::Maybe),
            Err(Error::Errno(Errno::EAGAIN)) => Ok(Slept::TimedOut),
            Err(Error::Errno(Errno::EINTR)) => {
                Ok(Slept::Interrupted { restart: waiting.restarts() })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Wakes the `n` that have waited longest; how many there were. To be called after the change
    /// that they wait for. Costs next to nothing when there is none.
    ///
    /// # Errors
    /// As [`Spot::wait`].
    #[inline]
    pub fn wake(&self, n: u32) -> Result<u32> {
        let seat = self.seat()?;
        if !park::anyone(&seat.region, self.key)? {
            return Ok(0);
        }
        let mut entered = self.shared.lanes.enter(seat)?;
        Ok(park::wake(&seat.region, entered.lane(), self.key, n)?)
    }
}

impl Session {
    /// Has every thread of this process that sleeps on a [`Spot`] of this session look again, at its
    /// word or at whether it was cancelled.
    ///
    /// # Errors
    /// As [`Spot::wait`].
    pub fn nudge(&self) -> Result<()> {
        let Some(seat) = self.shared().seated() else { return Ok(()) };
        let mut entered = self.shared().lanes.enter(seat)?;
        Ok(park::nudge_own(&seat.region, entered.lane(), seat.caller())?)
    }
}

/// Words on which processes of all kernels can sleep.
impl Attached<'_> {
    /// The 32-bit word at `at`, for atomics.
    ///
    /// # Panics
    /// It is outside the segment or not a multiple of 4, or the segment was attached for reading.
    #[must_use]
    pub fn word(&self, at: usize) -> &AtomicU32 {
        assert!(!self.read_only, "a segment attached for reading");
        assert!(at.is_multiple_of(4), "a word at {at}");
        self.inside(at, 4);
        // SAFETY: inside the mapping, which begins at a page and lives as long as `self`; other
        // processes may write it, as atomics allow.
        unsafe { &*self.as_ptr().add(at).cast::<AtomicU32>() }
    }

    fn spot(&self, at: usize) -> Result<Spot<'static>> {
        // SAFETY: used below only, while `self` borrows the session.
        let spot = unsafe { Spot::at(self.as_ptr() as usize + at) };
        spot.ok_or_else(|| Errno::EINVAL.into())
    }

    /// Sleeps while the word at `at` is `expected`, for `timeout` at most: a futex whose waker may be
    /// on another kernel. `true`: look at the word again (somebody woke it, it had changed, or for no
    /// reason); `false`: it is late.
    ///
    /// # Errors
    /// EINTR when a signal handler ran; or the process has no lane for this thread.
    ///
    /// # Panics
    /// As [`Attached::word`].
    ///
    /// # If the caller dies
    /// A wake that it was given and may not have acted on goes to the next sleeper.
    pub fn wait_on(&self, at: usize, expected: u32, timeout: Option<Duration>) -> Result<bool> {
        let word = self.word(at);
        let spot = self.spot(at)?;
        let deadline = timeout.map(|t| self.session.deadline(t)).transpose()?;
        // Acquire: what the waker did before it changed the word is seen.
        let still = || word.load(Ordering::Acquire) == expected;
        match spot.wait(Limits { deadline, owner: None }, still)? {
            Slept::Maybe => Ok(true),
            Slept::TimedOut => Ok(false),
            Slept::Interrupted { .. } => Err(Errno::EINTR.into()),
        }
    }

    /// Wakes the `n` that have slept longest on the word at `at`; how many there were. To be called
    /// after changing the word; costs next to nothing when nobody sleeps.
    ///
    /// # Errors
    /// The process has no lane for this thread.
    ///
    /// # If the caller dies
    /// They look at the word by themselves within a second.
    pub fn wake(&self, at: usize, n: u32) -> Result<u32> {
        self.inside(at, 4);
        self.spot(at)?.wake(n)
    }
}
