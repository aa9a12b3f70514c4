//! A process's membership in a region.

use crate::credentials::{self, Ids};
use crate::environment::{socket_from_environment, socket_of};
use crate::error::{Error, Result};
use crate::fd::FileId;
use crate::fork;
use crate::interrupt;
use crate::keeper::{self, Rights};
use crate::lanes::Lanes;
use crate::link::{self, Link, Way};
use crate::lock::Lock;
use crate::mapping::{self, Mapping, Span};
use crate::pieces;
use crate::sharing::{self, Company};
use crate::spin;
use crate::sys;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use vshmem_core::attach::{FENCE_ALIVE, Op, Request};
use vshmem_core::layout::{Table, task};
use vshmem_core::mem::Mem;
use vshmem_core::task::{Identity, Owner, TaskId};
use vshmem_core::{Lane, Region};
use vshmem_sysv::{Caller, Perm, reap};

/// What one process has in the region. Kept until its session ends, also over forks: an
/// interrupted call may still use it.
pub(crate) struct Seat {
    pub region: Region<Mapping>,
    pub task: TaskId,
    pub peer: u32,
    pub pid: u32,
    caller: AtomicPtr<Caller>,
    /// The lanes of a process in another's memory, whose threads have lanes there as well.
    own_lanes: Option<ptr::NonNull<Lanes>>,
}

impl Seat {
    pub fn new(region: Region<Mapping>, task: TaskId, peer: u32, ids: &Ids) -> Self {
        let pid = sys::pid();
        let caller = credentials::caller(task, Identity::new(peer, pid), ids);
        let caller = AtomicPtr::new(Box::into_raw(Box::new(caller)));
        Self { region, task, peer, pid, caller, own_lanes: None }
    }

    #[inline]
    pub fn caller(&self) -> &Caller {
        // Acquire: pairs with the Release that published it.
        // SAFETY: made by `Box`; replaced ones are kept by the session, as calls may still use them.
        unsafe { &*self.caller.load(Ordering::Acquire) }
    }

    /// Whether it is of a process in another's memory.
    pub fn is_guest(&self) -> bool {
        self.own_lanes.is_some()
    }

    /// The lanes it is to use: `lanes`, or its own.
    pub fn lanes<'a>(&'a self, lanes: &'a Lanes) -> &'a Lanes {
        // SAFETY: they live as long as the session, and so as the seat.
        self.own_lanes.map_or(lanes, |own| unsafe { own.as_ref() })
    }

    /// Before anybody knows of the seat.
    fn set_caller(&mut self, caller: Caller) {
        // SAFETY: made by `Box`, and used by nobody.
        *unsafe { &mut **self.caller.get_mut() } = caller;
    }

    /// Whether the process is still the one that took the seat.
    pub fn is_current(&self) -> bool {
        self.pid == sys::pid()
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { task, peer, pid, .. } = self;
        f.debug_struct("Seat").field("task", task).field("peer", peer).field("pid", pid).finish()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // SAFETY: made by `Box`, and nobody uses the seat any more.
        drop(unsafe { Box::from_raw(*self.caller.get_mut()) });
    }
}

/// A page that the kernel wipes in every child, however it was made: there the child finds no seat.
#[derive(Debug)]
pub(crate) struct Wiped {
    page: ptr::NonNull<AtomicPtr<Seat>>,
}

const PAGE: usize = 4096;

// SAFETY: the page holds one atomic, and lives as long as this value.
unsafe impl Send for Wiped {}
// SAFETY: as above.
unsafe impl Sync for Wiped {}

impl Wiped {
    fn new() -> std::io::Result<Self> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory where the kernel chooses.
        let at = unsafe { sys::mmap(0, PAGE, prot, flags, -1, 0) }?;
        // Without it (Linux before 4.14) only `fork` is noticed.
        // SAFETY: the page made above.
        unsafe { sys::madvise(at, PAGE, libc::MADV_WIPEONFORK) };
        let page = ptr::NonNull::new(at.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        Ok(Self { page })
    }

    #[inline]
    fn cell(&self) -> &AtomicPtr<Seat> {
        // SAFETY: mapped until `drop`, aligned, zeroed: a null pointer.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { sys::munmap(self.page.as_ptr().cast(), PAGE) };
    }
}

/// What changes rarely, under a lock.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The seat taken last; in a child, the parent's, until it takes its own.
    pub seat: Option<ptr::NonNull<Seat>>,
    /// Seats and callers of before.
    pub old_seats: Vec<ptr::NonNull<Seat>>,
    callers: Vec<ptr::NonNull<Caller>>,
    /// The mapping, and the file it is of.
    span: Option<(Arc<Span>, FileId)>,
    ids: Option<Ids>,
    /// Who the process was before it went to another user name space.
    was: Option<Rights>,
    /// Whether it did.
    moved: bool,
    /// Whether this belongs to a process in another's memory.
    is_guest: bool,
    pub company: Company,
}

// SAFETY: the pointers are to heap memory that this state owns.
unsafe impl Send for State {}

/// The part of a session that has a fixed address, for `fork` to find.
#[derive(Debug)]
pub(crate) struct Shared {
    pub current: Wiped,
    pub state: Lock<State>,
    pub link: Arc<Lock<Link>>,
    pub lanes: Lanes,
    /// Whether ids read otherwise in this process than in the region.
    pub renames: AtomicBool,
}

/// A process's membership in a region, through its kernel's endpoint.
///
/// One session serves all threads. It is `fork`-aware: a child of a process that has segments
/// attached is registered before it is born and has them attached as well, any other child attaches
/// when it makes its first call. Dropping the session detaches everything and applies `SEM_UNDO`,
/// as the end of the process would.
///
/// # If the process dies
/// Its endpoint does what dropping the session would have done.
#[derive(Debug)]
pub struct Session {
    shared: Box<Shared>,
}

impl Session {
    /// Attaches to the endpoint that `VSHMEM_SOCKET` names (as `vshmem run` sets it), else to the
    /// user's default one.
    ///
    /// # Errors
    /// No endpoint answers, it refuses, or its region cannot be used.
    pub fn attach() -> Result<Self> {
        Self::attach_to(&socket_from_environment().unwrap_or_else(|| socket_of(None)))
    }

    /// Attaches to region `name`.
    ///
    /// # Errors
    /// As [`Session::attach`].
    pub fn attach_region(name: &str) -> Result<Self> {
        Self::attach_to(&socket_of(Some(name)))
    }

    /// Attaches to the endpoint at `socket`.
    ///
    /// # Errors
    /// As [`Session::attach`].
    pub fn attach_to(socket: &Path) -> Result<Self> {
        let session = Self::later(socket)?;
        session.seat()?;
        Ok(session)
    }

    /// A session that attaches with its first call.
    ///
    /// # Errors
    /// The process has too many sessions, or no memory.
    pub fn later(socket: &Path) -> Result<Self> {
        let shared = Box::new(Shared::new(socket, State::default())?);
        if sharing::is_shared() {
            shared.state.lock().join();
        }
        fork::register(&shared)?;
        Ok(Self { shared })
    }

    /// The endpoint's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.shared.link.lock().socket().to_owned()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What a call needs that neither sleeps nor changes more than one word: no lane, no lock, no
    /// system call. `None` until the process is attached.
    #[inline]
    #[must_use]
    pub fn fast(&self) -> Option<(&Region<Mapping>, &Caller)> {
        let seat = self.shared.seated()?;
        Some((&seat.region, seat.caller()))
    }

    pub(crate) fn seat(&self) -> Result<&Seat> {
        self.shared.seat()
    }

    /// The region, attaching first if need be: for looking without changing.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn region(&self) -> Result<&Region<Mapping>> {
        Ok(&self.seat()?.region)
    }

    /// Runs `f` on a lane of the calling thread, attaching first if need be.
    ///
    /// # Errors
    /// What `f` returned, or why there is no lane.
    ///
    /// # If the caller dies
    /// As for what `f` does; every change of the region is one recoverable step.
    pub fn call<T>(
        &self,
        f: impl FnOnce(&Region<Mapping>, &mut Lane, &Caller) -> vshmem_sysv::Result<T>,
    ) -> Result<T> {
        let seat = self.seat()?;
        let mut entered = self.shared.lanes.enter(seat)?;
        Ok(f(&seat.region, entered.lane(), seat.caller())?)
    }

    /// As [`Session::call`], for `semop`, which may wait: a signal handler that runs meanwhile ends
    /// that with EINTR, as does a stop and continuation of the process.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn call_semop<T>(
        &self,
        f: impl FnOnce(&Region<Mapping>, &mut Lane, &Caller) -> vshmem_sysv::Result<T>,
    ) -> Result<T> {
        self.call_waiting(interrupt::Call::Semop, f)
    }

    /// As [`Session::call`], for `msgsnd` and `msgrcv`, which may wait: a signal handler that runs
    /// meanwhile ends that with EINTR.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn call_message<T>(
        &self,
        f: impl FnOnce(&Region<Mapping>, &mut Lane, &Caller) -> vshmem_sysv::Result<T>,
    ) -> Result<T> {
        self.call_waiting(interrupt::Call::Message, f)
    }

    fn call_waiting<T>(
        &self,
        call: interrupt::Call,
        f: impl FnOnce(&Region<Mapping>, &mut Lane, &Caller) -> vshmem_sysv::Result<T>,
    ) -> Result<T> {
        let seat = self.seat()?;
        let waiting = interrupt::Waiting::begin(call, seat.pid);
        let lanes = &self.shared.lanes;
        let mut entered = lanes.enter(seat)?;
        waiting.on(lanes, seat, entered.lane().id());
        let done = entered.run(|lane| f(&seat.region, lane, seat.caller()));
        waiting.over();
        Ok(done?)
    }

    /// Has the host's endpoint declare a peer dead, an incarnation of it: kill its VM, if `kill` says
    /// so, and give to others what it holds. What was done, for a person.
    ///
    /// # Errors
    /// The endpoint refuses: it is a guest's, the caller is neither root nor the region's owner, the
    /// peer is the host or gone, or its VM cannot be killed.
    ///
    /// # If the caller dies
    /// It is done all the same, or was not begun.
    pub fn fence_peer(&self, index: u32, incarnation: u32, kill: bool) -> Result<String> {
        let alive = if kill { 0 } else { FENCE_ALIVE };
        let ask = Request { op: Op::Fence, a: u64::from(index) | alive, b: incarnation.into() };
        self.seat()?;
        Ok(self.shared.link.lock().ask(&ask, None)?.0.text)
    }

    /// Whether this process is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.shared.seated().is_some()
    }

    /// Looks at the process's user, groups and capabilities again: to be called after changing
    /// them. (The preload does so for every such call of the C library.)
    pub fn credentials_changed(&self) {
        self.shared.credentials_changed();
    }

    /// To be called before the process goes to another user name space: there it may not be able to
    /// tell any more who it is.
    pub fn user_namespace_changes(&self) {
        self.shared.user_namespace_changes();
    }

    /// Tells that it went, after [`Session::user_namespace_changes`].
    pub fn user_namespace_changed(&self) {
        self.shared.user_namespace_changed();
    }

    /// `perm` as this process's user name space has it: an id without a name there reads as 65534.
    #[must_use]
    pub fn perm_inside(&self, perm: Perm) -> Perm {
        self.shared.renamed(|ids| ids.inside(perm)).unwrap_or(perm)
    }

    /// The region's ids of a user and a group of this process's user name space; -1 for an id that
    /// has none, with which `IPC_SET` fails as it should.
    #[must_use]
    pub fn ids_outside(&self, uid: u32, gid: u32) -> (u32, u32) {
        self.shared.renamed(|ids| ids.outside(uid, gid)).unwrap_or((uid, gid))
    }

    /// Has a child of this process that is known to be dead reaped, and waits until it is: what it
    /// held is released when this returns, as it is when the kernel's `waitpid` returns. Costs
    /// nothing in a process that is not attached.
    pub fn child_died(&self, pid: u32) {
        let Some(seat) = self.shared.seated() else { return };
        let Ok(Some(child)) = task_of(seat, pid) else { return };
        let ask = Request { op: Op::Reap, a: child.index.into(), b: child.incarnation };
        // If the endpoint does not answer now, it will find out by itself.
        let answer = self.shared.link.lock().ask(&ask, None);
        if answer.is_err_and(|e| e.errno() == libc::EAGAIN) {
            keeper::await_reaping(seat, child);
        }
    }

    /// Ends this process's task as its death would: applies `SEM_UNDO`, detaches. For the end of
    /// the process; a later call would attach anew. Does nothing while other threads live, which
    /// may be in the middle of a call: then it is the endpoint that sees the death.
    pub fn leave(&self) {
        if !self.shared.seated().is_some_and(Seat::is_current) || credentials::threads() != 1 {
            return;
        }
        let other = if sharing::is_shared() { self.shared.state.lock().other() } else { None };
        other.unwrap_or(&self.shared).stand_up();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        pieces::unmap_all(&self.shared);
        if self.shared.seated().is_some_and(Seat::is_current) {
            self.shared.stand_up();
        }
        fork::unregister(&self.shared);
        let mut state = self.shared.state.lock();
        let seats: Vec<_> = state.old_seats.drain(..).collect();
        for seat in state.seat.take().into_iter().chain(seats) {
            // SAFETY: made by `Box`; the session is borrowed mutably, so no call is under way.
            drop(unsafe { Box::from_raw(seat.as_ptr()) });
        }
        for caller in std::mem::take(&mut state.callers) {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(caller.as_ptr()) });
        }
    }
}

/// The task of process `pid` of this kernel.
fn task_of(seat: &Seat, pid: u32) -> vshmem_sysv::Result<Option<TaskId>> {
    let r = &seat.region;
    for index in 0..r.table(Table::Tasks).count as u32 {
        let at = r.element(Table::Tasks, index)?;
        let word = r.mem().load(at.plus(task::STATE), Ordering::Acquire)?;
        let free = word & 0xff == task::FREE;
        if !free && r.peek(at.plus(task::PID))? == pid && r.peek(at.plus(task::PEER))? == seat.peer
        {
            return Ok(Some(TaskId { index, incarnation: word >> 8 }));
        }
    }
    Ok(None)
}

impl Shared {
    fn new(socket: &Path, state: State) -> Result<Self> {
        let failed = |cause| Error::Map { socket: socket.to_owned(), len: PAGE as u64, cause };
        Ok(Self {
            current: Wiped::new().map_err(failed)?,
            state: Lock::new(state),
            link: Arc::new(Lock::new(Link::new(socket))),
            lanes: Lanes::new().map_err(failed)?,
            renames: AtomicBool::new(false),
        })
    }

    /// For a process in the memory of `owner`'s.
    pub fn of_other(owner: &Self) -> Result<Self> {
        let state = State { is_guest: true, ..State::default() };
        Self::new(owner.link.lock().socket(), state)
    }

    #[inline]
    pub fn current(&self) -> Option<&Seat> {
        // Acquire: pairs with the Release in `set_current`.
        // SAFETY: null, or a seat that lives as long as the session.
        unsafe { self.current.cell().load(Ordering::Acquire).as_ref() }
    }

    /// Sets what the next caller finds; what it would have found before.
    pub fn set_current(&self, seat: Option<ptr::NonNull<Seat>>) -> Option<ptr::NonNull<Seat>> {
        let seat = seat.map_or(ptr::null_mut(), ptr::NonNull::as_ptr);
        // Release: the seat is complete before another thread finds it.
        ptr::NonNull::new(self.current.cell().swap(seat, Ordering::AcqRel))
    }

    /// The seat of the calling process.
    #[inline]
    pub fn seated(&self) -> Option<&Seat> {
        self.current().or_else(|| self.out_of_sight())
    }

    #[cold]
    fn out_of_sight(&self) -> Option<&Seat> {
        if !sharing::is_shared() {
            return None;
        }
        self.state.lock().seat_of_caller(self)
    }

    /// Who attaches when the process of `seat` does: the one whose memory it is.
    pub fn attacher<'a>(&'a self, seat: &'a Seat) -> Option<&'a Caller> {
        if !seat.is_guest() {
            return Some(seat.caller());
        }
        self.state.lock().owners_seat().map(Seat::caller)
    }

    #[inline]
    pub fn seat(&self) -> Result<&Seat> {
        match self.seated() {
            Some(seat) => Ok(seat),
            None => self.sit_down(),
        }
    }

    /// Makes `seat` this process's.
    pub fn take(&self, state: &mut State, seat: Seat) -> &Seat {
        let seat = Box::into_raw(Box::new(seat));
        let pointer = ptr::NonNull::new(seat).expect("a box is somewhere");
        interrupt::attached(std::process::id());
        state.old_seats.extend(state.seat.replace(pointer));
        if state.is_hidden() {
            state.set_hidden(Some(pointer));
        } else {
            self.set_current(Some(pointer));
        }
        // SAFETY: just made; freed with the session only.
        unsafe { &*seat }
    }

    /// Attaches this process.
    #[cold]
    fn sit_down(&self) -> Result<&Seat> {
        let mut state = self.state.lock();
        if let Some(seat) = state.seat_of_caller(self) {
            return Ok(seat);
        }
        if let Some(other) = state.other_or_new(self)? {
            let known = (state.span.clone(), state.ids.clone());
            drop(state);
            let mut its = other.state.lock();
            (its.span, its.ids) = known;
            drop(its);
            return other.sit_down();
        }
        let mut link = self.link.lock();
        // A child made behind the C library's back still has its parent's connection.
        link.hang_up();
        let reply = link.attach()?;
        let module = link::is_module(&reply);
        let fd = link.region(Way::ReadWrite)?;
        let socket = link.socket().to_owned();
        let file = link.region_file();
        drop(link);
        let span = match &state.span {
            // The mapping of before (a parent's, or our own of before `leave`) is of the same file.
            Some((span, of)) if Some(*of) == file && span.len() == reply.len => span.clone(),
            _ => {
                mapping::check_length(fd, reply.len, &socket)?;
                Arc::new(Span::map(fd, reply.len, &socket)?)
            }
        };
        let spin = spin::cap_from_environment();
        let of = file.unwrap_or_default();
        let mapping = Mapping::new(span.clone(), self.link.clone(), module, of, reply.peer, spin);
        let region = Region::open(mapping)
            .map_err(|cause| Error::Region { socket: socket.clone(), cause })?;
        region.mem().enter(region.geometry());
        let id = TaskId { index: reply.task, incarnation: reply.incarnation };
        // The endpoint is trusted, yet a mistaken slot would undo somebody else's work.
        region.element(Table::Tasks, id.index)?;
        state.span = file.map(|file| (span, file));
        // A child may have been made in another name space.
        let ids = if state.moved { Ids::of_new() } else { Ids::read() };
        self.renames.store(state.moved || !ids.is_identity(), Ordering::Relaxed);
        let mut seat = Seat::new(region, id, reply.peer, &ids);
        if state.moved
            && let Some(was) = &state.was
        {
            seat.set_caller(credentials::moved(seat.caller(), was, &ids));
        }
        state.ids = Some(ids);
        seat.own_lanes = state.is_guest.then(|| ptr::NonNull::from(&self.lanes));
        let seat = self.take(&mut state, seat);
        drop(state);
        pieces::count_again(self);
        Ok(seat)
    }

    /// In a child whose parent forked in a handler that interrupted calls: the handler will return
    /// to them here too, but they are the parent's. They end in memory that is this child's alone,
    /// with EINTR where they waited. The child itself attaches when it makes its first call.
    pub fn leave_parents_calls(&self) {
        let mut state = self.state.lock();
        // A mapping of the child's own comes with that.
        state.span = None;
        // SAFETY: kept by the state; this process's copy of it.
        let Some(parents) = state.seat.map(|s| unsafe { s.as_ref() }) else { return };
        let mut link = self.link.lock();
        let region = &parents.region;
        if region.mem().keep_to_itself(link.region(Way::ReadWrite).ok()) {
            for lane in self.lanes.thread().lanes() {
                let _ = vshmem_sysv::interrupted(region, lane);
            }
        }
        link.hang_up();
        self.lanes.renew();
    }

    /// Ends this process's task.
    fn stand_up(&self) {
        let mut state = self.state.lock();
        let Some(seat) = state.seat_of_caller(self) else { return };
        state.set_hidden(None);
        self.set_current(None);
        drop(state);
        if let Ok(mut entered) = self.lanes.enter(seat) {
            // What fails here the endpoint does when it sees the process dead.
            let _ = reap::task(&seat.region, entered.lane(), seat.task);
            let _ = seat.region.release_lane(entered.lane().id(), Owner::Task(seat.task));
        }
        self.lanes.forget();
        pieces::forget(self);
        self.link.lock().hang_up();
    }

    /// What `f` makes of this process's view of ids; `None` where it is the region's.
    pub fn renamed<T>(&self, f: impl FnOnce(&Ids) -> T) -> Option<T> {
        if !self.renames.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state.lock();
        if state.moved {
            // Whoever may has written them down meanwhile, perhaps.
            state.ids = Some(Ids::of_new());
        }
        Some(f(state.ids.get_or_insert_with(Ids::read)))
    }

    pub fn user_namespace_changes(&self) {
        let mut state = self.state.lock();
        if !state.moved {
            let ids = Ids::read();
            state.was = Some(Rights::of_caller(&ids));
        }
    }

    pub fn user_namespace_changed(&self) {
        self.renames.store(true, Ordering::Relaxed);
        self.state.lock().moved = true;
        self.credentials_changed();
    }

    pub fn credentials_changed(&self) {
        if self.seated().is_none() {
            return;
        }
        let mut state = self.state.lock();
        if state.moved {
            state.ids = Some(Ids::of_new());
        }
        let (ids, moved) = (state.ids.get_or_insert_with(Ids::read).clone(), state.moved);
        let Some(seat) = state.seat_of_caller(self) else { return };
        let now = seat.caller();
        let new = match &state.was {
            Some(was) if moved => credentials::moved(now, was, &ids),
            _ => credentials::caller(seat.task, now.who, &ids),
        };
        if credentials::same(now, &new) {
            return;
        }
        // Calls under way may use the old one: it is kept, and used again when its rights return.
        let mut old = ptr::NonNull::from(now);
        let known = state.callers.iter_mut().find(|c| {
            // SAFETY: made by `Box`, freed with the session only.
            let known = unsafe { c.as_ref() };
            credentials::same(known, &new) && known.task == new.task
        });
        let next = match known {
            Some(known) => {
                std::mem::swap(known, &mut old);
                old
            }
            None => {
                state.callers.push(old);
                ptr::NonNull::from(Box::leak(Box::new(new)))
            }
        };
        // Release: complete before another thread finds it.
        seat.caller.store(next.as_ptr(), Ordering::Release);
    }
}
