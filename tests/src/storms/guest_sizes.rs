//! How much longer the others wait for what a guest held when the guest is large.
//!
//! The kernel reports a VMM's death, by its pidfd and by the end of its connection, when it has taken
//! its memory back. That is the kernel's part; what comes after is ours, and below a second.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Plan, Report, Storm};
use crate::build;
use crate::guests::{Guests, Host};
use crate::run::run;

/// For the table of [`super::STORMS`].
pub const STORM: Storm = Storm {
    name: "guest-sizes",
    about: "Guests of several sizes are killed; how long the kernel takes to say so, and when the \
            others have what they held.",
    full: 5,
    short: 1,
    guests: true,
    run: measure,
};

/// A boot, on a machine that has more to do.
const LIMIT: Duration = Duration::from_secs(150);
/// The same for filling 4 GiB, which an emulated guest does slowly.
const FILL: Duration = Duration::from_secs(600);
/// Our part of the wait.
const OURS: Duration = Duration::from_secs(1);

/// Touched memory in MiB, and whether the host may use huge pages for it.
const SIZES: &[(u64, bool)] =
    &[(256, false), (1024, false), (1024, true), (4096, false), (4096, true)];

fn measure(plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    let host = Host::start("sizes", "32M")?;
    for name in ["load", "smallpages"] {
        build::compile(&build::programs().join(format!("storm/{name}.c")), host.folder())?;
    }
    here(&host, "make")?;
    report.row(
        "touched",
        "until the kernel says so / until another one goes on; medians (worst), ms",
    );
    // A short one shows that it works.
    let sizes = if plan.rounds == 1 { &SIZES[..1] } else { SIZES };
    for &(mib, huge) in sizes {
        let label = format!("{mib} MiB in {} pages", if huge { "huge" } else { "small" });
        // Half of it must stay free: others run here too.
        if available()? < 2 * mib {
            report.row(label, "not measured: too little memory here");
            continue;
        }
        let (mut said, mut taken, mut share) = (Vec::new(), Vec::new(), 0);
        for round in 0..plan.rounds {
            let one = kill(&host, mib, huge).with_context(|| format!("{label}, round {round}"))?;
            let ours = one.taken.saturating_sub(one.said);
            report.promise(ours < OURS, || format!("{label}: {ours:?} after the kernel said so"));
            said.push(one.said);
            taken.push(one.taken);
            share = one.huge_mib;
        }
        let label = format!("{label} ({share} MiB of it were huge)");
        let figures = format!("{} / {}", words(&mut said), words(&mut taken));
        eprintln!("  {label}: {figures}");
        report.row(label, figures);
    }
    here(&host, "remove")?;
    host.stop()?;
    Ok(report)
}

fn words(of: &mut [Duration]) -> String {
    of.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    format!("{:.0} ({:.0})", ms(of[of.len() / 2]), ms(of[of.len() - 1]))
}

fn here(host: &Host, step: &str) -> Result<()> {
    let outcome = run(host.run("load").arg(step), LIMIT)?;
    ensure!(outcome.good(), "{step}: {}\n{}", outcome.end, outcome.stderr);
    Ok(())
}

/// What a file of `/proc` says of `name`, in MiB.
fn mebibytes(file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).context("no such line")?;
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    Ok(kib.parse::<u64>().with_context(|| line.to_owned())? >> 10)
}

fn available() -> Result<u64> {
    mebibytes("/proc/meminfo", "MemAvailable")
}

/// Since the kill.
struct One {
    said: Duration,
    taken: Duration,
    huge_mib: u64,
}

/// Boots a guest, fills its memory, and kills it while it holds what the host waits for.
fn kill(host: &Host, mib: u64, huge: bool) -> Result<One> {
    let mut guests = Guests::new(host);
    let memory = format!("{}M", mib + mib / 8 + 256);
    let small = host.folder().join("smallpages");
    let qemu = (!huge).then_some(small.as_path());
    let guest = guests.shell_that_says("booted", "large", &["--mem", &memory], qemu)?;
    guests.expect(guest, "booted", LIMIT)?;
    let fill = format!(
        "mkdir /tmp/fill && mount -t tmpfs -o size=100% none /tmp/fill && \
         dd if=/dev/zero of=/tmp/fill/all bs=1M count={mib} 2>/dev/null; echo \"filled $?\""
    );
    guests.tell(guest, &fill)?;
    guests.expect(guest, "filled 0", FILL)?;
    let vshmem = host.session().artifacts().vshmem.display();
    guests.tell(guest, &format!("'{vshmem}' run --region {} -- ./load hold &", host.region()))?;
    guests.expect(guest, "holding", LIMIT)?;
    let mut taker =
        host.run("load").arg("take").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(taker.stdout.take().context("no output")?);
    here(host, "asleep")?;

    let machine = guests.machine(guest)?;
    let rolled = format!("/proc/{machine}/smaps_rollup");
    ensure!(mebibytes(&rolled, "Rss")? >= mib, "the guest's memory is not touched");
    let huge_mib = mebibytes(&rolled, "AnonHugePages")?;
    let death = watch(machine)?;
    let begun = Instant::now();
    rustix::process::kill_process(machine, rustix::process::Signal::KILL)?;
    let mut line = String::new();
    lines.read_line(&mut line)?;
    let taken = begun.elapsed();
    ensure!(line == "taken\n", "the taker says {line:?}");
    let said = death.join().map_err(|_| anyhow::anyhow!("the watcher died"))?;
    let said = said.saturating_duration_since(begun);
    ensure!(taker.wait()?.success(), "the taker failed");
    guests.expect_end(guest, LIMIT)?;
    Ok(One { said, taken, huge_mib })
}

/// When a process has ended, as the kernel tells whoever has its pidfd.
fn watch(pid: Pid) -> Result<std::thread::JoinHandle<Instant>> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(std::thread::spawn(move || {
        let mut wait = [PollFd::new(&pidfd, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut wait, None) {}
        Instant::now()
    }))
}
