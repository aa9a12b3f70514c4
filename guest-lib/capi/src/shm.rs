//! `shmget`, `shmat`, `shmdt`, `shmctl`.

use crate::abi::{ShmLimits, ShmUsage, ShmidDs, cmd};
use crate::global::{answer, by_id, by_key, int, rest};
use crate::raw::kernel;
use libc::{c_int, c_void, key_t, size_t};
use std::ptr;
use vshmem::sysv::Errno;
use vshmem::sysv::shm;
use vshmem::{AddressSpace, Error, Kind, Placement, Result, Session, user};

const PAGE: usize = 4096;

/// `shmget(2)`.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn shmget(key: key_t, size: size_t, flags: c_int) -> c_int {
    match by_key(Kind::Seg, key) {
        Some(s) => int(|| s?.call(|r, on, c| shm::get(r, on, c, key, size as u64, flags))),
        // SAFETY: no pointers.
        None => unsafe { kernel!(SYS_shmget, key, size, flags) as c_int },
    }
}

/// `shmat(2)`.
///
/// # Safety
/// With SHM_REMAP, nothing may rely on what is mapped at `at`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn shmat(id: c_int, at: *const c_void, flags: c_int) -> *mut c_void {
    // SAFETY: as the caller promises.
    unsafe { attach(id, at, flags) }
}

/// # Safety
/// As [`shmat`].
#[inline(always)]
pub(crate) unsafe fn attach(id: c_int, at: *const c_void, flags: c_int) -> *mut c_void {
    let failed = ptr::without_provenance_mut(usize::MAX);
    match by_id(id) {
        Some(s) => {
            let attached = answer(|| {
                let s = s?;
                let place = placement(at as usize, flags)?;
                // SAFETY: as the caller promises.
                unsafe { s.attach_segment(id, place) }
            });
            attached.map_or(failed, |(at, _)| at.cast())
        }
        // SAFETY: the kernel checks the address; the result is one, or -1.
        None => unsafe { kernel!(SYS_shmat, id, at, flags) as *mut c_void },
    }
}

fn placement(at: usize, flags: c_int) -> Result<Placement> {
    let (round, replace) = (flags & libc::SHM_RND != 0, flags & libc::SHM_REMAP != 0);
    let rounded = at & !(PAGE - 1);
    if (rounded != at && !round) || (rounded == 0 && replace) {
        return Err(Errno::EINVAL.into());
    }
    Ok(Placement {
        at: (at != 0).then_some(rounded),
        replace,
        read_only: flags & libc::SHM_RDONLY != 0,
        execute: flags & libc::SHM_EXEC != 0,
    })
}

/// `shmdt(2)`.
///
/// # Safety
/// Nothing may rely on the segment attached at `at`.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn shmdt(at: *const c_void) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { detach(at) }
}

/// # Safety
/// As [`shmdt`].
#[inline(always)]
pub(crate) unsafe fn detach(at: *const c_void) -> c_int {
    // SAFETY: as the caller promises.
    match answer(|| unsafe { AddressSpace::detach(at.expose_provenance()) }) {
        Ok(true) => 0,
        // SAFETY: as the caller promises; the kernel checks the address.
        Ok(false) => unsafe { kernel!(SYS_shmdt, at) as c_int },
        Err(()) => -1,
    }
}

/// `shmctl(2)`.
///
/// # Safety
/// `arg` leads to what `command` wants.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn shmctl(id: c_int, command: c_int, arg: *mut ShmidDs) -> c_int {
    let by_index =
        matches!(command, cmd::IPC_INFO | cmd::SHM_INFO | cmd::SHM_STAT | cmd::SHM_STAT_ANY);
    match if by_index { rest(Kind::Seg) } else { by_id(id) } {
        // SAFETY: as the caller promises.
        Some(s) => int(|| unsafe { control(s?, id, command, arg) }),
        // SAFETY: the kernel checks the pointer.
        None => unsafe { kernel!(SYS_shmctl, id, command, arg) as c_int },
    }
}

/// What this process is shown of an object.
fn shown(s: &Session, stat: shm::SegStat) -> ShmidDs {
    let perm = s.perm_inside(stat.perm);
    shm::SegStat { perm, ..stat }.into()
}

/// # Safety
/// As [`shmctl`].
unsafe fn control(s: &Session, id: c_int, command: c_int, arg: *mut ShmidDs) -> Result<c_int> {
    let at = arg as usize;
    let done = |()| 0;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        cmd::IPC_STAT => {
            let stat = s.call(|r, on, c| shm::stat(r, on, c, id))?;
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &shown(s, stat)) }.map(done)
        }
        cmd::SHM_STAT | cmd::SHM_STAT_ANY => {
            let any = command == cmd::SHM_STAT_ANY;
            let (found, stat) = s.call(|r, on, c| shm::stat_index(r, on, c, id, any))?;
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &shown(s, stat)) }.map(|()| found)
        }
        cmd::IPC_SET => {
            // SAFETY: the caller's structure.
            let ds: ShmidDs = unsafe { user::get(at) }?;
            let p = ds.perm;
            let (uid, gid) = s.ids_outside(p.uid, p.gid);
            s.call(|r, on, c| shm::set(r, on, c, id, uid, gid, p.mode)).map(done)
        }
        cmd::IPC_RMID => s.call(|r, on, c| shm::remove(r, on, c, id)).map(done),
        cmd::SHM_LOCK | cmd::SHM_UNLOCK => {
            let (locked, may) = (command == cmd::SHM_LOCK, may_lock());
            s.call(|r, on, c| shm::set_locked(r, on, c, id, locked, may)).map(done)
        }
        cmd::IPC_INFO => {
            let i = shm::info(s.region()?)?;
            let out = ShmLimits {
                shmmax: i.shmmax,
                shmmin: 1,
                shmmni: i.shmmni.into(),
                shmseg: i.shmmni.into(),
                shmall: i.shmall,
                ..ShmLimits::default()
            };
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &out) }.map(|()| i.highest.max(0))
        }
        cmd::SHM_INFO => {
            let i = shm::info(s.region()?)?;
            let out = ShmUsage {
                used_ids: c_int::try_from(i.used_ids).unwrap_or(c_int::MAX),
                shm_tot: i.pages,
                shm_rss: i.pages,
                ..ShmUsage::default()
            };
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &out) }.map(|()| i.highest.max(0))
        }
        _ => Err(Error::from(Errno::EINVAL)),
    }
}

/// How many bytes the process may lock.
fn may_lock() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0 {
        limit.rlim_cur
    } else {
        0
    }
}
