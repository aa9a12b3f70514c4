//! Messages on their way: from sender to receiver, with or without the queue between.

use super::{enter, free, ring, size_of, text_bytes};
use crate::object::{Held, Object, get64};
use crate::waiters::{List, Patience, UNSETTLED, rounds, sleep};
use crate::{Caller, Errno, Error, Result, flag};
use vshmem_core::arena::to_cell;
use vshmem_core::layout::{held, lane, msg, obj, queue, waits};
use vshmem_core::task::Identity;
use vshmem_core::wait;
use vshmem_core::{Corrupt, Lane, LaneId, Offset, Platform, Region, Turns, Txn};

/// Journal entries one hand-over may need.
const ONE_HAND_OVER: usize = 32;

/// Which messages a receiver takes.
#[derive(Clone, Copy)]
pub(crate) struct Want {
    pub mtype: i64,
    pub except: bool,
    /// Its room; `u64::MAX` with MSG_NOERROR.
    pub room: u64,
}

impl Want {
    pub fn new(mtype: i64, flags: i32, room: usize) -> Self {
        let cut = flags & flag::MSG_NOERROR != 0;
        Self {
            mtype: mtype.max(-i64::MAX),
            except: flags & flag::MSG_EXCEPT != 0,
            room: if cut { u64::MAX } else { room as u64 },
        }
    }

    pub fn takes(self, mtype: i64) -> bool {
        match self.mtype {
            0 => true,
            t if t < 0 => mtype <= t.saturating_neg(),
            t => (mtype == t) != self.except,
        }
    }
}

/// Cells of a waiting receiver.
fn wait_cells<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, want: Want) -> Result<()> {
    txn.set(at.plus(lane::WAIT_N), want.except.into())?;
    txn.set(at.plus(lane::WAIT_TYPE), want.mtype as u32)?;
    txn.set(at.plus(lane::WAIT_TYPE + 8), (want.mtype >> 32) as u32)?;
    txn.set(at.plus(lane::WAIT_SIZE), want.room as u32)?;
    Ok(txn.set(at.plus(lane::WAIT_SIZE + 8), (want.room >> 32) as u32)?)
}

fn want_of<P: Platform>(txn: &Txn<'_, P>, id: LaneId) -> Result<Want> {
    let at = txn.region().lane(id)?;
    let pair = |o: u64| get64(txn, at.plus(o), at.plus(o + 8));
    Ok(Want {
        mtype: pair(lane::WAIT_TYPE)? as i64,
        except: txn.get(at.plus(lane::WAIT_N))? != 0,
        room: pair(lane::WAIT_SIZE)?,
    })
}

pub(crate) fn receivers(at: Offset) -> List {
    List { head: at.plus(queue::RECV_HEAD), tail: at.plus(queue::RECV_TAIL), kind: waits::RECV }
}

pub(crate) fn senders(at: Offset) -> List {
    List { head: at.plus(queue::SEND_HEAD), tail: at.plus(queue::SEND_TAIL), kind: waits::SEND }
}

pub(super) fn type_of<P: Platform>(txn: &Txn<'_, P>, block: Offset) -> Result<i64> {
    Ok(get64(txn, block.plus(msg::TYPE_LO), block.plus(msg::TYPE_HI))? as i64)
}

fn bump<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, by: i64) -> Result<()> {
    let old = i64::from(txn.get(at)?);
    Ok(txn.set(at, (old + by).clamp(0, u32::MAX.into()) as u32)?)
}

/// Whether a message of `size` bytes has room beside list and ring; an empty one counts too.
fn fits<P: Platform>(txn: &Txn<'_, P>, object: &Object, size: u32) -> Result<bool> {
    let cell = |o: u64| txn.get(object.at.plus(o)).map(u64::from);
    let (n, bytes) = ring::load(txn, object)?;
    let (n, bytes) = (cell(queue::QNUM)? + u64::from(n), cell(queue::CBYTES)? + u64::from(bytes));
    let all = cell(queue::QBYTES)?;
    Ok(bytes + u64::from(size) <= all && n < all)
}

/// Step 3 of a send: the block of the lane becomes a receiver's or the queue's.
pub(super) fn send<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    object: &Object,
    block: Offset,
    flags: i32,
    deadline: Option<u64>,
    patience: &mut Patience<'_, P>,
) -> Result<()> {
    let mut turns = rounds(r);
    let mut wait = false;
    loop {
        enum Sent {
            Yes,
            /// And more may be able to go than one journal holds.
            More,
            First,
            /// There is no room, and the lane was not to be queued.
            Full,
            Queued,
        }
        let sent = r.transact(on, |txn| {
            enter(txn, object, c, 0o222)?;
            if txn.get(object.at.plus(queue::DIRTY))? != 0 {
                return Ok(Sent::First);
            }
            let size = size_of(txn, block)?;
            ring::hush(txn, object, false)?;
            let mut room = fits(txn, object, size)?;
            if !room && wait {
                // To be sure of it, nothing is received meanwhile.
                ring::hush(txn, object, true)?;
                room = fits(txn, object, size)?;
            }
            if room {
                release(txn, block)?;
                accept(txn, object, block, c.who)?;
                let more = txn.get(object.at.plus(queue::DIRTY))? != 0;
                return Ok(if more { Sent::More } else { Sent::Yes });
            }
            if flags & flag::IPC_NOWAIT != 0 {
                return Err(Error::from(Errno::EAGAIN));
            }
            if !wait {
                return Ok(Sent::Full);
            }
            let slot = txn.region().lane(txn.lane())?;
            if txn.get(slot.plus(lane::SPARE))? == to_cell(block) {
                // While it waits it is held, for whoever lets it in.
                txn.set(slot.plus(lane::SPARE), 0)?;
                Held::note(txn, held::SENDING, to_cell(block), object.index, object.life)?;
            }
            txn.set(slot.plus(lane::WAIT_BLOCK), to_cell(block))?;
            txn.set(slot.plus(lane::WAIT_N), 0)?;
            senders(object.at).push(txn, object.index, c)?;
            Ok(Sent::Queued)
        })?;
        match sent {
            Sent::Yes => {
                patience.over(false);
                return Ok(());
            }
            Sent::More => return settle(r, on, object, &mut turns),
            Sent::Full => wait = !spin(r, object, block, patience)?,
            Sent::First => {
                turns.pass(1, object.at, UNSETTLED)?;
                settle(r, on, object, &mut turns)?;
            }
            Sent::Queued => {
                let slept =
                    sleep(r, on, deadline, |txn| unqueue(txn, object.at, txn.lane(), wait::IDLE));
                match slept {
                    Err(Error::Errno(Errno::EAGAIN))
                        if deadline.is_none_or(|d| r.mem().now() < d) =>
                    {
                        turns = rounds(r);
                    }
                    other => {
                        patience.over(true);
                        return other;
                    }
                }
            }
        }
    }
}

/// Waits a bounded time for room for the message in `block`; `false` if there was none.
fn spin<P: Platform>(
    r: &Region<P>,
    object: &Object,
    block: Offset,
    patience: &mut Patience<'_, P>,
) -> Result<bool> {
    let size = u64::from(text_bytes(r.peek(block.plus(msg::SIZE))?));
    while patience.turn() {
        let cell = |o: u64| r.peek(object.at.plus(o)).map(u64::from);
        let (n, bytes) = ring::inside(r, object.at)?;
        let all = cell(queue::QBYTES)?;
        if cell(queue::CBYTES)? + u64::from(bytes) + size <= all
            && cell(queue::QNUM)? + u64::from(n) < all
            || cell(obj::LIFE)? != object.life.into()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The transaction's lane lets go of the message it sends.
fn release<P: Platform>(txn: &mut Txn<'_, P>, block: Offset) -> Result<()> {
    let slot = txn.region().lane(txn.lane())?;
    if txn.get(slot.plus(lane::SPARE))? == to_cell(block) {
        return Ok(txn.set(slot.plus(lane::SPARE), 0)?);
    }
    Held::clear(txn, held::SENDING, block)
}

/// Gives a message to the first receiver that takes it, else puts it behind all others.
fn accept<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    block: Offset,
    from: Identity,
) -> Result<()> {
    ring::stamp(txn, object, true, from.0)?;
    if deliver(txn, object, block)? { Ok(()) } else { ring::append(txn, object, block) }
}

/// Puts a message behind all others of the list of the queue at `at`.
pub(super) fn append<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, block: Offset) -> Result<()> {
    txn.set(block.plus(msg::NEXT), 0)?;
    match txn.get(at.plus(queue::TAIL))? {
        0 => txn.set(at.plus(queue::HEAD), to_cell(block))?,
        last => {
            let last = txn.region().block(last)?;
            txn.set(last.plus(msg::NEXT), to_cell(block))?;
        }
    }
    txn.set(at.plus(queue::TAIL), to_cell(block))?;
    count(txn, at, block)
}

/// Puts a message before all others of the list of the queue at `at`.
pub(super) fn prepend<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, block: Offset) -> Result<()> {
    let head = txn.get(at.plus(queue::HEAD))?;
    txn.set(block.plus(msg::NEXT), head)?;
    txn.set(at.plus(queue::HEAD), to_cell(block))?;
    if head == 0 {
        txn.set(at.plus(queue::TAIL), to_cell(block))?;
    }
    count(txn, at, block)
}

/// Counts one more message.
fn count<P: Platform>(txn: &mut Txn<'_, P>, at: Offset, block: Offset) -> Result<()> {
    bump(txn, at.plus(queue::QNUM), 1)?;
    let size = size_of(txn, block)?;
    bump(txn, at.plus(queue::CBYTES), size.into())
}

/// The kernel's `pipelined_send`: to the first sleeping receiver that wants it. One whose buffer is
/// too small is sent away with E2BIG, and the message goes on.
fn deliver<P: Platform>(txn: &mut Txn<'_, P>, object: &Object, block: Offset) -> Result<bool> {
    let list = receivers(object.at);
    let (mtype, size) = (type_of(txn, block)?, size_of(txn, block)?);
    for id in list.each(txn)? {
        let want = want_of(txn, id)?;
        if !want.takes(mtype) {
            continue;
        }
        if txn.room() < ONE_HAND_OVER {
            // Too many small buffers for one journal: the rest is found by the settling.
            txn.set(object.at.plus(queue::DIRTY), 1)?;
            return Ok(false);
        }
        if want.room < size.into() {
            list.settle(txn, id, Err(Errno::E2BIG))?;
            continue;
        }
        let slot = txn.region().lane(id)?;
        let who = txn.get(slot.plus(lane::WAIT_WHO))?;
        ring::stamp(txn, object, false, who)?;
        hold(txn, slot, object, block)?;
        list.settle(txn, id, Ok(()))?;
        return Ok(true);
    }
    Ok(false)
}

/// Notes in the lane at `slot` that it holds a message of `object`.
fn hold<P: Platform>(
    txn: &mut Txn<'_, P>,
    slot: Offset,
    object: &Object,
    block: Offset,
) -> Result<()> {
    txn.set(slot.plus(lane::HELD), to_cell(block))?;
    txn.set(slot.plus(lane::HELD_FOR), object.index)?;
    txn.set(slot.plus(lane::HELD_LIFE), object.life)?;
    Ok(txn.set(slot.plus(lane::HELD_WHY), held::RECEIVED)?)
}

pub(super) enum Received {
    /// The lane holds it; whether more may be able to go than one journal holds.
    Yes(bool),
    /// Others come first.
    First,
    /// There is none it may have, but the ring was not empty; look again.
    Gathered,
    /// There is none, and the lane was not to be queued.
    Nothing,
    Queued,
}

/// Takes a message from the queue into the lane, or queues the lane if `wait` says so.
pub(super) fn recv<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    c: &Caller,
    want: Want,
    flags: i32,
    wait: bool,
) -> Result<Received> {
    enter(txn, object, c, 0o444)?;
    if txn.get(object.at.plus(queue::DIRTY))? != 0 {
        return Ok(Received::First);
    }
    if let Some((mtype, size)) = ring::first(txn, object)?
        && want.takes(mtype)
        && (want.mtype >= 0 || mtype == 1)
    {
        if u64::from(size) > want.room {
            return Err(Errno::E2BIG.into());
        }
        let block = ring::take_first(txn, object)?;
        return received(txn, object, c, block, true);
    }
    let gathered = ring::gather(txn, object)?;
    let Some((before, block)) = select(txn, object, want)? else {
        if gathered {
            // To be kept, so that the next look finds them gathered.
            return Ok(Received::Gathered);
        }
        if flags & flag::IPC_NOWAIT != 0 {
            return Err(Errno::ENOMSG.into());
        }
        if !wait {
            ring::reopen(txn, object)?;
            return Ok(Received::Nothing);
        }
        let slot = txn.region().lane(txn.lane())?;
        wait_cells(txn, slot, want)?;
        receivers(object.at).push(txn, object.index, c)?;
        return Ok(Received::Queued);
    };
    let size = size_of(txn, block)?;
    if u64::from(size) > want.room {
        return if gathered { Ok(Received::Gathered) } else { Err(Errno::E2BIG.into()) };
    }
    unlink(txn, object, before, block, size)?;
    received(txn, object, c, block, before.is_none())
}

/// The lane has received the message in `block`, which was the oldest or another.
fn received<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    c: &Caller,
    block: Offset,
    oldest: bool,
) -> Result<Received> {
    ring::stamp(txn, object, false, c.who.0)?;
    let slot = txn.region().lane(txn.lane())?;
    hold(txn, slot, object, block)?;
    let more = admit(txn, object)?;
    if oldest {
        // The next one may be wanted next.
        ring::refill(txn, object)?;
    } else {
        ring::reopen(txn, object)?;
    }
    Ok(Received::Yes(more))
}

/// The message `want` selects, and the one before it.
fn select<P: Platform>(
    txn: &Txn<'_, P>,
    object: &Object,
    want: Want,
) -> Result<Option<(Option<Offset>, Offset)>> {
    let mut best: Option<(Option<Offset>, Offset, i64)> = None;
    let mut before = None;
    each_message(txn, object, |block| {
        let mtype = type_of(txn, block)?;
        let better = best.is_none_or(|(_, _, t)| mtype < t);
        if want.takes(mtype) && better {
            best = Some((before, block, mtype));
        }
        before = Some(block);
        // The first match, except for "the lowest type", which may still come.
        Ok(best.is_none() || (want.mtype < 0 && best.is_some_and(|(_, _, t)| t > 1)))
    })?;
    Ok(best.map(|(before, block, _)| (before, block)))
}

/// Walks the messages until `f` says no more.
pub(super) fn each_message<P: Platform>(
    txn: &Txn<'_, P>,
    object: &Object,
    mut f: impl FnMut(Offset) -> Result<bool>,
) -> Result<()> {
    let mut next = txn.get(object.at.plus(queue::HEAD))?;
    let most = txn.region().mem().len() / 64;
    // One that was passed; met again, they form a circle. Moved on ever more seldom (Brent, 1980).
    let mut passed = 0;
    for i in 0..=u64::from(txn.get(object.at.plus(queue::QNUM))?).min(most) {
        if next == 0 {
            return Ok(());
        }
        if next == passed {
            return Err(Corrupt::new(object.at, "messages form a circle").into());
        }
        if i.is_power_of_two() {
            passed = next;
        }
        let block = txn.region().block(next)?;
        if !f(block)? {
            return Ok(());
        }
        next = txn.get(block.plus(msg::NEXT))?;
    }
    Err(Corrupt::new(object.at, "more messages linked than counted").into())
}

pub(super) fn unlink<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    before: Option<Offset>,
    block: Offset,
    size: u32,
) -> Result<()> {
    let next = txn.get(block.plus(msg::NEXT))?;
    match before {
        Some(before) => txn.set(before.plus(msg::NEXT), next)?,
        None => txn.set(object.at.plus(queue::HEAD), next)?,
    }
    if next == 0 {
        txn.set(object.at.plus(queue::TAIL), before.map_or(0, to_cell))?;
    }
    bump(txn, object.at.plus(queue::QNUM), -1)?;
    bump(txn, object.at.plus(queue::CBYTES), -i64::from(size))
}

/// Lets waiting senders in whose messages fit now, in order of arrival. One for whom there is no
/// room any more when it is its turn goes behind those for whom there was none from the start: so
/// the kernel has it, where all that fit are woken and try.
fn admit<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<bool> {
    let list = senders(object.at);
    let mut fitting = Vec::new();
    let mut again = false;
    for id in list.each(txn)? {
        let slot = txn.region().lane(id)?;
        let block = txn.region().block(txn.get(slot.plus(lane::WAIT_BLOCK))?)?;
        let size = size_of(txn, block)?;
        if fits(txn, object, size)? {
            fitting.push((id, slot, block, size));
        }
    }
    for (id, slot, block, size) in fitting {
        if txn.room() < ONE_HAND_OVER * 2 {
            txn.set(object.at.plus(queue::DIRTY), 1)?;
            return Ok(true);
        }
        // Nobody overtakes one who has to look again.
        again |= txn.get(slot.plus(lane::WAIT_N))? == CHECK_AGAIN;
        if again {
            list.settle(txn, id, Err(Errno::EAGAIN))?;
            continue;
        }
        if !fits(txn, object, size)? {
            list.move_last(txn, id)?;
            continue;
        }
        let who = Identity(txn.get(slot.plus(lane::WAIT_WHO))?);
        txn.set(slot.plus(lane::HELD_WHY), held::NOTHING)?;
        list.settle(txn, id, Ok(()))?;
        accept(txn, object, block, who)?;
    }
    Ok(false)
}

/// Finishes hand-overs that somebody began: queued messages to sleeping receivers, waiting senders.
pub(crate) fn settle<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    object: &Object,
    turns: &mut Turns,
) -> Result<()> {
    loop {
        turns.pass(1, object.at, UNSETTLED)?;
        let more = r.transact(on, |txn| {
            txn.lock(object.at.plus(obj::LOCK))?;
            let same = txn.get(object.at.plus(obj::LIFE))? == object.life;
            if !same || txn.get(object.at.plus(queue::DIRTY))? == 0 {
                return Ok::<_, Error>(false);
            }
            ring::gather(txn, object)?;
            for id in receivers(object.at).each(txn)? {
                if txn.room() < ONE_HAND_OVER * 2 {
                    return Ok(true);
                }
                let want = want_of(txn, id)?;
                let Some((before, block)) = select(txn, object, want)? else { continue };
                let size = size_of(txn, block)?;
                if u64::from(size) > want.room {
                    receivers(object.at).settle(txn, id, Err(Errno::E2BIG))?;
                    continue;
                }
                unlink(txn, object, before, block, size)?;
                let slot = txn.region().lane(id)?;
                hold(txn, slot, object, block)?;
                let who = txn.get(slot.plus(lane::WAIT_WHO))?;
                ring::stamp(txn, object, false, who)?;
                receivers(object.at).settle(txn, id, Ok(()))?;
            }
            if admit(txn, object)? {
                return Ok(true);
            }
            txn.set(object.at.plus(queue::DIRTY), 0)?;
            ring::reopen(txn, object)?;
            Ok(false)
        })?;
        if !more {
            return Ok(());
        }
    }
}

/// In a sleeping sender's `WAIT_N`: the queue's permissions have changed since it looked.
const CHECK_AGAIN: u32 = 1;

/// After a change of permissions: sleeping receivers look again, and so do senders for whom there
/// is room now; the others sleep on, and check their rights when there is. At most `most` of them;
/// how many are left.
pub(super) fn look_again<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    most: usize,
) -> Result<usize> {
    let (mut done, mut left) = (0, 0);
    let (receivers, senders) = (receivers(object.at), senders(object.at));
    for id in receivers.each(txn)? {
        if done == most {
            left += 1;
        } else {
            receivers.settle(txn, id, Err(Errno::EAGAIN))?;
            done += 1;
        }
    }
    for id in senders.each(txn)? {
        let slot = txn.region().lane(id)?;
        let block = txn.region().block(txn.get(slot.plus(lane::WAIT_BLOCK))?)?;
        let room = fits(txn, object, size_of(txn, block)?)?;
        if !room && txn.get(slot.plus(lane::WAIT_N))? == CHECK_AGAIN {
            continue;
        }
        if done == most {
            left += 1;
            continue;
        }
        done += 1;
        if room {
            senders.settle(txn, id, Err(Errno::EAGAIN))?;
        } else {
            txn.set(slot.plus(lane::WAIT_N), CHECK_AGAIN)?;
        }
    }
    Ok(left)
}

/// Sends the queue's sleepers of the peers that `whom` names away with `errno`, at most `most` of
/// them; how many are left.
pub(super) fn dismiss<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    most: usize,
    errno: Errno,
    whom: impl Fn(u32) -> bool,
) -> Result<usize> {
    let mut left = 0;
    let mut done = 0;
    for list in [receivers(object.at), senders(object.at)] {
        for id in list.each(txn)? {
            let slot = txn.region().lane(id)?;
            if !whom(txn.get(slot.plus(lane::WAIT_PEER))?) {
                continue;
            }
            if done == most {
                left += 1;
            } else {
                list.settle(txn, id, Err(errno))?;
                done += 1;
            }
        }
    }
    Ok(left)
}

/// Takes lane `id` out of the queue's lists; `false` if it was no longer in one.
pub(crate) fn unqueue<P: Platform>(
    txn: &mut Txn<'_, P>,
    at: Offset,
    id: LaneId,
    status: u32,
) -> Result<bool> {
    txn.lock(at.plus(obj::LOCK))?;
    let slot = txn.region().lane(id)?;
    if txn.get(slot.plus(lane::STATUS))? != wait::WAITING {
        return Ok(false);
    }
    let sender = txn.get(slot.plus(lane::WAIT_KIND))? == waits::SEND;
    let list = if sender { senders(at) } else { receivers(at) };
    list.remove(txn, id)?;
    txn.set(slot.plus(lane::STATUS), status)?;
    Ok(true)
}

/// Puts the message that the dead lane at `slot` had received back at its queue's head; frees it
/// where the queue is gone. Marks the queue dirty, so that a sleeping receiver gets it.
pub(crate) fn give_back<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    slot: Offset,
) -> Result<bool> {
    txn.lock(object.at.plus(obj::LOCK))?;
    if txn.get(slot.plus(lane::HELD_WHY))? != held::RECEIVED {
        return Ok(false); // Another reaper was faster.
    }
    let block = txn.region().block(txn.get(slot.plus(lane::HELD))?)?;
    txn.set(slot.plus(lane::HELD_WHY), held::NOTHING)?;
    if txn.get(object.at.plus(obj::LIFE))? != object.life {
        free(txn, block)?;
        return Ok(false);
    }
    ring::gather(txn, object)?;
    prepend(txn, object.at, block)?;
    txn.set(object.at.plus(queue::DIRTY), 1)?;
    Ok(true)
}

/// MSG_COPY: the `index`-th message, left where it is.
pub(super) fn copy<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    object: &Object,
    buf: &mut (impl super::Room<P> + ?Sized),
    index: i64,
    want: Want,
) -> Result<(i64, usize)> {
    r.transact(on, |txn| {
        enter(txn, object, c, 0o444)?;
        ring::gather(txn, object)?;
        let mut left = u64::try_from(index).map_err(|_| Errno::ENOMSG)?;
        let mut found = None;
        each_message(txn, object, |block| {
            if left == 0 {
                found = Some(block);
            }
            left = left.wrapping_sub(1);
            Ok(found.is_none())
        })?;
        let block = found.ok_or(Errno::ENOMSG)?;
        let size = size_of(txn, block)?;
        if u64::from(size) > want.room {
            return Err(Error::from(Errno::E2BIG));
        }
        // MSG_NOERROR cuts no copy.
        if size as usize > buf.len() {
            return Err(Errno::EINVAL.into());
        }
        let n = size as usize;
        // Under the lock, since the message stays another's; a copy that raced is made again.
        let mtype = type_of(txn, block)?;
        buf.take(mtype, n, r.mem(), block.plus(msg::BYTES))?;
        Ok((mtype, n))
    })
}
