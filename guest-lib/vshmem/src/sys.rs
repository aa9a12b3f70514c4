//! System calls made directly.
//!
//! The C library's functions of these names may be other libraries' by now: `libfakeroot` has its
//! own `fstat` and `geteuid`, and they use System V IPC, which would lead back into a call of ours
//! that is under way. What the kernel would do for `semop` we do, and ask the kernel.

use crate::system_call;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;

/// Makes a call that returns a number.
macro_rules! call {
    ($number:ident $(, $arg:expr)*) => {
        check(crate::system_call!(libc::$number $(, $arg)*))
    };
}

fn check(rc: isize) -> io::Result<usize> {
    match rc {
        -4095..0 => Err(io::Error::from_raw_os_error(rc.unsigned_abs() as i32)),
        rc => Ok(rc.cast_unsigned()),
    }
}

/// Repeats a call that was interrupted. Signals are blocked where this is used, but a process that
/// is stopped and continued gets EINTR all the same from a socket with a timeout.
fn restart(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// What a descriptor leads to.
pub(crate) fn fstat(raw: RawFd) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: room for the result; a bad descriptor is an error.
    unsafe { call!(SYS_fstat, raw, stat.as_mut_ptr()) }?;
    // SAFETY: zeroed, then filled by the call.
    Ok(unsafe { stat.assume_init() })
}

/// What a path leads to.
pub(crate) fn stat(path: &std::ffi::CStr) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: a string with its end, and room for the result.
    unsafe { call!(SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), stat.as_mut_ptr(), 0) }?;
    // SAFETY: zeroed, then filled by the call.
    Ok(unsafe { stat.assume_init() })
}

/// The first bytes of a small file.
pub(crate) fn read(path: &std::ffi::CStr) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a string with its end.
    let Ok(fd) = (unsafe { call!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) }) else {
        return Vec::new();
    };
    // SAFETY: as many writable bytes.
    let n = unsafe { call!(SYS_read, fd, bytes.as_mut_ptr(), bytes.len()) };
    close(fd as RawFd);
    bytes.truncate(n.unwrap_or(0));
    bytes
}

/// Closes a descriptor of ours.
pub(crate) fn close(raw: RawFd) {
    // SAFETY: the caller's own; an error leaves nothing to do.
    let _ = unsafe { call!(SYS_close, raw) };
}

/// The effective user and group.
pub(crate) fn effective() -> (u32, u32) {
    // SAFETY: neither can fail.
    unsafe { (system_call!(libc::SYS_geteuid) as u32, system_call!(libc::SYS_getegid) as u32) }
}

/// The supplementary groups.
pub(crate) fn groups() -> Vec<u32> {
    // SAFETY: with no room the call only counts.
    let n = unsafe { call!(SYS_getgroups, 0, ptr::null_mut::<u32>()) }.unwrap_or(0);
    let mut groups = vec![0_u32; n];
    // SAFETY: room for `n`; the call fails if there are more by now.
    let n = unsafe { call!(SYS_getgroups, n, groups.as_mut_ptr()) }.unwrap_or(0);
    groups.truncate(n);
    groups
}

/// `mmap`.
///
/// # Safety
/// With `MAP_FIXED`, nothing relies on what is mapped at `at`.
pub(crate) unsafe fn mmap(
    at: usize,
    len: usize,
    protection: i32,
    flags: i32,
    fd: RawFd,
    offset: u64,
) -> io::Result<*mut u8> {
    // SAFETY: as the caller promises.
    let at = unsafe { call!(SYS_mmap, at, len, protection, flags, fd, offset) }?;
    Ok(ptr::with_exposed_provenance_mut(at))
}

/// `munmap`.
///
/// # Safety
/// Nothing relies on these bytes being mapped.
pub(crate) unsafe fn munmap(at: *mut u8, len: usize) {
    // SAFETY: as the caller promises; an error leaves them mapped, and nothing to do.
    let _ = unsafe { call!(SYS_munmap, at, len) };
}

/// Whether there is memory at the page `at`.
pub(crate) fn is_mapped(at: usize) -> bool {
    let mut resident = 0_u8;
    // SAFETY: room for the one byte that a page takes.
    let rc = unsafe { system_call!(libc::SYS_mincore, at, 1usize, &raw mut resident) };
    rc != -(libc::ENOMEM as isize)
}

/// Whether this process may lock as much memory as it likes.
pub(crate) fn locks_without_limit() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let none = ptr::null::<libc::rlimit>();
    let what = libc::RLIMIT_MEMLOCK as i32;
    // SAFETY: room for the result.
    let rc = unsafe { system_call!(libc::SYS_prlimit64, 0, what, none, &raw mut limit) };
    effective().0 == 0 || (rc == 0 && limit.rlim_cur == libc::RLIM_INFINITY)
}

/// The kernel's version, as far as it is a number. Asked once.
pub(crate) fn release() -> (u32, u32) {
    static RELEASE: OnceLock<(u32, u32)> = OnceLock::new();
    *RELEASE.get_or_init(|| {
        let mut name = MaybeUninit::<libc::utsname>::zeroed();
        // SAFETY: room for the result.
        let _ = unsafe { call!(SYS_uname, name.as_mut_ptr()) };
        // SAFETY: zeroed, then filled by the call.
        let name = unsafe { name.assume_init() };
        let mut numbers = name.release.split(|c| !(*c as u8).is_ascii_digit()).map(|digits| {
            digits.iter().fold(0u32, |n, c| n.wrapping_mul(10) + u32::from(*c as u8 - b'0'))
        });
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    })
}

/// A file without a byte: touching a mapping of it is SIGBUS. With `read_only`, mappings of it
/// cannot be made writable.
pub(crate) fn empty_file(read_only: bool) -> io::Result<RawFd> {
    let (name, flags) = (c"nothing".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
    // SAFETY: a string with its end.
    let raw = unsafe { call!(SYS_memfd_create, name, flags) }? as RawFd;
    if read_only {
        // Without it (Linux before 5.1) one can, and finds nothing there all the same.
        // SAFETY: no pointers.
        let _ = unsafe { call!(SYS_fcntl, raw, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
    }
    Ok(raw)
}

/// The calling process.
pub(crate) fn pid() -> u32 {
    // SAFETY: cannot fail.
    unsafe { system_call!(libc::SYS_getpid) as u32 }
}

/// `madvise`; whether the advice was taken, which is no error if not.
///
/// # Safety
/// The advice does not take away what somebody relies on.
pub(crate) unsafe fn madvise(at: *mut u8, len: usize, advice: i32) -> bool {
    // SAFETY: as the caller promises.
    unsafe { call!(SYS_madvise, at, len, advice) }.is_ok()
}

/// A duplicate numbered `from` or higher, close-on-exec.
pub(crate) fn duplicate(raw: RawFd, from: RawFd) -> io::Result<RawFd> {
    // SAFETY: no pointers.
    Ok(unsafe { call!(SYS_fcntl, raw, libc::F_DUPFD_CLOEXEC, from) }? as RawFd)
}

/// A socket for packets.
pub(crate) fn socket() -> io::Result<RawFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    Ok(unsafe { call!(SYS_socket, libc::AF_UNIX, kind, 0) }? as RawFd)
}

/// A pair of them.
pub(crate) fn socketpair() -> io::Result<[RawFd; 2]> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    unsafe { call!(SYS_socketpair, libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }?;
    Ok(fds)
}

/// Gives up sending and receiving on a socket after a time.
pub(crate) fn limit(raw: RawFd, time: &libc::timeval) -> io::Result<()> {
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let (value, len) = (ptr::from_ref(time), size_of::<libc::timeval>());
        // SAFETY: `value` is `len` readable bytes.
        unsafe { call!(SYS_setsockopt, raw, libc::SOL_SOCKET, option, value, len) }?;
    }
    Ok(())
}

/// `connect`.
pub(crate) fn connect(raw: RawFd, to: &libc::sockaddr_un) -> io::Result<()> {
    let (to, len) = (ptr::from_ref(to), size_of::<libc::sockaddr_un>());
    // SAFETY: `to` is `len` readable bytes.
    restart(|| unsafe { call!(SYS_connect, raw, to, len) }).map(drop)
}

/// `sendmsg`.
///
/// # Safety
/// The header leads to readable bytes.
pub(crate) unsafe fn send(raw: RawFd, header: &libc::msghdr) -> io::Result<()> {
    let header = ptr::from_ref(header);
    // SAFETY: as the caller promises.
    restart(|| unsafe { call!(SYS_sendmsg, raw, header, libc::MSG_NOSIGNAL) }).map(drop)
}

/// `recvmsg`.
///
/// # Safety
/// The header leads to writable bytes.
pub(crate) unsafe fn receive(raw: RawFd, header: &mut libc::msghdr) -> io::Result<usize> {
    let header = ptr::from_mut(header);
    // SAFETY: as the caller promises.
    restart(|| unsafe { call!(SYS_recvmsg, raw, header, libc::MSG_CMSG_CLOEXEC) })
}

/// Adds one to an eventfd; one that is full rings anyway.
pub(crate) fn ring(raw: RawFd) {
    let one = 1u64;
    // SAFETY: eight readable bytes.
    let _ = unsafe { call!(SYS_write, raw, &raw const one, 8) };
}

/// Changes the calling thread's signal mask; the one before.
fn change_mask(how: i32, mask: Option<&u64>) -> u64 {
    let mut before = 0u64;
    let mask = mask.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both are a mask, or null. It cannot fail with these arguments.
    let _ = unsafe { call!(SYS_rt_sigprocmask, how, mask, &raw mut before, 8) };
    before
}

/// The calling thread's signal mask.
pub(crate) fn signal_mask() -> u64 {
    change_mask(libc::SIG_BLOCK, None)
}

/// Blocks `signals` as well; the mask before.
pub(crate) fn block(signals: u64) -> u64 {
    change_mask(libc::SIG_BLOCK, Some(&signals))
}

/// Lets `signals` through; the mask before.
pub(crate) fn unblock(signals: u64) -> u64 {
    change_mask(libc::SIG_UNBLOCK, Some(&signals))
}

/// Makes `mask` the calling thread's.
pub(crate) fn set_signal_mask(mask: u64) {
    change_mask(libc::SIG_SETMASK, Some(&mask));
}
