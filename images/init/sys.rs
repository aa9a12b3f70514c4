//! The system calls that std has no words for.

use super::*;
use std::ffi::{c_char, c_int, c_long, c_ulong, c_void};
use std::net::Ipv4Addr;
use std::os::fd::{FromRawFd, OwnedFd};

pub const MS_RDONLY: c_ulong = 1;
pub const MS_BIND: c_ulong = 4096;
pub const MS_MOVE: c_ulong = 8192;

unsafe extern "C" {
    #[link_name = "mount"]
    fn c_mount(
        src: *const c_char,
        at: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
    fn reboot(how: c_int) -> c_int;
    fn sync();
    fn sethostname(name: *const c_char, len: usize) -> c_int;
    #[link_name = "kill"]
    fn c_kill(pid: c_int, signal: c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const c_void, len: u32) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn inotify_init1(flags: c_int) -> c_int;
    fn inotify_add_watch(fd: c_int, path: *const c_char, mask: u32) -> c_int;
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

#[cfg(target_arch = "x86_64")]
const SYS_FINIT_MODULE: c_long = 313;
#[cfg(target_arch = "aarch64")]
const SYS_FINIT_MODULE: c_long = 273;

fn text(s: impl AsRef<OsStr>) -> CString {
    // A NUL cannot occur: every string comes from a NUL-separated frame or
    // from this file.
    CString::new(s.as_ref().as_bytes()).unwrap_or_default()
}

fn check(result: c_int, what: impl FnOnce() -> String) -> Res<c_int> {
    if result >= 0 {
        return Ok(result);
    }
    let cause = io::Error::last_os_error();
    Err(format!("{}: {cause}", what()))
}

pub fn mount(src: &str, at: &str, kind: &str, flags: c_ulong, options: &str) -> Res<()> {
    let (a, b, c, d) = (text(src), text(at), text(kind), text(options));
    // SAFETY: four NUL-terminated strings that outlive the call.
    let done =
        unsafe { c_mount(a.as_ptr(), b.as_ptr(), c.as_ptr(), flags, d.as_ptr().cast::<c_void>()) };
    check(done, || format!("mounting {src} on {at}")).map(drop)
}

pub fn switch_root(new: &str) -> Res<()> {
    let fail = |e: io::Error| format!("entering the root file system: {e}");
    std::env::set_current_dir(new).map_err(fail)?;
    mount(".", "/", "", MS_MOVE, "")?;
    let dot = text(".");
    // SAFETY: a NUL-terminated string that outlives the call.
    check(unsafe { chroot(dot.as_ptr()) }, || "chroot".to_string())?;
    std::env::set_current_dir("/").map_err(fail)
}

pub fn load_module(module: &File) -> Res<()> {
    // SAFETY: finit_module takes a descriptor, a NUL-terminated string and
    // flags; both outlive the call.
    let done = unsafe { syscall(SYS_FINIT_MODULE, module.as_raw_fd(), c"".as_ptr(), 0) };
    let cause = io::Error::last_os_error();
    // EEXIST: the module is built in or loaded already.
    if done < 0 && cause.kind() != io::ErrorKind::AlreadyExists {
        return Err(cause.to_string());
    }
    Ok(())
}

pub fn power_off() -> ! {
    // SAFETY: plain calls without pointers.
    unsafe {
        sync();
        reboot(0x4321_fedc);
    }
    std::process::exit(1)
}

pub fn set_hostname(name: &OsStr) -> Res<()> {
    // SAFETY: the pointer and length describe one live slice.
    let done = unsafe { sethostname(name.as_bytes().as_ptr().cast(), name.len()) };
    check(done, || "setting the host name".to_string()).map(drop)
}

pub fn kill(pid: i32, signal: i32) {
    // SAFETY: no pointers. A process that is gone already is no error.
    unsafe { c_kill(pid, signal) };
}

fn wait(pid: c_int, options: c_int) -> Option<(i32, ExitStatus)> {
    let mut status = 0;
    // SAFETY: `status` is a live c_int.
    let pid = unsafe { waitpid(pid, &mut status, options) };
    (pid > 0).then(|| (pid, ExitStatus::from_raw(status)))
}

/// The status of `pid` if it has ended.
pub fn reap(pid: i32) -> Option<ExitStatus> {
    wait(pid, 1).map(|(_, status)| status)
}

/// Waits for any child; none when there is no child.
pub fn wait_any() -> Option<(i32, ExitStatus)> {
    wait(-1, 0)
}

pub fn hung_up(port: &File) -> bool {
    let mut one = PollFd { fd: port.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one live entry. 0x10 is POLLHUP.
    unsafe { poll(&mut one, 1, 0) > 0 && one.revents & 0x10 != 0 }
}

fn wait_readable(fd: &OwnedFd, limit: Duration) {
    let mut one = PollFd { fd: fd.as_raw_fd(), events: 1, revents: 0 };
    // SAFETY: one live entry.
    if unsafe { poll(&mut one, 1, limit.as_millis().min(60_000) as c_int) } > 0 {
        // The content does not matter: the caller looks at the truth again.
        let _ = File::from(match fd.try_clone() {
            Ok(fd) => fd,
            Err(_) => return,
        })
        .read(&mut [0; 8192]);
    }
}

/// Takes ownership of a descriptor that a call of this file just made.
fn own(fd: c_int, what: &str) -> Res<OwnedFd> {
    let fd = check(fd, || what.to_string())?;
    // SAFETY: `fd` is new, open, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const SOCK_CLOEXEC: c_int = 0o2000000;

/// The kernel's device events.
pub struct Uevents(OwnedFd);

impl Uevents {
    pub fn new() -> Res<Uevents> {
        // SAFETY: no pointers. AF_NETLINK, SOCK_DGRAM, KOBJECT_UEVENT.
        let fd = own(unsafe { socket(16, 2 | SOCK_CLOEXEC, 15) }, "uevent socket")?;
        // sockaddr_nl: family, padding, port id, groups.
        let address: [u32; 3] = [16, 0, 1];
        // SAFETY: the address is 12 live bytes.
        let done = unsafe { bind(fd.as_raw_fd(), address.as_ptr().cast(), 12) };
        check(done, || "uevent socket".to_string())?;
        Ok(Uevents(fd))
    }

    pub fn wait(&self, limit: Duration) {
        wait_readable(&self.0, limit);
    }
}

/// Sees files appear in a directory.
pub struct Watch(OwnedFd);

impl Watch {
    pub fn new(dir: &str) -> Res<Watch> {
        // SAFETY: no pointers; the flag is IN_CLOEXEC.
        let fd = own(unsafe { inotify_init1(0o2000000) }, "inotify")?;
        let path = text(dir);
        // SAFETY: a NUL-terminated string; IN_CREATE | IN_MOVED_TO.
        let done = unsafe { inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), 0x180) };
        check(done, || format!("watching {dir}"))?;
        Ok(Watch(fd))
    }

    pub fn wait(&self, limit: Duration) {
        wait_readable(&self.0, limit);
    }
}

/// `struct ifreq`: a name and 24 bytes whose meaning the request decides.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    value: [u8; 24],
}

/// Sets an interface's address (with a /24 mask) and brings it up.
pub fn interface_up(name: &str, address: Option<Ipv4Addr>) -> Res<()> {
    // SAFETY: no pointers. AF_INET, SOCK_DGRAM.
    let fd = own(unsafe { socket(2, 2 | SOCK_CLOEXEC, 0) }, "network socket")?;
    let request = |number: c_ulong, value: [u8; 24]| -> Res<()> {
        let mut req = IfReq { name: [0; 16], value };
        for (to, from) in req.name[..15].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        // SAFETY: `req` is a live ifreq, which these requests read.
        let done = unsafe { ioctl(fd.as_raw_fd(), number, &mut req) };
        check(done, || format!("network interface {name}")).map(drop)
    };
    let inet = |a: Ipv4Addr| {
        let mut value = [0; 24];
        value[0] = 2;
        value[4..8].copy_from_slice(&a.octets());
        value
    };
    if let Some(address) = address {
        request(0x8916, inet(address))?; // SIOCSIFADDR
        request(0x891c, inet(Ipv4Addr::new(255, 255, 255, 0)))?; // SIOCSIFNETMASK
    }
    let mut flags = [0; 24];
    flags[0] = 0x41; // IFF_UP | IFF_RUNNING
    request(0x8914, flags) // SIOCSIFFLAGS
}
