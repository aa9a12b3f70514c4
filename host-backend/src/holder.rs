//! The holder: a small process that keeps descriptors across a crash or
//! restart of the daemon.
//!
//! QEMU cannot reconnect to an ivshmem server, so its connection must never
//! close: the holder, started by the first daemon and in a session of its own,
//! has a duplicate of everything in the daemon's [`Vault`](crate::vault). It
//! decides nothing. It answers one daemon at a time on `vshmemd.holder` in the
//! runtime directory, each side checking that the other is of its own user.
//!
//! It leaves when told to (`vshmemd --shutdown`, or a daemon that stops for
//! good), or when no daemon has been connected for the linger time, no process
//! whose pidfd it was given as a witness (every VMM) is alive, and no process
//! that it can see maps the memory it holds.
//!
//! The protocol is one fixed-size packet for each request and each answer,
//! with at most one descriptor beside it.

use crate::vault::{Kept, Store, Tag, bound_to, send_with};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, socket_with,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The name of the holder's socket in the runtime directory.
pub const SOCKET: &str = "vshmemd.holder";

/// What the first packet says, so that versions of this protocol never mix: the last byte is the
/// version's digit. (What is built to test how versions meet pretends the next one.)
const HELLO: u64 = u64::from_le_bytes(if option_env!("VSHMEM_SKEW_HOLDER").is_some() {
    *b"vshmemh2"
} else {
    *b"vshmemh1"
});

/// The version in a greeting.
fn version(hello: u64) -> char {
    char::from(hello.to_le_bytes()[7])
}

const OP_HELLO: u64 = 1;
const OP_PUT: u64 = 2;
const OP_REMOVE: u64 = 3;
const OP_ACCEPT: u64 = 4;
const OP_SEND: u64 = 5;
const OP_LIST: u64 = 6;
const OP_RELEASE: u64 = 7;

/// `with` of a send without a descriptor, and the tag that ends a list.
const NONE: u64 = u64::MAX;

const WORDS: usize = 4;
type Packet = [u64; WORDS];

fn send_packet(to: impl AsFd, packet: Packet, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut bytes = [0_u8; WORDS * 8];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(packet) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    send_with(to, &bytes, fd.as_slice(), SendFlags::empty())
}

/// The next packet; `None` at the end of the connection.
fn receive_packet(from: impl AsFd) -> io::Result<Option<(Packet, Option<OwnedFd>)>> {
    let mut bytes = [0_u8; WORDS * 8 + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let iov = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(&from, iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?.bytes,
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.into_iter().next();
        }
    }
    if got == 0 {
        return Ok(None);
    }
    if got != WORDS * 8 {
        return Err(io::Error::other(format!("a packet of {got} bytes")));
    }
    let mut packet = [0; WORDS];
    for (word, chunk) in packet.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.iter().rev().fold(0, |acc, &b| acc << 8 | u64::from(b));
    }
    Ok(Some((packet, fd)))
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn address(path: &Path) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|e| {
        io::Error::other(format!(
            "{}: {e}; a socket's path has at most 107 bytes: choose a shorter --runtime-dir",
            path.display()
        ))
    })
}

fn is_own_user(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|cred| cred.uid == rustix::process::geteuid())
}

/// The daemon's end of the connection to the holder.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    pid: u32,
    child: Option<Child>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Collects a holder of ours that has left; one that lives goes on.
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
    }
}

impl Link {
    /// Connects to the holder of `runtime_dir`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the socket is another user's, or what answers is no holder.
    pub fn connect(runtime_dir: &Path) -> io::Result<Option<Self>> {
        let path = runtime_dir.join(SOCKET);
        let socket = seqpacket()?;
        match connect(&socket, &address(&path)?) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        if !is_own_user(&socket) {
            return Err(io::Error::other(format!(
                "{} belongs to another user: remove it, or choose another runtime directory",
                path.display()
            )));
        }
        let mut link = Self { socket, pid: 0, child: None };
        // One that is about to leave may not answer any more.
        let Ok((packet, _)) = link.ask([OP_HELLO, HELLO, 0, 0], None) else { return Ok(None) };
        if packet[1] != HELLO {
            return Err(io::Error::other(format!(
                "the holder (pid {}) speaks version {} of its protocol, this vshmemd {}: start \
                 the vshmemd that started it again, or stop the VMs and run its \
                 `vshmemd --shutdown`",
                packet[2],
                version(packet[1]),
                version(HELLO)
            )));
        }
        link.pid = u32::try_from(packet[2]).unwrap_or(0);
        Ok(Some(link))
    }

    /// Starts a holder for `runtime_dir` and connects to it. It is this very
    /// program, even when its file has been replaced meanwhile.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(runtime_dir: &Path, linger: Duration) -> io::Result<Self> {
        let path = runtime_dir.join(SOCKET);
        let listener = seqpacket()?;
        // Before the name exists: the mode of a socket's file is the socket's.
        rustix::fs::fchmod(&listener, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        bind(&listener, &address(&path)?)?;
        listen(&listener, 8)?;
        let child = Command::new("/proc/self/exe")
            .arg("--holder")
            .arg("--linger")
            .arg(linger.as_secs().to_string())
            .current_dir("/")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut link = Self::connect(runtime_dir)?
            .ok_or_else(|| io::Error::other("the holder did not start"))?;
        link.child = Some(child);
        Ok(link)
    }

    /// The holder's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable (at end-of-file) when the holder has gone.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn ask(
        &mut self,
        packet: Packet,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<(Packet, Option<OwnedFd>)> {
        send_packet(&self.socket, packet, fd)?;
        receive_packet(&self.socket)?.ok_or_else(|| io::Error::other("the holder has gone"))
    }

    /// The errno an answer carries.
    fn status(packet: Packet) -> Result<(), Errno> {
        match i32::try_from(packet[0]) {
            Ok(0) => Ok(()),
            Ok(code) => Err(Errno::from_raw_os_error(code)),
            Err(_) => Err(Errno::PROTO),
        }
    }

    pub(crate) fn put(&mut self, tag: Tag, kept: &Kept) -> io::Result<()> {
        let packet = [OP_PUT, tag, kept.sent, u64::from(kept.witness)];
        let (answer, _) = self.ask(packet, Some(kept.fd.as_fd()))?;
        Ok(Self::status(answer)?)
    }

    pub(crate) fn remove(&mut self, tag: Tag) -> io::Result<()> {
        self.ask([OP_REMOVE, tag, 0, 0], None).map(drop)
    }

    /// The outer error is the link's, the inner one is `accept`'s.
    pub(crate) fn accept(&mut self, listener: Tag, tag: Tag) -> io::Result<Result<OwnedFd, Errno>> {
        let (answer, fd) = self.ask([OP_ACCEPT, listener, tag, 0], None)?;
        Ok(Self::status(answer).and_then(|()| fd.ok_or(Errno::MFILE)))
    }

    /// The outer error is the link's, the inner one is `sendmsg`'s.
    pub(crate) fn send(
        &mut self,
        to: Tag,
        bytes: [u8; 8],
        with: Option<Tag>,
    ) -> io::Result<Result<u64, Errno>> {
        let packet = [OP_SEND, to, u64::from_le_bytes(bytes), with.unwrap_or(NONE)];
        let (answer, _) = self.ask(packet, None)?;
        Ok(Self::status(answer).map(|()| answer[1]))
    }

    pub(crate) fn list(&mut self) -> io::Result<Vec<(Tag, Kept)>> {
        let mut out = Vec::new();
        let mut next = self.ask([OP_LIST, 0, 0, 0], None)?;
        loop {
            match next {
                ([_, NONE, ..], _) => return Ok(out),
                ([_, tag, sent, witness], Some(fd)) => {
                    out.push((tag, Kept { fd, sent, witness: witness != 0 }));
                }
                (_, None) => {
                    return Err(io::Error::other(
                        "a descriptor got lost: raise the limit of open files (ulimit -n)",
                    ));
                }
            }
            next = receive_packet(&self.socket)?
                .ok_or_else(|| io::Error::other("the holder has gone"))?;
        }
    }

    /// Tells the holder to leave.
    ///
    /// # Errors
    ///
    /// When it does not confirm.
    pub fn release(mut self) -> io::Result<()> {
        self.ask([OP_RELEASE, 0, 0, 0], None)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

/// Runs the holder: `listener` is its bound socket. Returns when it may leave.
///
/// # Errors
///
/// When `listener` is no listening socket.
pub fn run(listener: BorrowedFd<'_>, linger: Duration) -> io::Result<()> {
    if !rustix::net::sockopt::socket_acceptconn(listener).unwrap_or(false) {
        return Err(io::Error::other("--holder is for vshmemd's own use"));
    }
    // Ctrl-C in the daemon's terminal is not for us; fails only for a session
    // leader, which is as good.
    let _ = rustix::process::setsid();
    crate::daemon::raise_file_limit(0);
    let mut store = Store::default();
    wait_and_serve(listener, linger, &mut store)?;
    if let Some(path) = bound_to(listener) {
        let _ = std::fs::remove_file(path);
    }
    store.farewell();
    Ok(())
}

fn wait_and_serve(listener: BorrowedFd<'_>, linger: Duration, store: &mut Store) -> io::Result<()> {
    let mut alone_since = Instant::now();
    // Often enough to notice that the last witness has died.
    let tick = linger.clamp(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let tick = Timespec::try_from(tick).ok();
        let mut wait = [PollFd::new(&listener, PollFlags::IN)];
        match poll(&mut wait, tick.as_ref()) {
            Ok(0) if alone_since.elapsed() >= linger && !is_used(store) => return Ok(()),
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let Ok(daemon) = accept_with(listener, SocketFlags::CLOEXEC) else { continue };
        if !is_own_user(&daemon) {
            continue;
        }
        if serve(&daemon, store) {
            return Ok(());
        }
        alone_since = Instant::now();
    }
}

fn is_used(store: &Store) -> bool {
    has_live_witness(store) || is_mapped(store)
}

/// Whether another process maps a file of the store. Root sees every process,
/// a user those of its own: which are the ones that could have attached.
fn is_mapped(store: &Store) -> bool {
    let files: Vec<String> = store
        .iter()
        .filter_map(|(_, kept)| fstat(&kept.fd).ok())
        .filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        .map(|stat| {
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            // As /proc/PID/maps has it, before the path.
            format!(" {major:02x}:{minor:02x} {} ", stat.st_ino)
        })
        .collect();
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let process = entry.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok());
        process
            && std::fs::read_to_string(entry.path().join("maps"))
                .is_ok_and(|maps| files.iter().any(|file| maps.contains(file)))
    })
}

fn has_live_witness(store: &Store) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    store.iter().filter(|(_, kept)| kept.witness).any(|(_, kept)| {
        let mut ask = [PollFd::new(&kept.fd, PollFlags::IN)];
        // A pidfd becomes readable when its process ends.
        matches!(poll(&mut ask, Some(&now)), Ok(0))
    })
}

/// Answers one daemon until it goes; true when it says that all may go.
fn serve(daemon: &OwnedFd, store: &mut Store) -> bool {
    loop {
        let Ok(Some((packet, fd))) = receive_packet(daemon) else { return false };
        let answer = match (packet, fd) {
            ([OP_HELLO, ..], _) => {
                let pid = u64::from(std::process::id());
                send_packet(daemon, [0, HELLO, pid, 0], None)
            }
            ([OP_PUT, tag, sent, witness], Some(fd)) => {
                store.put(tag, Kept { fd, sent, witness: witness != 0 });
                send_packet(daemon, [0; WORDS], None)
            }
            ([OP_PUT, ..], None) => send_packet(daemon, failed(Errno::MFILE), None),
            ([OP_REMOVE, tag, ..], _) => {
                store.remove(tag);
                send_packet(daemon, [0; WORDS], None)
            }
            ([OP_ACCEPT, listener, tag, _], _) => match store.accept(listener, tag) {
                Ok(fd) => send_packet(daemon, [0; WORDS], Some(fd)),
                Err(e) => send_packet(daemon, failed(e), None),
            },
            ([OP_SEND, to, bytes, with], _) => {
                let with = (with != NONE).then_some(with);
                match store.send(to, bytes.to_le_bytes(), with) {
                    Ok(sent) => send_packet(daemon, [0, sent, 0, 0], None),
                    Err(e) => send_packet(daemon, failed(e), None),
                }
            }
            ([OP_LIST, ..], _) => send_list(daemon, store),
            ([OP_RELEASE, ..], _) => {
                store.farewell();
                let _ = send_packet(daemon, [0; WORDS], None);
                return true;
            }
            _ => send_packet(daemon, failed(Errno::NOSYS), None),
        };
        if answer.is_err() {
            return false;
        }
    }
}

fn failed(errno: Errno) -> Packet {
    [u64::try_from(errno.raw_os_error()).unwrap_or(0), 0, 0, 0]
}

fn send_list(daemon: &OwnedFd, store: &Store) -> Result<(), Errno> {
    for (tag, kept) in store.iter() {
        let packet = [0, tag, kept.sent, u64::from(kept.witness)];
        send_packet(daemon, packet, Some(kept.fd.as_fd()))?;
    }
    send_packet(daemon, [0, NONE, 0, 0], None)
}
