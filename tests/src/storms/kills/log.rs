//! What a worker wrote before it died: the reader of `tests/programs/storm/kills/storm.h`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

const HEAD: usize = 4096;
const ENTRY: usize = 32;
const ENTRIES: usize = 8191;
const STRAND: usize = 32 + ENTRIES * ENTRY;
const STRANDS: usize = 24;

/// Bytes of a log.
pub const SIZE: u64 = (HEAD + STRANDS * STRAND) as u64;

/// One thing that a thread did, or was about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    SendTry { queue: u32, kind: i64, serial: u64 },
    SendOk,
    SendNo { errno: i32 },
    RecvTry { queue: u32, wanted: Wanted },
    RecvGot { kind: i64, serial: u64 },
    RecvNo { errno: i32 },
    Inherit { owner: u32, since: u64, at: u64 },
    MakeTry { kind: u32 },
    Made { kind: u32, id: i32 },
    GoneTry { kind: u32, id: i32 },
    Gone { kind: u32, id: i32 },
    PostTry,
    PostOk,
    WaitTry,
    WaitOk,
    WaitNo,
    Broken { errno: i32, text: [u8; 24] },
    End,
}

/// Which messages a receiver asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub kind: i64,
    pub except: bool,
}

impl Wanted {
    /// Whether it would be given a message of type `kind`.
    pub fn takes(self, kind: i64) -> bool {
        match self.kind {
            wanted if self.except => kind != wanted,
            0 => true,
            wanted if wanted > 0 => kind == wanted,
            wanted => kind <= -wanted,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |acc, &b| acc << 8 | u64::from(b))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |acc, &b| acc << 8 | u32::from(b))
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let n = half(bytes, 4);
    let [a, b, t] = [8, 16, 24].map(|at| word(bytes, at));
    let id = a as u32 as i32;
    Some(match half(bytes, 0) {
        1 => Entry::SendTry { queue: (a >> 32) as u32, kind: a as u32 as i64, serial: b },
        2 => Entry::SendOk,
        3 => Entry::SendNo { errno: id },
        4 => {
            let wanted = Wanted { kind: b as i64, except: n != 0 };
            Entry::RecvTry { queue: a as u32, wanted }
        }
        5 => Entry::RecvGot { kind: a as i64, serial: b },
        6 => Entry::RecvNo { errno: id },
        7 => Entry::Inherit { owner: a as u32, since: b, at: t },
        8 => Entry::MakeTry { kind: n },
        9 => Entry::Made { kind: n, id },
        10 => Entry::GoneTry { kind: n, id },
        11 => Entry::Gone { kind: n, id },
        12 => Entry::PostTry,
        13 => Entry::PostOk,
        14 => Entry::WaitTry,
        15 => Entry::WaitOk,
        16 => Entry::WaitNo,
        17 => {
            let mut text = [0; 24];
            text.copy_from_slice(&bytes[8..32]);
            Entry::Broken { errno: n as i32, text }
        }
        18 => Entry::End,
        _ => return None,
    })
}

/// A new, empty one.
///
/// # Errors
///
/// The file cannot be made.
pub fn create(path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("{}", path.display()))?;
    Ok(file.set_len(SIZE)?)
}

/// The strands of a log: of each thread, child and image what it did, in order.
///
/// # Errors
///
/// It cannot be read, or is none.
pub fn read(path: &Path) -> Result<Vec<Vec<Entry>>> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let count = |at: usize| -> Result<usize> {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at as u64)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    };
    let strand = |i: usize| {
        let at = HEAD + i * STRAND;
        let mut bytes = vec![0; count(at)?.min(ENTRIES) * ENTRY];
        file.read_exact_at(&mut bytes, (at + 32) as u64)?;
        let entries = bytes.chunks_exact(ENTRY).map(entry);
        entries.collect::<Option<Vec<_>>>().with_context(|| format!("strand {i} is torn"))
    };
    (0..count(0)?.min(STRANDS)).map(strand).collect()
}

/// Whether the first thread says that it is about to exit.
#[must_use]
pub fn ends(path: &Path) -> bool {
    let look = || {
        let file = File::open(path).ok()?;
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, HEAD as u64).ok()?;
        let last = u64::from(u32::from_le_bytes(bytes).checked_sub(1)?);
        file.read_exact_at(&mut bytes, HEAD as u64 + 32 + last * ENTRY as u64).ok()?;
        Some(u32::from_le_bytes(bytes) == 18)
    };
    look().unwrap_or(false)
}
