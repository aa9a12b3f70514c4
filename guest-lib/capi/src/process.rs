//! The C library's calls that begin, end or change a process.
//!
//! `fork` itself is not among them: the session has handlers for it (`pthread_atfork`), which also
//! run for the forks inside `daemon` and `forkpty`. Those without handlers are in `birth`.

use crate::global;
use crate::next::next;
use crate::raw::{self, kernel};
use libc::{c_int, c_void, gid_t, id_t, idtype_t, pid_t, rusage, siginfo_t, uid_t};

/// A child is known to be dead: what it held is released before its parent learns of it.
fn waited(pid: pid_t, status: c_int) {
    if pid > 0 && (libc::WIFEXITED(status) || libc::WIFSIGNALED(status)) {
        child_died(pid);
    }
}

fn child_died(pid: pid_t) {
    let before = global::errno();
    vshmem::Sharing::died(pid.cast_unsigned());
    global::each(|session| session.child_died(pid.cast_unsigned()));
    global::set_errno(before);
}

fn give(status: c_int, to: *mut c_int) {
    if !to.is_null() {
        // SAFETY: the caller's own, to be written on success.
        unsafe { *to = status };
    }
}

/// `wait`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn wait(status: *mut c_int) -> pid_t {
    let mut own = 0;
    let arg = &raw mut own;
    let pid = next!(wait(arg: *mut c_int) -> pid_t);
    if pid > 0 {
        give(own, status);
        waited(pid, own);
    }
    pid
}

/// `waitpid`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn waitpid(of: pid_t, status: *mut c_int, options: c_int) -> pid_t {
    let mut own = 0;
    let arg = &raw mut own;
    let pid = next!(waitpid(of: pid_t, arg: *mut c_int, options: c_int) -> pid_t);
    if pid > 0 {
        give(own, status);
        waited(pid, own);
    }
    pid
}

/// `wait3`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn wait3(
    status: *mut c_int,
    options: c_int,
    usage: *mut rusage,
) -> pid_t {
    let mut own = 0;
    let arg = &raw mut own;
    let pid = next!(wait3(arg: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t);
    if pid > 0 {
        give(own, status);
        waited(pid, own);
    }
    pid
}

/// `wait4`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn wait4(
    of: pid_t,
    status: *mut c_int,
    options: c_int,
    usage: *mut rusage,
) -> pid_t {
    let mut own = 0;
    let arg = &raw mut own;
    let pid = next!(wait4(of: pid_t, arg: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t);
    if pid > 0 {
        give(own, status);
        waited(pid, own);
    }
    pid
}

/// `waitid`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn waitid(
    kind: idtype_t,
    id: id_t,
    info: *mut siginfo_t,
    options: c_int,
) -> c_int {
    // Also where the caller does not want to know, we do.
    let mut own = std::mem::MaybeUninit::<siginfo_t>::zeroed();
    let to = if info.is_null() { own.as_mut_ptr() } else { info };
    let rc = next!(waitid(kind: idtype_t, id: id_t, to: *mut siginfo_t, options: c_int) -> c_int);
    if rc == 0 {
        // SAFETY: zeroed, or the caller's; filled by the call (si_pid stays 0 where nothing was).
        unsafe { waited_info(to) };
    }
    rc
}

/// # Safety
/// `info` is zeroed, or was filled by `waitid`.
unsafe fn waited_info(info: *const siginfo_t) {
    // SAFETY: as the caller promises.
    let (code, pid) = unsafe { ((*info).si_code, (*info).si_pid()) };
    if pid > 0 && matches!(code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED) {
        child_died(pid);
    }
}

/// The system call `waitid`, which takes one argument more.
///
/// # Safety
/// As the system call's.
pub(crate) unsafe fn waitid_raw(args: [usize; 6]) -> libc::c_long {
    // SAFETY: as the caller promises.
    let rc = raw::result(unsafe { vshmem::system_call(libc::SYS_waitid, args) });
    if rc == 0 && args[2] != 0 {
        // SAFETY: the caller's, filled by the call.
        unsafe { waited_info(std::ptr::with_exposed_provenance(args[2])) };
    }
    rc
}

fn end(status: c_int) -> ! {
    leave();
    loop {
        // SAFETY: ends the process.
        unsafe { kernel!(SYS_exit_group, status) };
    }
}

/// `_exit`.
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    end(status)
}

/// `_Exit`.
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    end(status)
}

/// The orderly end: undo and detach now, so that whoever waits for this process finds it done.
fn leave() {
    crate::proc::settle_all();
    global::each(vshmem::Session::leave);
}

extern "C" fn exiting() {
    crate::proc::finish();
    leave();
}

// Runs after the program's own `atexit` functions, which may still use IPC.
#[used]
#[unsafe(link_section = ".fini_array")]
static EXIT: extern "C" fn() = exiting;

/// The process's user, groups or capabilities are others now.
pub(crate) fn credentials_changed() {
    global::each(vshmem::Session::credentials_changed);
}

/// Passes a call on, and looks at the credentials again when it has changed them.
macro_rules! changes_credentials {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($($arg: $type),*) -> c_int {
            let rc = next!($name($($arg: $type),*) -> c_int);
            if rc == 0 {
                credentials_changed();
            }
            rc
        }
    )*};
}

/// Which user name space the process is in.
fn user_namespace() -> u64 {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: a string with its end, and room for the result.
    unsafe { libc::stat(c"/proc/self/ns/user".as_ptr(), stat.as_mut_ptr()) };
    // SAFETY: zeros are valid.
    unsafe { stat.assume_init() }.st_ino
}

/// Runs `call`, which may change the name spaces, and tells the sessions of another user name space.
fn changing_namespaces(flags: c_int, call: impl FnOnce() -> c_int) -> c_int {
    // No flags: whatever the descriptor is of.
    if flags != 0 && flags & libc::CLONE_NEWUSER == 0 {
        return call();
    }
    let errno = global::errno();
    let before = user_namespace();
    global::each(vshmem::Session::user_namespace_changes);
    global::set_errno(errno);
    let rc = call();
    let errno = global::errno();
    if rc == 0 && user_namespace() != before {
        global::each(vshmem::Session::user_namespace_changed);
    }
    global::set_errno(errno);
    rc
}

/// `unshare`.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn unshare(flags: c_int) -> c_int {
    changing_namespaces(flags, || next!(unshare(flags: c_int) -> c_int))
}

/// `setns`.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn setns(fd: c_int, kind: c_int) -> c_int {
    changing_namespaces(kind, || next!(setns(fd: c_int, kind: c_int) -> c_int))
}

changes_credentials! {
    setuid(uid: uid_t);
    seteuid(uid: uid_t);
    setreuid(real: uid_t, effective: uid_t);
    setresuid(real: uid_t, effective: uid_t, saved: uid_t);
    setgid(gid: gid_t);
    setegid(gid: gid_t);
    setregid(real: gid_t, effective: gid_t);
    setresgid(real: gid_t, effective: gid_t, saved: gid_t);
    setgroups(n: libc::size_t, groups: *const gid_t);
    initgroups(user: *const libc::c_char, group: gid_t);
    capset(header: *mut c_void, data: *const c_void);
}
