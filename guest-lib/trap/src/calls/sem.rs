//! `semget`, `semop`, `semtimedop`, `semctl`.

use super::{At, Waits, unless};
use crate::failed::Result;
use vshmem::Limit;
use vshmem::abi::{SemInfo, Sembuf, SemidDs, cmd};
use vshmem::sysv::sem::{self, SemBuf};
use vshmem::sysv::{Errno, flag};

/// `semget`.
pub fn get(at: &mut At<'_>, key: i32, n: i32, flags: i32) -> Result<i64> {
    Ok(sem::get(at.r, at.on, at.c, key, n, flags)?.into())
}

/// A `semop` that was read.
pub struct Op {
    id: i32,
    ops: Vec<SemBuf>,
    deadline: Option<u64>,
}

impl Op {
    /// Reads it, in the kernel's order of checks.
    pub fn read(at: &At<'_>, id: i32, ops: u64, n: u64, limit: u64) -> Result<Self> {
        let time = if limit == 0 { None } else { Some(at.memory.get::<[i64; 2]>(limit)?) };
        if n == 0 {
            return Err(Errno::EINVAL.into());
        }
        let most = at.r.limit(Limit::Semopm)?;
        // The kernel takes the low half.
        if u64::from(n as u32) > most {
            return Err(Errno::E2BIG.into());
        }
        let mut bytes = vec![0; n as u32 as usize * size_of::<Sembuf>()];
        at.memory.read_bytes(ops, &mut bytes)?;
        let ops = bytes.chunks_exact(size_of::<Sembuf>()).map(|b| SemBuf {
            num: u16::from_ne_bytes([b[0], b[1]]),
            op: i16::from_ne_bytes([b[2], b[3]]),
            flg: i16::from_ne_bytes([b[4], b[5]]),
        });
        let ops = ops.collect();
        let deadline = time.map(|t| at.deadline(t)).transpose()?;
        Ok(Self { id, ops, deadline })
    }
}

impl Waits for Op {
    fn run(&mut self, at: &mut At<'_>, wait: bool) -> Result<Option<i64>> {
        if wait {
            sem::op(at.r, at.on, at.c, self.id, &self.ops, self.deadline)?;
            return Ok(Some(0));
        }
        let no_wait = flag::IPC_NOWAIT as i16;
        let stays = self.ops.iter().all(|op| op.flg & no_wait != 0);
        let now = |op: &SemBuf| SemBuf { flg: op.flg | no_wait, ..*op };
        let done = if let [one] = self.ops[..] {
            sem::op(at.r, at.on, at.c, self.id, &[now(&one)], None)
        } else {
            let ops: Vec<_> = self.ops.iter().map(now).collect();
            sem::op(at.r, at.on, at.c, self.id, &ops, None)
        };
        if stays {
            done?;
            return Ok(Some(0));
        }
        Ok(unless(done, Errno::EAGAIN)?.map(|()| 0))
    }
}

/// `semctl`.
pub fn control(at: &mut At<'_>, id: i32, num: i32, command: i32, arg: u64) -> Result<i64> {
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let (r, on, c) = (at.r, &mut *at.on, at.c);
    let value = match command {
        cmd::GETVAL => sem::getval(r, on, c, id, num)?,
        cmd::GETPID => sem::getpid(r, on, c, id, num)?,
        cmd::GETNCNT => sem::getncnt(r, on, c, id, num)?,
        cmd::GETZCNT => sem::getzcnt(r, on, c, id, num)?,
        cmd::SETVAL => {
            sem::setval(r, on, c, id, num, arg as i32)?;
            0
        }
        cmd::GETALL => {
            let values = sem::getall(r, on, c, id)?;
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
            at.memory.write_bytes(arg, &bytes)?;
            0
        }
        cmd::SETALL => {
            let n = sem::nsems(r, c, id)?;
            let mut bytes = vec![0; n * 2];
            at.memory.read_bytes(arg, &mut bytes)?;
            let values = bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
            sem::setall(r, on, c, id, &values.collect::<Vec<_>>())?;
            0
        }
        cmd::IPC_STAT => {
            let stat = sem::stat(r, on, c, id)?;
            at.memory.put(arg, &SemidDs::from(stat))?;
            0
        }
        cmd::SEM_STAT | cmd::SEM_STAT_ANY => {
            let any = command == cmd::SEM_STAT_ANY;
            let (found, stat) = sem::stat_index(r, on, c, id, any)?;
            at.memory.put(arg, &SemidDs::from(stat))?;
            found
        }
        cmd::IPC_SET => {
            let p = at.memory.get::<SemidDs>(arg)?.perm;
            sem::set(r, on, c, id, p.uid, p.gid, p.mode)?;
            0
        }
        cmd::IPC_RMID => {
            sem::remove(r, on, c, id)?;
            0
        }
        cmd::IPC_INFO | cmd::SEM_INFO => {
            let i = sem::info(r)?;
            let used = command == cmd::SEM_INFO;
            let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
            let info = SemInfo {
                semmap: int(i.semmns),
                semmni: int(i.semmni),
                semmns: int(i.semmns),
                semmnu: int(i.semmns),
                semmsl: int(i.semmsl),
                semopm: int(i.semopm),
                semume: int(i.semopm),
                semusz: if used { int(i.used_sets) } else { 20 },
                semvmx: sem::MAX_VALUE,
                semaem: if used { int(i.used_sems) } else { sem::MAX_VALUE },
            };
            at.memory.put(arg, &info)?;
            i.highest.max(0)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(value.into())
}
