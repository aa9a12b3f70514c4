//! What the preload costs programs that do something else: without it, and with
//! it.
//!
//! Of what starts processes the processor time counts beside the time on the
//! clock: other people's load changes it less.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vshmem_tests::build;

use crate::place::Place;
use crate::row::{Goal, Row};
use crate::run::{Side, Turn};

/// A tax is a few parts of a hundred: its interval has to be narrow.
const PATIENCE: u32 = 3;

fn tax(code: &str, about: &str) -> Row {
    let mut row = Row::program("tax", "tax", code, about).patience(PATIENCE);
    row.ours.label = "preloaded".into();
    if let Some(base) = &mut row.base {
        base.label = "without".into();
    }
    row
}

/// Codes of `programs/tax.c`, and whether they are measured as a user of System V IPC as well.
const CODES: &[(&str, &str, bool)] = &[
    ("fork", "fork, _exit, waitpid", true),
    ("vfork", "vfork, _exit, waitpid", true),
    ("exec-fails", "execv of what is not there", false),
    ("waitpid", "waitpid without children", false),
    ("munmap", "mmap, munmap of 64 KiB", true),
    ("mprotect", "mprotect there and back", true),
    ("open-close", "open, close", false),
    ("fopen-fclose", "fopen, fclose", false),
    ("sigaction", "sigaction, set and get", true),
    ("signal", "raise, with a handler", true),
    ("mutex", "lock, unlock of a private mutex", false),
    ("syscall", "syscall(SYS_getppid)", false),
    ("malloc", "two threads allocate and free", false),
    ("thread", "pthread_create, pthread_join", true),
];

/// The rows.
pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        tax("start", "posix_spawn and end of /bin/true").goal(Goal::More(1e6)),
        tax("start-processor", "posix_spawn and end of /bin/true, processor time"),
        tax("vshmem-run", "vshmem run -- true, as a whole").both(run_true),
    ];
    for (code, about, _) in CODES {
        rows.push(tax(code, about));
    }
    for (code, about, _) in CODES.iter().filter(|(_, _, attached)| *attached) {
        let about = format!("{about}; uses semaphores as well");
        rows.push(tax(code, &about).named(format!("{code}-attached")).with(&["attached"]));
    }
    rows.push(
        tax("build-clock", "make and gcc: a small C program")
            .both(|place, turn| Ok(vec![make(place, turn)?.clock])),
    );
    rows.push(
        tax("build-processor", "make and gcc: a small C program, processor time")
            .both(|place, turn| Ok(vec![make(place, turn)?.processor]))
            .goal(Goal::Ratio(1.02))
            .patience(5 * PATIENCE),
    );
    rows
}

/// In nanoseconds.
struct Times {
    clock: f64,
    processor: f64,
}

/// Time until the command has ended.
fn times(command: &mut Command) -> Result<Times> {
    let spent = || {
        // SAFETY: plain bytes, filled by the call, which cannot fail.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
            usage
        };
        let time = |t: libc::timeval| t.tv_sec as f64 * 1e9 + t.tv_usec as f64 * 1e3;
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    let (before, began) = (spent(), Instant::now());
    let status = command.stdin(Stdio::null()).status().context("cannot start")?;
    let clock = began.elapsed().as_secs_f64() * 1e9;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Times { clock, processor: spent() - before })
}

/// The command itself: look, attach, become the program.
fn run_true(place: &Place, turn: Turn) -> Result<Vec<f64>> {
    let mut command = match turn.side {
        Side::Base => place.session().command("/bin/true"),
        Side::Ours => place.run(false, Path::new("/bin/true")),
    };
    Ok(vec![times(command.process_group(0))?.clock])
}

/// A target for each program of the tests.
fn makefile(folder: &Path) -> Result<Vec<String>> {
    let (mut text, mut targets) = (String::new(), Vec::new());
    for source in build::sources(&build::programs())? {
        let name = source.file_stem().context("a source without a name")?.to_string_lossy();
        // The shell's builtins would not start a process.
        let _ = writeln!(
            text,
            "{name}: {source}\n\tif /bin/test -f $<; then cc -O2 -pthread -c -o $@.o $<; fi\n\t\
             cc -pthread -o $@ $@.o && size $@ >$@.size",
            source = source.display()
        );
        targets.push(name.into_owned());
    }
    std::fs::write(folder.join("Makefile"), text)?;
    Ok(targets)
}

/// Make, shells, compilers, assemblers, linkers: a round is one program, so
/// that both sides of a pair are close in time.
fn make(place: &Place, turn: Turn) -> Result<Times> {
    let folder = place.folder().join("build");
    std::fs::create_dir_all(&folder)?;
    let targets = makefile(&folder)?;
    let mut command = Command::new("make");
    if turn.side == Side::Ours {
        // The command itself runs once for a whole build, not once for each target.
        command.envs(place.environment()?);
    }
    let log = File::create(folder.join("log"))?;
    command.args(["-B", "-s", "-C"]).arg(&folder).arg(&targets[turn.round % targets.len()]);
    times(command.stdout(log))
}
