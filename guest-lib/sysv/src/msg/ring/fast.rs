//! `msgsnd` and `msgrcv` through an open ring.

use super::{Note, Place, RACES, Ring, Turn, by, furnished};
use crate::msg::{Room, Text, Want, pack, read_type};
use crate::object::{self, Object, permit};
use crate::{Caller, Errno, Error, Result, flag};
use vshmem_core::layout::{msg, obj, queue, ring};
use vshmem_core::mem::Ordering;
use vshmem_core::{Lane, Offset, Platform, Region};

/// How a call through the ring ended.
pub(in crate::msg) enum Fast<T> {
    Done(T),
    /// There is no room, or no message.
    Wait,
    /// It has to go the slow way, which also says what is wrong.
    Slow,
}

/// Turns of waiting for a sender that has taken the oldest position and not sent yet.
const PATIENCE: u32 = if cfg!(loom) { 0 } else { 128 };

/// Whether nothing is in the way of the caller: the queue is the one that was looked up, it may use
/// it as `want` says, and was not shut out. To be asked after the turn was read: whoever changes one of
/// these closes the ring.
fn may<P: Platform>(r: &Region<P>, c: &Caller, object: &Object, want: u32) -> Result<bool> {
    Ok(r.peek(object.at.plus(obj::LIFE))? == object.life
        && !object::withdrawn(r, object.at, || c.who.peer())?
        && permit(r, c, object.at, want).is_ok()
        && r.check_task(c.task).is_ok())
}

/// Sends `text`.
///
/// # Errors
/// `EFAULT`, or the region is corrupt; nothing was sent.
///
/// # If the caller dies
/// The message is in the queue, or nowhere. A place may be lost to the ring until it is reaped.
pub(in crate::msg) fn send<P: Platform>(
    r: &Region<P>,
    on: &Lane,
    c: &Caller,
    object: &Object,
    mtype: i64,
    text: &(impl Text<P> + ?Sized),
) -> Result<Fast<()>> {
    let Some(ring) = Ring::of(r, object)? else { return Ok(Fast::Slow) };
    let done = send_to(r, on, c, object, ring, mtype, text);
    Note::end(r, on.id())?;
    done
}

fn send_to<P: Platform>(
    r: &Region<P>,
    on: &Lane,
    c: &Caller,
    object: &Object,
    ring: Ring,
    mtype: i64,
    text: &(impl Text<P> + ?Sized),
) -> Result<Fast<()>> {
    let size = text.len() as u64;
    for _ in 0..RACES {
        let turn = Ring::turn(r, ring.sent())?;
        if turn.is_closed() || !may(r, c, object, 0o222)? {
            return Ok(Fast::Slow);
        }
        let position = turn.position();
        let place = ring.look(r, position)?;
        let fits = furnished(r, r.peek(ring.block(position))?)?
            .filter(|(_, bytes)| msg::BYTES + size <= *bytes);
        let Some((block, bytes)) = fits else { return Ok(Fast::Slow) };
        if !has_room(r, object, ring, turn, size)? {
            return Ok(Fast::Wait);
        }
        if place.state() == ring::SKIPPED {
            return Ok(Fast::Slow);
        }
        if !place.is_free(position) {
            continue; // Others were faster.
        }
        Note::new(ring, position).put(r, on.id())?;
        if !r.mem().cas(ring.sent(), turn.0, turn.next(size as u32).0)? {
            continue;
        }
        // The position is ours, and so is its block until the place says otherwise.
        let put = write(r, block, bytes, mtype, text);
        // Relaxed: for listings. Before the message is seen, so that whoever gathers it sees this.
        r.mem().store(ring.0.plus(ring::SENT_BY), by(r, c.who), Ordering::Relaxed)?;
        let now = match put {
            Ok(()) => Place::full(position, size as u32),
            Err(_) => Place::empty(position),
        };
        let sent = r.mem().cas(ring.place(position), place.0, now.0)?;
        if !sent {
            // It was taken for stopped. Now the place can be used again.
            let skipped = Place::skipped(position);
            r.mem().cas(ring.place(position), skipped.0, Place::empty(position).0)?;
        }
        put?;
        return Ok(if sent { Fast::Done(()) } else { Fast::Slow });
    }
    Ok(Fast::Slow)
}

/// Writes a message into a block of which nobody else knows.
fn write<P: Platform>(
    r: &Region<P>,
    block: Offset,
    bytes: u64,
    mtype: i64,
    text: &(impl Text<P> + ?Sized),
) -> Result<()> {
    r.init(block.plus(msg::SIZE), pack(text.len() as u32, bytes))?;
    r.init(block.plus(msg::TYPE_LO), mtype as u32)?;
    r.init(block.plus(msg::TYPE_HI), (mtype >> 32) as u32)?;
    text.put(r.mem(), block.plus(msg::BYTES))
}

/// Whether one more message of `size` bytes may be in queue and ring, when `turn` is to send.
fn has_room<P: Platform>(
    r: &Region<P>,
    object: &Object,
    ring: Ring,
    turn: Turn,
    size: u64,
) -> Result<bool> {
    let cell = |o: u64| r.peek(object.at.plus(o)).map(u64::from);
    let all = cell(queue::QBYTES)?;
    let (listed, listed_bytes) = (cell(queue::QNUM)?, cell(queue::CBYTES)?);
    let fits = |received: Turn| {
        let n = u64::from(turn.position().wrapping_sub(received.position()));
        let bytes = u64::from(turn.bytes().wrapping_sub(received.bytes()));
        n < ring::PLACES && n + listed < all && bytes + listed_bytes + size <= all
    };
    // Relaxed: the receivers' line is only looked at when what was seen of it last does not do. What
    // is old leaves less room.
    let seen = ring.0.plus(ring::SEEN);
    if fits(Turn(r.mem().load(seen, Ordering::Relaxed)?)) {
        return Ok(true);
    }
    let received = Ring::turn(r, ring.received())?;
    r.mem().store(seen, received.0, Ordering::Relaxed)?;
    Ok(fits(received))
}

/// Receives the oldest message into `buf`, if that is what `want` selects: its type, and how many
/// bytes it filled.
///
/// # Errors
/// `ENOMSG` (with IPC_NOWAIT), `EFAULT` (the message is lost), or the region is corrupt.
///
/// # If the caller dies
/// The message stays in the queue, or it has received it.
pub(in crate::msg) fn recv<P: Platform>(
    r: &Region<P>,
    c: &Caller,
    object: &Object,
    buf: &mut (impl Room<P> + ?Sized),
    want: Want,
    flags: i32,
) -> Result<Fast<(i64, usize)>> {
    let Some(ring) = Ring::of(r, object)? else { return Ok(Fast::Slow) };
    let mut awaited = 0;
    for _ in 0..RACES {
        let turn = Ring::turn(r, ring.received())?;
        if turn.is_closed() || !may(r, c, object, 0o444)? {
            return Ok(Fast::Slow);
        }
        let position = turn.position();
        let place = ring.look(r, position)?;
        let sent = Ring::turn(r, ring.sent())?;
        let Some(size) = place.message(position) else {
            if sent.position() != position {
                // Taken, and not sent yet; or skipped, or given up.
                if !place.is_free(position) || awaited == PATIENCE {
                    return Ok(Fast::Slow);
                }
                r.mem().relax(awaited);
                awaited += 1;
                continue;
            }
            match none(r, object, ring, turn, sent, flags)? {
                Some(end) => return Ok(end),
                None => continue,
            }
        };
        let Some((block, bytes)) = furnished(r, r.peek(ring.block(position))?)? else {
            return Ok(Fast::Slow);
        };
        let mtype = read_type(r, block)?;
        if !want.takes(mtype) && !anywhere(r, ring, position, sent, want)? {
            match none(r, object, ring, turn, sent, flags)? {
                Some(end) => return Ok(end),
                None => continue,
            }
        }
        // A lower type may come later than the oldest one.
        let chosen = want.takes(mtype) && (want.mtype >= 0 || mtype == 1);
        if !chosen || u64::from(size) > want.room || msg::BYTES + u64::from(size) > bytes {
            return Ok(Fast::Slow);
        }
        let n = buf.len().min(size as usize);
        let received = with_room(n, |text| {
            r.mem().read_bytes(block.plus(msg::BYTES), text)?;
            if !r.mem().cas(ring.received(), turn.0, turn.next(size).0)? {
                return Ok::<_, Error>(None);
            }
            // Received. Relaxed: for listings.
            r.mem().store(ring.0.plus(ring::RECEIVED_BY), by(r, c.who), Ordering::Relaxed)?;
            Ok(Some(buf.give(mtype, text)))
        })?;
        if let Some(given) = received {
            return given.map(|()| Fast::Done((mtype, n)));
        }
    }
    Ok(Fast::Slow)
}

/// What it means that there was nothing to receive between the two turns; none where they are over.
fn none<P: Platform, T>(
    r: &Region<P>,
    object: &Object,
    ring: Ring,
    received: Turn,
    sent: Turn,
    flags: i32,
) -> Result<Option<Fast<T>>> {
    if flags & flag::IPC_NOWAIT == 0 {
        // There may be more in the list; otherwise a sender has closed its end for a moment.
        let listed = sent.is_closed() && r.peek(object.at.plus(queue::HEAD))? != 0;
        return Ok(Some(if listed { Fast::Slow } else { Fast::Wait }));
    }
    if sent.is_closed() {
        return Ok(Some(Fast::Slow));
    }
    let same = Ring::turn(r, ring.sent())? == sent && Ring::turn(r, ring.received())? == received;
    if same { Err(Errno::ENOMSG.into()) } else { Ok(None) }
}

/// Whether there may be a message that `want` selects behind the one at `position`.
fn anywhere<P: Platform>(
    r: &Region<P>,
    ring: Ring,
    position: u32,
    sent: Turn,
    want: Want,
) -> Result<bool> {
    let n = sent.position().wrapping_sub(position).min(ring::PLACES as u32);
    for i in 1..n {
        let position = position.wrapping_add(i);
        let there = ring.look(r, position)?.message(position).is_some();
        let block = furnished(r, r.peek(ring.block(position))?)?;
        let Some((block, _)) = block.filter(|_| there) else { return Ok(true) };
        if want.takes(read_type(r, block)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs `f` on `n` bytes that nobody else sees, of which there are as few as a small message needs.
fn with_room<T>(n: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
    const MOST: usize = (ring::MAX_BLOCK - msg::BYTES) as usize;
    match n {
        0..=64 => f(&mut [0; 64][..n]),
        65..=256 => f(&mut [0; 256][..n]),
        _ => f(&mut [0; MOST][..n]),
    }
}
