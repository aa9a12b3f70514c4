//! Other processes in this address space.
//!
//! A child made by `vfork`, or by `clone` with `CLONE_VM`, runs in its parent's memory: it finds its
//! parent's session, and is nevertheless a process of its own, with adjustments of its own that are
//! undone when *it* ends. So while such a child may be about ([`Sharing::begin`] to
//! [`Sharing::end`]), sessions keep their seat out of sight, and every call asks who is calling: the
//! owner of the memory finds the seat, anybody else gets a seat, lanes and a connection of its own.
//! Attachments belong to the memory, and so to its owner, whoever attaches.

use crate::error::Result;
use crate::fork;
use crate::lock::Lock;
use crate::session::{Seat, Shared, State};
use crate::sys;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Such children that may be about.
static ABOUT: AtomicU32 = AtomicU32::new(0);
/// The process whose memory it is, while there are any.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// Those that nobody waits for with `vfork`: they end when their death is seen.
static LONG: Lock<Vec<u32>> = Lock::new(Vec::new());

/// For a library that has taken the C library's `vfork` and `clone` into its hands.
#[derive(Debug)]
pub struct Sharing;

impl Sharing {
    /// A child that shares this memory is about to be made.
    pub fn begin() {
        if ABOUT.fetch_add(1, Ordering::Relaxed) == 0 {
            OWNER.store(sys::pid(), Ordering::Relaxed);
        }
        fork::each(|s| s.state.lock().hide(s));
    }

    /// The child `pid` (0: there is none) has ended, or runs another program.
    pub fn end(pid: u32) {
        fork::each(|s| s.state.lock().show(s, pid));
        ABOUT.fetch_sub(1, Ordering::Relaxed);
    }

    /// The child `pid` goes on beside this process; when its death is seen, it has ended.
    pub fn goes_on(pid: u32) {
        LONG.lock().push(pid);
    }

    /// A child has died.
    pub fn died(pid: u32) {
        if ABOUT.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut long = LONG.lock();
        if let Some(at) = long.iter().position(|p| *p == pid) {
            long.swap_remove(at);
            drop(long);
            Self::end(pid);
        }
    }
}

/// Whether anybody else may be about.
pub(crate) fn is_shared() -> bool {
    ABOUT.load(Ordering::Relaxed) != 0
}

/// A child made by `fork` has its memory to itself.
pub(crate) fn in_child() {
    ABOUT.store(0, Ordering::Relaxed);
    LONG.reopen();
    LONG.lock().clear();
}

/// What a session keeps while others may be about.
#[derive(Debug, Default)]
pub(crate) struct Company {
    /// How many may be.
    about: u32,
    /// The owner of the memory, and its seat.
    owner: u32,
    seat: Option<NonNull<Seat>>,
    /// The others that made calls, by pid; 0 where one has ended. Never moved or freed: a call of
    /// theirs may be under way.
    #[allow(clippy::vec_box, reason = "their addresses are known")]
    others: Vec<(u32, Box<Shared>)>,
}

impl State {
    /// Puts the seat out of sight.
    fn hide(&mut self, shared: &Shared) {
        let company = &mut self.company;
        company.about += 1;
        if company.about == 1 {
            company.owner = OWNER.load(Ordering::Relaxed);
            company.seat = shared.set_current(None);
        }
    }

    /// For a session made while others are about.
    pub fn join(&mut self) {
        self.company.about = ABOUT.load(Ordering::Relaxed);
        self.company.owner = OWNER.load(Ordering::Relaxed);
    }

    fn show(&mut self, shared: &Shared, pid: u32) {
        let company = &mut self.company;
        for (whose, other) in &mut company.others {
            if *whose == pid && pid != 0 {
                *whose = 0;
                other.set_current(None);
                other.link.lock().leave_open();
            }
        }
        company.about = company.about.saturating_sub(1);
        if company.about == 0 {
            shared.set_current(company.seat.take());
        }
    }

    /// In a child made by `fork`.
    pub fn alone(&mut self) {
        let company = &mut self.company;
        (company.about, company.seat) = (0, None);
        for (whose, other) in &mut company.others {
            *whose = 0;
            other.link.reopen();
            other.link.lock().leave_open();
        }
    }

    /// Whether the seat is out of sight.
    pub fn is_hidden(&self) -> bool {
        self.company.about != 0
    }

    /// Sets the owner's seat, which is out of sight.
    pub fn set_hidden(&mut self, seat: Option<NonNull<Seat>>) {
        self.company.seat = seat;
    }

    /// The calling process's seat.
    pub fn seat_of_caller<'a>(&self, shared: &'a Shared) -> Option<&'a Seat> {
        if !self.is_hidden() {
            return shared.current();
        }
        if sys::pid() == self.company.owner {
            return self.owners_seat();
        }
        self.other()?.current()
    }

    /// The seat of the process whose memory it is, when it is out of sight.
    pub fn owners_seat<'a>(&self) -> Option<&'a Seat> {
        // SAFETY: a seat lives as long as its session.
        self.company.seat.map(|seat| unsafe { seat.as_ref() })
    }

    /// What the calling process has of its own, if it is not the owner and has made a call.
    pub fn other<'a>(&self) -> Option<&'a Shared> {
        if !self.is_hidden() {
            return None;
        }
        let pid = sys::pid();
        let found = self.company.others.iter().find(|(whose, _)| *whose == pid)?;
        // SAFETY: never moved or freed while the session lives.
        Some(unsafe { &*std::ptr::from_ref(&*found.1) })
    }

    /// The same, made if need be; `None` for the owner.
    pub fn other_or_new<'a>(&mut self, shared: &Shared) -> Result<Option<&'a Shared>> {
        let pid = sys::pid();
        if !self.is_hidden() || pid == self.company.owner {
            return Ok(None);
        }
        if self.other().is_none() {
            let others = &mut self.company.others;
            match others.iter_mut().find(|(whose, _)| *whose == 0) {
                Some((whose, _)) => *whose = pid,
                None => others.push((pid, Box::new(Shared::of_other(shared)?))),
            }
        }
        Ok(self.other())
    }
}
