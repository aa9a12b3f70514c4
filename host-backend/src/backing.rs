//! What a region's memory is made of.
//!
//! A memfd is sealed at its size, so that no peer can shrink it and give the
//! others SIGBUS. It belongs to the daemon's user with mode 0600: a task is
//! given a read-only descriptor, and re-opening that one for writing through
//! `/proc` asks the file's mode, which then refuses every other user.
//!
//! Files are allocated in full before anyone hears of them, under a temporary
//! name: a full disk is an error at the start, not a SIGBUS in a guest later.

use crate::config::{Backing, Region};
use rustix::fs::{
    FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fchmod,
    fcntl_add_seals, fcntl_get_seals, flock, fstat, ftruncate, memfd_create, open,
};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `f_type` of a hugetlbfs mount.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Why there is no memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("region {region}: cannot {step} ({backing}): {source}{hint}")]
    Step {
        /// Which region.
        region: String,
        /// What was being done.
        step: &'static str,
        /// On what.
        backing: String,
        /// Why it failed.
        source: std::io::Error,
        /// What would help, or nothing.
        hint: &'static str,
    },
    /// The existing file is not this region's.
    #[error(
        "region {region}: {path} has {found} bytes, the configuration says {expected}: move it away, or correct the size"
    )]
    Size {
        /// Which region.
        region: String,
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The size it should have.
        expected: u64,
    },
    /// Another daemon has it.
    #[error(
        "region {region}: {path} is in use: by another vshmemd, its holder, or a VM or task that still maps it"
    )]
    InUse {
        /// Which region.
        region: String,
        /// The file.
        path: PathBuf,
    },
    /// The path is on another kind of file system.
    #[error(
        "region {region}: {path} is not on a hugetlbfs mount: mount one, or set backing = \"file\""
    )]
    NotHuge {
        /// Which region.
        region: String,
        /// The file.
        path: PathBuf,
    },
}

/// A region's memory, whose file disappears again unless [`keep`](Self::keep)
/// is called: nothing is left of a region that could not be set up.
#[derive(Debug)]
pub struct Memory {
    fd: Option<OwnedFd>,
    created: Option<PathBuf>,
    /// Whether it holds only zeros.
    pub fresh: bool,
}

impl Memory {
    /// Makes or opens the memory of `region`.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing is left behind.
    pub fn open(region: &Region) -> Result<Self, Error> {
        match &region.backing {
            Backing::Memfd => anonymous(region),
            Backing::File(path) => file(region, path, false),
            Backing::Hugetlbfs(path) => file(region, path, true),
        }
    }

    /// The descriptor, for reading and writing.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_ref().expect("only `keep` takes it, and consumes").as_fd()
    }

    /// Says that the region is set up.
    pub fn keep(mut self) -> OwnedFd {
        self.created = None;
        self.fd.take().expect("only `keep` takes it, and consumes")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(path) = self.created.take()
            && let Err(e) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove unfinished file");
        }
    }
}

/// A descriptor for reading only. That it cannot be turned into one for
/// writing rests on the file's mode (see the module's page); a process of the
/// daemon's own user, or root, still can.
///
/// # Errors
///
/// What opening `/proc/self/fd/N` says.
pub fn read_only(fd: impl AsFd) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether `fd` has the size and, for a memfd, the seals of `region`.
pub fn is_intact(fd: impl AsFd, region: &Region) -> bool {
    let size = fstat(&fd).ok().and_then(|s| u64::try_from(s.st_size).ok());
    let sealed = || fcntl_get_seals(&fd).is_ok_and(|s| s.contains(seals()));
    size == Some(region.size) && (region.backing != Backing::Memfd || sealed())
}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

fn step(region: &Region, step: &'static str) -> impl Fn(Errno) -> Error {
    let (name, backing) = (region.name.to_string(), region.backing.to_string());
    move |errno| Error::Step {
        region: name.clone(),
        step,
        backing: backing.clone(),
        source: errno.into(),
        hint: match errno {
            Errno::NOSPC if backing.starts_with("hugetlbfs") => {
                ": reserve more huge pages in /proc/sys/vm/nr_hugepages"
            }
            Errno::NOSPC => ": free some room, or make the region smaller",
            Errno::NOMEM => ": free some memory, or leave out prealloc",
            _ => "",
        },
    }
}

fn anonymous(region: &Region) -> Result<Memory, Error> {
    let name = format!("vshmem:{}", region.name);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(&name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(&name, flags),
        other => other,
    }
    .map_err(step(region, "create memory"))?;
    fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(step(region, "restrict memory"))?;
    ftruncate(&fd, region.size).map_err(step(region, "size memory"))?;
    if region.prealloc {
        fallocate(&fd, FallocateFlags::empty(), 0, region.size)
            .map_err(step(region, "allocate memory"))?;
    }
    fcntl_add_seals(&fd, seals()).map_err(step(region, "seal memory"))?;
    Ok(Memory { fd: Some(fd), created: None, fresh: true })
}

fn lock(region: &Region, fd: &OwnedFd, path: &Path) -> Result<(), Error> {
    flock(fd, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => {
            Error::InUse { region: region.name.to_string(), path: path.to_owned() }
        }
        other => step(region, "lock the file")(other),
    })
}

fn file(region: &Region, path: &Path, huge: bool) -> Result<Memory, Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match open(path, flags, Mode::empty()) {
        Ok(fd) => {
            lock(region, &fd, path)?;
            let found = fstat(&fd).map_err(step(region, "inspect the file"))?.st_size;
            let found = u64::try_from(found).unwrap_or(0);
            if found != region.size {
                let region_name = region.name.to_string();
                return Err(Error::Size {
                    region: region_name,
                    path: path.to_owned(),
                    found,
                    expected: region.size,
                });
            }
            check_huge(region, &fd, path, huge)?;
            fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(step(region, "restrict the file"))?;
            // Allocates what a sparse copy of the file would lack.
            fallocate(&fd, FallocateFlags::empty(), 0, region.size)
                .map_err(step(region, "allocate the file"))?;
            return Ok(Memory { fd: Some(fd), created: None, fresh: false });
        }
        Err(Errno::NOENT) => {}
        Err(e) => return Err(step(region, "open the file")(e)),
    }

    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    // A leftover is what a daemon killed right here leaves; nobody uses it.
    let _ = std::fs::remove_file(&unfinished);
    let fd = open(&unfinished, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
        .map_err(step(region, "create the file"))?;
    let mut memory = Memory { fd: None, created: Some(unfinished.clone()), fresh: true };
    check_huge(region, &fd, path, huge)?;
    lock(region, &fd, path)?;
    ftruncate(&fd, region.size).map_err(step(region, "size the file"))?;
    fallocate(&fd, FallocateFlags::empty(), 0, region.size)
        .map_err(step(region, "allocate the file"))?;
    rustix::fs::rename(&unfinished, path).map_err(step(region, "name the file"))?;
    memory.created = Some(path.to_owned());
    memory.fd = Some(fd);
    Ok(memory)
}

fn check_huge(region: &Region, fd: &OwnedFd, path: &Path, huge: bool) -> Result<(), Error> {
    let kind = rustix::fs::fstatfs(fd).map_err(step(region, "inspect the file system"))?.f_type;
    if huge && u64::try_from(kind) != Ok(HUGETLBFS_MAGIC) {
        return Err(Error::NotHuge { region: region.name.to_string(), path: path.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn region(extra: &str) -> Region {
        let text = format!("[[region]]\nname = \"t\"\nsize = \"16M\"\n{extra}");
        Config::parse(&text, Path::new("t")).unwrap().regions.remove(0)
    }

    #[test]
    fn memfd_is_sealed_private_and_of_the_size_asked() {
        let region = region("");
        let memory = Memory::open(&region).unwrap();
        assert!(memory.fresh);
        assert!(is_intact(memory.fd(), &region));
        let stat = fstat(memory.fd()).unwrap();
        assert_eq!(stat.st_mode & 0o7777, 0o600);
        assert_eq!(ftruncate(memory.fd(), 4096), Err(Errno::PERM));
        assert_eq!(ftruncate(memory.fd(), 32 << 20), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(memory.fd(), SealFlags::WRITE), Err(Errno::PERM));
    }

    #[test]
    fn preallocated_memfd_has_all_its_blocks() {
        let memory = Memory::open(&region("prealloc = true")).unwrap();
        assert!(fstat(memory.fd()).unwrap().st_blocks * 512 >= 16 << 20);
    }

    #[test]
    fn read_only_descriptor_refuses_writes() {
        let memory = Memory::open(&region("")).unwrap();
        let ro = read_only(memory.fd()).unwrap();
        assert_eq!(rustix::io::write(&ro, b"x"), Err(Errno::BADF));
        assert_eq!(fstat(&ro).unwrap().st_ino, fstat(memory.fd()).unwrap().st_ino);
    }

    #[test]
    fn file_of_an_unfinished_region_disappears_and_a_kept_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let region = region(&format!("backing = \"file\"\npath = {path:?}"));
        drop(Memory::open(&region).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        let fd = Memory::open(&region).unwrap().keep();
        assert!(fstat(&fd).unwrap().st_blocks * 512 >= 16 << 20);
        let again = Memory::open(&region).unwrap_err();
        assert!(matches!(again, Error::InUse { .. }), "{again}");
        drop(fd);
        let reopened = Memory::open(&region).unwrap();
        assert!(!reopened.fresh);
        drop(reopened);
        assert!(path.exists());
    }

    #[test]
    fn file_of_another_size_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, b"mine").unwrap();
        let region = region(&format!("backing = \"file\"\npath = {path:?}"));
        let error = Memory::open(&region).unwrap_err();
        assert!(matches!(error, Error::Size { found: 4, .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn file_larger_than_the_disk_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("m");
        let mut region = region(&format!("backing = \"file\"\npath = {path:?}"));
        region.size = 1 << 45;
        let error = Memory::open(&region).unwrap_err();
        assert!(error.to_string().contains("smaller"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn huge_pages_off_a_hugetlbfs_mount_are_refused_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let region = region(&format!("backing = \"hugetlbfs\"\npath = {path:?}"));
        let error = Memory::open(&region).unwrap_err();
        assert!(matches!(error, Error::NotHuge { .. }), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
