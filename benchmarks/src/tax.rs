//! What the preload costs programs that do something else.
//!
//! Without and with it take turns, and each pair gives one ratio, so that a
//! disturbance of the machine meets both sides of a pair; the median of the
//! ratios is given with the interval in which the true one lies with 95 %
//! certainty whatever their distribution. Of a build the processor time counts
//! beside the time on the clock: other people's load changes it less.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vshmem_tests::session::Session;
use vshmem_tests::{build, machine, run::run};

use crate::{Options, WATCHDOG, samples};

/// How often each side runs unless told.
const ROUNDS: u32 = 15;

/// What a program does that is measured on both sides.
struct Work {
    name: &'static str,
    about: &'static str,
    /// Samples of a round.
    count: u32,
    /// The most that it may cost; `None` where nothing is promised.
    bound: Option<Bound>,
}

#[derive(Clone, Copy)]
enum Bound {
    /// This much longer.
    Ratio(f64),
    /// This many nanoseconds more.
    More(f64),
}

const fn work(name: &'static str, about: &'static str, count: u32) -> Work {
    Work { name, about, count, bound: None }
}

/// Those of `programs/tax.c`.
const WORKS: &[Work] = &[
    Work {
        name: "start",
        about: "posix_spawn and end of /bin/true",
        count: 60,
        bound: Some(Bound::More(1e6)),
    },
    work("start-processor", "the same, processor time", 5),
    work("fork", "fork, _exit, waitpid", 100),
    work("vfork", "the same with vfork", 200),
    work("exec-fails", "execv of what is not there", 60),
    work("waitpid", "waitpid without children", 60),
    work("munmap", "mmap, munmap of 64 KiB", 60),
    work("mprotect", "mprotect there and back", 60),
    work("open-close", "open, close", 60),
    work("fopen-fclose", "fopen, fclose", 60),
    work("sigaction", "sigaction, set and get", 60),
    work("signal", "raise, with a handler", 60),
    work("mutex", "lock, unlock of a private mutex", 60),
    work("syscall", "syscall(SYS_getppid)", 60),
    work("malloc", "two threads allocate and free", 15),
    work("thread", "pthread_create, pthread_join", 60),
];

/// Added to the name where the program has used System V IPC before.
const ATTACHED: &str = "-attached";

/// The build, on the clock and on the processors.
const BUILD: &str = "build";
/// `vshmem run -- true` as a whole.
const RUN: &str = "vshmem-run";

/// Pairs of measurements: without, with.
struct Row {
    name: String,
    about: &'static str,
    pairs: Vec<(f64, f64)>,
    bound: Option<Bound>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => values[n / 2],
        _ => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The interval around the median of `values` that holds the true one with
/// 95 %: as many of the smallest and of the largest are left out as a fair coin
/// allows.
fn interval(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    // Logarithms: of several hundred values the first terms are too small.
    let (mut below, mut term, mut out) = (0.0, n as f64 * 0.5f64.ln(), 0);
    for k in 0..n / 2 {
        below += term.exp();
        if below > 0.025 {
            break;
        }
        out = k + 1;
        term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    // `out` of them lie outside on each side; too few values: all are inside.
    let low = out.saturating_sub(1);
    (values[low], values[n - 1 - low])
}

impl Row {
    fn ratios(&self) -> Vec<f64> {
        self.pairs.iter().map(|(without, with)| with / without).collect()
    }

    fn more(&self) -> f64 {
        median(self.pairs.iter().map(|(without, with)| with - without).collect())
    }

    fn misses(&self) -> bool {
        match self.bound {
            Some(Bound::Ratio(most)) => median(self.ratios()) > most,
            Some(Bound::More(most)) => self.more() > most,
            None => false,
        }
    }

    fn text(&self) -> String {
        let (low, high) = interval(self.ratios());
        let side = |pick: fn(&(f64, f64)) -> f64| median(self.pairs.iter().map(pick).collect());
        format!(
            "{:22} {:>13.1} {:>13.1} {:>11.1} {:>7.3} {:>6.3} .. {:<6.3}  {}{}",
            self.name,
            side(|p| p.0),
            side(|p| p.1),
            self.more(),
            median(self.ratios()),
            low,
            high,
            self.about,
            if self.misses() { " !" } else { "" },
        )
    }

    fn json(&self) -> Value {
        let (low, high) = interval(self.ratios());
        json!({
            "name": self.name,
            "about": self.about,
            "unit": "ns",
            "pairs": self.pairs,
            "more": self.more(),
            "ratio": median(self.ratios()),
            "ratio_low": low,
            "ratio_high": high,
        })
    }
}

/// Both sides in turns, and who begins in turns, too.
fn pairs<T>(rounds: u32, mut measure: impl FnMut(bool) -> Result<T>) -> Result<Vec<(T, T)>> {
    let mut found = Vec::new();
    for round in 0..rounds {
        let first = measure(round % 2 == 1)?;
        let second = measure(round % 2 == 0)?;
        found.push(if round % 2 == 0 { (first, second) } else { (second, first) });
    }
    Ok(found)
}

/// One of the works, or the same as a user of System V IPC.
fn row(place: &Place, work: &Work, attached: bool) -> Result<Row> {
    let pairs = pairs(place.rounds, |with| {
        let mut command = match with {
            true => place.session.run(None, &place.program),
            false => Command::new(&place.program),
        };
        if attached {
            command.env("VSHMEM_TAX_ATTACHED", "1");
        }
        samples(command.args([work.name, &work.count.to_string()])).map(median)
    })?;
    let name = if attached { format!("{}{ATTACHED}", work.name) } else { work.name.to_owned() };
    Ok(Row { name, about: work.about, pairs, bound: if attached { None } else { work.bound } })
}

/// Time on the clock and on the processors until the command has ended, in
/// nanoseconds.
fn times(command: &mut Command) -> Result<(f64, f64)> {
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
    let took = began.elapsed().as_secs_f64() * 1e9;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok((took, spent() - before))
}

/// What `vshmem run` adds to a program's environment.
fn environment(place: &Place) -> Result<Vec<(String, String)>> {
    let outcome = run(&mut place.session.run(None, Path::new("env")), WATCHDOG)?;
    ensure!(outcome.good(), "vshmem run -- env: {}", outcome.stderr);
    let pairs = outcome.stdout.lines().filter_map(|l| l.split_once('='));
    let ours: Vec<_> = pairs
        .filter(|(name, _)| *name == "LD_PRELOAD" || name.starts_with("VSHMEM_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    ensure!(ours.iter().any(|(name, _)| name == "LD_PRELOAD"), "vshmem run preloads nothing");
    Ok(ours)
}

/// Make, shells, compilers, assemblers, linkers: each program is a target, and
/// each target is a pair, so that both sides of a pair are close in time.
fn build_rows(place: &Place, folder: &Path) -> Result<[Row; 2]> {
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
    // The command itself runs once for a whole build, not once for each target.
    let environment = environment(place)?;
    let mut measured = Vec::new();
    for target in &targets {
        measured.extend(pairs(place.rounds.div_ceil(3), |with| {
            let mut command = Command::new("make");
            if with {
                command.envs(environment.iter().map(|(name, value)| (name, value)));
            }
            let log = File::create(folder.join("log"))?;
            times(command.args(["-B", "-s", "-C"]).arg(folder).arg(target).stdout(log))
        })?);
    }
    let row = |name: &str, about, bound, pick: fn(&(f64, f64)) -> f64| Row {
        name: format!("{BUILD}-{name}"),
        about,
        bound,
        pairs: measured.iter().map(|(a, b)| (pick(a), pick(b))).collect(),
    };
    Ok([
        row("clock", "make and gcc: a small C program", None, |t| t.0),
        row("processor", "the same, processor time", Some(Bound::Ratio(1.02)), |t| t.1),
    ])
}

/// The command itself: look, attach, become the program.
fn run_row(place: &Place) -> Result<Row> {
    let pairs = pairs(place.rounds * 4, |with| {
        let mut command = match with {
            true => place.session.run(None, Path::new("/bin/true")),
            false => place.session.command("/bin/true"),
        };
        command.process_group(0);
        Ok(times(&mut command)?.0)
    })?;
    Ok(Row { name: RUN.into(), about: "vshmem run -- true, as a whole", pairs, bound: None })
}

struct Place {
    session: Session,
    program: PathBuf,
    rounds: u32,
}

/// Measures all whose name has the filter in it; whether the bounds were kept,
/// or none if no name fits.
pub fn bench(options: &Options, folder: &Path) -> Result<Option<bool>> {
    let source = build::root().join("benchmarks/programs/tax.c");
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let program = build::compile(&source, folder)?;
    let place = Place { session: Session::new()?, program, rounds };
    // An endpoint that is running, as it does for all but the first program.
    let _kept = times(&mut place.session.run(None, Path::new("/bin/true")))?;
    let filter = options.filter.as_deref().unwrap_or("");
    let wanted = |name: &str| name.contains(filter);
    let mut rows = Vec::new();
    if wanted(RUN) {
        eprintln!("measuring {RUN}");
        rows.push(run_row(&place)?);
    }
    for attached in [false, true] {
        for work in WORKS {
            let name = format!("{}{}", work.name, if attached { ATTACHED } else { "" });
            if wanted(&name) {
                eprintln!("measuring {name}");
                rows.push(row(&place, work, attached)?);
            }
        }
    }
    if wanted(BUILD) {
        eprintln!("measuring {BUILD}");
        let to = folder.join("build");
        std::fs::create_dir(&to)?;
        rows.extend(build_rows(&place, &to)?);
    }
    if rows.is_empty() {
        return Ok(None);
    }
    print(options, &rows);
    Ok(Some(!rows.iter().any(Row::misses)))
}

fn print(options: &Options, rows: &[Row]) {
    if options.json {
        let facts: serde_json::Map<_, _> =
            machine::facts().into_iter().map(|(n, v)| (n.to_owned(), json!(v))).collect();
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        println!("{}", json!({ "machine": facts, "tax": rows }));
        return;
    }
    println!(
        "{:22} {:>13} {:>13} {:>11} {:>7} {:>16}  what",
        "ns", "without", "preloaded", "more", "ratio", "95 %      "
    );
    for row in rows {
        println!("{}", row.text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // Tables of the sign test: of 15 values the 4th and the 12th, of 6 all.
        let count = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        assert_eq!(interval(count(15)), (4.0, 12.0));
        assert_eq!(interval(count(6)), (1.0, 6.0));
        assert_eq!(interval(count(5000)), (2431.0, 2570.0));
        assert_eq!(interval(count(3)), (1.0, 3.0));
        assert_eq!(median(count(15)), 8.0);
        assert_eq!(median(count(4)), 2.5);
    }

    #[test]
    fn the_order_within_a_pair_changes_and_its_meaning_does_not() {
        let mut order = Vec::new();
        let found = pairs(2, |with| {
            order.push(with);
            Ok(with)
        });
        assert_eq!(order, [false, true, true, false]);
        assert_eq!(found.unwrap(), [(false, true); 2]);
    }
}
