//! The few system interfaces that no safe crate wraps.
#![allow(unsafe_code)]

use rustix::io::{Errno, Result};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `SO_PEERPIDFD` (Linux 6.5), which `libc` does not name yet.
const SO_PEERPIDFD: libc::c_int = 77;

fn check(ret: libc::c_int) -> Result<libc::c_int> {
    if ret < 0 {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(code));
    }
    Ok(ret)
}

/// A pidfd of the process that connected `socket`.
///
/// # Errors
///
/// `ESRCH` when that process is gone; what the kernel says otherwise. On
/// kernels without `SO_PEERPIDFD` the process is opened by the pid that the
/// socket remembers, which could by then name another process: the caller
/// checks afterwards that the connection still stands.
pub fn peer_pidfd(socket: impl AsFd) -> Result<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `len` is the size of `fd`,
    // so the kernel writes inside it.
    let ret = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    match check(ret) {
        // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody
        // else knows of.
        Ok(_) if fd >= 0 => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Ok(_) | Err(Errno::NOPROTOOPT | Errno::INVAL) => {}
        Err(e) => return Err(e),
    }
    let cred = rustix::net::sockopt::socket_peercred(&socket)?;
    rustix::process::pidfd_open(cred.pid, rustix::process::PidfdFlags::empty())
}

/// Blocks `signals` in this thread and those it starts, and returns a
/// descriptor from which they are read.
///
/// # Errors
///
/// What `signalfd` says.
pub fn signal_fd(signals: &[libc::c_int]) -> Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is a live local; sigemptyset initialises all of it.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: `set` was initialised above; a bad number is only refused.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: `set` is initialised; a null old set is allowed.
    let code =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    if code != 0 {
        return Err(Errno::from_raw_os_error(code));
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd =
        check(unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: `fd` is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next pending signal of a descriptor from [`signal_fd`], and the pid of
/// the process that sent it (0 when the kernel or a terminal did).
pub fn read_signal(fd: impl AsFd) -> Option<(libc::c_int, u32)> {
    let mut buf = [0_u8; size_of::<libc::signalfd_siginfo>()];
    if rustix::io::read(fd, &mut buf) != Ok(buf.len()) {
        return None;
    }
    // `struct signalfd_siginfo` begins with ssi_signo, ssi_errno, ssi_code and
    // ssi_pid, of 32 bits each.
    let word = |at: usize| u32::from_ne_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]]);
    Some((word(0).cast_signed(), word(12)))
}

/// Takes over descriptor `number`, which our caller says it left open for us;
/// programs we start will not have it.
///
/// # Errors
///
/// `EBADF` when it is not open.
///
/// # Safety
///
/// Nothing else in this process may own `number`.
pub unsafe fn inherited_fd(number: i32) -> Result<OwnedFd> {
    // SAFETY: fcntl with an integer argument touches no memory; a closed
    // number gives EBADF.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the caller promises that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor above the standard three, so that a process which
/// is to stay does not hold on to what its starter happened to have open.
///
/// # Safety
///
/// Nothing in this process may own a descriptor above 2.
pub unsafe fn close_inherited() {
    // SAFETY: the call takes three integers; the caller promises that no
    // owner is left with a closed descriptor. Best effort: the call is missing
    // before Linux 5.9.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}
