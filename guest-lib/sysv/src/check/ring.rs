//! A busy queue's ring, looked at under the queue's lock. Messages come and go in it all the same.

use super::part::{Fault, Part, View, Who};
use vshmem_core::arena::Pool;
use vshmem_core::layout::{queue, ring};
use vshmem_core::{Offset, Platform};

/// The ring of the queue at `at`; messages and bytes that are in it.
pub(super) fn ring<P: Platform>(
    v: View<'_, P>,
    who: Who,
    index: u32,
    at: Offset,
    life: u32,
    part: &mut Part,
) -> (u64, u64) {
    let says = at.plus(queue::RING);
    if v.cell(says) == 0 {
        return (0, 0);
    }
    let block = part.block(v, Fault::Ring, who, says, Pool::Rings, |_| ring::SIZE);
    let Some(ring) = block.filter(|b| b.0.is_multiple_of(1 << ring::ALIGN_SHIFT)) else {
        return (0, 0);
    };
    let (of, its) = (ring.plus(ring::QUEUE), ring.plus(ring::LIFE));
    let same = v.cell(of) == index + 1 && v.cell(its) >> 2 == life >> 2;
    if !same {
        let what = "its ring is another queue's".to_owned();
        part.note(v, Fault::Ring, who, of, what, &[says, of, its]);
        return (0, 0);
    }
    blocks(v, Fault::Ring, who, ring, part);
    // Received first: what is sent meanwhile makes no fewer of them.
    let (received, sent) = (ring.plus(ring::RECEIVED), ring.plus(ring::SENT));
    let (before, after) = (v.word(received), v.word(sent));
    let position = |word: u64| (word >> ring::COUNT_SHIFT) as u32;
    let n = position(after).wrapping_sub(position(before));
    if u64::from(n) > ring::PLACES && v.word(received) == before && v.word(sent) == after {
        let what = format!("{n} messages in a ring of {} places", ring::PLACES);
        part.note(v, Fault::Ring, who, sent, what, &[received, sent]);
        return (0, 0);
    }
    let cell = |o: u64| v.cell(at.plus(o));
    let open = |word: u64| word & ring::CLOSED == 0;
    if open(after) && (cell(queue::RECV_HEAD) != 0 || cell(queue::HEAD) != 0) {
        let what = "senders pass by older messages, or a receiver that sleeps".to_owned();
        let rests = [sent, at.plus(queue::HEAD), at.plus(queue::RECV_HEAD)];
        part.note(v, Fault::Ring, who, sent, what, &rests);
    }
    if open(before) && cell(queue::SEND_HEAD) != 0 {
        let what = "receivers pass by a sender that sleeps".to_owned();
        part.note(v, Fault::Ring, who, received, what, &[received, at.plus(queue::SEND_HEAD)]);
    }
    (n.into(), (after as u16).wrapping_sub(before as u16).into())
}

/// The blocks of a ring's places.
pub(super) fn blocks<P: Platform>(
    v: View<'_, P>,
    fault: Fault,
    who: Who,
    ring: Offset,
    part: &mut Part,
) {
    for place in 0..ring::PLACES {
        let says = ring.plus(ring::BLOCK).index(place, 8);
        let cell = v.cell(says);
        if cell == 0 {
            continue;
        }
        let bytes = 1 << (ring::BLOCK_SHIFT + (cell & 3));
        if bytes > ring::MAX_BLOCK {
            let what = format!("place {place} has a block of {bytes} bytes");
            part.note(v, fault, who, says, what, &[says]);
            continue;
        }
        part.block_of(v, fault, who, says, cell & !3, Pool::Msgs, |_| bytes);
    }
}
