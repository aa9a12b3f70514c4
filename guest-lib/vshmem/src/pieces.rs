//! The segments attached to this process: where they are mapped, and the mapping itself.

use crate::error::{Error, Result};
use crate::link::Way;
use crate::lock::Lock;
use crate::parts::Part;
use crate::session::{Seat, Shared};
use crate::sys;
use crate::whereabouts::{self, Range};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use vshmem_core::layout::{PAGE, REGION_BASE};
use vshmem_core::mem::Mem;
use vshmem_core::{Corrupt, Offset};
use vshmem_sysv::Errno;
use vshmem_sysv::park::Key;
use vshmem_sysv::shm::{self, Attachment};

const HUGE: usize = 2 << 20;
const SLOTS: usize = 64;
/// An address no mapping has: the slot is being filled or emptied.
const BUSY: usize = 1;

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
    fn protection(self) -> i32 {
        libc::PROT_READ
            | if self.read_only { 0 } else { libc::PROT_WRITE }
            | if self.execute { libc::PROT_EXEC } else { 0 }
    }
}

/// One attached segment.
///
/// | `at` | meaning | next |
/// |---|---|---|
/// | 0 | free | `BUSY`, by whoever swaps first |
/// | `BUSY` | one thread fills or empties it | the address, or 0 |
/// | address | attached there | `BUSY`, by whoever detaches first |
#[derive(Debug)]
struct Slot {
    at: AtomicUsize,
    len: AtomicUsize,
    id: AtomicI32,
    seg: AtomicU32,
    life: AtomicU32,
    /// What is left of it, once the program unmapped or protected a piece; else empty.
    parts: Lock<Vec<Part>>,
    protection: AtomicI32,
}

#[derive(Debug)]
struct Chunk {
    slots: [Slot; SLOTS],
    next: AtomicPtr<Chunk>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            at: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            id: AtomicI32::new(0),
            seg: AtomicU32::new(0),
            life: AtomicU32::new(0),
            parts: Lock::new(Vec::new()),
            protection: AtomicI32::new(0),
        }
    }
}

impl Slot {
    /// What of it is mapped; `at` is where it begins.
    fn parts(&self, at: usize) -> Vec<Part> {
        let parts = self.parts.lock();
        if !parts.is_empty() {
            return parts.clone();
        }
        let to = at + self.len.load(Ordering::Relaxed);
        vec![Part { from: at, to, protection: self.protection.load(Ordering::Relaxed) }]
    }

    fn unmap(&self, at: usize) -> usize {
        let parts = self.parts(at);
        for part in &parts {
            // SAFETY: a part of this slot's mapping, which the caller wants gone.
            unsafe { sys::munmap(part.from as *mut u8, part.to - part.from) };
        }
        parts.len()
    }
}

impl Chunk {
    const fn new() -> Self {
        Self { slots: [const { Slot::new() }; SLOTS], next: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// All attached segments, without locks: a handler may attach while its thread attaches.
#[derive(Debug)]
pub(crate) struct Pieces {
    first: Chunk,
    count: AtomicUsize,
}

impl Pieces {
    pub const fn new() -> Self {
        Self { first: Chunk::new(), count: AtomicUsize::new(0) }
    }

    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let next = |chunk: &&Chunk| {
            // Acquire: pairs with the Release in `free_slot`.
            let next = chunk.next.load(Ordering::Acquire);
            // SAFETY: null, or a chunk that lives as long as `self`.
            unsafe { next.as_ref() }
        };
        std::iter::successors(Some(&self.first), next).flat_map(|c| &c.slots)
    }

    fn take(slot: &Slot, from: usize) -> bool {
        // Acquire: the fields of whoever published the address. Nothing is read after a failure.
        slot.at.compare_exchange(from, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn free_slot(&self) -> &Slot {
        loop {
            if let Some(slot) = self.slots().find(|s| Self::take(s, 0)) {
                return slot;
            }
            let chunk = Box::into_raw(Box::new(Chunk::new()));
            let mut at = &self.first;
            loop {
                // Release: the chunk is complete before it is found; Acquire: the other's is.
                match at.next.compare_exchange(
                    ptr::null_mut(),
                    chunk,
                    Ordering::Release,
                    Ordering::Acquire,
                ) {
                    Ok(_) => break,
                    // SAFETY: a published chunk lives as long as `self`.
                    Err(other) => at = unsafe { &*other },
                }
            }
        }
    }

    fn add(&self, at: usize, len: usize, id: i32, got: &Attachment, protection: i32) {
        let slot = self.free_slot();
        slot.len.store(len, Ordering::Relaxed);
        slot.id.store(id, Ordering::Relaxed);
        slot.seg.store(got.seg, Ordering::Relaxed);
        slot.life.store(got.life, Ordering::Relaxed);
        slot.protection.store(protection, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        // Release: the fields above are there when the address is.
        slot.at.store(at, Ordering::Release);
    }

    /// Lets those who ask by address know what is attached now.
    pub fn publish(&self, shared: &Shared) {
        static TURN: Lock<()> = Lock::new(());
        let _turn = TURN.lock();
        let mut all = whereabouts::all();
        all.retain(|r| !std::ptr::eq(r.shared, shared));
        for slot in self.slots() {
            let at = slot.at.load(Ordering::Acquire);
            if at <= BUSY {
                continue;
            }
            let (seg, life) = (slot.seg.load(Ordering::Relaxed), slot.life.load(Ordering::Relaxed));
            for part in slot.parts(at) {
                let key = Key { seg, life, at: (part.from - at) as u64 };
                all.push(Range { from: part.from, to: part.to, shared, key });
            }
        }
        whereabouts::publish(all);
    }

    fn clear(&self, slot: &Slot) {
        slot.parts.lock().clear();
        self.count.fetch_sub(1, Ordering::Relaxed);
        // Release: whoever takes the slot next finds us done with it.
        slot.at.store(0, Ordering::Release);
    }

    /// Forgets all of them: the task they belonged to has ended.
    pub fn forget(&self) {
        for slot in self.slots() {
            let at = slot.at.load(Ordering::Relaxed);
            if at > BUSY && Self::take(slot, at) {
                self.clear(slot);
            }
        }
    }

    /// Unmaps all of them.
    pub fn unmap_all(&self) {
        for slot in self.slots() {
            let at = slot.at.load(Ordering::Relaxed);
            if at > BUSY && Self::take(slot, at) {
                // The session ends, and its attachments (which borrow it) have ended.
                slot.unmap(at);
                self.clear(slot);
            }
        }
    }

    /// In a child that nobody announced: counts what it inherited as its own.
    pub fn count_again(&self, shared: &Shared, seat: &Seat) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut entered = shared.lanes.enter(seat)?;
        for slot in self.slots() {
            if slot.at.load(Ordering::Acquire) <= BUSY {
                continue;
            }
            let id = slot.id.load(Ordering::Relaxed);
            for _ in slot.parts(slot.at.load(Ordering::Relaxed)) {
                // A segment that is gone by now needs no counting.
                let _ = shm::attach(&seat.region, entered.lane(), seat.caller(), id, 0);
            }
        }
        Ok(())
    }

    /// `shmat`: counts the attachment, then maps it.
    pub fn attach(
        &self,
        shared: &Shared,
        seat: &Seat,
        id: i32,
        place: Placement,
    ) -> Result<(*mut u8, usize)> {
        let mut entered = shared.lanes.enter(seat)?;
        let access = 0o4 | u32::from(!place.read_only) << 1 | u32::from(place.execute);
        let got = shm::attach(&seat.region, entered.lane(), seat.caller(), id, access)?;
        match map(shared, seat, &got, place) {
            Ok((at, len)) => {
                if place.replace {
                    self.cover(shared, at as usize, len);
                }
                self.add(at as usize, len, id, &got, place.protection());
                self.publish(shared);
                Ok((at, usize::try_from(got.size).unwrap_or(len)))
            }
            Err(e) => {
                // It was counted and is not mapped: not counted.
                shm::detach(&seat.region, entered.lane(), seat.caller(), got.seg, got.life)?;
                Err(e)
            }
        }
    }

    /// `shmdt`: unmaps what is attached at `at`; `false` if nothing is.
    pub fn detach(&self, shared: &Shared, at: usize) -> Result<bool> {
        if at <= BUSY {
            return Ok(false);
        }
        let Some(slot) = self.slots().find(|s| Self::take(s, at)) else { return Ok(false) };
        let parts = slot.unmap(at);
        let (seg, life) = (slot.seg.load(Ordering::Relaxed), slot.life.load(Ordering::Relaxed));
        self.clear(slot);
        self.publish(shared);
        self.release(shared, seg, life, parts)?;
        Ok(true)
    }

    fn release(&self, shared: &Shared, seg: u32, life: u32, times: usize) -> Result<()> {
        let Some(seat) = shared.seated() else { return Ok(()) };
        let mut entered = shared.lanes.enter(seat)?;
        for _ in 0..times {
            shm::detach(&seat.region, entered.lane(), seat.caller(), seg, life)?;
        }
        Ok(())
    }

    /// Whether any of `from..to` is attached.
    pub fn touches(&self, from: usize, to: usize) -> bool {
        !self.is_empty()
            && self.slots().any(|s| {
                let at = s.at.load(Ordering::Acquire);
                at > BUSY && at < to && from < at + s.len.load(Ordering::Relaxed)
            })
    }

    /// The program changed `from..to` by itself: what is left is counted as the kernel counts it.
    pub fn changed(
        &self,
        shared: &Shared,
        (from, to): (usize, usize),
        change: impl Fn(&mut Vec<Part>),
    ) -> Result<()> {
        for slot in self.slots() {
            let at = slot.at.load(Ordering::Acquire);
            let end = at.saturating_add(slot.len.load(Ordering::Relaxed));
            if at <= BUSY || at >= to || from >= end || !Self::take(slot, at) {
                continue;
            }
            let mut parts = slot.parts(at);
            let before = parts.len();
            change(&mut parts);
            let now = parts.len();
            *slot.parts.lock() = parts;
            let id = slot.id.load(Ordering::Relaxed);
            let (seg, life) = (slot.seg.load(Ordering::Relaxed), slot.life.load(Ordering::Relaxed));
            if now == 0 {
                self.clear(slot);
            } else {
                // Release: the parts are there for whoever takes the slot next.
                slot.at.store(at, Ordering::Release);
            }
            if let Some(seat) = shared.seated()
                && now > before
            {
                let mut entered = shared.lanes.enter(seat)?;
                for _ in before..now {
                    shm::attach(&seat.region, entered.lane(), seat.caller(), id, 0)?;
                }
            }
            self.release(shared, seg, life, before.saturating_sub(now))?;
        }
        self.publish(shared);
        Ok(())
    }

    /// What a mapping of `len` bytes at `at` has just replaced is no longer attached.
    fn cover(&self, shared: &Shared, at: usize, len: usize) {
        for slot in self.slots() {
            let there = slot.at.load(Ordering::Acquire);
            let inside = there >= at && there < at.saturating_add(len);
            if !inside || slot.len.load(Ordering::Relaxed) > at + len - there {
                continue;
            }
            if Self::take(slot, there) {
                let times = slot.parts(there).len();
                let (seg, life) =
                    (slot.seg.load(Ordering::Relaxed), slot.life.load(Ordering::Relaxed));
                self.clear(slot);
                // A corrupt record is the reaper's to report.
                let _ = self.release(shared, seg, life, times);
            }
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let mut next = *self.first.next.get_mut();
        while !next.is_null() {
            // SAFETY: made by `Box` in `free_slot`; nobody uses it any more.
            let mut chunk = unsafe { Box::from_raw(next) };
            next = *chunk.next.get_mut();
        }
    }
}

fn segment(e: i32) -> Error {
    Error::Segment(io::Error::from_raw_os_error(e))
}

/// The bytes of address space the segment takes, if its extents are what they must be.
fn checked(seat: &Seat, got: &Attachment) -> Result<usize> {
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
/// segment is big enough for huge pages.
fn reserve(at: usize, len: usize, flags: i32, align: Option<usize>) -> Result<*mut u8> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let room = len + if align.is_some() { HUGE } else { 0 };
    // SAFETY: at an address only where the program asked for it, and then (`flags`) over what is
    // there only if it asked for that as well.
    let got =
        unsafe { sys::mmap(at, room, libc::PROT_NONE, flags, -1, 0) }.map_err(Error::Segment)?;
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

/// Maps the segment piece by piece: nothing of the region beside it comes into reach.
fn map(
    shared: &Shared,
    seat: &Seat,
    got: &Attachment,
    place: Placement,
) -> Result<(*mut u8, usize)> {
    let len = checked(seat, got)?;
    // A read-only view comes from the read-only descriptor, so that it cannot be made writable.
    let way = if place.read_only { Way::ReadOnly } else { Way::ReadWrite };
    let prot = place.protection();
    let mut link = shared.link.lock();
    let fd = link.region(way)?;
    let file = |page: u32| REGION_BASE + u64::from(page) * PAGE;
    let first = got.extents.first().map_or(0, |e| file(e.first_page));
    let fixed = match (place.at, place.replace) {
        (None, _) => 0,
        (Some(_), false) => libc::MAP_FIXED_NOREPLACE,
        (Some(_), true) => libc::MAP_FIXED,
    };
    let at = place.at.unwrap_or(0);
    if at.checked_add(len).is_none() {
        return Err(Errno::EINVAL.into());
    }
    let whole = got.extents.len() == 1 && (len < HUGE || place.at.is_some());
    let (start, pieces_fixed) = if whole {
        (at as *mut u8, fixed)
    } else {
        let align = (len >= HUGE && place.at.is_none()).then_some(first as usize % HUGE);
        (reserve(at, len, fixed, align).map_err(in_the_way)?, libc::MAP_FIXED)
    };
    let (mut to, mut base) = (start, start);
    for (i, e) in got.extents.iter().enumerate() {
        let bytes = e.pages as usize * PAGE as usize;
        let flags = libc::MAP_SHARED | pieces_fixed;
        // SAFETY: anywhere, or inside what was reserved, or where the program asked for it.
        let piece = unsafe { sys::mmap(to as usize, bytes, prot, flags, fd, file(e.first_page)) };
        let piece = match piece {
            Ok(piece) if place.at.is_none() || piece == to => piece,
            failed => {
                if let Ok(elsewhere) = failed {
                    // A kernel before 4.17 takes the address for a hint.
                    // SAFETY: mapped just now.
                    unsafe { sys::munmap(elsewhere, bytes) };
                }
                if !whole {
                    // SAFETY: the reservation and the pieces in it.
                    unsafe { sys::munmap(start, len) };
                }
                // What is in the way is the caller's mistake, as `shmat` sees it.
                return Err(failed
                    .map_or_else(|e| in_the_way(Error::Segment(e)), |_| segment(libc::EINVAL)));
            }
        };
        if i == 0 {
            base = piece;
            to = base;
        }
        to = to.wrapping_add(bytes);
    }
    if len >= HUGE {
        // SAFETY: the mapping made above. Where there are no huge pages, nothing happens.
        unsafe { sys::madvise(base, len, libc::MADV_HUGEPAGE) };
    }
    Ok((base, len))
}

/// `EEXIST` of a reservation is `shmat`'s `EINVAL`.
fn in_the_way(e: Error) -> Error {
    if e.errno() == libc::EEXIST { segment(libc::EINVAL) } else { e }
}
