//! The C library's own functions of these names.
//!
//! Those of mutexes that every program calls all the time are linked under the second names that the
//! C library gives them: no look-up, which might itself take a mutex, and no variable to load. Of the
//! condition variables' functions it has two versions; a program of this century means the newer.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Where a function of the C library is; looked up once.
pub struct Theirs {
    name: &'static CStr,
    version: Option<&'static CStr>,
    at: AtomicPtr<libc::c_void>,
}

impl Theirs {
    pub const fn new(name: &'static CStr, version: Option<&'static CStr>) -> Self {
        Self { name, version, at: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Its address; null where there is none.
    #[inline]
    pub fn get(&self) -> *mut libc::c_void {
        // Relaxed: an address of code; whoever sees it needs nothing else.
        let at = self.at.load(Ordering::Relaxed);
        if at.is_null() { self.look_up() } else { at }
    }

    #[cold]
    fn look_up(&self) -> *mut libc::c_void {
        let next = libc::RTLD_NEXT;
        let mut at = std::ptr::null_mut();
        if let Some(version) = self.version {
            // SAFETY: two strings with their ends.
            at = unsafe { libc::dlvsym(next, self.name.as_ptr(), version.as_ptr()) };
        }
        if at.is_null() {
            // SAFETY: a string with its end.
            at = unsafe { libc::dlsym(next, self.name.as_ptr()) };
        }
        self.at.store(at, Ordering::Relaxed);
        at
    }
}

/// The version that has had the present condition variables since 2003; other machines' C libraries
/// began later and have but one.
pub const COND: Option<&CStr> =
    if cfg!(target_arch = "x86_64") { Some(c"GLIBC_2.3.2") } else { None };

/// Calls the C library's function `$name`; ENOSYS where it has none. `$version` says which, if there
/// are several.
macro_rules! theirs {
    ($name:ident($($arg:ident: $type:ty),*)) => {
        theirs!($name[None]($($arg: $type),*))
    };
    ($name:ident[$version:expr]($($arg:ident: $type:ty),*)) => {{
        static THEIRS: $crate::posix::theirs::Theirs = $crate::posix::theirs::Theirs::new(
            match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name without zeros"),
            },
            $version,
        );
        let theirs = THEIRS.get();
        if theirs.is_null() {
            return libc::ENOSYS;
        }
        type Function = unsafe extern "C-unwind" fn($($type),*) -> libc::c_int;
        // SAFETY: the C library's function of this name has this type.
        let theirs = unsafe { std::mem::transmute::<*mut libc::c_void, Function>(theirs) };
        // SAFETY: the caller keeps the function's contract.
        unsafe { theirs($($arg),*) }
    }};
}
pub(crate) use theirs;
