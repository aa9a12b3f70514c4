//! The file in which workers (`tests/programs/storm/stops.c`) note what they do.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// As in the program.
pub const WORKERS: usize = 8;
const PHASES: usize = 3;
const BUCKETS: usize = 320;
const HEAD: usize = 4;
const TALLY: usize = KINDS.len() * (BUCKETS + 1);
const WORKER: usize = 5 + PHASES * TALLY;

/// What the calls do.
pub const KINDS: [&str; 7] = [
    "semop, one operation",
    "semop, two operations",
    "semop, SEM_UNDO",
    "msgsnd, msgrcv",
    "shmget, shmat, shmdt, IPC_RMID",
    "IPC_NOWAIT",
    "semtimedop beyond its timeout",
];

/// When something was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody is stopped.
    Quiet,
    /// Stops, one after the other.
    Stops,
    /// Stops of two seconds.
    Long,
    /// The workers end.
    End,
}

/// The file.
#[derive(Debug)]
pub struct Board(File);

/// How long the calls of one kind took, in one phase.
#[derive(Debug, Default, Clone)]
pub struct Delays {
    /// The longest.
    pub worst: Duration,
    /// The worker that it was.
    pub whose: usize,
    buckets: Vec<u64>,
}

impl Delays {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What so many of a hundred thousand do not exceed, an eighth more or less.
    pub fn at(&self, of: u64) -> Duration {
        let rank = (self.count() * of).div_ceil(100_000);
        let mut seen = 0;
        for (i, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Duration::from_nanos(upper(i as u64)).min(self.worst);
            }
        }
        self.worst
    }

    /// The percentiles of a table.
    pub fn text(&self) -> String {
        let us = |d: Duration| format!("{:.1}", d.as_secs_f64() * 1e6);
        let [p50, p99, p999] = [50_000, 99_000, 99_900].map(|of| us(self.at(of)));
        format!("{p50} / {p99} / {p999} / {} us ({})", us(self.worst), self.count())
    }

    fn add(&mut self, words: &[u64]) {
        self.buckets.resize(BUCKETS, 0);
        self.buckets.iter_mut().zip(words).for_each(|(sum, n)| *sum += n);
    }
}

/// The end of bucket `i`, of which there are eight to each power of two.
const fn upper(i: u64) -> u64 {
    if i < 8 { i } else { (9 + i % 8) << (i / 8 - 1) }
}

impl Board {
    /// A new one.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("{}", path.display()))?;
        file.set_len(((HEAD + WORKERS * WORKER) * 8) as u64)?;
        Ok(Self(file))
    }

    fn words(&self, at: usize, n: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; n * 8];
        self.0.read_exact_at(&mut bytes, (at * 8) as u64)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_ne_bytes(*b)).collect())
    }

    fn put(&self, at: usize, word: u64) -> Result<()> {
        Ok(self.0.write_all_at(&word.to_ne_bytes(), (at * 8) as u64)?)
    }

    /// Tells the workers what is going on.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn begin(&self, phase: Phase) -> Result<()> {
        self.put(0, phase as u64)
    }

    /// The process of a worker, once it works.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn pid(&self, worker: usize) -> Result<Option<i32>> {
        let pid = self.words(HEAD + worker * WORKER, 1)?[0];
        Ok(i32::try_from(pid).ok().filter(|pid| *pid != 0))
    }

    /// A worker is stopped from now on, or is not any more.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn turn(&self, worker: usize) -> Result<()> {
        let at = HEAD + worker * WORKER + 1;
        self.put(at, self.words(at, 1)?[0] + 1)
    }

    /// Calls made, calls that a stop ended with EINTR, and waits that ended before their time.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn calls(&self) -> Result<[u64; 3]> {
        let mut sums = [0; 3];
        for worker in 0..WORKERS {
            let words = self.words(HEAD + worker * WORKER + 2, 3)?;
            sums.iter_mut().zip(words).for_each(|(sum, n)| *sum += n);
        }
        Ok(sums)
    }

    /// How long the calls of these workers took in a phase, by kind.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn delays(&self, phase: Phase, of: Range<usize>) -> Result<Vec<Delays>> {
        let mut all = vec![Delays::default(); KINDS.len()];
        for worker in of {
            let at = HEAD + worker * WORKER + 5 + phase as usize * TALLY;
            let words = self.words(at, TALLY)?;
            let (worst, buckets) = words.split_at(KINDS.len());
            for (kind, delays) in all.iter_mut().enumerate() {
                let its = Duration::from_nanos(worst[kind]);
                if its > delays.worst {
                    (delays.worst, delays.whose) = (its, worker);
                }
                delays.add(&buckets[kind * BUCKETS..][..BUCKETS]);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_bucket_that_holds_them() {
        let mut delays = Delays { worst: Duration::from_nanos(1000), ..Delays::default() };
        let mut words = vec![0; BUCKETS];
        (words[3], words[8]) = (99, 1);
        delays.add(&words);
        assert_eq!(delays.count(), 100);
        assert_eq!(delays.at(50_000), Duration::from_nanos(3));
        assert_eq!(delays.at(99_000), Duration::from_nanos(3));
        assert_eq!(delays.at(100_000), Duration::from_nanos(9));
        // 1000 is 0b1111101000: the last but none of its power's eight.
        assert_eq!(upper((9 - 2) * 8 + 7), 1024);
    }
}
