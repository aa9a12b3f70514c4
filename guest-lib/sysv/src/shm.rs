//! Shared memory segments: `shmget`, `shmat`, `shmdt`, `shmctl`, without the mapping itself.
//!
//! A segment is a list of extents of pages; the caller maps them piece by piece. Every attachment
//! is counted twice, in the segment (`nattch`) and in its task, in one step, so that a task's death
//! takes back exactly what it held.

mod attached;

pub(crate) use attached::holders;
pub use attached::{attach, cancel, detach, detach_all, inherit};

use crate::object::{self, Get, Held, Object, Perm, flag, get64, own, permit};
use crate::{Caller, Errno, Error, Result};
use vshmem_core::arena::{Left, Pool, to_cell};
use vshmem_core::layout::{Limit, PAGE, Table, dir, extents, held, lane, obj, seg, task};
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, Task};
use vshmem_core::{Corrupt, Lane, Offset, Platform, Region, Txn};

/// Pages in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Number of the first, counted from the region's base.
    pub first_page: u32,
    /// How many.
    pub pages: u32,
}

/// What to map, and what to hand to [`detach`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Bytes of the segment.
    pub size: u64,
    /// Its pages, in order.
    pub extents: Vec<Extent>,
    /// Its index.
    pub seg: u32,
    /// Its sequence number.
    pub life: u32,
    /// What [`cancel`] brings back.
    pub before: Before,
}

/// Time and task of the last attachment but one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    atime: u32,
    lpid: u32,
}

/// `struct shmid_ds`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegStat {
    /// Permissions; the mode has [`flag::SHM_DEST`] on a removed segment.
    pub perm: Perm,
    /// Bytes.
    pub size: u64,
    /// Last attach, seconds.
    pub atime: u64,
    /// Last detach, seconds.
    pub dtime: u64,
    /// Last change, seconds.
    pub ctime: u64,
    /// Creator; 0 for one of another peer.
    pub cpid: i32,
    /// Last to attach or detach; 0 for one of another peer.
    pub lpid: i32,
    /// Attachments.
    pub nattch: u64,
}

/// `struct shminfo`, with what is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShmInfo {
    /// Bytes of the largest segment.
    pub shmmax: u64,
    /// Segments at once.
    pub shmmni: u32,
    /// Pages of all segments.
    pub shmall: u64,
    /// Segments in use.
    pub used_ids: u32,
    /// Pages in use.
    pub pages: u64,
    /// Highest index in use, -1 for none.
    pub highest: i32,
}

/// Most extents of a segment of so many pages; more fragmentation than that is `ENOMEM`.
pub(crate) fn most_extents(pages: u32) -> u32 {
    31 + pages / 2048
}

pub(crate) fn list_bytes(pages: u32) -> u64 {
    extents::FIRST + u64::from(most_extents(pages)) * extents::STRIDE
}

pub(crate) fn extent_at(list: Offset, i: u32) -> Offset {
    list.plus(extents::FIRST).index(i.into(), extents::STRIDE)
}

/// The segment that `id` names, attached or not, removed or not.
pub(crate) fn lock<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<u32> {
    txn.lock(object.at.plus(obj::LOCK))?;
    let life = txn.get(object.at.plus(obj::LIFE))?;
    if life >> 2 == object.life >> 2 && life & 3 != obj::FREE {
        object.still_shared(txn)?;
        Ok(life)
    } else {
        Err(Errno::EINVAL.into())
    }
}

/// `shmget`.
///
/// # Errors
/// `EINVAL` (size 0 or too large for a new one, larger than an existing one), `ENOENT`, `EEXIST`,
/// `EACCES`, `ENOSPC`, `ENOMEM`.
///
/// # If the caller dies
/// The segment is there whole, or not at all; its pages come back.
pub fn get<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    key: i32,
    size: u64,
    flags: i32,
) -> Result<i32> {
    let get = Get { kind: Kind::Seg, key, flags };
    let fits = |txn: &Txn<'_, P>, o: &Object| {
        Ok(size <= get64(txn, o.at.plus(seg::SIZE_LO), o.at.plus(seg::SIZE_HI))?)
    };
    if let Some(id) = get.existing(r, on, c, fits)? {
        return Ok(id);
    }
    if size == 0 || size > r.limit(Limit::Shmmax)? {
        return Err(Errno::EINVAL.into());
    }
    let total = Kind::Seg.dir().plus(dir::TOTAL);
    let pages = size.div_ceil(PAGE);
    if u64::from(r.peek(total)?).saturating_add(pages) > r.limit(Limit::Shmall)? {
        return Err(Errno::ENOSPC.into());
    }
    // Larger than any file, says the kernel; than all memory.
    if i64::try_from(size).is_err() {
        return Err(Errno::EINVAL.into());
    }
    let room = r.table(Table::Pages).count;
    let pages = u32::try_from(pages).ok().filter(|p| u64::from(*p) <= room).ok_or(Errno::ENOMEM)?;
    let list = r.transact(on, |txn| {
        let Some(list) = txn.alloc(Pool::Misc, list_bytes(pages))? else {
            return Err(Error::from(Errno::ENOMEM));
        };
        txn.set(list.plus(extents::COUNT), 0)?;
        Held::note(txn, held::EXTENTS, to_cell(list), pages, 0)?;
        Ok(list)
    })?;
    let made = fill(r, on, list, pages).and_then(|()| {
        r.transact(on, |txn| {
            let fill = |txn: &mut Txn<'_, P>, object: &Object| {
                // Again, now that nobody else creates.
                let used = txn.get(total)?.saturating_add(pages);
                if u64::from(used) > r.limit(Limit::Shmall)? {
                    return Err(Errno::ENOSPC.into());
                }
                txn.set(total, used)?;
                for (cell, value) in [
                    (seg::SIZE_LO, size as u32),
                    (seg::SIZE_HI, (size >> 32) as u32),
                    (seg::EXTENTS, to_cell(list)),
                    (seg::NATTCH, 0),
                    (seg::ATIME, 0),
                    (seg::DTIME, 0),
                    (seg::LPID, 0),
                    (seg::PAGES, pages),
                ] {
                    txn.set(object.at.plus(cell), value)?;
                }
                Ok(())
            };
            match get.create(txn, c, Limit::Shmmni, fits, fill)? {
                Ok(object) => {
                    Held::clear(txn, held::EXTENTS, list)?;
                    Ok::<_, Error>(object.id(r))
                }
                Err(id) => Ok(id),
            }
        })
    });
    // Still held if somebody was faster or something failed.
    crate::reap::drop_own(r, on)?;
    made
}

/// Takes pages until the list holds `pages` of them, zeroed.
fn fill<P: Platform>(r: &Region<P>, on: &mut Lane, list: Offset, pages: u32) -> Result<()> {
    let mut left = pages;
    let mut want = left.min(extents::MAX_PAGES);
    while left > 0 {
        want = want.min(left);
        let first = r.transact(on, |txn| {
            // The arena's lock guards what a lane holds.
            let run = txn.take_run(want)?;
            Held::check(txn, held::EXTENTS, list)?;
            let count = txn.get(list.plus(extents::COUNT))?;
            if count >= most_extents(pages) {
                return Err(Error::from(Errno::ENOMEM));
            }
            let Some(first) = run else { return Ok(None) };
            let at = extent_at(list, count);
            txn.set(at, first)?;
            txn.set(at.plus(8), want)?;
            txn.set(at.plus(16), 1)?;
            txn.set(list.plus(extents::COUNT), count + 1)?;
            Ok(Some(first))
        })?;
        match first {
            Some(first) => {
                r.scrub(first, want)?;
                left -= want;
            }
            None if want == 1 => return Err(Errno::ENOMEM.into()),
            None => want = want.div_ceil(2),
        }
    }
    Ok(())
}

/// Whether segments go with their last attachment, removed or not.
pub(crate) fn is_forced<P: Platform>(r: &Region<P>) -> Result<bool> {
    Ok(r.limit(Limit::ShmRmidForced)? == 1)
}

/// At a task's death: what `shm_rmid_forced` wants.
pub(crate) fn forced_end<P: Platform>(r: &Region<P>, on: &mut Lane) -> Result<()> {
    if is_forced(r)? { destroy_orphans(r, on) } else { Ok(()) }
}

/// Destroys the segments that nobody has attached and whose creators have ended, as the kernel does
/// once `shm_rmid_forced` is set, and at each death while it is.
///
/// # Errors
/// The region is corrupt.
///
/// # If the caller dies
/// The rest stays until the next death.
pub fn destroy_orphans<P: Platform>(r: &Region<P>, on: &mut Lane) -> Result<()> {
    let tasks = r.tasks()?;
    let alive = |who: Identity| {
        let is = |t: &Task| t.peer == who.peer() && t.pid == who.pid() && t.state != task::DYING;
        tasks.iter().any(is)
    };
    for index in object::indices(r, Kind::Seg)? {
        let Ok(object) = object::at_index(r, Kind::Seg, object::ANYONE, index as i32) else {
            continue;
        };
        if alive(Identity(r.peek(object.at.plus(obj::CPID))?)) {
            continue;
        }
        let gone = r.transact(on, |txn| {
            txn.lock(Kind::Seg.dir().plus(dir::LOCK))?;
            lock(txn, &object)?;
            match txn.get(object.at.plus(seg::NATTCH))? {
                0 => destroy(txn, &object),
                _ => Ok(()),
            }
        });
        match gone {
            Ok(()) => crate::reap::drop_own(r, on)?,
            // Removed meanwhile.
            Err(Error::Errno(_)) => {}
            Err(corrupt) => return Err(corrupt),
        }
    }
    Ok(())
}

/// Ends the segment; its pages are the lane's then, to be freed by `drop_held`.
fn destroy<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<()> {
    let pages = txn.get(object.at.plus(seg::PAGES))?;
    let list = txn.get(object.at.plus(seg::EXTENTS))?;
    object::retire(txn, Kind::Seg, object, pages)?;
    Held::note(txn, held::EXTENTS, list, pages, 0)
}

/// Pages from which on a run is cheaper to give back and fault in again than to zero.
const WORTH_DISCARDING: u32 = 64;

/// Gives the memory of the extent that the caller's own lane at `slot` frees next back to the system,
/// if it is worth that; where it is, then. Nobody else may: by then it could be another segment's.
pub(crate) fn discard<P: Platform>(r: &Region<P>, slot: Offset) -> Result<Option<(u32, u32)>> {
    let list = r.block(r.peek(slot.plus(lane::HELD))?)?;
    let count = r.peek(list.plus(extents::COUNT))?;
    if count > most_extents(r.peek(slot.plus(lane::HELD_FOR))?) {
        return Ok(None);
    }
    let Some(last) = count.checked_sub(1) else { return Ok(None) };
    let at = extent_at(list, last);
    let (first, n) = (r.peek(at)?, r.peek(at.plus(8))?);
    let (start, len) = (Offset(u64::from(first) * PAGE), u64::from(n) * PAGE);
    let worth = n >= WORTH_DISCARDING && r.is_sparse()?;
    Ok((worth && r.mem().discard(start, len)).then_some((first, n)))
}

/// Frees the extents the lane at `slot` holds, one a step; `true` when all are gone. `zeroed` is one
/// that was discarded, `rest` is how the others are.
pub(crate) fn free_extents<P: Platform>(
    txn: &mut Txn<'_, P>,
    slot: Offset,
    zeroed: Option<(u32, u32)>,
    rest: Left,
) -> Result<bool> {
    let list = txn.region().block(txn.get(slot.plus(lane::HELD))?)?;
    let pages = txn.get(slot.plus(lane::HELD_FOR))?;
    let count = txn.get(list.plus(extents::COUNT))?;
    if count > most_extents(pages) {
        return Err(Corrupt::new(list, "more extents than the list has room for").into());
    }
    let Some(last) = count.checked_sub(1) else {
        txn.free(Pool::Misc, list_bytes(pages), list)?;
        txn.set(slot.plus(lane::HELD_WHY), held::NOTHING)?;
        return Ok(true);
    };
    let at = extent_at(list, last);
    let (first, n) = (txn.get(at)?, txn.get(at.plus(8))?);
    txn.free_run(first, n, if zeroed == Some((first, n)) { Left::Zeroed } else { rest })?;
    txn.set(list.plus(extents::COUNT), last)?;
    Ok(false)
}

fn seg_stat<P: Platform>(txn: &Txn<'_, P>, object: &Object, c: &Caller) -> Result<SegStat> {
    let cell = |o: u64| txn.get(object.at.plus(o));
    let pid = |o: u64| Ok::<_, Error>(Identity(cell(o)?).pid_seen_by(c.who.peer()) as i32);
    Ok(SegStat {
        perm: object::perm(txn, object)?,
        size: get64(txn, object.at.plus(seg::SIZE_LO), object.at.plus(seg::SIZE_HI))?,
        atime: cell(seg::ATIME)?.into(),
        dtime: cell(seg::DTIME)?.into(),
        ctime: cell(obj::CTIME)?.into(),
        cpid: pid(obj::CPID)?,
        lpid: pid(seg::LPID)?,
        nattch: cell(seg::NATTCH)?.into(),
    })
}

/// `IPC_STAT`.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn stat<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<SegStat> {
    let object = object::find(r, Kind::Seg, c, id)?;
    permit(r, c, object.at, 0o444)?;
    r.transact(on, |txn| {
        lock(txn, &object)?;
        seg_stat(txn, &object, c)
    })
}

/// `SHM_STAT` and, with `any`, `SHM_STAT_ANY`: by index; gives the id too.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn stat_index<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    index: i32,
    any: bool,
) -> Result<(i32, SegStat)> {
    let object = object::at_index(r, Kind::Seg, c.who.peer(), index)?;
    if !any {
        permit(r, c, object.at, 0o444)?;
    }
    let stat = r.transact(on, |txn| {
        lock(txn, &object)?;
        seg_stat(txn, &object, c)
    })?;
    Ok((object.id(r), stat))
}

/// `IPC_SET`.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn set<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<()> {
    let object = object::find(r, Kind::Seg, c, id)?;
    r.transact(on, |txn| {
        lock(txn, &object)?;
        own(r, c, object.at)?;
        object::set_perm(txn, &object, uid, gid, mode)
    })
}

/// `SHM_LOCK` and `SHM_UNLOCK`. A region's pages stay in memory or not as the host decides; what
/// the call does is check and note. `may` is how many bytes the caller may lock
/// (`RLIMIT_MEMLOCK`).
///
/// # Errors
/// `EINVAL`, `EPERM`, `ENOMEM` (more than `may`).
pub fn set_locked<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    locked: bool,
    may: u64,
) -> Result<()> {
    let object = object::find(r, Kind::Seg, c, id)?;
    r.transact(on, |txn| {
        lock(txn, &object)?;
        if !c.ipc_lock {
            let owner = |o: u64| r.peek(object.at.plus(o)).map(|uid| uid == c.uid);
            if !(owner(obj::UID)? || owner(obj::CUID)?) || (locked && may == 0) {
                return Err(Error::from(Errno::EPERM));
            }
            let pages = u64::from(txn.get(object.at.plus(seg::PAGES))?);
            let before = txn.get(object.at.plus(obj::MODE))? & flag::SHM_LOCKED != 0;
            if locked && !before && pages > may / PAGE {
                return Err(Errno::ENOMEM.into());
            }
        }
        let mode = txn.get(object.at.plus(obj::MODE))? & !flag::SHM_LOCKED;
        let bit = if locked { flag::SHM_LOCKED } else { 0 };
        Ok(txn.set(object.at.plus(obj::MODE), mode | bit)?)
    })
}

/// `IPC_RMID`: the key is free at once, the segment goes with its last attachment.
///
/// # Errors
/// `EINVAL`, `EPERM`.
///
/// # If the caller dies
/// The segment is as before, or removed; its pages come back through the reaper.
pub fn remove<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<()> {
    remove_object(r, on, &object::find(r, Kind::Seg, c, id)?, Some(c))
}

/// Removes an object on behalf of `c`; of nobody, for a reaper.
pub(crate) fn remove_object<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    object: &Object,
    c: Option<&Caller>,
) -> Result<()> {
    r.transact(on, |txn| {
        txn.lock(Kind::Seg.dir().plus(dir::LOCK))?;
        let life = lock(txn, object)?;
        c.map_or(Ok(()), |c| own(r, c, object.at))?;
        if txn.get(object.at.plus(seg::NATTCH))? == 0 {
            return destroy(txn, object);
        }
        if life & 3 == obj::LIVE {
            object::unlink_key(txn, Kind::Seg, object)?;
            let mode = txn.get(object.at.plus(obj::MODE))?;
            txn.set(object.at.plus(obj::MODE), mode | flag::SHM_DEST)?;
            txn.set(object.at.plus(obj::LIFE), life & !3 | obj::DOOMED)?;
        }
        Ok::<_, Error>(())
    })?;
    crate::reap::drop_own(r, on)
}

/// Limits and use.
///
/// # Errors
/// The region is corrupt.
pub fn info<P: Platform>(r: &Region<P>) -> Result<ShmInfo> {
    let (used_ids, highest) = object::in_use(r, Kind::Seg)?;
    Ok(ShmInfo {
        shmmax: r.limit(Limit::Shmmax)?,
        shmmni: r.limit(Limit::Shmmni)? as u32,
        shmall: r.limit(Limit::Shmall)?,
        used_ids,
        pages: r.peek(Kind::Seg.dir().plus(dir::TOTAL))?.into(),
        highest,
    })
}
