use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The directory that keeps unpacked kernels, built modules and images.
///
/// Everything in it can be made again: deleting it is always safe.
///
/// Entries appear by renaming, so that a reader never sees half of one, and a
/// maker that dies leaves only a temporary name behind.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$VSHMEM_CACHE`, else `/var/cache/vshmem` for root, else
    /// `$XDG_CACHE_HOME/vshmem`, else `~/.cache/vshmem`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the directory cannot be made.
    pub fn open() -> Result<Cache> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = if let Some(dir) = var("VSHMEM_CACHE") {
            dir
        } else if rustix::process::geteuid().is_root() {
            PathBuf::from("/var/cache/vshmem")
        } else if let Some(dir) = var("XDG_CACHE_HOME") {
            dir.join("vshmem")
        } else {
            var("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".cache/vshmem")
        };
        Cache::at(root)
    }

    /// Opens the cache in `root`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the directory cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Cache> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(Error::file(&root))?;
        // Programs run with the cache as argument, and from other directories.
        let root = fs::canonicalize(&root).map_err(Error::file(&root))?;
        Ok(Cache { root })
    }

    /// The cache's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the entry `name`, made by `make` if it is not there.
    ///
    /// `make` gets a directory of its own and leaves the entry in it under the
    /// name `entry` (a file or a directory).
    ///
    /// # Errors
    ///
    /// Those of `make`, and [`Error::File`].
    pub fn entry(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let at = self.root.join(name);
        if at.exists() {
            return Ok(at);
        }
        let _lock = self.lock(name)?;
        if at.exists() {
            return Ok(at); // another process was faster
        }
        let parent = at.parent().unwrap_or(&self.root).to_path_buf();
        fs::create_dir_all(&parent).map_err(Error::file(&parent))?;
        let scratch = self.root.join(format!("tmp.{}", file_name(name)));
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch).map_err(Error::file(&scratch))?;
        let made = make(&scratch)
            .and_then(|()| fs::rename(scratch.join("entry"), &at).map_err(Error::file(&at)));
        let _ = fs::remove_dir_all(&scratch);
        made.map(|()| at)
    }

    /// Holds the lock of `name` until the result is dropped.
    fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join(format!("lock.{}", file_name(name)));
        let file = File::create(&path).map_err(Error::file(&path))?;
        let whole = rustix::fs::FlockOperation::LockExclusive;
        rustix::fs::flock(&file, whole).map_err(|e| Error::file(&path)(e.into()))?;
        Ok(file)
    }
}

fn file_name(name: &str) -> String {
    name.replace('/', "_")
}

/// Names contents: FNV-1a, 64 bits. Entries are addressed by it, and nobody but
/// the cache's owner can put one there, so it need not resist an attacker.
#[derive(Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(mut self, bytes: &[u8]) -> Digest {
        // The length keeps "ab","c" and "a","bc" apart.
        for b in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    pub(crate) fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_made_once_and_a_failed_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let fail = |at: &Path| {
            fs::write(at.join("entry"), "half").unwrap();
            Err(Error::NoPackage { package: "x".into() })
        };
        assert!(cache.entry("a/b", fail).is_err());
        assert!(!cache.root().join("a/b").exists());
        let make = |at: &Path| {
            fs::write(at.join("entry"), "whole").unwrap();
            Ok(())
        };
        let path = cache.entry("a/b", make).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(cache.entry("a/b", |_| panic!("made twice")).unwrap(), path);
        assert!(!cache.root().join("tmp.a_b").exists());
    }

    #[test]
    fn a_digest_separates_its_parts() {
        let a = Digest::new().add(b"ab").add(b"c").hex();
        let b = Digest::new().add(b"a").add(b"bc").hex();
        assert_ne!(a, b);
    }
}
