//! One plain function per ioctl.
//!
//! Async-signal-safe: no allocation, no lock, no panic, and `errno` is left as it was, so a
//! preloaded library may call them anywhere, from a signal handler too. The descriptor is one of
//! `/dev/vshmemN`; on any other the module is not reached and the answer is an [`Errno`]
//! (`EBADF`, `ENOTTY`).

use std::ffi::c_void;
use std::os::fd::RawFd;

use crate::abi::{self, Bind, Info, Ring, Wait, Wake};

/// The error number of a failed call, as in `errno.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&std::io::Error::from_raw_os_error(self.0), f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// Issues `request`; a non-negative answer is the call's result.
///
/// # Safety
///
/// `arg` is null for a request without argument, else it points to the structure that `request`
/// encodes, writable if the module answers in it, for the duration of the call.
unsafe fn ioctl(fd: RawFd, request: u32, arg: *mut c_void) -> Result<u32, Errno> {
    // SAFETY: The function has no preconditions; its result is valid for this thread's lifetime.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` points to this thread's own error number, which nobody else accesses.
    let saved = unsafe { *errno };
    // SAFETY: The caller vouches for `arg`; a wrong `fd` is answered with an error. The cast only
    // adapts to the libc's type of the request (glibc: unsigned long, musl: int).
    let ret = unsafe { libc::ioctl(fd, request as _, arg) };
    // SAFETY: As above.
    let failed = unsafe { *errno };
    // SAFETY: As above.
    unsafe { *errno = saved };
    u32::try_from(ret).map_err(|_| Errno(failed))
}

/// Describes the device.
///
/// # Errors
///
/// `ENODEV` once the device is gone.
pub fn info(fd: RawFd) -> Result<Info, Errno> {
    let mut info = Info::default();
    // SAFETY: INFO writes an `Info`; `info` is one, and outlives the call.
    unsafe { ioctl(fd, abi::IOC_INFO, (&raw mut info).cast()) }?;
    Ok(info)
}

/// Tells the module the geometry; replaces an earlier one in a single step.
///
/// # Errors
///
/// `EPERM` without CAP_SYS_ADMIN, `EBADF` if opened for reading only, `EINVAL` if any part lies
/// outside BAR2, `ENODEV`.
pub fn bind(fd: RawFd, geometry: &Bind) -> Result<(), Errno> {
    let mut arg = *geometry;
    // SAFETY: BIND reads a `Bind`; `arg` is one, and outlives the call.
    unsafe { ioctl(fd, abi::IOC_BIND, (&raw mut arg).cast()) }.map(drop)
}

/// Makes the module forget the geometry; without one this does nothing.
///
/// # Errors
///
/// `EPERM`, `EBADF`, `ENODEV` as for [`bind`].
pub fn unbind(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: UNBIND has no argument.
    unsafe { ioctl(fd, abi::IOC_UNBIND, std::ptr::null_mut()) }.map(drop)
}

/// Sleeps while the 32-bit word at `off` holds `expected`, until woken.
///
/// `deadline` is an absolute time of CLOCK_MONOTONIC, seconds and nanoseconds.
///
/// # Errors
///
/// `EAGAIN` if the word holds something else, `ETIMEDOUT`, `EINTR` on any signal (with SA_RESTART
/// too), `EINVAL` for a bad offset or time, `ENODEV` once the device is gone.
pub fn wait(fd: RawFd, off: u64, expected: u32, deadline: Option<(i64, i64)>) -> Result<(), Errno> {
    let (flags, (sec, nsec)) = match deadline {
        Some(time) => (abi::WAIT_DEADLINE, time),
        None => (0, (0, 0)),
    };
    let mut arg = Wait { off, expected, flags, sec, nsec };
    // SAFETY: WAIT reads a `Wait`; `arg` is one, and outlives the call.
    unsafe { ioctl(fd, abi::IOC_WAIT, (&raw mut arg).cast()) }.map(drop)
}

/// Wakes up to `count` sleepers of this kernel on the word at `off`, first come first served;
/// returns how many there were.
///
/// # Errors
///
/// `EBADF` if opened for reading only, `EINVAL` for a bad offset, `ENODEV`.
pub fn wake(fd: RawFd, off: u64, count: u32) -> Result<u32, Errno> {
    let mut arg = Wake { off, count, pad: 0 };
    // SAFETY: WAKE reads a `Wake`; `arg` is one, and outlives the call.
    unsafe { ioctl(fd, abi::IOC_WAKE, (&raw mut arg).cast()) }
}

/// Rings `vector` of the peer with ivshmem id `peer`; one that does not exist is ignored.
///
/// Sleeps when this open file has rung more than 50,000 times a second.
///
/// # Errors
///
/// `EINTR` if a signal ended that sleep (nothing was rung then), `EBADF` if opened for reading
/// only, `EINVAL` for an id above 65535 or a vector above 255, `ENODEV`.
pub fn ring(fd: RawFd, peer: u32, vector: u32) -> Result<(), Errno> {
    let mut arg = Ring { peer, vector };
    // SAFETY: RING reads a `Ring`; `arg` is one, and outlives the call.
    unsafe { ioctl(fd, abi::IOC_RING, (&raw mut arg).cast()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn wrong_descriptors_are_errors_and_errno_is_untouched() {
        // SAFETY: The function has no preconditions.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: This thread's own error number.
        unsafe { *errno = 123 };
        assert_eq!(info(-1), Err(Errno(libc::EBADF)));
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let fd = null.as_raw_fd();
        assert_eq!(info(fd), Err(Errno(libc::ENOTTY)));
        assert_eq!(bind(fd, &Bind::default()), Err(Errno(libc::ENOTTY)));
        assert_eq!(unbind(fd), Err(Errno(libc::ENOTTY)));
        assert_eq!(wait(fd, 0, 0, None), Err(Errno(libc::ENOTTY)));
        assert_eq!(wait(fd, 0, 0, Some((1, 2))), Err(Errno(libc::ENOTTY)));
        assert_eq!(wake(fd, 0, 1), Err(Errno(libc::ENOTTY)));
        assert_eq!(ring(fd, 0, 1), Err(Errno(libc::ENOTTY)));
        // SAFETY: As above.
        assert_eq!(unsafe { *errno }, 123);
    }
}
