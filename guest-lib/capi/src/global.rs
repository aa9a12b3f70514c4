//! The one session of a C program, and errno.

use libc::c_int;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use vshmem::{Error, Mapping, Region, Result, Session, sysv};

/// Null until somebody asks; then a session, or [`none`].
static SESSION: AtomicPtr<Session> = AtomicPtr::new(ptr::null_mut());
/// Whether a person was told why nothing works.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Stands for "this program has no region": no `VSHMEM_SOCKET`, nothing attached.
const fn none() -> *mut Session {
    ptr::without_provenance_mut(align_of::<Session>())
}

/// The session, or `None` where System V IPC is the kernel's.
#[inline]
pub fn session() -> Option<&'static Session> {
    // Acquire: pairs with the Release in `publish`.
    let at = SESSION.load(Ordering::Acquire);
    if at.is_null() {
        return first();
    }
    // SAFETY: not null; a session, once published, is never freed.
    if at == none() { None } else { Some(unsafe { &*at }) }
}

/// The session of a process that is attached; makes none.
#[inline]
pub fn attached() -> Option<&'static Session> {
    let at = SESSION.load(Ordering::Acquire);
    if at.is_null() || at == none() {
        return None;
    }
    // SAFETY: as in `session`.
    Some(unsafe { &*at }).filter(|s| s.is_attached())
}

#[cold]
fn first() -> Option<&'static Session> {
    match vshmem::socket_from_environment() {
        None => {
            // Relaxed: nothing stands behind it. A `vshmem_attach` meanwhile wins.
            let _ = SESSION.compare_exchange(
                ptr::null_mut(),
                none(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        Some(socket) => match Session::later(&socket) {
            Ok(session) => drop(publish(session)),
            Err(e) => tell(&e),
        },
    }
    let at = SESSION.load(Ordering::Acquire);
    if at.is_null() || at == none() {
        return None;
    }
    // SAFETY: as in `session`.
    Some(unsafe { &*at })
}

/// Makes `session` the program's, unless it has one: then `session` comes back.
pub fn publish(session: Session) -> std::result::Result<(), Box<Session>> {
    let new = Box::into_raw(Box::new(session));
    loop {
        let old = SESSION.load(Ordering::Relaxed);
        if !old.is_null() && old != none() {
            // SAFETY: made above, and shown to nobody.
            return Err(unsafe { Box::from_raw(new) });
        }
        // Release: the session is complete before it is found.
        let swapped = SESSION.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed);
        if swapped.is_ok() {
            return Ok(());
        }
    }
}

/// What the fast path needs; `None` sends the call the slow way.
#[inline]
pub fn fast() -> Option<(&'static Region<Mapping>, &'static sysv::Caller)> {
    let at = SESSION.load(Ordering::Acquire);
    if at.is_null() || at == none() {
        return None;
    }
    // SAFETY: as in `session`.
    unsafe { &*at }.fast()
}

/// Tells a person, once, why nothing works.
pub fn tell(e: &Error) {
    if TOLD.swap(true, Ordering::Relaxed) {
        return;
    }
    let text = format!("vshmem: {e}\n");
    // SAFETY: the text's bytes. If nobody listens, nobody is told.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// The calling thread's errno.
pub fn errno() -> c_int {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

/// Sets it.
pub fn set_errno(e: c_int) {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = e };
}

/// Runs the body of a call: its value, or -1 and errno. A call that succeeds leaves errno alone.
pub fn answer<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, ()> {
    let before = errno();
    match body() {
        Ok(value) => {
            set_errno(before);
            Ok(value)
        }
        Err(e) => {
            if e.is_session() {
                tell(&e);
            }
            set_errno(e.errno());
            Err(())
        }
    }
}

/// As [`answer`], for calls that return an int.
pub fn int(body: impl FnOnce() -> Result<c_int>) -> c_int {
    answer(body).unwrap_or(-1)
}
