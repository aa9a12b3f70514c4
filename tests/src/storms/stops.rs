//! Workers are stopped at any moment, and continued: nobody else waits for them.
//!
//! Eight workers use semaphores, a queue and segments in such a way that none has to wait for what
//! another one does. One of them is linked statically: a supervisor makes its calls. With SIGSTOP a
//! worker is stopped, or several, that supervisor, or the endpoint, for a random while, and
//! continued. The calls of the others are measured; and at last everything must be there.

mod board;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::build;
use crate::guests::wait_for;
use crate::rng::Rng;
use crate::run::run;
use crate::session::Session;
use crate::storms::{Plan, Report, Storm};
use board::{Board, Delays, KINDS, Phase, WORKERS};

/// The storm.
pub const STORM: Storm = Storm {
    name: "stops",
    about: "processes are stopped at random instants and continued while others measure their calls",
    full: 10_000,
    short: 200,
    guests: false,
    run: raise,
};

/// The worker that is linked statically.
const TRAPPED: usize = WORKERS - 1;
/// How long the long stops are.
const LONG: Duration = Duration::from_secs(2);
/// What no call of another takes meanwhile. It would be about [`LONG`] if anybody waited for them.
const BOUND: Duration = Duration::from_secs(1);
/// Stops until one is in the middle of a change; in a full storm ten times as many.
const TRIES: u32 = 12;
const LIMIT: Duration = Duration::from_secs(60);
/// What a process may take whose endpoint does not answer: it asks twice, and is patient for 5 s.
const PATIENCE: Duration = Duration::from_secs(12);

struct Field {
    // Dropped in this order: first those who work.
    workers: Vec<Worker>,
    board: Board,
    session: Session,
    folder: tempfile::TempDir,
    program: PathBuf,
    rng: Rng,
    stops: u64,
}

/// A worker; killed when dropped.
struct Worker {
    child: Child,
    /// The process whose calls are measured.
    pid: Pid,
    /// Who makes its calls, if that is another.
    supervisor: Option<Pid>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        for pid in [Some(self.pid), self.supervisor].into_iter().flatten() {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Whom to stop.
#[derive(Debug, Clone)]
enum Whom {
    Workers(Vec<usize>),
    Supervisor,
    Endpoint,
}

fn raise(plan: &Plan) -> Result<Report> {
    let mut report = Report::default();
    let mut field = Field::new(plan.seed)?;
    // Each phase long enough to be compared with the others.
    field.board.begin(Phase::Quiet)?;
    let quiet = Duration::from_millis((plan.rounds * 10).clamp(1500, 60_000));
    std::thread::sleep(quiet);
    field.board.begin(Phase::Stops)?;
    for _ in 0..plan.rounds {
        field.stop_somebody()?;
    }
    field.board.begin(Phase::Long)?;
    let several = vec![1, 2, 3];
    let longs = [Whom::Workers(vec![0]), Whom::Endpoint, Whom::Supervisor, Whom::Workers(several)];
    let again = if plan.rounds >= STORM.full { 8 } else { 1 };
    for whom in longs.iter().cycle().take(longs.len() * again) {
        std::thread::sleep(Duration::from_micros(field.rng.below(3000) as u64));
        field.stop(whom, LONG)?;
    }
    field.named(if plan.rounds >= STORM.full { 10 * TRIES } else { TRIES }, &mut report)?;
    field.without_endpoint(Duration::from_millis(1500), &mut report)?;
    if plan.rounds >= STORM.full {
        field.without_endpoint(2 * PATIENCE, &mut report)?;
    }
    field.close(&mut report)?;
    Ok(report)
}

impl Field {
    fn new(seed: u64) -> Result<Self> {
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let source = build::programs().join("storm/stops.c");
        let program = build::compile(&source, folder.path())?;
        let board = Board::create(&folder.path().join("board"))?;
        let (workers, rng) = (Vec::new(), Rng::new(seed));
        let mut field = Self { workers, board, session, folder, program, rng, stops: 0 };
        field.once("make")?;
        let apart = field.folder.path().join("static");
        std::fs::create_dir(&apart)?;
        let trapped = build::compile_static(&source, &apart)?;
        for n in 0..WORKERS {
            let program = if n == TRAPPED { trapped.clone() } else { field.program.clone() };
            let worker = field.start(n, &program)?;
            field.workers.push(worker);
        }
        Ok(field)
    }

    fn start(&self, n: usize, program: &std::path::Path) -> Result<Worker> {
        let mut command = self.session.run(None, program);
        command.arg(self.folder.path().join("board")).args(["work", &n.to_string()]);
        let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(pid) = self.board.pid(n)?.and_then(Pid::from_raw) {
                // Its exec has replaced the command; the supervisor is a process of the command still.
                let ours = self.session.artifacts().vshmem.canonicalize()?;
                let runs =
                    |p: &Pid| std::fs::read_link(format!("/proc/{p}/exe")).is_ok_and(|e| e == ours);
                let supervisor = self.session.processes().into_iter().find(runs);
                ensure!(supervisor.is_some() == (n == TRAPPED), "worker {n}: {supervisor:?}");
                return Ok(Worker { child, pid, supervisor });
            }
            if let Some(status) = child.try_wait()? {
                bail!("worker {n} ended with {status} before it began");
            }
            ensure!(Instant::now() < until, "worker {n} does not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs the program for one task; what it prints.
    fn once(&self, what: &str) -> Result<String> {
        let mut command = self.session.run(None, &self.program);
        let outcome = run(command.arg(self.folder.path().join("board")).arg(what), LIMIT)?;
        ensure!(outcome.good(), "stops {what}: {}\n{}", outcome.end, outcome.stderr);
        Ok(outcome.stdout)
    }

    /// The endpoint, without its holder.
    fn endpoint(&self) -> Result<Pid> {
        let is_it = |pid: &Pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            let daemon = words.next().is_some_and(|w| w.ends_with(b"vshmemd"));
            daemon && !words.any(|w| w == b"--holder")
        };
        self.session.processes().into_iter().find(is_it).context("there is no endpoint")
    }

    /// One random stop: mostly short, at a moment drawn from far less than a call takes up to some
    /// milliseconds.
    fn stop_somebody(&mut self) -> Result<()> {
        let rng = &mut self.rng;
        let (before, held) = (1_u64 << rng.below(12), 1_u64 << (7 + rng.below(9)));
        let held = if rng.percent(1) { 300_000 } else { held + rng.below(200) as u64 };
        let whom = match rng.below(100) {
            0..80 => Whom::Workers(vec![rng.below(WORKERS)]),
            80..90 => {
                let first = rng.below(WORKERS);
                Whom::Workers((0..=rng.below(4)).map(|i| (first + i) % WORKERS).collect())
            }
            90..96 => Whom::Supervisor,
            _ => Whom::Endpoint,
        };
        let until = Instant::now() + Duration::from_micros(before);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        self.stop(&whom, Duration::from_micros(held))
    }

    fn stop(&mut self, whom: &Whom, held: Duration) -> Result<()> {
        let (pids, theirs) = match whom {
            Whom::Workers(some) => {
                (some.iter().map(|n| self.workers[*n].pid).collect(), some.clone())
            }
            Whom::Supervisor => {
                let supervisor = self.workers[TRAPPED].supervisor.context("no supervisor")?;
                (vec![supervisor], vec![TRAPPED])
            }
            Whom::Endpoint => (vec![self.endpoint()?], Vec::new()),
        };
        theirs.iter().try_for_each(|n| self.board.turn(*n))?;
        pids.iter().try_for_each(|pid| kill_process(*pid, Signal::STOP))?;
        std::thread::sleep(held);
        pids.iter().try_for_each(|pid| kill_process(*pid, Signal::CONT))?;
        theirs.iter().try_for_each(|n| self.board.turn(*n))?;
        self.stops += 1;
        Ok(())
    }

    fn top(&self) -> Result<String> {
        let outcome = run(self.session.vshmem().args(["top", "--once"]), LIMIT)?;
        ensure!(outcome.good(), "vshmem top: {}", outcome.stderr);
        Ok(outcome.stdout)
    }

    /// Whoever is stopped in the middle of a change, or with a semaphore that it took, is named by
    /// `vshmem top`; and the former for as long as it takes to see that nobody waits for it.
    fn named(&mut self, most: u32, report: &mut Report) -> Result<()> {
        let mut command = self.session.run(None, &self.program);
        command.arg(self.folder.path().join("board")).arg("hold").process_group(0);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(holder.stdout.take().context("no output")?).lines();
        ensure!(said.next().transpose()?.is_some_and(|l| l == "holding"), "it does not hold");
        let pid = Pid::from_child(&holder);
        kill_process(pid, Signal::STOP)?;
        let shown = self.top()?;
        kill_process(pid, Signal::CONT)?;
        drop(holder.stdin.take());
        let ended = wait_for(&mut holder, LIMIT)?;
        report.promise(ended.is_some_and(|s| s.success()), || format!("the holder: {ended:?}"));
        let words =
            format!("process {pid} (stops) of peer 0 is STOPPED and holds semaphore 3 of set");
        report.promise(shown.contains(&words), || format!("no '{words}' in:\n{shown}"));

        let (mut tries, mut caught) = (0, 0);
        while tries < most && caught == 0 {
            tries += 1;
            let n = self.rng.below(TRAPPED);
            let pid = self.workers[n].pid;
            self.board.turn(n)?;
            kill_process(pid, Signal::STOP)?;
            let shown = self.top()?;
            let words =
                format!("process {pid} (stops) of peer 0 is STOPPED in the middle of a change");
            let named = shown.lines().find(|l| l.contains(&words) && l.contains("the lock of"));
            if let Some(named) = named {
                eprintln!("  {named}");
                caught += 1;
                std::thread::sleep(LONG);
            }
            kill_process(pid, Signal::CONT)?;
            self.board.turn(n)?;
        }
        report.row("stops until one was named in the middle of a change", tries);
        report.row("… and was held there for 2 s", caught);
        Ok(())
    }

    /// What does need the endpoint: attaching, birth with segments, and telling of a child's end. All
    /// of it waits for a stopped one, but no longer than its patience lasts.
    fn without_endpoint(&mut self, held: Duration, report: &mut Report) -> Result<()> {
        let endpoint = self.endpoint()?;
        let begin = |this: &Self| {
            let mut command = this.session.run(None, &this.program);
            command.arg(this.folder.path().join("board")).arg("fork").process_group(0);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        };
        let mut forks = begin(self)?;
        let mut said = BufReader::new(forks.stdout.take().context("no output")?).lines();
        ensure!(said.next().transpose()?.is_some_and(|l| l == "attached"), "it does not attach");
        kill_process(endpoint, Signal::STOP)?;
        let since = Instant::now();
        let mut attaches = begin(self)?;
        drop(attaches.stdin.take());
        forks.stdin.take().context("no input")?.write_all(b"\n")?;
        std::thread::sleep(held);
        kill_process(endpoint, Signal::CONT)?;
        let ends = [wait_for(&mut forks, LIMIT)?, wait_for(&mut attaches, LIMIT)?];
        let waited = since.elapsed();
        let forked = said.next().transpose()?.unwrap_or_default();
        report.row("the endpoint was stopped for", format!("{} ms", held.as_millis()));
        report.row("… in which a fork with a segment, and its wait, took", format!("{forked} ms"));
        let end = |i: usize| ends[i].map_or_else(|| "never".to_owned(), crate::run::describe);
        report.row("… and a program that began meanwhile ended with", end(1));
        let most = PATIENCE.min(held + BOUND);
        let took = forked.parse().ok().map(Duration::from_millis);
        report.promise(end(0) == "exit 0" && took.is_some_and(|t| t < most), || {
            format!("fork and wait, with a stopped endpoint: {forked} ms, then {}", end(0))
        });
        // Long enough stopped, it is not there: then there is no System V IPC, and a message.
        let right = if held < PATIENCE / 3 { end(1) == "exit 0" } else { end(1) == "exit 1" };
        report.promise(right, || format!("a program that began meanwhile: {}", end(1)));
        report.promise(waited < held + PATIENCE, || format!("it took {waited:?} altogether"));
        Ok(())
    }

    fn close(mut self, report: &mut Report) -> Result<()> {
        self.board.begin(Phase::End)?;
        for (n, worker) in self.workers.iter_mut().enumerate() {
            let status = wait_for(&mut worker.child, LIMIT)?;
            report.promise(status.is_some_and(|s| s.success()), || match status {
                Some(status) => format!("worker {n} ended with {status}"),
                None => format!("worker {n} does not end"),
            });
        }
        self.workers.clear();
        // The last of them may not be reaped yet.
        let until = Instant::now() + LIMIT;
        while self.session.processes().len() > 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Err(e) = self.once("end") {
            report.promise(false, || format!("{e:#}"));
        }
        let found = run(self.session.vshmem().args(["region", "check"]), LIMIT)?;
        report.promise(found.good(), || format!("the region: {}{}", found.stdout, found.stderr));
        self.tell(report)
    }

    fn tell(&self, report: &mut Report) -> Result<()> {
        let [calls, interrupted, early] = self.board.calls()?;
        report.row("stops", self.stops);
        report.row("calls", calls);
        report.row("calls that a stop of their own process ended with EINTR", interrupted);
        report.promise(early == 0, || format!("{early} waits ended before their time"));
        report.row("what is measured", "p50 / p99 / p99.9 / worst (number)");
        let phases = [
            (Phase::Quiet, "nobody stopped"),
            (Phase::Stops, "with stops"),
            (Phase::Long, "with stops of 2 s"),
        ];
        for (kind, name) in KINDS.iter().enumerate() {
            for (phase, when) in phases {
                let delays = &self.board.delays(phase, 0..TRAPPED)?[kind];
                report.row(format!("{name}: {when}"), delays.text());
                report.promise(delays.count() > 0, || format!("{name}, {when}: not measured"));
                report.promise(phase == Phase::Quiet || delays.worst < BOUND, || {
                    let Delays { worst, whose, .. } = delays;
                    format!("{name}, {when}: one of worker {whose} took {worst:?}")
                });
            }
        }
        for (phase, when) in phases {
            // Its supervisor, too, has to get a processor, which is not told apart here.
            let all = self.board.delays(phase, TRAPPED..WORKERS)?;
            report.row(format!("a trapped semop: {when}"), all[0].text());
        }
        Ok(())
    }
}
