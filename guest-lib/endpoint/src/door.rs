//! Connections: accepting, receiving, answering, and making room.

use crate::endpoint::{Connection, Endpoint, Role};
use crate::foreign::Foreign;
use crate::sys;
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, accept_with, sendmsg,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tracing::{debug, error, warn};
use vshmem_core::attach::{REQUEST, Reply, Request};

/// What a request gets: a reply and descriptors.
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) fds: Vec<OwnedFd>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, fds: Vec::new() }
    }
}

/// Why a request is refused: for the program and for a person.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno, text: text.into() }
    }

    fn reply(&self) -> Reply {
        Reply::refusal(self.errno.raw_os_error().unsigned_abs(), &self.text)
    }
}

/// Connections accepted before others are served.
const BATCH: usize = 16;

impl Endpoint {
    /// Takes new connections; when there is no room, the oldest idle one makes way.
    ///
    /// Without free descriptors the spare one serves: whoever it is, is told why it cannot attach.
    pub(crate) fn accept(&mut self) {
        if self.spare.is_none() {
            self.spare = rustix::io::fcntl_dupfd_cloexec(&self.listener, 0).ok();
        }
        for _ in 0..BATCH {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match accept_with(&self.listener, flags) {
                Ok(socket) => self.admit(socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(e) => {
                    if !self.evict(|_| true) && self.spare.take().is_none() {
                        warn!(error = %e, "cannot accept connections: trying again in a second");
                        self.pause();
                        return;
                    }
                }
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        let who = match sys::connector(&socket) {
            Ok(who) => who,
            Err(e) => {
                warn!(error = %e, "a connection without credentials");
                return;
            }
        };
        let new = |c: &&Connection| c.role == Role::New;
        let all = self.connections.values().filter(new).count();
        let of_uid = self.connections.values().filter(new).filter(|c| c.who.uid == who.uid).count();
        if of_uid >= self.policy.waiting_per_uid {
            self.evict(|c| c.who.uid == who.uid);
        } else if all >= self.policy.waiting {
            self.evict(|_| true);
        }
        let socket = Foreign::connection(socket, who.uid, &self.bin);
        self.connect(Connection { socket, who, role: Role::New });
    }

    /// Watches a connection; `false` if that fails, and it is closed.
    pub(crate) fn connect(&mut self, connection: Connection) -> bool {
        let token = self.token();
        let ready = rustix::net::sockopt::set_socket_passcred(&connection.socket, true)
            .and_then(|()| self.add(connection.socket.as_fd(), token));
        match ready {
            Ok(()) => {
                self.connections.insert(token, connection);
                true
            }
            Err(e) => {
                error!(error = %e, "cannot watch a connection");
                false
            }
        }
    }

    /// Closes the oldest connection without a task that `which` names.
    fn evict(&mut self, which: impl Fn(&Connection) -> bool) -> bool {
        let new = self.connections.iter().filter(|(_, c)| c.role == Role::New && which(c));
        let Some(token) = new.map(|(token, _)| *token).min() else { return false };
        let busy = Refusal::new(Errno::BUSY, "too many connections without a task: try again");
        if let Some(c) = self.connections.remove(&token) {
            debug!(pid = c.who.pid, uid = c.who.uid, "making room");
            let _ = send(c.socket.as_fd(), &busy.reply().into());
            self.forget(c.socket.as_fd());
        }
        true
    }

    /// Takes one request of a connection and answers it.
    pub(crate) fn serve(&mut self, token: u64) {
        // Gone since the event was fetched.
        let Some(connection) = self.connections.get(&token) else { return };
        let packet = match sys::receive(&connection.socket, REQUEST) {
            Ok(Some(packet)) => packet,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(None) => return self.ended(token),
            Err(e) => {
                debug!(error = %e, "a connection failed");
                return self.ended(token);
            }
        };
        let sys::Packet { bytes, fds, sender } = packet;
        let uid = connection.who.uid;
        let gifts = fds.into_iter().map(|fd| Foreign::gift(fd, uid, &self.bin)).collect();
        let answer = match Request::decode(&bytes) {
            Ok(request) => self.request(token, request, sender, gifts).unwrap_or_else(|refusal| {
                if self.talk.may() {
                    self.complain("refused", |quiet| {
                    warn!(errno = %refusal.errno, reason = refusal.text, quiet, "request refused");
                });
                }
                refusal.reply().into()
            }),
            Err(bad) => {
                if self.talk.may() {
                    self.complain("packet", |quiet| {
                    warn!(error = %bad, quiet, "a packet that is no request: closing its connection");
                });
                }
                self.answer(token, &Refusal::new(Errno::PROTO, bad.to_string()).reply().into());
                return self.ended(token);
            }
        };
        if !self.answer(token, &answer) {
            self.ended(token);
        }
    }

    /// `false` if the client cannot be told: it does not read, or is gone.
    fn answer(&mut self, token: u64, answer: &Answer) -> bool {
        let Some(connection) = self.connections.get(&token) else { return true };
        let sent = send(connection.socket.as_fd(), answer);
        if let Err(e) = &sent
            && self.talk.may()
        {
            warn!(pid = connection.who.pid, error = %e, "cannot answer: closing the connection");
        }
        sent.is_ok()
    }
}

/// What is said of clients, who may give cause for any number of lines.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    since: Option<Instant>,
    said: u32,
}

impl Talk {
    /// Lines in each span of time; what is more is counted.
    const LINES: u32 = 20;
    const SPAN: Duration = Duration::from_secs(10);

    /// Whether another line may be written now.
    pub(crate) fn may(&mut self) -> bool {
        if self.since.is_none_or(|since| since.elapsed() > Self::SPAN) {
            let unsaid = self.said.saturating_sub(Self::LINES);
            if unsaid > 0 {
                warn!(unsaid, "more was refused to clients than is told here");
            }
            *self = Self { since: Some(Instant::now()), said: 0 };
        }
        self.said = self.said.saturating_add(1);
        self.said <= Self::LINES
    }
}

/// Sends without waiting: whoever does not read its replies loses them.
fn send(socket: BorrowedFd<'_>, answer: &Answer) -> Result<(), Errno> {
    let bytes = answer.reply.encode();
    let fds: Vec<_> = answer.fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags).map(drop)
}
