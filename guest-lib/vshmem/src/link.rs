//! The connection to the endpoint, and the descriptors it gave.

use crate::error::{Error, Result};
use crate::fd::{Fd, FileId};
use crate::sys;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vshmem_core::attach::{Op, REPLY, Reply, Request, Transport};
use vshmem_core::layout::peer;

/// An endpoint that has not answered after this long is not there.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 5, tv_usec: 0 };
/// How long one that was not there is not asked again.
const SULK: Duration = Duration::from_secs(5);
/// How long one that went away while it was asked may take to be back.
const RESTART: Duration = Duration::from_secs(3);
/// Between two looks whether it is.
const PAUSE: Duration = Duration::from_millis(5);

/// What a process holds of its endpoint. All of it may be gone: closed by the program, or with the
/// endpoint; then it is fetched again.
#[derive(Debug)]
pub(crate) struct Link {
    socket: PathBuf,
    connection: Option<Fd>,
    rw: Option<Fd>,
    ro: Option<Fd>,
    /// Eventfds by peer, with the incarnation they belong to.
    bells: Vec<Option<(u32, Fd)>>,
    /// When the endpoint last let its time pass without an answer: a daemon that hangs, or one
    /// whose listening socket somebody keeps for its successor.
    silent: Option<Instant>,
}

/// Which descriptor of the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    ReadWrite,
    ReadOnly,
}

impl Link {
    pub fn new(socket: &Path) -> Self {
        let bells = (0..peer::COUNT).map(|_| None).collect();
        Self {
            socket: socket.to_owned(),
            connection: None,
            rw: None,
            ro: None,
            bells,
            silent: None,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn no_endpoint(&self, cause: io::Error) -> Error {
        let socket = self.socket.clone();
        match cause.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Error::Descriptors { socket },
            _ => Error::NoEndpoint { socket, cause },
        }
    }

    /// Notes whether it was patience that ran out.
    fn heard<T>(&mut self, got: Result<T>) -> Result<T> {
        let timeout = |e: &Error| matches!(e, Error::NoEndpoint { cause, .. } if cause.kind() == io::ErrorKind::WouldBlock);
        self.silent = got.as_ref().is_err_and(timeout).then(Instant::now);
        got
    }

    /// Connects and attaches. An endpoint that knows this process gives it its task again; one that
    /// ends just then, to be started again, is waited for.
    pub fn attach(&mut self) -> Result<Reply> {
        let mut gone: Option<Instant> = None;
        loop {
            let got = self.attach_now();
            let Err(e) = &got else { return got };
            if !is_passing(e, gone.is_some())
                || gone.get_or_insert_with(Instant::now).elapsed() > RESTART
            {
                return got;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn attach_now(&mut self) -> Result<Reply> {
        if self.silent.is_some_and(|since| since.elapsed() < SULK) {
            return Err(self.no_endpoint(io::ErrorKind::TimedOut.into()));
        }
        // Numbers that lead elsewhere by now may be given to the new descriptors, and would then
        // look like ours: forgotten first.
        for held in [&mut self.connection, &mut self.rw, &mut self.ro] {
            drop(held.take_if(|fd| fd.get().is_none()));
        }
        let fd = connect(&self.socket).map_err(|e| self.no_endpoint(e))?;
        let ask = Request { op: Op::Attach, a: 0, b: 0 };
        let got = self.exchange(fd.as_raw_fd(), &ask, None);
        let (reply, fds) = self.heard(got)?;
        let mut fds = fds.into_iter();
        let (Some(rw), Some(ro)) = (fds.next(), fds.next()) else {
            let cause = io::Error::other("its reply brought no descriptors");
            return Err(self.no_endpoint(cause));
        };
        let adopt = |fd| Fd::adopt(fd).map_err(|e| self.no_endpoint(e));
        let (connection, rw, ro) = (adopt(fd)?, adopt(rw)?, adopt(ro)?);
        self.connection = Some(connection);
        self.rw = Some(rw);
        self.ro = Some(ro);
        Ok(reply)
    }

    /// One request and its reply; connects again, once, when the connection has gone.
    pub fn ask(&mut self, ask: &Request, give: Option<RawFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        if let Some(raw) = self.connection.as_ref().and_then(Fd::get) {
            match self.exchange(raw, ask, give) {
                Err(Error::NoEndpoint { .. }) => {}
                other => return other,
            }
        }
        self.attach()?;
        let raw = self.connection.as_ref().and_then(Fd::get);
        let raw = raw.ok_or_else(|| self.no_endpoint(io::ErrorKind::NotConnected.into()))?;
        self.exchange(raw, ask, give)
    }

    fn exchange(
        &self,
        raw: RawFd,
        ask: &Request,
        give: Option<RawFd>,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        send(raw, &ask.encode(), give).map_err(|e| self.no_endpoint(e))?;
        let (bytes, fds) = receive(raw).map_err(|e| self.no_endpoint(e))?;
        let reply = Reply::decode(&bytes)
            .map_err(|cause| Error::Protocol { socket: self.socket.clone(), cause })?;
        if reply.status != 0 {
            let (status, text) = (reply.status, reply.text);
            return Err(Error::Refused { socket: self.socket.clone(), status, text });
        }
        Ok((reply, fds))
    }

    /// Becomes the child that the parent registered: `near` is its connection.
    pub fn hello(&mut self, near: Fd) -> Result<Reply> {
        self.connection = Some(near);
        let raw = self.connection.as_ref().and_then(Fd::get);
        let raw = raw.ok_or_else(|| self.no_endpoint(io::ErrorKind::NotConnected.into()))?;
        Ok(self.exchange(raw, &Request { op: Op::Hello, a: 0, b: 0 }, None)?.0)
    }

    /// Lets go of the connection: for a child, which must not hold its parent's open.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Forgets all descriptors without closing them: they were another process's, whose numbers mean
    /// something else here.
    pub fn leave_open(&mut self) {
        let bells = self.bells.iter_mut().filter_map(Option::take).map(|(_, fd)| fd);
        let held = [self.connection.take(), self.rw.take(), self.ro.take()];
        bells.chain(held.into_iter().flatten()).for_each(std::mem::forget);
    }

    /// A descriptor of the region, fetched again if the program closed it.
    pub fn region(&mut self, way: Way) -> Result<RawFd> {
        let held = |me: &Self| match way {
            Way::ReadWrite => me.rw.as_ref().and_then(Fd::get),
            Way::ReadOnly => me.ro.as_ref().and_then(Fd::get),
        };
        if let Some(raw) = held(self) {
            return Ok(raw);
        }
        self.attach()?;
        held(self).ok_or_else(|| self.no_endpoint(io::ErrorKind::NotConnected.into()))
    }

    /// Which file the region is.
    pub fn region_file(&self) -> Option<FileId> {
        self.rw.as_ref().map(Fd::file)
    }

    /// Rings peer `to`, in its incarnation `incarnation`, through the endpoint's eventfd for it.
    pub fn ring(&mut self, to: u32, incarnation: u32) -> Result<()> {
        let slot = to as usize % self.bells.len();
        let held = |me: &Self| match &me.bells[slot] {
            Some((of, fd)) if *of == incarnation => fd.get(),
            _ => None,
        };
        let raw = match held(self) {
            Some(raw) => raw,
            None => {
                let ask = Request { op: Op::Ring, a: to.into(), b: 0 };
                let (_, fds) = self.ask(&ask, None)?;
                let Some(fd) = fds.into_iter().next() else { return Ok(()) };
                let fd = Fd::adopt(fd).map_err(|e| self.no_endpoint(e))?;
                self.bells[slot] = Some((incarnation, fd));
                let Some(raw) = held(self) else { return Ok(()) };
                raw
            }
        };
        sys::ring(raw);
        Ok(())
    }
}

/// Whether an endpoint may answer in a moment: it hung up, being about to end, or made room for
/// others. That there is none passes only if there `was` one.
fn is_passing(e: &Error, was: bool) -> bool {
    match e {
        Error::NoEndpoint { cause, .. } => match cause.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => true,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => was,
            _ => false,
        },
        Error::Refused { status, .. } => *status == libc::EBUSY as u32,
        _ => false,
    }
}

/// A pair of connected sockets, as [`connect`] makes them.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: the kernel has just made both for us.
    let [near, far] = sys::socketpair()?.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    sys::limit(near.as_raw_fd(), &PATIENCE)?;
    Ok((near, far))
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(sys::socket()?) };
    sys::limit(fd.as_raw_fd(), &PATIENCE)?;
    // SAFETY: all zeros is a valid `sockaddr_un`.
    let mut to: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    to.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= to.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in to.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    sys::connect(fd.as_raw_fd(), &to)?;
    Ok(fd)
}

/// Room for the descriptors of one packet, aligned as control messages need it.
#[repr(C, align(8))]
struct Control([u8; 128]);
const FDS: usize = 4;

fn send(raw: RawFd, bytes: &[u8], give: Option<RawFd>) -> io::Result<()> {
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid empty `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if let Some(give) = give {
        let size = size_of::<RawFd>() as u32;
        header.msg_control = (&raw mut control).cast();
        // SAFETY: a pure function of its argument.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        // SAFETY: `control` has room for one descriptor, so there is a first header.
        let at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: a pure function of its argument.
        let len = unsafe { libc::CMSG_LEN(size) } as usize;
        let head = libc::cmsghdr {
            cmsg_len: len,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: `at` is inside `control` and aligned.
        unsafe { at.write(head) };
        // SAFETY: as above: the data follows the header.
        unsafe { libc::CMSG_DATA(at).cast::<RawFd>().write_unaligned(give) };
    }
    // SAFETY: the header points to `part` and `control`, which live during the call; nothing is
    // written through `part`.
    unsafe { sys::send(raw, &header) }
}

fn receive(raw: RawFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; REPLY + 1];
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a valid empty `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    // SAFETY: a pure function of its argument.
    header.msg_controllen = unsafe { libc::CMSG_SPACE((FDS * size_of::<RawFd>()) as u32) } as usize;
    // SAFETY: the header points to `part` and `control`, which live during the call.
    let n = unsafe { sys::receive(raw, &mut header) }?;
    let mut fds = Vec::new();
    // SAFETY: `header` was filled in by the kernel; the macros stay inside `control`.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: an aligned header inside `control`.
        let head = unsafe { at.read() };
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: a pure function of its argument.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data follows its header.
            let data = unsafe { libc::CMSG_DATA(at) }.cast::<RawFd>();
            for i in 0..head.cmsg_len.saturating_sub(empty) / size_of::<RawFd>() {
                // SAFETY: `i` is below the number the kernel wrote.
                let fd = unsafe { data.add(i).read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    if n == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        // The kernel leaves out what there is no number for.
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    bytes.truncate(n);
    Ok((bytes, fds))
}

/// How the region of a reply is reached.
pub(crate) fn is_module(reply: &Reply) -> bool {
    reply.transport == Transport::Module
}
