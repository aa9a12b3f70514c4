//! What a lane that no longer runs had begun in a ring.

use super::gather::close;
use super::{Note, Place, Ring, before};
use crate::Result;
use crate::object::{self, ANYONE, Object};
use vshmem_core::layout::{Table, obj, queue, ring};
use vshmem_core::region::Kind;
use vshmem_core::task::Owner;
use vshmem_core::{Lane, LaneId, Platform, Region};

/// Ends what lane `id` of `owner` had begun: a place it was to send to can be used by others. To be
/// called once it is known that it does not run any more, and writes there.
///
/// # Errors
/// The region is corrupt.
pub(crate) fn leave<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    id: LaneId,
    owner: Option<Owner>,
) -> Result<()> {
    let note = Note::read(r, id)?;
    let Some(ring) = note.ring(r)? else { return Ok(()) };
    // The note first and the owner last: it is no later owner's.
    if r.lane_owner(id)? != owner {
        return Ok(());
    }
    free_place(r, on, ring, id, note)?;
    if r.lane_owner(id)? == owner {
        r.mem().cas(Note::at(r, id)?, note.0, 0)?;
    }
    Ok(())
}

/// The queue that has the ring at this moment.
fn queue_of<P: Platform>(r: &Region<P>, ring: Ring) -> Result<Option<Object>> {
    let Some(index) = r.peek(ring.0.plus(ring::QUEUE))?.checked_sub(1) else { return Ok(None) };
    let at = r.object(Kind::Queue, index)?;
    let life = r.peek(at.plus(obj::LIFE))?;
    Ok(Some(Object { index, at, life, peer: ANYONE }))
}

/// Lets others use the place to which lane `id` was to send, once nobody writes there any more.
fn free_place<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    ring: Ring,
    id: LaneId,
    note: Note,
) -> Result<()> {
    let position = note.position();
    let taken = before(position, Ring::turn(r, ring.sent())?.position());
    if taken
        && ring.look(r, position)?.is_free(position)
        && let Some(object) = queue_of(r, ring)?
    {
        close(r, on, &object)?;
    }
    let skipped = Place::skipped(position);
    if ring.look(r, position)? != skipped {
        return Ok(());
    }
    // Several may have noted the position, of whom one got it.
    for other in 0..r.table(Table::Lanes).count as u32 {
        if LaneId(other) != id && Note::read(r, LaneId(other))? == note {
            return Ok(());
        }
    }
    r.mem().cas(ring.place(position), skipped.0, Place::empty(position).0)?;
    Ok(())
}

/// Makes those come too late who have looked at a ring and not at their task since: one of them may
/// have been shut out. As `sem::renew_words`.
///
/// # Errors
/// The region is corrupt.
pub(crate) fn renew<P: Platform>(r: &Region<P>, on: &mut Lane) -> Result<()> {
    let mut met = Ok(());
    for index in object::indices(r, Kind::Queue)? {
        let at = r.object(Kind::Queue, index)?;
        if r.peek(at.plus(queue::RING))? != 0 {
            let life = r.peek(at.plus(obj::LIFE))?;
            met = met.and(close(r, on, &Object { index, at, life, peer: ANYONE }));
        }
    }
    met
}
