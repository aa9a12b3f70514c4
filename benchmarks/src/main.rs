//! Measures vshmem beside the kernel's own IPC, and beside the bare mechanisms
//! that either is made of.
//!
//! A row is two sides: one C program on the kernel and on vshmem, or two codes
//! of one. The sides take turns until the row's time is over, so that a
//! disturbance of the machine meets both, and each pair of turns gives a ratio.
//! Ratios compare; absolute figures belong to the machine that is printed with
//! them.

mod place;
mod report;
mod row;
mod rows;
mod run;
mod stats;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vshmem_tests::{build, machine};

use crate::place::Place;
use crate::report::compare::{Change, changes};
use crate::report::json::{FORMAT, Target};
use crate::report::{Outcome, Report, compare, json, plot, table};
use crate::row::{How, Row};
use crate::run::{Bound, Side, alone, in_turns};

/// Measures vshmem beside the kernel's own IPC.
///
/// Exits with 0 when all rows were measured, with 1 when --check finds that something is not as it
/// shall be, with 2 when something could not be measured or the options are wrong.
#[derive(Parser)]
#[command(name = "vshmem-bench")]
struct Options {
    /// Only these: a group, a row, a part of rows' names, or `budget` for all that have a goal
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Count instructions as well, with valgrind, which takes minutes
    #[arg(long)]
    instructions: bool,
    /// List groups and rows, measure nothing
    #[arg(long)]
    list: bool,
    /// A look at everything: half a second for each row, and rougher figures
    #[arg(long)]
    quick: bool,
    /// How long a row is measured [default: 4; --quick: 0.5]
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Where the figures go [default: in target/bench, named after the time]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the plots go [default: beside the figures, with .plots]
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// Say what changed since this earlier --json
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Fail when a row misses its goal, or with --compare when one became worse
    #[arg(long)]
    check: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|e| format!("{e}"))?;
    match number {
        n if (0.01..=3600.0).contains(&n) => Ok(Duration::from_secs_f64(n)),
        _ => Err("a row takes from 0.01 to 3600 seconds".into()),
    }
}

impl Options {
    fn bound(&self) -> Bound {
        let (time, slice) = if self.quick { (500, 20) } else { (4000, 100) };
        let time = self.seconds.unwrap_or(Duration::from_millis(time));
        Bound { time, slice: Duration::from_millis(slice).min(time) }
    }

    /// Where the figures go.
    fn target(&self) -> Result<Target> {
        let own = || -> PathBuf {
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            let name = format!("{}.json", machine::time().replace([' ', ':'], "-"));
            build::root().join(target).join("bench").join(name)
        };
        Target::new(&self.json.clone().unwrap_or_else(own))
    }
}

fn measure(place: &Place, row: &Row, bound: Bound) -> Result<Outcome> {
    let bound = bound.times(row.patience);
    let turn = |turn: run::Turn| {
        let base = row.base.as_ref().filter(|_| turn.side == Side::Base);
        match &base.unwrap_or(&row.ours).how {
            How::Program(program) => place.measure(program, turn.slice),
            How::Code(code) => code(place, turn),
        }
    };
    let found = if row.base.is_some() { in_turns(bound, turn) } else { alone(bound, turn) };
    Ok(Outcome::new(row, &found.with_context(|| row.name.clone())?))
}

/// Groups with their rows.
fn list(rows: &[Row]) -> String {
    let mut text = String::new();
    for (group, about) in rows::GROUPS {
        let mut own = rows.iter().filter(|row| row.group == *group).peekable();
        if own.peek().is_some() {
            text += &format!("{group}: {about}\n");
        }
        for row in own {
            let goal = if row.goal.is_some() { " (goal)" } else { "" };
            text += &format!("  {:25} {}{goal}\n", row.name, row.about);
        }
    }
    text
}

/// All rows, each printed as soon as it is there.
fn measure_all(options: &Options, rows: &[Row], out: &mut impl Write) -> Result<Report> {
    let mut facts: Vec<(String, String)> =
        machine::facts().into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    facts.push(("time".into(), machine::time()));
    // What a region's memory can have of huge pages.
    let huge = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    facts.push(("huge".into(), huge.unwrap_or_else(|_| "none".into()).trim().to_owned()));
    let before = machine::load();
    for (name, value) in &facts {
        writeln!(out, "{name:8} {value}")?;
    }
    if let Some(load) = before {
        writeln!(out, "load     {load}")?;
    }
    let place = Place::new()?;
    writeln!(out, "\n{}", table::heading())?;
    let (mut results, mut failed) = (Vec::new(), Vec::new());
    for (i, row) in rows.iter().enumerate() {
        eprintln!("measuring {} ({} of {})", row.name, i + 1, rows.len());
        match measure(&place, row, options.bound()) {
            Ok(outcome) => {
                writeln!(out, "{}", table::line(&outcome))?;
                out.flush()?;
                results.push(outcome);
            }
            // The others are worth having.
            Err(error) => {
                eprintln!("error: {error:#}");
                failed.push(row.name.clone());
            }
        }
    }
    write!(out, "{}", table::footnote(&results))?;
    let load = (before, machine::load());
    Ok(Report { format: FORMAT, machine: facts, load, quick: options.quick, results, failed })
}

/// Whether everything is as it shall be.
fn bench(options: &Options) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    let mut rows = rows::chosen(&options.only)?;
    if options.list {
        let all = if options.only.is_empty() { rows::all() } else { rows };
        write!(out, "{}", list(&all))?;
        return Ok(true);
    }
    if options.instructions {
        rows.retain(|row| row.group != rows::INSTRUCTIONS);
        rows.extend(rows::chosen(&[rows::INSTRUCTIONS.into()])?);
    }
    // What can be wrong is wrong before minutes of measuring.
    let then = options.compare.as_deref().map(json::read).transpose()?;
    let target = options.target()?;
    let plots = options.plots.clone().unwrap_or_else(|| target.path().with_extension("plots"));
    std::fs::create_dir_all(&plots).with_context(|| format!("cannot write {}", plots.display()))?;

    let report = measure_all(options, &rows, &mut out)?;
    let missed = table::missed(&report.results);
    write!(out, "{missed}")?;
    let mut good = missed.is_empty();
    if let Some(then) = &then {
        write!(out, "{}", compare::text(then, &report))?;
        good &= changes(then, &report).iter().all(|(_, change)| *change != Some(Change::Worse));
    }
    plot::write(&report, &plots)?;
    let path = target.path().to_owned();
    target.write(&report)?;
    eprintln!("figures: {}\nplots: {}", path.display(), plots.display());
    ensure!(report.failed.is_empty(), "not measured: {}", report.failed.join(", "));
    Ok(good || !options.check)
}

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
