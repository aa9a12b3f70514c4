//! epoll, with a word that says what a descriptor is.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What became ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A signal.
    Signal,
    /// The holder's connection.
    Holder,
    /// The ivshmem listener of the region with this index.
    Listener(u16),
    /// The connection of a VM of a region.
    Client(u16, u16),
    /// The process of a VM of a region.
    Process(u16, u16),
    /// A vector of the host in a region.
    HostEvent(u16, u16),
    /// The service of a region.
    Service(u16),
}

impl Source {
    fn word(self) -> u64 {
        let (kind, region, n) = match self {
            Self::Signal => (0, 0, 0),
            Self::Holder => (1, 0, 0),
            Self::Listener(r) => (2, r, 0),
            Self::Client(r, n) => (3, r, n),
            Self::Process(r, n) => (4, r, n),
            Self::HostEvent(r, n) => (5, r, n),
            Self::Service(r) => (6, r, 0),
        };
        kind << 32 | u64::from(region) << 16 | u64::from(n)
    }

    fn from_word(word: u64) -> Option<Self> {
        let [n0, n1, r0, r1, kind, ..] = word.to_le_bytes();
        let n = u16::from_le_bytes([n0, n1]);
        let r = u16::from_le_bytes([r0, r1]);
        Some(match kind {
            0 => Self::Signal,
            1 => Self::Holder,
            2 => Self::Listener(r),
            3 => Self::Client(r, n),
            4 => Self::Process(r, n),
            5 => Self::HostEvent(r, n),
            6 => Self::Service(r),
            _ => return None,
        })
    }
}

/// The daemon's one epoll instance.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    /// A new one.
    ///
    /// # Errors
    ///
    /// What `epoll_create1` says.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches `fd` for input and hang-up.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says.
    pub fn watch(&self, fd: impl AsFd, source: Source) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::RDHUP;
        epoll::add(&self.epoll, fd, EventData::new_u64(source.word()), flags)
    }

    /// Changes what `fd` is watched for; hang-up always is.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl` says.
    pub fn rewatch(
        &self,
        fd: impl AsFd,
        source: Source,
        input: bool,
        output: bool,
    ) -> Result<(), Errno> {
        let mut flags = EventFlags::RDHUP;
        flags.set(EventFlags::IN, input);
        flags.set(EventFlags::OUT, output);
        epoll::modify(&self.epoll, fd, EventData::new_u64(source.word()), flags)
    }

    /// Stops watching `fd`. Closing is not enough: the holder's duplicate
    /// keeps the open file, and with it the events, alive.
    pub fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, or for `timeout`.
    ///
    /// # Errors
    ///
    /// What `epoll_wait` says; an interrupted wait is an empty one.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Vec<(Source, EventFlags)>, Errno> {
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut events: Vec<Event> = Vec::with_capacity(64);
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        let known = |e: Event| {
            let Event { data, flags } = e;
            Some((Source::from_word(data.u64())?, flags))
        };
        Ok(events.into_iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_way_through_a_word() {
        for source in [
            Source::Signal,
            Source::Holder,
            Source::Listener(9),
            Source::Client(1, 0xffef),
            Source::Process(0xffff, 2),
            Source::HostEvent(3, 255),
            Source::Service(7),
        ] {
            assert_eq!(Source::from_word(source.word()), Some(source));
        }
        assert_eq!(Source::from_word(u64::MAX), None);
    }
}
