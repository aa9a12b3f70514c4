//! `/proc` and the limits: scripts and programs that change limits run in an IPC namespace of the
//! kernel's and in a region of their own, and must print the same. They need root, as the limits do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use vshmem_tests::guests::Daemon;
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;
use vshmem_tests::{build, diff::diff};

/// Longer than the programs' own alarm, which names the place better.
const WATCHDOG: Duration = Duration::from_secs(75);

fn source(name: &str) -> PathBuf {
    build::programs().join("proc").join(name)
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: limits are root's to set; run it as root");
    }
    root
}

/// All that a run said.
fn said(outcome: &Outcome) -> String {
    format!("{}{}\nended with {}\n", outcome.stdout, outcome.stderr, outcome.end)
}

/// Runs `program` on the kernel and in a new region; what it says must be equal.
fn same_on_both(program: &[&Path]) -> Result<()> {
    let session = Session::new()?;
    let kernel = run(Command::new("unshare").arg("-i").args(program), WATCHDOG)?;
    ensure!(kernel.good(), "on the kernel: {}", said(&kernel));
    let ours = run(session.vshmem().args(["run", "--"]).args(program), WATCHDOG)?;
    let lines = diff(&said(&kernel), &said(&ours));
    ensure!(lines.is_empty(), "- the kernel\n+ vshmem\n{lines}");
    Ok(())
}

fn compiled(name: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    same_on_both(&[&build::compile(&source(name), folder.path())?])
}

#[test]
fn limits_are_set_by_shells_sysctl_and_python_as_in_the_kernel() -> Result<()> {
    if is_root() { same_on_both(&[Path::new("bash"), &source("limits.sh")]) } else { Ok(()) }
}

#[test]
fn each_limit_counts_from_the_moment_it_is_set() -> Result<()> {
    if is_root() { compiled("effect.c") } else { Ok(()) }
}

#[test]
fn as_many_objects_as_linux_allows_and_none_more() -> Result<()> {
    if is_root() { compiled("full.c") } else { Ok(()) }
}

#[test]
fn only_root_sets_the_limits_of_a_region_of_root() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let _daemon = Daemon::start(&session, folder.path(), "limits", "16M")?;
    let script = "echo 5 > /proc/sys/kernel/shmmni; echo $?; cat /proc/sys/kernel/shmmni";
    let mut command = session.vshmem();
    command.args(["run", "--region", "limits", "--"]);
    command.args(["setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", script]);
    let outcome = run(&mut command, WATCHDOG)?;
    ensure!(outcome.stdout == "2\n448\n", "{}", said(&outcome));
    ensure!(outcome.stderr.contains("Permission denied"), "{}", said(&outcome));
    Ok(())
}

#[test]
fn without_a_region_the_files_are_the_kernels() -> Result<()> {
    let session = Session::new()?;
    let library = session.artifacts().vshmem.with_file_name("libvshmem.so");
    let script = "readlink /proc/self/fd/3 3</proc/sysvipc/shm; cat /proc/sys/kernel/shmmni";
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("LD_PRELOAD", library).env_remove("VSHMEM_SOCKET");
    let outcome = run(&mut command, WATCHDOG)?;
    let limit = std::fs::read_to_string("/proc/sys/kernel/shmmni")?;
    let is_ours = outcome.stdout.contains("memfd");
    ensure!(!is_ours && outcome.stdout.ends_with(&limit), "{}", said(&outcome));
    Ok(())
}
