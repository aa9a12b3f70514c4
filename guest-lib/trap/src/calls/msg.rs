//! `msgget`, `msgsnd`, `msgrcv`, `msgctl`.

use super::{At, Waits, unless};
use crate::failed::Result;
use vshmem::Limit;
use vshmem::abi::{MsgInfo, MsqidDs, cmd};
use vshmem::sysv::msg;
use vshmem::sysv::{Errno, flag};

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
        let sent = msg::send(at.r, at.on, at.c, self.id, self.mtype, &self.text, flags, None);
        if stays {
            sent?;
            return Ok(Some(0));
        }
        Ok(unless(sent, Errno::EAGAIN)?.map(|()| 0))
    }
}

/// A `msgrcv`.
pub struct Receive {
    id: i32,
    message: u64,
    text: Vec<u8>,
    mtype: i64,
    flags: i32,
    /// More room than any message needs.
    ample: bool,
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
        if id < 0 || i64::try_from(n).is_err() {
            return Err(Errno::EINVAL.into());
        }
        // A message is never longer than the limit was when it was sent.
        let most = at.r.limit(Limit::Msgmax)?.max(1 << 20);
        let text = vec![0; n.min(most) as usize];
        Ok(Self { id, message, text, mtype, flags, ample: n > most })
    }
}

impl Waits for Receive {
    fn run(&mut self, at: &mut At<'_>, wait: bool) -> Result<Option<i64>> {
        let stays = wait || self.flags & flag::IPC_NOWAIT != 0;
        let mut flags = if stays { self.flags } else { self.flags | flag::IPC_NOWAIT };
        // What the flag forbids must not be allowed by the one that was added.
        if !stays && self.flags & flag::MSG_COPY != 0 {
            flags = self.flags;
        }
        if self.ample {
            flags |= flag::MSG_NOERROR;
        }
        let got = msg::recv(at.r, at.on, at.c, self.id, &mut self.text, self.mtype, flags, None);
        let got = if stays { Some(got?) } else { unless(got, Errno::ENOMSG)? };
        let Some((mtype, n)) = got else { return Ok(None) };
        // It is taken all the same, as the kernel takes it.
        at.memory.put(self.message, &mtype)?;
        if n > 0 {
            at.memory.write_bytes(self.message + 8, &self.text[..n])?;
        }
        Ok(Some(n as i64))
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
