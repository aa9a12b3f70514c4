//! `msgget`, `msgsnd`, `msgrcv`, `msgctl`.

use super::{At, Waits, unless};
use crate::failed::Result;
use crate::proxy::Proxy;
use crate::remote::Remote;
use vshmem::Limit;
use vshmem::abi::{MsgInfo, MsqidDs, cmd};
use vshmem::sysv::msg;
use vshmem::sysv::{Errno, flag};
use vshmem_core::Offset;
use vshmem_core::mem::Mem;

/// `msgget`.
pub fn get(at: &mut At<'_>, key: i32, flags: i32) -> Result<i64> {
    Ok(msg::get(at.r, at.on, at.c, key, flags)?.into())
}

/// A `msgsnd` that was read.
pub struct Send {
    id: i32,
    mtype: i64,
    text: Vec<u8>,
    flags: i32,
}

impl Send {
    /// Reads it, in the kernel's order of checks.
    pub fn read(at: &At<'_>, id: i32, message: u64, n: u64, flags: i32) -> Result<Self> {
        let mtype = at.memory.get::<i64>(message)?;
        if n > at.r.limit(Limit::Msgmax)? || mtype < 1 || id < 0 {
            return Err(Errno::EINVAL.into());
        }
        let mut text = vec![0; n as usize];
        if n > 0 {
            at.memory.read_bytes(message + 8, &mut text)?;
        }
        Ok(Self { id, mtype, text, flags })
    }
}

impl Waits for Send {
    fn run(&mut self, at: &mut At<'_>, wait: bool) -> Result<Option<i64>> {
        let stays = wait || self.flags & flag::IPC_NOWAIT != 0;
        let flags = if wait { self.flags } else { self.flags | flag::IPC_NOWAIT };
        let sent = msg::send(at.r, at.on, at.c, self.id, self.mtype, &self.text[..], flags, None);
        if stays {
            sent?;
            return Ok(Some(0));
        }
        Ok(unless(sent, Errno::EAGAIN)?.map(|()| 0))
    }
}

/// The caller's room for a message: its type, then its text.
struct There {
    memory: Remote,
    at: u64,
    len: usize,
}

impl There {
    fn put(&self, mtype: i64, text: &[u8]) -> Result<()> {
        self.memory.put(self.at, &mtype)?;
        if text.is_empty() {
            return Ok(());
        }
        self.memory.write_bytes(self.at.wrapping_add(8), text)
    }
}

impl msg::Room<Proxy> for There {
    fn len(&self) -> usize {
        self.len
    }

    fn take(
        &mut self,
        mtype: i64,
        n: usize,
        mem: &Proxy,
        from: Offset,
    ) -> vshmem::sysv::Result<()> {
        let mut text = vec![0; n];
        mem.read_bytes(from, &mut text)?;
        msg::Room::give(self, mtype, &text)
    }

    fn give(&mut self, mtype: i64, text: &[u8]) -> vshmem::sysv::Result<()> {
        self.put(mtype, text).map_err(|_| Errno::EFAULT.into())
    }
}

/// A `msgrcv`.
pub struct Receive {
    id: i32,
    room: There,
    mtype: i64,
    flags: i32,
}

impl Receive {
    /// Checks its arguments.
    pub fn read(
        at: &At<'_>,
        id: i32,
        message: u64,
        n: u64,
        mtype: i64,
        flags: i32,
    ) -> Result<Self> {
        let len = isize::try_from(n).ok().filter(|_| id >= 0).ok_or(Errno::EINVAL)?;
        let room = There { memory: at.memory, at: message, len: len.cast_unsigned() };
        Ok(Self { id, room, mtype, flags })
    }

    /// With MSG_COPY: what stays in the queue is copied under its lock, where no other process's
    /// memory is touched. The kernel's way of making room for the copy is to read what is there.
    fn copy(&self, at: &mut At<'_>) -> Result<i64> {
        if self.flags & flag::MSG_EXCEPT != 0 || self.flags & flag::IPC_NOWAIT == 0 {
            return Err(Errno::EINVAL.into());
        }
        let most = usize::try_from(at.r.limit(Limit::Msgmax)?).unwrap_or(usize::MAX);
        let mut text = vec![0; self.room.len.min(most)];
        at.memory.read_bytes(self.room.at, &mut text)?;
        let (on, text) = (&mut *at.on, text.as_mut_slice());
        let (mtype, n) = msg::recv(at.r, on, at.c, self.id, text, self.mtype, self.flags, None)?;
        self.room.put(mtype, &text[..n])?;
        Ok(n as i64)
    }
}

impl Waits for Receive {
    fn run(&mut self, at: &mut At<'_>, wait: bool) -> Result<Option<i64>> {
        if self.flags & flag::MSG_COPY != 0 {
            return self.copy(at).map(Some);
        }
        let stays = wait || self.flags & flag::IPC_NOWAIT != 0;
        let flags = if wait { self.flags } else { self.flags | flag::IPC_NOWAIT };
        let (on, room) = (&mut *at.on, &mut self.room);
        let got = msg::recv(at.r, on, at.c, self.id, room, self.mtype, flags, None);
        let got = if stays { Some(got?) } else { unless(got, Errno::ENOMSG)? };
        Ok(got.map(|(_, n)| n as i64))
    }
}

/// `msgctl`.
pub fn control(at: &mut At<'_>, id: i32, command: i32, arg: u64) -> Result<i64> {
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let (r, on, c) = (at.r, &mut *at.on, at.c);
    let value = match command {
        cmd::IPC_STAT => {
            let stat = msg::stat(r, on, c, id)?;
            at.memory.put(arg, &MsqidDs::from(stat))?;
            0
        }
        cmd::MSG_STAT | cmd::MSG_STAT_ANY => {
            let any = command == cmd::MSG_STAT_ANY;
            let (found, stat) = msg::stat_index(r, on, c, id, any)?;
            at.memory.put(arg, &MsqidDs::from(stat))?;
            found
        }
        cmd::IPC_SET => {
            let ds = at.memory.get::<MsqidDs>(arg)?;
            let p = ds.perm;
            msg::set(r, on, c, id, p.uid, p.gid, p.mode, ds.qbytes)?;
            0
        }
        cmd::IPC_RMID => {
            msg::remove(r, on, c, id)?;
            0
        }
        cmd::IPC_INFO | cmd::MSG_INFO => {
            let i = msg::info(r)?;
            let used = command == cmd::MSG_INFO;
            let int = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
            let info = MsgInfo {
                msgpool: if used { int(i.used_queues.into()) } else { 512_000 },
                msgmap: if used { int(i.messages) } else { 16_384 },
                msgmax: int(i.msgmax.into()),
                msgmnb: int(i.msgmnb.into()),
                msgmni: int(i.msgmni.into()),
                msgssz: 16,
                msgtql: if used { int(i.bytes) } else { 16_384 },
                msgseg: 0xffff,
                ..MsgInfo::default()
            };
            at.memory.put(arg, &info)?;
            i.highest.max(0)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(value.into())
}
