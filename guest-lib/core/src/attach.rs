//! The messages between a task and its kernel's endpoint.
//!
//! They travel over a `SOCK_SEQPACKET` UNIX socket, one request or reply a packet, little-endian,
//! of fixed size. Descriptors ride along as `SCM_RIGHTS`; who the caller is, the endpoint asks the
//! kernel, never the message.
//!
//! | request | arguments | descriptors to the endpoint | reply | descriptors back |
//! |---|---|---|---|---|
//! | [`Op::Attach`] | – | – | transport, task, peer | region read-write, region read-only |
//! | [`Op::Fork`] | the child's task index, incarnation | the endpoint's end of the child's connection | yes | – |
//! | [`Op::Hello`] | – (first on the child's connection) | – | task, peer | – |
//! | [`Op::Ring`] | a peer's index | – | yes | that peer's wake eventfd |
//! | [`Op::Reap`] | a task index, incarnation: its process is dead | – | once reaped | – |
//! | [`Op::Keep`] | – | a pidfd of another process | task, peer | – |
//! | [`Op::Fence`] | a peer's index, its incarnation; [`FENCE_ALIVE`] beside the index | – | what was done, as text | – |

/// Beside the index in [`Op::Fence`]: without killing the VM.
pub const FENCE_ALIVE: u64 = 1 << 32;
/// Bytes of a request.
pub const REQUEST: usize = 32;
/// Bytes of a reply.
pub const REPLY: usize = 256;
/// Version of these messages. In all versions a message begins with the same four bytes and this
/// number, so that each side can name the other's. (What is built to test how versions meet
/// pretends the next one.)
pub const PROTOCOL: u32 = 1 + option_env!("VSHMEM_SKEW_ATTACH").is_some() as u32;
const TAG: u32 = u32::from_le_bytes(*b"vshm");
const TEXT: usize = REPLY - 48;

/// What a task asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Op {
    /// Become a task.
    Attach = 1,
    /// Register a child before it is born.
    Fork = 2,
    /// Be that child.
    Hello = 3,
    /// Get the doorbell of a peer (host only; guests ring through their module).
    Ring = 4,
    /// Reap a task whose death the caller has seen.
    Reap = 5,
    /// Make another process a task, whose calls the asking task will make in its stead.
    Keep = 6,
    /// Declare a peer dead (on the host, for root and the region's owner; the asker need be no task).
    Fence = 7,
}

/// How a region is mapped and how its sleepers are woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Transport {
    /// A memfd (or file) of this kernel, and futexes.
    Memfd = 0,
    /// `/dev/vshmemN`, and the module's ioctls.
    Module = 1,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// First argument.
    pub a: u64,
    /// Second argument.
    pub b: u64,
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 0, or an errno.
    pub status: u32,
    /// How to map and sleep.
    pub transport: Transport,
    /// The caller's task slot.
    pub task: u32,
    /// Its incarnation.
    pub incarnation: u64,
    /// The caller's peer.
    pub peer: u32,
    /// Bytes of the region.
    pub len: u64,
    /// What went wrong, for a person.
    pub text: String,
}

/// A packet that is no message of this protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadMessage {
    /// Wrong size.
    #[error("attach message of {0} bytes: not a vshmem endpoint, or another release")]
    Size(usize),
    /// No message of any version.
    #[error("attach message begins with {0:#010x}: not a vshmem endpoint or library")]
    Foreign(u32),
    /// Another version.
    #[error(
        "the other side speaks version {0} of the attach protocol, this one {PROTOCOL}: library and endpoint are of different releases; install the same vshmem on both sides, containers and guests included"
    )]
    Version(u32),
    /// A field without meaning.
    #[error("attach message with {field} = {value}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it held.
        value: u64,
    },
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn check(bytes: &[u8], size: usize) -> Result<(), BadMessage> {
    if bytes.len() < 8 {
        return Err(BadMessage::Size(bytes.len()));
    }
    // Another version may have another size, and says so best by its number.
    match (u32_at(bytes, 0), u32_at(bytes, 4)) {
        (TAG, PROTOCOL) if bytes.len() == size => Ok(()),
        (TAG, PROTOCOL) => Err(BadMessage::Size(bytes.len())),
        (TAG, other) => Err(BadMessage::Version(other)),
        (other, _) => Err(BadMessage::Foreign(other)),
    }
}

impl Request {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..4].copy_from_slice(&TAG.to_le_bytes());
        bytes[4..8].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes[8..12].copy_from_slice(&(self.op as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.a.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.b.to_le_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// Not a request of this protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        check(bytes, REQUEST)?;
        let op = match u32_at(bytes, 8) {
            1 => Op::Attach,
            2 => Op::Fork,
            3 => Op::Hello,
            4 => Op::Ring,
            5 => Op::Reap,
            6 => Op::Keep,
            7 => Op::Fence,
            n => return Err(BadMessage::Field { field: "operation", value: n.into() }),
        };
        Ok(Self { op, a: u64_at(bytes, 16), b: u64_at(bytes, 24) })
    }
}

impl Reply {
    /// A refusal with `errno` and a text for a person.
    #[must_use]
    pub fn refusal(errno: u32, text: &str) -> Self {
        Self { status: errno, text: text.to_owned(), ..Self::done() }
    }

    /// A reply that carries nothing but success.
    #[must_use]
    pub fn done() -> Self {
        Self {
            status: 0,
            transport: Transport::Memfd,
            task: 0,
            incarnation: 0,
            peer: 0,
            len: 0,
            text: String::new(),
        }
    }

    /// As bytes; a text too long is cut.
    #[must_use]
    pub fn encode(&self) -> [u8; REPLY] {
        let mut bytes = [0; REPLY];
        bytes[..4].copy_from_slice(&TAG.to_le_bytes());
        bytes[4..8].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.transport as u32).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.task.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.peer.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.len.to_le_bytes());
        let mut n = self.text.len().min(TEXT);
        while !self.text.is_char_boundary(n) {
            n -= 1;
        }
        bytes[48..48 + n].copy_from_slice(&self.text.as_bytes()[..n]);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// Not a reply of this protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        check(bytes, REPLY)?;
        let transport = match u32_at(bytes, 12) {
            0 => Transport::Memfd,
            1 => Transport::Module,
            n => return Err(BadMessage::Field { field: "transport", value: n.into() }),
        };
        let text = &bytes[48..];
        let end = text.iter().position(|b| *b == 0).unwrap_or(TEXT);
        Ok(Self {
            status: u32_at(bytes, 8),
            transport,
            task: u32_at(bytes, 16),
            peer: u32_at(bytes, 20),
            incarnation: u64_at(bytes, 24),
            len: u64_at(bytes, 32),
            text: String::from_utf8_lossy(&text[..end]).into_owned(),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let request = Request { op: Op::Ring, a: 7, b: u64::MAX };
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        let reply = Reply {
            transport: Transport::Module,
            task: 3,
            incarnation: 1 << 40,
            peer: 2,
            len: 1 << 30,
            ..Reply::refusal(13, "no entry for uid 7")
        };
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn a_text_too_long_is_cut_at_a_character() {
        let reply = Reply::refusal(1, &"é".repeat(200));
        let back = Reply::decode(&reply.encode()).unwrap();
        assert_eq!(back.text, "é".repeat(TEXT / 2));
    }

    #[test]
    fn foreign_packets_are_refused_by_what_is_wrong() {
        assert_eq!(Request::decode(b"hello"), Err(BadMessage::Size(5)));
        assert_eq!(Request::decode(&[0; REQUEST]), Err(BadMessage::Foreign(0)));
        let mut other = vec![0; REQUEST + 8];
        other[..4].copy_from_slice(b"vshm");
        other[4] = 77;
        assert_eq!(Request::decode(&other), Err(BadMessage::Version(77)), "of whatever size");
        let mut bytes = Request { op: Op::Attach, a: 0, b: 0 }.encode();
        bytes[8] = 99;
        let bad = BadMessage::Field { field: "operation", value: 99 };
        assert_eq!(Request::decode(&bytes), Err(bad));
    }
}
