//! The fuzzing parts of `cargo xtask soak`: lies drawn from seeds, and libFuzzer where there is a
//! nightly compiler.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, has_nightly, host_target, nightly, own_target, root};
use crate::stage::libtest;

/// What tells libFuzzer where a program has been.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table";
/// Seconds that one input may take.
const PATIENCE: &str = "-timeout=20";

/// Runs `runs` times some calls beside a peer that lies; true when nothing failed.
///
/// # Errors
///
/// The test cannot be built.
pub fn lies(seed: u64, runs: u64) -> Result<bool> {
    eprintln!("==> lies: {runs} runs from seed {seed}");
    let mut test = cargo(["test", "-p", "vshmem-fuzz", "--test", "scribble", "--", "--nocapture"]);
    test.env("SCRIBBLE_SEED", (seed * 1_000_000_000).to_string());
    test.env("SCRIBBLE_RUNS", runs.to_string());
    Ok(libtest(&mut test)?.failed == 0)
}

/// Fuzzes each target for so many seconds; true when nothing was found.
///
/// # Errors
///
/// The fuzzer cannot be built or started.
pub fn fuzz(seconds: u64) -> Result<bool> {
    if !has_nightly() {
        eprintln!("==> fuzz: left out, since it needs nightly: rustup toolchain install nightly");
        return Ok(true);
    }
    let program = build()?;
    let work = own_target("fuzz").join("found");
    let mut good = true;
    for target in targets()? {
        eprintln!("==> fuzz: {target}, {seconds} s");
        let found = work.join(&target);
        std::fs::create_dir_all(&found).with_context(|| format!("{}", found.display()))?;
        let status = std::process::Command::new(&program)
            .env("FUZZ_TARGET", &target)
            .current_dir(&work)
            .args([PATIENCE, "-print_final_stats=1", "-verbosity=0", "-max_len=4096"])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/{target}-", work.display()))
            .arg(&found)
            .arg(root().join("fuzz/corpus").join(&target))
            .stdin(Stdio::null())
            .status()?;
        if !status.success() {
            eprintln!(
                "{target}: broken by a file in {}; keep it in fuzz/corpus/{target}",
                work.display()
            );
        }
        good &= status.success();
    }
    Ok(good)
}

fn build() -> Result<PathBuf> {
    let triple = host_target();
    let into = own_target("fuzz");
    let manifest = root().join("fuzz/libfuzzer/Cargo.toml");
    let mut build = nightly(["build", "--release", "--locked", "--target", &triple]);
    build.arg("--manifest-path").arg(manifest).env("RUSTFLAGS", COVERAGE);
    if !build.env("CARGO_TARGET_DIR", &into).status()?.success() {
        bail!("the fuzzer cannot be built: it needs a C++ compiler beside nightly Rust");
    }
    Ok(into.join(Path::new(&triple)).join("release/vshmem-libfuzzer"))
}

/// The names of the targets: each has a corpus.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("fuzz/corpus"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
