//! The C library's calls that begin, end or change a process.
//!
//! `fork` itself is not among them: the session has handlers for it (`pthread_atfork`), which also
//! run for the forks inside `daemon` and `forkpty`.

use crate::global;
use libc::{c_int, c_void, gid_t, id_t, idtype_t, pid_t, rusage, siginfo_t, uid_t};
use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The C library's own function of a name that this library has taken.
struct Next {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, at: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Its address; null where the C library has none.
    fn get(&self) -> *mut c_void {
        // Relaxed: an address of code; whoever sees it needs nothing else.
        let mut at = self.at.load(Ordering::Relaxed);
        if at.is_null() {
            // SAFETY: a string with its end.
            at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.at.store(at, Ordering::Relaxed);
        }
        at
    }
}

/// Calls the C library's function `$name`, or fails with ENOSYS.
macro_rules! next {
    ($name:ident($($arg:ident: $type:ty),*) -> $ret:ty) => {{
        static NEXT: Next = Next::new(
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name without zeros"),
            },
        );
        let next = NEXT.get();
        if next.is_null() {
            global::set_errno(libc::ENOSYS);
            return -1;
        }
        // SAFETY: the C library's function of this name has this type.
        let next: unsafe extern "C-unwind" fn($($type),*) -> $ret = unsafe { std::mem::transmute(next) };
        // SAFETY: the caller keeps the function's contract.
        unsafe { next($($arg),*) }
    }};
}

/// A child is known to be dead: what it held is released before its parent learns of it.
fn waited(pid: pid_t, status: c_int) {
    if pid > 0 && (libc::WIFEXITED(status) || libc::WIFSIGNALED(status)) {
        child_died(pid);
    }
}

fn child_died(pid: pid_t) {
    if let Some(session) = global::attached() {
        let before = global::errno();
        session.child_died(pid.cast_unsigned());
        global::set_errno(before);
    }
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
        let (code, pid) = unsafe { ((*to).si_code, (*to).si_pid()) };
        if pid > 0 && matches!(code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED) {
            child_died(pid);
        }
    }
    rc
}

fn end(status: c_int) -> ! {
    leave();
    loop {
        // SAFETY: ends the process.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
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
extern "C" fn leave() {
    if let Some(session) = global::attached() {
        session.leave();
    }
}

// Runs after the program's own `atexit` functions, which may still use IPC.
#[used]
#[unsafe(link_section = ".fini_array")]
static LEAVE: extern "C" fn() = leave;

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
            if rc == 0 && let Some(session) = global::attached() {
                session.credentials_changed();
            }
            rc
        }
    )*};
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
