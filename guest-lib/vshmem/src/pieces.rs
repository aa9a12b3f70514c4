//! The segments attached in this address space: one table for all sessions of the process, as its
//! addresses are one.
//!
//! Whoever changes what is mapped where segments are does it under the table's lock, and the counts
//! in the region with it ([`Table`]). Everybody else asks [`whereabouts`], which is told of every
//! change.

use crate::areas::{Area, Areas, Event, Merges, Source, flags};
use crate::error::Result;
use crate::interrupt;
use crate::link::Way;
use crate::lock::{Guard, Lock};
use crate::place::{self, Placement};
use crate::session::{Seat, Shared};
use crate::sys;
use crate::whereabouts::{self, Range};
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vshmem_sysv::Errno;
use vshmem_sysv::park::Key;
use vshmem_sysv::shm::{self, Extent};

/// One `shmat`.
#[derive(Debug)]
pub(crate) struct Attach {
    shared: *const Shared,
    id: i32,
    seg: u32,
    life: u32,
    pub extents: Vec<Extent>,
    /// Bytes of address space a whole one takes.
    pub len: usize,
    /// What may ever be done there.
    pub way: Way,
}

// SAFETY: the pointer leads to a session's shared part, which any thread may use; a session takes
// its own out of the table before it ends.
unsafe impl Send for Attach {}
// SAFETY: as above.
unsafe impl Sync for Attach {}

impl Attach {
    /// The session it belongs to.
    pub fn shared(&self) -> &Shared {
        // SAFETY: see `Send`.
        unsafe { &*self.shared }
    }
}

impl Source for Arc<Attach> {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other)
    }
}

static TABLE: Lock<Areas<Arc<Attach>>> = Lock::new(Areas::new());

/// The lock held by a thread that forks, so that the child finds a table that nobody is changing.
struct AtFork(UnsafeCell<Option<Guard<'static, Areas<Arc<Attach>>>>>);

// SAFETY: only the thread that `FORKING` names uses it; that one holds the table's lock.
unsafe impl Sync for AtFork {}

static AT_FORK: AtFork = AtFork(UnsafeCell::new(None));
/// The thread inside `fork`, by its storage; 0 for none.
static FORKING: AtomicUsize = AtomicUsize::new(0);

/// The table, locked.
///
/// Between the two halves of a fork the forking thread has it already: other libraries' handlers,
/// which run then, may unmap what they like.
pub(crate) struct Table(Option<Guard<'static, Areas<Arc<Attach>>>>);

impl Table {
    pub fn lock() -> Self {
        // Relaxed: only this thread writes its own address there.
        if FORKING.load(Ordering::Relaxed) == interrupt::this_thread() {
            Self(None)
        } else {
            Self(Some(TABLE.lock()))
        }
    }

    /// Counts what was opened and closed, and lets others see what is attached now.
    pub fn settle(&mut self) {
        let range = |(from, area): (usize, &Area<Arc<Attach>>)| {
            let Attach { shared, seg, life, .. } = *area.source;
            let key = Key { seg, life, at: area.offset as u64 };
            Range { from, to: area.to, shared, key }
        };
        whereabouts::publish(self.iter().map(range).collect());
        for (source, event) in self.events() {
            // What fails here is a corrupt region: the reaper's to report.
            let _ = source.count(event);
        }
    }

    /// Unmaps, or has unmapped, `from..to`.
    pub fn unmapped(&mut self, from: usize, to: usize) {
        self.unmap(from, to);
        self.settle();
    }

    /// Notes other flags for `from..to`.
    pub fn changed(&mut self, from: usize, to: usize, how: impl Fn(u32) -> u32) {
        self.change(from, to, how);
        self.settle();
    }

    /// Notes a mapping that was moved or copied to `at`.
    pub fn moved(&mut self, at: usize, area: Area<Arc<Attach>>) {
        self.add(at, area, true);
        self.settle();
    }

    /// Notes that the mapping at `at` reaches to `to` now.
    pub fn grown(&mut self, at: usize, to: usize) {
        self.grow(at, to);
        self.settle();
    }
}

impl Deref for Table {
    type Target = Areas<Arc<Attach>>;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Some(guard) => guard,
            // SAFETY: this is the forking thread, which put it there.
            None => unsafe { &*AT_FORK.0.get() }.as_ref().expect("FORKING is set"),
        }
    }
}

impl DerefMut for Table {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match &mut self.0 {
            Some(guard) => guard,
            // SAFETY: this is the forking thread; it uses one `Table` at a time.
            None => unsafe { &mut *AT_FORK.0.get() }.as_mut().expect("FORKING is set"),
        }
    }
}

impl Attach {
    fn count(&self, event: Event) -> Result<()> {
        let shared = self.shared();
        // A child that is no task yet counts all it has when it becomes one.
        let Some(seat) = shared.seated() else { return Ok(()) };
        let Some(caller) = shared.attacher(seat) else { return Ok(()) };
        let mut entered = shared.lanes.enter(seat)?;
        match event {
            Event::Open => {
                shm::attach(&seat.region, entered.lane(), caller, self.id, 0)?;
            }
            Event::Close => {
                shm::detach(&seat.region, entered.lane(), caller, self.seg, self.life)?;
            }
        }
        Ok(())
    }
}

fn is_of(shared: &Shared) -> impl Fn(&Area<Arc<Attach>>) -> bool {
    let shared = ptr::from_ref(shared);
    move |area| ptr::eq(area.source.shared, shared)
}

/// `shmat`: counts the attachment, then maps it.
pub(crate) fn attach(
    shared: &Shared,
    seat: &Seat,
    id: i32,
    place: Placement,
) -> Result<(*mut u8, usize)> {
    let mut table = Table::lock();
    table.merges = Merges::of(sys::release());
    // A process in the memory of one that is not attached: nobody would answer for it.
    let caller = shared.attacher(seat).ok_or(Errno::ENOMEM)?;
    let mut entered = shared.lanes.enter(seat)?;
    let access = 0o4 | u32::from(!place.read_only) << 1 | u32::from(place.execute);
    let got = shm::attach(&seat.region, entered.lane(), caller, id, access)?;
    // A read-only view comes from the read-only descriptor, so that it cannot be made writable.
    let way = if place.read_only { Way::ReadOnly } else { Way::ReadWrite };
    let (seg, life, before) = (got.seg, got.life, got.before);
    let mapped = place::check(seat, &got).and_then(|len| {
        let source = Attach { shared, id, seg, life, extents: got.extents, len, way };
        place::map(&source, place).map(|at| (at, source))
    });
    match mapped {
        Ok((at, source)) => {
            let (from, to) = (at as usize, at as usize + source.len);
            drop(entered);
            if place.replace {
                table.unmap(from, to);
            }
            let flags = place.protection().cast_unsigned();
            let size = usize::try_from(got.size).unwrap_or(source.len);
            table.add(from, Area { to, offset: 0, flags, source: Arc::new(source) }, false);
            // It is counted already.
            let opened = table.take_last();
            debug_assert_eq!(opened, Some(Event::Open));
            table.settle();
            Ok((at, size))
        }
        Err(e) => {
            // It was counted and is not mapped: not counted.
            shm::cancel(&seat.region, entered.lane(), caller, seg, life, before)?;
            Err(e)
        }
    }
}

/// `shmdt`: unmaps what is attached at `at`; `false` if nothing is.
pub(crate) fn detach(at: usize) -> Result<bool> {
    if !at.is_multiple_of(place::PAGE_BYTES) {
        return Ok(false);
    }
    let mut table = Table::lock();
    let found = table.attached_at(at, |source| source.len);
    for (from, to) in &found {
        // SAFETY: a mapping of a segment, which the caller wants gone.
        unsafe { sys::munmap(*from as *mut u8, to - from) };
        table.unmap(*from, *to);
    }
    let mut failed = Ok(());
    let events = table.events();
    table.settle();
    for (source, event) in events {
        failed = failed.and(source.count(event));
    }
    failed.map(|()| !found.is_empty())
}

/// Forgets a session's: the task they belonged to has ended.
pub(crate) fn forget(shared: &Shared) {
    let mut table = Table::lock();
    table.forget(is_of(shared));
    table.settle();
}

/// Unmaps a session's: it ends, and what borrows it has ended.
pub(crate) fn unmap_all(shared: &Shared) {
    let mut table = Table::lock();
    let its = is_of(shared);
    for (from, area) in table.iter().filter(|(_, area)| its(area)) {
        // SAFETY: a mapping of this session's, which nobody uses any more.
        unsafe { sys::munmap(from as *mut u8, area.to - from) };
    }
    table.forget(its);
    table.settle();
}

/// In a child that nobody announced: counts what it inherited as its own.
pub(crate) fn count_again(shared: &Shared) {
    let table = Table::lock();
    let its = is_of(shared);
    for (_, area) in table.iter().filter(|(_, area)| its(area)) {
        // A segment that is gone by now needs no counting.
        let _ = area.source.count(Event::Open);
    }
}

/// Before a fork: from here to [`after_fork`], in parent and child, this thread has the table.
pub(crate) fn before_fork() {
    let guard = TABLE.lock();
    // SAFETY: this thread holds the lock; see `AtFork`.
    unsafe { *AT_FORK.0.get() = Some(guard) };
    FORKING.store(interrupt::this_thread(), Ordering::Relaxed);
}

/// After it.
pub(crate) fn after_fork() {
    if FORKING.load(Ordering::Relaxed) != interrupt::this_thread() {
        return;
    }
    FORKING.store(0, Ordering::Relaxed);
    // SAFETY: this thread still holds the lock.
    drop(unsafe { &mut *AT_FORK.0.get() }.take());
}

/// Whether a session has anything for a child to inherit; and how many mappings of a segment it
/// will not, because of `MADV_DONTFORK`.
pub(crate) fn inherited(shared: &Shared) -> (bool, impl Fn(u32, u32) -> u32) {
    let table = Table::lock();
    let (its, kept) =
        (is_of(shared), |area: &Area<Arc<Attach>>| area.flags & flags::DONT_FORK == 0);
    let any = table.iter().any(|(_, area)| its(area) && kept(area));
    let all = table.iter().filter(|(_, area)| its(area) && !kept(area));
    let left: Vec<_> = all.map(|(_, area)| (area.source.seg, area.source.life)).collect();
    let without =
        move |seg, life| left.iter().filter(|l| **l == (seg, life)).count().try_into().unwrap_or(0);
    (any, without)
}

/// In a child: what was not inherited is not there.
pub(crate) fn in_child() {
    let mut table = Table::lock();
    table.forget(|area| area.flags & flags::DONT_FORK != 0);
    table.settle();
}
