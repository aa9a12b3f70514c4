//! The descriptor at which trapped calls arrive, and are answered.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

const RECV: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const ID_VALID: libc::c_ulong = 0x4008_2102;
const ADDFD: libc::c_ulong = 0x4018_2103;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// Runs the supervisor on the caller's processor: it sleeps until it is answered.
const SYNC_WAKE_UP: u64 = 1;

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Its number, never used again.
    pub id: u64,
    /// The calling thread.
    pub tid: i32,
    /// The system call.
    pub nr: libc::c_long,
    /// Where it returns to.
    pub ip: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What a call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A value.
    Value(i64),
    /// -1, and this errno. (Also the kernel's own, such as ERESTARTNOHAND.)
    Errno(i32),
    /// What the kernel makes of it.
    Continue,
}

/// See the module.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    pub fn new(fd: OwnedFd) -> Self {
        // SAFETY: no pointers. Before Linux 6.6 it is slower.
        unsafe { libc::ioctl(fd.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
        Self(fd)
    }

    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Waits for the next call; an error is a caller that died meanwhile, or a signal.
    pub fn receive(&self) -> io::Result<Notification> {
        // SAFETY: integers only.
        let mut got: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: room for what the kernel writes, zeroed as it asks.
        if unsafe { libc::ioctl(self.raw(), RECV, &raw mut got) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Notification {
            id: got.id,
            tid: got.pid.cast_signed(),
            nr: got.data.nr.into(),
            ip: got.data.instruction_pointer,
            args: got.data.args,
        })
    }

    /// Whether nobody is left who could call: nothing is waited for then any more.
    pub fn is_over(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.raw(), events: 0, revents: 0 };
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 && poll.revents & libc::POLLHUP != 0 }
    }

    /// Answers; `false` if the caller is gone.
    pub fn answer(&self, id: u64, answer: Answer) -> bool {
        let mut reply = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        match answer {
            Answer::Value(value) => reply.val = value,
            Answer::Errno(errno) => reply.error = -errno,
            Answer::Continue => reply.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        }
        // SAFETY: the kernel reads a reply.
        unsafe { libc::ioctl(self.raw(), SEND, &raw const reply) == 0 }
    }

    /// Whether the caller still waits: what was read of its pid since it came is its own.
    pub fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads a number.
        unsafe { libc::ioctl(self.raw(), ID_VALID, &raw const id) == 0 }
    }

    /// Puts a duplicate of `fd` among the caller's descriptors, close-on-exec; its number there.
    pub fn give(&self, id: u64, fd: BorrowedFd<'_>) -> io::Result<RawFd> {
        let add = libc::seccomp_notif_addfd {
            id,
            flags: 0,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC as u32,
        };
        // SAFETY: the kernel reads a request.
        let raw = unsafe { libc::ioctl(self.raw(), ADDFD, &raw const add) };
        if raw < 0 { Err(io::Error::last_os_error()) } else { Ok(raw) }
    }
}

const _: () = assert!(size_of::<libc::seccomp_notif>() == 80);
const _: () = assert!(size_of::<libc::seccomp_notif_resp>() == 24);
const _: () = assert!(size_of::<libc::seccomp_notif_addfd>() == 24);
