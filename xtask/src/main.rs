//! `cargo xtask`: the one entry to this tree.
//!
//! Progress and the tools' own output go to standard error; what a command
//! yields (a table, a summary line) goes to standard output.

mod bench;
mod cargo;
mod demo;
mod failures;
mod fuzz;
mod packages;
mod soak;
mod stage;
mod stages;
mod suite;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests, measures and shows vshmem.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Two guests run plain C programs over vshmem; every claim is checked.
    Demo(demo::Options),
    /// Run every test there is; ends with one summary line.
    Test(suite::Options),
    /// Formatting, clippy and documentation, without a warning.
    Check,
    /// Model-check the lock-free parts with loom.
    Model,
    /// Run the tests of the unsafe parts under the sanitizers (needs nightly).
    Sanitize,
    /// Boot guests and run the tests that need them.
    Vm,
    /// Measure vshmem beside the kernel's own IPC.
    Bench(bench::Options),
    /// Long runs: the oracle's random programs, conformance again and again, storms.
    Soak(soak::Options),
}

fn run(task: Task) -> Result<bool> {
    match task {
        Task::Demo(options) => demo::demo(&options),
        Task::Test(options) => suite::test(&options),
        Task::Check => suite::only(&["check"]),
        Task::Model => suite::only(&["loom"]),
        Task::Sanitize => suite::only(&["sanitizers"]),
        Task::Vm => suite::only(&["vm"]),
        Task::Bench(options) => bench::bench(&options),
        Task::Soak(options) => soak::soak(&options),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
