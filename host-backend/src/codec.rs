//! The messages of the ivshmem protocol, apart from any socket.
//!
//! Everything flows from server to client. A message is one signed 64-bit
//! little-endian word with at most one descriptor:
//!
//! | value | descriptor | meaning |
//! |---|---|---|
//! | `0` | none | protocol version, first of all |
//! | id | none | the client's own id, second |
//! | `-1` | memory | the region; QEMU's device start-up ends here |
//! | id | eventfd | peer `id` exists; its k-th descriptor is its vector k |
//! | id | none | peer `id` has gone |
//!
//! QEMU reads up to the `-1` synchronously while it starts. An end-of-file in
//! that stretch makes it spin at full load for ever, whereas any value below
//! `-1` makes it report an error and exit: hence [`Message::refusal`], the
//! only way in which this server turns a client away.

use std::fmt;

/// The protocol version QEMU knows.
pub const PROTOCOL_VERSION: i64 = 0;
/// The value that announces the memory.
pub const MEMORY: i64 = -1;
/// A value QEMU rejects with a clean exit wherever it comes before the memory.
pub const REFUSAL: i64 = -2;
/// The most vectors a peer can have: QEMU's path without ioeventfd keeps only
/// eight bits of a vector number, so more would alias silently.
pub const MAX_VECTORS: u16 = 256;
/// How many messages precede and include the memory.
pub const MESSAGES_TO_MEMORY: u64 = 3;

/// An ivshmem id: what a guest reads as IVPosition and writes to its doorbell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IvshmemId(pub u16);

impl IvshmemId {
    /// The host's own pseudo-peer.
    pub const HOST: Self = Self(0xfff0);
    /// The first id given to a VM. Zero is left out, so that a zeroed peer
    /// entry never names a VM.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for IvshmemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One message; `F` names a descriptor and is whatever the caller uses for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<F> {
    /// The word on the wire.
    pub value: i64,
    /// The descriptor beside it.
    pub fd: Option<F>,
}

impl<F> Message<F> {
    /// A message that ends a client which has not been sent the memory yet.
    pub const fn refusal() -> Self {
        Self { value: REFUSAL, fd: None }
    }

    /// The bytes on the wire.
    pub const fn bytes(&self) -> [u8; 8] {
        self.value.to_le_bytes()
    }

    /// Whether this message says that `id` has an interrupt vector.
    pub fn announces(&self, id: IvshmemId) -> bool {
        self.value == i64::from(id.0) && self.fd.is_some()
    }
}

/// A peer as the protocol shows it: its id and one eventfd per vector.
#[derive(Clone, Copy, Debug)]
pub struct Announced<'a, F> {
    /// Who.
    pub id: IvshmemId,
    /// Its eventfds in vector order.
    pub events: &'a [F],
}

/// Everything a new client is sent: version, its id, the memory, the peers
/// that exist in the order given, and its own vectors last.
pub fn handshake<'a, F: Copy + 'a>(
    own: Announced<'a, F>,
    memory: F,
    others: impl IntoIterator<Item = Announced<'a, F>>,
) -> Vec<Message<F>> {
    let mut out = vec![
        Message { value: PROTOCOL_VERSION, fd: None },
        Message { value: i64::from(own.id.0), fd: None },
        Message { value: MEMORY, fd: Some(memory) },
    ];
    for other in others {
        out.extend(connected(other));
    }
    out.extend(connected(own));
    out
}

/// What existing clients are sent about a new peer.
pub fn connected<F: Copy>(peer: Announced<'_, F>) -> impl Iterator<Item = Message<F>> {
    let value = i64::from(peer.id.0);
    peer.events.iter().map(move |&fd| Message { value, fd: Some(fd) })
}

/// What the remaining clients are sent when a peer has gone.
pub fn disconnected<F>(id: IvshmemId) -> Message<F> {
    Message { value: i64::from(id.0), fd: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(messages: &[Message<&'static str>]) -> Vec<([u8; 8], Option<&'static str>)> {
        messages.iter().map(|m| (m.bytes(), m.fd)).collect()
    }

    #[test]
    fn handshake_is_version_id_memory_peers_then_own_vectors() {
        let host = Announced { id: IvshmemId::HOST, events: &["h0", "h1"] };
        let old = Announced { id: IvshmemId(3), events: &["a0", "a1"] };
        let own = Announced { id: IvshmemId(0x0102), events: &["b0", "b1"] };
        assert_eq!(
            wire(&handshake(own, "mem", [host, old])),
            [
                ([0, 0, 0, 0, 0, 0, 0, 0], None),
                ([2, 1, 0, 0, 0, 0, 0, 0], None),
                ([0xff; 8], Some("mem")),
                ([0xf0, 0xff, 0, 0, 0, 0, 0, 0], Some("h0")),
                ([0xf0, 0xff, 0, 0, 0, 0, 0, 0], Some("h1")),
                ([3, 0, 0, 0, 0, 0, 0, 0], Some("a0")),
                ([3, 0, 0, 0, 0, 0, 0, 0], Some("a1")),
                ([2, 1, 0, 0, 0, 0, 0, 0], Some("b0")),
                ([2, 1, 0, 0, 0, 0, 0, 0], Some("b1")),
            ]
        );
    }

    #[test]
    fn memory_is_the_last_of_the_messages_qemu_reads_synchronously() {
        let own = Announced { id: IvshmemId(1), events: &["b0"] };
        let all = handshake(own, "mem", []);
        let at = all.iter().position(|m| m.value == MEMORY).unwrap();
        assert_eq!(at as u64 + 1, MESSAGES_TO_MEMORY);
    }

    #[test]
    fn connect_notice_carries_one_descriptor_per_vector_in_order() {
        let peer = Announced { id: IvshmemId(7), events: &["v0", "v1", "v2"] };
        let got: Vec<_> = connected(peer).collect();
        assert_eq!(
            wire(&got),
            [
                ([7, 0, 0, 0, 0, 0, 0, 0], Some("v0")),
                ([7, 0, 0, 0, 0, 0, 0, 0], Some("v1")),
                ([7, 0, 0, 0, 0, 0, 0, 0], Some("v2")),
            ]
        );
    }

    #[test]
    fn disconnect_notice_is_the_id_without_a_descriptor() {
        let notice = disconnected::<&str>(IvshmemId(0xffee));
        assert_eq!(wire(&[notice]), [([0xee, 0xff, 0, 0, 0, 0, 0, 0], None)]);
        assert!(!notice.announces(IvshmemId(0xffee)));
    }

    #[test]
    fn refusal_is_below_every_value_qemu_accepts() {
        let refusal = Message::<()>::refusal();
        assert_eq!(refusal.bytes(), [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        const { assert!(REFUSAL < MEMORY && REFUSAL != PROTOCOL_VERSION) };
    }
}
