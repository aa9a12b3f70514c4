//! `msgget`, `msgsnd`, `msgrcv`, `msgctl`.

use crate::abi::{MsgInfo, MsqidDs, cmd};
use crate::global::{answer, by_id, by_key, int, rest};
use crate::memory;
use libc::{c_int, c_long, c_void, key_t, size_t, ssize_t};
use vshmem::sysv::Errno;
use vshmem::sysv::msg;
use vshmem::{Error, Kind, Limit, Result, Session};

/// `msgget(2)`.
#[unsafe(no_mangle)]
pub extern "C" fn msgget(key: key_t, flags: c_int) -> c_int {
    match by_key(Kind::Queue, key) {
        Some(s) => int(|| s?.call(|r, on, c| msg::get(r, on, c, key, flags))),
        // SAFETY: no pointers.
        None => unsafe { libc::syscall(libc::SYS_msgget, key, flags) as c_int },
    }
}

/// `msgsnd(2)`.
///
/// # Safety
/// `message` leads to a type and `n` bytes of text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msgsnd(
    id: c_int,
    message: *const c_void,
    n: size_t,
    flags: c_int,
) -> c_int {
    match by_id(id) {
        // SAFETY: as the caller promises.
        Some(s) => int(|| unsafe { send(s?, id, message, n, flags) }.map(|()| 0)),
        // SAFETY: the kernel checks the pointer.
        None => unsafe { libc::syscall(libc::SYS_msgsnd, id, message, n, flags) as c_int },
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
    memory::check(message)?;
    // SAFETY: the caller's message begins with its type.
    let mtype = unsafe { message.cast::<c_long>().read_unaligned() };
    // SAFETY: its text follows.
    let text = unsafe { message.cast::<c_long>().add(1) }.cast::<u8>();
    s.call_message(|r, on, c| {
        if n > r.limit(Limit::Msgmax)? as usize || mtype < 1 || id < 0 {
            return Err(Errno::EINVAL.into());
        }
        if memory::check_text(text, n).is_err() {
            return Err(Errno::EFAULT.into());
        }
        // SAFETY: the caller's `n` bytes, which it does not change during the call.
        let text = unsafe { std::slice::from_raw_parts(text, n) };
        msg::send(r, on, c, id, mtype, text, flags, None)
    })
}

/// `msgrcv(2)`.
///
/// # Safety
/// `message` has room for a type and `n` bytes of text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msgrcv(
    id: c_int,
    message: *mut c_void,
    n: size_t,
    mtype: c_long,
    flags: c_int,
) -> ssize_t {
    match by_id(id) {
        Some(s) => {
            // SAFETY: as the caller promises.
            let got = answer(|| unsafe { receive(s?, id, message, n, mtype, flags) });
            got.map_or(-1, usize::cast_signed)
        }
        // SAFETY: the kernel checks the pointer.
        None => unsafe { libc::syscall(libc::SYS_msgrcv, id, message, n, mtype, flags) as ssize_t },
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
    if memory::bad(message) {
        // The message is taken all the same, as the kernel takes it.
        let most = s.region()?.limit(Limit::Msgmax)? as usize;
        let mut nowhere = vec![0; n.min(most)];
        s.call_message(|r, on, c| msg::recv(r, on, c, id, &mut nowhere, mtype, flags, None))?;
        return Err(Errno::EFAULT.into());
    }
    // SAFETY: the caller's room for the type.
    let text = unsafe { message.cast::<c_long>().add(1) }.cast::<u8>();
    // SAFETY: the caller's room for the text; it leaves it alone during the call.
    let text = unsafe { std::slice::from_raw_parts_mut(text, n) };
    let (got, n) = s.call_message(|r, on, c| msg::recv(r, on, c, id, text, mtype, flags, None))?;
    // SAFETY: as above.
    unsafe { message.cast::<c_long>().write_unaligned(got) };
    Ok(n)
}

/// `msgctl(2)`.
///
/// # Safety
/// `arg` leads to what `command` wants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msgctl(id: c_int, command: c_int, arg: *mut MsqidDs) -> c_int {
    let by_index =
        matches!(command, cmd::IPC_INFO | cmd::MSG_INFO | cmd::MSG_STAT | cmd::MSG_STAT_ANY);
    match if by_index { rest(Kind::Queue) } else { by_id(id) } {
        // SAFETY: as the caller promises.
        Some(s) => int(|| unsafe { control(s?, id, command, arg) }),
        // SAFETY: the kernel checks the pointer.
        None => unsafe { libc::syscall(libc::SYS_msgctl, id, command, arg) as c_int },
    }
}

/// # Safety
/// As [`msgctl`].
unsafe fn control(s: &Session, id: c_int, command: c_int, arg: *mut MsqidDs) -> Result<c_int> {
    let at = arg as libc::c_ulong;
    let done = |()| 0;
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        cmd::IPC_STAT => {
            let stat = s.call(|r, on, c| msg::stat(r, on, c, id))?;
            // SAFETY: the caller's structure.
            unsafe { crate::put(at, MsqidDs::from(stat)) }.map(done)
        }
        cmd::MSG_STAT | cmd::MSG_STAT_ANY => {
            let any = command == cmd::MSG_STAT_ANY;
            let (found, stat) = s.call(|r, on, c| msg::stat_index(r, on, c, id, any))?;
            // SAFETY: the caller's structure.
            unsafe { crate::put(at, MsqidDs::from(stat)) }.map(|()| found)
        }
        cmd::IPC_SET => {
            // SAFETY: the caller's structure.
            let ds: MsqidDs = unsafe { crate::get(at) }?;
            let p = ds.perm;
            s.call(|r, on, c| msg::set(r, on, c, id, p.uid, p.gid, p.mode, ds.qbytes)).map(done)
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
            unsafe { crate::put(at, out) }.map(|()| i.highest.max(0))
        }
        _ => Err(Error::from(Errno::EINVAL)),
    }
}
