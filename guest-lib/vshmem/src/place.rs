//! Mapping the pages of a segment, piece by piece: nothing of the region beside it comes into reach.

use crate::error::{Error, Result};
use crate::link::Way;
use crate::pieces::Attach;
use crate::session::Seat;
use crate::sys;
use std::io;
use std::os::fd::RawFd;
use vshmem_core::layout::{PAGE, REGION_BASE};
use vshmem_core::mem::Mem;
use vshmem_core::{Corrupt, Offset};
use vshmem_sysv::Errno;
use vshmem_sysv::shm::Attachment;

const HUGE: usize = 2 << 20;
pub(crate) const PAGE_BYTES: usize = PAGE as usize;

/// Where and how to attach, as `shmat` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// The address, or anywhere.
    pub at: Option<usize>,
    /// Over whatever is mapped there.
    pub replace: bool,
    /// Without writing.
    pub read_only: bool,
    /// With executing.
    pub execute: bool,
}

impl Placement {
    pub(crate) fn protection(self) -> i32 {
        libc::PROT_READ
            | if self.read_only { 0 } else { libc::PROT_WRITE }
            | if self.execute { libc::PROT_EXEC } else { 0 }
    }
}

fn segment(e: i32) -> Error {
    Error::Segment(io::Error::from_raw_os_error(e))
}

/// The bytes of address space the segment takes, if its extents are what they must be.
pub(crate) fn check(seat: &Seat, got: &Attachment) -> Result<usize> {
    let bad = |what| Error::from(Corrupt::new(Offset(got.seg.into()), what));
    let len = got.size.checked_next_multiple_of(PAGE).ok_or_else(|| bad("segment too long"))?;
    let mut pages = 0u64;
    for e in &got.extents {
        let end = (u64::from(e.first_page) + u64::from(e.pages)) * PAGE;
        if e.pages == 0 || end > seat.region.mem().len() {
            return Err(bad("extent outside the region"));
        }
        pages += u64::from(e.pages);
    }
    if pages * PAGE != len || len == 0 {
        return Err(bad("extents do not make up their segment"));
    }
    usize::try_from(len).map_err(|_| bad("segment too long"))
}

/// A place of `len` bytes in the address space, with nothing in it; `align` modulo [`HUGE`] if the
/// segment is big enough for huge pages. `flags` for a place at `at`.
pub(crate) fn reserve(at: usize, len: usize, flags: i32, align: Option<usize>) -> Result<*mut u8> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let room = len.checked_add(if align.is_some() { HUGE } else { 0 });
    let room = room.ok_or_else(|| segment(libc::ENOMEM))?;
    // SAFETY: at an address only where the program asked for it, and then (`flags`) over what is
    // there only if it asked for that as well.
    let got =
        unsafe { sys::mmap(at, room, libc::PROT_NONE, flags, -1, 0) }.map_err(Error::Segment)?;
    if flags & libc::MAP_FIXED_NOREPLACE != 0 && got as usize != at {
        // A kernel before 4.17 takes the address for a hint.
        // SAFETY: mapped just now.
        unsafe { sys::munmap(got, room) };
        return Err(segment(libc::EEXIST));
    }
    let Some(align) = align else { return Ok(got) };
    let skip = align.wrapping_sub(got as usize) % HUGE;
    // SAFETY: inside the reservation, which is `HUGE` longer than needed.
    let start = unsafe { got.add(skip) };
    if skip > 0 {
        // SAFETY: the part before.
        unsafe { sys::munmap(got, skip) };
    }
    if skip < HUGE {
        // SAFETY: inside the reservation, as above.
        let end = unsafe { start.add(len) };
        // SAFETY: the part behind.
        unsafe { sys::munmap(end, HUGE - skip) };
    }
    Ok(start)
}

/// Maps a whole segment where `place` wants it.
pub(crate) fn map(source: &Attach, place: Placement) -> Result<*mut u8> {
    let len = source.len;
    let fixed = match (place.at, place.replace) {
        (None, _) => 0,
        (Some(_), false) => libc::MAP_FIXED_NOREPLACE,
        (Some(_), true) => libc::MAP_FIXED,
    };
    let at = place.at.unwrap_or(0);
    if at.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    let prot = place.protection();
    let base = if source.extents.len() == 1 && len < HUGE && fixed & libc::MAP_FIXED_NOREPLACE == 0
    {
        lay(source, at, 0, len, prot, fixed)?
    } else {
        let first = source.extents.first().map_or(0, |e| file_offset(e.first_page));
        let align = (len >= HUGE && place.at.is_none()).then_some(first as usize % HUGE);
        let start = reserve(at, len, fixed, align).map_err(in_the_way)?;
        lay(source, start as usize, 0, len, prot, libc::MAP_FIXED).inspect_err(|_| {
            // SAFETY: the reservation and the pieces in it.
            unsafe { sys::munmap(start, len) };
        })?
    };
    if len >= HUGE {
        // SAFETY: the mapping made above. Where there are no huge pages, nothing happens.
        unsafe { sys::madvise(base, len, libc::MADV_HUGEPAGE) };
    }
    Ok(base)
}

fn file_offset(page: u32) -> u64 {
    REGION_BASE + u64::from(page) * PAGE
}

/// Maps `len` bytes of the segment, from `offset` on, at `at`, which is free or reserved (`fixed` is
/// `MAP_FIXED`), or else anywhere, which needs a segment in one piece. What lies behind the
/// segment's end is mapped to nothing: touching it is SIGBUS, as for a segment of the kernel.
pub(crate) fn lay(
    source: &Attach,
    at: usize,
    offset: usize,
    len: usize,
    prot: i32,
    fixed: i32,
) -> Result<*mut u8> {
    let mut link = source.shared().link.lock();
    let fd = link.region(source.way)?;
    let mut base = at;
    let put = |to: usize, bytes: usize, fd: RawFd, from: u64| {
        let flags = libc::MAP_SHARED | fixed;
        // SAFETY: anywhere, or inside what was reserved, or where the program asked for it.
        unsafe { sys::mmap(to, bytes, prot, flags, fd, from) }.map_err(Error::Segment)
    };
    let (mut done, mut start) = (0, 0);
    for e in &source.extents {
        let bytes = e.pages as usize * PAGE_BYTES;
        let (from, to) = ((offset + done).max(start), (offset + len).min(start + bytes));
        if from < to {
            let piece = file_offset(e.first_page) + (from - start) as u64;
            let got = put(base + done, to - from, fd, piece)? as usize;
            if done == 0 {
                base = got;
            }
            done += to - from;
        }
        start += bytes;
    }
    if done < len {
        let empty = sys::empty_file(source.way == Way::ReadOnly).map_err(Error::Segment)?;
        let got = put(base + done, len - done, empty, 0);
        sys::close(empty);
        if done == 0 {
            base = got? as usize;
        } else {
            got?;
        }
    }
    Ok(std::ptr::with_exposed_provenance_mut(base))
}

/// `EEXIST` of a reservation is `shmat`'s `EINVAL`.
fn in_the_way(e: Error) -> Error {
    if e.errno() == libc::EEXIST { segment(libc::EINVAL) } else { e }
}
