//! `sigaction`, `signal` and its relatives.
//!
//! A call that waits must end when a handler runs ([`Signals`] says how): for that our own function
//! stands before the program's handlers once the program has made a call that may wait. Here the
//! program goes on setting and seeing its own.

use crate::next::next;
use libc::{c_int, sigaction as Disposition, sigset_t};
use vshmem::Signals;

/// `sigaction(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    signal: c_int,
    new: *const Disposition,
    old: *mut Disposition,
) -> c_int {
    let next = |new: *const Disposition, old: *mut Disposition| next!(sigaction(signal: c_int, new: *const Disposition, old: *mut Disposition) -> c_int);
    // SAFETY: as the caller promises.
    unsafe { Signals::action(signal, new, old, next) }
}

/// Takes functions that set a handler and return the one before.
macro_rules! sets_handler {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(signal: c_int, handler: isize) -> isize {
            let next = || {
                let of_libc = || next!($name(signal: c_int, handler: isize) -> isize);
                of_libc().cast_unsigned()
            };
            Signals::handler(signal, next).cast_signed()
        }
    )*};
}

// What a program's `signal` is called depends on the standard it was compiled for.
sets_handler! { signal sysv_signal __sysv_signal bsd_signal ssignal sigset }

/// Passes on what changes the calling thread's signal mask, and notes that it did.
macro_rules! changes_mask {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty;)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
            // Before, since a handler may run on the way out.
            Signals::mask_changed();
            let next = || next!($name($($arg: $type),*) -> $ret);
            let rc = next();
            Signals::mask_changed();
            rc
        }
    )*};
}

changes_mask! {
    pthread_sigmask(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int;
    sigprocmask(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int;
    sigblock(mask: c_int) -> c_int;
    sigsetmask(mask: c_int) -> c_int;
    sighold(signal: c_int) -> c_int;
    sigrelse(signal: c_int) -> c_int;
}
