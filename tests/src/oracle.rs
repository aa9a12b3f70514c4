//! The oracle: random programs of IPC calls, played on the kernel and on vshmem.
//!
//! A [`Program`] is steps for a few processes. The *player*
//! (`tests/oracle/player`, C) performs it and prints what came of each step and
//! every field of the objects; it knows nothing of vshmem. [`world::Pair`] plays
//! the same program in two worlds, [`compare`] compares the transcripts, and
//! [`shrink`] makes a program that differs short enough to read.
//!
//! ```text
//!  generate ── Program ─┬─ unshare -i player ─────────────────┬─ compare ── shrink
//!                       └─ unshare -i vshmem run -- player ───┘
//! ```
//!
//! Both worlds begin without objects and number them alike, so even ids compare:
//! index and sequence. What differs with a reason is an [`explained`] rule.
//! What differed once and was mended is kept in `tests/oracle/corpus`.

pub mod compare;
pub mod explained;
pub mod generate;
pub mod shrink;
pub mod soak;
pub mod world;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Steps for a few processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// One word.
    pub name: String,
    /// Processes at the start.
    pub workers: usize,
    /// Whether all objects are looked at after every step.
    pub watched: bool,
    /// What they do, in the player's words.
    pub steps: Vec<String>,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watched = if self.watched { "watched" } else { "blind" };
        writeln!(f, "program {} {} {watched}", self.name, self.workers)?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "end")
    }
}

impl Program {
    /// Reads one as it is written; lines that begin with `#` are remarks.
    ///
    /// # Errors
    ///
    /// It has no first line of a program.
    pub fn read(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        let head: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
        ensure!(head.len() == 4 && head[0] == "program", "no line 'program NAME WORKERS watched'");
        Ok(Self {
            name: head[1].to_owned(),
            workers: head[2].parse().context("the number of workers")?,
            watched: head[3] == "watched",
            steps: lines.take_while(|l| *l != "end").map(str::to_owned).collect(),
        })
    }
}

/// The folder of the programs that differed once.
pub fn corpus() -> PathBuf {
    crate::build::root().join("tests/oracle/corpus")
}

/// Compiles the player.
///
/// # Errors
///
/// The compiler's messages.
pub fn player(into: &Path) -> Result<PathBuf> {
    let folder = crate::build::root().join("tests/oracle/player");
    crate::build::compile_all("player", &crate::build::sources(&folder)?, into)
}
