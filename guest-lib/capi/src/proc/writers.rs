//! The descriptors through which limits may be written.
//!
//! A table by number, as programs know them: duplicates are entered too. A number that leads
//! elsewhere by now (closed by a system call that nobody saw) is recognised by what procfs says of
//! it, and dropped. A child that shares its parent's memory leaves the table alone.

use super::{make, path, real};
use crate::global;
use libc::{c_int, c_void, size_t, ssize_t};
use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use vshmem::sysv::proc::File;
use vshmem::{Error, Result};

/// More than a program has open of these.
const SLOTS: usize = 32;
const NONE: c_int = -1;
/// Bytes of one write that the kernel looks at.
const MOST: usize = 4096;

struct Slot {
    fd: AtomicI32,
    /// The memfd's inode: duplicates have the same.
    inode: AtomicU64,
    /// Hash of what the memfd held when it was settled last.
    clean: AtomicU64,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { fd: AtomicI32::new(NONE), inode: NUL, clean: NUL } }; SLOTS];
#[allow(clippy::declare_interior_mutable_const, reason = "a beginning")]
const NUL: AtomicU64 = AtomicU64::new(0);
/// Slots in use.
static USED: AtomicU32 = AtomicU32::new(0);
/// The process whose table it is.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Whether there may be any. (Relaxed throughout: a descriptor is passed on between threads by
/// means that order this too.)
#[inline]
pub fn any() -> bool {
    USED.load(Ordering::Relaxed) != 0
}

extern "C" fn forked() {
    OWNER.store(std::process::id(), Ordering::Relaxed);
}

fn hash(text: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    text.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn failed(errno: c_int) -> Error {
    Error::Segment(io::Error::from_raw_os_error(errno))
}

/// Enters `fd`, a memfd that holds `text`.
///
/// # Errors
/// EMFILE.
pub fn add(fd: c_int, text: &str) -> Result<()> {
    enter(fd, hash(text.as_bytes()))
}

fn enter(fd: c_int, clean: u64) -> Result<()> {
    if OWNER.swap(std::process::id(), Ordering::Relaxed) == 0 {
        // Once: the owner is never 0 again.
        // SAFETY: a function without arguments that only stores.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    }
    for slot in &TABLE {
        let taken = slot.fd.compare_exchange(NONE, fd, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            slot.inode.store(inode(fd), Ordering::Relaxed);
            slot.clean.store(clean, Ordering::Relaxed);
            USED.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
    }
    Err(failed(libc::EMFILE))
}

fn inode(fd: c_int) -> u64 {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: room for the result; a bad descriptor is an error.
    unsafe { libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) };
    // SAFETY: zeroed, then filled by the call.
    unsafe { stat.assume_init() }.st_ino
}

fn find(fd: c_int) -> Option<&'static Slot> {
    let ours = || OWNER.load(Ordering::Relaxed) == std::process::id();
    TABLE.iter().find(|s| fd >= 0 && s.fd.load(Ordering::Relaxed) == fd && ours())
}

fn remove(slot: &Slot) {
    if slot.fd.swap(NONE, Ordering::Relaxed) != NONE {
        USED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The file of ours that a descriptor leads to.
fn file(fd: c_int) -> Option<File> {
    let mut room = [0; 256];
    let link = path::read_link(&format!("/proc/self/fd/{fd}\0"), &mut room)?;
    let name = link.strip_prefix(b"/memfd:")?.strip_prefix(make::NAME.as_bytes())?;
    File::at(name.strip_suffix(b" (deleted)")?)
}

/// The slot of `fd` and the file it leads to.
fn known(fd: c_int) -> Option<(&'static Slot, File)> {
    let slot = find(fd)?;
    let file = file(fd);
    if file.is_none() {
        remove(slot);
    }
    Some((slot, file?))
}

fn position(fd: c_int, by: i64) -> i64 {
    // SAFETY: no memory.
    unsafe { libc::syscall(libc::SYS_lseek, fd, by, libc::SEEK_CUR) }
}

/// What the memfd behind `fd`, which may be for writing only, holds.
fn contents(fd: c_int) -> Vec<u8> {
    let mut text = vec![0; MOST];
    let path = format!("/proc/self/fd/{fd}\0");
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a string with its end.
    let again = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) };
    // SAFETY: as many writable bytes; a bad descriptor is an error.
    let n = unsafe { libc::syscall(libc::SYS_read, again, text.as_mut_ptr(), MOST) };
    // SAFETY: made above, or an error.
    unsafe { libc::syscall(libc::SYS_close, again) };
    text.truncate(usize::try_from(n).unwrap_or(0));
    text
}

fn store(file: File, text: &[u8]) -> Result<usize> {
    let session = global::rest(file.kind()).ok_or_else(|| failed(libc::EIO))?;
    session?.call(|r, on, c| file.store(r, on, c, text))
}

/// Has the memfd hold what its file says now; nothing, where it cannot be read.
fn renew(slot: &Slot, fd: c_int, file: File) -> Result<()> {
    // SAFETY: no memory.
    let flags = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL) } as c_int;
    let text = match global::rest(file.kind()) {
        Some(s) if flags & libc::O_ACCMODE == libc::O_RDWR => {
            s?.call(|r, on, c| file.show(r, on, c))?
        }
        _ => String::new(),
    };
    make::fill(fd, &text)?;
    let inode = slot.inode.load(Ordering::Relaxed);
    for same in TABLE.iter().filter(|s| s.inode.load(Ordering::Relaxed) == inode) {
        same.clean.store(hash(text.as_bytes()), Ordering::Relaxed);
    }
    Ok(())
}

/// Takes what was written to `fd` unseen.
fn settle(slot: &Slot, fd: c_int, file: File) -> Result<()> {
    let text = contents(fd);
    if hash(&text) == slot.clean.load(Ordering::Relaxed) {
        return Ok(());
    }
    let stored = match text.first() {
        // Written behind the beginning, which the kernel passes over.
        None | Some(0) => Ok(0),
        Some(_) => {
            let written = usize::try_from(position(fd, 0)).unwrap_or(0);
            let end = if written == 0 { text.len() } else { written.min(text.len()) };
            store(file, &text[..end])
        }
    };
    renew(slot, fd, file)?;
    stored.map(drop)
}

/// Takes what was written to `fd`, if it is one of ours, in an answer to the program.
pub fn settled(fd: c_int) -> std::result::Result<(), ()> {
    let Some((slot, file)) = known(fd) else { return Ok(()) };
    global::answer(|| settle(slot, fd, file))
}

/// As [`settled`], and forgets the descriptor, which is about to be closed.
pub fn closing(fd: c_int) -> std::result::Result<(), ()> {
    let done = settled(fd);
    if let Some(slot) = find(fd) {
        remove(slot);
    }
    done
}

/// Takes what was written to any of them. Nobody is there to be told of errors.
pub fn settle_all() {
    if !any() {
        return;
    }
    let before = global::errno();
    for slot in &TABLE {
        let fd = slot.fd.load(Ordering::Relaxed);
        if fd != NONE
            && let Some((slot, file)) = known(fd)
        {
            let _ = settle(slot, fd, file);
        }
    }
    global::set_errno(before);
}

/// At the end of a program that calls `exit`: also what its streams still hold.
pub fn finish() {
    if any() {
        // SAFETY: all streams.
        unsafe { real::fflush(std::ptr::null_mut()) };
        settle_all();
    }
}

/// `to` is a duplicate of `fd`. A table without room forgets it: it is settled through the others.
pub fn duplicated(fd: c_int, to: c_int) {
    if to >= 0
        && fd != to
        && let Some((slot, _)) = known(fd)
    {
        let _ = enter(to, slot.clean.load(Ordering::Relaxed));
    }
}

/// `write` to one of ours; `None`: it is not.
///
/// # Safety
/// As the C library's.
pub unsafe fn write(fd: c_int, from: *const c_void, n: size_t) -> Option<ssize_t> {
    let (slot, file) = known(fd)?;
    let taken = global::answer(|| {
        // What the C library wrote before comes first; its errors are not this call's.
        let _ = settle(slot, fd, file);
        if position(fd, 0) != 0 {
            return Ok(n);
        }
        let mut text = vec![0u8; n.min(MOST)];
        // SAFETY: room for as many bytes.
        unsafe { vshmem::user::read(text.as_mut_ptr(), from as usize, text.len()) }?;
        let taken = store(file, &text)?;
        renew(slot, fd, file)?;
        Ok(taken)
    });
    Some(match taken {
        Ok(n) => {
            let n = n.cast_signed();
            position(fd, n as i64);
            n
        }
        Err(()) => -1,
    })
}

/// At the start of a program: its standard output may be one of ours, opened by the shell.
pub fn inherit() {
    let out = libc::STDOUT_FILENO;
    // SAFETY: no memory; only a memfd answers.
    let seals = unsafe { libc::syscall(libc::SYS_fcntl, out, libc::F_GET_SEALS) };
    if seals == 0 && global::in_use() && file(out).is_some() {
        // The text it was opened with is not known; of one that can be read it is there still.
        let _ = enter(out, hash(&contents(out)));
    }
}
