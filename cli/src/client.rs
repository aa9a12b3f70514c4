//! Attaching by hand, without mapping anything.

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use vshmem_core::attach::{Op, REPLY, Reply, Request};

/// An endpoint that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether anybody listens at `path`; the error says why not.
pub fn reach(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Becomes a task of the endpoint at the other end: of this process, and of whatever program it
/// executes next.
pub fn attach(socket: &OwnedFd, path: &Path) -> anyhow::Result<()> {
    let lost = || format!("the endpoint at {} does not answer as it should", path.display());
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(PATIENCE))
        .with_context(lost)?;
    let request = Request { op: Op::Attach, a: 0, b: 0 }.encode();
    send(socket, &request, SendFlags::NOSIGNAL).with_context(lost)?;
    let mut bytes = [0; REPLY + 1];
    // The descriptors are closed with the buffer.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        .with_context(lost)?;
    let reply = Reply::decode(bytes.get(..got.bytes).unwrap_or_default()).with_context(lost)?;
    if reply.status != 0 {
        bail!("the endpoint at {} refused: {}", path.display(), reply.text);
    }
    Ok(())
}
