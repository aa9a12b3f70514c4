//! Ten thousand processes are attached at one time, and killed at one time.
//!
//! Half of them attach by themselves, half are born of one that is attached
//! (`tests/programs/storm/crowd.c`). Each leaves a mark in a semaphore, with SEM_UNDO, and an
//! attachment, and every fourth closes all its descriptors: when they are dead both counts are 0 again. One process works all the while, and
//! new ones attach while the dead are reaped.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Plan, Report, Storm};
use crate::build;
use crate::guests::{Daemon, wait_for};
use crate::run::run;
use crate::session::Session;

/// The storm.
pub const STORM: Storm = Storm {
    name: "crowd",
    about: "a crowd of processes is attached at one time, and killed at one time",
    full: 10_000,
    short: 1_000,
    guests: false,
    run: |plan| storm(plan),
};

const REGION: &str = "crowd";
/// Besides the crowd: its parent, the witness, who lists them, and one more.
const OTHERS: u64 = 4;
/// A lane takes 48 KiB, and there is one and a quarter for each task.
const BYTES: u64 = 60 << 10;
const LIMIT: Duration = Duration::from_secs(600);
/// What an operation may take while the dead are reaped, on a busy machine.
const WORST: Duration = Duration::from_secs(1);
/// What the crowd may cost others of time, beside what another load of the machine may cost.
const TIMES: u64 = 5;

/// The program; killed when dropped, and with the session what it began.
struct Crowd {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    said: Vec<(String, Vec<u64>)>,
}

impl Crowd {
    /// Hears it until it says `word`.
    fn hear(&mut self, word: &str) -> Result<()> {
        for line in &mut self.lines {
            let line = line?;
            let mut words = line.split(' ');
            let first = words.next().unwrap_or_default().to_owned();
            let numbers = words.map(str::parse).collect::<Result<_, _>>();
            let numbers = numbers.with_context(|| format!("it said {line}"))?;
            let last = first == word;
            self.said.push((first, numbers));
            if last {
                return Ok(());
            }
        }
        bail!("it ended before it said {word}")
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(self.child.stdin.as_mut().context("no stdin")?.write_all(b"\n")?)
    }

    fn numbers(&self, word: &str) -> Result<&[u64]> {
        let found = self.said.iter().find(|(first, _)| first == word);
        Ok(&found.with_context(|| format!("it did not say {word}"))?.1)
    }

    fn number(&self, word: &str) -> Result<u64> {
        self.numbers(word)?.first().copied().with_context(|| format!("{word} and no number"))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn micros(nanoseconds: u64) -> String {
    format!("{:.1} µs", nanoseconds as f64 / 1e3)
}

fn storm(plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let tasks = plan.rounds + OTHERS;
    let size = (32 << 20) + (tasks * BYTES * 5 / 4);
    let text = format!(
        "[[region]]\nname = \"{REGION}\"\nsize = {}\n[region.limits]\ntasks = {tasks}\n",
        size.next_power_of_two()
    );
    let _daemon = Daemon::serve(&session, folder.path(), &text)?;
    let pid = std::fs::read_to_string(folder.path().join("ready"))?.trim().to_owned();
    let open = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let listed = || -> Result<usize> {
        let list = run(session.vshmem().args(["task", "list", "--region", REGION]), LIMIT)?;
        ensure!(list.good(), "vshmem task list: {list:?}");
        // A heading, and the lister.
        Ok(list.stdout.lines().count().saturating_sub(2))
    };
    listed()?;
    let before = open()?;

    let program = build::compile(&build::programs().join("storm/crowd.c"), folder.path())?;
    let mut command = session.run(Some(REGION), &program);
    let attach = plan.rounds / 2;
    command.args([attach.to_string(), (plan.rounds - attach).to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let mut crowd = Crowd { child, lines, said: Vec::new() };
    let begun = Instant::now();
    crowd.hear("ready")?;
    report.row("until all are there", format!("{:.1} s", begun.elapsed().as_secs_f64()));
    let crowded = open()?;
    let there = listed()?;
    report.row("tasks", there);
    report.row("the daemon's descriptors", format!("{before}, and {crowded} with the crowd"));
    // Its parent and the witness.
    report.promise(there as u64 == plan.rounds + 2, || format!("{there} tasks are there"));

    crowd.go_on()?;
    let begun = Instant::now();
    crowd.hear("killed")?;
    let mut slowest = Duration::ZERO;
    let mut attached = 0;
    while {
        let asked = Instant::now();
        let left = listed()?;
        slowest = slowest.max(asked.elapsed());
        attached += 1;
        left > 2
    } {
        ensure!(begun.elapsed() < LIMIT, "the dead are not reaped: {} tasks", listed()?);
    }
    let took = begun.elapsed();
    crowd.go_on()?;
    let status = wait_for(&mut crowd.child, LIMIT)?.context("its parent does not end")?;
    ensure!(status.success(), "its parent ended with {status}");
    crowd.hear("marks-after")?;
    report.row("killed, until none is listed", format!("{:.2} s", took.as_secs_f64()));
    report.row(
        "the slowest `vshmem task list` meanwhile",
        format!("{:.0} ms, of {attached}", slowest.as_secs_f64() * 1e3),
    );

    let n = plan.rounds;
    for (when, marks) in [("crowded", n), ("after", 0)] {
        let said = crowd.numbers(&format!("marks-{when}"))?;
        report.promise(said == [marks, marks], || {
            format!("{when}: the semaphore and nattch are {said:?}, not {marks}")
        });
    }
    for (what, first, last) in [
        ("fork, attach and semop", "attach-first", "attach-last"),
        ("fork and semop of one that is attached", "fork-first", "fork-last"),
    ] {
        let [first, last] = [crowd.number(first)?, crowd.number(last)?];
        report.row(
            format!("{what}: about the 100th, and the last"),
            format!("{}, {}", micros(first), micros(last)),
        );
    }
    let [alone, full, after] =
        ["pair-alone", "pair-crowded", "pair-after"].map(|word| crowd.number(word));
    let [alone, full, after] = [alone?, full?, after?];
    report.row("a pair of semop: before, with the crowd, after", {
        format!("{alone} ns, {full} ns, {after} ns")
    });
    report.promise(full < TIMES * alone && after < TIMES * alone, || {
        format!("a pair of semop took {alone} ns, with the crowd {full}, afterwards {after}")
    });
    let worst = Duration::from_nanos(crowd.number("worst")?);
    report.row("the longest pair while the dead were reaped", format!("{worst:.2?}"));
    report.promise(worst < WORST, || format!("a pair of semop took {worst:?}"));

    let until = Instant::now() + LIMIT;
    while listed()? > 0 || open()? != before {
        if Instant::now() > until {
            report.promise(false, || format!("{:?} descriptors, {before} before", open()));
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let checked = run(session.vshmem().args(["region", "check", "--region", REGION]), LIMIT)?;
    report.promise(checked.good(), || format!("{}{}", checked.stdout, checked.stderr));
    Ok(report)
}
