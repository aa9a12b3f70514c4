//! Workers are killed at any moment, and replaced: the others go on, and the books agree.
//!
//! Eight workers (`tests/programs/storm/kills`) do everything that System V objects, `sem_t` and
//! robust mutexes in a segment can do, as processes with threads, with children, and as one image
//! after another. They are killed with SIGKILL: the process, its group, several at once; while they
//! attach, while they work, while they exit. Each keeps a log that outlives it. Every so often all
//! are killed, and what is in the region is held against the logs ([`accounts`]).

mod accounts;
mod audit;
mod log;
mod world;

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, set_child_subreaper,
    waitpgid,
};
use rustix::time::{ClockId, clock_gettime};

use crate::rng::Rng;
use crate::storms::{Plan, Report, Storm};
use accounts::{Accounts, Totals};
use world::{Census, Place, World};

/// The storm.
pub const STORM: Storm = Storm {
    name: "kills",
    about: "processes are killed at random instants while they use everything in a region",
    full: 10_000,
    short: 150,
    guests: false,
    run: |plan| raise(plan, &[(SERVED, 50), (OWN, 50)]),
};

/// The same while endpoints die too.
pub const RESTARTS: Storm = Storm {
    name: "restarts",
    about: "the same while endpoints, their holders and supervisors are killed, and start again",
    full: 3_000,
    short: 40,
    guests: false,
    run: |plan| {
        let disturbed = |manner| Manner { disturbed: true, ..manner };
        let trapped = Manner { trapped: true, ..disturbed(SERVED) };
        raise(plan, &[(disturbed(SERVED), 45), (disturbed(OWN), 45), (trapped, 10)])
    },
};

/// Where and how.
#[derive(Clone, Copy)]
struct Manner {
    place: Place,
    /// The endpoint, its holder and supervisors are killed as well.
    disturbed: bool,
    /// The workers are linked statically, and their calls are trapped.
    trapped: bool,
}

impl Manner {
    fn name(self) -> &'static str {
        match (self.place, self.trapped) {
            (Place::Served, false) => "a region of vshmemd",
            (Place::Own, _) => "the user's own region",
            (Place::Served, true) => "trapped, in a region of vshmemd",
        }
    }
}

const SERVED: Manner = Manner { place: Place::Served, disturbed: false, trapped: false };
const OWN: Manner = Manner { place: Place::Own, ..SERVED };

const WORKERS: usize = 8;
/// Kills after which the books are closed.
const PERIOD: u64 = 500;
/// How long a killed process may take to be gone.
const LIMIT: Duration = Duration::from_secs(30);

/// Nanoseconds of the clock that the workers read.
fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

struct Worker {
    pid: Pid,
    log: PathBuf,
    /// When it is killed.
    due: u64,
    /// Killed when it is about to exit, if that is before.
    at_exit: bool,
}

/// How long what took, in nanoseconds.
#[derive(Default)]
struct Delays(Vec<u64>);

impl Delays {
    fn at(&self, of_thousand: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let i = (sorted.len() * of_thousand / 1000).min(sorted.len().saturating_sub(1));
        Duration::from_nanos(sorted.get(i).copied().unwrap_or(0))
    }

    fn text(&self) -> String {
        let [p50, p99, worst] = [500, 990, 1000].map(|n| self.at(n).as_secs_f64() * 1e3);
        format!("{p50:.2} / {p99:.2} / {worst:.2} ms ({} times)", self.0.len())
    }
}

struct Field {
    manner: Manner,
    world: World,
    rng: Rng,
    workers: Vec<Worker>,
    number: u32,
    accounts: Accounts,
    totals: Totals,
    /// When the dead were killed, by pid.
    deaths: HashMap<u32, u64>,
    /// From the kill until the kernel reported it.
    reported: Delays,
    /// From the kill of who held the token until one that waited had it.
    passed_on: Delays,
    kills: u64,
    by_themselves: u64,
    /// Kills after which an endpoint or its like is killed, and when it is started again.
    next_trouble: u64,
    down_until: Option<u64>,
    /// Endpoints, holders and supervisors that were killed.
    troubles: [u64; 3],
    /// Until the last of the dead was reaped, when all were killed.
    settled: Duration,
}

fn raise(plan: &Plan, parts: &[(Manner, u64)]) -> Result<Report> {
    let mut report = Report::default();
    // What a dead worker leaves is ours to collect.
    set_child_subreaper(Pid::from_raw(1))?;
    for (i, (manner, percent)) in (0..).zip(parts) {
        let kills = (plan.rounds * percent).div_ceil(100);
        let mut field = Field::new(*manner, plan.seed.wrapping_add(i << 32))?;
        field.rage(kills, &mut report).with_context(|| {
            let log = field.world.log();
            let lines: Vec<_> = log.lines().filter(|l| !l.contains("door: ")).collect();
            format!("the last of its log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
        })?;
        field.tell(&mut report);
    }
    set_child_subreaper(None)?;
    Ok(report)
}

impl Field {
    fn new(manner: Manner, seed: u64) -> Result<Self> {
        Ok(Self {
            manner,
            world: World::new(manner.place, manner.trapped)?,
            rng: Rng::new(seed),
            workers: Vec::new(),
            number: 0,
            accounts: Accounts::default(),
            totals: Totals::default(),
            deaths: HashMap::new(),
            reported: Delays::default(),
            passed_on: Delays::default(),
            kills: 0,
            by_themselves: 0,
            next_trouble: 5,
            down_until: None,
            troubles: [0; 3],
            settled: Duration::ZERO,
        })
    }

    fn rage(&mut self, kills: u64, report: &mut Report) -> Result<()> {
        let mut before: Option<Census> = None;
        while self.kills < kills {
            let until = kills.min(self.kills + PERIOD);
            let half = self.kills.midpoint(until);
            let mut looked = false;
            while self.kills < until {
                self.turn(report)?;
                if self.kills >= half && !looked {
                    looked = true;
                    self.world.restart()?;
                    self.down_until = None;
                    self.check("while they work", report)?;
                }
            }
            let all = std::mem::take(&mut self.workers);
            self.kill(&all)?;
            self.world.restart()?;
            self.down_until = None;
            self.close_books(report)?;
            if self.manner.disturbed {
                // One that was started again may have more than the first one.
                if self.world.is_up() {
                    self.world.kill_endpoint()?;
                }
                self.world.restart()?;
                self.world.settle()?;
            }
            // An endpoint of the user's own leaves when nothing is left.
            self.world.make()?;
            let census = self.world.census()?;
            let first = *before.get_or_insert(census);
            report.promise(census == first && census.zombies == 0, || {
                format!("the endpoint grows: {first:?}, after {} kills {census:?}", self.kills)
            });
        }
        Ok(())
    }

    fn check(&self, when: &str, report: &mut Report) -> Result<()> {
        let found = self.world.findings()?;
        report.promise(found.is_none(), || {
            format!("the region, {when}, after {} kills: {}", self.kills, found.unwrap_or_default())
        });
        Ok(())
    }

    /// Kills an endpoint, a holder or a supervisor now and then, and starts the endpoint again.
    fn trouble(&mut self) -> Result<()> {
        if let Some(until) = self.down_until {
            if now() > until {
                self.world.restart()?;
                self.down_until = None;
            }
            return Ok(());
        }
        // The user's own is started by the next worker.
        if !self.manner.disturbed || self.kills < self.next_trouble || !self.world.is_up() {
            return Ok(());
        }
        self.next_trouble = self.kills + 3 + self.rng.below(20) as u64;
        let supervisors = if self.manner.trapped { self.world.supervisors() } else { Vec::new() };
        match self.rng.below(10) {
            0..4 if !supervisors.is_empty() => {
                self.troubles[2] += 1;
                // It may have ended by itself.
                let _ = kill_process(*self.rng.one(&supervisors), Signal::KILL);
            }
            0..2 => {
                self.troubles[1] += 1;
                self.world.kill_holder()?;
            }
            _ => {
                self.troubles[0] += 1;
                self.world.kill_endpoint()?;
                let down = if self.rng.percent(50) { 0 } else { self.rng.below(200) as u64 };
                self.down_until = Some(now() + down * 1_000_000);
            }
        }
        Ok(())
    }

    /// Fills the places of the dead, and kills who is due.
    fn turn(&mut self, report: &mut Report) -> Result<()> {
        self.trouble()?;
        while self.workers.len() < WORKERS {
            let worker = self.spawn()?;
            self.workers.push(worker);
        }
        for i in (0..self.workers.len()).rev() {
            let worker = &self.workers[i];
            if worker.at_exit && log::ends(&worker.log) {
                let worker = self.workers.swap_remove(i);
                self.kills += 1;
                return self.kill(&[worker]);
            }
            // Its threads and children end with it.
            let ended = rustix::process::waitid(
                rustix::process::WaitId::Pid(worker.pid),
                rustix::process::WaitIdOptions::EXITED
                    | rustix::process::WaitIdOptions::NOHANG
                    | rustix::process::WaitIdOptions::NOWAIT,
            )?;
            if let Some(status) = ended {
                self.by_themselves += 1;
                // Without its supervisor a trapped one cannot even find what it needs; and one that
                // loses it in the middle of a mapping crashes.
                let good = status.exit_status() == Some(0) || self.troubles[2] > 0;
                report.promise(good, || {
                    format!("a worker ended with {status:?}: {}", self.world.complaints())
                });
                let worker = self.workers.swap_remove(i);
                return self.kill(&[worker]);
            }
        }
        let (first, due) = self
            .workers
            .iter()
            .map(|w| w.due)
            .enumerate()
            .min_by_key(|(_, d)| *d)
            .context("nobody works")?;
        let wait = due.saturating_sub(now());
        if wait > 0 {
            std::thread::sleep(Duration::from_nanos(wait.min(500_000)));
            return Ok(());
        }
        let mut victims = vec![self.workers.swap_remove(first)];
        if self.rng.percent(15) {
            for _ in 0..=self.rng.below(3) {
                let other = self.rng.below(self.workers.len());
                victims.push(self.workers.swap_remove(other));
            }
        }
        self.kills += victims.len() as u64;
        self.kill(&victims)
    }

    fn spawn(&mut self) -> Result<Worker> {
        self.number += 1;
        let log = self.world.folder().join(format!("log-{}", self.number));
        log::create(&log)?;
        let at_exit = self.rng.percent(10);
        let steps = if at_exit { self.rng.below(30) } else { 100 + self.rng.below(20_000) };
        let arguments = [
            log.display().to_string(),
            self.number.to_string(),
            self.rng.word().to_string(),
            steps.to_string(),
        ];
        // Starting takes some milliseconds: many die before the program begins, or as it attaches.
        let life = match self.rng.below(10) {
            0..2 => self.rng.below(4_000),
            2..5 => self.rng.below(12_000),
            5..9 => self.rng.below(60_000),
            _ => self.rng.below(300_000),
        };
        let child = self.world.worker(&arguments)?.process_group(0).spawn()?;
        let due = now() + life as u64 * 1000;
        Ok(Worker { pid: Pid::from_child(&child), log, due, at_exit })
    }

    /// Kills them one right after the other, and reads what they did.
    fn kill(&mut self, victims: &[Worker]) -> Result<()> {
        let alone = self.rng.percent(60);
        let pause = if self.rng.percent(30) { self.rng.below(3_000) } else { 0 };
        for worker in victims {
            let at = now();
            self.deaths.insert(worker.pid.as_raw_nonzero().get() as u32, at);
            // It may have ended by itself.
            let _ = match alone {
                true => kill_process(worker.pid, Signal::KILL),
                false => kill_process_group(worker.pid, Signal::KILL),
            };
        }
        if pause > 0 {
            std::thread::sleep(Duration::from_micros(pause as u64));
        }
        for worker in victims {
            self.bury(worker)?;
        }
        Ok(())
    }

    fn bury(&mut self, worker: &Worker) -> Result<()> {
        let began = Instant::now();
        let at = now();
        let leader = worker.pid.as_raw_nonzero().get() as u32;
        loop {
            let _ = kill_process_group(worker.pid, Signal::KILL);
            match waitpgid(worker.pid, WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get() as u32;
                    if killed(status) {
                        let killed_at = *self.deaths.entry(pid).or_insert(at);
                        if pid == leader {
                            self.reported.0.push(now() - killed_at);
                        }
                    }
                }
                Ok(None) => std::thread::sleep(Duration::from_micros(50)),
                Err(Errno::CHILD) => break,
                Err(e) => return Err(e.into()),
            }
            if began.elapsed() > LIMIT {
                bail!("a killed worker, {leader}, is still there after {LIMIT:?}");
            }
        }
        for strand in log::read(&worker.log)? {
            self.accounts.absorb(&strand);
        }
        Ok(std::fs::remove_file(&worker.log)?)
    }

    /// Nobody works: holds what is there against the logs.
    fn close_books(&mut self, report: &mut Report) -> Result<()> {
        match self.world.settle() {
            Ok(took) => self.settled = self.settled.max(took),
            Err(e) => report.promise(false, || format!("{e:#}")),
        }
        self.check("when all are dead", report)?;
        let found = self.world.audit()?;
        let accounts = std::mem::take(&mut self.accounts);
        for (owner, since, got) in &accounts.inherited {
            // One that came after the death waited for nothing.
            if let Some(died) = self.deaths.get(owner).filter(|died| since < died && *died < got) {
                self.passed_on.0.push(got - died);
            }
        }
        self.deaths.clear();
        accounts.close(&found, self.manner.name(), self.manner.trapped, report, &mut self.totals);
        self.world.clear()?;
        self.check("when it is empty", report)
    }

    fn tell(&self, report: &mut Report) {
        let place = self.manner.name();
        let t = &self.totals;
        let (kills, by_themselves) = (self.kills, self.by_themselves);
        report.row(format!("{place}: kills, of {} workers", self.number), kills);
        report.row("workers that ended by themselves", by_themselves);
        report.row("things that they logged", t.entries);
        let messages = format!("{} ({} died sending)", t.sent, t.open_sends);
        report.row("messages sent", messages);
        let hand = format!("{} of {}", t.in_hand, t.open_receives);
        report.row("gone with one that died receiving, before it could say so", hand);
        report.row("objects of their own", t.objects);
        report.row("kill to the kernel's report: median / p99 / worst", self.reported.text());
        let name = "death of the holder to the next that waited: median / p99 / worst";
        report.row(name, self.passed_on.text());
        report.row("last of the dead reaped, at most", format!("{:.2?}", self.settled));
        if self.manner.disturbed {
            let [endpoints, holders, supervisors] = self.troubles;
            let killed = format!("{endpoints} / {holders} / {supervisors}");
            report.row("endpoints / holders / supervisors killed", killed);
            report.row("calls that nobody was there to make", t.unmade);
            // The dead are reaped when an endpoint is there again.
            return;
        }
        // 100 ms on a quiet machine. Here eight workers run and their successors start beside one
        // another, on a machine that others may use: a second more than the kernel itself took.
        let most = self.reported.at(1000) + Duration::from_secs(1);
        report.promise(self.passed_on.at(1000) <= most, || {
            format!("{place}: a dead holder's token came after {}", self.passed_on.text())
        });
    }
}

fn killed(status: WaitStatus) -> bool {
    status.terminating_signal() == Some(Signal::KILL.as_raw())
}
