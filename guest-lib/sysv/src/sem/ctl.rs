//! `semctl`.

use super::{MAX_VALUE, RESTLESS, Word, bytes, freeze, intent, ops, sem_at, sems_of};
use crate::object::{self, Held, Object, Perm, own, permit};
use crate::waiters::{UNSETTLED, rounds};
use crate::{Caller, Errno, Error, Result, removal};
use vshmem_core::arena::{Pool, to_cell};
use vshmem_core::layout::{Limit, arena, dir, held, lane, obj, sem, set};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::{Corrupt, Lane, Platform, Region, Turns, Txn};

/// Semaphores written, or sleepers dismissed, in one transaction.
const BATCH: usize = 250;

/// `struct semid_ds`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SetStat {
    /// Permissions.
    pub perm: Perm,
    /// Semaphores.
    pub nsems: u32,
    /// Last `semop`, seconds; 0 if none.
    pub otime: u64,
    /// Last change, seconds.
    pub ctime: u64,
}

/// `struct seminfo`, with what is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SemInfo {
    /// Sets at once.
    pub semmni: u32,
    /// Semaphores of all sets.
    pub semmns: u32,
    /// Semaphores per set.
    pub semmsl: u32,
    /// Operations per `semop`.
    pub semopm: u32,
    /// Sets in use.
    pub used_sets: u32,
    /// Semaphores in use.
    pub used_sems: u32,
    /// Highest index in use, -1 for none.
    pub highest: i32,
}

/// Limits and use.
///
/// # Errors
/// The region is corrupt.
pub fn info<P: Platform>(r: &Region<P>) -> Result<SemInfo> {
    let (used_sets, highest) = object::in_use(r, Kind::Set)?;
    Ok(SemInfo {
        semmni: r.limit(Limit::Semmni)? as u32,
        semmns: r.limit(Limit::Semmns)? as u32,
        semmsl: r.limit(Limit::Semmsl)? as u32,
        semopm: r.limit(Limit::Semopm)? as u32,
        used_sets,
        used_sems: r.peek(Kind::Set.dir().plus(dir::TOTAL))?,
        highest,
    })
}

/// How many values a `SETALL` of this caller needs: it is allowed before the values are looked at.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn nsems<P: Platform>(r: &Region<P>, c: &Caller, id: i32) -> Result<usize> {
    let object = object::find(r, Kind::Set, c, id)?;
    permit(r, c, object.at, 0o222)?;
    let nsems = r.peek(object.at.plus(set::NSEMS))?;
    // The caller makes room for so many.
    if bytes(nsems) > arena::MAX_BLOCK {
        return Err(Corrupt::new(object.at, "set with more semaphores than memory").into());
    }
    Ok(nsems as usize)
}

/// `IPC_STAT`.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn stat<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<SetStat> {
    let object = object::find(r, Kind::Set, c, id)?;
    permit(r, c, object.at, 0o444)?;
    stat_of(r, on, &object)
}

/// `SEM_STAT` and, with `any`, `SEM_STAT_ANY`: by index; gives the id too.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn stat_index<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    index: i32,
    any: bool,
) -> Result<(i32, SetStat)> {
    let object = object::at_index(r, Kind::Set, c.who.peer(), index)?;
    if !any {
        permit(r, c, object.at, 0o444)?;
    }
    Ok((object.id(r), stat_of(r, on, &object)?))
}

fn stat_of<P: Platform>(r: &Region<P>, on: &mut Lane, object: &Object) -> Result<SetStat> {
    r.transact(on, |txn| {
        object.lock(txn)?;
        let (sems, nsems) = sems_of(txn, object)?;
        let mut otime = txn.get(object.at.plus(set::OTIME))?;
        for num in 0..nsems {
            otime = otime.max(txn.get(sem_at(sems, num).plus(sem::OTIME))?);
        }
        Ok(SetStat {
            perm: object::perm(txn, object)?,
            nsems,
            otime: otime.into(),
            ctime: txn.get(object.at.plus(obj::CTIME))?.into(),
        })
    })
}

/// `IPC_SET`.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn set<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    uid: u32,
    gid: u32,
    mode: u32,
) -> Result<()> {
    let object = object::find(r, Kind::Set, c, id)?;
    r.transact(on, |txn| {
        object.lock(txn)?;
        own(r, c, object.at)?;
        object::set_perm(txn, &object, uid, gid, mode)
    })
}

/// `IPC_RMID`: sleepers get `EIDRM`.
///
/// # Errors
/// `EINVAL`, `EPERM`.
///
/// # If the caller dies
/// The set is there or gone; sleepers not yet told so are told by the reaper.
pub fn remove<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<()> {
    removal::remove(r, on, Kind::Set, &object::find(r, Kind::Set, c, id)?, Some(c))
}

/// A step of the removal of a set whose directory and own lock the transaction holds: sends some
/// sleepers away; the last step, `true`, frees the set.
pub(crate) fn end<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<bool> {
    let (sems, nsems) = sems_of(txn, object)?;
    // No fast operation may succeed on a set that is gone, or a word that will be another set's.
    for num in 0..nsems {
        freeze(txn.region(), sem_at(sems, num))?;
    }
    let list = ops::wait_list(object.at);
    let waiting = list.each(txn)?;
    for id in waiting.iter().take(BATCH / 2) {
        list.settle(txn, *id, Err(Errno::EIDRM))?;
    }
    let left = waiting.len().saturating_sub(BATCH / 2);
    txn.set(object.at.plus(set::WAITERS), left as u32)?;
    if left > 0 {
        return Ok(false);
    }
    object::retire(txn, Kind::Set, object, nsems)?;
    txn.free(Pool::Sems, bytes(nsems), sems)?;
    Ok(true)
}

/// Sends sleepers of other peers than `mine` away with EIDRM; how many are left. When none is, all
/// words are frozen: a fast operation that has not seen the withdrawal yet must look again.
pub(crate) fn dismiss_others<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    mine: u32,
) -> Result<usize> {
    let list = ops::wait_list(object.at);
    let waiting = list.each(txn)?;
    let mut others = Vec::new();
    for id in &waiting {
        let slot = txn.region().lane(*id)?;
        if txn.get(slot.plus(lane::WAIT_PEER))? != mine {
            others.push(*id);
        }
    }
    let gone = others.len().min(BATCH / 2);
    for id in &others[..gone] {
        list.settle(txn, *id, Err(Errno::EIDRM))?;
    }
    txn.set(object.at.plus(set::WAITERS), (waiting.len() - gone) as u32)?;
    if others.len() == gone {
        let (sems, nsems) = sems_of(txn, object)?;
        for num in 0..nsems {
            freeze(txn.region(), sem_at(sems, num))?;
        }
    }
    Ok(others.len() - gone)
}

/// Runs `f` on a settled, locked set after checking `num` and read permission.
fn look<P: Platform, T>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
    f: impl Fn(&mut Txn<'_, P>, &Object, u32) -> Result<T>,
) -> Result<T> {
    let object = object::find(r, Kind::Set, c, id)?;
    permit(r, c, object.at, 0o444)?;
    let mut turns = rounds(r);
    loop {
        turns.pass(1, object.at, UNSETTLED)?;
        let seen = r.transact(on, |txn| {
            object.lock(txn)?;
            let (_, nsems) = sems_of(txn, &object)?;
            let num = u32::try_from(num).ok().filter(|n| *n < nsems).ok_or(Errno::EINVAL)?;
            if txn.get(object.at.plus(set::DIRTY))? != 0 {
                return Ok::<_, Error>(None);
            }
            f(txn, &object, num).map(Some)
        })?;
        match seen {
            Some(value) => return Ok(value),
            None => ops::settle(r, on, &object, &mut turns)?,
        }
    }
}

/// `GETVAL`.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn getval<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
) -> Result<i32> {
    look(r, on, c, id, num, |txn, object, num| {
        let (sems, _) = sems_of(txn, object)?;
        Ok(Word(txn.word(sem_at(sems, num))?).value())
    })
}

/// `GETPID`: the last process to operate on the semaphore, 0 for one of another peer.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn getpid<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
) -> Result<i32> {
    let who = look(r, on, c, id, num, |txn, object, num| {
        let at = sem_at(sems_of(txn, object)?.0, num);
        let mut turns = Turns::new();
        loop {
            let word = Word(txn.word(at)?);
            let who = intent::writer(r, word)?;
            // The lane's own, as long as the word names it.
            if txn.word(at)? == word.0 {
                return Ok(who);
            }
            turns.pass(1, at, RESTLESS)?;
        }
    })?;
    Ok(who.pid_seen_by(c.who.peer()) as i32)
}

/// `GETNCNT`: sleepers whose first blocking operation waits for this semaphore to grow.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn getncnt<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
) -> Result<i32> {
    count(r, on, c, id, num, false)
}

/// `GETZCNT`: sleepers whose first blocking operation waits for this semaphore to be zero.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn getzcnt<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
) -> Result<i32> {
    count(r, on, c, id, num, true)
}

fn count<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
    zero: bool,
) -> Result<i32> {
    look(r, on, c, id, num, |txn, object, num| {
        let mut n = 0;
        ops::blocking(txn, object, |op| {
            n += i32::from(u32::from(op.num) == num && (op.op == 0) == zero);
        })?;
        Ok(n)
    })
}

/// `GETALL`: a consistent picture of all values.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn getall<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<Vec<u16>> {
    look(r, on, c, id, 0, |txn, object, _| {
        let (sems, nsems) = sems_of(txn, object)?;
        let read = |num| r.mem().load(sem_at(sems, num), Ordering::Acquire);
        // Two equal readings are a picture: a sequence in each word tells every change.
        let mut before: Vec<u64> = (0..nsems).map(read).collect::<core::result::Result<_, _>>()?;
        for attempt in 0.. {
            if attempt == 8 {
                // Too busy to be caught in passing; stop the fast operations.
                (0..nsems).try_for_each(|num| freeze(r, sem_at(sems, num)))?;
            }
            let after: Vec<u64> = (0..nsems).map(read).collect::<core::result::Result<_, _>>()?;
            if after == before || attempt > 9 {
                before = after;
                break;
            }
            before = after;
        }
        Ok(before.into_iter().map(|w| Word(w).value() as u16).collect())
    })
}

/// `SETVAL`: sets one value and cancels all undo adjustments of that semaphore.
///
/// # Errors
/// `ERANGE`, `EINVAL`, `EACCES`.
pub fn setval<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    num: i32,
    value: i32,
) -> Result<()> {
    if !(0..=MAX_VALUE).contains(&value) {
        return Err(Errno::ERANGE.into());
    }
    let object = object::find(r, Kind::Set, c, id)?;
    let num = u32::try_from(num).map_err(|_| Errno::EINVAL)?;
    if num >= r.peek(object.at.plus(set::NSEMS))? {
        return Err(Errno::EINVAL.into());
    }
    permit(r, c, object.at, 0o222)?;
    write_values(r, on, c, &object, num, &[value as u16])
}

/// `SETALL`: sets all values and cancels all undo adjustments of the set.
///
/// # Errors
/// `EINVAL`, `EACCES`, `ERANGE`; `ENOMEM` for more than 250 semaphores, of which a copy is made.
///
/// # If the caller dies
/// All values are set, or none.
pub fn setall<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    values: &[u16],
) -> Result<()> {
    let object = object::find(r, Kind::Set, c, id)?;
    permit(r, c, object.at, 0o222)?;
    if values.len() != r.peek(object.at.plus(set::NSEMS))? as usize {
        return Err(Errno::EINVAL.into());
    }
    if values.iter().any(|v| i32::from(*v) > MAX_VALUE) {
        return Err(Errno::ERANGE.into());
    }
    if values.len() <= BATCH {
        write_values(r, on, c, &object, 0, values)
    } else {
        replace_values(r, on, c, &object, values)
    }
}

/// As [`write_values`] for more semaphores than a journal has room for: the set gets other memory
/// with the new values in it.
fn replace_values<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    object: &Object,
    values: &[u16],
) -> Result<()> {
    let nsems = values.len() as u32;
    // 1. Memory, remembered by the lane.
    let new = super::reserve(r, on, nsems)?;
    // 2. The values, and the set with them in one step.
    let replaced = r.transact(on, |txn| {
        if let Err(gone) = object.lock(txn) {
            // The memory goes back in the same step.
            let Error::Errno(errno) = gone else { return Err(gone) };
            return super::give_back(txn, nsems, new).map(|()| Err(errno));
        }
        let (old, have) = sems_of(txn, object)?;
        if have != nsems {
            return Err(Corrupt::new(object.at, "set of another size than before").into());
        }
        let frozen = txn.get(object.at.plus(set::WAITERS))? > 0;
        for (num, value) in (0..).zip(values) {
            if num % 64 == 0 {
                txn.valid()?;
            }
            let (from, to) = (sem_at(old, num), sem_at(new, num));
            freeze(r, from)?;
            // Nobody else looks there yet. The sequence is that of the memory, not of the set.
            let word = Word(r.mem().load(to, Ordering::Relaxed)?);
            let word = word.next((*value).into(), c.who, frozen);
            r.mem().store(to, word.0, Ordering::Release)?;
            let otime = r.mem().load(from.plus(sem::OTIME), Ordering::Relaxed)?;
            r.mem().store(to.plus(sem::OTIME), otime, Ordering::Relaxed)?;
            let epoch = txn.get(from.plus(sem::EPOCH))?;
            r.init(to.plus(sem::EPOCH), epoch.wrapping_add(1))?;
        }
        txn.set(object.at.plus(set::SEMS), to_cell(new))?;
        txn.free(Pool::Sems, bytes(nsems), old)?;
        Held::clear(txn, held::SEMS, new)?;
        txn.set(object.at.plus(obj::CTIME), r.mem().seconds())?;
        Ok(Ok(frozen && ops::hand_off(txn, object, ops::Change::All)?))
    })?;
    if replaced? { ops::settle(r, on, object, &mut rounds(r)) } else { Ok(()) }
}

fn write_values<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    object: &Object,
    first: u32,
    values: &[u16],
) -> Result<()> {
    let more = r.transact(on, |txn| {
        object.lock(txn)?;
        let (sems, _) = sems_of(txn, object)?;
        let waiters = txn.get(object.at.plus(set::WAITERS))?;
        for (num, value) in (first..).zip(values) {
            let at = sem_at(sems, num);
            freeze(r, at)?;
            let word = Word(txn.word(at)?);
            txn.set_word(at, word.next((*value).into(), c.who, waiters > 0).0)?;
            let epoch = txn.get(at.plus(sem::EPOCH))?;
            txn.set(at.plus(sem::EPOCH), epoch.wrapping_add(1))?;
        }
        txn.set(object.at.plus(obj::CTIME), r.mem().seconds())?;
        Ok::<_, Error>(waiters > 0 && ops::hand_off(txn, object, ops::Change::All)?)
    })?;
    if more { ops::settle(r, on, object, &mut rounds(r)) } else { Ok(()) }
}
