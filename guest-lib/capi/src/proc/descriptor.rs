//! `write`, `close`, and what makes duplicates.

use super::{real, writers};
use libc::{c_int, c_ulong, c_void, size_t, ssize_t};

/// `write`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn write(fd: c_int, from: *const c_void, n: size_t) -> ssize_t {
    if writers::any() {
        // SAFETY: as the caller promises.
        let done = unsafe { writers::write(fd, from, n) };
        if let Some(done) = done {
            return done;
        }
    }
    // SAFETY: as the caller promises.
    unsafe { real::write(fd, from, n) }
}

/// `close`. As of a file on a distant server, the last errors come with it.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn close(fd: c_int) -> c_int {
    let settled = if writers::any() { writers::closing(fd) } else { Ok(()) };
    let errno = crate::global::errno();
    // SAFETY: as the caller promises.
    let rc = unsafe { real::close(fd) };
    if settled.is_err() {
        crate::global::set_errno(errno);
        return -1;
    }
    rc
}

/// `dup`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup(fd: c_int) -> c_int {
    // SAFETY: as the caller promises.
    let to = unsafe { real::dup(fd) };
    if writers::any() {
        writers::duplicated(fd, to);
    }
    to
}

/// Before `to` becomes a duplicate of `fd`: errors of what it was are not told, as by the kernel.
fn replacing(fd: c_int, to: c_int) {
    if writers::any() && fd != to {
        let before = crate::global::errno();
        let _ = writers::closing(to);
        crate::global::set_errno(before);
    }
}

/// `dup2`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup2(fd: c_int, to: c_int) -> c_int {
    replacing(fd, to);
    // SAFETY: as the caller promises.
    let done = unsafe { real::dup2(fd, to) };
    if writers::any() {
        writers::duplicated(fd, done);
    }
    done
}

/// `dup3`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    replacing(fd, to);
    // SAFETY: as the caller promises.
    let done = unsafe { real::dup3(fd, to, flags) };
    if writers::any() {
        writers::duplicated(fd, done);
    }
    done
}

/// Takes `fcntl`, whose third argument, where there is one, fits a register.
macro_rules! controls {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
            // SAFETY: as the caller promises.
            let done = unsafe { real::$name(fd, command, arg) };
            if writers::any() && matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) {
                writers::duplicated(fd, done);
            }
            done
        }
    )*};
}

controls! { fcntl fcntl64 }
