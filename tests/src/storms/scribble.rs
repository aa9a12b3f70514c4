//! A peer scribbles over the region while others work in it: nobody crashes, nobody waits, what is
//! corrupt is said, and the region beside it notices nothing.
//!
//! Each round has a daemon of its own with two regions. In one, programs work while another
//! (`tests/programs/scribble/liar.c`) writes into whatever means something; the commands that a
//! person would use look at it meanwhile. In the other region, served by the same daemon, the same
//! programs must find nothing wrong.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

use crate::build;
use crate::guests::Daemon;
use crate::run::{Outcome, run};
use crate::session::Session;
use crate::storms::{Plan, Report, Storm};

/// The storm.
pub const STORM: Storm = Storm {
    name: "scribble",
    about: "a peer scribbles over a region in which programs, the daemon and commands work",
    full: 200,
    short: 3,
    guests: false,
    run: raise,
};

const REGIONS: &str = r#"
[[region]]
name = "hit"
size = "16M"
[[region]]
name = "safe"
size = "16M"
number = 1
"#;
/// How long the programs of a round work.
const WORK: Duration = Duration::from_millis(2500);
/// No program or command may take longer, on whatever machine.
const LIMIT: Duration = Duration::from_secs(40);
/// Processor time that one call may take: what an endless loop, ended late, would show.
const BURN: f64 = 250.0;
/// How long the damaged region is left alone, to see what the daemon does then.
const REST: Duration = Duration::from_millis(1500);
/// Lines that a daemon may write in a round.
const LINES: usize = 200;

/// The worst of all rounds.
#[derive(Default)]
struct Worst {
    wall: f64,
    cpu: f64,
    calls: u64,
    corrupt: u64,
    beside: f64,
    busy: f64,
    idle: f64,
    lines: usize,
    commands: u64,
    told: u64,
}

struct Round<'a> {
    session: Session,
    folder: tempfile::TempDir,
    daemon: Option<Daemon>,
    programs: &'a Path,
    seed: u64,
}

fn raise(plan: &Plan) -> Result<Report> {
    let programs = tempfile::tempdir()?;
    for source in build::sources(&build::programs().join("scribble"))? {
        build::compile(&source, programs.path())?;
    }
    let (mut report, mut worst) = (Report::default(), Worst::default());
    for i in 0..plan.rounds {
        let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(i);
        // Every fourth in the endpoint that a program starts for itself.
        let mut round = Round::start(programs.path(), seed, i % 4 != 3)?;
        let before = report.broken().len();
        round.rage(&mut worst, &mut report)?;
        if report.broken().len() > before {
            report.promise(false, || format!("seed {seed}: {}", round.log()));
        }
    }
    report.row("calls in the damaged region", worst.calls);
    report.row("of them, EIO", worst.corrupt);
    report.row("programs that said what and where", worst.told);
    report.row("commands meanwhile", worst.commands);
    report.row("longest call, processor time", format!("{:.2} ms", worst.cpu));
    report.row("longest call", format!("{:.1} ms", worst.wall));
    report.row("longest call in the region beside it", format!("{:.1} ms", worst.beside));
    report.row("daemon's processor time, meanwhile", format!("{:.0} %", worst.busy));
    report.row("daemon's processor time, afterwards", format!("{:.0} %", worst.idle));
    report.row("most lines of a daemon's log", worst.lines);
    Ok(report)
}

/// What a victim says at its end.
struct Said {
    calls: u64,
    corrupt: u64,
    wall: f64,
    cpu: f64,
}

impl Said {
    fn read(text: &str) -> Option<Self> {
        let words: Vec<_> = text.lines().last()?.split(' ').collect();
        let of = |name: &str| {
            let at = words.iter().position(|w| *w == name)?;
            words.get(at + 1)?.parse::<f64>().ok()
        };
        Some(Self {
            calls: of("calls")? as u64,
            corrupt: of("corrupt")? as u64,
            wall: of("wall")?,
            cpu: of("cpu")?,
        })
    }
}

/// Whether a program ended by itself, as a program does that met an error.
fn ended(outcome: &Outcome) -> bool {
    outcome.end.starts_with("exit ")
        && outcome.end != "exit 101"
        && !outcome.stderr.contains("panicked")
        && !(128..192).any(|n| outcome.end == format!("exit {n}"))
}

impl<'a> Round<'a> {
    fn start(programs: &'a Path, seed: u64, served: bool) -> Result<Self> {
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let daemon = served.then(|| Daemon::serve(&session, folder.path(), REGIONS)).transpose()?;
        Ok(Self { session, folder, daemon, programs, seed })
    }

    fn program(&self, region: &str, name: &str, arguments: &[&str]) -> Command {
        let region = self.daemon.is_some().then_some(region);
        let mut command = self.session.run(region, &self.programs.join(name));
        command.args(arguments);
        command
    }

    /// One that works in `region`, in a thread that waits for it.
    fn victim(
        &self,
        region: &str,
        n: u64,
        time: Duration,
        sound: bool,
    ) -> std::thread::JoinHandle<Result<Outcome>> {
        let (seed, time) = ((self.seed * 16 + n).to_string(), time.as_millis().to_string());
        let mut arguments = vec![seed.as_str(), time.as_str()];
        if sound {
            arguments.push("sound");
        }
        let mut command = self.program(region, "victim", &arguments);
        std::thread::spawn(move || run(&mut command, LIMIT))
    }

    fn rage(&mut self, worst: &mut Worst, report: &mut Report) -> Result<()> {
        // Sound at first.
        let first = self.victim("hit", 0, Duration::from_millis(200), true);
        let first = first.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        if !first.good() {
            bail!("the region is not sound to begin with: {first:?}");
        }
        let victims: Vec<_> = (1..4).map(|n| self.victim("hit", n, WORK, false)).collect();
        let beside = self.daemon.is_some().then(|| self.victim("safe", 9, WORK, true));
        let (begun, before) = (Instant::now(), self.burnt());
        let mut liar = Liar::start(self)?;
        while begun.elapsed() < WORK {
            self.look_around(worst, report)?;
        }
        worst.busy = worst.busy.max(share(self.burnt() - before, begun.elapsed()));
        liar.end();
        for victim in victims {
            let outcome = victim.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            report.promise(ended(&outcome), || format!("a program crashed or hung: {outcome:?}"));
            worst.told += u64::from(outcome.stderr.contains("region corrupt at"));
            let Some(said) = Said::read(&outcome.stdout) else { continue };
            let what = || format!("a call took {} ms of processor time: {outcome:?}", said.cpu);
            report.promise(said.cpu < BURN, what);
            let told = said.corrupt == 0 || outcome.stderr.contains("region corrupt at");
            report.promise(told, || format!("EIO, and not a word: {outcome:?}"));
            worst.calls += said.calls;
            worst.corrupt += said.corrupt;
            worst.wall = worst.wall.max(said.wall);
            worst.cpu = worst.cpu.max(said.cpu);
        }
        if let Some(beside) = beside {
            let outcome = beside.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            report.promise(outcome.good(), || format!("the region beside it: {outcome:?}"));
            let wall = Said::read(&outcome.stdout).map_or(0.0, |said| said.wall);
            worst.beside = worst.beside.max(wall);
        }
        let (begun, before) = (Instant::now(), self.burnt());
        std::thread::sleep(REST);
        let idle = share(self.burnt() - before, begun.elapsed());
        worst.idle = worst.idle.max(idle);
        report.promise(idle < 30.0, || format!("nobody works, and the daemon takes {idle:.0} %"));
        if self.daemon.is_some() {
            self.afterwards(worst, report)?;
        }
        Ok(())
    }

    /// What a person would look at, while it happens.
    fn look_around(&self, worst: &mut Worst, report: &mut Report) -> Result<()> {
        let mut commands = vec![self.program("hit", "victim", &["7", "20"])];
        let mut ipcs = self.session.vshmem();
        ipcs.arg("run");
        if self.daemon.is_some() {
            ipcs.args(["--region", "hit"]);
            for words in [["region", "check"], ["task", "list"]] {
                let mut command = self.session.vshmem();
                command.args(words);
                command.args(if words[1] == "check" { &["hit"][..] } else { &["--region", "hit"] });
                commands.push(command);
            }
        }
        ipcs.args(["--", "ipcs", "-a"]);
        commands.push(ipcs);
        for mut command in commands {
            let outcome = run(&mut command, LIMIT)?;
            worst.commands += 1;
            report.promise(ended(&outcome) && outcome.end != "exit 2", || {
                format!("{command:?}: {outcome:?}")
            });
        }
        Ok(())
    }

    /// The daemon lives, was not talkative, and serves the region beside.
    fn afterwards(&self, worst: &mut Worst, report: &mut Report) -> Result<()> {
        let alive = !self.daemons().is_empty();
        report.promise(alive, || "the daemon is gone".to_owned());
        let after = self.victim("safe", 10, Duration::from_millis(200), true);
        let after = after.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        report.promise(after.good(), || format!("the region beside it, afterwards: {after:?}"));
        let mut check = self.session.vshmem();
        let check = run(check.args(["region", "check", "safe"]), LIMIT)?;
        report.promise(check.good(), || format!("damage in the region beside it: {check:?}"));
        let lines = self.log().lines().count();
        worst.lines = worst.lines.max(lines);
        report.promise(lines < LINES, || format!("{lines} lines in the daemon's log"));
        let panicked = self.log().contains("panicked");
        report.promise(!panicked, || "the daemon panicked".to_owned());
        Ok(())
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("vshmemd.log"));
        text.unwrap_or_default()
    }

    fn daemons(&self) -> Vec<Pid> {
        let is = |pid: &Pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("vshmemd")
        };
        self.session.processes().into_iter().filter(is).collect()
    }

    /// Processor time of the daemons so far.
    fn burnt(&self) -> Duration {
        let ticks = |pid: &Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let after: Vec<_> = stat.rsplit_once(')')?.1.split(' ').collect();
            Some(after.get(12)?.parse::<u64>().ok()? + after.get(13)?.parse::<u64>().ok()?)
        };
        let all: u64 = self.daemons().iter().filter_map(ticks).sum();
        Duration::from_millis(all * 1000 / rustix::param::clock_ticks_per_second())
    }
}

fn share(of: Duration, whole: Duration) -> f64 {
    of.as_secs_f64() / whole.as_secs_f64() * 100.0
}

/// The liar; its process group is killed with it.
struct Liar(Child);

impl Liar {
    fn start(round: &Round<'_>) -> Result<Self> {
        let errors = round.folder.path().join("liar.err");
        let mut command = round.program("hit", "liar", &[&round.seed.to_string()]);
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors)?)
            .spawn()?;
        let mut word = [0; 6];
        let mut out = child.stdout.take().context("no pipe")?;
        if std::io::Read::read_exact(&mut out, &mut word).is_err() {
            let _ = child.wait();
            bail!("nobody lies: {}", std::fs::read_to_string(errors).unwrap_or_default());
        }
        Ok(Self(child))
    }

    fn end(&mut self) {
        let _ = rustix::process::kill_process_group(
            Pid::from_child(&self.0),
            rustix::process::Signal::KILL,
        );
        let _ = self.0.wait();
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.end();
    }
}
