//! What a restarted daemon has to know besides the descriptors themselves.
//!
//! Written as TOML into a memfd that the holder keeps, whole, before any
//! message it implies is sent; so a crash at any point leaves either the state
//! before an event, which is then noticed again, or the one after it.

use crate::codec::{IvshmemId, Message};
use crate::vault::{Kept, STATE, Tag, Vault};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

/// The version of this format.
pub const VERSION: u32 = 1;

/// The most that is read: far above what 64 full queues take.
const MAX_BYTES: u64 = 64 << 20;

/// The daemon's state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// The regions served.
    #[serde(default)]
    pub region: Vec<RegionState>,
}

/// One region.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionState {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// What its memory is made of, as the configuration displays it.
    pub backing: String,
    /// The memory.
    pub memory: Tag,
    /// The attach socket; a raw region has none.
    pub attach: Option<Tag>,
    /// The ivshmem server, where there is one.
    pub server: Option<ServerState>,
}

/// One ivshmem server.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerState {
    /// Vectors of each peer.
    pub vectors: u16,
    /// The next id to give; ids below it are used up.
    pub next_id: u16,
    /// The listening socket.
    pub listener: Tag,
    /// The host's own eventfds.
    pub host_events: Vec<Tag>,
    /// Connected VMs.
    #[serde(default)]
    pub client: Vec<ClientState>,
    /// VMs whose connection has ended and whose process has not.
    #[serde(default)]
    pub departed: Vec<DepartedState>,
}

/// One connected VM.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientState {
    /// Its id.
    pub id: u16,
    /// The VMM's process.
    pub pid: u32,
    /// The VMM's user.
    pub uid: u32,
    /// The connection.
    pub socket: Tag,
    /// The VMM's pidfd, where it could be had.
    pub process: Option<Tag>,
    /// Its eventfds.
    pub events: Vec<Tag>,
    /// Messages sent when this was written; the holder's count may be higher
    /// by as many of `queue` as went out afterwards.
    pub sent: u64,
    /// Whether it is only kept until it has read its refusal.
    pub closing: bool,
    /// Messages yet to send: the value, and a descriptor.
    pub queue: Vec<QueuedState>,
}

/// One queued message.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuedState {
    /// The value.
    pub value: i64,
    /// The descriptor.
    pub fd: Option<Tag>,
}

impl From<&Message<Tag>> for QueuedState {
    fn from(m: &Message<Tag>) -> Self {
        Self { value: m.value, fd: m.fd }
    }
}

impl From<&QueuedState> for Message<Tag> {
    fn from(q: &QueuedState) -> Self {
        Self { value: q.value, fd: q.fd }
    }
}

/// One VM without a connection.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepartedState {
    /// Its id.
    pub id: u16,
    /// The VMM's process.
    pub pid: u32,
    /// The VMM's pidfd.
    pub process: Tag,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read the state: {0}")]
    Io(#[from] std::io::Error),
    /// It is not TOML of this shape.
    #[error("the state is not readable by this version: {0}")]
    Syntax(String),
    /// It is of another version.
    #[error("the state has version {0}, this vshmemd reads version {VERSION}")]
    Version(u32),
    /// It contradicts itself or the descriptors.
    #[error("the state is damaged: {0}")]
    Damaged(String),
}

impl State {
    /// As [`State::parse`] reads it.
    ///
    /// # Errors
    ///
    /// A number that TOML has no room for.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Gives the state to the vault, in place of the one before.
    ///
    /// # Errors
    ///
    /// When no memory can be had for it.
    pub fn save(&self, vault: &mut Vault) -> std::io::Result<()> {
        let text = self.to_text().map_err(std::io::Error::other)?;
        let mut file = File::from(memfd_create("vshmem-state", MemfdFlags::CLOEXEC)?);
        file.write_all(text.as_bytes())?;
        vault.put_as(STATE, Kept { fd: file.into(), sent: 0, witness: false });
        Ok(())
    }

    /// Reads and checks the state in the vault.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn load(vault: &Vault) -> Result<Self, Error> {
        let fd = vault.fd(STATE).map_err(|_| Error::Damaged("there is none".into()))?;
        let file = File::from(fd.try_clone_to_owned()?);
        let len = file.metadata()?.len();
        if len > MAX_BYTES {
            return Err(Error::Damaged(format!("{len} bytes")));
        }
        let mut text = String::new();
        FromStart { file: &file, at: 0 }.read_to_string(&mut text)?;
        let state = Self::parse(&text)?;
        let tags = vault.tags().into_iter().collect();
        state.check(&tags, |tag| vault.sent(tag))?;
        Ok(state)
    }

    /// Reads a state; whether it fits the descriptors is another question.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] and [`Error::Version`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let syntax = |e: toml::de::Error| Error::Syntax(e.message().to_owned());
        let head: Head = toml::from_str(text).map_err(syntax)?;
        if head.version != VERSION {
            return Err(Error::Version(head.version));
        }
        toml::from_str(text).map_err(syntax)
    }

    /// Checks that every descriptor exists, that only pidfds and queued ones are
    /// named twice, and that ids and counts are possible.
    fn check(&self, tags: &BTreeSet<Tag>, sent: impl Fn(Tag) -> u64) -> Result<(), Error> {
        let damaged = |what: String| Err(Error::Damaged(what));
        let mut used = BTreeSet::new();
        // Connections of one process share its pidfd.
        let mut processes = BTreeSet::new();
        let mut own = |tag: Tag| tags.contains(&tag) && used.insert(tag);
        for region in &self.region {
            let name = &region.name;
            if !own(region.memory) || !region.attach.is_none_or(&mut own) {
                return damaged(format!("region {name}: a descriptor is missing"));
            }
            let Some(server) = &region.server else { continue };
            if !own(server.listener) || !server.host_events.iter().all(|&t| own(t)) {
                return damaged(format!("region {name}: a descriptor is missing"));
            }
            if server.next_id > IvshmemId::HOST.0
                || server.host_events.len() != usize::from(server.vectors)
            {
                return damaged(format!("region {name}: impossible ids or vectors"));
            }
            let mut ids = BTreeSet::new();
            for c in &server.client {
                let here = own(c.socket)
                    && c.process.is_none_or(|t| tags.contains(&t))
                    && c.events.iter().all(|&t| own(t))
                    && c.queue.iter().filter_map(|q| q.fd).all(|t| tags.contains(&t));
                processes.extend(c.process);
                if !here {
                    return damaged(format!("region {name}, VM {}: a descriptor is missing", c.id));
                }
                let done = sent(c.socket).checked_sub(c.sent);
                if done.is_none_or(|n| n > c.queue.len() as u64)
                    || c.id >= server.next_id
                    || !ids.insert(c.id)
                    || c.events.len() != usize::from(server.vectors)
                {
                    return damaged(format!("region {name}, VM {}: impossible counts", c.id));
                }
            }
            for d in &server.departed {
                processes.insert(d.process);
                if !tags.contains(&d.process) || d.id >= server.next_id || !ids.insert(d.id) {
                    return damaged(format!("region {name}: departed VM {}", d.id));
                }
            }
        }
        if !processes.is_disjoint(&used) {
            return damaged("a pidfd is something else too".into());
        }
        Ok(())
    }
}

/// Reads a shared descriptor without moving its position.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let queue =
            vec![QueuedState { value: -1, fd: Some(1) }, QueuedState { value: 3, fd: None }];
        State {
            version: VERSION,
            region: vec![RegionState {
                name: "r".into(),
                size: 1 << 24,
                backing: "memfd".into(),
                memory: 1,
                attach: Some(2),
                server: Some(ServerState {
                    vectors: 1,
                    next_id: 9,
                    listener: 3,
                    host_events: vec![4],
                    client: vec![ClientState {
                        id: 8,
                        pid: 1,
                        uid: 0,
                        socket: 5,
                        process: Some(6),
                        events: vec![7],
                        sent: 2,
                        closing: false,
                        queue,
                    }],
                    departed: vec![DepartedState { id: 2, pid: 1, process: 8 }],
                }),
            }],
        }
    }

    fn check(state: &State, sent: u64) -> Result<(), Error> {
        state.check(&(0..9).collect(), |_| sent)
    }

    #[test]
    fn state_survives_writing_and_reading() {
        let mut vault = Vault::local();
        let empty = State { version: VERSION, region: Vec::new() };
        empty.save(&mut vault).unwrap();
        assert_eq!(State::load(&vault).unwrap(), empty);
        let text = toml::to_string(&state()).unwrap();
        assert_eq!(State::parse(&text).unwrap(), state());
        check(&state(), 2).unwrap();
    }

    #[test]
    fn count_between_written_and_queued_is_accepted_and_no_other() {
        check(&state(), 4).unwrap();
        check(&state(), 5).unwrap_err();
        check(&state(), 1).unwrap_err();
    }

    #[test]
    fn other_version_is_named() {
        let error = State::parse("version = 7\nnew = 1\n").unwrap_err();
        assert!(matches!(error, Error::Version(7)));
        assert!(matches!(State::parse("version = 1\nnew = 1\n"), Err(Error::Syntax(_))));
        assert!(matches!(State::parse("\u{0}"), Err(Error::Syntax(_))));
    }

    #[test]
    fn impossible_states_are_refused() {
        type Damage = fn(&mut ServerState);
        let damages: [Damage; 8] = [
            |s| s.next_id = 8,
            |s| s.next_id = 0xfff1,
            |s| s.client[0].socket = 99,
            |s| s.client[0].events.clear(),
            |s| s.client[0].queue[0].fd = Some(99),
            |s| s.departed[0].id = 8,
            |s| s.departed[0].process = 5,
            |s| s.host_events = vec![5],
        ];
        for (i, damage) in damages.iter().enumerate() {
            let mut state = state();
            damage(state.region[0].server.as_mut().unwrap());
            assert!(check(&state, 2).is_err(), "damage {i}");
        }
    }
}
