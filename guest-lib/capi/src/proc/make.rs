//! Making a descriptor that looks like one of a file in `/proc`.

use super::writers;
use libc::{c_int, c_long};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use vshmem::sysv::proc::File;
use vshmem::{Error, Result, Session};

/// What our memfds are called, before the path behind `/proc/`.
pub const NAME: &str = "vshmem:/proc/";
/// Out of the way of those that programs use.
const HIGH: c_int = 100;

fn check(rc: c_long) -> Result<c_int> {
    c_int::try_from(rc)
        .ok()
        .filter(|rc| *rc >= 0)
        .ok_or_else(|| Error::Segment(std::io::Error::last_os_error()))
}

/// A memfd with `text` in it, at a high number.
fn memfd(file: File, text: &str) -> Result<OwnedFd> {
    let name = format!("{NAME}{}\0", file.path());
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: a string with its end.
    let low = check(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })?;
    // SAFETY: just made, nobody else's.
    let low = unsafe { OwnedFd::from_raw_fd(low) };
    // SAFETY: no memory.
    let high = check(unsafe {
        libc::syscall(libc::SYS_fcntl, low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH)
    });
    let fd = match high {
        // SAFETY: just made.
        Ok(high) => unsafe { OwnedFd::from_raw_fd(high) },
        // The limit is lower.
        Err(_) => low,
    };
    fill(fd.as_raw_fd(), text)?;
    Ok(fd)
}

/// Makes `text` the contents of memfd `fd`, whatever its position is.
pub fn fill(fd: c_int, text: &str) -> Result<()> {
    // SAFETY: no memory.
    check(unsafe { libc::syscall(libc::SYS_ftruncate, fd, 0) })?;
    let mut done = 0;
    while let Some(rest) = text.get(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: the rest of the text.
        let n = unsafe { libc::syscall(libc::SYS_pwrite64, fd, rest.as_ptr(), rest.len(), done) };
        done += usize::try_from(check(n)?).unwrap_or(0);
    }
    Ok(())
}

/// Opens `file`: its text as it is now, or room for what will be written.
pub fn descriptor(session: &Session, file: File, flags: c_int) -> Result<c_int> {
    let access = flags & libc::O_ACCMODE;
    writers::settle_all();
    let text = session.call(|r, on, c| {
        if access != libc::O_RDONLY {
            file.writable(r, c)?;
        }
        if access == libc::O_WRONLY { Ok(String::new()) } else { file.show(r, on, c) }
    })?;
    let memfd = memfd(file, &text)?;
    if access == libc::O_RDONLY {
        let seals =
            libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        // SAFETY: no memory.
        check(unsafe {
            libc::syscall(libc::SYS_fcntl, memfd.as_raw_fd(), libc::F_ADD_SEALS, seals)
        })?;
    }
    // Opened again, it has the access asked for, a position of its own and the lowest number.
    let path = format!("/proc/self/fd/{}\0", memfd.as_raw_fd());
    let flags = flags & (libc::O_ACCMODE | libc::O_CLOEXEC | libc::O_NONBLOCK);
    // SAFETY: a string with its end.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) })?;
    if access != libc::O_RDONLY
        && let Err(e) = writers::add(fd, &text)
    {
        // SAFETY: just made, and given to nobody.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Err(e);
    }
    Ok(fd)
}
