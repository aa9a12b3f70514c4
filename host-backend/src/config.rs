//! The configuration file: TOML, unknown keys refused, every error with the
//! line it is on.
//!
//! ```toml
//! [daemon]
//! runtime_dir = "/run/vshmem"
//!
//! [[region]]
//! name = "demo"
//! size = "256M"
//! vectors = 2
//! allow_vm_uids = [0, 64055]
//! ```

use crate::codec::MAX_VECTORS;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use vshmem_core::layout::MAX_NUMBER;

/// The smallest region.
pub const MIN_REGION: u64 = 16 << 20;
/// Peers a region's table has room for besides the host.
pub const MAX_VMS: u16 = 63;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not what this program understands.
    #[error("{path}, line {line}: {what}")]
    At {
        /// Which file.
        path: PathBuf,
        /// Where in it, counted from 1.
        line: usize,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// It names no region.
    #[error("{path}: no [[region]]: nothing to serve")]
    NoRegion {
        /// Which file.
        path: PathBuf,
    },
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The daemon's own settings.
    pub daemon: Daemon,
    /// The regions it serves; at least one, names distinct.
    pub regions: Vec<Region>,
}

/// `[daemon]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Daemon {
    /// Where the sockets are; `/run/vshmem` unless told.
    pub runtime_dir: Option<PathBuf>,
    /// A `tracing` filter: `info`, `vshmem_host=debug`.
    pub log: Option<String>,
    /// What SIGTERM means.
    pub on_sigterm: OnSigterm,
    /// How many seconds the holder keeps memory and sockets for a new daemon
    /// when nobody uses them.
    pub linger_seconds: u32,
}

impl Default for Daemon {
    fn default() -> Self {
        Self { runtime_dir: None, log: None, on_sigterm: OnSigterm::Auto, linger_seconds: 600 }
    }
}

/// What SIGTERM means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSigterm {
    /// `keep` under a service manager, `release` otherwise.
    #[default]
    Auto,
    /// Leave, and let everything go.
    Release,
    /// Leave, but let the holder keep it for the next daemon.
    Keep,
}

/// One `[[region]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// What it is called.
    pub name: RegionName,
    /// Bytes: a power of two.
    pub size: u64,
    /// What its ids carry; different for regions that one program uses.
    pub number: u32,
    /// What is in it.
    pub contents: Contents,
    /// What its memory is made of.
    pub backing: Backing,
    /// Whether all of a memfd is allocated at the start.
    pub prealloc: bool,
    /// Interrupt vectors of each peer.
    pub vectors: u16,
    /// Whether VMs may connect at all.
    pub ivshmem: bool,
    /// The most VMs at one time.
    pub max_vms: u16,
    /// Users whose tasks may attach; `None`: everyone.
    pub allow_uids: Option<Vec<u32>>,
    /// Groups whose tasks may attach, besides the users.
    pub allow_gids: Option<Vec<u32>>,
    /// Users whose VMs may connect; `None`: the daemon's own and root.
    pub allow_vm_uids: Option<Vec<u32>>,
    /// Its IPC limits.
    pub limits: Limits,
}

/// What is in a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contents {
    /// The vshmem format; tasks attach.
    #[default]
    Vshmem,
    /// Zeros, and what the VMs make of them: for guests with a format of their
    /// own, which need only the memory and the doorbells.
    Raw,
}

/// What a region's memory is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Anonymous, sealed, gone with its last user.
    Memfd,
    /// A file on a hugetlbfs mount.
    Hugetlbfs(PathBuf),
    /// An ordinary file, best on tmpfs.
    File(PathBuf),
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memfd => f.write_str("memfd"),
            Self::Hugetlbfs(p) => write!(f, "hugetlbfs {}", p.display()),
            Self::File(p) => write!(f, "file {}", p.display()),
        }
    }
}

/// IPC limits of a region; what is not set is as in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Segments.
    pub shmmni: Option<u32>,
    /// Bytes of a segment.
    pub shmmax: Option<u64>,
    /// Pages of all segments.
    pub shmall: Option<u64>,
    /// 1: segments go with their last attachment.
    pub shm_rmid_forced: Option<u32>,
    /// Semaphore sets.
    pub semmni: Option<u32>,
    /// Semaphores in a set.
    pub semmsl: Option<u32>,
    /// Semaphores in all sets.
    pub semmns: Option<u32>,
    /// Operations in a `semop`.
    pub semopm: Option<u32>,
    /// Message queues.
    pub msgmni: Option<u32>,
    /// Bytes in a message.
    pub msgmax: Option<u32>,
    /// Bytes in a queue.
    pub msgmnb: Option<u32>,
    /// Attached tasks.
    pub tasks: Option<u32>,
    /// Attached tasks of one user; root and the daemon's own are exempt.
    pub tasks_per_uid: Option<u32>,
}

/// A region's name: 1 to 32 of `a-z 0-9 _ -`, so that it is a file name, a
/// TOML value and a shell word alike.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RegionName(String);

impl RegionName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// A sentence that says what a name is.
    pub fn new(name: &str) -> Result<Self, String> {
        let fits = (1..=32).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        if fits {
            Ok(Self(name.to_owned()))
        } else {
            Err(format!("region name {name:?}: 1 to 32 characters of a-z, 0-9, '_' and '-'"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RegionName {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(de)?).map_err(de::Error::custom)
    }
}

/// Parses `268435456`, `"256M"`, `"1G"`, `"16384K"`.
///
/// # Errors
///
/// A sentence that says what a size is.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let bad = || format!("size {text:?}: a number of bytes with an optional K, M, G or T");
    let (digits, shift) = match text.bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'T' | b't') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// Checks that QEMU can take `size` as a BAR and a region fits in it.
///
/// # Errors
///
/// A sentence that says what a region's size is, with the nearest that fits.
pub fn check_size(size: u64) -> Result<u64, String> {
    if size < MIN_REGION {
        return Err(format!("a region of {size} bytes is too small: at least 16M"));
    }
    if !size.is_power_of_two() {
        let hint = match size.checked_next_power_of_two() {
            Some(next) if next <= 1 << 46 => format!("; the next is {}M", next >> 20),
            _ => String::new(),
        };
        return Err(format!(
            "a region of {size} bytes: QEMU aborts unless the size is a power of two{hint}"
        ));
    }
    if size > 1 << 46 {
        return Err(format!("a region of {size} bytes is too large: at most 64T"));
    }
    Ok(size)
}

#[derive(Clone, Copy)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"256M\"")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Size, E> {
                let v = u64::try_from(v).map_err(|_| E::custom("a size is not negative"))?;
                check_size(v).map(Size).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Size, E> {
                parse_size(v).and_then(check_size).map(Size).map_err(E::custom)
            }
        }
        de.deserialize_any(Visitor)
    }
}

#[derive(Clone, Copy)]
struct Vectors(u16);

impl<'de> Deserialize<'de> for Vectors {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let n = i64::deserialize(de)?;
        match u16::try_from(n) {
            Ok(v @ 1..=MAX_VECTORS) => Ok(Self(v)),
            _ => Err(de::Error::custom(format!("vectors = {n}: 1 to {MAX_VECTORS}"))),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let n = i64::deserialize(de)?;
        match u32::try_from(n) {
            Ok(v @ 0..=MAX_NUMBER) => Ok(Self(v)),
            _ => Err(de::Error::custom(format!(
                "number = {n}: 0 to {MAX_NUMBER}, different ones for regions that one program uses"
            ))),
        }
    }
}

#[derive(Clone, Copy)]
struct MaxVms(u16);

impl<'de> Deserialize<'de> for MaxVms {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let n = i64::deserialize(de)?;
        match u16::try_from(n) {
            Ok(v @ 1..=MAX_VMS) => Ok(Self(v)),
            _ => Err(de::Error::custom(format!("max_vms = {n}: 1 to {MAX_VMS}"))),
        }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BackingKind {
    #[default]
    Memfd,
    Hugetlbfs,
    File,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    #[serde(default)]
    daemon: Daemon,
    #[serde(default)]
    region: Vec<Spanned<RawRegion>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegion {
    name: Spanned<RegionName>,
    size: Size,
    number: Option<Spanned<Number>>,
    #[serde(default)]
    contents: Contents,
    #[serde(default)]
    backing: BackingKind,
    path: Option<Spanned<PathBuf>>,
    #[serde(default)]
    prealloc: bool,
    vectors: Option<Vectors>,
    #[serde(default = "yes")]
    ivshmem: bool,
    max_vms: Option<MaxVms>,
    allow_uids: Option<Vec<u32>>,
    allow_gids: Option<Vec<u32>>,
    allow_vm_uids: Option<Vec<u32>>,
    #[serde(default)]
    limits: Limits,
}

const fn yes() -> bool {
    true
}

/// Vectors of a peer unless told: wake and control.
pub const DEFAULT_VECTORS: u16 = 2;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for the messages.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let at = |offset: usize, what: String| Error::At {
            path: path.to_owned(),
            line: line_of(text, offset),
            what,
        };
        let raw: RawConfig = toml::from_str(text)
            .map_err(|e| at(e.span().map_or(0, |s| s.start), e.message().replace('\n', "; ")))?;
        if raw.region.is_empty() {
            return Err(Error::NoRegion { path: path.to_owned() });
        }
        let mut regions: Vec<Region> = Vec::with_capacity(raw.region.len());
        for raw in raw.region {
            let start = raw.span().start;
            let region = raw.into_inner();
            let name_at = region.name.span().start;
            let name = region.name.into_inner();
            if regions.iter().any(|r| r.name == name) {
                return Err(at(name_at, format!("region {name:?} is there twice", name = name.0)));
            }
            let vectors = region.vectors.map_or(DEFAULT_VECTORS, |v| v.0);
            if region.contents == Contents::Vshmem && vectors < DEFAULT_VECTORS {
                let what = format!("region {name} needs at least 2 vectors: wake and control");
                return Err(at(name_at, what));
            }
            if let Some(number) = &region.number
                && region.contents == Contents::Raw
            {
                let what = format!("region {name} is raw and has no ids: drop its number");
                return Err(at(number.span().start, what));
            }
            let path_at = region.path.as_ref().map(|p| p.span().start);
            let file = region.path.map(Spanned::into_inner);
            if let (Some(p), Some(offset)) = (&file, path_at) {
                if !p.is_absolute() {
                    return Err(at(offset, format!("path {p:?} is not absolute")));
                }
                let taken = |r: &Region| match &r.backing {
                    Backing::Memfd => false,
                    Backing::Hugetlbfs(q) | Backing::File(q) => p == q,
                };
                if let Some(other) = regions.iter().find(|r| taken(r)) {
                    let what = format!("path {p:?} is region {}'s already", other.name);
                    return Err(at(offset, what));
                }
            }
            let backing = match (region.backing, file) {
                (BackingKind::Memfd, None) => Backing::Memfd,
                (BackingKind::Memfd, Some(_)) => {
                    let what = "a memfd has no path: drop it, or set backing = \"file\"";
                    return Err(at(path_at.unwrap_or(start), what.into()));
                }
                (BackingKind::Hugetlbfs, Some(p)) => Backing::Hugetlbfs(p),
                (BackingKind::File, Some(p)) => Backing::File(p),
                (BackingKind::Hugetlbfs | BackingKind::File, None) => {
                    return Err(at(name_at, format!("region {name} needs a path for its backing")));
                }
            };
            regions.push(Region {
                name,
                size: region.size.0,
                number: region.number.map_or(0, |n| n.into_inner().0),
                contents: region.contents,
                backing,
                prealloc: region.prealloc,
                vectors,
                ivshmem: region.ivshmem,
                max_vms: region.max_vms.map_or(MAX_VMS, |v| v.0),
                allow_uids: region.allow_uids,
                allow_gids: region.allow_gids,
                allow_vm_uids: region.allow_vm_uids,
                limits: region.limits,
            });
        }
        Ok(Self { daemon: raw.daemon, regions })
    }

    /// The embedded default: one sparse region of one user, without VMs.
    pub fn embedded(uid: u32) -> Self {
        Self {
            daemon: Daemon {
                linger_seconds: 30,
                on_sigterm: OnSigterm::Release,
                ..Daemon::default()
            },
            regions: vec![Region {
                name: RegionName("default".into()),
                size: 1 << 30,
                number: 0,
                contents: Contents::Vshmem,
                backing: Backing::Memfd,
                prealloc: false,
                vectors: DEFAULT_VECTORS,
                ivshmem: false,
                max_vms: MAX_VMS,
                allow_uids: Some(vec![uid]),
                allow_gids: None,
                allow_vm_uids: Some(Vec::new()),
                limits: Limits::default(),
            }],
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end].iter().filter(|&&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("c.toml")).map_err(|e| e.to_string())
    }

    fn refused(text: &str, line: usize, part: &str) {
        let message = parse(text).expect_err(text);
        assert!(message.starts_with(&format!("c.toml, line {line}: ")), "{message}");
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn full_file_is_read() {
        let c = parse(
            r#"
            [daemon]
            runtime_dir = "/run/x"
            log = "debug"
            on_sigterm = "keep"
            [[region]]
            name = "a-1"
            size = "256M"
            [[region]]
            name = "b"
            size = 16777216
            number = 7
            backing = "file"
            path = "/dev/shm/b"
            vectors = 4
            allow_uids = [1000]
            allow_vm_uids = [0, 64055]
            limits = { shmmni = 128, tasks = 64 }
            "#,
        )
        .unwrap();
        assert_eq!(c.daemon.on_sigterm, OnSigterm::Keep);
        assert_eq!(c.regions[0].size, 256 << 20);
        assert_eq!((c.regions[0].number, c.regions[1].number), (0, 7));
        assert_eq!(c.regions[0].vectors, 2);
        assert_eq!(c.regions[1].backing, Backing::File("/dev/shm/b".into()));
        assert_eq!(c.regions[1].limits.tasks, Some(64));
    }

    #[test]
    fn errors_name_the_line_and_the_remedy() {
        refused("[[region]]\nname = \"a\"\nsize = \"100M\"\n", 3, "the next is 128M");
        refused("[[region]]\nname = \"a\"\nsize = \"8M\"\n", 3, "at least 16M");
        refused("[[region]]\nname = \"a\"\nsize = \"lots\"\n", 3, "K, M, G or T");
        refused("[[region]]\nname = \"a\"\nsize = -1\n", 3, "not negative");
        refused("[[region]]\nname = \"A b\"\nsize = \"16M\"\n", 2, "a-z");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\nvectors = 257\n", 4, "1 to 256");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\nvectors = 0\n", 4, "1 to 256");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\nvectors = 1\n", 2, "at least 2");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\nnumber = 8\n", 4, "0 to 7");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\nnumber = -1\n", 4, "0 to 7");
        refused(
            "[[region]]\nname = \"a\"\nnumber = 1\nsize = \"16M\"\ncontents = \"raw\"\n",
            3,
            "no ids",
        );
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\ncolour = 1\n", 4, "unknown field");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\npath = \"/x\"\n", 4, "no path");
        refused("[[region]]\nname = \"a\"\nsize = \"16M\"\nbacking = \"file\"\n", 2, "a path");
        refused(
            "[[region]]\nname = \"a\"\nsize = \"16M\"\nbacking = \"file\"\npath = \"x\"\n",
            5,
            "absolute",
        );
        refused(
            "[[region]]\nname = \"a\"\nsize = \"16M\"\n[[region]]\nname = \"a\"\nsize = \"16M\"\n",
            5,
            "twice",
        );
        refused("[daemon]\n[[region]\n", 2, "");
    }

    #[test]
    fn example_is_accepted() {
        let config = parse(include_str!("../vshmemd.toml")).unwrap();
        assert_eq!(config.regions.len(), 1);
    }

    #[test]
    fn daemons_defaults_are_the_same_with_and_without_its_table() {
        let region = "[[region]]\nname = \"a\"\nsize = \"16M\"\n";
        for text in [region.to_owned(), format!("[daemon]\n{region}")] {
            assert_eq!(parse(&text).unwrap().daemon.linger_seconds, 600, "{text}");
        }
    }

    #[test]
    fn file_without_regions_is_refused() {
        assert_eq!(parse("").unwrap_err(), "c.toml: no [[region]]: nothing to serve");
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert!(parse_size("99999999999999999999").is_err());
        assert!(parse_size("99999999999999999T").is_err());
        assert!(parse_size("M").is_err());
        assert!(parse_size("").is_err());
        assert!(check_size(1 << 47).is_err());
        assert!(check_size(u64::MAX).is_err());
    }

    #[test]
    fn names_longer_than_32_are_refused() {
        assert!(RegionName::new(&"x".repeat(32)).is_ok());
        assert!(RegionName::new(&"x".repeat(33)).is_err());
        assert!(RegionName::new("").is_err());
        assert!(RegionName::new("../x").is_err());
    }
}
