//! `semget`, `semop`, `semtimedop`, `semctl`.

use crate::abi::{SemInfo, Sembuf, SemidDs, cmd};
use crate::global::{self, by_id, by_key, int, rest};
use crate::raw::kernel;
use libc::{c_int, c_long, c_ulong, key_t, size_t, timespec};
use std::time::Duration;
use vshmem::sysv::sem;
use vshmem::sysv::{Errno, ID_BIT};
use vshmem::{Error, Kind, Limit, Result, Session, user};

/// `semget(2)`.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn semget(key: key_t, nsems: c_int, flags: c_int) -> c_int {
    match by_key(Kind::Set, key) {
        Some(s) => int(|| s?.call(|r, on, c| sem::get(r, on, c, key, nsems, flags))),
        // SAFETY: no pointers.
        None => unsafe { kernel!(SYS_semget, key, nsems, flags) as c_int },
    }
}

/// `semop(2)`.
///
/// # Safety
/// `ops` leads to `n` operations.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn semop(id: c_int, ops: *const Sembuf, n: size_t) -> c_int {
    if n == 1
        && id & ID_BIT != 0
        && let Some((r, c)) = global::fast(id)
        && let Some(op) = user::fetch_operation(ops as usize)
    {
        match sem::op_fast(r, c, id, op) {
            Some(Ok(())) => return 0,
            Some(Err(vshmem::sysv::Error::Errno(e))) => {
                global::set_errno(e as c_int);
                return -1;
            }
            // The slow way also tells what is corrupt.
            Some(Err(vshmem::sysv::Error::Corrupt(_))) | None => {}
        }
    }
    // SAFETY: as the caller promises.
    unsafe { semtimedop(id, ops, n, std::ptr::null()) }
}

/// `semtimedop(2)`.
///
/// # Safety
/// `ops` leads to `n` operations, `limit` to a time or nowhere.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C-unwind" fn semtimedop(
    id: c_int,
    ops: *const Sembuf,
    n: size_t,
    limit: *const timespec,
) -> c_int {
    match by_id(id) {
        // SAFETY: as the caller promises.
        Some(s) => int(|| unsafe { timed(s?, id, ops, n, limit) }.map(|()| 0)),
        // SAFETY: the kernel checks the pointers.
        None => unsafe { kernel!(SYS_semtimedop, id, ops, n, limit) as c_int },
    }
}

/// Operations that go without an allocation.
const FEW: usize = 8;

/// # Safety
/// As [`semtimedop`].
unsafe fn timed(
    s: &Session,
    id: c_int,
    ops: *const Sembuf,
    n: size_t,
    limit: *const timespec,
) -> Result<()> {
    let most = s.region()?.limit(Limit::Semopm)?;
    let limit: Option<timespec> = if limit.is_null() {
        None
    } else {
        // SAFETY: any bytes are a time.
        Some(unsafe { user::get(limit as usize) }?)
    };
    if n as u64 > most {
        return Err(Errno::E2BIG.into());
    }
    if n == 0 {
        return Err(Errno::EINVAL.into());
    }
    let zero = sem::SemBuf { num: 0, op: 0, flg: 0 };
    let (mut few, mut many) = ([zero; FEW], Vec::new());
    let own: &mut [sem::SemBuf] = if n <= FEW {
        &mut few[..n]
    } else {
        many.resize(n, zero);
        &mut many
    };
    // SAFETY: room for `n`, for which any bytes do.
    unsafe { user::read(own.as_mut_ptr().cast(), ops as usize, size_of_val(own)) }?;
    let deadline = limit.map(|t| s.deadline(duration(t)?)).transpose()?;
    s.call_semop(|r, on, c| sem::op(r, on, c, id, own, deadline))
}

fn duration(t: timespec) -> Result<Duration> {
    let second = 1_000_000_000;
    match (u64::try_from(t.tv_sec), u32::try_from(t.tv_nsec)) {
        (Ok(sec), Ok(nsec)) if nsec < second => Ok(Duration::new(sec, nsec)),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `semctl(2)`. The C prototype ends in `...`; on 64-bit Linux the one argument that may follow
/// (`union semun`, by value) comes where a fourth fixed one would.
///
/// # Safety
/// `arg` is what `command` wants.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn semctl(
    id: c_int,
    num: c_int,
    command: c_int,
    arg: c_ulong,
) -> c_int {
    let by_index =
        matches!(command, cmd::IPC_INFO | cmd::SEM_INFO | cmd::SEM_STAT | cmd::SEM_STAT_ANY);
    match if by_index { rest(Kind::Set) } else { by_id(id) } {
        // SAFETY: as the caller promises.
        Some(s) => int(|| unsafe { control(s?, id, num, command, arg) }),
        // SAFETY: the kernel checks the pointer.
        None => unsafe { kernel!(SYS_semctl, id, num, command, arg) as c_int },
    }
}

/// What this process is shown of an object.
fn shown(s: &Session, stat: sem::SetStat) -> SemidDs {
    let perm = s.perm_inside(stat.perm);
    sem::SetStat { perm, ..stat }.into()
}

/// # Safety
/// As [`semctl`].
unsafe fn control(
    s: &Session,
    id: c_int,
    num: c_int,
    command: c_int,
    arg: c_ulong,
) -> Result<c_int> {
    let done = |()| 0;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        cmd::GETVAL => s.call(|r, on, c| sem::getval(r, on, c, id, num)),
        cmd::GETPID => s.call(|r, on, c| sem::getpid(r, on, c, id, num)),
        cmd::GETNCNT => s.call(|r, on, c| sem::getncnt(r, on, c, id, num)),
        cmd::GETZCNT => s.call(|r, on, c| sem::getzcnt(r, on, c, id, num)),
        cmd::SETVAL => s.call(|r, on, c| sem::setval(r, on, c, id, num, arg as c_int)).map(done),
        cmd::GETALL => {
            let values = s.call(|r, on, c| sem::getall(r, on, c, id))?;
            let (from, n) = (values.as_ptr().cast(), size_of_val(values.as_slice()));
            // SAFETY: all the values; the caller gave the array to be written.
            unsafe { user::write(arg as usize, from, n) }.map(done)
        }
        cmd::SETALL => {
            let n = s.call(|r, _, c| sem::nsems(r, c, id))?;
            let mut values = vec![0u16; n];
            let (to, n) = (values.as_mut_ptr().cast(), size_of_val(values.as_slice()));
            // SAFETY: room for as many bytes.
            unsafe { user::read(to, arg as usize, n) }?;
            s.call(|r, on, c| sem::setall(r, on, c, id, &values)).map(done)
        }
        cmd::IPC_STAT => {
            let ds = shown(s, s.call(|r, on, c| sem::stat(r, on, c, id))?);
            // SAFETY: the caller's structure.
            unsafe { user::put(arg as usize, &ds) }.map(done)
        }
        cmd::SEM_STAT | cmd::SEM_STAT_ANY => {
            let any = command == cmd::SEM_STAT_ANY;
            let (found, stat) = s.call(|r, on, c| sem::stat_index(r, on, c, id, any))?;
            // SAFETY: the caller's structure.
            unsafe { user::put(arg as usize, &shown(s, stat)) }.map(|()| found)
        }
        cmd::IPC_SET => {
            // SAFETY: the caller's structure.
            let ds: SemidDs = unsafe { user::get(arg as usize) }?;
            let p = ds.perm;
            let (uid, gid) = s.ids_outside(p.uid, p.gid);
            s.call(|r, on, c| sem::set(r, on, c, id, uid, gid, p.mode)).map(done)
        }
        cmd::IPC_RMID => s.call(|r, on, c| sem::remove(r, on, c, id)).map(done),
        cmd::IPC_INFO | cmd::SEM_INFO => {
            let i = sem::info(s.region()?)?;
            let used = command == cmd::SEM_INFO;
            let int = |n: u32| c_int::try_from(n).unwrap_or(c_int::MAX);
            // Constants of the kernel, of no use to anybody, as `ipcs -l` prints them.
            let out = SemInfo {
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
            // SAFETY: the caller's structure.
            unsafe { user::put(arg as usize, &out) }.map(|()| i.highest.max(0))
        }
        _ => Err(Error::from(Errno::EINVAL)),
    }
}

const _: () = assert!(size_of::<c_long>() == 8, "64-bit Linux only");
