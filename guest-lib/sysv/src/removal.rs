//! `IPC_RMID` of sets and queues.
//!
//! One transaction ends the object for everybody: its key and its id name nothing any more. Where
//! more sleep on it than that transaction can send away it is *doomed*: the lane of whoever removed
//! it holds the removal, and sends the others away in further steps, or the reaper of that lane does,
//! or whoever scans the lanes.

use crate::object::{self, Held, Object, own};
use crate::waiters::{UNSETTLED, rounds};
use crate::{Caller, Error, Result, msg, reap, sem};
use vshmem_core::layout::{dir, held, lane, obj};
use vshmem_core::region::Kind;
use vshmem_core::{Corrupt, Lane, Offset, Platform, Region, Txn};

/// Removes an object on behalf of `c`; of nobody, for a reaper.
///
/// # If the caller dies
/// It is there or gone. Once it is gone, sleepers that have not been sent away yet, and its
/// messages, are its lane's reaper's.
pub(crate) fn remove<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    kind: Kind,
    object: &Object,
    c: Option<&Caller>,
) -> Result<()> {
    r.transact(on, |txn| {
        txn.lock(kind.dir().plus(dir::LOCK))?;
        object.lock(txn)?;
        c.map_or(Ok(()), |c| own(r, c, object.at))?;
        if step(txn, kind, object)? {
            return Ok(());
        }
        object::unlink_key(txn, kind, object)?;
        let life = object.life & !3 | obj::DOOMED;
        txn.set(object.at.plus(obj::LIFE), life)?;
        Held::note(txn, held::REMOVING, kind as u32, object.index, life)
    })?;
    // What this lane holds now is the rest of the work.
    reap::drop_own(r, on)
}

/// Sends some sleepers away, and ends the object when none is left: `true` then.
fn step<P: Platform>(txn: &mut Txn<'_, P>, kind: Kind, object: &Object) -> Result<bool> {
    match kind {
        Kind::Set => sem::end(txn, object),
        Kind::Queue => msg::end(txn, object),
        Kind::Seg => Err(Corrupt::new(object.at, "a segment has no sleepers").into()),
    }
}

/// Finishes the removal that the lane at `slot` holds. Any number may do so at once.
///
/// # Errors
/// The region is corrupt.
pub(crate) fn finish<P: Platform>(r: &Region<P>, on: &mut Lane, slot: Offset) -> Result<()> {
    // Read one by one: what does not belong together names no doomed object.
    let number = r.peek(slot.plus(lane::HELD))?;
    let index = r.peek(slot.plus(lane::HELD_FOR))?;
    let life = r.peek(slot.plus(lane::HELD_LIFE))?;
    let kind = Kind::ALL.into_iter().find(|k| *k as u32 == number);
    let kind = kind.ok_or(Corrupt::new(slot, "lane removes something of no known kind"))?;
    let object = Object { index, at: r.object(kind, index)?, life, peer: object::ANYONE };
    let mut turns = rounds(r);
    loop {
        turns.pass(1, object.at, UNSETTLED)?;
        let done = r.transact(on, |txn| {
            txn.lock(kind.dir().plus(dir::LOCK))?;
            txn.lock(object.at.plus(obj::LOCK))?;
            let there = life & 3 == obj::DOOMED && txn.get(object.at.plus(obj::LIFE))? == life;
            Ok::<_, Error>(!there || step(txn, kind, &object)?)
        })?;
        if done {
            return Ok(());
        }
    }
}
