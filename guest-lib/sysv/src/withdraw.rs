//! Withdrawing an object: from then on it is one kernel's own again.
//!
//! Its key is free at once and nobody finds it any more. Tasks of the kernel it is withdrawn to use it
//! on by its id. For tasks of others it is gone: those asleep on it get `EIDRM`, later calls `EINVAL`.
//! What they have attached of a segment they keep, since a mapping cannot be taken out of another
//! kernel; and what SEM_UNDO promised is kept. It ends with that kernel, as a kernel's own objects do.

use crate::object::{self, ANYONE, Object, own};
use crate::waiters::{UNSETTLED, rounds};
use crate::{Caller, Error, Result, msg, removal, sem, shm};
use vshmem_core::layout::{dir, obj, peer};
use vshmem_core::region::Kind;
use vshmem_core::task::{Peer, TaskId};
use vshmem_core::{Lane, Platform, Region, Txn};

/// A task that has a segment attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Which.
    pub task: TaskId,
    /// Its peer.
    pub peer: u32,
    /// Its process there.
    pub pid: u32,
    /// How often it has the segment attached.
    pub times: u32,
}

/// Withdraws object `id` to the caller's peer; for a segment, says who of other peers still has it
/// attached. Again, it does nothing but say so.
///
/// # Errors
/// `EINVAL`, `EPERM` for others than owner, creator and `CAP_SYS_ADMIN`.
///
/// # If the caller dies
/// The object is withdrawn or shared as before; of more than 125 sleepers of other peers some may
/// have been sent away before.
pub fn withdraw<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    kind: Kind,
    id: i32,
) -> Result<Vec<Holder>> {
    let object = object::find(r, kind, c, id)?;
    let mine = c.who.peer();
    let mut turns = rounds(r);
    loop {
        turns.pass(1, object.at, UNSETTLED)?;
        let left = r.transact(on, |txn| {
            txn.lock(kind.dir().plus(dir::LOCK))?;
            enter(txn, kind, &object)?;
            own(r, c, object.at)?;
            let left = match kind {
                Kind::Seg => 0,
                Kind::Set => sem::dismiss_others(txn, &object, mine)?,
                Kind::Queue => msg::dismiss_others(txn, &object, mine)?,
            };
            if left == 0 {
                object::unlink_key(txn, kind, &object)?;
                txn.set(object.at.plus(obj::ONLY), mine + 1)?;
                txn.set(object.at.plus(obj::CTIME), r.mem().seconds())?;
            }
            Ok::<_, Error>(left)
        })?;
        if left == 0 {
            break;
        }
    }
    if kind != Kind::Seg {
        return Ok(Vec::new());
    }
    let mut holders = shm::holders(r, on, &object)?;
    holders.retain(|h| h.peer != mine);
    Ok(holders)
}

/// Locks the object; a segment may be removed and still attached.
fn enter<P: Platform>(txn: &mut Txn<'_, P>, kind: Kind, object: &Object) -> Result<()> {
    match kind {
        Kind::Seg => shm::lock(txn, object).map(drop),
        Kind::Set | Kind::Queue => object.lock(txn),
    }
}

/// Whether the object at `index` is withdrawn, and to which peer.
///
/// # Errors
/// `EINVAL`: there is no such object.
pub fn withdrawn_to<P: Platform>(r: &Region<P>, kind: Kind, index: i32) -> Result<Option<u32>> {
    let object = object::at_index(r, kind, ANYONE, index)?;
    Ok(r.peek(object.at.plus(obj::ONLY))?.checked_sub(1))
}

/// Removes what was withdrawn to a peer that is dead: nobody could ever use it.
///
/// # Errors
/// The region is corrupt.
///
/// # If the caller dies
/// The rest is there for the next reaper of the peer, which is not freed before.
pub(crate) fn bury<P: Platform>(r: &Region<P>, on: &mut Lane, dead: &Peer) -> Result<()> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for index in object::indices(r, kind)? {
            if r.peek(r.object(kind, index)?.plus(obj::ONLY))? == dead.index + 1
                && let Ok(object) = object::at_index(r, kind, ANYONE, index as i32)
            {
                all.push((kind, object));
            }
        }
    }
    // Still dead: these lives are of objects of its, and not of the next owner of its slot.
    let same = |p: Peer| p.state == peer::DEAD && p.incarnation == dead.incarnation;
    if !r.peer(dead.index)?.is_some_and(same) {
        return Ok(());
    }
    let mut met = Ok(());
    for (kind, object) in all {
        let removed = match kind {
            Kind::Seg => shm::remove_object(r, on, &object, None),
            Kind::Set | Kind::Queue => removal::remove(r, on, kind, &object, None),
        };
        met = met.and(match removed {
            // Another reaper was faster.
            Err(Error::Errno(_)) => Ok(()),
            removed => removed,
        });
    }
    met
}
