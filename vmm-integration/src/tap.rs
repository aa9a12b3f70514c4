//! A bridge with taps in a network namespace of its own: a true Ethernet
//! segment that the host's own network does not see, and that the kernel
//! removes with the last guest, however that ends. Needs root.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// A tap of a segment, with the namespace that it is in.
#[derive(Debug)]
pub(crate) struct Tap {
    /// Goes to QEMU.
    pub(crate) fd: OwnedFd,
    /// Held open, so that other guests' starters can enter it by its number.
    pub(crate) namespace: OwnedFd,
}

const BRIDGE: &str = "segment";

// linux/sockios.h; not in the libc crate.
const SIOCBRADDBR: libc::c_ulong = 0x89a0;
const SIOCBRADDIF: libc::c_ulong = 0x89a2;

/// Makes tap `index` on the bridge of `namespace`, or on a bridge in a new one.
///
/// A thread does it: entering a namespace concerns one thread, and that one
/// then ends.
pub(crate) fn make(index: u8, namespace: Option<OwnedFd>) -> io::Result<Tap> {
    thread::spawn(move || make_here(index, namespace))
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn make_here(index: u8, namespace: Option<OwnedFd>) -> io::Result<Tap> {
    let fresh = namespace.is_none();
    let namespace = match namespace {
        Some(ns) => {
            let kind = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(ns.as_fd(), kind)?;
            ns
        }
        None => {
            // SAFETY: only the network namespace is unshared, and only of this
            // thread, which std shares nothing of.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")?.into()
        }
    };
    // SAFETY: no pointers.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    if fresh {
        let name = request(BRIDGE);
        // SAFETY: SIOCBRADDBR reads a NUL-terminated name, which `name` begins with.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCBRADDBR as _, &name.ifr_name) })?;
        up(&socket, BRIDGE)?;
    }
    let fd: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?.into();
    let name = format!("guest{index}");
    let mut tap = request(&name);
    // The header carries checksum and segmentation offloads between guests.
    tap.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: TUNSETIFF reads and writes one live ifreq.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &mut tap) })?;

    let mut number = request(&name);
    // SAFETY: SIOCGIFINDEX fills one live ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as _, &mut number) })?;
    let mut join = request(BRIDGE);
    // SAFETY: SIOCGIFINDEX has just written that member of the union.
    join.ifr_ifru.ifru_ifindex = unsafe { number.ifr_ifru.ifru_ifindex };
    // SAFETY: SIOCBRADDIF reads one live ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCBRADDIF as _, &join) })?;
    up(&socket, &name)?;
    Ok(Tap { fd, namespace })
}

fn up(socket: &OwnedFd, name: &str) -> io::Result<()> {
    let mut flags = request(name);
    flags.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: SIOCSIFFLAGS reads one live ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &flags) })
}

/// A request about an interface; names here are shorter than the field.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is plain bytes, for which zero is valid.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    req
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether this process can make a segment. Tried for real, once: the kernel may
/// lack the bridge, or the caller the right, whatever its uid.
pub(crate) fn works() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| match make(1, None) {
        Ok(_) => true,
        Err(why) => {
            tracing::debug!(%why, "no tap devices");
            false
        }
    })
}

/// Writes down where another process finds the namespace.
pub(crate) fn publish(at: &Path, namespace: &OwnedFd) -> io::Result<()> {
    fs::write(at, format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()))
}

/// Opens what [`publish`] wrote; none if that process is gone, or is another.
pub(crate) fn find(at: &Path) -> Option<OwnedFd> {
    let place = fs::read_to_string(at).ok()?;
    let link = fs::read_link(&place).ok()?;
    // A recycled pid may have any file under that number.
    link.to_string_lossy().starts_with("net:").then_some(())?;
    Some(File::open(place).ok()?.into())
}
