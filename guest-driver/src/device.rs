//! An open `/dev/vshmemN`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::abi::{self, Bind, Info};
use crate::find::Sysfs;
use crate::raw::{self, Errno};
use crate::{Error, UioEvent};

/// What a descriptor permits; the module keeps its holder to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mapping for reading, INFO and WAIT. Cannot be upgraded by `mprotect`.
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// An open device of the module's, of a version that this crate speaks.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
}

impl Device {
    /// Opens the first device of this machine, reading and writing.
    ///
    /// # Errors
    ///
    /// Those of [`Sysfs::nodes`], which say what is missing, and of [`Device::open`].
    pub fn open_first() -> Result<Self, Error> {
        let nodes = Sysfs::default().nodes()?;
        // `nodes` never answers with an empty list; were it wrong, there would be no device.
        Self::open(nodes.first().ok_or(Error::NoDevice)?, Access::ReadWrite)
    }

    /// Opens a `/dev/vshmemN`.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::NotOurs`], [`Error::Version`].
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let write = access == Access::ReadWrite;
        match File::options().read(true).write(write).open(&path) {
            Ok(file) => Self { file, path }.checked(),
            Err(source) => Err(Error::Open { path, source }),
        }
    }

    /// Takes over a descriptor that was received, such as a task gets from its agent.
    ///
    /// # Errors
    ///
    /// [`Error::NotOurs`], [`Error::Version`].
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let path = PathBuf::from(format!("descriptor {}", fd.as_raw_fd()));
        Self { file: fd.into(), path }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        match raw::info(self.fd()) {
            Ok(info) if info.abi == abi::VERSION => Ok(self),
            Ok(info) => Err(Error::Version { path: self.path, found: info.abi }),
            Err(errno) => Err(Error::NotOurs { path: self.path, errno }),
        }
    }

    /// Opens the same node once more, to give the descriptor away: the doorbell's rate limit
    /// belongs to the open file, so tasks that share one slow each other down.
    ///
    /// # Errors
    ///
    /// As [`Device::open`]; also when this device came by [`Device::from_fd`].
    pub fn reopen(&self, access: Access) -> Result<Self, Error> {
        Self::open(&self.path, access)
    }

    /// Describes the device.
    ///
    /// # Errors
    ///
    /// [`Error::Request`] with `ENODEV` once it is gone.
    pub fn info(&self) -> Result<Info, Error> {
        raw::info(self.fd()).map_err(|errno| self.failed("INFO", errno))
    }

    /// Tells the module where this peer's words are; replaces an earlier binding.
    ///
    /// # Errors
    ///
    /// [`Error::Request`], see [`raw::bind`].
    pub fn bind(&self, geometry: &Bind) -> Result<(), Error> {
        raw::bind(self.fd(), geometry).map_err(|errno| self.failed("BIND", errno))
    }

    /// Makes the module forget them: it drains nothing and announces no death any more.
    ///
    /// # Errors
    ///
    /// [`Error::Request`], see [`raw::unbind`].
    pub fn unbind(&self) -> Result<(), Error> {
        raw::unbind(self.fd()).map_err(|errno| self.failed("UNBIND", errno))
    }

    /// Sleeps on a word of the region, see [`raw::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`raw::wait`], unwrapped, since most are ordinary outcomes.
    pub fn wait(&self, off: u64, expected: u32, deadline: Option<(i64, i64)>) -> Result<(), Errno> {
        raw::wait(self.fd(), off, expected, deadline)
    }

    /// Wakes sleepers on a word of the region; returns how many, see [`raw::wake`].
    ///
    /// # Errors
    ///
    /// Those of [`raw::wake`].
    pub fn wake(&self, off: u64, count: u32) -> Result<u32, Errno> {
        raw::wake(self.fd(), off, count)
    }

    /// Rings another peer's vector, see [`raw::ring`].
    ///
    /// # Errors
    ///
    /// Those of [`raw::ring`].
    pub fn ring(&self, peer: u32, vector: u32) -> Result<(), Errno> {
        raw::ring(self.fd(), peer, vector)
    }

    /// The descriptor, for [`raw`] and for `mmap`, whose offset is one of BAR2.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the events of one of this device's vectors.
    ///
    /// # Errors
    ///
    /// [`Error::NoVector`], [`Error::Open`], [`Error::Io`].
    pub fn uio(&self, vector: u32) -> Result<UioEvent, Error> {
        let info = self.info()?;
        if vector >= info.vectors {
            let path = self.path.clone();
            return Err(Error::NoVector { path, vector, vectors: info.vectors });
        }
        let rdev = match self.file.metadata() {
            Ok(meta) => meta.rdev(),
            Err(source) => return Err(Error::Io { path: self.path.clone(), source }),
        };
        let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        UioEvent::open(Sysfs::default().uio(major, minor, vector)?)
    }

    fn failed(&self, request: &'static str, errno: Errno) -> Error {
        Error::Request { path: self.path.clone(), request, errno }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.file.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_refused_by_name() {
        let error = Device::open("/dev/null", Access::ReadWrite).unwrap_err();
        assert!(error.to_string().starts_with("/dev/null is not a uio_vshmem device"), "{error}");
        let error = Device::open("/dev/vshmem-none", Access::ReadOnly).unwrap_err();
        assert!(error.to_string().starts_with("cannot open /dev/vshmem-none"), "{error}");
        assert_eq!(error.errno(), Some(libc::ENOENT));
        let fd = File::open("/dev/null").unwrap().into();
        assert!(matches!(Device::from_fd(fd), Err(Error::NotOurs { .. })));
    }
}
