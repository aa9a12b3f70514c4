//! `/proc/sysvipc/*` and the files of `/proc/sys/kernel` that set limits: what a program reads
//! there is said of its region, what it writes there sets the region's limits. (Of several regions
//! the one for keys that no rule names, as for the `*_INFO` commands.)
//!
//! A descriptor of such a file leads to a memfd with the text as it was when it was opened. What is
//! written with `write` is taken at once, errors and all. What the C library writes by itself, on
//! behalf of `printf` or a shell's `echo`, no preload sees: it lands in the memfd, and is taken with
//! the next `fflush`, `fclose`, `close`, `dup2` over the descriptor, or at the end of the program
//! ([`writers`]).
//!
//! Every file that a program opens passes here, and every `write` and `close`: others' cost a
//! comparison of the path's beginning, or one load of a counter that is zero.

mod descriptor;
mod make;
mod path;
mod real;
mod stream;
mod writers;

use crate::global;
use libc::{c_char, c_int, mode_t};
use vshmem::sysv::proc::File;

pub use writers::{finish, settle_all};

/// Opens `file` as the region shows it; `None`: the kernel shall, as the program has no region or
/// wants something that makes no difference.
fn open_ours(file: File, flags: c_int) -> Option<c_int> {
    const KERNELS: c_int = libc::O_PATH | libc::O_DIRECTORY;
    const NEW: c_int = libc::O_CREAT | libc::O_EXCL;
    if flags & KERNELS != 0 || flags & NEW == NEW {
        return None;
    }
    let session = global::rest(file.kind())?;
    Some(global::int(|| make::descriptor(session?, file, flags)))
}

/// What `path` below `dir` opens, if that is ours.
///
/// # Safety
/// `path` is null, near it, or a string.
#[inline]
unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int) -> Option<c_int> {
    // SAFETY: as the caller promises.
    open_ours(unsafe { path::file(dir, path) }?, flags)
}

/// Takes the C library's functions that open files. Where the C prototype ends in `...`, the mode
/// comes in the same register as a fixed third argument would.
macro_rules! opens {
    ($($name:ident($dir:expr, $path:ident, $flags:ident; $($arg:ident: $type:ty),*);)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($arg: $type),*) -> c_int {
            // SAFETY: the caller's string.
            match unsafe { open_at($dir, $path, $flags) } {
                Some(fd) => fd,
                // SAFETY: as the caller promises.
                None => unsafe { real::$name($($arg),*) },
            }
        }
    )*};
}

opens! {
    open(libc::AT_FDCWD, path, flags; path: *const c_char, flags: c_int, mode: mode_t);
    open64(libc::AT_FDCWD, path, flags; path: *const c_char, flags: c_int, mode: mode_t);
    __open_2(libc::AT_FDCWD, path, flags; path: *const c_char, flags: c_int);
    __open64_2(libc::AT_FDCWD, path, flags; path: *const c_char, flags: c_int);
    openat(dir, path, flags; dir: c_int, path: *const c_char, flags: c_int, mode: mode_t);
    openat64(dir, path, flags; dir: c_int, path: *const c_char, flags: c_int, mode: mode_t);
    __openat_2(dir, path, flags; dir: c_int, path: *const c_char, flags: c_int);
    __openat64_2(dir, path, flags; dir: c_int, path: *const c_char, flags: c_int);
}

macro_rules! creates {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(path: *const c_char, mode: mode_t) -> c_int {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            // SAFETY: the caller's string.
            match unsafe { open_at(libc::AT_FDCWD, path, flags) } {
                Some(fd) => fd,
                // SAFETY: as the caller promises.
                None => unsafe { real::$name(path, mode) },
            }
        }
    )*};
}

creates! { creat creat64 }
