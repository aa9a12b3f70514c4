//! Where the workers are: a region, its endpoint, and the programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;

use super::audit::{self, Audit};
use crate::build;
use crate::guests::Daemon;
use crate::run::run;
use crate::session::Session;

/// How long anything that is not a worker may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the last of the dead may be listed.
const SETTLE: Duration = Duration::from_secs(15);
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
    pub fn new(place: Place) -> Result<Self> {
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let source = |name: &&str| build::programs().join("storm/kills").join(name);
        let compile = |name, parts: &[&str]| {
            build::compile_all(name, &parts.iter().map(source).collect::<Vec<_>>(), folder.path())
        };
        let worker = ["worker.c", "log.c", "tokens.c", "messages.c", "objects.c"].map(|name| name);
        let worker = compile("worker", &worker)?;
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

    /// Waits until no dead task is listed.
    ///
    /// # Errors
    ///
    /// Some stay.
    pub fn settle(&self) -> Result<()> {
        let until = Instant::now() + SETTLE;
        loop {
            let tasks = self.ours(&["task", "list"])?;
            // A heading, and the lister.
            if tasks.lines().count() == 2 {
                return Ok(());
            }
            if Instant::now() > until {
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
            let daemon = words.next()?.ends_with(b"/vshmemd") || is_daemon(pid);
            daemon.then(|| (pid, words.any(|w| w == b"--holder")))
        })
    }

    /// The endpoint's process.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn endpoint(&self) -> Result<Pid> {
        let found = self.daemons().find(|(_, holder)| !holder);
        Ok(found.context("no endpoint runs")?.0)
    }

    /// What the endpoint has, once it has let go of the last command's.
    ///
    /// # Errors
    ///
    /// It has gone.
    pub fn census(&self) -> Result<Census> {
        let pid = self.endpoint()?;
        let until = Instant::now() + SETTLE;
        let mut last = census(pid)?;
        let mut same = 0;
        while same < 10 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            let now = census(pid)?;
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}

fn is_daemon(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "vshmemd\n")
}

/// Parent and state of a process.
fn stat(pid: &str) -> Option<(i32, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text.rsplit_once(") ")?.1.split(' ');
    let state = rest.next()?.chars().next()?;
    Some((rest.next()?.parse().ok()?, state))
}

fn census(pid: Pid) -> Result<Census> {
    let count = |what: &str| -> Result<usize> {
        let path = format!("/proc/{pid}/{what}");
        Ok(std::fs::read_dir(&path).with_context(|| path)?.count())
    };
    let mut zombies = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let of = stat(&name.to_string_lossy());
        zombies += usize::from(of == Some((pid.as_raw_nonzero().get(), 'Z')));
    }
    Ok(Census { descriptors: count("fd")?, threads: count("task")?, zombies })
}
