//! `cargo xtask bench`: hands over to the benchmark crate.

use anyhow::{Context, Result};
use clap::Args;

use crate::cargo::cargo;
use crate::packages;

/// Passed to the benchmark program.
#[derive(Args)]
pub struct Options {
    /// Arguments of vshmem-bench; see `cargo xtask bench -- --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds and runs the benchmarks.
///
/// # Errors
///
/// A package is missing, or cargo cannot be started.
pub fn bench(options: &Options) -> Result<bool> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::COUNTERS)?;
    let mut command = cargo(["run", "--quiet", "--release", "-p", "vshmem-bench", "--"]);
    Ok(command.args(&options.arguments).status().context("cannot start cargo")?.success())
}
