//! Pages of segments: how they are found, come, and go.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;
use crate::row::{Program, Row, Unit};
use crate::run::Turn;

/// More than the TLB reaches in small pages.
const LARGE: &str = "256";
/// Of one cycle.
const SOME: &str = "16";
/// MiB of which is seen whether the host has them back.
const HELD: u64 = 64;
/// The endpoint looks about every second.
const AFTER: Duration = Duration::from_secs(3);

/// The rows.
pub fn rows() -> Vec<Row> {
    let pages = |code: &str, about: &str| Row::program("pages", "pages", code, about);
    let mut rows = vec![
        pages("walk", "reads of random words of 256 MiB").named("page-walk").with(&[LARGE]),
        pages("walk", "reads of random words of 256 MiB, huge pages asked for")
            .named("page-walk-huge")
            .with(&[LARGE, "huge"]),
        pages("cycle", "a page of 16 MiB that are made, touched, removed")
            .named("page-cycle")
            .with(&[SOME]),
        pages("cycle", "a page of 16 MiB that are made, touched, removed, huge pages asked for")
            .named("page-cycle-huge")
            .with(&[SOME, "huge"]),
    ];
    let mut held =
        pages("hold", "of 64 MiB that were touched and removed: what the host has not back")
            .named("page-held")
            .unit(Unit::Bytes)
            .through(held);
    held.base = None;
    rows.push(held);
    rows
}

/// Bytes that the host has given to the wide region.
fn backed(place: &Place) -> Result<u64> {
    for entry in std::fs::read_dir(format!("/proc/{}/fd", place.daemon()?))? {
        let path = entry?.path();
        let target = std::fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().starts_with("/memfd:vshmem:wide") {
            return Ok(std::fs::metadata(&path)?.blocks() * 512);
        }
    }
    bail!("the daemon has no region")
}

/// What the host does not have back some time after.
fn held(place: &Place, program: &Program, _turn: Turn) -> Result<Vec<f64>> {
    let mut command = place.command(&Program { wide: true, ..program.clone() })?;
    command.args(["once", &HELD.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let mut said = |word: &str| -> Result<()> {
        let line = lines.next().transpose()?.unwrap_or_default();
        ensure!(line == word, "pages said '{line}' for '{word}'");
        Ok(())
    };
    said("touched")?;
    let touched = backed(place)?;
    child.stdin.take().context("no stdin")?.write_all(b"\n")?;
    said("removed")?;
    ensure!(child.wait()?.success(), "pages failed");
    std::thread::sleep(AFTER);
    let back = touched.saturating_sub(backed(place)?);
    Ok(vec![((HELD << 20) as f64 - back as f64).max(0.0)])
}
