//! Where rows are measured: the built programs, a session, and regions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use vshmem_tests::build;
use vshmem_tests::guests::Daemon;
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;

use crate::row::Program;

/// Every program has an alarm of its own before this.
pub const WATCHDOG: Duration = Duration::from_secs(550);

/// Regions that a daemon serves: one as large as the user's own, and one for crowds and many
/// objects, of which 10,000 tasks take 48 KiB and a quarter each. (The user's own endpoint leaves
/// when nobody uses it, which is between any two programs.)
const REGIONS: [&str; 2] = ["plain", "wide"];
const CONFIGURATION: &str = "\
[[region]]
name = \"plain\"
size = \"1G\"
[[region]]
name = \"wide\"
size = \"2G\"
[region.limits]
tasks = 10100
";

/// Kept till the end; programs are built when first needed.
pub struct Place {
    _daemon: Daemon,
    session: Session,
    folder: TempDir,
    programs: RefCell<BTreeMap<(&'static str, bool), PathBuf>>,
}

impl Place {
    /// A session of its own, with a daemon.
    ///
    /// # Errors
    ///
    /// The build's, or the daemon's.
    pub fn new() -> Result<Self> {
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let daemon = Daemon::serve(&session, folder.path(), CONFIGURATION)?;
        Ok(Self { _daemon: daemon, session, folder, programs: RefCell::default() })
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The pid of the daemon that serves the regions.
    ///
    /// # Errors
    ///
    /// It has not said.
    pub fn daemon(&self) -> Result<u32> {
        let text = std::fs::read_to_string(self.folder().join("ready"))?;
        text.trim().parse().context("the daemon's pid")
    }

    /// A folder for what a row needs; gone at the end.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Any program under `vshmem run`.
    pub fn run(&self, wide: bool, program: &Path) -> Command {
        self.session.run(Some(REGIONS[usize::from(wide)]), program)
    }

    /// A built program of `programs/`.
    ///
    /// # Errors
    ///
    /// The compiler's.
    pub fn program(&self, source: &'static str, trapped: bool) -> Result<PathBuf> {
        if let Some(built) = self.programs.borrow().get(&(source, trapped)) {
            return Ok(built.clone());
        }
        let file = build::root().join("benchmarks/programs").join(source).with_extension("c");
        let into = self.folder().join(if trapped { "static" } else { "dynamic" });
        std::fs::create_dir_all(&into)?;
        let built = match trapped {
            true => build::compile_static(&file, &into)?,
            false => build::compile(&file, &into)?,
        };
        self.programs.borrow_mut().insert((source, trapped), built.clone());
        Ok(built)
    }

    /// The command that starts a program as its row wants it.
    ///
    /// # Errors
    ///
    /// The compiler's.
    pub fn command(&self, program: &Program) -> Result<Command> {
        let built = self.program(program.source, program.trapped)?;
        let mut command = match program.vshmem {
            true => self.run(program.wide, &built),
            false if program.wide => self.alone(&built),
            false => Command::new(&built),
        };
        command.arg(&program.code).envs(program.environment.iter().copied());
        Ok(command)
    }

    /// A program in an IPC namespace of its own: the kernel's limits are for all its users
    /// together, and what one leaves there goes with it.
    fn alone(&self, program: &Path) -> Command {
        let mut command = self.session.command("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg("--ipc").arg(program);
        command
    }

    /// What a program prints of a slice of time: a number per line.
    ///
    /// # Errors
    ///
    /// As [`command`](Self::command), and what the program ends with.
    pub fn measure(&self, program: &Program, slice: Duration) -> Result<Vec<f64>> {
        let mut command = self.command(program)?;
        samples(command.arg(format!("{}ms", slice.as_millis())).args(&program.arguments))
    }

    /// What `vshmem run` adds to a program's environment.
    ///
    /// # Errors
    ///
    /// It fails, or adds nothing.
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        let outcome = run(&mut self.run(false, Path::new("env")), WATCHDOG)?;
        ensure!(outcome.good(), "vshmem run -- env: {}", outcome.stderr);
        let pairs = outcome.stdout.lines().filter_map(|l| l.split_once('='));
        let ours: Vec<_> = pairs
            .filter(|(name, _)| *name == "LD_PRELOAD" || name.starts_with("VSHMEM_"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ensure!(ours.iter().any(|(name, _)| name == "LD_PRELOAD"), "vshmem run preloads nothing");
        Ok(ours)
    }
}

/// How a program that failed ended, and the first it said: a crowd says the same thousands of times.
pub fn ended_badly(command: &Command, outcome: &Outcome) -> String {
    let mut lines = outcome.stderr.lines();
    let first: Vec<_> = lines.by_ref().take(3).collect();
    let more = if lines.next().is_some() { "\n..." } else { "" };
    let name = command.get_program().to_string_lossy();
    let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let words = arguments.join(" ");
    format!("{name} {words}\nended with {}: {}{more}", outcome.end, first.join("\n"))
}

/// What a measuring program prints: a number per line.
///
/// # Errors
///
/// It fails, or prints something else.
pub fn samples(command: &mut Command) -> Result<Vec<f64>> {
    let outcome = run(command, WATCHDOG)?;
    ensure!(outcome.good(), "{}", ended_badly(command, &outcome));
    let number = |line: &str| line.parse().with_context(|| format!("{command:?}: '{line}'"));
    outcome.stdout.lines().map(number).collect()
}
