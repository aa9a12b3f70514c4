//! Repair: what can be made whole again without guessing is.
//!
//! [`repair`] checks, mends what it found, and checks again until nothing more can be done. Each
//! mending is one transaction (or one compare-and-swap) that first sees that the words the finding
//! rests on are still as they were; so it may run beside programs at work, and a repair that dies
//! anywhere is continued by the next one, which finds the rest.
//!
//! # What is done
//!
//! * Counts, indices and key chains are made anew from the objects. Of two objects with one key, the
//!   one of the higher index loses it.
//! * Lists of sleepers are made anew from what the sleepers' lanes say. A sleeper that belongs
//!   nowhere is told EIDRM; a parked one is woken.
//! * A queue keeps the messages up to the first broken one.
//! * A set or queue of which the content cannot be known is removed: its sleepers are told EIDRM, and
//!   calls on its id give EINVAL. A segment is only when nobody has it attached.
//! * Undo and attachment records are kept up to the broken one.
//! * Lanes of the gone are freed, the dead reaped, a journal that cannot be completed given up.
//! * A free list is cut before its broken block.
//! * Last, when nothing else is wrong any more, what belongs to nobody is given back.
//!
//! What then stays is in [`Repair::left`], and [`remedy`] says what a person can do.

mod memory;
mod objects;
mod people;

use super::part::{Fault, Finding, View, Who};
use super::{check_with, part};
use crate::{Error, Result};
use vshmem_core::layout::{Limit, MAGIC, PAGE_SHIFT, VERSION, sb};
use vshmem_core::mem::Ordering;
use vshmem_core::{Lane, Offset, Platform, Region, Txn};

/// Rounds of checking and mending: what one mends, another may bring to light.
const ROUNDS: u32 = 16;

/// What a repair did and did not do.
#[derive(Clone, Debug, Default)]
pub struct Repair {
    /// What was mended, and how, in the order in which that happened.
    pub done: Vec<String>,
    /// What is still wrong.
    pub left: Vec<Finding>,
}

/// Mends what can be mended; see the [module](self). `looks` is how often the same must be found
/// before it is believed: [`super::LOOKS`], or 1 for a region that nobody uses. `pause` as in
/// [`super::check`].
///
/// # Errors
/// The caller was shut out of the region.
///
/// # If the caller dies
/// Each mending has happened or not; another repair goes on.
pub fn repair<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    looks: u32,
    mut pause: impl FnMut(),
) -> Result<Repair> {
    let mut repair = Repair::default();
    for _ in 0..ROUNDS {
        let found = check_with(r, on, looks, &mut pause)?;
        let mut mended = false;
        let only_lost = found.iter().all(|f| f.fault == Fault::Leaked);
        for finding in &found {
            // While anything else is wrong, what seems to be nobody's may be what that leads to.
            if finding.fault == Fault::Leaked && !only_lost {
                continue;
            }
            if let Some(how) = mend(r, on, finding)? {
                repair.done.push(format!("{finding}: {how}"));
                mended = true;
            }
        }
        repair.left = found;
        if !mended {
            return Ok(repair);
        }
    }
    repair.left = check_with(r, on, looks, &mut pause)?;
    Ok(repair)
}

/// Mends one finding, and says how; `None` where it cannot, or where it is no longer so.
fn mend<P: Platform>(r: &Region<P>, on: &mut Lane, f: &Finding) -> Result<Option<&'static str>> {
    let v = View { r };
    if !stands(v, f) {
        return Ok(None);
    }
    let mended = match (f.fault, f.who) {
        (Fault::Superblock, _) => superblock(v, f.at),
        (Fault::Limit, _) => limit(v, f.at),
        (Fault::Lock, _) => swap(v, f, 0, "the lock is free"),
        (Fault::Directory | Fault::Index | Fault::Key, _) => objects::directory(v, on, f),
        (
            Fault::Object
            | Fault::Segment
            | Fault::Set
            | Fault::Queue
            | Fault::Ring
            | Fault::Attached,
            Who::Object(kind, index, _),
        ) => objects::object(v, on, f, kind, index),
        (Fault::Waiters | Fault::Overlooked, Who::Object(kind, index, _)) => {
            objects::sleepers(v, on, kind, index)
        }
        (Fault::Waiters, Who::Bucket(index)) => objects::bucket(v, on, index),
        (Fault::Waiting | Fault::Lane | Fault::Journal | Fault::Held, Who::Lane(id)) => {
            people::lane(v, on, f, id)
        }
        (Fault::Undo, Who::Lane(id)) => people::lane(v, on, f, id),
        (Fault::Undo | Fault::Record | Fault::Task | Fault::Unreaped, Who::Task(index)) => {
            people::task(v, on, f, index)
        }
        (Fault::Peer | Fault::Unreaped, Who::Peer(index)) => people::peer(v, on, f, index),
        (Fault::Arena | Fault::Pages | Fault::Shared | Fault::Unmarked | Fault::Leaked, _) => {
            memory::mend(v, on, f)
        }
        _ => Ok(None),
    };
    match mended {
        // What is damaged in more than one place may keep the mending from it for a while.
        Err(Error::Corrupt(e)) if !e.is_fenced() => Ok(None),
        // Gone meanwhile.
        Err(Error::Errno(crate::Errno::EINVAL)) => Ok(None),
        mended => mended,
    }
}

/// Whether everything the finding rests on is as it was.
fn stands<P: Platform>(v: View<'_, P>, f: &Finding) -> bool {
    f.evidence.iter().all(|(at, word)| v.word(*at) == *word)
}

/// The same inside a transaction, whose locks keep it so.
fn still<P: Platform>(txn: &Txn<'_, P>, f: &Finding) -> Result<bool> {
    for (at, word) in &f.evidence {
        if txn.word(*at)? != *word {
            return Ok(false);
        }
    }
    Ok(true)
}

type Mended = Result<Option<&'static str>>;

/// Replaces the word at the finding's place by `new`, if it is still what was found.
fn swap<P: Platform>(v: View<'_, P>, f: &Finding, new: u64, how: &'static str) -> Mended {
    let Some((at, old)) = f.evidence.iter().find(|(at, _)| *at == f.at) else { return Ok(None) };
    Ok(v.r.mem().cas(*at, *old, new)?.then_some(how))
}

fn superblock<P: Platform>(v: View<'_, P>, at: Offset) -> Mended {
    let geometry = v.r.geometry();
    let word = match at.0 {
        sb::MAGIC => MAGIC,
        sb::VERSION => u64::from(PAGE_SHIFT) << 32 | u64::from(VERSION),
        sb::INCOMPAT | sb::RO_COMPAT => 0,
        sb::LEN => geometry.len,
        sb::NUMBER => geometry.number.into(),
        place if (sb::TABLES..sb::LIMITS).contains(&place) => {
            let Some(table) = geometry.tables.get(((place - sb::TABLES) / 24) as usize) else {
                return Ok(None);
            };
            for (o, word) in [(0, table.at.0), (8, table.stride), (16, table.count)] {
                v.r.mem().store(at.plus(o), word, Ordering::Release)?;
            }
            return Ok(Some("written anew, as it was when this process attached"));
        }
        _ => return Ok(None),
    };
    v.r.mem().store(at, word, Ordering::Release)?;
    Ok(Some("written anew, as it was when this process attached"))
}

fn limit<P: Platform>(v: View<'_, P>, at: Offset) -> Mended {
    let limit = Limit::ALL.into_iter().find(|l| Offset(sb::LIMITS + *l as u64 * 8) == at);
    let Some(limit) = limit else { return Ok(None) };
    v.r.set_limit(limit, v.r.geometry().limit_max(limit))?;
    Ok(Some("set to what there is room for"))
}

/// What a person can do about a finding that stays.
#[must_use]
pub const fn remedy(f: &Finding) -> &'static str {
    match (f.fault, f.who) {
        (Fault::Superblock, _) => "end its programs and restart vshmemd, which makes it anew",
        (Fault::Segment | Fault::Attached | Fault::Object, Who::Object(part::SEG, ..)) => {
            "end the programs that have it attached (`vshmem task list`), then repair again"
        }
        (Fault::Shared, _) => "remove one of the two with `vshmem ipcrm`, then repair again",
        (Fault::Unreaped | Fault::Peer, _) => "see that vshmemd (in a guest: `vshmem agent`) runs",
        (Fault::Task | Fault::Lane | Fault::Held | Fault::Waiting, _) => {
            "end the process it belongs to (`vshmem task list`), then repair again"
        }
        (Fault::Leaked, _) => "repair again when its programs rest; else make the region anew",
        _ => "repair again when its programs rest; else end them and make the region anew",
    }
}
