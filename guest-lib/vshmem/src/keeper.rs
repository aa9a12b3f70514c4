//! For a process that makes the calls of others: of programs that no library reaches.

use crate::credentials;
use crate::error::Result;
use crate::link::Way;
use crate::session::{Seat, Session};
use crate::sys;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};
use vshmem_core::attach::{Op, Request};
use vshmem_core::layout::Table;
use vshmem_core::task::{Identity, TaskId};
use vshmem_sysv::Caller;

/// Who somebody is, as this process sees it (in `/proc`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities; 0 for somebody of another user namespace.
    pub capabilities: u64,
}

impl Session {
    /// Makes the process behind `pidfd` a task whose calls this one makes. When it has died, its
    /// keeper must reap it, once none of its calls is under way.
    ///
    /// # Errors
    /// The endpoint refuses: the process is another user's, has ended, or is kept by another.
    ///
    /// # If the caller dies
    /// The endpoint reaps its lanes, in which those it keeps wait, and then the dead among them.
    pub fn keep(&self, pidfd: BorrowedFd<'_>) -> Result<TaskId> {
        let seat = self.seat()?;
        let ask = Request { op: Op::Keep, a: 0, b: 0 };
        let (reply, _) = self.shared().link.lock().ask(&ask, Some(pidfd.as_raw_fd()))?;
        seat.region.element(Table::Tasks, reply.task)?;
        Ok(TaskId { index: reply.task, incarnation: reply.incarnation })
    }

    /// The task that this process is, and its peer.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn task(&self) -> Result<(TaskId, u32)> {
        let seat = self.seat()?;
        Ok((seat.task, seat.peer))
    }

    /// A descriptor of the region, to be given to a process that is kept.
    ///
    /// # Errors
    /// It is closed, and the endpoint gives no other.
    pub fn region_descriptor(&self, read_only: bool) -> Result<OwnedFd> {
        self.seat()?;
        let way = if read_only { Way::ReadOnly } else { Way::ReadWrite };
        let mut link = self.shared().link.lock();
        let raw = sys::duplicate(link.region(way)?, 3).map_err(crate::Error::Segment)?;
        // SAFETY: made just now, for us.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// The caller that process `pid`, of task `task`, is with these rights.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn caller_for(&self, task: TaskId, pid: u32, rights: &Rights) -> Result<Caller> {
        let peer = self.seat()?.peer;
        Ok(credentials::caller_with(task, Identity::new(peer, pid), rights))
    }
}

/// How long whoever waits for a child waits for its keeper as well: that is at it already.
const PATIENCE: Duration = Duration::from_millis(200);

/// Waits until a dead task that somebody keeps is reaped by its keeper.
pub(crate) fn await_reaping(seat: &Seat, dead: TaskId) {
    let until = Instant::now() + PATIENCE;
    let there = || seat.region.task(dead.index).is_ok_and(|t| t.is_some_and(|t| t.id == dead));
    while there() && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(100));
    }
}
