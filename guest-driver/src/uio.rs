//! The events of one interrupt vector.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Error;

/// Counts the interrupts of one vector, each since the last look.
///
/// An open file sees only what is newer than its last read: look at the condition, then
/// [`wait`](Self::wait), and no event is lost. The kernel keeps that memory per open file, so two
/// readers need two `UioEvent`s, also across processes.
#[derive(Debug)]
pub struct UioEvent {
    file: File,
    path: PathBuf,
}

impl UioEvent {
    /// Opens a UIO device of the module's, such as [`Device::uio`](crate::Device::uio) finds.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    /// Sleeps until there are interrupts not seen yet; returns the count of all so far, which
    /// wraps around.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], with `EIO` once the device is gone. Signals do not end it.
    pub fn wait(&mut self) -> Result<u32, Error> {
        let mut count = [0; 4];
        match self.file.read_exact(&mut count) {
            Ok(()) => Ok(u32::from_ne_bytes(count)),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// As [`wait`](Self::wait), but gives up after `limit` with `None`, and on a signal with
    /// `EINTR`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn wait_for(&mut self, limit: Duration) -> Result<Option<u32>, Error> {
        let limit = Timespec::try_from(limit).map_err(|_| {
            self.failed(io::Error::new(io::ErrorKind::InvalidInput, "the limit is too long"))
        })?;
        let ready = poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&limit));
        match ready {
            Ok(0) => Ok(None),
            Ok(_) => self.wait().map(Some),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    /// Wakes all readers of this vector in this machine, without a doorbell.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn wake_local(&mut self) -> Result<(), Error> {
        match self.file.write_all(&1u32.to_ne_bytes()) {
            Ok(()) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }
}

/// For epoll: readable when there are interrupts not seen yet.
impl AsFd for UioEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<UioEvent> for OwnedFd {
    fn from(event: UioEvent) -> Self {
        event.file.into()
    }
}
