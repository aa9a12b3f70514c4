//! The three kinds of object, as a Rust program uses them.

use crate::error::Result;
use crate::pieces;
use crate::place::Placement;
use crate::session::Session;
use std::ops::BitOr;
use std::ptr;
use std::time::Duration;
use vshmem_core::mem::Park;
use vshmem_sysv::msg::{self, QueueStat};
use vshmem_sysv::sem::{self, SemBuf, SetStat};
use vshmem_sysv::shm::{self, SegStat};
use vshmem_sysv::{Errno, flag};

/// The name under which programs find an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key(pub i32);

impl Key {
    /// Always a new object.
    pub const PRIVATE: Self = Self(flag::IPC_PRIVATE);
}

/// How to open or create an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub i32);

impl Flags {
    /// Open what exists.
    pub const OPEN: Self = Self(0);
    /// Create it if it does not exist.
    pub const CREATE: Self = Self(flag::IPC_CREAT);
    /// With [`Flags::CREATE`]: fail if it exists.
    pub const EXCLUSIVE: Self = Self(flag::IPC_EXCL);

    /// The permission bits of a new object; of an existing one, those that must be granted.
    #[must_use]
    pub const fn mode(self, mode: u32) -> Self {
        Self(self.0 & !0o777 | (mode & 0o777) as i32)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One operation of [`SemSet::op`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SemOp(SemBuf);

impl SemOp {
    /// Adds `by` to semaphore `num`, waiting until the sum is not negative.
    #[must_use]
    pub const fn add(num: u16, by: i16) -> Self {
        Self(SemBuf { num, op: by, flg: 0 })
    }

    /// Waits until semaphore `num` is 0.
    #[must_use]
    pub const fn wait_zero(num: u16) -> Self {
        Self::add(num, 0)
    }

    /// To be undone when the process ends.
    #[must_use]
    pub const fn undo(self) -> Self {
        self.with(flag::SEM_UNDO)
    }

    /// Fails with `EAGAIN` instead of waiting.
    #[must_use]
    pub const fn no_wait(self) -> Self {
        self.with(flag::IPC_NOWAIT)
    }

    const fn with(self, flag: i32) -> Self {
        Self(SemBuf { flg: self.0.flg | flag as i16, ..self.0 })
    }
}

impl Session {
    /// Opens or creates the set of `n` semaphores called `key`.
    ///
    /// # Errors
    /// As `semget(2)`.
    pub fn semaphores(&self, key: Key, n: usize, flags: Flags) -> Result<SemSet<'_>> {
        let n = i32::try_from(n).map_err(|_| Errno::EINVAL)?;
        let id = self.call(|r, on, c| sem::get(r, on, c, key.0, n, flags.0))?;
        Ok(SemSet { session: self, id })
    }

    /// Opens or creates the message queue called `key`.
    ///
    /// # Errors
    /// As `msgget(2)`.
    pub fn queue(&self, key: Key, flags: Flags) -> Result<Queue<'_>> {
        let id = self.call(|r, on, c| msg::get(r, on, c, key.0, flags.0))?;
        Ok(Queue { session: self, id })
    }

    /// Opens or creates the segment of `size` bytes called `key`.
    ///
    /// # Errors
    /// As `shmget(2)`.
    pub fn segment(&self, key: Key, size: u64, flags: Flags) -> Result<Segment<'_>> {
        let id = self.call(|r, on, c| shm::get(r, on, c, key.0, size, flags.0))?;
        Ok(Segment { session: self, id })
    }

    /// Attaches the segment with id `id` as `shmat` does; the address, and its size in bytes.
    ///
    /// # Errors
    /// As `shmat(2)`.
    ///
    /// # Safety
    /// With [`Placement::replace`], whatever is mapped there vanishes: nothing of this program may
    /// rely on it.
    ///
    /// # If the caller dies
    /// The attachment ends with the process.
    pub unsafe fn attach_segment(&self, id: i32, place: Placement) -> Result<(*mut u8, usize)> {
        let seat = self.seat()?;
        pieces::attach(self.shared(), seat, id, place)
    }

    /// Detaches what [`Session::attach_segment`] attached at `at`, or what a parent had there, in
    /// this session or another; `false` if there is nothing.
    ///
    /// # Errors
    /// The region is corrupt.
    ///
    /// # Safety
    /// The mapping vanishes: nothing of this program may use it any more.
    pub unsafe fn detach_segment(&self, at: usize) -> Result<bool> {
        pieces::detach(at)
    }

    /// What a time from now is on the clock that deadlines are told in.
    ///
    /// # Errors
    /// The process cannot attach.
    pub fn deadline(&self, after: Duration) -> Result<u64> {
        let now = self.seat()?.region.mem().now();
        Ok(now.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A semaphore set.
#[derive(Clone, Copy, Debug)]
pub struct SemSet<'a> {
    session: &'a Session,
    id: i32,
}

impl SemSet<'_> {
    /// Its id, good in every process of the region.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// Performs all of `ops` at once, waiting until they can be.
    ///
    /// # Errors
    /// As `semop(2)`; `EINTR` when a signal handler ran while waiting.
    ///
    /// # If the caller dies
    /// All or none was done; what is marked [`SemOp::undo`] is undone.
    pub fn op(&self, ops: &[SemOp]) -> Result<()> {
        self.perform(ops, None)
    }

    /// As [`SemSet::op`], waiting for at most `limit`.
    ///
    /// # Errors
    /// As [`SemSet::op`]; `EAGAIN` when the time is over.
    pub fn op_within(&self, ops: &[SemOp], limit: Duration) -> Result<()> {
        self.perform(ops, Some(limit))
    }

    fn perform(&self, ops: &[SemOp], limit: Option<Duration>) -> Result<()> {
        if let ([one], Some((r, c))) = (ops, self.session.fast())
            && let Some(done) = sem::op_fast(r, c, self.id, one.0)
        {
            return Ok(done?);
        }
        let deadline = limit.map(|l| self.session.deadline(l)).transpose()?;
        let ops: Vec<SemBuf> = ops.iter().map(|o| o.0).collect();
        self.session.call_semop(|r, on, c| sem::op(r, on, c, self.id, &ops, deadline))
    }

    /// The value of semaphore `num`.
    ///
    /// # Errors
    /// As `semctl(2)` with `GETVAL`.
    pub fn value(&self, num: u16) -> Result<i32> {
        self.session.call(|r, on, c| sem::getval(r, on, c, self.id, num.into()))
    }

    /// Sets semaphore `num`, and forgets what processes would undo of it.
    ///
    /// # Errors
    /// As `semctl(2)` with `SETVAL`.
    pub fn set_value(&self, num: u16, value: i32) -> Result<()> {
        self.session.call(|r, on, c| sem::setval(r, on, c, self.id, num.into(), value))
    }

    /// All values.
    ///
    /// # Errors
    /// As `semctl(2)` with `GETALL`.
    pub fn values(&self) -> Result<Vec<u16>> {
        self.session.call(|r, on, c| sem::getall(r, on, c, self.id))
    }

    /// Owner, times, number of semaphores.
    ///
    /// # Errors
    /// As `semctl(2)` with `IPC_STAT`.
    pub fn stat(&self) -> Result<SetStat> {
        self.session.call(|r, on, c| sem::stat(r, on, c, self.id))
    }

    /// Removes it; who waits on it fails with `EIDRM`.
    ///
    /// # Errors
    /// As `semctl(2)` with `IPC_RMID`.
    pub fn remove(&self) -> Result<()> {
        self.session.call(|r, on, c| sem::remove(r, on, c, self.id))
    }
}

/// A received message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its type.
    pub mtype: i64,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// A message queue.
#[derive(Clone, Copy, Debug)]
pub struct Queue<'a> {
    session: &'a Session,
    id: i32,
}

impl Queue<'_> {
    /// Its id, good in every process of the region.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// Sends `text` as a message of type `mtype` (1 or more), waiting for room.
    ///
    /// # Errors
    /// As `msgsnd(2)`.
    pub fn send(&self, mtype: i64, text: &[u8]) -> Result<()> {
        self.session.call_message(|r, on, c| msg::send(r, on, c, self.id, mtype, text, 0, None))
    }

    /// As [`Queue::send`], failing with `EAGAIN` where there is no room.
    ///
    /// # Errors
    /// As `msgsnd(2)`.
    pub fn try_send(&self, mtype: i64, text: &[u8]) -> Result<()> {
        let flags = flag::IPC_NOWAIT;
        self.session.call_message(|r, on, c| msg::send(r, on, c, self.id, mtype, text, flags, None))
    }

    /// Waits for a message of at most `most` bytes: the first (`mtype` 0), the first of a type, or
    /// (`mtype` negative) of the lowest type up to its amount.
    ///
    /// # Errors
    /// As `msgrcv(2)`.
    ///
    /// # If the caller dies
    /// A message it was given and had not yet copied goes back to the head of the queue.
    pub fn receive(&self, mtype: i64, most: usize) -> Result<Message> {
        self.take(mtype, most, 0)
    }

    /// As [`Queue::receive`], failing with `ENOMSG` where there is none.
    ///
    /// # Errors
    /// As `msgrcv(2)`.
    pub fn try_receive(&self, mtype: i64, most: usize) -> Result<Message> {
        self.take(mtype, most, flag::IPC_NOWAIT)
    }

    fn take(&self, mtype: i64, most: usize, flags: i32) -> Result<Message> {
        let mut text = vec![0; most];
        let (mtype, n) = self.session.call_message(|r, on, c| {
            msg::recv(r, on, c, self.id, text.as_mut_slice(), mtype, flags, None)
        })?;
        text.truncate(n);
        Ok(Message { mtype, text })
    }

    /// Owner, times, messages.
    ///
    /// # Errors
    /// As `msgctl(2)` with `IPC_STAT`.
    pub fn stat(&self) -> Result<QueueStat> {
        self.session.call(|r, on, c| msg::stat(r, on, c, self.id))
    }

    /// Removes it; who waits on it fails with `EIDRM`.
    ///
    /// # Errors
    /// As `msgctl(2)` with `IPC_RMID`.
    pub fn remove(&self) -> Result<()> {
        self.session.call(|r, on, c| msg::remove(r, on, c, self.id))
    }
}

/// A shared memory segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    session: &'a Session,
    id: i32,
}

impl<'a> Segment<'a> {
    /// Its id, good in every process of the region.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// Maps it for reading and writing.
    ///
    /// # Errors
    /// As `shmat(2)`.
    ///
    /// # If the caller dies
    /// The attachment ends with the process.
    pub fn attach(&self) -> Result<Attached<'a>> {
        self.map(false)
    }

    /// Maps it for reading; nothing in this process can make that writable.
    ///
    /// # Errors
    /// As `shmat(2)`.
    pub fn attach_read_only(&self) -> Result<Attached<'a>> {
        self.map(true)
    }

    fn map(&self, read_only: bool) -> Result<Attached<'a>> {
        let place = Placement { read_only, ..Placement::default() };
        // SAFETY: replaces nothing.
        let (at, len) = unsafe { self.session.attach_segment(self.id, place) }?;
        Ok(Attached { session: self.session, at, len, read_only })
    }

    /// Owner, times, size, attachments.
    ///
    /// # Errors
    /// As `shmctl(2)` with `IPC_STAT`.
    pub fn stat(&self) -> Result<SegStat> {
        self.session.call(|r, on, c| shm::stat(r, on, c, self.id))
    }

    /// Removes it: at once, or when the last one detaches.
    ///
    /// # Errors
    /// As `shmctl(2)` with `IPC_RMID`.
    pub fn remove(&self) -> Result<()> {
        self.session.call(|r, on, c| shm::remove(r, on, c, self.id))
    }
}

/// A mapped segment; detached when dropped.
///
/// Other processes write it at any time, so there is no slice of it: [`Attached::read`] and
/// [`Attached::write`] copy, [`Attached::as_ptr`] is for atomics and for those who know when nobody
/// else writes.
#[derive(Debug)]
pub struct Attached<'a> {
    pub(crate) session: &'a Session,
    at: *mut u8,
    len: usize,
    pub(crate) read_only: bool,
}

impl Attached<'_> {
    /// Where it is.
    #[must_use]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.at
    }

    /// Its bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: a segment has at least one byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn inside(&self, from: usize, n: usize) {
        let fits = from.checked_add(n).is_some_and(|end| end <= self.len);
        assert!(fits, "{n} bytes at {from} of a segment of {}", self.len);
    }

    /// Copies bytes out, beginning at `from`.
    ///
    /// # Panics
    /// The range is outside the segment.
    pub fn read(&self, from: usize, to: &mut [u8]) {
        self.inside(from, to.len());
        // SAFETY: checked above; the mapping lives as long as `self`. Bytes that another process
        // changes meanwhile are read old or new: the copy goes through raw pointers only.
        unsafe {
            ptr::copy_nonoverlapping(self.at.add(from).cast_const(), to.as_mut_ptr(), to.len())
        };
    }

    /// Copies bytes in, beginning at `at`.
    ///
    /// # Panics
    /// The range is outside the segment, or it was attached for reading.
    pub fn write(&self, at: usize, from: &[u8]) {
        assert!(!self.read_only, "a segment attached for reading");
        self.inside(at, from.len());
        // SAFETY: as in `read`; writable, and no reference to these bytes exists.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.at.add(at), from.len()) };
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nobody uses it any more. A corrupt record is
        // the reaper's to report.
        let _ = unsafe { self.session.detach_segment(self.at as usize) };
    }
}
