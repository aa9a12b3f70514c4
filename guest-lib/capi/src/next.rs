//! The functions whose names this library has taken.

use libc::c_void;
use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The C library's own function of a name that this library has taken.
pub(crate) struct Next {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
}

impl Next {
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, at: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Its address; null where the C library has none.
    pub fn get(&self) -> *mut c_void {
        // Relaxed: an address of code; whoever sees it needs nothing else.
        let mut at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            // SAFETY: a string with its end.
            at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.at.store(at, Ordering::Relaxed);
        }
        at
    }
}

/// Calls the C library's function `$name`, or fails with ENOSYS.
macro_rules! next {
    ($name:ident($($arg:ident: $type:ty),*) -> $ret:ty) => {{
        static NEXT: $crate::next::Next = $crate::next::Next::new(
            match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name without zeros"),
            },
        );
        let next = NEXT.get();
        if next.is_null() {
            $crate::global::set_errno(libc::ENOSYS);
            return -1;
        }
        // SAFETY: the C library's function of this name has this type.
        let next: unsafe extern "C-unwind" fn($($type),*) -> $ret = unsafe { std::mem::transmute(next) };
        // SAFETY: the caller keeps the function's contract.
        unsafe { next($($arg),*) }
    }};
}
pub(crate) use next;
