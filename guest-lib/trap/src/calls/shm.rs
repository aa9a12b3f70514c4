//! `shmget` and `shmctl`; mapping is [`crate::mapping`]'s.

use super::At;
use crate::failed::Result;
use crate::remote::Remote;
use vshmem::abi::{ShmLimits, ShmUsage, ShmidDs, cmd};
use vshmem::sysv::Errno;
use vshmem::sysv::shm;

/// `shmget`.
pub fn get(at: &mut At<'_>, key: i32, size: u64, flags: i32) -> Result<i64> {
    Ok(shm::get(at.r, at.on, at.c, key, size, flags)?.into())
}

/// Whether the command tells or depends on how often a segment is attached.
pub const fn counts(command: i32) -> bool {
    matches!(command, cmd::IPC_STAT | cmd::SHM_STAT | cmd::SHM_STAT_ANY | cmd::IPC_RMID)
}

/// How many bytes the caller may lock.
fn may_lock(caller: Remote) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let ask = libc::RLIMIT_MEMLOCK;
    // SAFETY: room for the answer.
    let rc = unsafe { libc::prlimit(caller.tid, ask, std::ptr::null(), &raw mut limit) };
    if rc == 0 { limit.rlim_cur } else { 0 }
}

/// `shmctl`.
pub fn control(at: &mut At<'_>, id: i32, command: i32, arg: u64) -> Result<i64> {
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let (r, on, c) = (at.r, &mut *at.on, at.c);
    let value = match command {
        cmd::IPC_STAT => {
            let stat = shm::stat(r, on, c, id)?;
            at.memory.put(arg, &ShmidDs::from(stat))?;
            0
        }
        cmd::SHM_STAT | cmd::SHM_STAT_ANY => {
            let any = command == cmd::SHM_STAT_ANY;
            let (found, stat) = shm::stat_index(r, on, c, id, any)?;
            at.memory.put(arg, &ShmidDs::from(stat))?;
            found
        }
        cmd::IPC_SET => {
            let p = at.memory.get::<ShmidDs>(arg)?.perm;
            shm::set(r, on, c, id, p.uid, p.gid, p.mode)?;
            0
        }
        cmd::IPC_RMID => {
            shm::remove(r, on, c, id)?;
            0
        }
        cmd::SHM_LOCK | cmd::SHM_UNLOCK => {
            let (locked, may) = (command == cmd::SHM_LOCK, may_lock(at.memory));
            shm::set_locked(r, on, c, id, locked, may)?;
            0
        }
        cmd::IPC_INFO => {
            let i = shm::info(r)?;
            let limits = ShmLimits {
                shmmax: i.shmmax,
                shmmin: 1,
                shmmni: i.shmmni.into(),
                shmseg: i.shmmni.into(),
                shmall: i.shmall,
                ..ShmLimits::default()
            };
            at.memory.put(arg, &limits)?;
            i.highest.max(0)
        }
        cmd::SHM_INFO => {
            let i = shm::info(r)?;
            let usage = ShmUsage {
                used_ids: i32::try_from(i.used_ids).unwrap_or(i32::MAX),
                shm_tot: i.pages,
                shm_rss: i.pages,
                ..ShmUsage::default()
            };
            at.memory.put(arg, &usage)?;
            i.highest.max(0)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(value.into())
}
