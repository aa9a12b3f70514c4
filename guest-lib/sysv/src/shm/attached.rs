//! Who has which segment attached: the task's records, and `nattch`.
//!
//! Both change in one step.

use super::{Attachment, Before, Extent, destroy, extent_at, is_forced, lock, most_extents};
use crate::object::{self, ANYONE, Object, get64, permit};
use crate::{Caller, Errno, Error, Holder, Result};
use vshmem_core::arena::{Pool, to_cell};
use vshmem_core::layout::{PAGE, Table, attach as record, dir, extents, obj, seg, task};
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, TaskId};
use vshmem_core::{Corrupt, Lane, Offset, Platform, Region, Txn};

/// The counting half of `shmat`: one attachment more. `access` has the bits of a mode: 4 to read,
/// 2 to write, 1 to execute; 0 counts one piece more of what the task has attached already. Call it
/// before mapping, and [`cancel`] if the mapping fails.
///
/// # Errors
/// `EINVAL`, `EACCES`, `ENOMEM`.
///
/// # If the caller dies
/// The task's record and `nattch` agree; the reaper takes both back.
pub fn attach<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    access: u32,
) -> Result<Attachment> {
    let object = match access {
        0 => object::find_any(r, Kind::Seg, id)?,
        _ => object::find(r, Kind::Seg, c, id)?,
    };
    r.transact(on, |txn| {
        lock(txn, &object)?;
        permit(r, c, object.at, access)?;
        let (atime, lpid) =
            (txn.get(object.at.plus(seg::ATIME))?, txn.get(object.at.plus(seg::LPID))?);
        let before = Before { atime, lpid };
        count(txn, &object, c.task, c.who, 1)?;
        let list = r.block(txn.get(object.at.plus(seg::EXTENTS))?)?;
        let pages = txn.get(object.at.plus(seg::PAGES))?;
        let mut all = Vec::new();
        let mut sum = 0u32;
        for i in 0..txn.get(list.plus(extents::COUNT))?.min(most_extents(pages)) {
            let at = extent_at(list, i);
            let extent = Extent { first_page: txn.get(at)?, pages: txn.get(at.plus(8))? };
            let end = (u64::from(extent.first_page) + u64::from(extent.pages)) * PAGE;
            if u64::from(extent.first_page) * PAGE < r.table(Table::Pages).at.0
                || end > r.mem().len()
            {
                return Err(Error::Corrupt(Corrupt::new(at, "extent outside the region's pages")));
            }
            sum = sum.saturating_add(extent.pages);
            all.push(extent);
        }
        let size = get64(txn, object.at.plus(seg::SIZE_LO), object.at.plus(seg::SIZE_HI))?;
        if u64::from(sum) != size.div_ceil(PAGE) {
            return Err(Error::Corrupt(Corrupt::new(list, "extents do not add up to the segment")));
        }
        let (seg, life) = (object.index, object.life >> 2);
        Ok(Attachment { size, extents: all, seg, life, before })
    })
}

/// Adds attachments to the task's record and the segment, under the segment's lock.
fn count<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    id: TaskId,
    who: Identity,
    by: u32,
) -> Result<()> {
    let slot = txn.region().element(Table::Tasks, id.index)?;
    txn.lock(slot.plus(task::LOCK))?;
    object::alive(txn, id)?;
    match records(txn, slot)?.into_iter().find(|r| r.is(object)) {
        Some(found) => txn.set(found.at.plus(record::COUNT), found.count.saturating_add(by))?,
        None => {
            let Some(at) = txn.alloc(Pool::Misc, record::SIZE)? else {
                return Err(Errno::ENOMEM.into());
            };
            let head = txn.get(slot.plus(task::ATTACH))?;
            txn.set(at.plus(record::NEXT), head)?;
            txn.set(at.plus(record::SEG), object.index)?;
            txn.set(at.plus(record::LIFE), object.life >> 2)?;
            txn.set(at.plus(record::COUNT), by)?;
            txn.set(slot.plus(task::ATTACH), to_cell(at))?;
        }
    }
    let now = txn.region().mem().seconds();
    let nattch = txn.get(object.at.plus(seg::NATTCH))?;
    txn.set(object.at.plus(seg::NATTCH), nattch.saturating_add(by))?;
    txn.set(object.at.plus(seg::ATIME), now)?;
    Ok(txn.set(object.at.plus(seg::LPID), who.0)?)
}

/// An attachment record of a task.
#[derive(Clone, Copy)]
struct Record {
    before: Option<Offset>,
    at: Offset,
    seg: u32,
    life: u32,
    count: u32,
}

impl Record {
    fn is(&self, object: &Object) -> bool {
        self.seg == object.index && self.life == object.life >> 2
    }
}

fn records<P: Platform>(txn: &Txn<'_, P>, slot: Offset) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    let mut next = txn.get(slot.plus(task::ATTACH))?;
    let mut before = None;
    while next != 0 {
        if all.len() as u64 > txn.region().table(Table::Segs).count {
            return Err(Corrupt::new(slot, "attachment records form a circle").into());
        }
        let at = txn.region().block(next)?;
        let cell = |o: u64| txn.get(at.plus(o));
        let (seg, life) = (cell(record::SEG)?, cell(record::LIFE)?);
        all.push(Record { before, at, seg, life, count: cell(record::COUNT)? });
        before = Some(at);
        next = cell(record::NEXT)?;
    }
    Ok(all)
}

/// The counting half of `shmdt`: one attachment less; a removed segment goes with its last one.
///
/// # Errors
/// `EINVAL`: the task has no such attachment.
///
/// # If the caller dies
/// As in [`attach`].
pub fn detach<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    seg: u32,
    life: u32,
) -> Result<()> {
    let leaver = Leaver { id: c.task, who: c.who, before: None };
    drop_attachments(r, on, leaver, seg, life, 1)
}

/// Takes back an [`attach`] whose mapping failed: the times and the last task are as before, as
/// the kernel notes only what it has mapped.
///
/// # Errors
/// As [`detach`].
///
/// # If the caller dies
/// As in [`attach`].
pub fn cancel<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    seg: u32,
    life: u32,
    before: Before,
) -> Result<()> {
    let leaver = Leaver { id: c.task, who: c.who, before: Some(before) };
    drop_attachments(r, on, leaver, seg, life, 1)
}

/// Whose attachments go.
#[derive(Clone, Copy)]
struct Leaver {
    id: TaskId,
    who: Identity,
    /// What to put back, where nothing was mapped.
    before: Option<Before>,
}

/// Takes back `by` attachments, or all of them for `u32::MAX`.
fn drop_attachments<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    leaver: Leaver,
    index: u32,
    seq: u32,
    by: u32,
) -> Result<()> {
    let Leaver { id, who, before } = leaver;
    let (at, life) = (r.object(Kind::Seg, index)?, seq << 2 | obj::LIVE);
    let object = Object { index, at, life, peer: ANYONE };
    let slot = r.element(Table::Tasks, id.index)?;
    let forced = is_forced(r)?;
    let mut doomed = forced || r.peek(object.at.plus(obj::LIFE))? & 3 == obj::DOOMED;
    loop {
        let done = r.transact(on, |txn| {
            if doomed {
                txn.lock(Kind::Seg.dir().plus(dir::LOCK))?;
            }
            let state = lock(txn, &object);
            txn.lock(slot.plus(task::LOCK))?;
            if txn.word(slot.plus(task::STATE))? >> 8 != id.incarnation {
                return Err(Error::from(Errno::EINVAL));
            }
            let found = records(txn, slot)?.into_iter().find(|r| r.is(&object));
            let found = found.ok_or(Errno::EINVAL)?;
            let gone = by.min(found.count);
            if gone == found.count {
                let next = txn.get(found.at.plus(record::NEXT))?;
                match found.before {
                    Some(before) => txn.set(before.plus(record::NEXT), next)?,
                    None => txn.set(slot.plus(task::ATTACH), next)?,
                }
                txn.free(Pool::Misc, record::SIZE, found.at)?;
            } else {
                txn.set(found.at.plus(record::COUNT), found.count - gone)?;
            }
            let Ok(state) = state else { return Ok(()) };
            let now = r.mem().seconds();
            let left = txn.get(object.at.plus(seg::NATTCH))?.saturating_sub(gone);
            txn.set(object.at.plus(seg::NATTCH), left)?;
            match before {
                None => {
                    txn.set(object.at.plus(seg::DTIME), now)?;
                    txn.set(object.at.plus(seg::LPID), who.0)?;
                }
                // Unless somebody else has attached since.
                Some(Before { atime, lpid }) if txn.get(object.at.plus(seg::LPID))? == who.0 => {
                    txn.set(object.at.plus(seg::ATIME), atime)?;
                    txn.set(object.at.plus(seg::LPID), lpid)?;
                }
                Some(_) => {}
            }
            if left == 0 && (forced || state & 3 == obj::DOOMED) {
                if !doomed {
                    return Err(Errno::EIDRM.into());
                }
                destroy(txn, &object)?;
            }
            Ok(())
        });
        match done {
            // Removed since we looked: the last one needs the directory's lock, and takes it first.
            Err(Error::Errno(Errno::EIDRM)) if !doomed => doomed = true,
            Err(error) => return Err(error),
            Ok(()) => return crate::reap::drop_own(r, on),
        }
    }
}

fn snapshot<P: Platform>(r: &Region<P>, on: &mut Lane, id: TaskId) -> Result<Vec<Record>> {
    let slot = r.element(Table::Tasks, id.index)?;
    r.transact(on, |txn| {
        txn.lock(slot.plus(task::LOCK))?;
        if txn.word(slot.plus(task::STATE))? >> 8 != id.incarnation {
            return Ok(Vec::new());
        }
        records(txn, slot)
    })
}

/// Gives `child` what its parent has attached, as fork does, except for as many of a segment (by
/// index and sequence number) as `without` says. `child` must be registered.
///
/// # Errors
/// `ENOMEM`: undo it by reaping the child's slot.
pub fn inherit<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    parent: TaskId,
    child: TaskId,
    without: impl Fn(u32, u32) -> u32,
) -> Result<()> {
    let slot = r.element(Table::Tasks, parent.index)?;
    let (peer, pid) = (r.peek(slot.plus(task::PEER))?, r.peek(slot.plus(task::PID))?);
    for found in snapshot(r, on, parent)? {
        let n = found.count.saturating_sub(without(found.seg, found.life));
        if n == 0 {
            continue;
        }
        let at = r.object(Kind::Seg, found.seg)?;
        let (index, life) = (found.seg, found.life << 2 | obj::LIVE);
        let object = Object { index, at, life, peer: ANYONE };
        r.transact(on, |txn| {
            lock(txn, &object)?;
            // The kernel, too, names the forking parent.
            count(txn, &object, child, Identity::new(peer, pid), n)
        })?;
    }
    Ok(())
}

/// Drops everything a task has attached, as exec and exit do.
///
/// # Errors
/// The region is corrupt.
///
/// # If the caller dies
/// The rest is still recorded; whoever reaps the task goes on.
pub fn detach_all<P: Platform>(r: &Region<P>, on: &mut Lane, id: TaskId) -> Result<()> {
    let slot = r.element(Table::Tasks, id.index)?;
    let who = Identity::new(r.peek(slot.plus(task::PEER))?, r.peek(slot.plus(task::PID))?);
    for found in snapshot(r, on, id)? {
        let leaver = Leaver { id, who, before: None };
        match drop_attachments(r, on, leaver, found.seg, found.life, u32::MAX) {
            // Another reaper was faster.
            Ok(()) | Err(Error::Errno(Errno::EINVAL)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Who has the segment attached.
pub(crate) fn holders<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    object: &Object,
) -> Result<Vec<Holder>> {
    let mut all = Vec::new();
    for task in r.tasks()? {
        let found = snapshot(r, on, task.id)?.into_iter().find(|record| record.is(object));
        let holder = |record: Record| Holder {
            task: task.id,
            peer: task.peer,
            pid: task.pid,
            times: record.count,
        };
        all.extend(found.map(holder));
    }
    Ok(all)
}
