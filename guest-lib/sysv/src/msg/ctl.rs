//! `msgctl`.

use super::pass::{dismiss, each_message, look_again};
use super::{ring, size_of};
use crate::object::{self, Held, Object, Perm, own, permit};
use crate::{Caller, Errno, Error, Result, removal};
use vshmem_core::layout::{Limit, held, obj, queue};
use vshmem_core::region::Kind;
use vshmem_core::task::Identity;
use vshmem_core::{Lane, Platform, Region, Txn};

/// Sleepers dismissed in one transaction.
const BATCH: usize = 120;

/// `struct msqid_ds`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueStat {
    /// Permissions.
    pub perm: Perm,
    /// Last send, seconds.
    pub stime: u64,
    /// Last receive, seconds.
    pub rtime: u64,
    /// Last change, seconds.
    pub ctime: u64,
    /// Bytes in the queue.
    pub cbytes: u64,
    /// Messages in the queue.
    pub qnum: u64,
    /// Bytes allowed.
    pub qbytes: u64,
    /// Last sender; 0 for one of another peer.
    pub lspid: i32,
    /// Last receiver; 0 for one of another peer.
    pub lrpid: i32,
}

/// `struct msginfo`, with what is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsgInfo {
    /// Bytes per message.
    pub msgmax: u32,
    /// Default bytes per queue.
    pub msgmnb: u32,
    /// Queues at once.
    pub msgmni: u32,
    /// Queues in use.
    pub used_queues: u32,
    /// Messages in all queues.
    pub messages: u64,
    /// Bytes in all queues.
    pub bytes: u64,
    /// Highest index in use, -1 for none.
    pub highest: i32,
}

/// Limits and use.
///
/// # Errors
/// The region is corrupt.
pub fn info<P: Platform>(r: &Region<P>) -> Result<MsgInfo> {
    let (used_queues, highest) = object::in_use(r, Kind::Queue)?;
    let (mut messages, mut bytes) = (0, 0);
    for index in object::indices(r, Kind::Queue)? {
        let at = r.object(Kind::Queue, index)?;
        let (more, more_bytes) = ring::inside(r, at)?;
        messages += u64::from(r.peek(at.plus(queue::QNUM))?) + u64::from(more);
        bytes += u64::from(r.peek(at.plus(queue::CBYTES))?) + u64::from(more_bytes);
    }
    Ok(MsgInfo {
        msgmax: r.limit(Limit::Msgmax)? as u32,
        msgmnb: r.limit(Limit::Msgmnb)? as u32,
        msgmni: r.limit(Limit::Msgmni)? as u32,
        used_queues,
        messages,
        bytes,
        highest,
    })
}

/// `IPC_STAT`.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn stat<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<QueueStat> {
    let object = object::find(r, Kind::Queue, c, id)?;
    permit(r, c, object.at, 0o444)?;
    stat_of(r, on, c, &object)
}

/// `MSG_STAT` and, with `any`, `MSG_STAT_ANY`: by index; gives the id too.
///
/// # Errors
/// `EINVAL`, `EACCES`.
pub fn stat_index<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    index: i32,
    any: bool,
) -> Result<(i32, QueueStat)> {
    let object = object::at_index(r, Kind::Queue, c.who.peer(), index)?;
    if !any {
        permit(r, c, object.at, 0o444)?;
    }
    Ok((object.id(r), stat_of(r, on, c, &object)?))
}

fn stat_of<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    object: &Object,
) -> Result<QueueStat> {
    r.transact(on, |txn| {
        object.lock(txn)?;
        let cell = |o: u64| txn.get(object.at.plus(o));
        let pid = |who: u32| Identity(who).pid_seen_by(c.who.peer()) as i32;
        let [(stime, lspid), (rtime, lrpid)] = ring::stamps(txn, object)?;
        let (more, more_bytes) = ring::inside(r, object.at)?;
        Ok(QueueStat {
            perm: object::perm(txn, object)?,
            stime: stime.into(),
            rtime: rtime.into(),
            ctime: cell(obj::CTIME)?.into(),
            cbytes: u64::from(cell(queue::CBYTES)?) + u64::from(more_bytes),
            qnum: u64::from(cell(queue::QNUM)?) + u64::from(more),
            qbytes: cell(queue::QBYTES)?.into(),
            lspid: pid(lspid),
            lrpid: pid(lrpid),
        })
    })
}

/// `IPC_SET`. Sleepers look at the new permissions; senders for whom there is room now are let in.
///
/// # Errors
/// `EINVAL`, `EPERM` (also for `qbytes` above the region's limit without `CAP_SYS_RESOURCE`).
pub fn set<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    uid: u32,
    gid: u32,
    mode: u32,
    qbytes: u64,
) -> Result<()> {
    let object = object::find(r, Kind::Queue, c, id)?;
    if qbytes > r.limit(Limit::Msgmnb)? && !c.sys_resource {
        own(r, c, object.at)?;
        return Err(Errno::EPERM.into());
    }
    let qbytes = u32::try_from(qbytes).unwrap_or(u32::MAX);
    // Those who were sent to look again may be back in the queue already: no more rounds than the
    // sleepers of the first need.
    let mut rounds = None;
    while rounds != Some(0) {
        let left = r.transact(on, |txn| {
            object.lock(txn)?;
            own(r, c, object.at)?;
            ring::gather(txn, &object)?;
            object::set_perm(txn, &object, uid, gid, mode)?;
            txn.set(object.at.plus(queue::QBYTES), qbytes)?;
            let left = look_again(txn, &object, BATCH)?;
            ring::reopen(txn, &object)?;
            Ok::<_, Error>(left)
        })?;
        rounds = Some(rounds.map_or(left.div_ceil(BATCH), |n| n - 1));
    }
    Ok(())
}

/// `IPC_RMID`: sleepers get `EIDRM`, messages are freed.
///
/// # Errors
/// `EINVAL`, `EPERM`.
///
/// # If the caller dies
/// The queue is there or gone; sleepers not yet told so are told, and its messages freed, by the
/// reaper.
pub fn remove<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32) -> Result<()> {
    removal::remove(r, on, Kind::Queue, &object::find(r, Kind::Queue, c, id)?, Some(c))
}

/// A step of the removal of a queue whose directory and own lock the transaction holds: sends some
/// sleepers away; the last step, `true`, ends the queue and leaves its messages to the lane.
pub(crate) fn end<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<bool> {
    ring::gather(txn, object)?;
    if dismiss(txn, object, BATCH, Errno::EIDRM, |_| true)? > 0 {
        return Ok(false);
    }
    ring::retire(txn, object)?;
    object::retire(txn, Kind::Queue, object, 0)?;
    let head = txn.get(object.at.plus(queue::HEAD))?;
    if head != 0 {
        Held::note(txn, held::CHAIN, head, 0, 0)?;
    }
    Ok(true)
}

/// Sends sleepers of other peers than `mine` away with EIDRM; how many are left.
pub(crate) fn dismiss_others<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    mine: u32,
) -> Result<usize> {
    ring::gather(txn, object)?;
    dismiss(txn, object, BATCH, Errno::EIDRM, |peer| peer != mine)
}

/// Checks that a queue's counters agree with its messages, for tests and `region check`.
///
/// # Errors
/// The queue is corrupt.
pub fn verify<P: Platform>(r: &Region<P>, on: &mut Lane, index: u32) -> Result<()> {
    let object = object::at_index(r, Kind::Queue, object::ANYONE, index as i32)?;
    r.transact(on, |txn| {
        object.lock(txn)?;
        ring::gather(txn, &object)?;
        let (mut n, mut bytes) = (0, 0);
        each_message(txn, &object, |block| {
            n += 1;
            bytes += u64::from(size_of(txn, block)?);
            Ok(true)
        })?;
        let same = n == txn.get(object.at.plus(queue::QNUM))?
            && bytes == u64::from(txn.get(object.at.plus(queue::CBYTES))?);
        if same {
            Ok(())
        } else {
            Err(vshmem_core::Corrupt::new(object.at, "queue counts other messages").into())
        }
    })
}
