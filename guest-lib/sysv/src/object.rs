//! What the three kinds share: callers, permissions, keys, ids, the directory.

use crate::{Errno, Result};
use vshmem_core::arena::to_cell;
use vshmem_core::layout::{Limit, MAX_NUMBER, Table, dir, held, lane, obj, task};
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, TaskId};
use vshmem_core::{Corrupt, Lane, Offset, Platform, Region, Txn};

/// Set in every id of ours: the kernel hands out all of its own index range, and local and shared
/// objects must not be mistaken for one another.
pub const ID_BIT: i32 = 1 << 30;
const INDEX_BITS: u32 = 15;
const SEQ_BITS: u32 = 12;
const NUMBER_SHIFT: u32 = INDEX_BITS + SEQ_BITS;
/// A life's sequence is longer than what the id shows of it: its end is not met again after 4096
/// rounds.
const SEQ_MASK: u32 = u32::MAX >> 2;

/// Which region an id of ours is of.
#[inline]
#[must_use]
pub const fn number_of(id: i32) -> u32 {
    id as u32 >> NUMBER_SHIFT & MAX_NUMBER
}

/// What all ids of region `r` have above their sequence.
#[inline]
fn prefix<P: Platform>(r: &Region<P>) -> u32 {
    (ID_BIT as u32 >> NUMBER_SHIFT) | r.number()
}
/// Indices cycle through at least this many before one is used again (Linux: `ipc_min_cycle`).
const MIN_CYCLE: u32 = 64;

/// Flags of the calls, by their Linux values.
pub mod flag {
    /// The key that always makes a new object.
    pub const IPC_PRIVATE: i32 = 0;
    /// Create if absent.
    pub const IPC_CREAT: i32 = 0o1000;
    /// Fail if present.
    pub const IPC_EXCL: i32 = 0o2000;
    /// Do not sleep.
    pub const IPC_NOWAIT: i32 = 0o4000;
    /// Undo at exit.
    pub const SEM_UNDO: i32 = 0x1000;
    /// Cut a message that is too long.
    pub const MSG_NOERROR: i32 = 0o10_000;
    /// Any type but this one.
    pub const MSG_EXCEPT: i32 = 0o20_000;
    /// Copy the n-th message.
    pub const MSG_COPY: i32 = 0o40_000;
    /// In `shm_perm.mode`: removed when the last one detaches.
    pub const SHM_DEST: u32 = 0o1000;
    /// In `shm_perm.mode`: locked in memory.
    pub const SHM_LOCKED: u32 = 0o2000;
}

/// Who calls: a task, with the credentials it has at this moment.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its slot.
    pub task: TaskId,
    /// Its peer and pid.
    pub who: Identity,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Has `CAP_IPC_OWNER`.
    pub ipc_owner: bool,
    /// Has `CAP_IPC_LOCK`.
    pub ipc_lock: bool,
    /// Has `CAP_SYS_ADMIN`.
    pub sys_admin: bool,
    /// Has `CAP_SYS_RESOURCE`.
    pub sys_resource: bool,
}

impl Caller {
    fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// `struct ipc_perm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Perm {
    /// Key.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Creator.
    pub cuid: u32,
    /// Creator's group.
    pub cgid: u32,
    /// Mode and kind-specific flags.
    pub mode: u32,
    /// The id without its index, as the kernel's `__seq` has it.
    pub seq: u32,
}

/// An object that an id named when it was looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub index: u32,
    pub at: Offset,
    /// The life cell's value; another value later means that the object is gone.
    pub life: u32,
    /// The peer that looked, or [`ANYONE`].
    pub peer: u32,
}

/// Looks at objects on nobody's behalf: reapers, hand-offs, what was counted before.
pub(crate) const ANYONE: u32 = u32::MAX;

/// Whether the object at `at` was withdrawn from `peer`.
#[inline]
pub(crate) fn withdrawn<P: Platform>(
    r: &Region<P>,
    at: Offset,
    peer: impl FnOnce() -> u32,
) -> Result<bool> {
    let only = r.peek(at.plus(obj::ONLY))?;
    Ok(only != 0 && is_other(only, peer()))
}

fn is_other(only: u32, peer: u32) -> bool {
    only != peer.wrapping_add(1) && peer != ANYONE
}

pub(crate) fn id_of<P: Platform>(r: &Region<P>, index: u32, life: u32) -> i32 {
    let seq = life >> 2 & ((1 << SEQ_BITS) - 1);
    (prefix(r) << NUMBER_SHIFT | seq << INDEX_BITS | index) as i32
}

/// Where what `id` names would be, and the life it must have, be it there or not.
fn decode<P: Platform>(r: &Region<P>, kind: Kind, id: i32) -> Result<(Offset, u32, u32)> {
    if id as u32 >> NUMBER_SHIFT != prefix(r) {
        return Err(Errno::EINVAL.into());
    }
    let index = id as u32 & ((1 << INDEX_BITS) - 1);
    let at = r.object(kind, index).map_err(|_| Errno::EINVAL)?;
    Ok((at, index, id as u32 >> INDEX_BITS))
}

/// Whether a life is that of an object that calls may name. A doomed segment is still attached.
fn is_there(kind: Kind, life: u32) -> bool {
    match life & 3 {
        obj::LIVE => true,
        obj::DOOMED => kind == Kind::Seg,
        _ => false,
    }
}

/// The live (or, for segments, doomed) object that `id` names, unless it was withdrawn from the
/// caller's peer.
pub(crate) fn find<P: Platform>(r: &Region<P>, kind: Kind, c: &Caller, id: i32) -> Result<Object> {
    let object = Object { peer: c.who.peer(), ..find_any(r, kind, id)? };
    if withdrawn(r, object.at, || object.peer)? { Err(Errno::EINVAL.into()) } else { Ok(object) }
}

/// As [`find`], whoever may use it.
#[inline]
pub(crate) fn find_any<P: Platform>(r: &Region<P>, kind: Kind, id: i32) -> Result<Object> {
    let (at, index, seq) = decode(r, kind, id)?;
    let life = r.peek(at.plus(obj::LIFE))?;
    if (life >> 2 ^ seq) & ((1 << SEQ_BITS) - 1) == 0 && is_there(kind, life) {
        Ok(Object { index, at, life, peer: ANYONE })
    } else {
        Err(Errno::EINVAL.into())
    }
}

/// The object at `index`, for the `*_STAT` commands of `peer`.
pub(crate) fn at_index<P: Platform>(
    r: &Region<P>,
    kind: Kind,
    peer: u32,
    index: i32,
) -> Result<Object> {
    // The kernel, too, looks at the index bits of what it is given.
    let index = u32::try_from(index).map_err(|_| Errno::EINVAL)? & ((1 << INDEX_BITS) - 1);
    let at = r.object(kind, index).map_err(|_| Errno::EINVAL)?;
    let life = r.peek(at.plus(obj::LIFE))?;
    if !is_there(kind, life) || withdrawn(r, at, || peer)? {
        return Err(Errno::EINVAL.into());
    }
    Ok(Object { index, at, life, peer })
}

impl Object {
    /// Locks it and checks that it is still the one that was looked up. EIDRM, as the kernel has it,
    /// for one that was removed or withdrawn between the look and the lock, or while its caller
    /// waited.
    pub fn lock<P: Platform>(&self, txn: &mut Txn<'_, P>) -> Result<()> {
        txn.lock(self.at.plus(obj::LOCK))?;
        if txn.get(self.at.plus(obj::LIFE))? == self.life {
            self.still_shared(txn)
        } else {
            Err(Errno::EIDRM.into())
        }
    }

    /// EIDRM where the locked object has been withdrawn from whoever looked it up.
    pub fn still_shared<P: Platform>(&self, txn: &Txn<'_, P>) -> Result<()> {
        let only = txn.get(self.at.plus(obj::ONLY))?;
        if only != 0 && is_other(only, self.peer) { Err(Errno::EIDRM.into()) } else { Ok(()) }
    }

    pub fn id<P: Platform>(&self, r: &Region<P>) -> i32 {
        id_of(r, self.index, self.life)
    }
}

/// The kernel's `ipcperms`: `want` is a mode, of whose bits one class decides.
pub(crate) fn permit<P: Platform>(r: &Region<P>, c: &Caller, at: Offset, want: u32) -> Result<()> {
    if c.ipc_owner {
        return Ok(());
    }
    let want = (want >> 6 | want >> 3 | want) & 7;
    let mode = r.peek(at.plus(obj::MODE))?;
    let cell = |o: u64| r.peek(at.plus(o));
    let granted = if c.uid == cell(obj::CUID)? || c.uid == cell(obj::UID)? {
        mode >> 6
    } else if c.in_group(cell(obj::CGID)?) || c.in_group(cell(obj::GID)?) {
        mode >> 3
    } else {
        mode
    };
    if want & !granted & 7 == 0 { Ok(()) } else { Err(Errno::EACCES.into()) }
}

/// Whether the caller may change or remove the object.
pub(crate) fn own<P: Platform>(r: &Region<P>, c: &Caller, at: Offset) -> Result<()> {
    let (uid, cuid) = (r.peek(at.plus(obj::UID))?, r.peek(at.plus(obj::CUID))?);
    if c.uid == uid || c.uid == cuid || c.sys_admin { Ok(()) } else { Err(Errno::EPERM.into()) }
}

pub(crate) fn perm<P: Platform>(txn: &Txn<'_, P>, object: &Object) -> Result<Perm> {
    let cell = |o: u64| txn.get(object.at.plus(o));
    Ok(Perm {
        key: cell(obj::KEY)? as i32,
        uid: cell(obj::UID)?,
        gid: cell(obj::GID)?,
        cuid: cell(obj::CUID)?,
        cgid: cell(obj::CGID)?,
        mode: cell(obj::MODE)?,
        seq: object.id(txn.region()) as u32 >> INDEX_BITS,
    })
}

/// `IPC_SET`: owner, group and the nine mode bits.
pub(crate) fn set_perm<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<()> {
    // -1 names nobody, as the kernel has it.
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::EINVAL.into());
    }
    let now = txn.region().mem().seconds();
    let old = txn.get(object.at.plus(obj::MODE))?;
    txn.set(object.at.plus(obj::UID), uid)?;
    txn.set(object.at.plus(obj::GID), gid)?;
    txn.set(object.at.plus(obj::MODE), old & !0o777 | mode & 0o777)?;
    Ok(txn.set(object.at.plus(obj::CTIME), now)?)
}

pub(crate) fn bucket<P: Platform>(r: &Region<P>, kind: Kind, key: i32) -> Offset {
    let place = r.table(kind.keys());
    // Fibonacci hashing; the number of buckets is a power of two.
    let hash = u64::from((key as u32).wrapping_mul(0x9e37_79b1));
    place.at.index((hash * place.count) >> 32, 8)
}

fn lookup<P: Platform>(txn: &Txn<'_, P>, kind: Kind, key: i32) -> Result<Option<Object>> {
    let r = txn.region();
    let mut next = txn.get(bucket(r, kind, key))?;
    for _ in 0..r.table(kind.table()).count {
        let Some(index) = next.checked_sub(1) else { return Ok(None) };
        let at = r.object(kind, index)?;
        if txn.get(at.plus(obj::KEY))? as i32 == key {
            let life = txn.get(at.plus(obj::LIFE))?;
            // What is withdrawn has no key.
            return Ok(Some(Object { index, at, life, peer: ANYONE }));
        }
        next = txn.get(at.plus(obj::NEXT))?;
    }
    Err(Corrupt::new(bucket(r, kind, key), "key chain longer than its table").into())
}

/// What a `*get` call asks.
#[derive(Clone, Copy)]
pub(crate) struct Get {
    pub kind: Kind,
    pub key: i32,
    pub flags: i32,
}

impl Get {
    /// The object that exists already, in the kernel's order of checks; `None`: make one.
    pub fn existing<P: Platform>(
        self,
        r: &Region<P>,
        on: &mut Lane,
        c: &Caller,
        fits: impl Fn(&Txn<'_, P>, &Object) -> Result<bool>,
    ) -> Result<Option<i32>> {
        if self.key == flag::IPC_PRIVATE {
            return Ok(None);
        }
        r.transact(on, |txn| {
            txn.lock(self.kind.dir().plus(dir::LOCK))?;
            self.check(txn, c, &fits)
        })
    }

    fn check<P: Platform>(
        self,
        txn: &Txn<'_, P>,
        c: &Caller,
        fits: &impl Fn(&Txn<'_, P>, &Object) -> Result<bool>,
    ) -> Result<Option<i32>> {
        let Some(found) = lookup(txn, self.kind, self.key)? else {
            return if self.flags & flag::IPC_CREAT == 0 {
                Err(Errno::ENOENT.into())
            } else {
                Ok(None)
            };
        };
        let exclusive = flag::IPC_CREAT | flag::IPC_EXCL;
        if self.flags & exclusive == exclusive {
            return Err(Errno::EEXIST.into());
        }
        if !fits(txn, &found)? {
            return Err(Errno::EINVAL.into());
        }
        permit(txn.region(), c, found.at, self.flags as u32 & 0o777)?;
        Ok(Some(found.id(txn.region())))
    }

    /// Enters a new object, unless somebody was faster: `Err(id)` inside then. `fill` writes the
    /// kind's own part.
    pub fn create<P: Platform>(
        self,
        txn: &mut Txn<'_, P>,
        c: &Caller,
        limit: Limit,
        fits: impl Fn(&Txn<'_, P>, &Object) -> Result<bool>,
        fill: impl FnOnce(&mut Txn<'_, P>, &Object) -> Result<()>,
    ) -> Result<core::result::Result<Object, i32>> {
        let r = txn.region();
        let dir = self.kind.dir();
        txn.lock(dir.plus(dir::LOCK))?;
        if self.key != flag::IPC_PRIVATE
            && let Some(id) = self.check(txn, c, &fits)?
        {
            return Ok(Err(id));
        }
        let in_use = txn.get(dir.plus(dir::IN_USE))?;
        if u64::from(in_use) >= r.limit(limit)? {
            return Err(Errno::ENOSPC.into());
        }
        // Indices cycle through the table however low the limit is.
        let table = r.table(self.kind.table()).count as u32;
        let index = free_index(txn, self.kind, table.min(MIN_CYCLE.max(in_use + in_use / 2)))?;
        let at = r.object(self.kind, index)?;
        txn.lock(at.plus(obj::LOCK))?;
        let last = txn.get(dir.plus(dir::LAST))?;
        let mut seq = txn.get(dir.plus(dir::SEQ))?;
        if index < last {
            seq = seq.wrapping_add(1) & SEQ_MASK;
            txn.set(dir.plus(dir::SEQ), seq)?;
        }
        txn.set(dir.plus(dir::LAST), index + 1)?;
        txn.set(dir.plus(dir::IN_USE), in_use + 1)?;
        let life = seq << 2 | obj::LIVE;
        let now = r.mem().seconds();
        for (cell, value) in [
            (obj::KEY, self.key as u32),
            (obj::ONLY, 0),
            (obj::MODE, self.flags as u32 & 0o777),
            (obj::UID, c.uid),
            (obj::GID, c.gid),
            (obj::CUID, c.uid),
            (obj::CGID, c.gid),
            (obj::CTIME, now),
            (obj::CPID, c.who.0),
        ] {
            txn.set(at.plus(cell), value)?;
        }
        if self.key == flag::IPC_PRIVATE {
            txn.set(at.plus(obj::NEXT), 0)?;
        } else {
            let head = bucket(r, self.kind, self.key);
            let next = txn.get(head)?;
            txn.set(at.plus(obj::NEXT), next)?;
            txn.set(head, index + 1)?;
        }
        let object = Object { index, at, life, peer: c.who.peer() };
        fill(txn, &object)?;
        // Last: steps are applied in order, and whoever sees the life may use the rest.
        txn.set(at.plus(obj::LIFE), life)?;
        Ok(Ok(object))
    }
}

/// Takes the next free index after the last one, below `limit`, wrapping.
fn free_index<P: Platform>(txn: &mut Txn<'_, P>, kind: Kind, limit: u32) -> Result<u32> {
    let used = txn.region().table(kind.used()).at;
    let last = txn.get(kind.dir().plus(dir::LAST))?;
    let mut index = if last >= limit { 0 } else { last };
    let mut passed = 0;
    while passed < limit + 32 {
        let at = used.index(u64::from(index / 32), 8);
        let free = !txn.get(at)? & (u32::MAX << (index % 32));
        let candidate = index / 32 * 32 + free.trailing_zeros();
        if free != 0 && candidate < limit {
            let old = txn.get(at)?;
            txn.set(at, old | 1 << (candidate % 32))?;
            return Ok(candidate);
        }
        passed += 32 - index % 32;
        index = index / 32 * 32 + 32;
        if index >= limit {
            index = 0;
        }
    }
    Err(Errno::ENOSPC.into())
}

/// Takes an object out of its key's chain: it can no longer be found by key.
pub(crate) fn unlink_key<P: Platform>(
    txn: &mut Txn<'_, P>,
    kind: Kind,
    object: &Object,
) -> Result<()> {
    let r = txn.region();
    let key = txn.get(object.at.plus(obj::KEY))? as i32;
    if key == flag::IPC_PRIVATE {
        return Ok(());
    }
    txn.set(object.at.plus(obj::KEY), 0)?;
    let mut link = bucket(r, kind, key);
    for _ in 0..r.table(kind.table()).count {
        let Some(index) = txn.get(link)?.checked_sub(1) else { break };
        let at = r.object(kind, index)?;
        if index == object.index {
            let next = txn.get(at.plus(obj::NEXT))?;
            txn.set(link, next)?;
            return Ok(());
        }
        link = at.plus(obj::NEXT);
    }
    Err(Corrupt::new(link, "object missing in its key's chain").into())
}

/// Ends an object whose directory and own lock the transaction holds: key, index and life.
pub(crate) fn retire<P: Platform>(
    txn: &mut Txn<'_, P>,
    kind: Kind,
    object: &Object,
    total: u32,
) -> Result<()> {
    let dir = kind.dir();
    unlink_key(txn, kind, object)?;
    let used = txn.region().table(kind.used()).at.index(u64::from(object.index / 32), 8);
    let bits = txn.get(used)?;
    txn.set(used, bits & !(1 << (object.index % 32)))?;
    let in_use = txn.get(dir.plus(dir::IN_USE))?;
    txn.set(dir.plus(dir::IN_USE), in_use.saturating_sub(1))?;
    let sum = txn.get(dir.plus(dir::TOTAL))?;
    txn.set(dir.plus(dir::TOTAL), sum.saturating_sub(total))?;
    Ok(txn.set(object.at.plus(obj::LIFE), object.life & !3 | obj::FREE)?)
}

/// Objects in use and the highest index in use, -1 for none.
pub(crate) fn in_use<P: Platform>(r: &Region<P>, kind: Kind) -> Result<(u32, i32)> {
    let count = r.peek(kind.dir().plus(dir::IN_USE))?;
    let used = r.table(kind.used());
    for i in (0..used.count).rev() {
        let bits = r.peek(used.at.index(i, 8))?;
        if bits != 0 {
            return Ok((count, i as i32 * 32 + 31 - bits.leading_zeros() as i32));
        }
    }
    Ok((count, -1))
}

/// Indices of all objects of `kind` that are there.
pub fn indices<P: Platform>(r: &Region<P>, kind: Kind) -> Result<Vec<u32>> {
    let used = r.table(kind.used());
    let mut found = Vec::new();
    for i in 0..used.count {
        let mut bits = r.peek(used.at.index(i, 8))?;
        while bits != 0 {
            found.push(i as u32 * 32 + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
    found.retain(|i| u64::from(*i) < r.table(kind.table()).count);
    Ok(found)
}

/// Refuses a task that was reaped, though the caller still runs. The task's lock is held.
pub(crate) fn alive<P: Platform>(txn: &Txn<'_, P>, id: TaskId) -> Result<()> {
    let slot = txn.region().element(Table::Tasks, id.index)?;
    let word = txn.word(slot.plus(task::STATE))?;
    if word >> 8 == id.incarnation && matches!(word & 0xff, task::CLAIMED | task::LIVE) {
        Ok(())
    } else {
        Err(Errno::EIDRM.into())
    }
}

/// A block a lane holds between two transactions.
pub(crate) struct Held;

impl Held {
    /// Notes in `txn` that its lane holds `block` for reason `why`.
    pub fn note<P: Platform>(
        txn: &mut Txn<'_, P>,
        why: u32,
        block: u32,
        what: u32,
        life: u32,
    ) -> Result<()> {
        let at = txn.region().lane(txn.lane())?;
        txn.set(at.plus(lane::HELD), block)?;
        txn.set(at.plus(lane::HELD_WHY), why)?;
        txn.set(at.plus(lane::HELD_FOR), what)?;
        Ok(txn.set(at.plus(lane::HELD_LIFE), life)?)
    }

    /// Notes that the lane, which holds `block` for reason `why`, holds nothing any more. EIDRM
    /// where that was taken from it: its task was reaped.
    pub fn clear<P: Platform>(txn: &mut Txn<'_, P>, why: u32, block: Offset) -> Result<()> {
        Self::check(txn, why, block)?;
        let at = txn.region().lane(txn.lane())?;
        Self::drop_of(txn, at)
    }

    /// EIDRM unless the lane holds `block` for reason `why`.
    pub fn check<P: Platform>(txn: &Txn<'_, P>, why: u32, block: Offset) -> Result<()> {
        let at = txn.region().lane(txn.lane())?;
        if txn.get(at.plus(lane::HELD_WHY))? != why
            || txn.get(at.plus(lane::HELD))? != to_cell(block)
        {
            return Err(Errno::EIDRM.into());
        }
        Ok(())
    }

    /// Notes that the lane at `slot` holds nothing any more.
    pub fn drop_of<P: Platform>(txn: &mut Txn<'_, P>, slot: Offset) -> Result<()> {
        Ok(txn.set(slot.plus(lane::HELD_WHY), held::NOTHING)?)
    }
}

/// 64-bit values live in two cells.
pub(crate) fn get64<P: Platform>(txn: &Txn<'_, P>, low: Offset, high: Offset) -> Result<u64> {
    Ok(u64::from(txn.get(high)?) << 32 | u64::from(txn.get(low)?))
}
