//! Lists of sleeping lanes, and the sleep itself.

use crate::{Errno, Error, Result};
use vshmem_core::layout::{Table, lane, waits};
use vshmem_core::mem::Ordering;
use vshmem_core::task::Owner;
use vshmem_core::txn::next_cell;
use vshmem_core::wait::{self, Waited};
use vshmem_core::{Corrupt, Lane, LaneId, Offset, Platform, Region, Turns, Txn};

/// Rounds of settling an object: each serves somebody, and most serve all.
pub(crate) fn rounds<P: Platform>(r: &Region<P>) -> Turns {
    Turns::at_most(r.table(Table::Lanes).count + 64)
}

/// What is said of an object that still has somebody to serve after all of them.
pub(crate) const UNSETTLED: &str = "waiters are never all served";

/// A doubly linked list of lanes: two cells of an object, two of each lane.
#[derive(Clone, Copy)]
pub(crate) struct List {
    pub head: Offset,
    pub tail: Offset,
    pub kind: u32,
}

impl List {
    /// Appends the transaction's own lane to the list of the object (or bucket) of that index, and
    /// makes it wait.
    pub fn push<P: Platform>(
        self,
        txn: &mut Txn<'_, P>,
        index: u32,
        c: &crate::Caller,
    ) -> Result<()> {
        let me = txn.lane();
        let at = txn.region().lane(me)?;
        let last = txn.get(self.tail)?;
        for (cell, value) in [
            (lane::WAIT_KIND, self.kind),
            (lane::WAIT_OBJ, index),
            (lane::WAIT_PREV, last),
            (lane::WAIT_NEXT, 0),
            (lane::WAIT_PEER, c.who.peer()),
            (lane::WAIT_WHO, c.who.0),
            (lane::WAIT_TASK, c.task.index),
            (lane::STATUS, wait::WAITING),
        ] {
            txn.set(at.plus(cell), value)?;
        }
        match last.checked_sub(1) {
            Some(last) => {
                let last = txn.region().lane(LaneId(last))?;
                txn.set(last.plus(lane::WAIT_NEXT), me.0 + 1)?;
            }
            None => txn.set(self.head, me.0 + 1)?,
        }
        Ok(txn.set(self.tail, me.0 + 1)?)
    }

    /// Takes `id` out.
    pub fn remove<P: Platform>(self, txn: &mut Txn<'_, P>, id: LaneId) -> Result<()> {
        let at = txn.region().lane(id)?;
        let (prev, next) = (txn.get(at.plus(lane::WAIT_PREV))?, txn.get(at.plus(lane::WAIT_NEXT))?);
        match prev.checked_sub(1) {
            Some(prev) => {
                let prev = txn.region().lane(LaneId(prev))?;
                txn.set(prev.plus(lane::WAIT_NEXT), next)?;
            }
            None => txn.set(self.head, next)?,
        }
        match next.checked_sub(1) {
            Some(next) => {
                let next = txn.region().lane(LaneId(next))?;
                txn.set(next.plus(lane::WAIT_PREV), prev)?;
            }
            None => txn.set(self.tail, prev)?,
        }
        Ok(txn.set(at.plus(lane::WAIT_KIND), waits::NONE)?)
    }

    /// Puts `id` behind all others.
    pub fn move_last<P: Platform>(self, txn: &mut Txn<'_, P>, id: LaneId) -> Result<()> {
        if txn.get(self.tail)? == id.0 + 1 {
            return Ok(());
        }
        self.remove(txn, id)?;
        let last = txn.get(self.tail)?;
        let before = last.checked_sub(1).ok_or(Corrupt::new(self.tail, "list without an end"))?;
        let (at, before) = (txn.region().lane(id)?, txn.region().lane(LaneId(before))?);
        txn.set(before.plus(lane::WAIT_NEXT), id.0 + 1)?;
        txn.set(at.plus(lane::WAIT_PREV), last)?;
        txn.set(at.plus(lane::WAIT_NEXT), 0)?;
        txn.set(at.plus(lane::WAIT_KIND), self.kind)?;
        Ok(txn.set(self.tail, id.0 + 1)?)
    }

    /// Takes `id` out and gives it its outcome.
    pub fn settle<P: Platform>(
        self,
        txn: &mut Txn<'_, P>,
        id: LaneId,
        outcome: core::result::Result<(), Errno>,
    ) -> Result<()> {
        self.remove(txn, id)?;
        let status = outcome.map_or_else(|e| wait::FAILED + e as u32, |()| wait::DONE);
        Ok(txn.set_status(id, status)?)
    }

    /// The first lane.
    pub fn first<P: Platform>(self, txn: &Txn<'_, P>) -> Result<Option<LaneId>> {
        self.valid(txn, txn.get(self.head)?)
    }

    /// The lane after `id`.
    pub fn after<P: Platform>(self, txn: &Txn<'_, P>, id: LaneId) -> Result<Option<LaneId>> {
        let at = txn.region().lane(id)?;
        self.valid(txn, txn.get(at.plus(lane::WAIT_NEXT))?)
    }

    fn valid<P: Platform>(self, txn: &Txn<'_, P>, cell: u32) -> Result<Option<LaneId>> {
        let Some(id) = cell.checked_sub(1).map(LaneId) else { return Ok(None) };
        let at = txn.region().lane(id)?;
        if txn.get(at.plus(lane::WAIT_KIND))? == self.kind {
            Ok(Some(id))
        } else {
            Err(Corrupt::new(at, "lane queued that waits for something else").into())
        }
    }

    /// All lanes, first in first; refuses a list longer than there are lanes.
    pub fn each<P: Platform>(self, txn: &Txn<'_, P>) -> Result<Vec<LaneId>> {
        let most = txn.region().table(Table::Lanes).count;
        let mut all = Vec::new();
        let mut next = self.first(txn)?;
        while let Some(id) = next {
            if all.len() as u64 == most {
                return Err(Corrupt::new(self.head, "waiters form a circle").into());
            }
            all.push(id);
            next = self.after(txn, id)?;
        }
        Ok(all)
    }
}

/// The bounded spin before a sleep, and what the platform learns from it.
pub(crate) struct Patience<'a, P> {
    r: &'a Region<P>,
    deadline: Option<u64>,
    start: Option<u64>,
    until: u64,
    turns: u32,
}

impl<'a, P: Platform> Patience<'a, P> {
    /// Turns between two looks at the clock.
    const LOOK: u32 = 32;

    pub fn new(r: &'a Region<P>, deadline: Option<u64>) -> Self {
        Self { r, deadline, start: None, until: 0, turns: 0 }
    }

    /// Passes a moment; `false` when it is time to sleep.
    pub fn turn(&mut self) -> bool {
        if self.turns.is_multiple_of(Self::LOOK) {
            let now = self.r.mem().now();
            if self.start.is_none() {
                self.start = Some(now);
                let spin = now.saturating_add(self.r.mem().spin());
                self.until = self.deadline.map_or(spin, |d| d.min(spin));
            }
            // The sleep after this notices the interruption too, and says so.
            if now >= self.until || self.r.mem().interrupted() {
                return false;
            }
        }
        self.turns = self.turns.wrapping_add(1);
        self.r.mem().relax(0);
        true
    }

    /// What a failure to find the object means: for a caller that has waited already, that it is
    /// gone.
    pub fn inside(&self, e: Error) -> Error {
        match e {
            Error::Errno(Errno::EINVAL) if self.turns > 0 => Errno::EIDRM.into(),
            e => e,
        }
    }

    /// The wait is over. Short ones are not worth a look at the clock.
    pub fn over(&self, slept: bool) {
        if let Some(start) = self.start
            && (slept || self.turns > Self::LOOK)
        {
            self.r.mem().waited(self.r.mem().now().saturating_sub(start), slept);
        }
    }
}

/// Sleeps until served, removed, interrupted or late. `cancel` takes the lane out of its list if it
/// is still in it and says whether it was.
pub(crate) fn sleep<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    deadline: Option<u64>,
    cancel: impl Fn(&mut Txn<'_, P>) -> Result<bool>,
) -> Result<()> {
    let why = match r.wait(on.id(), deadline)? {
        Waited::Settled(status) => return take(r, on, status),
        Waited::TimedOut => Errno::EAGAIN,
        Waited::Interrupted => Errno::EINTR,
    };
    if r.transact(on, |txn| cancel(txn))? {
        return Err(why.into());
    }
    // Served between the signal and the cancelling: the service counts.
    let status = r.peek(r.lane(on.id())?.plus(lane::STATUS))?;
    take(r, on, status)
}

/// Takes a settled outcome: nobody has to be woken for it any more.
fn take<P: Platform>(r: &Region<P>, on: &Lane, status: u32) -> Result<()> {
    if status != wait::IDLE {
        let at = r.lane(on.id())?.plus(lane::STATUS);
        let word = r.mem().load(at, Ordering::Acquire)?;
        // Nobody but its owner changes a settled status; if it changed, the lane has a new owner.
        if word as u32 != status || !r.mem().cas(at, word, next_cell(word, wait::IDLE))? {
            return Err(Errno::EIDRM.into());
        }
    }
    match status {
        wait::DONE => Ok(()),
        // Nobody but a reaper takes a lane out without an outcome: the task was taken for dead.
        wait::IDLE => Err(Errno::EIDRM.into()),
        failed => match failed.checked_sub(wait::FAILED).and_then(|e| Errno::from_raw(e as i32)) {
            Some(errno) => Err(errno.into()),
            None => Err(Corrupt::new(r.lane(on.id())?, "unknown wait status").into()),
        },
    }
}

/// Takes a lane out of whatever list a call left it in that never returned (a jump out of a signal
/// handler, a cancelled thread), and drops what it held. Call before such a lane is used again.
///
/// # Errors
/// The region is corrupt.
pub fn abandon<P: Platform>(r: &Region<P>, on: &mut Lane) -> Result<()> {
    let id = on.id();
    let owner = r.lane_owner(id)?;
    r.settle_lane(id, true)?;
    crate::sem::release_intent(r, id)?;
    crate::reap::unqueue(r, on, id, owner, wait::IDLE)?;
    crate::park::pass_on(r, on, id, owner)?;
    crate::msg::leave(r, on, id, owner)?;
    r.init(r.lane(id)?.plus(lane::STATUS), wait::IDLE)?;
    crate::reap::drop_held(r, on, id, owner)?;
    crate::reap::drop_spare(r, on, id, owner)
}

/// Gives back a lane that its thread needs no more, with what a call may have left in it: the block
/// kept for the next message at least.
///
/// # Errors
/// The region is corrupt; the lane stays `owner`'s, for its reaper.
///
/// # If the caller dies
/// The lane is `owner`'s, or free and empty.
pub fn release<P: Platform>(r: &Region<P>, on: &mut Lane, owner: Owner) -> Result<()> {
    abandon(r, on)?;
    r.release_lane(on.id(), owner)?;
    Ok(())
}

/// A signal handler is about to run on the thread that is in a call on lane `id`: as in the kernel
/// it waits no more, whatever the handler does, also where that never returns to it. The call finds
/// out by its status. `on` is another lane of the same thread.
///
/// # Errors
/// The region is corrupt.
pub fn interrupt<P: Platform>(r: &Region<P>, on: &mut Lane, id: LaneId) -> Result<()> {
    // A step that is not committed holds locks the handler may want: it is made again.
    r.settle_lane(id, true)?;
    let slot = r.lane(id)?;
    if r.peek(slot.plus(lane::STATUS))? != wait::WAITING
        || r.peek(slot.plus(lane::WAIT_KIND))? == waits::PARK
    {
        return Ok(());
    }
    let owner = r.lane_owner(id)?;
    crate::reap::unqueue(r, on, id, owner, wait::FAILED + Errno::EINTR as u32)
}

/// The call on lane `on`, which waits, finds that it was interrupted. For a process that has the
/// region's memory for itself alone, whatever that holds by now.
///
/// # Errors
/// There is no such lane.
pub fn interrupted<P: Platform>(r: &Region<P>, on: &Lane) -> Result<()> {
    r.rewind_journal(on)?;
    let status = r.lane(on.id())?.plus(lane::STATUS);
    // Written also where it is so already: then the memory is no longer shared there.
    Ok(r.init(status, wait::FAILED + Errno::EINTR as u32)?)
}
