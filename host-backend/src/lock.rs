//! One daemon for each runtime directory.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of the lock file in the runtime directory.
pub const FILE: &str = "vshmemd.lock";

/// How long the lock must be taken to be somebody's.
const LOOK: Duration = Duration::from_millis(100);

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon has it.
    #[error(
        "a vshmemd (pid {}) serves {dir} already: stop it with `vshmemd --shutdown \
         --runtime-dir {dir}`, or choose another --runtime-dir",
        pid.map_or_else(|| "unknown".to_owned(), |p| p.to_string())
    )]
    Taken {
        /// The directory.
        dir: String,
        /// Who serves it.
        pid: Option<u32>,
    },
    /// The file cannot be used.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The lock; released when dropped, also by a crash.
#[derive(Debug)]
pub struct Lock {
    // Held open: closing it releases the lock.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of `dir` and writes our pid into it.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let failed = |e: Errno| Error::Io { path: path.clone(), source: io::Error::from(e) };
        let begun = Instant::now();
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
            let file = File::from(open(&path, flags, mode).map_err(failed)?);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // Somebody who only looks whether it is taken has it for a moment.
                Err(Errno::WOULDBLOCK) if begun.elapsed() < LOOK => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::Taken {
                        dir: dir.display().to_string(),
                        pid: read_pid(&file),
                    });
                }
                Err(e) => return Err(failed(e)),
            }
            // The one before us removes the file as it leaves: what we have
            // locked may no longer be what the name says.
            let ours = fstat(&file).map_err(failed)?;
            if !stat(&path).is_ok_and(|named| named.st_ino == ours.st_ino) {
                continue;
            }
            let written = file.set_len(0).and_then(|()| {
                file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
            });
            return match written {
                Ok(()) => Ok(Self { _file: file, path }),
                Err(source) => Err(Error::Io { path, source }),
            };
        }
    }

    /// Removes the file, and releases the lock.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// The pid of the daemon that holds the lock of `dir`, if one does.
    pub fn owner(dir: &Path) -> Option<u32> {
        let path = dir.join(FILE);
        let file = File::open(&path).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => read_pid(&file).filter(|&pid| has_open(pid, &path)),
            _ => None,
        }
    }
}

/// Whether process `pid` has the file open. What a crashed daemon wrote stands
/// in the file until the next one has written its own, and may by then be the
/// pid of anybody.
fn has_open(pid: u32, path: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let Ok(path) = path.canonicalize() else { return false };
    files.flatten().any(|f| std::fs::read_link(f.path()).is_ok_and(|link| link == path))
}

fn read_pid(file: &File) -> Option<u32> {
    let mut buf = [0; 16];
    let n = file.read_at(&mut buf, 0).ok()?;
    std::str::from_utf8(&buf[..n]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_is_refused_naming_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        assert_eq!(Lock::owner(dir.path()), Some(std::process::id()));
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        first.remove();
        assert_eq!(Lock::owner(dir.path()), None);
        Lock::take(dir.path()).unwrap().remove();

        // Who only looks is in nobody's way.
        let look = File::create(dir.path().join(FILE)).unwrap();
        flock(&look, FlockOperation::NonBlockingLockShared).unwrap();
        let end = std::thread::spawn(move || {
            std::thread::sleep(LOOK / 4);
            drop(look);
        });
        Lock::take(dir.path()).unwrap();
        end.join().unwrap();
    }
}
