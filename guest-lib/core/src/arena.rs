//! The region's memory: pages for segments, blocks for everything small.
//!
//! Pages come from a bitmap. Blocks are powers of two from 64 bytes to 2 MiB, in four pools; a
//! pool takes runs of pages, carves them and never gives them back, so that a block's memory keeps
//! its type for ever (why that matters: [`crate::txn`]). A block begins with a link cell that
//! belongs to the arena.
//!
//! Everything here runs inside the caller's transaction, so that an allocation and the place that
//! remembers it change in one step.

use crate::layout::{PAGE, Table, arena, extents, sb};
use crate::mem::{Corrupt, Offset, Platform};
use crate::region::Region;
use crate::txn::Txn;

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u64)]
pub enum Pool {
    /// Semaphores.
    Sems = 0,
    /// Messages.
    Msgs = 1,
    /// Undo records.
    Undo = 2,
    /// Extents and attachment records, by their own sizes.
    Misc = 3,
    /// Queues' rings.
    Rings = 4,
}

impl Pool {
    /// All of them.
    pub const ALL: [Self; arena::POOLS_COUNT as usize] =
        [Self::Sems, Self::Msgs, Self::Undo, Self::Misc, Self::Rings];
}

/// How pages are when they are given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// They read as zeros.
    Zeroed,
    /// In the caches, and nobody writes them any more: the next to be used.
    Warm,
    /// Who had them was taken for dead, and might be in the middle of a store: not the next.
    Cold,
}

const LOCK: Offset = Offset(sb::ARENA + arena::LOCK);
const CURSOR: Offset = Offset(sb::ARENA + arena::CURSOR);
const IN_USE: Offset = Offset(sb::ARENA + arena::PAGES);
/// Pages a pool takes at a time.
const CARVE: u32 = 16;
/// Pages from which on a run is aligned to 2 MiB, so that it can be mapped by huge pages.
const HUGE: u32 = 512;

/// The class of blocks that hold `size` bytes; `None` for more than the largest block.
#[must_use]
pub fn class_of(size: u64) -> Option<u64> {
    let shift = u64::from(size.max(1).next_power_of_two().trailing_zeros().max(arena::MIN_SHIFT));
    let class = shift - u64::from(arena::MIN_SHIFT);
    (class < u64::from(arena::CLASSES)).then_some(class)
}

/// Bytes of a block of class `class`.
#[must_use]
pub const fn class_bytes(class: u64) -> u64 {
    1 << (class + arena::MIN_SHIFT as u64)
}

/// A block's offset as cells carry it.
#[must_use]
pub fn to_cell(block: Offset) -> u32 {
    (block.0 >> arena::MIN_SHIFT) as u32
}

impl<P: Platform> Region<P> {
    /// The block a cell names.
    ///
    /// # Errors
    /// The cell names nothing inside the region's pages.
    #[inline]
    pub fn block(&self, cell: u32) -> Result<Offset, Corrupt> {
        let block = Offset(u64::from(cell) << arena::MIN_SHIFT);
        if block < self.table(Table::Pages).at || block.0 >= self.mem().len() {
            return Err(Corrupt::new(block, "block outside the region's pages"));
        }
        Ok(block)
    }

    /// Zeroes those pages of a run that may hold old bytes. The run must be the caller's own.
    ///
    /// # Errors
    /// The run is outside the region.
    pub fn scrub(&self, first: u32, pages: u32) -> Result<(), Corrupt> {
        let dirty = self.table(Table::PageDirty);
        for page in first..first.saturating_add(pages) {
            let cell = self.peek(dirty.at.index(u64::from(page / 32), 8))?;
            if cell >> (page % 32) & 1 == 1 {
                self.mem().zero(Offset(u64::from(page) * PAGE), PAGE)?;
            }
        }
        Ok(())
    }

    /// Pages in use, and all pages.
    ///
    /// # Errors
    /// Never after a successful open.
    pub fn pages(&self) -> Result<(u64, u64), Corrupt> {
        Ok((self.peek(IN_USE)?.into(), self.table(Table::Pages).count))
    }
}

impl<P: Platform> Txn<'_, P> {
    /// Takes a block of at least `size` bytes; `None` when there is no room for it.
    ///
    /// # Errors
    /// The arena is corrupt.
    pub fn alloc(&mut self, pool: Pool, size: u64) -> Result<Option<Offset>, Corrupt> {
        let Some(class) = class_of(size) else { return Ok(None) };
        let size = 1u64 << (class + u64::from(arena::MIN_SHIFT));
        self.lock(LOCK)?;
        let at = pool_at(pool, class);
        let head = self.get(at)?;
        if head != 0 {
            let block = self.region().block(head)?;
            let next = self.get(block)?;
            self.set(at, next)?;
            return Ok(Some(block));
        }
        let (carve, end) = (self.get(at.plus(8))?, self.get(at.plus(16))?);
        let units = (size >> arena::MIN_SHIFT) as u32;
        let block = if end.checked_sub(carve).is_some_and(|left| left >= units) {
            carve
        } else {
            let pages = CARVE.max((size / PAGE) as u32);
            let Some(page) = self.take_run(pages)? else { return Ok(None) };
            let first = to_cell(Offset(u64::from(page) * PAGE));
            self.set(at.plus(16), first + pages * (PAGE >> arena::MIN_SHIFT) as u32)?;
            first
        };
        self.set(at.plus(8), block + units)?;
        Ok(Some(self.region().block(block)?))
    }

    /// Gives back a block taken with the same pool and size.
    ///
    /// # Errors
    /// The arena is corrupt.
    pub fn free(&mut self, pool: Pool, size: u64, block: Offset) -> Result<(), Corrupt> {
        let Some(class) = class_of(size) else {
            return Err(Corrupt::new(block, "block of a size the arena does not have"));
        };
        self.lock(LOCK)?;
        let at = pool_at(pool, class);
        let head = self.get(at)?;
        self.set(block, head)?;
        self.set(at, to_cell(block))
    }

    /// Takes `pages` pages in one run; the first one's number, or `None` where no such run is free.
    /// Its pages may hold old bytes: [`Region::scrub`].
    ///
    /// # Errors
    /// The bitmap is corrupt, or the run longer than [`extents::MAX_PAGES`].
    pub fn take_run(&mut self, pages: u32) -> Result<Option<u32>, Corrupt> {
        if pages == 0 || pages > extents::MAX_PAGES {
            return Err(Corrupt::new(LOCK, "page run of impossible length"));
        }
        self.lock(LOCK)?;
        let place = self.region().table(Table::Pages);
        let first = (place.at.0 / PAGE) as u32;
        let end = first.saturating_add(place.count as u32);
        let cursor = self.get(CURSOR)?.clamp(first, end);
        let found = match self.search(cursor, end, pages)? {
            Some(page) => Some(page),
            None => self.search(first, end, pages)?,
        };
        let Some(page) = found else { return Ok(None) };
        self.mark(Table::PageUsed, page, pages, true)?;
        self.set(CURSOR, page + pages)?;
        let used = self.get(IN_USE)?;
        self.set(IN_USE, used.saturating_add(pages))?;
        Ok(Some(page))
    }

    /// Gives back a run, or part of one.
    ///
    /// # Errors
    /// The pages are not in use, or outside.
    pub fn free_run(&mut self, first: u32, pages: u32, state: Left) -> Result<(), Corrupt> {
        self.lock(LOCK)?;
        let place = self.region().table(Table::Pages);
        let lowest = (place.at.0 / PAGE) as u32;
        if first < lowest || u64::from(first - lowest) + u64::from(pages) > place.count {
            return Err(Corrupt::new(
                Offset(u64::from(first) * PAGE),
                "page run outside the region",
            ));
        }
        self.mark(Table::PageUsed, first, pages, false)?;
        self.mark(Table::PageDirty, first, pages, state != Left::Zeroed)?;
        if state == Left::Warm {
            self.set(CURSOR, first)?;
        }
        let used = self.get(IN_USE)?;
        self.set(IN_USE, used.saturating_sub(pages))
    }

    /// First run of `pages` free pages in `from..end`.
    fn search(&self, from: u32, end: u32, pages: u32) -> Result<Option<u32>, Corrupt> {
        let bitmap = self.region().table(Table::PageUsed).at;
        let align = if pages >= HUGE { HUGE } else { 1 };
        let mut start = from.next_multiple_of(align);
        let mut page = start;
        while page < end {
            if u64::from(end) < u64::from(start) + u64::from(pages) {
                return Ok(None);
            }
            let cell = self.get(bitmap.index(u64::from(page / 32), 8))? >> (page % 32);
            let left = 32 - page % 32;
            let free = cell.trailing_zeros().min(left);
            page += free;
            if page - start >= pages {
                return Ok(Some(start));
            }
            if free < left {
                let used = (!(cell >> free)).trailing_zeros().min(left - free);
                page += used.max(1);
                start = page.next_multiple_of(align);
                page = start;
            }
        }
        Ok(None)
    }

    fn mark(&mut self, t: Table, first: u32, pages: u32, on: bool) -> Result<(), Corrupt> {
        let bitmap = self.region().table(t).at;
        let (mut page, end) = (first, first + pages);
        while page < end {
            let n = (32 - page % 32).min(end - page);
            let mask = (u32::MAX >> (32 - n)) << (page % 32);
            let at = bitmap.index(u64::from(page / 32), 8);
            let old = self.get(at)?;
            if t == Table::PageUsed && (old & mask != if on { 0 } else { mask }) {
                return Err(Corrupt::new(at, "page bitmap disagrees with its user"));
            }
            let new = if on { old | mask } else { old & !mask };
            if new != old {
                self.set(at, new)?;
            }
            page += n;
        }
        Ok(())
    }
}

/// Where the arena keeps {free list, carving position, carving end} of a pool's class.
#[must_use]
pub fn pool_at(pool: Pool, class: u64) -> Offset {
    let i = pool as u64 * u64::from(arena::CLASSES) + class;
    Offset(sb::ARENA + arena::POOLS).index(i, arena::POOL_STRIDE)
}

#[cfg(all(test, not(loom)))]
mod tests;
