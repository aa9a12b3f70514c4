//! The arena, and what is nobody's or two owners'.

use super::{Mended, still};
use crate::Error;
use crate::check::part::{Fault, Finding, Fix, View, Who};
use vshmem_core::arena::{Left, Pool, pool_at};
use vshmem_core::layout::{PAGE, Table, arena, extents, sb};
use vshmem_core::{Lane, Offset, Platform, Txn};

const LOCK: Offset = Offset(sb::ARENA + arena::LOCK);
/// Blocks given back in one transaction.
const BATCH: u64 = 500;

pub(super) fn mend<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding) -> Mended {
    match (f.fault, f.fix) {
        (Fault::Arena, _) => cut(v, on, f),
        (Fault::Pages, _) => count(v, on, f),
        (Fault::Shared, Fix::Unlink(link)) => {
            under(v, on, f, |txn| {
                // What stands behind it in the list is nobody's then, and given back as such.
                txn.set(link, 0)?;
                Ok(Some("the free list ends before it"))
            })
        }
        (Fault::Shared, _) => match f.who {
            Who::Object(kind, index, _) => super::objects::discard(v, on, kind, index),
            _ => Ok(None),
        },
        (Fault::Unmarked, Fix::Pages(first, n)) => under(v, on, f, |txn| {
            mark(txn, first, n.min(extents::MAX_PAGES.into()), true)?;
            recount(v, txn)?;
            Ok(Some("marked as in use"))
        }),
        (Fault::Leaked, Fix::Pages(first, n)) => {
            let n = n.min(extents::MAX_PAGES.into());
            under(v, on, f, |txn| {
                txn.free_run(first as u32, n as u32, Left::Cold)?;
                Ok(Some("given back"))
            })
        }
        (Fault::Leaked, Fix::Blocks(pool, class, first, n)) => under(v, on, f, |txn| {
            give_back(txn, pool, class, first, n.min(BATCH))?;
            Ok(Some("given back"))
        }),
        _ => Ok(None),
    }
}

/// Runs `f` under the arena's lock, if the finding still stands.
fn under<P: Platform>(
    v: View<'_, P>,
    on: &mut Lane,
    finding: &Finding,
    f: impl Fn(&mut Txn<'_, P>) -> Mended,
) -> Mended {
    v.r.transact(on, |txn| {
        txn.lock(LOCK)?;
        if still(txn, finding)? { f(txn) } else { Ok(None) }
    })
}

fn give_back<P: Platform>(
    txn: &mut Txn<'_, P>,
    pool: Pool,
    class: u64,
    first: u64,
    n: u64,
) -> Result<(), Error> {
    for i in 0..n {
        let block = txn.region().block((first + (i << class)) as u32)?;
        txn.free(pool, 64 << class, block)?;
    }
    Ok(())
}

/// A free list ends before what is no block; what is carved ends where that makes no sense.
fn cut<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding) -> Mended {
    let carving = Pool::ALL.into_iter().flat_map(|pool| {
        (0..u64::from(arena::CLASSES)).map(move |class| pool_at(pool, class).plus(8))
    });
    let carved = carving.into_iter().any(|at| at == f.at);
    under(v, on, f, |txn| {
        if carved {
            txn.set(f.at, 0)?;
            txn.set(f.at.plus(8), 0)?;
            return Ok(Some("the pool carves anew"));
        }
        txn.set(f.at, 0)?;
        Ok(Some("the free list ends there"))
    })
}

fn mark<P: Platform>(txn: &mut Txn<'_, P>, first: u64, n: u64, on: bool) -> Result<(), Error> {
    let bitmap = txn.region().table(Table::PageUsed).at;
    for page in first..first + n {
        let at = bitmap.index(page / 32, 8);
        let bits = txn.get(at)?;
        let bit = 1 << (page % 32);
        txn.set(at, if on { bits | bit } else { bits & !bit })?;
    }
    Ok(())
}

/// Counts the pages that are marked. The bits outside the pages go.
fn recount<P: Platform>(v: View<'_, P>, txn: &mut Txn<'_, P>) -> Result<(), Error> {
    let place = v.r.table(Table::Pages);
    let (first, end) = (place.at.0 / PAGE, place.at.0 / PAGE + place.count);
    let mut used = 0;
    for table in [Table::PageDirty, Table::PageUsed] {
        let bitmap = v.r.table(table);
        used = 0;
        for i in 0..bitmap.count {
            let at = bitmap.at.index(i, 8);
            let bits = txn.get(at)?;
            let inside = (0..32).filter(|b| (first..end).contains(&(i * 32 + b)));
            let kept = bits & inside.fold(0, |mask, b| mask | 1 << b);
            if kept != bits && txn.room() > 64 {
                txn.set(at, kept)?;
            }
            used += kept.count_ones();
        }
    }
    Ok(txn.set(Offset(sb::ARENA + arena::PAGES), used)?)
}

fn count<P: Platform>(v: View<'_, P>, on: &mut Lane, f: &Finding) -> Mended {
    under(v, on, f, |txn| {
        recount(v, txn)?;
        Ok(Some("counted anew"))
    })
}
