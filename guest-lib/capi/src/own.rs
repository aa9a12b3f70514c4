//! The C API under names of its own, for programs that want both worlds: `include/vshmem.h`.

use crate::abi::{MsqidDs, Sembuf, ShmidDs};
use crate::global;
use libc::{c_char, c_int, c_long, c_ulong, c_void, key_t, size_t, ssize_t, timespec};
use vshmem::{Session, Signals, socket_from_environment, socket_of};

/// Attaches the process to a region; see the header.
///
/// # Safety
/// `region` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vshmem_attach(region: *const c_char) -> c_int {
    let name = if region.is_null() {
        None
    } else {
        // SAFETY: the caller's string.
        match unsafe { std::ffi::CStr::from_ptr(region) }.to_str() {
            Ok(name) => Some(name),
            Err(_) => {
                global::set_errno(libc::EINVAL);
                return -1;
            }
        }
    };
    let environment = || socket_from_environment().filter(|_| name.is_none());
    let socket = environment().unwrap_or_else(|| socket_of(name));
    Signals::guard();
    let Ok(session) = global::answer(|| Session::attach_to(&socket)) else { return -1 };
    match global::answer(|| global::adopt(session)) {
        Ok(true) => 0,
        Ok(false) => {
            global::set_errno(libc::EALREADY);
            -1
        }
        Err(()) => -1,
    }
}

macro_rules! also {
    ($($own:ident = $name:path, ($($arg:ident: $type:ty),*) -> $ret:ty;)*) => {$(
        #[doc = concat!("`", stringify!($own), "`: see the header.")]
        ///
        /// # Safety
        /// As the call it is named after.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $own($($arg: $type),*) -> $ret {
            #[allow(unused_unsafe, reason = "some of them are safe")]
            // SAFETY: as the caller promises.
            unsafe { $name($($arg),*) }
        }
    )*};
}

also! {
    vshmem_shmget = crate::shm::shmget, (key: key_t, size: size_t, flags: c_int) -> c_int;
    vshmem_shmat = crate::shm::shmat, (id: c_int, at: *const c_void, flags: c_int) -> *mut c_void;
    vshmem_shmdt = crate::shm::shmdt, (at: *const c_void) -> c_int;
    vshmem_shmctl = crate::shm::shmctl, (id: c_int, cmd: c_int, arg: *mut ShmidDs) -> c_int;
    vshmem_semget = crate::sem::semget, (key: key_t, n: c_int, flags: c_int) -> c_int;
    vshmem_semop = crate::sem::semop, (id: c_int, ops: *const Sembuf, n: size_t) -> c_int;
    vshmem_semtimedop = crate::sem::semtimedop,
        (id: c_int, ops: *const Sembuf, n: size_t, limit: *const timespec) -> c_int;
    vshmem_semctl = crate::sem::semctl, (id: c_int, num: c_int, cmd: c_int, arg: c_ulong) -> c_int;
    vshmem_msgget = crate::msg::msgget, (key: key_t, flags: c_int) -> c_int;
    vshmem_msgsnd = crate::msg::msgsnd,
        (id: c_int, message: *const c_void, n: size_t, flags: c_int) -> c_int;
    vshmem_msgrcv = crate::msg::msgrcv,
        (id: c_int, message: *mut c_void, n: size_t, mtype: c_long, flags: c_int) -> ssize_t;
    vshmem_msgctl = crate::msg::msgctl, (id: c_int, cmd: c_int, arg: *mut MsqidDs) -> c_int;
    vshmem_ftok = crate::ftok::ftok, (path: *const c_char, letter: c_int) -> key_t;
}
