//! The checker: walks the whole region and says what is not as it must be.
//!
//! [`look`] walks once, [`check`] until what is left is certain. Both complete committed
//! transactions they meet, as everybody does who needs a lock, and change nothing else.
//!
//! # What a finding is worth
//!
//! **On a region nobody changes** (every task at rest, asleep or stopped) one look is exact: each
//! finding is true, and of what is listed under [`Fault`] nothing is overlooked.
//!
//! **On a live region** each object is looked at under its own lock, so what is said of one object
//! alone was true at one moment. What two places must agree on (a block and its owner, a count and
//! what is counted) is read at two moments and may be a mixture. Therefore a finding carries the
//! words it rests on with their tags, which grow with every change, and [`check`] keeps only what
//! several looks found with the same words: then both places held what is said at the same time. So
//! what it reports is true there too; but damage in a place that changes from look to look is
//! reported only when that comes to rest. That concerns pages and blocks that nobody owns, in
//! classes of blocks that come and go all the time.
//!
//! Not looked at: what programs keep in segments, and the hints (wake bitmaps, the arena's cursor).
//!
//! Contents may be hostile: everything read is checked against the tables before it is used, every
//! walk is bounded by what the memory has room for.

mod ground;
mod memory;
mod objects;
mod part;
mod people;
pub mod repair;
mod ring;
mod waiting;

pub use part::{Fault, Finding};
pub use repair::{Repair, remedy, repair};

use crate::Result;
use part::{Part, View};
use vshmem_core::layout::{Table, obj};
use vshmem_core::region::Kind;
use vshmem_core::{Lane, LaneId, Offset, Platform, Region};

/// Looks that must find the same before [`check`] believes it: a block changes hands at most three
/// times without leaving a trace in its own words.
pub const LOOKS: u32 = 5;

/// Looks once at everything; see the [module](self) for what that is worth.
///
/// # Errors
/// The caller was shut out of the region.
///
/// # If the caller dies
/// Nothing has changed.
pub fn look<P: Platform>(r: &Region<P>, on: &mut Lane) -> Result<Vec<Finding>> {
    let view = View { r };
    let mut part = Part::default();
    for i in 0..r.table(Table::Owners).count as u32 {
        people::finish(view, LaneId(i), &mut part);
    }
    // Before its owners: what they have that is not marked was taken since, and the next look knows.
    let pages = memory::Pages::read(view);
    ground::superblock(view, &mut part);
    for kind in Kind::ALL {
        for index in 0..r.table(kind.table()).count as u32 {
            let at = r.object(kind, index)?;
            part.lock_word(view, part::Who::of(view, kind, index), at.plus(obj::LOCK));
            if view.cell(at.plus(obj::LIFE)) & 3 != obj::FREE {
                let who = part::Who::of(view, kind, index);
                locked(r, on, at.plus(obj::LOCK), who, &mut part, |part| {
                    objects::one(view, kind, index, part);
                })?;
            }
        }
        ground::directory(view, kind, &mut part);
    }
    waiting::buckets(view, &mut part, |lock, who, part, f| locked(r, on, lock, who, part, f))?;
    people::peers(view, &mut part);
    people::tasks(view, &mut part, |lock, who, part, f| locked(r, on, lock, who, part, f))?;
    people::lanes(view, &mut part);
    part.attachments();
    memory::arena(view, &mut part);
    memory::ownership(view, &pages, &mut part);
    part.found.sort_by_key(|f| (f.at, f.fault));
    Ok(part.found)
}

/// Looks until what is left was found [`LOOKS`] times with the same words; `pause` is called
/// between two looks and should pass some milliseconds. A region where all is well is looked at once.
///
/// # Errors
/// As [`look`].
///
/// # If the caller dies
/// Nothing has changed.
pub fn check<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    pause: impl FnMut(),
) -> Result<Vec<Finding>> {
    check_with(r, on, LOOKS, pause)
}

fn check_with<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    looks: u32,
    mut pause: impl FnMut(),
) -> Result<Vec<Finding>> {
    let mut found = look(r, on)?;
    for _ in 1..looks {
        if found.is_empty() {
            break;
        }
        pause();
        let again = look(r, on)?;
        found.retain(|f| again.contains(f));
    }
    Ok(found)
}

/// Runs `f` while the lock at `lock` is held; where it cannot be had, without.
fn locked<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    lock: Offset,
    who: part::Who,
    part: &mut Part,
    f: impl Fn(&mut Part),
) -> Result<()> {
    let read = r.transact(on, |txn| {
        txn.lock(lock)?;
        // Made anew where the lock was stolen meanwhile.
        let mut own = Part::default();
        f(&mut own);
        Ok::<_, vshmem_core::Corrupt>(own)
    });
    match read {
        Ok(own) => part.append(own),
        Err(e) if e.is_fenced() => return Err(e.into()),
        Err(e) => {
            part.note(View { r }, Fault::Lock, who, lock, e.what.to_owned(), &[lock]);
            f(part);
        }
    }
    Ok(())
}
