//! Where the workers are: a region, its endpoint, and the programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::audit::{self, Audit};
use crate::build;
use crate::guests::Daemon;
use crate::run::run;
use crate::session::Session;

/// How long anything that is not a worker may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the last of the dead may be listed.
const SETTLE: Duration = Duration::from_secs(30);
const REGION: &str = "kills";

/// Who serves the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `vshmemd` with a configuration.
    Served,
    /// The user's own endpoint.
    Own,
}

/// What an endpoint has that it must not have more and more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    pub descriptors: usize,
    pub holders_descriptors: usize,
    pub threads: usize,
    pub zombies: usize,
}

/// A region and its endpoint.
#[derive(Debug)]
pub struct World {
    place: Place,
    // Dropped in this order: the session ends what the daemon leaves.
    daemon: Option<Daemon>,
    session: Session,
    folder: tempfile::TempDir,
    worker: PathBuf,
    audit: PathBuf,
}

impl World {
    /// With the objects that the workers share.
    ///
    /// # Errors
    ///
    /// A build's failure, or the endpoint does not come up.
    pub fn new(place: Place, trapped: bool) -> Result<Self> {
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let source = |name: &&str| build::programs().join("storm/kills").join(name);
        let compile = |name, parts: &[&str]| {
            let parts: Vec<_> = parts.iter().map(source).collect();
            match trapped {
                true => build::compile_all_static(name, &parts, folder.path()),
                false => build::compile_all(name, &parts, folder.path()),
            }
        };
        let parts = ["worker.c", "log.c", "tokens.c", "messages.c", "objects.c"];
        let worker = compile("worker", &parts)?;
        let audit = compile("audit", &["audit.c", "log.c"])?;
        let mut world = Self { place, daemon: None, session, folder, worker, audit };
        if place == Place::Served {
            world.start()?;
        }
        world.make()?;
        Ok(world)
    }

    /// Where logs may be.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn start(&mut self) -> Result<()> {
        let text = format!("[[region]]\nname = \"{REGION}\"\nsize = \"64M\"\n");
        self.daemon = Some(Daemon::serve(&self.session, self.folder.path(), &text)?);
        Ok(())
    }

    fn region(&self) -> Option<&'static str> {
        (self.place == Place::Served).then_some(REGION)
    }

    /// A worker's command; what it says on standard error is kept.
    pub fn worker(&self, arguments: &[String]) -> Result<Command> {
        let mut command = self.session.run(self.region(), &self.worker);
        let said = std::fs::File::options().create(true).append(true).open(self.said())?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        Ok(command)
    }

    fn said(&self) -> PathBuf {
        self.folder.path().join("said")
    }

    /// What workers have said on standard error since this was asked.
    pub fn complaints(&self) -> String {
        let said = std::fs::read_to_string(self.said()).unwrap_or_default();
        let _ = std::fs::remove_file(self.said());
        said
    }

    fn ours(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.session.vshmem();
        command.args(arguments);
        if let Some(region) = self.region() {
            command.args(["--region", region]);
        }
        let outcome = run(&mut command, LIMIT)?;
        ensure!(outcome.good(), "vshmem {arguments:?}: {} ({})", outcome.stderr, outcome.end);
        Ok(outcome.stdout)
    }

    /// Makes the objects.
    ///
    /// # Errors
    ///
    /// They are there already, or cannot be made.
    pub fn make(&self) -> Result<()> {
        let outcome = run(self.session.run(self.region(), &self.audit).arg("make"), LIMIT)?;
        ensure!(outcome.good(), "audit make: {} ({})", outcome.stderr, outcome.end);
        Ok(())
    }

    /// Waits until no dead task is listed: how long that took.
    ///
    /// # Errors
    ///
    /// Some stay.
    pub fn settle(&self) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let tasks = self.ours(&["task", "list"])?;
            // A heading, and the lister.
            if tasks.lines().count() == 2 {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > SETTLE {
                bail!("the dead are listed still:\n{tasks}");
            }
        }
    }

    /// Looks at everything, and empties the queues.
    ///
    /// # Errors
    ///
    /// It cannot be looked at.
    pub fn audit(&self) -> Result<Audit> {
        let outcome = run(&mut self.session.run(self.region(), &self.audit), LIMIT)?;
        ensure!(outcome.good(), "audit: {} ({})", outcome.stderr, outcome.end);
        Audit::parse(&outcome.stdout, &self.ours(&["ipcs", "--json"])?)
    }

    /// What `vshmem region check` finds.
    ///
    /// # Errors
    ///
    /// It cannot look.
    pub fn findings(&self) -> Result<Option<String>> {
        let mut command = self.session.vshmem();
        command.args(["region", "check"]);
        if let Some(region) = self.region() {
            command.args(["--region", region]);
        }
        let outcome = run(&mut command, LIMIT)?;
        match outcome.end.as_str() {
            "exit 0" => Ok(None),
            "exit 1" if outcome.stderr.is_empty() => Ok(Some(outcome.stdout)),
            end => bail!("vshmem region check: {} ({end})", outcome.stderr),
        }
    }

    /// Removes all objects.
    ///
    /// # Errors
    ///
    /// Some stay.
    pub fn clear(&self) -> Result<()> {
        self.ours(&["ipcrm", "--all"])?;
        let left = audit::listed(&self.ours(&["ipcs", "--json"])?)?;
        ensure!(left.is_empty(), "not removed: {left:?}");
        Ok(())
    }

    /// The processes of the endpoint: it, and its holder.
    fn daemons(&self) -> impl Iterator<Item = (Pid, bool)> {
        self.session.processes().into_iter().filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let mut words = line.split(|b| *b == 0);
            let name = words.next()?;
            // A holder is started as whatever the daemon is by then.
            let holder = words.any(|w| w == b"--holder");
            (holder || name.ends_with(b"/vshmemd")).then_some((pid, holder))
        })
    }

    /// Whether the endpoint runs.
    pub fn is_up(&self) -> bool {
        self.process(false).is_ok()
    }

    /// The endpoint's process, or its holder's.
    ///
    /// # Errors
    ///
    /// There is none.
    fn process(&self, holder: bool) -> Result<Pid> {
        let found = self.daemons().find(|(_, is)| *is == holder);
        Ok(found.context(if holder { "no holder runs" } else { "no endpoint runs" })?.0)
    }

    /// Kills the endpoint; its holder lives.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn kill_endpoint(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(daemon) => drop(daemon),
            None => end(self.process(false)?)?,
        }
        Ok(())
    }

    /// Starts `vshmemd` again; the user's own endpoint is started by who wants it.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub fn restart(&mut self) -> Result<()> {
        if self.place == Place::Served && self.daemon.is_none() {
            self.start()?;
        }
        Ok(())
    }

    /// Kills the holder, and waits until its successor has everything.
    ///
    /// # Errors
    ///
    /// There is none, or no successor.
    pub fn kill_holder(&self) -> Result<()> {
        let before = self.holders_started();
        end(self.process(true)?)?;
        let begun = Instant::now();
        while self.holders_started() == before {
            ensure!(begun.elapsed() < SETTLE, "no other holder is started");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn holders_started(&self) -> usize {
        self.log().matches("started a holder").count()
    }

    /// What the endpoints have said.
    pub fn log(&self) -> String {
        let log = match self.place {
            Place::Served => self.folder.path().join("vshmemd.log"),
            Place::Own => self.session.runtime().join("vshmem/vshmemd.log"),
        };
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// The processes that make trapped calls.
    pub fn supervisors(&self) -> Vec<Pid> {
        let comm = |pid: &Pid| std::fs::read_to_string(format!("/proc/{pid}/comm"));
        let mut all = self.session.processes();
        all.retain(|pid| comm(pid).is_ok_and(|c| c == "vshmem-trap\n"));
        all
    }

    /// What the endpoint has, once it has let go of the last command's.
    ///
    /// # Errors
    ///
    /// It has gone.
    pub fn census(&self) -> Result<Census> {
        let (pid, holder) = (self.process(false)?, self.process(true)?);
        let until = Instant::now() + SETTLE;
        let mut last = census(pid, holder)?;
        let mut same = 0;
        while same < 10 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            let now = census(pid, holder)?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}

/// Parent and state of a process.
fn stat(pid: &str) -> Option<(i32, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?.chars().next()?;
    Some((rest.next()?.parse().ok()?, state))
}

/// Ends a process with SIGKILL, and collects it if it is ours by now.
fn end(pid: Pid) -> Result<()> {
    kill_process(pid, Signal::KILL)?;
    let begun = Instant::now();
    while waitpid(Some(pid), WaitOptions::NOHANG).is_ok_and(|s| s.is_none()) {
        ensure!(begun.elapsed() < LIMIT, "{pid} does not die");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn census(pid: Pid, holder: Pid) -> Result<Census> {
    let count = |pid: Pid, what: &str| -> Result<usize> {
        let path = format!("/proc/{pid}/{what}");
        Ok(std::fs::read_dir(&path).with_context(|| path)?.count())
    };
    let mut zombies = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let of = stat(&name.to_string_lossy());
        zombies += usize::from(of == Some((pid.as_raw_nonzero().get(), 'Z')));
    }
    let descriptors = count(pid, "fd")?;
    let holders_descriptors = count(holder, "fd")?;
    Ok(Census { descriptors, holders_descriptors, threads: count(pid, "task")?, zombies })
}
