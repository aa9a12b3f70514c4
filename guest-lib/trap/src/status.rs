//! What `/proc/TID/status` tells about a thread.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vshmem::Rights;

/// One look at it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Threads of that.
    pub threads: u32,
    /// Who it is.
    pub rights: Rights,
    /// Signals that wait for the thread.
    pub own_signals: u64,
    /// Signals that wait for the process.
    pub shared_signals: u64,
    /// Signals it blocks.
    pub blocked: u64,
    /// Signals with a handler.
    pub caught: u64,
}

/// Longer only for somebody in thousands of groups, all of which matter.
const USUAL: usize = 4096;

impl Status {
    /// Reads it from the open file: of that very thread, whoever has its number by now.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn read(file: &File) -> io::Result<Self> {
        let mut bytes = vec![0; USUAL];
        loop {
            let n = file.read_at(&mut bytes, 0)?;
            if n < bytes.len() {
                bytes.truncate(n);
                break;
            }
            bytes.resize(bytes.len() * 4, 0);
        }
        Self::parse(&bytes).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut got = Self::default();
        for line in text.split(|b| *b == b'\n') {
            let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
            let Ok(value) = std::str::from_utf8(&line[colon + 1..]) else { continue };
            let mut words = value.split_ascii_whitespace();
            let bits = || u64::from_str_radix(value.trim(), 16).ok();
            match &line[..colon] {
                b"Tgid" => got.pid = words.next()?.parse().ok()?,
                // Real, then effective.
                b"Uid" => got.rights.uid = words.nth(1)?.parse().ok()?,
                b"Gid" => got.rights.gid = words.nth(1)?.parse().ok()?,
                b"Groups" => got.rights.groups = words.filter_map(|w| w.parse().ok()).collect(),
                b"Threads" => got.threads = words.next()?.parse().ok()?,
                b"SigPnd" => got.own_signals = bits()?,
                b"ShdPnd" => got.shared_signals = bits()?,
                b"SigBlk" => got.blocked = bits()?,
                b"SigCgt" => got.caught = bits()?,
                b"CapEff" => got.rights.capabilities = bits()?,
                _ => {}
            }
        }
        (got.pid != 0).then_some(got)
    }

    /// Signals that would interrupt a call of it.
    pub fn interrupting(&self) -> u64 {
        (self.own_signals | self.shared_signals) & !self.blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_whatever_the_program_is_called() {
        let text = b"Name:\tUid: 1 \xff\nUmask:\t0022\nTgid:\t42\nPid:\t43\nUid:\t1\t2\t3\t4\n\
            Gid:\t5\t6\t7\t8\nGroups:\t10 20 \nThreads:\t3\nSigPnd:\t0000000000000200\n\
            ShdPnd:\t0000000000000001\nSigBlk:\t0000000000000001\nSigCgt:\t0000000000000200\n\
            CapEff:\t000001ffffffffff\n";
        let got = Status::parse(text).unwrap();
        assert_eq!((got.pid, got.threads, got.rights.uid, got.rights.gid), (42, 3, 2, 6));
        assert_eq!(got.rights.groups, [10, 20]);
        assert_eq!((got.interrupting(), got.caught), (0x200, 0x200));
        assert_eq!(got.rights.capabilities, 0x1ff_ffff_ffff);
        assert_eq!(Status::parse(b"Name:\tx\n"), None);
    }

    #[test]
    fn the_file_is_the_threads_own() {
        let file = File::open("/proc/thread-self/status").unwrap();
        assert_eq!(Status::read(&file).unwrap().pid, std::process::id());
        let file = std::thread::spawn(|| File::open("/proc/thread-self/status").unwrap());
        let file = file.join().unwrap();
        // The thread may take a moment to be gone after it was joined.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while Status::read(&file).is_ok() {
            assert!(std::time::Instant::now() < until, "it is still read");
            std::thread::yield_now();
        }
    }
}
