//! Which system calls are trapped.
//!
//! Besides System V IPC those that change who the caller is: the supervisor lets them go on, and
//! asks anew who it is dealing with. Calls of the processor's other personalities (32-bit programs,
//! x32) are not understood here; their System V IPC fails with ENOSYS rather than reach the kernel.

use libc::{c_long, sock_filter, sock_fprog};
use std::io;
use std::mem::offset_of;
use std::os::fd::{FromRawFd, OwnedFd};

#[cfg(target_arch = "x86_64")]
pub const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub const ARCH: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("vshmem traps system calls by number: look up this processor's");

/// System V IPC.
const IPC: &[c_long] = &[
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmdt,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
];

/// Calls after which the caller is somebody else.
pub const IDENTITY: &[c_long] = &[
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
];

/// System V IPC of 32-bit x86 programs: `ipc`, and the single calls.
#[cfg(target_arch = "x86_64")]
const I386: (u32, &[u32]) =
    (0x4000_0003, &[117, 393, 394, 395, 396, 397, 398, 399, 400, 401, 402, 420]);
/// Of 32-bit ARM programs.
#[cfg(target_arch = "aarch64")]
const I386: (u32, &[u32]) =
    (0x4000_0028, &[298, 299, 300, 301, 302, 303, 304, 305, 306, 307, 308, 312, 420]);

/// Set in the number of every x32 call.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn step(code: u16, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code, jt: yes, jf: no, k }
}

/// Jumps to the return `at` steps behind the last of `numbers`.
fn any_of(numbers: &[u32], at: usize) -> impl Iterator<Item = sock_filter> + '_ {
    let left = move |i: usize| numbers.len() - 1 - i + at;
    numbers.iter().enumerate().map(move |(i, n)| step(EQUAL, *n, left(i) as u8, 0))
}

fn program() -> Vec<sock_filter> {
    let trapped: Vec<u32> = IPC.iter().chain(IDENTITY).map(|n| *n as u32).collect();
    let x32: Vec<u32> = IPC.iter().map(|n| *n as u32 | X32).collect();
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    // Ours: skip the part for 32-bit programs.
    let mut steps = vec![
        step(LOAD, offset_of!(libc::seccomp_data, arch) as u32, 0, 0),
        step(EQUAL, ARCH, I386.1.len() as u8 + 5, 0),
        step(EQUAL, I386.0, 1, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(LOAD, offset_of!(libc::seccomp_data, nr) as u32, 0, 0),
    ];
    steps.extend(any_of(I386.1, 1));
    steps.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    steps.push(step(RETURN, refuse, 0, 0));
    steps.push(step(LOAD, offset_of!(libc::seccomp_data, nr) as u32, 0, 0));
    steps.extend(any_of(&trapped, x32.len() + 1));
    steps.extend(any_of(&x32, 2));
    steps.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    steps.push(step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0));
    steps.push(step(RETURN, refuse, 0, 0));
    steps
}

/// Traps the calls of this process and of all it will start; the descriptor they arrive at.
///
/// Without CAP_SYS_ADMIN the process gives up gaining privileges by executing programs, which the
/// kernel asks of everybody who filters.
pub fn install() -> io::Result<OwnedFd> {
    let mut steps = program();
    let filter = sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let set = || {
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: the kernel copies `filter` and the steps it leads to, which both live.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd as i32) }
    };
    let fd = set().or_else(|e| {
        if e.raw_os_error() != Some(libc::EACCES) {
            return Err(e);
        }
        // SAFETY: no pointers.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        set()
    })?;
    // SAFETY: made just now, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program returns for call `nr` of `arch`.
    fn run(arch: u32, nr: u32) -> u32 {
        let steps = program();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let s = steps[at];
            at += 1;
            match s.code {
                LOAD if s.k == 4 => loaded = arch,
                LOAD => loaded = nr,
                EQUAL if loaded == s.k => at += usize::from(s.jt),
                EQUAL => at += usize::from(s.jf),
                RETURN => return s.k,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn each_personality_gets_what_is_meant_for_it() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for nr in IPC.iter().chain(IDENTITY) {
            assert_eq!(run(ARCH, *nr as u32), libc::SECCOMP_RET_USER_NOTIF, "{nr}");
        }
        for nr in IPC {
            assert_eq!(run(ARCH, *nr as u32 | X32), refused, "{nr}");
        }
        for nr in I386.1 {
            assert_eq!(run(I386.0, *nr), refused, "{nr}");
        }
        for arch in [ARCH, I386.0, 0x1234] {
            assert_eq!(run(arch, libc::SYS_read as u32), libc::SECCOMP_RET_ALLOW);
            assert_eq!(run(arch, 9999), libc::SECCOMP_RET_ALLOW);
        }
    }
}
