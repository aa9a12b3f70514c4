//! The storms, small and with a fixed seed; `cargo xtask soak` raises them in full.
//!
//! `cargo test -p vshmem-tests --test survival -- NAME` raises one; STORM_SEED and STORM_ROUNDS
//! choose another seed and size.

use std::process::ExitCode;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use vshmem_tests::storms::{Plan, STORMS, Storm};

fn number(variable: &str, default: u64) -> Result<u64> {
    let Ok(text) = std::env::var(variable) else { return Ok(default) };
    text.parse().with_context(|| format!("{variable}={text} is no number"))
}

fn raise(storm: &Storm) -> Result<(), Failed> {
    let seed = number("STORM_SEED", 1)?;
    let report = (storm.run)(&Plan { seed, rounds: number("STORM_ROUNDS", storm.short)? })
        .map_err(|e| format!("seed {seed}: {e:?}"))?;
    eprintln!("{}", report.table(&[]));
    if report.broken().is_empty() {
        return Ok(());
    }
    Err(format!("seed {seed}: {}", report.broken().join("\n")).into())
}

/// A name is a file's and an option's; the daily size is the smaller one.
fn storms_are_told_apart() -> Result<(), Failed> {
    for (i, storm) in STORMS.iter().enumerate() {
        let plain = storm.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        let other = STORMS[..i].iter().all(|s| s.name != storm.name);
        if !plain || !other || storm.short == 0 || storm.short > storm.full {
            return Err(format!("not like the others: {storm:?}").into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They measure how long the others wait.
    arguments.test_threads = Some(1);
    let storms = STORMS.iter().map(|storm| Trial::test(storm.name, move || raise(storm)));
    let trials =
        storms.chain([Trial::test("storms_are_told_apart", storms_are_told_apart)]).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
