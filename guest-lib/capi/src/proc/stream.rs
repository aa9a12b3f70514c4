//! `fopen`, `freopen`, `fflush` and `fclose`.

use super::{open_ours, path, real, writers};
use crate::{global, memory};
use libc::{FILE, c_char, c_int};
use std::ptr::null_mut;

/// The flags that `fopen` derives from its mode.
///
/// # Safety
/// `mode` is a string.
unsafe fn flags(mode: *const c_char) -> c_int {
    // SAFETY: as the caller promises.
    let mode = unsafe { std::ffi::CStr::from_ptr(mode) }.to_bytes();
    let has = |b| mode.iter().take_while(|m| **m != b',').any(|m| *m == b);
    let access = match mode.first() {
        _ if has(b'+') => libc::O_RDWR,
        Some(b'r') => libc::O_RDONLY,
        _ => libc::O_WRONLY,
    };
    access | if has(b'e') { libc::O_CLOEXEC } else { 0 }
}

/// A descriptor of ours for `fopen`'s arguments.
///
/// # Safety
/// Both are null, near it, or strings.
unsafe fn open(path: *const c_char, mode: *const c_char) -> Option<c_int> {
    // SAFETY: as the caller promises.
    let file = unsafe { path::file(libc::AT_FDCWD, path) }?;
    if memory::bad(mode) {
        return None;
    }
    // SAFETY: as the caller promises.
    open_ours(file, unsafe { flags(mode) })
}

fn close(fd: c_int) {
    let before = global::errno();
    let _ = writers::closing(fd);
    // SAFETY: ours, and given to nobody.
    unsafe { real::close(fd) };
    global::set_errno(before);
}

macro_rules! streams {
    ($($open:ident $reopen:ident;)*) => {$(
        #[doc = concat!("`", stringify!($open), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $open(
            path: *const c_char,
            mode: *const c_char,
        ) -> *mut FILE {
            // SAFETY: the caller's strings.
            match unsafe { open(path, mode) } {
                // SAFETY: as the caller promises.
                None => unsafe { real::$open(path, mode) },
                Some(-1) => null_mut(),
                Some(fd) => {
                    // SAFETY: a descriptor that is open, and the caller's string.
                    let stream = unsafe { libc::fdopen(fd, mode) };
                    if stream.is_null() {
                        close(fd);
                    }
                    stream
                }
            }
        }

        #[doc = concat!("`", stringify!($reopen), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $reopen(
            path: *const c_char,
            mode: *const c_char,
            stream: *mut FILE,
        ) -> *mut FILE {
            if writers::any() {
                // SAFETY: the caller's stream.
                let _ = unsafe { flushed(stream, writers::closing) };
            }
            // SAFETY: the caller's strings.
            match unsafe { open(path, mode) } {
                // SAFETY: as the caller promises.
                None => unsafe { real::$reopen(path, mode, stream) },
                Some(fd) => {
                    // Where ours could not be opened this leads nowhere, and the stream is closed.
                    let errno = global::errno();
                    let ours = format!("/proc/self/fd/{fd}\0");
                    // SAFETY: a string with its end, and the caller's.
                    let stream = unsafe { real::$reopen(ours.as_ptr().cast(), mode, stream) };
                    if fd == -1 {
                        global::set_errno(errno);
                        return null_mut();
                    }
                    if !stream.is_null() {
                        // SAFETY: the stream just made. (What is not written to has no duplicates.)
                        writers::duplicated(fd, unsafe { libc::fileno(stream) });
                    }
                    close(fd);
                    stream
                }
            }
        }
    )*};
}

streams! {
    fopen freopen;
    fopen64 freopen64;
}

/// Empties a stream's buffer into its descriptor, and has `settle` take what was written to that.
/// What the stream then says of errors is as if the write had failed.
///
/// # Safety
/// A stream, open.
unsafe fn flushed(
    stream: *mut FILE,
    settle: impl FnOnce(c_int) -> Result<(), ()>,
) -> Result<(), ()> {
    // SAFETY: as the caller promises.
    let rc = unsafe { real::fflush(stream) };
    let errno = global::errno();
    // SAFETY: as the caller promises.
    let fd = unsafe { libc::fileno(stream) };
    // A stream without a descriptor says so.
    global::set_errno(errno);
    if settle(fd).is_err() {
        /// `_IO_ERR_SEEN`, which programs test without a call.
        const ERROR: c_int = 0x20;
        // SAFETY: a stream begins with its flags.
        unsafe { *stream.cast::<c_int>() |= ERROR };
        return Err(());
    }
    if rc == 0 { Ok(()) } else { Err(()) }
}

/// `fflush`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fflush(stream: *mut FILE) -> c_int {
    if !writers::any() {
        // SAFETY: as the caller promises.
        return unsafe { real::fflush(stream) };
    }
    if stream.is_null() {
        // SAFETY: all streams.
        let rc = unsafe { real::fflush(stream) };
        writers::settle_all();
        return rc;
    }
    // SAFETY: the caller's stream.
    match unsafe { flushed(stream, writers::settled) } {
        Ok(()) => 0,
        Err(()) => libc::EOF,
    }
}

/// `fclose`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fclose(stream: *mut FILE) -> c_int {
    if !writers::any() || stream.is_null() {
        // SAFETY: as the caller promises.
        return unsafe { real::fclose(stream) };
    }
    // SAFETY: the caller's stream.
    let settled = unsafe { flushed(stream, writers::closing) };
    let errno = global::errno();
    // SAFETY: as the caller promises.
    let rc = unsafe { real::fclose(stream) };
    if settled.is_err() {
        global::set_errno(errno);
        return libc::EOF;
    }
    rc
}
