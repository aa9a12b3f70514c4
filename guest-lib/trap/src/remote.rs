//! The caller's memory.

use crate::failed::{Failed, Result};
use std::io;
use std::mem::MaybeUninit;

/// Another process's memory, by one of its threads.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    /// The thread.
    pub tid: i32,
}

impl Remote {
    /// Copies bytes out of it.
    ///
    /// # Errors
    /// EFAULT, or that this may not be done at all.
    pub fn read_bytes(self, at: u64, to: &mut [u8]) -> Result<()> {
        let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: to.len() };
        // SAFETY: `local` is writable, and of its own length; the other is not ours.
        let n = unsafe {
            libc::process_vm_readv(self.tid, &raw const local, 1, &raw const remote, 1, 0)
        };
        copied(n, to.len())
    }

    /// Copies bytes into it.
    ///
    /// # Errors
    /// As [`Remote::read_bytes`].
    pub fn write_bytes(self, at: u64, from: &[u8]) -> Result<()> {
        let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: from.len() };
        // SAFETY: `local` is readable, and only read; the other is not ours.
        let n = unsafe {
            libc::process_vm_writev(self.tid, &raw const local, 1, &raw const remote, 1, 0)
        };
        copied(n, from.len())
    }

    /// Reads a structure.
    ///
    /// # Errors
    /// As [`Remote::read_bytes`].
    pub fn get<T: Plain>(self, at: u64) -> Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: zeroed, so initialised; its bytes are borrowed mutably and alone.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>())
        };
        self.read_bytes(at, bytes)?;
        // SAFETY: any bytes are a `Plain`.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a structure.
    ///
    /// # Errors
    /// As [`Remote::write_bytes`].
    pub fn put<T: Plain>(self, at: u64, value: &T) -> Result<()> {
        let from = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: a `Plain` has no padding, so all its bytes are initialised.
        self.write_bytes(at, unsafe { std::slice::from_raw_parts(from, size_of::<T>()) })
    }
}

fn copied(n: isize, wanted: usize) -> Result<()> {
    if usize::try_from(n) == Ok(wanted) {
        return Ok(());
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EPERM) if n < 0 => Err(Failed::NotOurs),
        Some(libc::ESRCH) if n < 0 => Err(Failed::Gone),
        // Also a part: what follows it is not there.
        _ => Err(Failed::Errno(libc::EFAULT)),
    }
}

/// Structures of numbers.
///
/// # Safety
/// Without padding, and any bytes are a value.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),*) => {$(
        // SAFETY: numbers, laid out without gaps.
        unsafe impl Plain for $type {}
    )*};
}

use vshmem::abi::{MsgInfo, MsqidDs, SemInfo, Sembuf, SemidDs, ShmLimits, ShmUsage, ShmidDs};
plain!(
    u16, i64, [i64; 2], Sembuf, MsgInfo, MsqidDs, SemInfo, SemidDs, ShmLimits, ShmUsage, ShmidDs
);
