//! `cargo xtask soak`: what takes too long for every day.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use vshmem_tests::machine;
use vshmem_tests::oracle::soak::{self, Tally};
use vshmem_tests::oracle::{explained, player};
use vshmem_tests::storms::{Plan, STORMS, Storm};

use crate::cargo::{cargo, root};
use crate::fuzz;
use crate::packages;
use crate::stage::{Count, libtest};

/// Random programs, on the kernel and on vshmem.
const ORACLE: &str = "oracle";
/// The conformance programs, again and again.
const CONFORMANCE: &str = "conformance";

/// A peer that lies between any two accesses of any call.
const LIES: &str = "lies";
/// libFuzzer over everything that reads others' bytes.
const FUZZ: &str = "fuzz";
/// Runs of the lies, if nothing else is said.
const RUNS: u64 = 3_000_000;

/// The names of all parts.
fn parts() -> impl Iterator<Item = &'static str> {
    [ORACLE, CONFORMANCE, LIES, FUZZ].into_iter().chain(STORMS.iter().map(|s| s.name))
}

/// For how long, and what.
#[derive(Args)]
pub struct Options {
    /// Run only this part.
    #[arg(long, value_name = "PART", value_parser = PossibleValuesParser::new(parts()))]
    only: Option<String>,
    /// How many operations the oracle does.
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of a storm, or runs of the lies, instead of their full number.
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Differences after which the oracle stops.
    #[arg(long, default_value_t = 1)]
    differences: usize,
    /// How many minutes the conformance programs are repeated, and each target is fuzzed.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Repeat only programs whose name contains this.
    #[arg(long, default_value = "")]
    filter: String,
}

/// Runs the parts; true when nothing failed.
///
/// # Errors
///
/// A part that cannot run at all.
pub fn soak(options: &Options) -> Result<bool> {
    packages::ensure(packages::BUILD)?;
    let chosen = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    let mut good = true;
    if chosen(ORACLE) {
        good &= oracle(options)?;
    }
    if chosen(CONFORMANCE) {
        good &= conformance(options)?;
    }
    if chosen(LIES) {
        good &= fuzz::lies(options.seed, options.rounds.unwrap_or(RUNS))?;
    }
    if chosen(FUZZ) {
        good &= fuzz::fuzz(options.minutes * 60)?;
    }
    for storm in STORMS.iter().filter(|s| chosen(s.name)) {
        good &= raise(storm, options)?;
    }
    Ok(good)
}

/// Raises a storm. One of full size that broke no promise leaves its page of results.
fn raise(storm: &Storm, options: &Options) -> Result<bool> {
    if storm.guests {
        packages::ensure(packages::GUESTS)?;
    }
    let plan = Plan { seed: options.seed, rounds: options.rounds.unwrap_or(storm.full) };
    eprintln!("==> {}: {}", storm.name, storm.about);
    let started = Instant::now();
    let report = (storm.run)(&plan)?;
    let mut facts: Vec<_> =
        machine::facts().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    facts.push(("seed".into(), plan.seed.to_string()));
    facts.push(("rounds".into(), plan.rounds.to_string()));
    facts.push(("took".into(), format!("{:.0} s", started.elapsed().as_secs_f64())));
    let page = format!(
        "# Storm: {}\n\n{}\n\nAgain: `cargo xtask soak --only {}`.\n\n{}",
        storm.name,
        storm.about,
        storm.name,
        report.table(&facts)
    );
    print!("{page}");
    let good = report.broken().is_empty();
    if good && plan.rounds >= storm.full {
        keep(storm.name, &page)?;
    }
    Ok(good)
}

/// Repeats the conformance programs until the time is up or one fails.
fn conformance(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let limit = Duration::from_secs(60 * options.minutes);
    let mut total = Count::default();
    let mut rounds = 0;
    while started.elapsed() < limit && total.failed == 0 {
        rounds += 1;
        let minute = started.elapsed().as_secs() / 60;
        eprintln!("==> round {rounds}, {minute} of {} minutes", options.minutes);
        let arguments =
            ["test", "-p", "vshmem-tests", "--test", "conformance", "--", &options.filter];
        total += libtest(&mut cargo(arguments))?;
    }
    println!("{rounds} rounds: {total}");
    Ok(total.failed == 0)
}

/// The oracle's million. A run of that size without a difference leaves its page of results.
fn oracle(options: &Options) -> Result<bool> {
    const MILLION: u64 = 1_000_000;
    let folder = tempfile::tempdir()?;
    let player = player(folder.path())?;
    let started = Instant::now();
    let mut told = Instant::now();
    let tally = soak::soak(&player, options.seed, |t| {
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let rate = t.operations as f64 / started.elapsed().as_secs_f64();
            eprintln!("{} operations, {rate:.0} a second", t.operations);
        }
        t.operations >= options.operations || t.unexplained.len() >= options.differences
    })?;
    let page = page(options, &tally, started.elapsed());
    print!("{page}");
    let good = tally.unexplained.is_empty();
    if good && tally.operations >= MILLION {
        keep(ORACLE, &page)?;
    }
    Ok(good)
}

/// Writes a page of results.
fn keep(name: &str, page: &str) -> Result<()> {
    let folder = root().join("docs/results");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(name).with_extension("md");
    std::fs::write(&path, page).with_context(|| format!("{}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

fn page(options: &Options, tally: &Tally, took: Duration) -> String {
    let mut text = String::from("# The oracle\n\n");
    text += "Random programs of IPC calls, each played on the kernel (`unshare -i`) and on vshmem;\n\
             compared were every result, every errno and every field of the objects after it.\n\n\
             Again: `cargo xtask soak --only oracle`.\n\n| | |\n|-|-|\n";
    for (name, value) in machine::facts() {
        text += &format!("| {name} | {value} |\n");
    }
    let rate = tally.operations as f64 / took.as_secs_f64();
    text += &format!(
        "| seeds | {} to {} |\n| programs | {} |\n| operations | {} |\n| took | {:.0} s \
         ({rate:.0} a second) |\n| unexplained differences | {} |\n\n",
        options.seed,
        options.seed + tally.programs.saturating_sub(1),
        tally.programs,
        tally.operations,
        took.as_secs_f64(),
        tally.unexplained.len()
    );
    text += "Explained differences, by rule (`docs/semantics.md` has the reasons):\n\n\
             | rule | lines |\n|-|-|\n";
    for rule in explained::RULES {
        let lines = tally.explained.get(rule.name).copied().unwrap_or_default();
        text += &format!("| {} | {lines} |\n", rule.name);
    }
    text
}
