//! `msgget`, `msgsnd`, `msgrcv`, `msgctl`.

use crate::abi::{MsgInfo, MsqidDs, cmd};
use crate::global::{answer, by_id, by_key, int, rest};
use crate::next::next;
use crate::raw::kernel;
use libc::{c_int, c_long, c_void, key_t, size_t, ssize_t};
use vshmem::sysv::msg;
use vshmem::sysv::{Errno, flag};
use vshmem::user::{self, UserRoom, UserText};
use vshmem::{Error, Kind, Limit, Result, Session};

unsafe extern "C-unwind" {
    /// Ends the calling thread if it was cancelled.
    fn pthread_testcancel();
}

/// Bytes of a message's type.
const TYPE: usize = size_of::<c_long>();

/// `msgget(2)`.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn msgget(key: key_t, flags: c_int) -> c_int {
    match by_key(Kind::Queue, key) {
        Some(s) => int(|| s?.call(|r, on, c| msg::get(r, on, c, key, flags))),
        // SAFETY: no pointers.
        None => unsafe { kernel!(SYS_msgget, key, flags) as c_int },
    }
}

/// `msgsnd(2)`.
///
/// # Safety
/// `message` leads to a type and `n` bytes of text.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn msgsnd(
    id: c_int,
    message: *const c_void,
    n: size_t,
    flags: c_int,
) -> c_int {
    match by_id(id) {
        Some(s) => {
            // SAFETY: nothing is held.
            unsafe { pthread_testcancel() };
            // SAFETY: as the caller promises.
            int(|| unsafe { send(s?, id, message, n, flags) }.map(|()| 0))
        }
        // The C library's, where a thread may be cancelled.
        None => next!(msgsnd(id: c_int, message: *const c_void, n: size_t, flags: c_int) -> c_int),
    }
}

/// # Safety
/// As [`msgsnd`].
unsafe fn send(
    s: &Session,
    id: c_int,
    message: *const c_void,
    n: size_t,
    flags: c_int,
) -> Result<()> {
    s.region()?;
    let at = message as usize;
    // SAFETY: a message begins with its type, for which any bytes do.
    let mtype: c_long = unsafe { user::get(at) }?;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let text = UserText::new(at.wrapping_add(TYPE), n);
    s.call_message(|r, on, c| msg::send(r, on, c, id, mtype, &text, flags, None))
}

/// `msgrcv(2)`.
///
/// # Safety
/// `message` has room for a type and `n` bytes of text.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn msgrcv(
    id: c_int,
    message: *mut c_void,
    n: size_t,
    mtype: c_long,
    flags: c_int,
) -> ssize_t {
    match by_id(id) {
        Some(s) => {
            // SAFETY: nothing is held.
            unsafe { pthread_testcancel() };
            // SAFETY: as the caller promises.
            let got = answer(|| unsafe { receive(s?, id, message, n, mtype, flags) });
            got.map_or(-1, usize::cast_signed)
        }
        None => {
            next!(msgrcv(id: c_int, message: *mut c_void, n: size_t, mtype: c_long, flags: c_int) -> ssize_t)
        }
    }
}

/// # Safety
/// As [`msgrcv`].
unsafe fn receive(
    s: &Session,
    id: c_int,
    message: *mut c_void,
    n: size_t,
    mtype: c_long,
    flags: c_int,
) -> Result<usize> {
    if id < 0 || isize::try_from(n).is_err() {
        return Err(Errno::EINVAL.into());
    }
    let at = message as usize;
    if flags & flag::MSG_COPY != 0 {
        // SAFETY: as the caller promises.
        return unsafe { copy(s, id, at, n, mtype, flags) };
    }
    // SAFETY: the caller gave it for that.
    let mut room = unsafe { UserRoom::new(at, n) };
    let got = s.call_message(|r, on, c| msg::recv(r, on, c, id, &mut room, mtype, flags, None));
    got.map(|(_, n)| n)
}

/// `msgrcv` with MSG_COPY: what stays in the queue is copied under its lock, where the caller's
/// memory is not touched. The kernel's way of making room for the copy is to read what is there.
///
/// # Safety
/// As [`msgrcv`].
unsafe fn copy(
    s: &Session,
    id: c_int,
    at: usize,
    n: usize,
    index: c_long,
    flags: c_int,
) -> Result<usize> {
    if flags & flag::MSG_EXCEPT != 0 || flags & flag::IPC_NOWAIT == 0 {
        return Err(Errno::EINVAL.into());
    }
    let most = s.region()?.limit(Limit::Msgmax)?;
    let mut text = Vec::new();
    let some = n.min(usize::try_from(most).unwrap_or(usize::MAX));
    text.try_reserve_exact(some).map_err(|_| Errno::ENOMEM)?;
    text.resize(some, 0u8);
    // SAFETY: as many bytes.
    unsafe { user::read(text.as_mut_ptr(), at, text.len()) }?;
    let receive =
        |r: &_, on: &mut _, c: &_| msg::recv(r, on, c, id, text.as_mut_slice(), index, flags, None);
    let (mtype, n) = s.call_message(receive)?;
    // SAFETY: the caller gave it for that.
    unsafe { user::put(at, &mtype) }?;
    // SAFETY: as above, and `n` bytes of `text` were filled.
    unsafe { user::write(at.wrapping_add(TYPE), text.as_ptr(), n) }?;
    Ok(n)
}

/// `msgctl(2)`.
///
/// # Safety
/// `arg` leads to what `command` wants.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn msgctl(id: c_int, command: c_int, arg: *mut MsqidDs) -> c_int {
    let by_index =
        matches!(command, cmd::IPC_INFO | cmd::MSG_INFO | cmd::MSG_STAT | cmd::MSG_STAT_ANY);
    match if by_index { rest(Kind::Queue) } else { by_id(id) } {
        // SAFETY: as the caller promises.
        Some(s) => int(|| unsafe { control(s?, id, command, arg) }),
        // SAFETY: the kernel checks the pointer.
        None => unsafe { kernel!(SYS_msgctl, id, command, arg) as c_int },
    }
}

/// What this process is shown of an object.
fn shown(s: &Session, stat: msg::QueueStat) -> MsqidDs {
    let perm = s.perm_inside(stat.perm);
    msg::QueueStat { perm, ..stat }.into()
}

/// # Safety
/// As [`msgctl`].
unsafe fn control(s: &Session, id: c_int, command: c_int, arg: *mut MsqidDs) -> Result<c_int> {
    let at = arg as usize;
    let done = |()| 0;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        cmd::IPC_STAT => {
            let stat = s.call(|r, on, c| msg::stat(r, on, c, id))?;
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &shown(s, stat)) }.map(done)
        }
        cmd::MSG_STAT | cmd::MSG_STAT_ANY => {
            let any = command == cmd::MSG_STAT_ANY;
            let (found, stat) = s.call(|r, on, c| msg::stat_index(r, on, c, id, any))?;
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &shown(s, stat)) }.map(|()| found)
        }
        cmd::IPC_SET => {
            // SAFETY: the caller's structure.
            let ds: MsqidDs = unsafe { user::get(at) }?;
            let p = ds.perm;
            let (uid, gid) = s.ids_outside(p.uid, p.gid);
            s.call(|r, on, c| msg::set(r, on, c, id, uid, gid, p.mode, ds.qbytes)).map(done)
        }
        cmd::IPC_RMID => s.call(|r, on, c| msg::remove(r, on, c, id)).map(done),
        cmd::IPC_INFO | cmd::MSG_INFO => {
            let i = msg::info(s.region()?)?;
            let used = command == cmd::MSG_INFO;
            let int = |n: u64| c_int::try_from(n).unwrap_or(c_int::MAX);
            // The constants are the kernel's, of no use to anybody, as `ipcs -l` prints them.
            let out = MsgInfo {
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
            // SAFETY: the caller's structure.
            unsafe { user::put(at, &out) }.map(|()| i.highest.max(0))
        }
        _ => Err(Error::from(Errno::EINVAL)),
    }
}
