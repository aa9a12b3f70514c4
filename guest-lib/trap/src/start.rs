//! From `vshmem run` to a trapped program.
//!
//! The process that will be the program makes a supervisor, which is nobody's child: the program
//! keeps its pid, its parent and its terminal, and finds no child that it did not make. Then it
//! installs the filter, hands the listener over, and executes the program.

use crate::filter;
use crate::supervisor;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use vshmem::{Rules, Session};

/// Why nothing is trapped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("cannot {step}: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// This kernel cannot do it.
    #[error("this kernel cannot trap system calls for another process (Linux 5.19 or later can)")]
    TooOld,
    /// The calls are trapped already.
    #[error(
        "the system calls of this process are trapped already, by another `vshmem run` or a \
         container manager, and there can be but one"
    )]
    Twice,
    /// The supervisor could not begin.
    #[error("{0}")]
    Supervisor(String),
}

fn step(step: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { step, source }
}

/// A supervisor that waits for somebody to supervise.
#[derive(Debug)]
pub struct Waiting {
    channel: OwnedFd,
}

const TEXT: usize = 1024;

/// Makes a supervisor for the region behind `socket`, to which the rules lead whatever is not local.
///
/// Call it while the process has but one thread.
///
/// # Errors
/// The region cannot be attached, or the kernel refuses a process.
pub fn start(socket: &Path, rules: Rules) -> Result<Waiting, Error> {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) } != 0 {
        return Err(step("make a socket")(io::Error::last_os_error()));
    }
    // SAFETY: made just now, for us.
    let [near, far] = pair.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    // SAFETY: this process has one thread, so the child can do what it could.
    match unsafe { libc::fork() } {
        -1 => Err(step("make a process")(io::Error::last_os_error())),
        0 => {
            drop(near);
            // SAFETY: as above. The grandchild is nobody's child once this one has ended.
            if unsafe { libc::fork() } == 0 {
                be_supervisor(socket, rules, far);
            }
            // SAFETY: ends this process without what its parent registered.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(far);
            // SAFETY: the child made above; it ends at once.
            while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } < 0
                && io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
            {}
            let mut said = [0; TEXT];
            let n = receive(&near, &mut said, &mut None).map_err(step("hear of the supervisor"))?;
            match said[..n].split_first() {
                Some((0, pid)) => {
                    let pid = pid.try_into().map_or(0, u32::from_ne_bytes);
                    // Where only ancestors may trace, it may trace this one all the same.
                    // SAFETY: no pointers; where that is no rule, it fails, and nothing is lost.
                    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::c_ulong::from(pid), 0, 0, 0) };
                    Ok(Waiting { channel: near })
                }
                Some((_, text)) => Err(Error::Supervisor(String::from_utf8_lossy(text).into())),
                None => Err(Error::Supervisor("the supervisor ended as it began".to_owned())),
            }
        }
    }
}

impl Waiting {
    /// Traps this process and what it executes from now on.
    ///
    /// # Errors
    /// The kernel cannot, or the supervisor has ended.
    pub fn trap(self) -> Result<(), Error> {
        let listener = filter::install().map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => Error::Twice,
            Some(libc::EINVAL | libc::ENOSYS) => Error::TooOld,
            _ => step("trap system calls")(e),
        })?;
        send(&self.channel, &[0], Some(listener.as_raw_fd())).map_err(step("hand the calls over"))
    }
}

/// Attaches, waits for the listener, and serves it.
fn be_supervisor(socket: &Path, rules: Rules, channel: OwnedFd) -> ! {
    let channel = alone(channel);
    let session = match Session::attach_to(socket) {
        Ok(session) => session,
        Err(e) => fail(&channel, &e.to_string()),
    };
    let mut hello = vec![0];
    hello.extend(std::process::id().to_ne_bytes());
    let mut listener = None;
    let got = send(&channel, &hello, None)
        .and_then(|()| receive(&channel, &mut [0; TEXT], &mut listener));
    // Without a listener: the program could not be started.
    if let (Ok(1..), Some(listener)) = (got, listener) {
        drop(channel);
        let _ = supervisor::serve(session, rules, listener);
    }
    std::process::exit(0)
}

fn fail(channel: &OwnedFd, text: &str) -> ! {
    let mut bytes = vec![1];
    bytes.extend(text.bytes().take(TEXT - 1));
    let _ = send(channel, &bytes, None);
    std::process::exit(1)
}

/// Lets go of what the program has: descriptors, terminal, directory.
fn alone(channel: OwnedFd) -> OwnedFd {
    const AT: RawFd = 3;
    // SAFETY: no pointers. It must outlive a Ctrl-C, as programs do that ignore it.
    unsafe { libc::setsid() };
    // SAFETY: a string.
    unsafe { libc::chdir(c"/".as_ptr()) };
    // SAFETY: a string of at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"vshmem-trap".as_ptr()) };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads the limit.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
    // SAFETY: all signals at their defaults, none blocked: the program's are its own.
    unsafe {
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
    // SAFETY: `channel` is moved to 3; 0 to 2 lead nowhere; all others are closed. Nothing else of
    // this process refers to a descriptor.
    unsafe {
        let nowhere = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        let from = libc::fcntl(channel.as_raw_fd(), libc::F_DUPFD_CLOEXEC, AT + 1);
        for fd in 0..AT {
            libc::dup2(nowhere, fd);
        }
        libc::dup3(from, AT, libc::O_CLOEXEC);
        std::mem::forget(channel);
        libc::syscall(libc::SYS_close_range, AT + 1, u32::MAX, 0);
        OwnedFd::from_raw_fd(AT)
    }
}

#[repr(C, align(8))]
struct Control([u8; 64]);

fn send(channel: &OwnedFd, bytes: &[u8], fd: Option<RawFd>) -> io::Result<()> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid empty `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        header.msg_control = (&raw mut control).cast();
        // SAFETY: a pure function of its argument.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize;
        // SAFETY: the header leads to `control`, which has room for one message.
        let at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        let head = libc::cmsghdr {
            // SAFETY: a pure function of its argument.
            cmsg_len: unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: an aligned header inside `control`.
        unsafe { at.write(head) };
        // SAFETY: the data follows its header.
        unsafe { libc::CMSG_DATA(at).cast::<RawFd>().write_unaligned(fd) };
    }
    let raw = channel.as_raw_fd();
    // SAFETY: the header points to what lives during the call.
    let n = unsafe { libc::sendmsg(raw, &raw const header, libc::MSG_NOSIGNAL) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive(channel: &impl AsRawFd, to: &mut [u8], fd: &mut Option<OwnedFd>) -> io::Result<usize> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // SAFETY: all zeros is a valid empty `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = size_of::<Control>();
    let n = loop {
        let raw = channel.as_raw_fd();
        // SAFETY: the header points to what lives during the call.
        let n = unsafe { libc::recvmsg(raw, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(n) {
            Ok(n) => break n,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: `header` was filled in by the kernel.
    let at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if !at.is_null() {
        // SAFETY: an aligned header inside `control`.
        let head = unsafe { at.read() };
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the data follows its header.
            let raw = unsafe { libc::CMSG_DATA(at).cast::<RawFd>().read_unaligned() };
            // SAFETY: the kernel has just made it for us.
            *fd = Some(unsafe { OwnedFd::from_raw_fd(raw) });
        }
    }
    Ok(n)
}
