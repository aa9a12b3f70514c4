//! `syscall`, for programs that make their calls by number.
//!
//! Numbers that this library has a function for lead to it; all others go on as they came, with all
//! six arguments. The C library's `syscall` is variadic: integers beyond the named parameter are
//! passed as if they had names, on x86-64 and on aarch64, so that a function of seven can stand in.

use crate::{birth, global, msg, process, sem, shm, space};
use libc::{c_int, c_long};
use std::ptr;

/// A result of the kernel as C has it: -1 and errno.
#[inline]
pub(crate) fn result(rc: isize) -> c_long {
    if (-4095..0).contains(&rc) {
        global::set_errno(rc.unsigned_abs() as c_int);
        return -1;
    }
    rc as c_long
}

/// Makes a system call: its result, or -1 and errno.
macro_rules! kernel {
    ($number:ident $(, $arg:expr)* $(,)?) => {
        $crate::raw::result(vshmem::system_call!(libc::$number $(, $arg)*))
    };
}
pub(crate) use kernel;

/// `syscall(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let args = [a, b, c, d, e, f];
    if is_ours(number) {
        // SAFETY: as the caller promises.
        return unsafe { ours(number, args) };
    }
    // SAFETY: as the caller promises.
    result(unsafe { vshmem::system_call(number, args) })
}

/// Whether [`ours`] knows the number.
#[inline]
fn is_ours(number: c_long) -> bool {
    const fn mask() -> [u64; 8] {
        let mut bits = [0; 8];
        let mut i = 0;
        while i < OURS.len() {
            bits[OURS[i] as usize / 64] |= 1 << (OURS[i] % 64);
            i += 1;
        }
        bits
    }
    const MASK: [u64; 8] = mask();
    let number = number.cast_unsigned() as usize;
    MASK.get(number / 64).is_some_and(|bits| bits >> (number % 64) & 1 != 0)
}

const OURS: &[c_long] = &[
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
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mlockall,
    libc::SYS_munlockall,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
];

/// # Safety
/// As [`syscall`].
#[cold]
unsafe fn ours(number: c_long, args: [usize; 6]) -> c_long {
    let [a, b, c, d, e, f] = args;
    let int = |word: usize| word as c_int;
    fn at<T>(word: usize) -> *mut T {
        ptr::with_exposed_provenance_mut(word)
    }
    // SAFETY: as the caller promises, for each.
    unsafe {
        match number {
            libc::SYS_shmget => shm::shmget(int(a), b, int(c)).into(),
            libc::SYS_shmat => shm::attach(int(a), at(b), int(c)).expose_provenance() as c_long,
            libc::SYS_shmdt => shm::detach(at(a)).into(),
            libc::SYS_shmctl => shm::shmctl(int(a), int(b), at(c)).into(),
            libc::SYS_semget => sem::semget(int(a), int(b), int(c)).into(),
            libc::SYS_semop => sem::semop(int(a), at(b), unsigned(c)).into(),
            libc::SYS_semtimedop => sem::semtimedop(int(a), at(b), unsigned(c), at(d)).into(),
            libc::SYS_semctl => sem::semctl(int(a), int(b), int(c), d as libc::c_ulong).into(),
            libc::SYS_msgget => msg::msgget(int(a), int(b)).into(),
            libc::SYS_msgsnd => msg::msgsnd(int(a), at(b), c, int(d)).into(),
            libc::SYS_msgrcv => msg::msgrcv(int(a), at(b), c, d as c_long, int(e)) as c_long,
            libc::SYS_msgctl => msg::msgctl(int(a), int(b), at(c)).into(),
            libc::SYS_mmap => {
                space::map(at(a), b, int(c), int(d), int(e), f as i64).expose_provenance() as c_long
            }
            libc::SYS_munmap => space::unmap(at(a), b).into(),
            libc::SYS_mprotect => space::mprotect(at(a), b, int(c)).into(),
            libc::SYS_mremap => {
                space::remap(at(a), b, c, int(d), at(e)).expose_provenance() as c_long
            }
            libc::SYS_madvise => space::advise(at(a), b, int(c)).into(),
            libc::SYS_mlock => space::mlock(at(a), b).into(),
            libc::SYS_mlock2 => space::mlock2(at(a), b, int(c)).into(),
            libc::SYS_munlock => space::munlock(at(a), b).into(),
            libc::SYS_mlockall => space::mlockall(int(a)).into(),
            libc::SYS_munlockall => space::munlockall().into(),
            libc::SYS_exit_group => process::_exit(int(a)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork => birth::by_number(number, args),
            libc::SYS_clone | libc::SYS_clone3 => birth::by_number(number, args),
            libc::SYS_wait4 => process::wait4(int(a), at(b), int(c), at(d)).into(),
            libc::SYS_waitid => process::waitid_raw(args),
            _ => {
                let rc = result(vshmem::system_call(number, args));
                // What is left changes what the process may do.
                if rc == 0 {
                    process::credentials_changed();
                }
                rc
            }
        }
    }
}

/// The kernel takes the number of operations for an `unsigned int`.
fn unsigned(word: usize) -> usize {
    word as u32 as usize
}
