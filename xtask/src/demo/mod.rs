//! `cargo xtask demo`: two guests, one System V IPC, end to end.
//!
//! Builds everything, starts `vshmemd`, boots two guests and has both run
//! `tests/programs/demo/guest.sh`: the plain C programs meet, send a file,
//! ping-pong, and at the end one machine is killed while it holds a semaphore.
//! Every claim is a check; the exit code is 0 when all of them hold.

mod results;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use vshmem_tests::build;
use vshmem_tests::guests::{Event, Guests, Host, kernel_image};
use vshmem_tests::machine::{Emulator, facts};

use crate::packages;
use results::Results;

/// How much the demo does.
#[derive(Args)]
pub struct Options {
    /// Take a twentieth of the turns
    #[arg(long)]
    quick: bool,
}

/// What it may take after the build on an idle machine of two cores.
const BUDGET: Duration = Duration::from_secs(90);
/// When something hangs.
const LIMIT: Duration = Duration::from_secs(240);
const REGION: &str = "demo";
const NET: &str = "vshmem-demo";

/// What the guests say: side 0 leads and measures.
const LEADER: usize = 0;
const OTHER: usize = 1;

/// Runs the demo; true when every check holds.
///
/// # Errors
///
/// A package, a build, the daemon or a guest that fails.
pub fn demo(options: &Options) -> Result<bool> {
    step("packages");
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::GUESTS)?;
    step("build");
    build::artifacts()?;
    step("a guest's kernel, module and root file system");
    prepare()?;

    let started = Instant::now();
    step("vshmemd with one region");
    let host = Host::start(REGION, "256M")?;
    let file = kernel_image()?;
    let mut results = Results::default();
    let played = play(&host, &file, options, &mut results);
    step("everything ends");
    let stopped = host.stop();
    played?;
    let took = started.elapsed();

    results.check("SHA-256 of the file on the host", results.digest_is(&digest(&file)?));
    results.check("nothing is left running", stopped.map_err(|e| format!("{e:#}")));
    results.judge();
    println!("{}", results.table());
    println!("{:.1} s after the build; {}", took.as_secs_f64(), results.summary());
    // Of the machine's other work, not of vshmem: worth saying, and no failure.
    if took > BUDGET {
        println!("(more than the {} s of an idle machine: is it busy?)", BUDGET.as_secs());
    }
    Ok(results.good())
}

/// Says what comes next, and how much time has gone.
fn step(what: &str) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    eprintln!("==> {:5.1} s  {what}", began.elapsed().as_secs_f64());
}

/// The first guest makes what all later ones share: it is no part of the show.
fn prepare() -> Result<()> {
    let host = Host::start(REGION, "64M")?;
    let mut guests = Guests::new(&host);
    guests.boot("first", &[], &["true"])?;
    guests.finish(LIMIT)?;
    host.stop()
}

/// SHA-256 by the system's own program.
fn digest(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("sha256sum")?;
    ensure!(output.status.success(), "sha256sum {} failed", file.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// Boots the guests and listens until both have ended.
fn play(host: &Host, file: &Path, options: &Options, results: &mut Results) -> Result<()> {
    let (busy, block) = if options.quick { ("5000", "250") } else { ("100000", "5000") };
    let script = build::programs().join("demo/guest.sh");
    std::fs::copy(&script, host.folder().join("guest.sh")).context("guest.sh")?;
    let vshmem = host.session().artifacts().vshmem.display().to_string();
    let mut guests = Guests::new(host);
    for side in [LEADER, OTHER] {
        let (number, file) = (side.to_string(), file.display().to_string());
        let command = ["sh", "guest.sh", &number, &vshmem, REGION, &file, busy, block];
        guests.boot(&format!("guest {side}"), &["--net", NET], &command)?;
    }
    listen(host, &mut guests, results)
}

/// What the figures were measured on; asked of QEMU while it runs.
fn stage(host: &Host, guest: &str, results: &mut Results) -> Result<()> {
    for (name, value) in facts() {
        results.stage(name, value);
    }
    results.stage("guests", guest.to_owned());
    let emulator = host.session().processes().into_iter().find_map(Emulator::of);
    let emulator = emulator.context("no QEMU runs the guests")?;
    results.emulated = emulator.is_emulation();
    let kind = if emulator.is_emulation() { "TCG, emulated processors" } else { "KVM" };
    results.stage(
        "QEMU",
        format!("{}, {kind}: -accel {} -smp {}", emulator.version, emulator.accel, emulator.smp),
    );
    results.stage("network", emulator.net.context("the guests have no network")?);
    eprint!("{}", results.header());
    Ok(())
}

fn listen(host: &Host, guests: &mut Guests<&Host>, results: &mut Results) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut steps: BTreeMap<usize, String> = BTreeMap::new();
    let mut killed = None;
    loop {
        let (guest, event) = guests.next(deadline).with_context(|| format!("{steps:?}"))?;
        let now = Instant::now();
        match event {
            Event::Line(line) => {
                let Ok(value) = serde_json::from_str::<Value>(&line) else {
                    eprintln!("  [{}] {line}", guests.name(guest));
                    continue;
                };
                if let Some(name) = value["step"].as_str() {
                    if guest == LEADER {
                        step(name);
                    }
                    steps.insert(guest, name.to_owned());
                } else if let Some(kernel) = value["guest"].as_str() {
                    if guest == LEADER {
                        stage(host, kernel, results)?;
                    }
                } else if value["test"] == "death" {
                    let event = value["event"].as_str().unwrap_or_default();
                    if guest == LEADER && event == "held" {
                        guests.kill(OTHER);
                        killed = Some(now);
                    } else if let Some(killed) = killed.filter(|_| guest == LEADER) {
                        results.death(event, now - killed);
                    }
                } else {
                    eprintln!("  {}", results::short(&value));
                    results.add(value);
                }
            }
            Event::End(end) if guest == LEADER => {
                ensure!(
                    end == "exit 0",
                    "{} ended with {end} in step {:?}",
                    guests.name(guest),
                    steps.get(&guest)
                );
                return Ok(());
            }
            Event::End(_) if killed.is_some() => {}
            Event::End(end) => {
                bail!("{} ended with {end} in step {:?}", guests.name(guest), steps.get(&guest));
            }
        }
    }
}
