use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::tap::{self, Tap};
use crate::{Error, Result};

/// How the guests of a segment reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetBackend {
    /// [`Tap`](NetBackend::Tap) where it works, else [`Pair`](NetBackend::Pair).
    #[default]
    Auto,
    /// Tap devices on a bridge, in a network namespace of the segment's own: the
    /// fastest, with vhost where the host has it. Up to four guests; needs root.
    Tap,
    /// Datagrams between two UNIX sockets: needs no privilege, and the guests
    /// may start in any order. Two guests.
    Pair,
    /// UDP multicast on the loopback interface. Up to four guests; other
    /// processes of the host can listen.
    Multicast,
}

/// The segment that a guest joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetSpec {
    /// The segment's name: guests of one name (and one host user) see each other.
    pub name: String,
    /// The guest's number, 1 to 4, and so its address `10.77.0.<number>`; the
    /// first free one if `None`.
    pub index: Option<u8>,
    /// How the guests reach each other; the same for all of one name.
    pub backend: NetBackend,
}

impl NetSpec {
    /// Joins the segment `name` with the first free number and the fastest
    /// backend for two guests.
    #[must_use]
    pub fn new(name: &str) -> NetSpec {
        NetSpec { name: name.to_string(), index: None, backend: NetBackend::default() }
    }
}

/// Guests in one segment.
const GUESTS: u8 = 4;

/// A place in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetLink {
    /// The guest's number.
    pub index: u8,
    /// The guest's address; the mask has 24 bits.
    pub address: Ipv4Addr,
    /// QEMU's `-netdev` value.
    pub netdev: String,
    /// The guest's hardware address.
    pub mac: String,
}

impl std::fmt::Display for NetLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "virtio-net {}/24, -netdev {}", self.address, self.netdev)
    }
}

impl NetLink {
    /// Describes place `index` of the segment in `dir`; `tap` is the number of
    /// the inherited descriptor, where there is one.
    #[must_use]
    pub fn describe(spec: &NetSpec, index: u8, dir: &Path, tap: Option<i32>) -> NetLink {
        let [high, low] = port_of(&spec.name).to_be_bytes();
        let netdev = match spec.backend {
            NetBackend::Tap | NetBackend::Auto if tap.is_some() => {
                let vhost = if Path::new("/dev/vhost-net").exists() { ",vhost=on" } else { "" };
                format!("tap,id=net0,fd={}{vhost}", tap.unwrap_or(-1))
            }
            NetBackend::Tap | NetBackend::Auto | NetBackend::Pair => {
                let end = |n: u8| escape(&dir.join(format!("{n}.sock")));
                let (own, other) = (end(index), end(3 - index.min(2)));
                format!(
                    "dgram,id=net0,local.type=unix,local.path={own},\
                     remote.type=unix,remote.path={other}"
                )
            }
            NetBackend::Multicast => {
                let port = 20_000 + port_of(&spec.name) % 20_000;
                format!("socket,id=net0,mcast=239.77.{high}.{low}:{port},localaddr=127.0.0.1")
            }
        };
        NetLink {
            index,
            address: Ipv4Addr::new(10, 77, 0, index),
            netdev,
            mac: format!("52:54:76:{high:02x}:{low:02x}:{index:02x}"),
        }
    }
}

/// QEMU doubles a comma that is not a separator.
fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A number that spreads names.
fn port_of(name: &str) -> u16 {
    let uid = rustix::process::getuid().as_raw();
    name.bytes()
        .chain(uid.to_le_bytes())
        .fold(0x811c_u16, |h, b| (h ^ u16::from(b)).wrapping_mul(0x0193))
}

/// A place taken in a segment, until dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) link: NetLink,
    dir: PathBuf,
    fd: Option<OwnedFd>,
    _namespace: Option<OwnedFd>,
    _lock: File,
}

impl Seat {
    /// Takes a place. The lock files stay: removing one that somebody else is
    /// about to lock would give a place away twice.
    pub(crate) fn take(spec: &NetSpec) -> Result<Seat> {
        let mut spec = spec.clone();
        if spec.backend == NetBackend::Auto {
            spec.backend = if tap::works() { NetBackend::Tap } else { NetBackend::Pair };
        }
        Seat::take_in(&directory()?, &spec)
    }

    /// The tap, for QEMU to inherit under its number.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fd.take()
    }

    fn take_in(root: &Path, spec: &NetSpec) -> Result<Seat> {
        let fail = |what: String| Error::Net { name: spec.name.clone(), what };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if spec.name.is_empty() || spec.name.len() > 32 || !spec.name.chars().all(plain) {
            let what = "a name has 1 to 32 letters, digits, `-`, `_` or `.`".to_string();
            return Err(fail(what));
        }
        let kind = match spec.backend {
            NetBackend::Tap => "tap",
            NetBackend::Pair | NetBackend::Auto => "pair",
            NetBackend::Multicast => "mcast",
        };
        // A directory per kind keeps guests apart that could not talk anyway.
        let dir = root.join(format!("{}.{kind}", spec.name));
        fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
        let places = match spec.backend {
            NetBackend::Pair | NetBackend::Auto => 2,
            NetBackend::Tap | NetBackend::Multicast => GUESTS,
        };
        // Held while a place is taken, so that two guests that start together do
        // not make two bridges.
        let whole = dir.join("lock");
        let _turn = File::create(&whole).map_err(Error::file(&whole))?;
        flock(&_turn, FlockOperation::LockExclusive).map_err(|e| Error::file(&whole)(e.into()))?;
        let wanted = spec.index.map_or(1..=places, |n| n..=n);
        for index in wanted.clone().filter(|n| (1..=places).contains(n)) {
            let path = dir.join(format!("{index}.lock"));
            let lock = File::create(&path).map_err(Error::file(&path))?;
            let now = FlockOperation::NonBlockingLockExclusive;
            if flock(&lock, now).is_ok() {
                let tap = match spec.backend {
                    NetBackend::Tap => Some(join_bridge(&dir, index, places).map_err(|e| {
                        fail(format!("no tap device: {e}; it needs root, tun and bridge"))
                    })?),
                    _ => None,
                };
                let (fd, namespace) = tap.map(|t| (t.fd, t.namespace)).unzip();
                let number = fd.as_ref().map(AsRawFd::as_raw_fd);
                let link = NetLink::describe(spec, index, &dir, number);
                return Ok(Seat { link, dir, fd, _namespace: namespace, _lock: lock });
            }
        }
        Err(fail(match (spec.index, spec.backend) {
            (Some(n), _) if (1..=places).contains(&n) => {
                format!("place {n} is taken by a running guest")
            }
            (Some(n), _) => format!("there is no place {n}: it has places 1 to {places}"),
            (None, NetBackend::Pair | NetBackend::Auto) => {
                "both places are taken; for more than two guests start all of them as root, or \
                 with the multicast backend"
                    .to_string()
            }
            (None, NetBackend::Tap | NetBackend::Multicast) => {
                format!("all {places} places are taken")
            }
        }))
    }
}

/// Makes a tap where the segment's other guests have theirs.
fn join_bridge(dir: &Path, index: u8, places: u8) -> std::io::Result<Tap> {
    let at = |n: u8| dir.join(format!("{n}.ns"));
    let of_running = |n: &u8| {
        let lock = File::open(dir.join(format!("{n}.lock"))).ok()?;
        // Only a place that somebody holds has a namespace that lives.
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .is_err()
            .then(|| tap::find(&at(*n)))?
    };
    let others = (1..=places).filter(|n| *n != index);
    let namespace = others.collect::<Vec<_>>().iter().find_map(of_running);
    let tap = tap::make(index, namespace)?;
    tap::publish(&at(index), &tap.namespace)?;
    Ok(tap)
}

impl Drop for Seat {
    fn drop(&mut self) {
        for kind in ["sock", "ns"] {
            let _ = fs::remove_file(self.dir.join(format!("{}.{kind}", self.link.index)));
        }
    }
}

/// `$VSHMEM_RUNTIME_DIR`, else `/run/vshmem` for root, else the user's runtime
/// directory, each with `net` below.
fn directory() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let uid = rustix::process::geteuid();
    let base = var("VSHMEM_RUNTIME_DIR").unwrap_or_else(|| {
        if uid.is_root() {
            PathBuf::from("/run/vshmem")
        } else {
            var("XDG_RUNTIME_DIR").map_or_else(
                || PathBuf::from(format!("/tmp/vshmem-{}", uid.as_raw())),
                |d| d.join("vshmem"),
            )
        }
    });
    let dir = base.join("net");
    fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_ends_of_a_pair_name_each_other() {
        let spec = NetSpec::new("n");
        let dir = Path::new("/r");
        let (a, b) =
            (NetLink::describe(&spec, 1, dir, None), NetLink::describe(&spec, 2, dir, None));
        assert!(a.netdev.ends_with("local.path=/r/1.sock,remote.type=unix,remote.path=/r/2.sock"));
        assert!(b.netdev.ends_with("local.path=/r/2.sock,remote.type=unix,remote.path=/r/1.sock"));
        assert_eq!(a.address.to_string(), "10.77.0.1");
        assert_ne!(a.mac, b.mac);
    }

    #[test]
    fn places_are_given_once_and_again_after_a_guest_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let spec = NetSpec { backend: NetBackend::Pair, ..NetSpec::new("n") };
        let one = Seat::take_in(dir.path(), &spec).unwrap();
        let two = Seat::take_in(dir.path(), &spec).unwrap();
        assert_eq!((one.link.index, two.link.index), (1, 2));
        let full = Seat::take_in(dir.path(), &spec).unwrap_err().to_string();
        assert!(full.contains("multicast"), "{full}");
        drop(one);
        let again = NetSpec { index: Some(1), ..spec.clone() };
        assert_eq!(Seat::take_in(dir.path(), &again).unwrap().link.index, 1);
        for (name, index) in [("a/b", None), ("", None), ("n", Some(9))] {
            let bad = NetSpec { name: name.into(), index, ..spec.clone() };
            assert!(Seat::take_in(dir.path(), &bad).is_err());
        }
    }
}
