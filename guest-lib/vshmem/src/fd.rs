//! Descriptors inside a program that may close, or reuse, any of them.

use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// Where our descriptors go: above what programs number themselves, below the usual limit of 1024.
const HIGH: [RawFd; 3] = [900, 500, 100];

/// Device, inode and type of a file.
pub(crate) type FileId = (u64, u64, u32);

fn identity(raw: RawFd) -> Option<FileId> {
    let stat = sys::fstat(raw).ok()?;
    Some((stat.st_dev, stat.st_ino, stat.st_mode & libc::S_IFMT))
}

/// Whether `raw` is a descriptor of that very file.
pub(crate) fn leads_to(raw: RawFd, file: FileId) -> bool {
    identity(raw) == Some(file)
}

/// A descriptor of ours, with what it was when we got it.
///
/// Programs close descriptors they do not know (daemons close all), and open others that then get
/// the same numbers. So a number counts as ours only while it leads to the same file.
#[derive(Debug)]
pub(crate) struct Fd {
    raw: RawFd,
    identity: FileId,
}

impl Fd {
    /// Moves `fd` out of the program's way; close-on-exec.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let identity = identity(fd.as_raw_fd()).ok_or_else(io::Error::last_os_error)?;
        for at in HIGH {
            if let Ok(raw) = sys::duplicate(fd.as_raw_fd(), at) {
                return Ok(Self { raw, identity });
            }
        }
        // The limit is lower than all of these: it stays where it is.
        Ok(Self { raw: fd.into_raw_fd(), identity })
    }

    /// The number, if it still leads to our file.
    pub fn get(&self) -> Option<RawFd> {
        leads_to(self.raw, self.identity).then_some(self.raw)
    }

    /// The file it led to when we got it.
    pub fn file(&self) -> FileId {
        self.identity
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if let Some(raw) = self.get() {
            sys::close(raw);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::FromRawFd;

    #[test]
    fn a_descriptor_moves_up_and_closes_on_exec() {
        let fd = Fd::adopt(File::open("/proc/self/exe").unwrap().into()).unwrap();
        let raw = fd.get().unwrap();
        assert!(raw >= 100);
        // SAFETY: only asks.
        assert_eq!(unsafe { libc::fcntl(raw, libc::F_GETFD) }, libc::FD_CLOEXEC);
    }

    #[test]
    fn a_number_that_leads_elsewhere_is_not_ours_and_is_left_alone() {
        let fd = Fd::adopt(File::open("/proc/self/exe").unwrap().into()).unwrap();
        let raw = fd.get().unwrap();
        let other = File::open("/dev/null").unwrap();
        // SAFETY: replaces a descriptor of this test by another of its own.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), raw) }, raw);
        assert_eq!(fd.get(), None);
        drop(fd);
        // SAFETY: only asks.
        assert!(unsafe { libc::fcntl(raw, libc::F_GETFD) } >= 0, "the program's own was closed");
        // SAFETY: this test made it.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
    }
}
