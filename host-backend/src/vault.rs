//! The descriptors that must outlive a crash of the daemon.
//!
//! Each has a tag. The daemon's structures name tags only; [`Vault`] turns
//! them into descriptors, and mirrors every change into the holder process
//! (see [`crate::holder`]). The store is the same type on both sides.
//!
//! Two operations go *through* the holder rather than beside it, so that no
//! instant exists at which a crash loses track of what a client has seen:
//!
//! - `accept`: a connection is in the holder before the daemon knows of it. A
//!   bare close in the middle of QEMU's start-up would make it spin for ever;
//! - `send`: the holder counts the messages it has sent on each socket. After a
//!   crash the count says exactly where a client's queue stands; sending a
//!   disconnect notice twice would make QEMU abort.

use crate::codec::{MESSAGES_TO_MEMORY, Message};
use crate::holder::Link;
use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, getsockname, sendmsg, sockopt,
};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use vshmem_endpoint::Bin;

/// Names a kept descriptor. Never reused while the holder lives.
pub type Tag = u64;

/// The tag of the state (see [`crate::state`]); the first free one is next.
pub const STATE: Tag = 0;

/// One kept descriptor.
#[derive(Debug)]
pub struct Kept {
    /// The descriptor.
    pub fd: OwnedFd,
    /// Messages sent on it.
    pub sent: u64,
    /// A pidfd whose process is a reason to keep everything.
    pub witness: bool,
}

/// Tagged descriptors.
#[derive(Debug, Default)]
pub struct Store {
    kept: BTreeMap<Tag, Kept>,
    /// In the queues of connections may lie what takes long to close.
    bin: Bin,
}

impl Drop for Store {
    fn drop(&mut self) {
        for (_, kept) in std::mem::take(&mut self.kept) {
            self.bin.close(kept.fd);
        }
    }
}

impl Store {
    /// Keeps `kept` under `tag`; what was there is closed.
    pub fn put(&mut self, tag: Tag, kept: Kept) {
        if let Some(before) = self.kept.insert(tag, kept) {
            self.bin.close(before.fd);
        }
    }

    /// Closes `tag`, if it is there.
    pub fn remove(&mut self, tag: Tag) {
        if let Some(kept) = self.kept.remove(&tag) {
            self.bin.close(kept.fd);
        }
    }

    /// What `tag` names.
    ///
    /// # Errors
    ///
    /// `EBADF` when it names nothing.
    pub fn get(&self, tag: Tag) -> Result<&Kept, Errno> {
        self.kept.get(&tag).ok_or(Errno::BADF)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, &Kept)> {
        self.kept.iter().map(|(&tag, kept)| (tag, kept))
    }

    /// Takes leave of everybody who would otherwise wait for ever, before the
    /// store is dropped: removes the names of listening sockets, and refuses
    /// the VMs that wait behind them or have not got their memory yet. (A bare
    /// close would make their QEMUs spin.)
    pub fn farewell(&mut self) {
        let refusal = Message::<Tag>::refusal().bytes();
        for kept in self.kept.values() {
            let Ok(listening) = sockopt::socket_acceptconn(&kept.fd) else { continue };
            if listening && let Some(path) = bound_to(&kept.fd) {
                let _ = std::fs::remove_file(path);
            }
            if sockopt::socket_type(&kept.fd) != Ok(SocketType::STREAM) {
                continue;
            }
            if !listening && kept.sent < MESSAGES_TO_MEMORY {
                let _ = send_with(&kept.fd, &refusal, &[], SendFlags::DONTWAIT);
            }
            while listening && let Ok(waiting) = accept_with(&kept.fd, SocketFlags::CLOEXEC) {
                let _ = send_with(waiting, &refusal, &[], SendFlags::DONTWAIT);
            }
        }
    }

    /// Accepts a connection of listener `listener` and keeps it under `tag`.
    ///
    /// # Errors
    ///
    /// `EBADF` for an unknown listener; what `accept4` says.
    pub fn accept(&mut self, listener: Tag, tag: Tag) -> Result<BorrowedFd<'_>, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = accept_with(&self.get(listener)?.fd, flags)?;
        self.put(tag, Kept { fd, sent: 0, witness: false });
        Ok(self.get(tag)?.fd.as_fd())
    }

    /// Sends eight bytes, with the descriptor `with` beside them, on socket
    /// `to` without waiting; returns how many messages it has been sent.
    ///
    /// # Errors
    ///
    /// `EBADF` for an unknown tag; what `sendmsg` says.
    pub fn send(&mut self, to: Tag, bytes: [u8; 8], with: Option<Tag>) -> Result<u64, Errno> {
        let fds = match with {
            Some(tag) => vec![self.get(tag)?.fd.as_fd()],
            None => Vec::new(),
        };
        send_with(&self.get(to)?.fd, &bytes, &fds, SendFlags::DONTWAIT)?;
        let kept = self.kept.get_mut(&to).ok_or(Errno::BADF)?;
        kept.sent += 1;
        Ok(kept.sent)
    }
}

/// The path a UNIX socket is bound to, or was accepted at.
pub(crate) fn bound_to(socket: impl AsFd) -> Option<PathBuf> {
    let address = SocketAddrUnix::try_from(getsockname(socket).ok()?).ok()?;
    let path = address.path()?;
    Some(PathBuf::from(path.to_str().ok()?))
}

/// One message with descriptors. Eight bytes on a stream go whole or not at
/// all: the kernel queues a message of this size in one piece.
pub(crate) fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(Errno::IO) }
}

/// The daemon's side: a mirror of the holder's store, and the link to it.
#[derive(Debug, Default)]
pub struct Vault {
    mirror: Store,
    link: Option<Link>,
    next: Tag,
}

impl Vault {
    /// A vault without a holder: nothing survives this process.
    pub fn local() -> Self {
        Self { mirror: Store::default(), link: None, next: STATE + 1 }
    }

    /// Takes over what the holder behind `link` has; it is left with the same.
    ///
    /// # Errors
    ///
    /// When the holder does not answer.
    pub fn resume(mut link: Link) -> io::Result<Self> {
        let mut mirror = Store::default();
        let mut next = STATE + 1;
        for (tag, kept) in link.list()? {
            next = next.max(tag.saturating_add(1));
            mirror.put(tag, kept);
        }
        Ok(Self { mirror, link: Some(link), next })
    }

    /// Whether there is a holder.
    pub fn is_held(&self) -> bool {
        self.link.is_some()
    }

    /// The link to the holder.
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Gives everything to a new holder.
    ///
    /// # Errors
    ///
    /// When it does not answer; the vault is then without one.
    pub fn hand_to(&mut self, mut link: Link) -> io::Result<()> {
        self.link = None;
        // The state comes last: a holder without one has not got everything.
        for (tag, kept) in self.mirror.iter().filter(|&(tag, _)| tag != STATE) {
            link.put(tag, kept)?;
        }
        if let Ok(state) = self.mirror.get(STATE) {
            link.put(STATE, state)?;
        }
        self.link = Some(link);
        Ok(())
    }

    /// Forgets a holder that has gone.
    pub fn lose_holder(&mut self) {
        self.link = None;
    }

    /// Lets everything go, in the holder too, which leaves.
    pub fn release(&mut self) {
        self.mirror.farewell();
        if let Some(link) = self.link.take()
            && let Err(e) = link.release()
        {
            tracing::warn!(error = %e, "the holder did not confirm that it leaves");
        }
        self.mirror = Store::default();
    }

    fn fresh_tag(&mut self) -> Tag {
        let tag = self.next;
        self.next += 1;
        tag
    }

    /// Runs `ask` with the holder; a holder that fails is dropped, and the
    /// daemon goes on without until it has started another.
    fn with_link<T>(&mut self, ask: impl FnOnce(&mut Link) -> io::Result<T>) -> Option<T> {
        match ask(self.link.as_mut()?) {
            Ok(value) => Some(value),
            Err(e) => {
                tracing::warn!(error = %e, "lost the holder: a crash now would lose the VMs");
                self.link = None;
                None
            }
        }
    }

    /// Keeps `fd` under a new tag.
    pub fn put(&mut self, fd: OwnedFd) -> Tag {
        let tag = self.fresh_tag();
        self.put_as(tag, Kept { fd, sent: 0, witness: false });
        tag
    }

    /// Keeps the pidfd `fd`, for whose process the holder waits.
    pub fn put_witness(&mut self, fd: OwnedFd) -> Tag {
        let tag = self.fresh_tag();
        self.put_as(tag, Kept { fd, sent: 0, witness: true });
        tag
    }

    /// Keeps `kept` under a tag of the caller's, in place of what was there.
    pub fn put_as(&mut self, tag: Tag, kept: Kept) {
        self.with_link(|link| link.put(tag, &kept));
        self.mirror.put(tag, kept);
    }

    /// Lets `tag` go.
    pub fn remove(&mut self, tag: Tag) {
        self.mirror.remove(tag);
        self.with_link(|link| link.remove(tag));
    }

    /// The descriptor of `tag`.
    ///
    /// # Errors
    ///
    /// `EBADF` when it names nothing.
    pub fn fd(&self, tag: Tag) -> Result<BorrowedFd<'_>, Errno> {
        Ok(self.mirror.get(tag)?.fd.as_fd())
    }

    /// Messages sent on `tag`.
    pub fn sent(&self, tag: Tag) -> u64 {
        self.mirror.get(tag).map_or(0, |kept| kept.sent)
    }

    /// Every tag there is.
    pub fn tags(&self) -> Vec<Tag> {
        self.mirror.iter().map(|(tag, _)| tag).collect()
    }

    /// Accepts a connection of `listener`.
    ///
    /// # Errors
    ///
    /// As [`Store::accept`].
    pub fn accept(&mut self, listener: Tag) -> Result<Tag, Errno> {
        let tag = self.fresh_tag();
        if self.link.is_some()
            && let Some(answer) = self.with_link(|link| link.accept(listener, tag))
        {
            self.mirror.put(tag, Kept { fd: answer?, sent: 0, witness: false });
            return Ok(tag);
        }
        self.mirror.accept(listener, tag)?;
        Ok(tag)
    }

    /// Sends a message; see [`Store::send`].
    ///
    /// # Errors
    ///
    /// As [`Store::send`].
    pub fn send(&mut self, to: Tag, bytes: [u8; 8], with: Option<Tag>) -> Result<u64, Errno> {
        if self.link.is_none() {
            return self.mirror.send(to, bytes, with);
        }
        let answer = self.with_link(|link| link.send(to, bytes, with));
        let kept = self.mirror.kept.get_mut(&to).ok_or(Errno::BADF)?;
        kept.sent = match answer {
            Some(answer) => answer?,
            // The holder died under the request. At most once: a notice that
            // is missing costs a doorbell, a repeated one can abort QEMU.
            None => kept.sent + 1,
        };
        Ok(kept.sent)
    }
}
