//! The calls that change what is mapped, where they meet attached segments: the kernel's work is
//! left to the kernel, the counting done here; what `mremap` does with a segment is done here too.

use crate::areas::{Area, flags};
use crate::error::Result;
use crate::pieces::{self, Attach, Table};
use crate::place::{self, PAGE_BYTES as PAGE};
use crate::sys;
use crate::system_call;
use crate::whereabouts;
use libc::c_int;
use std::sync::Arc;

/// For a library that has taken the C library's calls that change mappings into its hands. Each
/// makes its system call: the result is the kernel's, an errno with a minus sign when it failed.
///
/// They cost more than the system call where a segment is attached in or between what they change,
/// so ask [`AddressSpace::touches`] first.
#[derive(Debug)]
pub struct AddressSpace;

impl AddressSpace {
    /// Whether a change of `len` bytes at `at` may meet an attached segment.
    #[inline]
    #[must_use]
    pub fn touches(at: usize, len: usize) -> bool {
        whereabouts::touches(at, at.saturating_add(len.max(1)))
    }

    /// `shmdt`, of a segment of any session; `false` if none is attached at `at`.
    ///
    /// # Errors
    /// The region is corrupt.
    ///
    /// # Safety
    /// The mapping vanishes: nothing of this program may use it any more.
    pub unsafe fn detach(at: usize) -> Result<bool> {
        pieces::detach(at)
    }

    /// `munmap`.
    ///
    /// # Safety
    /// As the system call's.
    #[must_use]
    pub unsafe fn unmap(at: usize, len: usize) -> isize {
        let mut table = Table::lock();
        // SAFETY: as the caller promises.
        let rc = unsafe { system_call!(libc::SYS_munmap, at, len) };
        if rc == 0 {
            table.unmapped(at, end(at, len));
        }
        rc
    }

    /// `mmap` with `MAP_FIXED`.
    ///
    /// # Safety
    /// As the system call's.
    #[must_use]
    pub unsafe fn map_over(
        at: usize,
        len: usize,
        protection: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> isize {
        let mut table = Table::lock();
        // SAFETY: as the caller promises.
        let rc = unsafe { system_call!(libc::SYS_mmap, at, len, protection, flags, fd, offset) };
        if !is_error(rc) {
            table.unmapped(at, end(at, len));
        }
        rc
    }

    /// `mprotect`.
    ///
    /// # Safety
    /// As the system call's.
    #[must_use]
    pub unsafe fn protect(at: usize, len: usize, protection: c_int) -> isize {
        let mut table = Table::lock();
        // SAFETY: as the caller promises.
        let rc = unsafe { system_call!(libc::SYS_mprotect, at, len, protection) };
        // It goes from mapping to mapping, up to the first that it cannot change.
        let reach = match rc.unsigned_abs() as c_int {
            0 => end(at, len),
            libc::ENOMEM => first_gap(&table, at, end(at, len)),
            libc::EACCES => first_read_only(&table, at, end(at, len)),
            _ => return rc,
        };
        let protection = protection.cast_unsigned() & flags::PROTECTION;
        table.changed(at, reach, |f| f & !flags::PROTECTION | protection);
        rc
    }

    /// `madvise`.
    ///
    /// # Safety
    /// As the system call's.
    #[must_use]
    pub unsafe fn advise(at: usize, len: usize, advice: c_int) -> isize {
        let mut table = Table::lock();
        // SAFETY: as the caller promises.
        let mut rc = unsafe { system_call!(libc::SYS_madvise, at, len, advice) };
        if rc == -(libc::EINVAL as isize) && advice == libc::MADV_DODUMP && at.is_multiple_of(PAGE)
        {
            rc = dump_others(&table, at, end(at, len));
        }
        // With ENOMEM it has left out what is not mapped, and gone on.
        if rc == 0 || rc == -(libc::ENOMEM as isize) {
            let (off, on) = match advice {
                libc::MADV_NORMAL => (flags::RANDOM | flags::SEQUENTIAL, 0),
                libc::MADV_RANDOM => (flags::SEQUENTIAL, flags::RANDOM),
                libc::MADV_SEQUENTIAL => (flags::RANDOM, flags::SEQUENTIAL),
                libc::MADV_DONTFORK => (0, flags::DONT_FORK),
                libc::MADV_DOFORK => (flags::DONT_FORK, 0),
                libc::MADV_DONTDUMP => (0, flags::DONT_DUMP),
                libc::MADV_DODUMP => (flags::DONT_DUMP, 0),
                libc::MADV_HUGEPAGE => (flags::NO_HUGE, flags::HUGE),
                libc::MADV_NOHUGEPAGE => (flags::HUGE, flags::NO_HUGE),
                _ => return rc,
            };
            table.changed(at, end(at, len), |f| f & !off | on);
        }
        rc
    }

    /// `mlock` (with `how` 0), `mlock2`, and `munlock` (with none).
    ///
    /// # Safety
    /// As the system call's.
    #[must_use]
    pub unsafe fn lock(at: usize, len: usize, how: Option<c_int>) -> isize {
        let mut table = Table::lock();
        // SAFETY: as the caller promises.
        let rc = unsafe {
            match how {
                Some(0) => system_call!(libc::SYS_mlock, at, len),
                Some(how) => system_call!(libc::SYS_mlock2, at, len, how),
                None => system_call!(libc::SYS_munlock, at, len),
            }
        };
        let from = at & !(PAGE - 1);
        let reach = match rc.unsigned_abs() as c_int {
            0 => end(at, len),
            // Marked first, and only then found to have no pages; unless there are too many.
            libc::ENOMEM if how.is_none() || sys::locks_without_limit() => {
                first_gap(&table, from, end(at, len))
            }
            _ => return rc,
        };
        let on = how.map_or(0, locked);
        table.changed(from, reach, |f| f & !(flags::LOCKED | flags::ON_FAULT) | on);
        rc
    }

    /// `mlockall`, and `munlockall` (with none).
    #[must_use]
    pub fn lock_all(how: Option<c_int>) -> isize {
        let mut table = Table::lock();
        // SAFETY: no pointers.
        let rc = unsafe {
            match how {
                Some(how) => system_call!(libc::SYS_mlockall, how),
                None => system_call!(libc::SYS_munlockall),
            }
        };
        let current = how.is_none_or(|how| how & libc::MCL_CURRENT != 0);
        if rc == 0 && current {
            let on = how.map_or(0, |how| locked(how & libc::MCL_ONFAULT));
            table.changed(0, usize::MAX, |f| f & !(flags::LOCKED | flags::ON_FAULT) | on);
        }
        rc
    }

    /// `mremap`.
    ///
    /// # Safety
    /// As the system call's.
    #[must_use]
    pub unsafe fn remap(at: usize, old_len: usize, new_len: usize, how: c_int, to: usize) -> isize {
        let mut table = Table::lock();
        let lens = (old_len.checked_next_multiple_of(PAGE), new_len.checked_next_multiple_of(PAGE));
        let (Some(old), Some(new)) = lens else { return -(libc::EINVAL as isize) };
        let one = table.at(at).map(|(from, area)| (from, area.clone()));
        // Since 6.17 the kernel looks at the arguments first, and can move several mappings.
        let late = sys::release() >= (6, 17);
        if (late || one.is_some()) && is_invalid(at, (old, new), how, to) {
            return -(libc::EINVAL as isize);
        }
        let fixed = how & libc::MREMAP_FIXED != 0;
        match one {
            Some((from, area)) => {
                let call = Remap { at, old, new, how, to, from, area };
                // SAFETY: as the caller promises.
                unsafe { call.run(&mut table) }
            }
            None if fixed && old == new && late => {
                // SAFETY: as the caller promises.
                unsafe { move_others(&mut table, at, old, how, to) }
            }
            None => {
                // SAFETY: as the caller promises.
                let rc = unsafe { system_call!(libc::SYS_mremap, at, old_len, new_len, how, to) };
                if !is_error(rc) {
                    others_moved(&mut table, at, (old, new), fixed.then_some(to));
                } else if fixed {
                    // Older kernels unmap first and look then.
                    vanished(&mut table, to, to.saturating_add(new));
                    vanished(&mut table, at.saturating_add(new), at.saturating_add(old));
                }
                rc
            }
        }
    }
}

/// `MADV_DODUMP` of what is no segment: a segment of a guest is memory of a device, for which the
/// kernel refuses that advice; it dumps none of it in any case.
fn dump_others(table: &Table, from: usize, to: usize) -> isize {
    let (mut at, mut result) = (from, 0);
    while at < to {
        let (next, rc) = match table.at(at) {
            Some((_, area)) => (area.to, 0),
            None => {
                let next = table.iter().map(|(next, _)| next).find(|next| *next > at);
                let next = next.unwrap_or(to).min(to);
                // SAFETY: changes what a core dump holds, as the program wants.
                let rc =
                    unsafe { system_call!(libc::SYS_madvise, at, next - at, libc::MADV_DODUMP) };
                (next, rc)
            }
        };
        match rc {
            0 => {}
            rc if rc == -(libc::ENOMEM as isize) => result = rc,
            rc => return rc,
        }
        at = next;
    }
    result
}

fn locked(how: c_int) -> u32 {
    flags::LOCKED | if how == 0 { 0 } else { flags::ON_FAULT }
}

fn is_error(rc: isize) -> bool {
    (-4095..0).contains(&rc)
}

/// Where `len` bytes at `at` end, in whole pages.
fn end(at: usize, len: usize) -> usize {
    at.saturating_add(len).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX)
}

/// The first page of `from..to` that is not mapped. Only asked when a call has failed of one.
fn first_gap(table: &Table, from: usize, to: usize) -> usize {
    let Some((_, last)) = table.bounds() else { return from };
    let mut at = from;
    while at < to.min(last) {
        match table.at(at) {
            Some((_, area)) => at = area.to,
            None if sys::is_mapped(at) => at += PAGE,
            None => return at,
        }
    }
    at.min(to)
}

/// The first mapping in `from..to` that cannot be made writable.
fn first_read_only(table: &Table, from: usize, to: usize) -> usize {
    let never = |area: &Area<Arc<Attach>>| area.source.way == crate::link::Way::ReadOnly;
    let found = table.iter().find(|(at, area)| *at < to && area.to > from && never(area));
    found.map_or(from, |(at, _)| at.max(from))
}

/// The kernel has done an `mremap` of memory of the program's own, `old` bytes at `at`, which is
/// `new` bytes now, at `to` if it was told where.
fn others_moved(table: &mut Table, at: usize, (old, new): (usize, usize), to: Option<usize>) {
    if let Some(to) = to {
        table.unmapped(to, to + new);
    }
    if new < old {
        table.unmapped(at + new, at + old);
    }
}

/// A call that failed may have unmapped `from..to`, all of it or nothing.
fn vanished(table: &mut Table, from: usize, to: usize) {
    let first = table.iter().find(|(at, area)| *at < to && area.to > from);
    if first.is_some_and(|(at, _)| !sys::is_mapped(at.max(from))) {
        table.unmapped(from, to);
    }
}

/// Memory of the program's own is to be moved as it is, perhaps several mappings with gaps between
/// them, and a segment's not as the first of them. Since Linux 6.17 those before a segment's move,
/// to where the gaps stay gaps, and then the call fails.
///
/// # Safety
/// As [`AddressSpace::remap`].
unsafe fn move_others(table: &mut Table, at: usize, len: usize, how: c_int, to: usize) -> isize {
    let first = table.iter().map(|(from, _)| from).find(|from| *from >= at);
    let before = first.map_or(len, |first| len.min(first - at));
    let pages = (0..before).step_by(PAGE);
    let covers = |i: &usize| table.at(to + i).is_some() && sys::is_mapped(at + i);
    let covered: Vec<_> = pages.filter(covers).collect();
    // SAFETY: as the caller promises.
    let rc = unsafe { system_call!(libc::SYS_mremap, at, before, before, how, to) };
    if is_error(rc) {
        return rc;
    }
    for i in covered {
        table.unmap(to + i, to + i + PAGE);
    }
    table.settle();
    if before < len { -(libc::EFAULT as isize) } else { rc }
}

/// Whether the arguments of an `mremap`, with sizes in whole pages, make no sense.
fn is_invalid(at: usize, (old, new): (usize, usize), how: c_int, to: usize) -> bool {
    let (fixed, stays) = (how & libc::MREMAP_FIXED != 0, how & libc::MREMAP_DONTUNMAP != 0);
    let known = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    if how & !known != 0 || !at.is_multiple_of(PAGE) || new == 0 {
        return true;
    }
    // The longest address there is, of processors with five levels of page tables.
    let beyond = to.checked_add(new).is_none_or(|end| end > 1 << 56);
    let overlaps = at < to.saturating_add(new) && to < at.saturating_add(old);
    (fixed && (!to.is_multiple_of(PAGE) || beyond || overlaps))
        || ((fixed || stays) && how & libc::MREMAP_MAYMOVE == 0)
        || (stays && old != new)
}

/// What stays behind a move that does not unmap is no longer locked.
fn unlock(table: &mut Table, from: usize) {
    if let Some(to) = table.at(from).map(|(_, area)| area.to) {
        table.changed(from, to, |f| f & !(flags::LOCKED | flags::ON_FAULT));
    }
}

/// An `mremap` of (a part of) one mapping of a segment.
struct Remap {
    at: usize,
    old: usize,
    new: usize,
    how: c_int,
    to: usize,
    /// The mapping, and where it begins.
    from: usize,
    area: Area<Arc<Attach>>,
}

impl Remap {
    /// The kernel's further checks, in its order, and the work.
    ///
    /// # Safety
    /// As [`AddressSpace::remap`].
    unsafe fn run(self, table: &mut Table) -> isize {
        match self.attempt(table) {
            Ok(at) => at.cast_signed(),
            Err(e) => -(e as isize),
        }
    }

    fn attempt(self, table: &mut Table) -> std::result::Result<usize, c_int> {
        let Self { at, old, new, how, to, .. } = self;
        let fixed = how & libc::MREMAP_FIXED != 0;
        let stays = how & libc::MREMAP_DONTUNMAP != 0;
        // A kernel before 6.17 unmaps the target before it looks.
        let late = fixed && sys::release() < (6, 17);
        if (new > old || fixed || stays) && !late {
            self.check()?;
        }
        if !(fixed || stays) {
            if new > old {
                return self.enlarge(table);
            }
            if new < old {
                cut(table, at + new, at + old)?;
            }
            return Ok(at);
        }
        if fixed {
            cut(table, to, to + new)?;
            if new < old {
                cut(table, at + new, at + old)?;
            }
            // Moved onto itself, with nothing to move, it is gone; else it may be less than it was.
            let (from, area) = table.at(at).ok_or(libc::EFAULT)?;
            let now = Self { from, area: area.clone(), ..self };
            now.check()?;
            return now.carry(table, Some(to));
        }
        self.carry(table, None)
    }

    /// What is to move must be one mapping.
    fn check(&self) -> std::result::Result<(), c_int> {
        let fixed = self.how & libc::MREMAP_FIXED != 0;
        let moves = if fixed { self.old.min(self.new) } else { self.old };
        if moves > self.area.to - self.at { Err(libc::EFAULT) } else { Ok(()) }
    }

    fn protection(&self) -> c_int {
        (self.area.flags & flags::PROTECTION).cast_signed()
    }

    /// Grows in place if there is room, else moves if that is allowed.
    fn enlarge(self, table: &mut Table) -> std::result::Result<usize, c_int> {
        let (at, end) = (self.at, self.at + self.old);
        let more = self.new - self.old;
        if self.old != 0 && end == self.area.to {
            let there = libc::MAP_FIXED_NOREPLACE;
            if let Ok(free) = place::reserve(end, more, there, None) {
                let offset = self.area.offset + (end - self.from);
                self.lay(end, offset, more).inspect_err(|_| {
                    // SAFETY: reserved just now.
                    unsafe { sys::munmap(free, more) };
                })?;
                table.grown(self.from, end + more);
                return Ok(at);
            }
        }
        if self.how & libc::MREMAP_MAYMOVE == 0 {
            return Err(libc::ENOMEM);
        }
        self.carry(table, None)
    }

    /// Maps the pages again at `to`, or anywhere, and unmaps them where they were.
    fn carry(self, table: &mut Table, to: Option<usize>) -> std::result::Result<usize, c_int> {
        let fixed = if to.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
        let to = place::reserve(to.unwrap_or(0), self.new, fixed, None).map_err(|e| e.errno())?;
        let offset = self.area.offset + (self.at - self.from);
        self.lay(to as usize, offset, self.new).inspect_err(|_| {
            // SAFETY: reserved just now.
            unsafe { sys::munmap(to, self.new) };
        })?;
        let to = to as usize;
        let moved = Area { to: to + self.new, offset, ..self.area.clone() };
        table.moved(to, moved);
        if self.how & libc::MREMAP_DONTUNMAP != 0 {
            unlock(table, self.from);
        } else if self.old != 0 {
            cut(table, self.at, self.at + self.old.min(self.new))?;
        }
        Ok(to)
    }

    /// Maps bytes of the segment as the mapping has them: with its protection and advice.
    fn lay(&self, at: usize, offset: usize, len: usize) -> std::result::Result<(), c_int> {
        let source = &self.area.source;
        let fixed = libc::MAP_FIXED;
        let base = place::lay(source, at, offset, len, self.protection(), fixed);
        let base = base.map_err(|_| libc::ENOMEM)?;
        for (flag, advice) in [
            (flags::RANDOM, libc::MADV_RANDOM),
            (flags::SEQUENTIAL, libc::MADV_SEQUENTIAL),
            (flags::DONT_FORK, libc::MADV_DONTFORK),
            (flags::DONT_DUMP, libc::MADV_DONTDUMP),
            (flags::HUGE, libc::MADV_HUGEPAGE),
            (flags::NO_HUGE, libc::MADV_NOHUGEPAGE),
        ] {
            if self.area.flags & flag != 0 {
                // SAFETY: mapped just now.
                unsafe { sys::madvise(base, len, advice) };
            }
        }
        if self.area.flags & flags::LOCKED != 0 {
            let how = i32::from(self.area.flags & flags::ON_FAULT != 0);
            // SAFETY: mapped just now; an error leaves it unlocked, which nobody can tell.
            let _ = unsafe { system_call!(libc::SYS_mlock2, at, len, how) };
        }
        Ok(())
    }
}

/// `munmap` of `from..to`, of whatever is there.
fn cut(table: &mut Table, from: usize, to: usize) -> std::result::Result<(), c_int> {
    // SAFETY: the program asked for an `mremap` that unmaps this.
    let rc = unsafe { system_call!(libc::SYS_munmap, from, to - from) };
    if rc != 0 {
        return Err(rc.unsigned_abs() as c_int);
    }
    table.unmapped(from, to);
    Ok(())
}
