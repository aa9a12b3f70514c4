//! Each program of `programs/` runs against the kernel, the oracle, and
//! against vshmem; what they print and how they end must be equal. Then once
//! more linked statically, so that no library reaches them (`trapped::`).
//!
//! `cargo test -p vshmem-tests --test conformance -- sem_` runs those whose
//! name has `sem_` in it. `VSHMEM_ORACLE_ONLY=1` runs the kernel's side alone.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use vshmem_tests::guests::Daemon;
use vshmem_tests::run::Outcome;
use vshmem_tests::session::Session;
use vshmem_tests::{build, diff::diff, run::run};

/// Longer than the programs' own alarm, which names the place better.
const WATCHDOG: Duration = Duration::from_secs(75);

fn on_the_kernel(program: &Path) -> Result<Outcome> {
    // A name space of its own keeps the machine's objects, and its limits, out.
    let mut command = if rustix::process::geteuid().is_root() {
        let mut unshare = Command::new("unshare");
        unshare.arg("-i").arg(program);
        unshare
    } else {
        Command::new(program)
    };
    run(&mut command, WATCHDOG)
}

fn compare(kernel: &Outcome, ours: &Outcome) -> Result<(), String> {
    let mut report = String::new();
    if kernel.end != ours.end {
        report += &format!("the kernel's run ended with {}, ours with {}\n", kernel.end, ours.end);
    }
    let lines = diff(&kernel.stdout, &ours.stdout);
    if !lines.is_empty() {
        report += &format!("- the kernel\n+ vshmem\n{lines}");
    }
    if report.is_empty() {
        return Ok(());
    }
    if !ours.stderr.is_empty() {
        report += &format!("stderr under vshmem:\n{}", ours.stderr);
    }
    Err(report)
}

/// The region of those programs that act as several users: an own endpoint
/// serves its user alone.
const SHARED: &str = "shared";

/// Where our side runs.
struct Place {
    _daemon: Daemon,
    session: Session,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let daemon = Daemon::start(&session, folder.path(), SHARED, "64M")?;
        Ok(Self { _daemon: daemon, session, _folder: folder })
    }
}

/// What a program's source says about it.
#[derive(Clone)]
struct Needs {
    source: PathBuf,
    /// Linked statically: no library reaches it, its calls are trapped.
    trapped: bool,
    users: bool,
    root: bool,
}

fn conforms(place: Option<&Place>, needs: &Needs, folder: &Path) -> Result<()> {
    let program = if needs.trapped {
        build::compile_static(&needs.source, folder)?
    } else {
        build::compile(&needs.source, folder)?
    };
    let kernel = on_the_kernel(&program)?;
    anyhow::ensure!(
        kernel.good(),
        "the oracle's run ended with {}\n{}{}",
        kernel.end,
        kernel.stdout,
        kernel.stderr
    );
    let Some(place) = place else { return Ok(()) };
    let region = needs.users.then_some(SHARED);
    let ours = run(&mut place.session.run(region, &program), WATCHDOG)?;
    compare(&kernel, &ours).map_err(anyhow::Error::msg)
}

/// What stands in the source of a program that cannot be as on the kernel when its calls are
/// trapped, before the reason.
const NOT_TRAPPED: &str = "Not when trapped:";

fn trials(place: Result<Option<Place>, String>) -> Result<Vec<Trial>> {
    let folders = [Arc::new(tempfile::tempdir()?), Arc::new(tempfile::tempdir()?)];
    let place = Arc::new(place);
    let is_root = rustix::process::geteuid().is_root();
    let mut trials = Vec::new();
    for source in build::sources(&build::programs())? {
        let name = source.file_stem().context("a source without a name")?;
        let name = name.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&source)?;
        let (users, root) = (text.contains("become("), text.contains("need_root()"));
        for (trapped, folder) in [false, true].into_iter().zip(&folders) {
            if trapped && text.contains(NOT_TRAPPED) {
                continue;
            }
            let needs = Needs { source: source.clone(), trapped, users, root };
            let ignored = needs.root && !is_root;
            let (place, folder) = (place.clone(), folder.clone());
            let name = if trapped { format!("trapped::{name}") } else { name.clone() };
            let trial = Trial::test(name, move || {
                let place = place.as_ref().as_ref().map_err(|e| Failed::from(e.clone()))?;
                conforms(place.as_ref(), &needs, folder.path())
                    .map_err(|e| Failed::from(format!("{e:#}")))
            });
            trials.push(trial.with_ignored_flag(ignored));
        }
    }
    Ok(trials)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        // Enough to keep both sides busy without starving the timed ones.
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        arguments.test_threads = Some(cores.clamp(2, 8));
    }
    let place = if arguments.list || std::env::var_os("VSHMEM_ORACLE_ONLY").is_some() {
        Ok(None)
    } else {
        Place::new().map(Some).map_err(|e| format!("{e:#}"))
    };
    let trials = match trials(place) {
        Ok(made) => made,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    // The trials own the place; it ends when they have been run.
    libtest_mimic::run(&arguments, trials).exit_code()
}
