//! A busy queue's ring, through which messages pass without a transaction.
//!
//! A queue that has had some messages gets a ring of places, each with a block of its own. While the
//! ring is *open*, what is in the queue is in the ring, and:
//!
//! * a sender takes the next position by a swap of `SENT`, writes its message into the block there and
//!   makes it `FULL` by a second swap, **its committing step**;
//! * a receiver copies the oldest message and then swaps `RECEIVED`, **its committing step**; if that
//!   fails the message was another's, and what was copied is forgotten.
//!
//! Whatever is more than that (a sleeper, another type than the oldest message's, a queue that is
//! full, `msgctl`) is done under the queue's lock. It first *closes* an end of the ring, or both, and
//! *gathers* what is in it into the queue's list where it has to search ([`gather()`]). What is in the
//! list is always younger than what is in the ring. The ring is open for senders only while there is no
//! list and no receiver sleeps, for receivers only while no sender sleeps. Its ends are opened again
//! only at positions of their own, so a swap that was prepared before they were closed fails ever after.
//!
//! # Who dies or stops where
//!
//! A sender notes ring and position in its lane before it takes one ([`lane::NOTE`]). Between its two
//! swaps it is *skipped* by whoever comes to its position: the place is `SKIPPED`, and nobody uses that
//! block until the sender has seen it (and sends anew), or its reaper knows that nobody else has noted
//! that position. A receiver leaves nothing behind.
//!
//! A ring is given back with its queue. Places that are still in somebody's hands keep their blocks.

mod dead;
mod fast;
mod gather;
#[cfg(all(test, loom))]
mod model;

use crate::Result;
use crate::object::Object;
use vshmem_core::layout::{lane, queue, ring};
use vshmem_core::mem::Ordering;
use vshmem_core::{Corrupt, LaneId, Offset, Platform, Region, Txn};

pub(crate) use dead::{leave, renew};
pub(super) use fast::{Fast, recv, send};
pub(super) use gather::{
    append, block_for, first, gather, hush, load, refill, reopen, retire, stamp, stamps, take_first,
};

/// Races for a position that a call may lose before it takes the slow way.
const RACES: u32 = 1 << 14;

/// `ring::SENT` or `ring::RECEIVED`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Turn(u64);

impl Turn {
    /// Open at `position`, to go on counting bytes where `self` stands.
    fn open(self, position: u32) -> Self {
        Self(u64::from(position) << ring::COUNT_SHIFT | u64::from(self.bytes()))
    }

    const fn is_closed(self) -> bool {
        self.0 & ring::CLOSED != 0
    }

    const fn closed(self) -> Self {
        Self(self.0 | ring::CLOSED)
    }

    /// To be written only together with another position: no word comes twice.
    const fn opened(self) -> Self {
        Self(self.0 & !ring::CLOSED)
    }

    const fn position(self) -> u32 {
        (self.0 >> ring::COUNT_SHIFT) as u32
    }

    const fn bytes(self) -> u16 {
        self.0 as u16
    }

    /// Open, after one more message of `size` bytes.
    fn next(self, size: u32) -> Self {
        let bytes = self.bytes().wrapping_add(size as u16);
        let position = u64::from(self.position().wrapping_add(1));
        Self(position << ring::COUNT_SHIFT | u64::from(bytes))
    }
}

/// A place's word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    fn new(state: u64, position: u32, size: u32) -> Self {
        let size = u64::from(size) << ring::SIZE_SHIFT;
        Self(state | size | u64::from(position) << ring::POSITION_SHIFT)
    }

    fn empty(position: u32) -> Self {
        Self::new(ring::EMPTY, position, 0)
    }

    fn full(position: u32, size: u32) -> Self {
        Self::new(ring::FULL, position, size)
    }

    fn skipped(position: u32) -> Self {
        Self::new(ring::SKIPPED, position, 0)
    }

    const fn state(self) -> u64 {
        self.0 & ring::STATE
    }

    const fn position(self) -> u32 {
        (self.0 >> ring::POSITION_SHIFT) as u32
    }

    /// The size of the message at `position`.
    fn message(self, position: u32) -> Option<u32> {
        let there = self.state() == ring::FULL && self.position() == position;
        there.then_some((self.0 >> ring::SIZE_SHIFT) as u32 & 0x7fff)
    }

    /// Whether `position` can be sent to, by whoever took it: what stands there was received.
    const fn is_free(self, position: u32) -> bool {
        self.state() != ring::SKIPPED && before(self.position(), position)
    }
}

/// Whether position `a` comes before `b`: they wrap.
const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A ring, by where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ring(Offset);

impl Ring {
    /// The one that a queue's cell names; none for 0.
    fn named<P: Platform>(r: &Region<P>, cell: u32) -> Result<Option<Self>> {
        if cell == 0 {
            return Ok(None);
        }
        let at = r.block(cell)?;
        if !at.0.is_multiple_of(1 << ring::ALIGN_SHIFT) || at.plus(ring::SIZE).0 > r.mem().len() {
            return Err(Corrupt::new(at, "ring outside the region's pages").into());
        }
        Ok(Some(Self(at)))
    }

    /// The queue's, outside any transaction.
    fn of<P: Platform>(r: &Region<P>, object: &Object) -> Result<Option<Self>> {
        Self::named(r, r.peek(object.at.plus(queue::RING))?)
    }

    fn sent(self) -> Offset {
        self.0.plus(ring::SENT)
    }

    fn received(self) -> Offset {
        self.0.plus(ring::RECEIVED)
    }

    fn place(self, position: u32) -> Offset {
        self.0.plus(ring::PLACE).index(u64::from(position) % ring::PLACES, 8)
    }

    fn block(self, position: u32) -> Offset {
        self.0.plus(ring::BLOCK).index(u64::from(position) % ring::PLACES, 8)
    }

    fn turn<P: Platform>(r: &Region<P>, at: Offset) -> Result<Turn> {
        // Acquire: what was written before the position was taken, or the ring opened, is visible.
        Ok(Turn(r.mem().load(at, Ordering::Acquire)?))
    }

    fn look<P: Platform>(self, r: &Region<P>, position: u32) -> Result<Place> {
        // Acquire: pairs with the swap that made it so; the message, or that it was copied, is seen.
        Ok(Place(r.mem().load(self.place(position), Ordering::Acquire)?))
    }
}

/// The block a `ring::BLOCK` cell names, and its bytes; none for 0.
fn furnished<P: Platform>(r: &Region<P>, cell: u32) -> Result<Option<(Offset, u64)>> {
    if cell == 0 {
        return Ok(None);
    }
    let bytes = 1 << (ring::BLOCK_SHIFT + (cell & 3));
    let block = r.block(cell & !3)?;
    if bytes > ring::MAX_BLOCK || block.plus(bytes).0 > r.mem().len() {
        return Err(Corrupt::new(block, "ring's block outside the region's pages").into());
    }
    Ok(Some((block, bytes)))
}

/// Messages and bytes in the ring of the queue at `at`, as they are at some moment of the call.
pub(crate) fn inside<P: Platform>(r: &Region<P>, at: Offset) -> Result<(u32, u32)> {
    let Some(ring) = Ring::named(r, r.peek(at.plus(queue::RING))?)? else { return Ok((0, 0)) };
    let received = Ring::turn(r, ring.received())?;
    let sent = Ring::turn(r, ring.sent())?;
    let n = sent.position().wrapping_sub(received.position());
    let bytes = sent.bytes().wrapping_sub(received.bytes());
    Ok(if u64::from(n) > ring::PLACES { (0, 0) } else { (n, bytes.into()) })
}

/// What a lane has noted: a ring, and a position it may send to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Note(u64);

impl Note {
    const SET: u64 = 1 << 63;

    fn new(ring: Ring, position: u32) -> Self {
        Self(Self::SET | ring.0.0 >> ring::ALIGN_SHIFT << 32 | u64::from(position))
    }

    fn at<P: Platform>(r: &Region<P>, id: LaneId) -> Result<Offset> {
        Ok(r.lane(id)?.plus(lane::NOTE))
    }

    fn read<P: Platform>(r: &Region<P>, id: LaneId) -> Result<Self> {
        Ok(Self(r.mem().load(Self::at(r, id)?, Ordering::Acquire)?))
    }

    /// Release: a note is seen before what it announces (by the swap that follows it), and what it
    /// announced before it is gone.
    fn put<P: Platform>(self, r: &Region<P>, id: LaneId) -> Result<()> {
        Ok(r.mem().store(Self::at(r, id)?, self.0, Ordering::Release)?)
    }

    /// The call is over.
    fn end<P: Platform>(r: &Region<P>, id: LaneId) -> Result<()> {
        let at = Self::at(r, id)?;
        // Relaxed: its own.
        if r.mem().load(at, Ordering::Relaxed)? != 0 {
            r.mem().store(at, 0, Ordering::Release)?;
        }
        Ok(())
    }

    const fn position(self) -> u32 {
        self.0 as u32
    }

    fn ring<P: Platform>(self, r: &Region<P>) -> Result<Option<Ring>> {
        if self.0 & Self::SET == 0 {
            return Ok(None);
        }
        let at = (self.0 >> 32 & 0x7fff_ffff) << ring::ALIGN_SHIFT;
        Ring::named(r, vshmem_core::arena::to_cell(Offset(at)))
    }
}

/// {seconds, identity} of `ring::SENT_BY` and `ring::RECEIVED_BY`.
fn by<P: Platform>(r: &Region<P>, who: vshmem_core::task::Identity) -> u64 {
    u64::from(r.mem().seconds()) << 32 | u64::from(who.0)
}

/// Whether a transaction sees the ring as its queue's, which may be doomed by now.
fn is_its<P: Platform>(txn: &Txn<'_, P>, ring: Ring, object: &Object) -> Result<bool> {
    Ok(txn.get(ring.0.plus(ring::QUEUE))? == object.index + 1
        && txn.get(ring.0.plus(ring::LIFE))? >> 2 == object.life >> 2)
}
