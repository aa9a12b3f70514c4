//! Message queues: `msgget`, `msgsnd`, `msgrcv`, `msgctl`.
//!
//! A message lives in a block of the arena that belongs, at every moment, to exactly one of: a
//! lane that is sending or has received it, or a queue. User memory is copied only while it belongs
//! to a lane, outside any lock. A message received by a task that dies before copying it out goes
//! back to the head of its queue.

mod ctl;
mod pass;
mod ring;

use crate::object::{self, Get, Held, Object, permit};
use crate::waiters::{Patience, UNSETTLED, rounds, sleep};
use crate::{Caller, Errno, Error, Result, flag};
use vshmem_core::arena::{Pool, class_bytes, class_of, to_cell};
use vshmem_core::layout::{Limit, arena, held, lane, msg, obj, queue};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::{Lane, Offset, Platform, Region, Txn, wait};

pub use ctl::{MsgInfo, QueueStat, info, remove, set, stat, stat_index, verify};
pub(crate) use ctl::{dismiss_others, end};
pub(crate) use pass::{Want, give_back, receivers, senders, settle, unqueue};
use ring::Fast;
pub(crate) use ring::{leave, renew};

/// The text of a message to be sent. Where it is another program's memory it may not be there, so
/// it is touched once, outside every lock, at the moment at which the kernel would find out.
pub trait Text<P> {
    /// Bytes.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies them to `to`.
    ///
    /// # Errors
    /// `EFAULT`, or `to` is outside the region.
    fn put(&self, mem: &P, to: Offset) -> Result<()>;

    /// Fails if [`Text::put`] would for want of text.
    ///
    /// # Errors
    /// `EFAULT`.
    fn probe(&self) -> Result<()>;
}

impl<P: Platform> Text<P> for [u8] {
    fn len(&self) -> usize {
        self.len()
    }

    fn put(&self, mem: &P, to: Offset) -> Result<()> {
        Ok(mem.write_bytes(to, self)?)
    }

    fn probe(&self) -> Result<()> {
        Ok(())
    }
}

impl<P: Platform, const N: usize> Text<P> for [u8; N] {
    fn len(&self) -> usize {
        N
    }

    fn put(&self, mem: &P, to: Offset) -> Result<()> {
        Ok(mem.write_bytes(to, self)?)
    }

    fn probe(&self) -> Result<()> {
        Ok(())
    }
}

/// Room for a message to be received, as [`Text`] is what is sent.
pub trait Room<P> {
    /// Bytes of text it has room for.
    fn len(&self) -> usize;

    /// Whether that is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the type and the first `n` bytes, no more than there is room for, of the text at `from`.
    ///
    /// # Errors
    /// `EFAULT`, or `from` is outside the region.
    fn take(&mut self, mtype: i64, n: usize, mem: &P, from: Offset) -> Result<()>;

    /// Takes the type and `text`, no more than there is room for.
    ///
    /// # Errors
    /// `EFAULT`.
    fn give(&mut self, mtype: i64, text: &[u8]) -> Result<()>;
}

impl<P: Platform> Room<P> for [u8] {
    fn len(&self) -> usize {
        self.len()
    }

    fn take(&mut self, _: i64, n: usize, mem: &P, from: Offset) -> Result<()> {
        Ok(mem.read_bytes(from, &mut self[..n])?)
    }

    fn give(&mut self, _: i64, text: &[u8]) -> Result<()> {
        self[..text.len()].copy_from_slice(text);
        Ok(())
    }
}

impl<P: Platform, const N: usize> Room<P> for [u8; N] {
    fn len(&self) -> usize {
        N
    }

    fn take(&mut self, _: i64, n: usize, mem: &P, from: Offset) -> Result<()> {
        Ok(mem.read_bytes(from, &mut self[..n])?)
    }

    fn give(&mut self, _: i64, text: &[u8]) -> Result<()> {
        self[..text.len()].copy_from_slice(text);
        Ok(())
    }
}

/// `msgget`.
///
/// # Errors
/// `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`.
///
/// # If the caller dies
/// The queue is there whole, or not at all.
pub fn get<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    key: i32,
    flags: i32,
) -> Result<i32> {
    let get = Get { kind: Kind::Queue, key, flags };
    if let Some(id) = get.existing(r, on, c, |_, _| Ok(true))? {
        return Ok(id);
    }
    let qbytes = r.limit(Limit::Msgmnb)? as u32;
    r.transact(on, |txn| {
        let fill = |txn: &mut Txn<'_, P>, object: &Object| {
            for cell in (queue::HEAD..=queue::HAD).step_by(8) {
                let value = if cell == queue::QBYTES { qbytes } else { 0 };
                txn.set(object.at.plus(cell), value)?;
            }
            Ok(())
        };
        Ok(match get.create(txn, c, Limit::Msgmni, |_, _| Ok(true), fill)? {
            Ok(object) => object.id(r),
            Err(id) => id,
        })
    })
}

/// The `msg::SIZE` of a message of `size` bytes in a block of `bytes`.
fn pack(size: u32, bytes: u64) -> u32 {
    let class = class_of(bytes).map_or(0xff, |c| c as u32);
    size | class << msg::CLASS_SHIFT
}

/// Bytes of a message's text, by its `msg::SIZE`.
pub(crate) const fn text_bytes(cell: u32) -> u32 {
    cell & ((1 << msg::CLASS_SHIFT) - 1)
}

/// Bytes of a message's block, by its `msg::SIZE`; none where that is nonsense.
pub(crate) fn block_bytes(cell: u32) -> Option<u64> {
    let class = u64::from(cell >> msg::CLASS_SHIFT);
    let bytes = (class < arena::CLASSES.into()).then(|| class_bytes(class))?;
    (msg::BYTES + u64::from(text_bytes(cell)) <= bytes).then_some(bytes)
}

/// The size a message says it has, and that of its block, checked against the memory.
fn sizes_of<P: Platform>(txn: &Txn<'_, P>, block: Offset) -> Result<(u32, u64)> {
    let cell = txn.get(block.plus(msg::SIZE))?;
    let inside = |bytes: &u64| block.plus(*bytes).0 <= txn.region().mem().len();
    match block_bytes(cell).filter(inside) {
        Some(bytes) => Ok((text_bytes(cell), bytes)),
        None => Err(vshmem_core::Corrupt::new(block, "message larger than its memory").into()),
    }
}

fn size_of<P: Platform>(txn: &Txn<'_, P>, block: Offset) -> Result<u32> {
    Ok(sizes_of(txn, block)?.0)
}

pub(crate) fn free<P: Platform>(txn: &mut Txn<'_, P>, block: Offset) -> Result<()> {
    let (_, bytes) = sizes_of(txn, block)?;
    Ok(txn.free(Pool::Msgs, bytes, block)?)
}

/// The type of a message that nobody else changes.
fn read_type<P: Platform>(r: &Region<P>, block: Offset) -> Result<i64> {
    let (low, high) = (r.peek(block.plus(msg::TYPE_LO))?, r.peek(block.plus(msg::TYPE_HI))?);
    Ok((u64::from(high) << 32 | u64::from(low)) as i64)
}

/// Frees some messages of the chain that the lane at `slot` holds.
pub(crate) fn free_chain<P: Platform>(txn: &mut Txn<'_, P>, slot: Offset, most: u32) -> Result<()> {
    let mut next = txn.get(slot.plus(lane::HELD))?;
    for _ in 0..most {
        if next == 0 {
            return Held::drop_of(txn, slot);
        }
        let block = txn.region().block(next)?;
        next = txn.get(block.plus(msg::NEXT))?;
        // Were they a circle, it would end here, the next time round.
        txn.set(block.plus(msg::NEXT), 0)?;
        free(txn, block)?;
    }
    Ok(txn.set(slot.plus(lane::HELD), next)?)
}

/// `msgsnd`: sends `text` as a message of type `mtype`, waiting for room until `deadline`.
///
/// # Errors
/// `EINVAL` (type below 1, longer than the region's `msgmax`), `EFAULT`, `EINVAL` (id), `ENOMEM`,
/// `EACCES`, `EAGAIN`, `EINTR`, `EIDRM`.
///
/// # If the caller dies
/// The message is in the queue, or nowhere.
pub fn send<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    mtype: i64,
    text: &(impl Text<P> + ?Sized),
    flags: i32,
    deadline: Option<u64>,
) -> Result<()> {
    let size = u32::try_from(text.len()).map_err(|_| Errno::EINVAL)?;
    if u64::from(size) > r.limit(Limit::Msgmax)? || mtype < 1 {
        return Err(Errno::EINVAL.into());
    }
    let object = match object::find(r, Kind::Queue, c, id) {
        Ok(object) => object,
        // The kernel reads the text first.
        Err(error) => return text.probe().and(Err(error)),
    };
    // Through the ring, if it can go that way.
    let mut patience = Patience::new(r, deadline);
    loop {
        match ring::send(r, on, c, &object, mtype, text)? {
            Fast::Done(()) => {
                patience.over(false);
                return Ok(());
            }
            Fast::Wait if flags & flag::IPC_NOWAIT == 0 && patience.turn() => {}
            _ => break,
        }
    }
    // 1. A block of the lane's: the one it has to spare, or a new one.
    let bytes = ring::block_for(r, &object, msg::BYTES + u64::from(size))?;
    let block = match spare(r, on, bytes)? {
        Some((block, bytes)) => {
            r.init(block.plus(msg::SIZE), pack(size, bytes))?;
            block
        }
        None => r.transact(on, |txn| {
            let Some(block) = txn.alloc(Pool::Msgs, bytes)? else {
                return Err(Error::from(Errno::ENOMEM));
            };
            txn.set(block.plus(msg::SIZE), pack(size, bytes))?;
            Held::note(txn, held::SENDING, to_cell(block), object.index, object.life)?;
            Ok(block)
        })?,
    };
    // 2. The text, outside every lock.
    r.init(block.plus(msg::TYPE_LO), mtype as u32)?;
    r.init(block.plus(msg::TYPE_HI), (mtype >> 32) as u32)?;
    let put = text.put(r.mem(), block.plus(msg::BYTES));
    // 3. To a receiver or into the queue; the block leaves the lane in the same step.
    let sent =
        put.and_then(|()| pass::send(r, on, c, &object, block, flags, deadline, &mut patience));
    if sent.is_err() {
        crate::reap::drop_own(r, on)?;
    }
    sent
}

/// The block the lane kept of the last message it received, and its bytes, if those are of the class
/// of `bytes`.
fn spare<P: Platform>(r: &Region<P>, on: &Lane, bytes: u64) -> Result<Option<(Offset, u64)>> {
    let cell = r.peek(r.lane(on.id())?.plus(lane::SPARE))?;
    if cell == 0 {
        return Ok(None);
    }
    let block = r.block(cell)?;
    let have = block_bytes(r.peek(block.plus(msg::SIZE))?);
    Ok(have.filter(|have| class_of(*have) == class_of(bytes)).map(|have| (block, have)))
}

/// Keeps the received `block` for the lane's next message, or frees it where one is kept.
///
/// Keeping takes no lock: the cells are the lane's own, and a reaper settles the lane first.
fn keep<P: Platform>(r: &Region<P>, on: &mut Lane, slot: Offset, block: Offset) -> Result<()> {
    r.transact(on, |txn| {
        if txn.get(slot.plus(lane::SPARE))? == 0 {
            txn.set(slot.plus(lane::SPARE), to_cell(block))?;
        } else {
            free(txn, block)?;
        }
        Held::clear(txn, held::RECEIVED, block)
    })
}

/// `msgrcv`: the first message that `mtype` and `flags` select, waiting for one until `deadline`;
/// its type and how many bytes of `buf` it filled.
///
/// # Errors
/// `EINVAL`, `EACCES`, `E2BIG` (the message stays), `ENOMSG`, `EINTR`, `EIDRM`, `EAGAIN` (deadline),
/// `EFAULT` (the message is lost, as the kernel loses it).
///
/// # If the caller dies
/// The message stays in the queue, or goes back to its head, unless it was copied out.
pub fn recv<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    buf: &mut (impl Room<P> + ?Sized),
    mtype: i64,
    flags: i32,
    deadline: Option<u64>,
) -> Result<(i64, usize)> {
    if flags & flag::MSG_COPY != 0
        && (flags & flag::MSG_EXCEPT != 0 || flags & flag::IPC_NOWAIT == 0)
    {
        return Err(Errno::EINVAL.into());
    }
    let object = object::find(r, Kind::Queue, c, id)?;
    let want = Want::new(mtype, flags, buf.len());
    if flags & flag::MSG_COPY != 0 {
        return pass::copy(r, on, c, &object, buf, mtype, want);
    }
    let mut patience = Patience::new(r, deadline);
    let (mut wait, mut slept) = (false, false);
    let mut turns = rounds(r);
    let more = loop {
        match ring::recv(r, c, &object, buf, want, flags)? {
            Fast::Done(received) => {
                patience.over(slept);
                return Ok(received);
            }
            Fast::Wait if patience.turn() => continue,
            // No more of that.
            Fast::Wait => wait = true,
            Fast::Slow => {}
        }
        // Before the look: what is appended after it changes the cell, if only its tag.
        let tail = r.mem().load(object.at.plus(queue::TAIL), Ordering::Acquire)?;
        let received = r.transact(on, |txn| pass::recv(txn, &object, c, want, flags, wait))?;
        match received {
            pass::Received::Yes(more) => break more,
            // And the ring was not empty: what there is was put where it can be searched.
            pass::Received::Gathered => turns.pass(1, object.at, UNSETTLED)?,
            pass::Received::First => {
                turns.pass(1, object.at, UNSETTLED)?;
                settle(r, on, &object, &mut turns)?;
            }
            pass::Received::Nothing if r.peek(object.at.plus(queue::RING))? != 0 => {
                wait = !patience.turn();
            }
            pass::Received::Nothing => wait = !spin(r, &object, tail, &mut patience)?,
            pass::Received::Queued => {
                slept = true;
                match sleep(r, on, deadline, |txn| unqueue(txn, object.at, txn.lane(), wait::IDLE))
                {
                    Ok(()) => break false,
                    // A change of the queue's permissions: look again.
                    Err(Error::Errno(Errno::EAGAIN))
                        if deadline.is_none_or(|d| r.mem().now() < d) =>
                    {
                        turns = rounds(r);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    };
    patience.over(slept);
    // The message is the lane's: copy it out, then free it.
    let slot = r.lane(on.id())?;
    let block = r.block(r.peek(slot.plus(lane::HELD))?)?;
    let size = text_bytes(r.peek(block.plus(msg::SIZE))?) as usize;
    let n = size.min(buf.len());
    let mtype = read_type(r, block)?;
    let taken = buf.take(mtype, n, r.mem(), block.plus(msg::BYTES));
    keep(r, on, slot, block)?;
    if more {
        settle(r, on, &object, &mut turns)?;
    }
    taken.map(|()| (mtype, n))
}

/// Waits a bounded time, while no receiver sleeps, for something to be appended to the queue whose
/// last message was `tail`; `false` if nothing was.
fn spin<P: Platform>(
    r: &Region<P>,
    object: &Object,
    tail: u64,
    patience: &mut Patience<'_, P>,
) -> Result<bool> {
    while r.peek(object.at.plus(queue::RECV_HEAD))? == 0
        && r.peek(object.at.plus(obj::LIFE))? == object.life
    {
        if r.mem().load(object.at.plus(queue::TAIL), Ordering::Acquire)? != tail {
            // Others may take what comes each time.
            return Ok(patience.turn());
        }
        if !patience.turn() {
            break;
        }
    }
    Ok(false)
}

/// Checks the caller's rights and locks the queue, inside a transaction.
fn enter<P: Platform>(txn: &mut Txn<'_, P>, object: &Object, c: &Caller, want: u32) -> Result<()> {
    object.lock(txn)?;
    permit(txn.region(), c, object.at, want)
}
