//! Sleeping and waking: wait slots and wake bitmaps.
//!
//! A sleeper queues its lane in an object and sleeps on the lane's status cell. Whoever makes its
//! operation possible performs it, writes the outcome into the status and wakes the sleeper; there
//! is no retry, so nobody can barge in between.
//!
//! | status | meaning | written by |
//! |---|---|---|
//! | [`IDLE`] | not waiting | the owner, when it takes the outcome |
//! | [`WAITING`] | queued | the owner, in the transaction that queues it |
//! | [`DONE`] | its operation was performed | the waker, in the transaction that performs it |
//! | [`FAILED`] + errno | it will not be | the waker or a remover |
//!
//! A wake is only a hint: the status is the truth. To another kernel it travels as a bit in that
//! peer's wake bitmap, then a doorbell. Setting a bit twice is setting it once, so the bitmap
//! cannot overflow, and a waker that dies before its doorbell leaves the bit for the next one.

use crate::format::Geometry;
use crate::layout::{Table, lane, wake};
use crate::mem::{Corrupt, Mem, Ordering, Platform, Woken};
use crate::region::Region;
use crate::txn::LaneId;

/// Not waiting.
pub const IDLE: u32 = 0;
/// Queued in an object.
pub const WAITING: u32 = 1;
/// The operation was performed.
pub const DONE: u32 = 2;
/// The operation failed; the errno is added.
pub const FAILED: u32 = 0x1000;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// The status is no longer [`WAITING`]; this is it.
    Settled(u32),
    /// The deadline passed; the lane is still queued.
    TimedOut,
    /// A signal arrived; the lane is still queued.
    Interrupted,
}

impl Geometry {
    /// Leaves a wake for lane `id` in the bitmap of `peer`; a doorbell must follow.
    ///
    /// # Errors
    /// There is no such peer or lane.
    pub fn post_wake(&self, mem: &impl Mem, peer: u32, id: LaneId) -> Result<(), Corrupt> {
        let (rows, lanes) = (self.tables[Table::Wake as usize], self.tables[Table::Lanes as usize]);
        let row = rows.at.index(peer.into(), rows.stride);
        if u64::from(peer) >= rows.count || u64::from(id.0) >= lanes.count {
            return Err(Corrupt::new(row, "wake for a lane or peer that does not exist"));
        }
        let leaf = u64::from(id.0 / 64);
        // Leaf before summary: the drainer reads them the other way round.
        mem.fetch_or(row.plus(wake::SUMMARY * 8).index(leaf, 8), 1 << (id.0 % 64))?;
        mem.fetch_or(row.index(leaf / 64, 8), 1 << (leaf % 64))?;
        Ok(())
    }
}

impl<P: Platform> Region<P> {
    /// Sleeps until the status of lane `id` is settled, or until `deadline`
    /// (nanoseconds of [`crate::mem::Park::now`]).
    ///
    /// # Errors
    /// There is no such lane.
    pub fn wait(&self, id: LaneId, deadline: Option<u64>) -> Result<Waited, Corrupt> {
        let at = self.lane(id)?.plus(lane::STATUS);
        loop {
            let status = self.peek(at)?;
            if status != WAITING {
                return Ok(Waited::Settled(status));
            }
            match self.mem().sleep(at, WAITING, deadline) {
                Woken::Maybe => {}
                Woken::TimedOut => return Ok(Waited::TimedOut),
                Woken::Interrupted => return Ok(Waited::Interrupted),
            }
        }
    }

    /// As [`Geometry::post_wake`], in this region.
    ///
    /// # Errors
    /// There is no such peer or lane.
    pub fn post_wake(&self, peer: u32, id: LaneId) -> Result<(), Corrupt> {
        self.geometry().post_wake(self.mem(), peer, id)
    }

    /// Takes every posted wake of `peer` and hands its lane to `f`.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn drain_wakes(&self, peer: u32, mut f: impl FnMut(LaneId)) -> Result<(), Corrupt> {
        let row = self.element(Table::Wake, peer)?;
        let lanes = self.table(Table::Lanes).count;
        for s in 0..lanes.div_ceil(64 * 64) {
            if self.mem().load(row.index(s, 8), Ordering::Acquire)? == 0 {
                continue;
            }
            let mut leaves = self.mem().swap(row.index(s, 8), 0)?;
            while leaves != 0 {
                let leaf = s * 64 + u64::from(leaves.trailing_zeros());
                leaves &= leaves - 1;
                if leaf >= lanes.div_ceil(64) {
                    break;
                }
                let mut bits = self.mem().swap(row.plus(wake::SUMMARY * 8).index(leaf, 8), 0)?;
                while bits != 0 {
                    let id = leaf * 64 + u64::from(bits.trailing_zeros());
                    bits &= bits - 1;
                    if id < lanes {
                        f(LaneId(id as u32));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
