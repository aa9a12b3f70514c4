//! The caller's memory, as system calls treat it: where a pointer leads nowhere, EFAULT.
//!
//! It is touched by the few instructions of `copy` alone, and never while something of the region
//! is locked. `fault` catches what goes wrong there, once a library that stands before a program's
//! system calls has asked for it ([`crate::Signals::guard`]).
//!
//! A thread that blocks SIGSEGV would be killed by the kernel instead, so each knows whether it
//! does: asked once, and again after whatever may have changed its mask (`mask_changed`). One
//! that does unblocks it around the copy.

pub(crate) mod copy;
pub(crate) mod fault;

use crate::error::Result;
use crate::interrupt;
use crate::mapping::Mapping;
use crate::sys;
use copy::OPEN;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;
use vshmem_core::Offset;
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Errno, msg};

/// Signals that a bad address raises, as a mask.
const RAISED: u64 = 1 << (libc::SIGSEGV - 1) | 1 << (libc::SIGBUS - 1);
/// What a thread knows of its mask, besides [`OPEN`].
const UNKNOWN: u32 = 0;
const BLOCKED: u32 = 2;

/// Tells that the calling thread may have another signal mask now.
#[inline]
pub(crate) fn mask_changed() {
    // Relaxed: this thread's own.
    interrupt::mask().store(UNKNOWN, Ordering::Relaxed);
}

/// Runs `f`, which copies, with the signals of a bad address let through.
fn open<T>(f: impl FnOnce() -> T) -> T {
    let known = interrupt::mask();
    if known.load(Ordering::Relaxed) == UNKNOWN {
        let blocked = sys::signal_mask() & RAISED != 0;
        known.store(if blocked { BLOCKED } else { OPEN }, Ordering::Relaxed);
    }
    if known.load(Ordering::Relaxed) != BLOCKED {
        return f();
    }
    let before = sys::unblock(RAISED);
    let done = f();
    sys::set_signal_mask(before);
    done
}

fn whole(left: usize) -> vshmem_sysv::Result<()> {
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT.into()) }
}

/// Copies `n` bytes from the caller's memory at `from`.
///
/// # Errors
/// `EFAULT`; some may have been copied.
///
/// # Safety
/// There is room for `n` bytes at `to`.
pub unsafe fn read(to: *mut u8, from: usize, n: usize) -> Result<()> {
    // SAFETY: as the caller promises; a bad `from` is found out.
    let left = open(|| unsafe { copy::vshmem_copy(to, from as *const u8, n) });
    Ok(whole(left)?)
}

/// Copies `n` bytes into the caller's memory at `to`.
///
/// # Errors
/// `EFAULT`; some may have been copied.
///
/// # Safety
/// `from` leads to `n` bytes. The program gave `to` to be written.
pub unsafe fn write(to: usize, from: *const u8, n: usize) -> Result<()> {
    // SAFETY: as the caller promises; a bad `to` is found out.
    let left = open(|| unsafe { copy::vshmem_copy(to as *mut u8, from, n) });
    Ok(whole(left)?)
}

/// A value from the caller's memory.
///
/// # Errors
/// `EFAULT`.
///
/// # Safety
/// Any bytes are a `T`.
pub unsafe fn get<T: Copy>(from: usize) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: room for a `T`.
    unsafe { read(value.as_mut_ptr().cast(), from, size_of::<T>()) }?;
    // SAFETY: filled, with what the caller promises to be one.
    Ok(unsafe { value.assume_init() })
}

/// Puts a value into the caller's memory.
///
/// # Errors
/// `EFAULT`; some of it may be there.
///
/// # Safety
/// A `T` has no padding. The program gave `to` to be written.
pub unsafe fn put<T: Copy>(to: usize, value: &T) -> Result<()> {
    // SAFETY: a whole `T`; the rest as the caller promises.
    unsafe { write(to, std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// One `struct sembuf`, the cheap way; `None` where it takes [`get`] to say why.
#[inline]
#[must_use]
pub fn fetch_operation(from: usize) -> Option<SemBuf> {
    let word = copy::vshmem_fetch(from as *const u8);
    let [num, op, flg] = [word, word >> 16, word >> 32].map(|w| w as u16);
    (word >= 0).then_some(SemBuf { num, op: op.cast_signed(), flg: flg.cast_signed() })
}

/// The text of a message, in the caller's memory.
#[derive(Clone, Copy, Debug)]
pub struct UserText {
    at: usize,
    len: usize,
}

impl UserText {
    /// `len` bytes at `at`.
    #[must_use]
    pub const fn new(at: usize, len: usize) -> Self {
        Self { at, len }
    }
}

impl msg::Text<Mapping> for UserText {
    fn len(&self) -> usize {
        self.len
    }

    fn put(&self, mem: &Mapping, to: Offset) -> vshmem_sysv::Result<()> {
        let to = mem.bytes(to, self.len)?;
        let from = self.at as *const u8;
        // SAFETY: bytes of the region, of which nobody holds a reference; a bad `from` is found out.
        whole(open(|| unsafe { copy::vshmem_copy(to.as_ptr(), from, self.len) }))
    }

    fn probe(&self) -> vshmem_sysv::Result<()> {
        const SOME: usize = 64;
        let mut some = [0; SOME];
        for at in (0..self.len).step_by(SOME) {
            let n = SOME.min(self.len - at);
            let (to, from) = (some.as_mut_ptr(), self.at.wrapping_add(at) as *const u8);
            // SAFETY: `n` bytes fit; a bad `from` is found out.
            whole(open(|| unsafe { copy::vshmem_copy(to, from, n) }))?;
        }
        Ok(())
    }
}

/// Room for a message, in the caller's memory: its type, then its text.
#[derive(Debug)]
pub struct UserRoom {
    at: usize,
    len: usize,
}

impl UserRoom {
    /// For a type and `len` bytes of text at `at`.
    ///
    /// # Safety
    /// The program gave it to be written.
    #[must_use]
    pub const unsafe fn new(at: usize, len: usize) -> Self {
        Self { at, len }
    }

    /// # Safety
    /// There are `n` bytes at `from`.
    unsafe fn fill(&mut self, mtype: i64, from: *const u8, n: usize) -> vshmem_sysv::Result<()> {
        let word = size_of::<i64>();
        let (to, mtype) = (self.at as *mut u8, (&raw const mtype).cast());
        // SAFETY: as `new` was promised; a bad address is found out.
        whole(open(|| unsafe { copy::vshmem_copy(to, mtype, word) }))?;
        let to = self.at.wrapping_add(word) as *mut u8;
        // SAFETY: as above, and as the caller promises.
        whole(open(|| unsafe { copy::vshmem_copy(to, from, n) }))
    }
}

impl msg::Room<Mapping> for UserRoom {
    fn len(&self) -> usize {
        self.len
    }

    fn take(
        &mut self,
        mtype: i64,
        n: usize,
        mem: &Mapping,
        from: Offset,
    ) -> vshmem_sysv::Result<()> {
        let from = mem.bytes(from, n)?;
        // SAFETY: bytes of the region, of which nobody holds a reference.
        unsafe { self.fill(mtype, from.as_ptr(), n) }
    }

    fn give(&mut self, mtype: i64, text: &[u8]) -> vshmem_sysv::Result<()> {
        // SAFETY: the slice's bytes.
        unsafe { self.fill(mtype, text.as_ptr(), text.len()) }
    }
}
