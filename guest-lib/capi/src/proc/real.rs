//! The C library's own functions, found when the library is loaded: a child forked while another
//! thread held the linker's lock could not look for them any more.

use crate::next::Next;
use libc::{FILE, c_char, c_int, c_ulong, c_void, mode_t, size_t, ssize_t};
use std::ptr::null_mut;

macro_rules! real {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty, else $failed:expr;)*) => {
        #[allow(non_upper_case_globals, reason = "named as what they find")]
        mod at {
            use crate::next::Next;
            $(pub static $name: Next = Next::new(
                match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("a name without zeros"),
                },
            );)*
        }

        const ALL: &[&Next] = &[$(&at::$name),*];

        $(
            /// # Safety
            /// As the C library's.
            #[inline]
            pub unsafe fn $name($($arg: $type),*) -> $ret {
                let at = at::$name.get();
                if at.is_null() {
                    crate::global::set_errno(libc::ENOSYS);
                    return $failed;
                }
                type Real = unsafe extern "C-unwind" fn($($type),*) -> $ret;
                // SAFETY: the C library's function of this name has this type.
                let real: Real = unsafe { std::mem::transmute(at) };
                // SAFETY: as the caller promises.
                unsafe { real($($arg),*) }
            }
        )*
    };
}

real! {
    open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    __open_2(path: *const c_char, flags: c_int) -> c_int, else -1;
    __open64_2(path: *const c_char, flags: c_int) -> c_int, else -1;
    openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int, else -1;
    __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int, else -1;
    __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int, else -1;
    creat(path: *const c_char, mode: mode_t) -> c_int, else -1;
    creat64(path: *const c_char, mode: mode_t) -> c_int, else -1;
    close(fd: c_int) -> c_int, else -1;
    dup(fd: c_int) -> c_int, else -1;
    dup2(fd: c_int, to: c_int) -> c_int, else -1;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int, else -1;
    fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int, else -1;
    fcntl64(fd: c_int, command: c_int, arg: c_ulong) -> c_int, else -1;
    write(fd: c_int, from: *const c_void, n: size_t) -> ssize_t, else -1;
    fopen(path: *const c_char, mode: *const c_char) -> *mut FILE, else null_mut();
    fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE, else null_mut();
    freopen(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE,
        else null_mut();
    freopen64(path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE,
        else null_mut();
    fclose(stream: *mut FILE) -> c_int, else libc::EOF;
    fflush(stream: *mut FILE) -> c_int, else libc::EOF;
}

extern "C" fn find() {
    for next in ALL {
        next.get();
    }
    super::writers::inherit();
}

#[used]
#[unsafe(link_section = ".init_array")]
static FIND: extern "C" fn() = find;
