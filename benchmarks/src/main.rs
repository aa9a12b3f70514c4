//! Measures vshmem beside the kernel's own System V IPC.
//!
//! One C program, `programs/micro.c`, runs on both sides in turns, so that a
//! disturbance of the machine meets both; every sample of every round goes into
//! one histogram per side. Ratios compare; absolute figures belong to the
//! machine that is printed with them.

mod table;
mod tax;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use vshmem_tests::session::Session;
use vshmem_tests::{build, machine, run::run};

use crate::table::Row;

/// Measures vshmem beside the kernel's own System V IPC.
#[derive(Parser)]
#[command(name = "vshmem-bench")]
struct Options {
    /// Run only what has this in its name
    filter: Option<String>,
    /// Run only this suite
    #[arg(long)]
    only: Option<Suite>,
    /// How often each side runs [default: 5; tax: 15]
    #[arg(long)]
    rounds: Option<u32>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Fail when a figure misses its bound
    #[arg(long)]
    check: bool,
    /// Measure the kernel alone
    #[arg(long)]
    kernel_only: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// The calls of System V IPC, beside the kernel's
    Ipc,
    /// What the preload costs programs that do something else
    Tax,
}

/// One micro-code.
struct Micro {
    name: &'static str,
    about: &'static str,
    /// Batches, or turns, of a round.
    count: u32,
    /// The most that our median may be, in nanoseconds, on the machine that the
    /// bound was set on; none where there is no such promise.
    bound: Option<f64>,
}

const MICROS: &[Micro] = &[
    Micro { name: "sem-pair", about: "semop +1, -1, uncontended", count: 100, bound: Some(150.0) },
    Micro { name: "sem-undo-pair", about: "the same with SEM_UNDO", count: 100, bound: None },
    Micro { name: "sem-multi", about: "semop of four operations", count: 100, bound: None },
    Micro { name: "sem-read", about: "semctl GETVAL", count: 100, bound: None },
    Micro { name: "msg-pair", about: "msgsnd, msgrcv of 64 bytes", count: 100, bound: None },
    Micro { name: "msg-type-pair", about: "the same by type", count: 100, bound: None },
    Micro {
        name: "msg-stream",
        about: "64 bytes, one sender, one receiver",
        count: 50,
        bound: None,
    },
    Micro {
        name: "shm-cycle",
        about: "shmget, shmat, touch, shmdt, remove",
        count: 40,
        bound: None,
    },
    Micro { name: "sem-turns", about: "semop ping-pong, both running", count: 5000, bound: None },
    Micro {
        name: "sem-turns-pinned",
        about: "the same, each on a processor",
        count: 5000,
        bound: None,
    },
    Micro {
        name: "sem-turns-pinned-asleep",
        about: "the same, VSHMEM_SPIN=0",
        count: 5000,
        bound: None,
    },
    Micro { name: "msg-turns", about: "message ping-pong, both running", count: 5000, bound: None },
    Micro {
        name: "msg-turns-pinned",
        about: "the same, each on a processor",
        count: 5000,
        bound: None,
    },
    Micro {
        name: "msg-turns-pinned-asleep",
        about: "the same, VSHMEM_SPIN=0",
        count: 5000,
        bound: None,
    },
    Micro { name: "unit-pair", about: "sem_post, sem_wait in a segment", count: 100, bound: None },
    Micro { name: "mutex-pair", about: "lock, unlock of a mutex there", count: 100, bound: None },
    Micro {
        name: "own-unit-pair",
        about: "sem_post, sem_wait in own memory",
        count: 100,
        bound: None,
    },
    Micro { name: "own-mutex-pair", about: "lock, unlock there", count: 100, bound: None },
    Micro {
        name: "unit-turns-pinned",
        about: "sem_t ping-pong, each on a processor",
        count: 5000,
        bound: None,
    },
    Micro {
        name: "unit-turns-pinned-asleep",
        about: "the same, VSHMEM_SPIN=0",
        count: 5000,
        bound: None,
    },
    Micro {
        name: "sem-pair-trapped",
        about: "sem-pair, linked statically",
        count: 10,
        bound: None,
    },
    Micro {
        name: "msg-pair-trapped",
        about: "msg-pair, linked statically",
        count: 10,
        bound: None,
    },
    Micro {
        name: "shm-cycle-trapped",
        about: "shm-cycle, linked statically",
        count: 10,
        bound: None,
    },
    Micro {
        name: "sem-turns-trapped",
        about: "sem-turns, linked statically",
        count: 2000,
        bound: None,
    },
];

/// What is added to the name of a micro-code that is linked statically, so that its calls are
/// trapped.
const TRAPPED: &str = "-trapped";

/// What is added to the name of a micro-code whose waits shall not spin. The
/// kernel's never do.
const ASLEEP: &str = "-asleep";

/// How often each side runs unless told.
const ROUNDS: u32 = 5;

const WATCHDOG: Duration = Duration::from_secs(130);

/// Picoseconds: a histogram counts whole numbers, and half a nanosecond shows.
const SCALE: f64 = 1000.0;

fn sample(command: &mut Command, micro: &Micro, into: &mut Histogram<u64>) -> Result<()> {
    let code = micro.name.strip_suffix(ASLEEP);
    if code.is_some() {
        command.env("VSHMEM_SPIN", "0");
    }
    let code = code.unwrap_or(micro.name);
    let code = code.strip_suffix(TRAPPED).unwrap_or(code);
    for nanoseconds in samples(command.args([code, &micro.count.to_string()]))? {
        into.record((nanoseconds * SCALE) as u64)?;
    }
    Ok(())
}

/// What a measuring program prints: a number per line.
fn samples(command: &mut Command) -> Result<Vec<f64>> {
    let outcome = run(command, WATCHDOG)?;
    ensure!(outcome.good(), "{command:?} ended with {}: {}", outcome.end, outcome.stderr);
    let number = |line: &str| line.parse().with_context(|| format!("{command:?}: '{line}'"));
    outcome.stdout.lines().map(number).collect()
}

fn measure(
    program: &Path,
    session: Option<&Session>,
    options: &Options,
    micro: &'static Micro,
) -> Result<Row> {
    let empty = || Histogram::<u64>::new(3);
    let (mut kernel, mut ours) = (empty()?, empty()?);
    for _ in 0..options.rounds.unwrap_or(ROUNDS) {
        sample(&mut Command::new(program), micro, &mut kernel)?;
        if let Some(session) = session {
            sample(&mut session.run(None, program), micro, &mut ours)?;
        }
    }
    Ok(Row::new(micro, &kernel, session.map(|_| &ours)))
}

/// Measures the calls; whether all bounds were kept, or none if no name fits.
fn ipc(options: &Options, folder: &Path) -> Result<Option<bool>> {
    let source = build::root().join("benchmarks/programs/micro.c");
    let program = build::compile(&source, folder)?;
    let apart = tempfile::tempdir()?;
    let trapped = build::compile_static(&source, apart.path())?;
    let session = if options.kernel_only { None } else { Some(Session::new()?) };
    let filter = options.filter.as_deref().unwrap_or("");
    let mut rows = Vec::new();
    for micro in MICROS.iter().filter(|m| m.name.contains(filter)) {
        eprintln!("measuring {}", micro.name);
        let program = if micro.name.ends_with(TRAPPED) { &trapped } else { &program };
        rows.push(measure(program, session.as_ref(), options, micro)?);
    }
    if rows.is_empty() {
        return Ok(None);
    }
    if options.json {
        println!("{}", table::json(&rows, &machine::facts()));
    } else {
        print!("{}", table::text(&rows));
    }
    let late: Vec<_> = rows.iter().filter(|r| r.misses()).map(|r| r.name).collect();
    if !late.is_empty() {
        eprintln!("over their bound: {}", late.join(", "));
    }
    Ok(Some(late.is_empty()))
}

fn bench(options: &Options) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    if !options.json {
        for (name, value) in machine::facts() {
            println!("{name:8} {value}");
        }
        println!();
    }
    let wanted = |suite| options.only.is_none_or(|only| only == suite);
    let mut kept = Vec::new();
    if wanted(Suite::Ipc) {
        kept.extend(ipc(options, folder.path())?);
    }
    if wanted(Suite::Tax) && !options.kernel_only {
        kept.extend(tax::bench(options, folder.path())?);
    }
    ensure!(!kept.is_empty(), "nothing that can be measured has that in its name");
    Ok(!options.check || kept.iter().all(|good| *good))
}

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
