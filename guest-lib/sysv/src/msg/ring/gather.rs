//! Between the ring and the queue's list: under the queue's lock.

use super::{Place, RACES, Ring, Turn, furnished, is_its};
use crate::Result;
use crate::msg::{pack, pass, sizes_of, text_bytes};
use crate::object::Object;
use vshmem_core::arena::{Pool, class_of, to_cell};
use vshmem_core::layout::{lane, msg, obj, queue, ring};
use vshmem_core::{Corrupt, Lane, Offset, Platform, Region, Txn};

/// Messages after which a queue is a busy one, and gets a ring.
const BUSY: u32 = 16;
/// Messages that go back into the ring in one step.
const REFILL: u32 = 32;
/// Journal entries that putting one message into the ring may need.
const ONE_MESSAGE: usize = 16;
/// What is said of a ring whose words change whenever they were looked at.
const RESTLESS: &str = "ring never comes to rest";

/// The queue's ring as the transaction sees it.
fn of<P: Platform>(txn: &Txn<'_, P>, object: &Object) -> Result<Option<Ring>> {
    let Some(ring) = Ring::named(txn.region(), txn.get(object.at.plus(queue::RING))?)? else {
        return Ok(None);
    };
    if is_its(txn, ring, object)? {
        Ok(Some(ring))
    } else {
        Err(Corrupt::new(ring.0, "ring of another queue").into())
    }
}

/// Closes the queue's ring, and puts what is in it before what is in the queue's list. From now on
/// everything that happens to the queue does under its lock, until the ring is opened again.
///
/// Closing takes effect at once, whatever becomes of the transaction: a closed ring is what the next
/// transaction finds, and gathers. `true`: something was in it.
pub(in crate::msg) fn gather<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<bool> {
    let Some(ring) = of(txn, object)? else { return Ok(false) };
    let r = txn.region();
    let sent = shut(txn, ring.sent())?;
    let received = shut(txn, ring.received())?;
    let count = count(ring, sent, received)?;
    let mut blocks = Vec::new();
    for i in 0..count {
        let position = received.position().wrapping_add(i);
        if settle(r, ring, position)?.message(position).is_some() {
            blocks.push(take_out(txn, ring, position)?);
        }
    }
    for block in blocks.into_iter().rev() {
        pass::prepend(txn, object.at, block)?;
    }
    if count > 0 {
        txn.set_word(ring.received(), sent.closed().0)?;
    }
    Ok(count > 0)
}

/// Messages between two turns.
fn count(ring: Ring, sent: Turn, received: Turn) -> Result<u32> {
    let n = sent.position().wrapping_sub(received.position());
    if u64::from(n) > ring::PLACES {
        return Err(Corrupt::new(ring.0, "ring of more messages than places").into());
    }
    Ok(n)
}

/// Closes one end of a ring at once; its word from now on.
fn shut<P: Platform>(txn: &Txn<'_, P>, at: Offset) -> Result<Turn> {
    let mut turn = Turn(txn.word(at)?);
    for _ in 0..RACES {
        if turn.is_closed() {
            // Robbed by now, the rest would be of another's time.
            txn.valid()?;
            return Ok(turn);
        }
        if txn.region().mem().cas(at, turn.0, turn.closed().0)? {
            turn = turn.closed();
        } else {
            turn = Ring::turn(txn.region(), at)?;
        }
    }
    Err(Corrupt::new(at, RESTLESS).into())
}

/// What the place of a position that was taken to send to holds for good: a sender that has not sent
/// yet is skipped.
fn settle<P: Platform>(r: &Region<P>, ring: Ring, position: u32) -> Result<Place> {
    for _ in 0..3 {
        let place = ring.look(r, position)?;
        if !place.is_free(position)
            || r.mem().cas(ring.place(position), place.0, Place::skipped(position).0)?
        {
            return Ok(place);
        }
    }
    Err(Corrupt::new(ring.place(position), RESTLESS).into())
}

/// Takes the block of the message at `position` out of the ring.
fn take_out<P: Platform>(txn: &mut Txn<'_, P>, ring: Ring, position: u32) -> Result<Offset> {
    let cell = txn.get(ring.block(position))?;
    let Some((block, bytes)) = furnished(txn.region(), cell)? else {
        return Err(Corrupt::new(ring.block(position), "message without a block").into());
    };
    let size = txn.get(block.plus(msg::SIZE))?;
    if msg::BYTES + u64::from(text_bytes(size)) > bytes
        || class_of(bytes) != Some((size >> msg::CLASS_SHIFT).into())
    {
        return Err(Corrupt::new(block, "message larger than its block in the ring").into());
    }
    txn.set_word(ring.place(position), Place::empty(position).0)?;
    txn.set(ring.block(position), 0)?;
    Ok(block)
}

/// Whether nobody sleeps on the queue, and nothing else has to be done first.
fn is_calm<P: Platform>(txn: &Txn<'_, P>, at: Offset) -> Result<bool> {
    for o in [queue::RECV_HEAD, queue::SEND_HEAD, queue::DIRTY] {
        if txn.get(at.plus(o))? != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Closes the senders' end of the ring, and the receivers' with `both`: what is in it stays, and is
/// received as if it were in the list.
pub(in crate::msg) fn hush<P: Platform>(
    txn: &Txn<'_, P>,
    object: &Object,
    both: bool,
) -> Result<()> {
    let Some(ring) = of(txn, object)? else { return Ok(()) };
    shut(txn, ring.sent())?;
    if both {
        shut(txn, ring.received())?;
    }
    Ok(())
}

/// Messages and bytes in the ring, of which the senders' end is closed. Less may be in it by now if
/// the receivers' is not.
pub(in crate::msg) fn load<P: Platform>(txn: &Txn<'_, P>, object: &Object) -> Result<(u32, u32)> {
    let Some(ring) = of(txn, object)? else { return Ok((0, 0)) };
    let (sent, received) = (Turn(txn.word(ring.sent())?), Turn(txn.word(ring.received())?));
    let bytes = sent.bytes().wrapping_sub(received.bytes());
    Ok((count(ring, sent, received)?, bytes.into()))
}

/// The oldest message of the ring, which is closed with this: its block, type and size. None where
/// there is none, or the ring has to be gathered to know.
pub(in crate::msg) fn first<P: Platform>(
    txn: &Txn<'_, P>,
    object: &Object,
) -> Result<Option<(i64, u32)>> {
    let Some(ring) = of(txn, object)? else { return Ok(None) };
    let (sent, received) = (shut(txn, ring.sent())?, shut(txn, ring.received())?);
    let position = received.position();
    if count(ring, sent, received)? == 0
        || settle(txn.region(), ring, position)?.message(position).is_none()
    {
        return Ok(None);
    }
    let cell = txn.get(ring.block(position))?;
    let Some((block, _)) = furnished(txn.region(), cell)? else { return Ok(None) };
    Ok(Some((pass::type_of(txn, block)?, sizes_of(txn, block)?.0)))
}

/// Takes the oldest message, of which [`first`] has told, out of the ring.
pub(in crate::msg) fn take_first<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
) -> Result<Offset> {
    let Some(ring) = of(txn, object)? else {
        return Err(Corrupt::new(object.at, "queue without its ring").into());
    };
    let received = Turn(txn.word(ring.received())?);
    let block = take_out(txn, ring, received.position())?;
    let (size, bytes) = sizes_of(txn, block)?;
    // The next message there will need one too.
    let spare = txn.region().lane(txn.lane())?.plus(lane::SPARE);
    let kept = txn.get(spare)?;
    if kept != 0
        && let kept = txn.region().block(kept)?
        && sizes_of(txn, kept)?.1 == bytes
    {
        txn.set(ring.block(received.position()), cell_of(kept, bytes))?;
        txn.set(spare, 0)?;
    }
    txn.set_word(ring.received(), received.next(size).closed().0)?;
    Ok(block)
}

/// Puts the message in `block`, for which nobody waits, behind all others: into the ring where that is
/// possible, and else into the list.
pub(in crate::msg) fn append<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    block: Offset,
) -> Result<()> {
    if let Some(ring) = of_busy(txn, object)? {
        shut(txn, ring.sent())?;
        if txn.get(object.at.plus(queue::HEAD))? == 0 && is_calm(txn, object.at)? {
            open(txn, ring)?;
            if put(txn, ring, block)? {
                return Ok(());
            }
        }
    }
    pass::append(txn, object.at, block)
}

/// Opens a ring that is closed at both ends and empty.
fn open<P: Platform>(txn: &mut Txn<'_, P>, ring: Ring) -> Result<()> {
    let (sent, received) = (Turn(txn.word(ring.sent())?), Turn(txn.word(ring.received())?));
    if sent.position() != received.position() || !sent.is_closed() || !received.is_closed() {
        return Ok(());
    }
    // A position further on at least, so that the words are new ones.
    let mut position = sent.position().wrapping_add(1);
    for _ in 0..ring::PLACES {
        if Place(txn.word(ring.place(position))?).is_free(position) {
            break;
        }
        position = position.wrapping_add(1);
    }
    let turn = sent.open(position);
    txn.set_word(ring.sent(), turn.0)?;
    Ok(txn.set_word(ring.received(), turn.0)?)
}

/// The `ring::BLOCK` cell of a block of `bytes`.
fn cell_of(block: Offset, bytes: u64) -> u32 {
    to_cell(block) | (bytes >> ring::BLOCK_SHIFT).trailing_zeros()
}

/// Puts the message in `block` into the ring, and opens that for senders if it was not; `false` where
/// it has no room, or for a message that is too large.
fn put<P: Platform>(txn: &mut Txn<'_, P>, ring: Ring, block: Offset) -> Result<bool> {
    let (size, bytes) = sizes_of(txn, block)?;
    let sent = Turn(txn.word(ring.sent())?);
    let position = sent.position();
    let n = count(ring, sent, Turn(txn.word(ring.received())?))?;
    let place = Place(txn.word(ring.place(position))?);
    if !(1 << ring::BLOCK_SHIFT..=ring::MAX_BLOCK).contains(&bytes)
        || u64::from(n) >= ring::PLACES
        || !place.is_free(position)
        || txn.room() < ONE_MESSAGE
    {
        return Ok(false);
    }
    // Its block is the place's from now on, and that of the place the lane's, if it has none.
    if let Some((old, bytes)) = furnished(txn.region(), txn.get(ring.block(position))?)? {
        let spare = txn.region().lane(txn.lane())?.plus(lane::SPARE);
        if txn.get(spare)? == 0 {
            txn.set(old.plus(msg::SIZE), pack(0, bytes))?;
            txn.set(spare, to_cell(old))?;
        } else {
            txn.free(Pool::Msgs, bytes, old)?;
        }
    }
    txn.set(ring.block(position), cell_of(block, bytes))?;
    txn.set_word(ring.place(position), Place::full(position, size).0)?;
    txn.set_word(ring.sent(), sent.next(size).0)?;
    Ok(true)
}

/// After the oldest message was received: opens the ring for receivers, brings the first messages of
/// the list into it where it has become empty, and opens it for senders once the list is.
pub(in crate::msg) fn refill<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<()> {
    let Some(ring) = of(txn, object)? else { return Ok(()) };
    if !is_calm(txn, object.at)? {
        return Ok(());
    }
    let received = Turn(txn.word(ring.received())?);
    if received.position() != Turn(txn.word(ring.sent())?).position() {
        // A position further on than it was closed at: `take_first`.
        return Ok(txn.set_word(ring.received(), received.opened().0)?);
    }
    open(txn, ring)?;
    for _ in 0..REFILL {
        let head = txn.get(object.at.plus(queue::HEAD))?;
        if head == 0 {
            return Ok(());
        }
        let block = txn.region().block(head)?;
        if !put(txn, ring, block)? {
            break;
        }
        let size = sizes_of(txn, block)?.0;
        pass::unlink(txn, object, None, block, size)?;
    }
    let sent = Turn(txn.word(ring.sent())?);
    Ok(txn.set_word(ring.sent(), sent.closed().0)?)
}

/// Opens the closed ring where the queue is empty and nobody sleeps.
pub(in crate::msg) fn reopen<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<()> {
    match of(txn, object)? {
        Some(ring) if txn.get(object.at.plus(queue::HEAD))? == 0 && is_calm(txn, object.at)? => {
            open(txn, ring)
        }
        _ => Ok(()),
    }
}

/// The queue's ring; a queue that has had some messages gets one, closed and empty, where there is
/// memory for it.
fn of_busy<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<Option<Ring>> {
    if let Some(ring) = of(txn, object)? {
        return Ok(Some(ring));
    }
    let had = txn.get(object.at.plus(queue::HAD))?;
    if had < BUSY {
        txn.set(object.at.plus(queue::HAD), had + 1)?;
        return Ok(None);
    }
    let Some(at) = txn.alloc(Pool::Rings, ring::SIZE)? else { return Ok(None) };
    let Some(ring) = Ring::named(txn.region(), to_cell(at))? else { return Ok(None) };
    if txn.word(ring.0.plus(ring::MARK))? != ring::MADE {
        // Its memory may hold anything.
        for place in 0..ring::PLACES as u32 {
            txn.set_word(ring.place(place), Place::empty(0).0)?;
            txn.set(ring.block(place), 0)?;
        }
        for at in [ring.sent(), ring.received()] {
            txn.set_word(at, ring::CLOSED)?;
        }
        txn.set_word(ring.0.plus(ring::SEEN), 0)?;
        txn.set_word(ring.0.plus(ring::MARK), ring::MADE)?;
    }
    // What a queue of before has left: both ends closed at one position.
    let sent = Turn(txn.word(ring.sent())?);
    let began = sent.open(sent.position().wrapping_add(1)).closed();
    txn.set_word(ring.sent(), began.0)?;
    txn.set_word(ring.received(), began.0)?;
    for (cell, value) in [
        (ring::QUEUE, object.index + 1),
        (ring::LIFE, object.life),
        (ring::BEGAN, began.position()),
    ] {
        txn.set(ring.0.plus(cell), value)?;
    }
    for (by, when, who) in [
        (ring::SENT_BY, queue::STIME, queue::LSPID),
        (ring::RECEIVED_BY, queue::RTIME, queue::LRPID),
    ] {
        let (when, who) = (txn.get(object.at.plus(when))?, txn.get(object.at.plus(who))?);
        txn.set_word(ring.0.plus(by), u64::from(when) << 32 | u64::from(who))?;
    }
    txn.set(object.at.plus(queue::RING), to_cell(ring.0))?;
    Ok(Some(ring))
}

/// Takes the gathered ring from a queue that ends. Blocks of places in somebody's hands stay with it.
pub(in crate::msg) fn retire<P: Platform>(txn: &mut Txn<'_, P>, object: &Object) -> Result<()> {
    let Some(ring) = of(txn, object)? else { return Ok(()) };
    for position in 0..ring::PLACES as u32 {
        let at = ring.block(position);
        if Place(txn.word(ring.place(position))?).state() == ring::SKIPPED {
            continue;
        }
        if let Some((block, bytes)) = furnished(txn.region(), txn.get(at)?)? {
            txn.free(Pool::Msgs, bytes, block)?;
            txn.set(at, 0)?;
        }
    }
    txn.set(ring.0.plus(ring::QUEUE), 0)?;
    txn.set(object.at.plus(queue::RING), 0)?;
    Ok(txn.free(Pool::Rings, ring::SIZE, ring.0)?)
}

/// Notes who sent last, or who received, where that is looked for.
pub(in crate::msg) fn stamp<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    sends: bool,
    who: u32,
) -> Result<()> {
    let now = txn.region().mem().seconds();
    let (by, at, cell) = match sends {
        true => (ring::SENT_BY, queue::STIME, queue::LSPID),
        false => (ring::RECEIVED_BY, queue::RTIME, queue::LRPID),
    };
    if let Some(ring) = of(txn, object)? {
        return Ok(txn.set_word(ring.0.plus(by), u64::from(now) << 32 | u64::from(who))?);
    }
    txn.set(object.at.plus(at), now)?;
    Ok(txn.set(object.at.plus(cell), who)?)
}

/// {seconds, identity} of the last send, and of the last receive.
pub(in crate::msg) fn stamps<P: Platform>(
    txn: &Txn<'_, P>,
    object: &Object,
) -> Result<[(u32, u32); 2]> {
    if let Some(ring) = of(txn, object)? {
        let word = |o: u64| txn.word(ring.0.plus(o)).map(|w| ((w >> 32) as u32, w as u32));
        return Ok([word(ring::SENT_BY)?, word(ring::RECEIVED_BY)?]);
    }
    let cell = |o: u64| txn.get(object.at.plus(o));
    Ok([(cell(queue::STIME)?, cell(queue::LSPID)?), (cell(queue::RTIME)?, cell(queue::LRPID)?)])
}

/// Makes everybody look again who has looked at the queue's ring: its words are others from now on.
pub(super) fn close<P: Platform>(r: &Region<P>, on: &mut Lane, object: &Object) -> Result<()> {
    r.transact(on, |txn| {
        txn.lock(object.at.plus(obj::LOCK))?;
        if txn.get(object.at.plus(obj::LIFE))? != object.life {
            return Ok(());
        }
        gather(txn, object)?;
        refill(txn, object)
    })
}

/// How many bytes the block of a message is to have that needs `bytes`, to be fit for the ring.
pub(in crate::msg) fn block_for<P: Platform>(
    r: &Region<P>,
    object: &Object,
    bytes: u64,
) -> Result<u64> {
    let cell = |o: u64| r.peek(object.at.plus(o));
    // In a long list it would take memory for little: the ring is far.
    let ringed = (cell(queue::RING)? != 0 || cell(queue::HAD)? >= BUSY)
        && u64::from(cell(queue::QNUM)?) < 4 * ring::PLACES;
    Ok(if ringed && bytes <= ring::MAX_BLOCK { bytes.max(1 << ring::BLOCK_SHIFT) } else { bytes })
}
