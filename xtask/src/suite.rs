//! `cargo xtask test` and its relatives.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::failures;
use crate::stage::Count;
use crate::stages::{STAGES, Stage};

/// Which stages run.
#[derive(Args)]
pub struct Options {
    /// Leave out a stage; may be given more than once.
    #[arg(long, value_name = "NAME")]
    skip: Vec<String>,
    /// Run only this stage; may be given more than once.
    #[arg(long, value_name = "NAME", conflicts_with = "skip")]
    only: Vec<String>,
    /// Show the stages and what they cover.
    #[arg(long)]
    list: bool,
}

fn timed(stage: &Stage) -> (Count, Duration) {
    eprintln!("\n==> {}: {}", stage.name, stage.about);
    let started = Instant::now();
    // A stage that cannot run is a failure, and the others still run.
    let count = (stage.run)().unwrap_or_else(|error| {
        eprintln!("error: {}: {error:#}", stage.name);
        failures::add(format!("{error:#}"));
        Count::FAILED
    });
    (count, started.elapsed())
}

/// Runs the stages; true when none failed. The last line on standard output is
/// `N passed, N failed, N skipped`.
///
/// # Errors
///
/// A stage's name that does not exist.
pub fn test(options: &Options) -> Result<bool> {
    if options.list {
        for stage in STAGES {
            println!("{:12} {}", stage.name, stage.about);
        }
        return Ok(true);
    }
    for name in options.skip.iter().chain(&options.only) {
        if !STAGES.iter().any(|s| s.name == *name) {
            let known: Vec<_> = STAGES.iter().map(|s| s.name).collect();
            bail!("there is no stage '{name}'; there are: {}", known.join(", "));
        }
    }
    let mut total = Count::default();
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    for stage in STAGES {
        let named = options.skip.iter().any(|n| n == stage.name);
        let other = !options.only.is_empty() && !options.only.iter().any(|n| n == stage.name);
        if named || other {
            total += Count::SKIPPED;
            lines.push(format!("{:12} skipped by name", stage.name));
            continue;
        }
        let (count, time) = timed(stage);
        total += count;
        lines.push(format!("{:12} {:6.1} s  {count}", stage.name, time.as_secs_f64()));
        failed.extend(failures::take().into_iter().map(|text| format!("{}: {text}", stage.name)));
    }
    for text in failed {
        eprintln!("\nfailed in {text}");
    }
    eprintln!();
    for line in lines {
        eprintln!("{line}");
    }
    println!("{total}");
    Ok(total.failed == 0)
}

/// Runs the named stages alone.
///
/// # Errors
///
/// None that a stage could cause: those count as failures.
pub fn only(names: &[&str]) -> Result<bool> {
    let mut total = Count::default();
    for stage in STAGES.iter().filter(|s| names.contains(&s.name)) {
        let (count, time) = timed(stage);
        eprintln!("{} took {:.1} s", stage.name, time.as_secs_f64());
        total += count;
    }
    println!("{total}");
    Ok(total.failed == 0)
}
