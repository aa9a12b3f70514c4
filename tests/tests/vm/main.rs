//! Guests that share a region: with each other, and with the host.
//!
//! One test runs at a time: each boots machines of its own. The names say what
//! must hold; `cargo test -p vshmem-tests --test vm -- four` runs one.

mod deaths;
mod driver;
mod fence;
mod semantics;
mod sharing;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use driver::{
    the_module_and_its_crate_pass_their_own_tests, two_guests_meet_through_the_module_alone,
};
use libtest_mimic::{Arguments, Failed, Trial};
use sharing::rules_lead_to_two_regions_in_guests_too;
use vshmem_tests::build;
use vshmem_tests::guests::{Event, Guests, Host, kernel_image};
use vshmem_tests::run::run;

/// Boots included; an emulated guest on a busy machine is slow.
const LIMIT: Duration = Duration::from_secs(150);
/// Both guests and the host see this file, and ftok makes one key of it.
const PATH: &str = "/etc/passwd";

/// A line of shell that runs a program under vshmem.
fn under(host: &Host, line: &str) -> [String; 3] {
    let vshmem = host.session().artifacts().vshmem.display().to_string();
    [
        "sh".into(),
        "-c".into(),
        format!("exec '{vshmem}' run --region {} -- ./{line}", host.region()),
    ]
}

/// Boots a guest for each line; all must end well. Their output by guest.
fn together(host: &Host, lines: &[String]) -> Result<Vec<Vec<String>>> {
    let mut guests = Guests::new(host);
    for (n, line) in lines.iter().enumerate() {
        guests.boot(&format!("guest {n}"), &[], &under(host, line))?;
    }
    guests.finish(LIMIT)
}

fn host() -> Result<Host> {
    Host::start("test", "64M")
}

fn field(lines: &[String], name: &str) -> Result<serde_json::Value> {
    let found = lines.iter().find_map(|l| {
        let value: serde_json::Value = serde_json::from_str(l).ok()?;
        value.get(name).cloned()
    });
    found.with_context(|| format!("no '{name}' in {lines:?}"))
}

fn atomics_between_two_guests_are_exact() -> Result<()> {
    let host = host()?;
    let line = |n| format!("atomics {n} {PATH} 300000");
    together(&host, &[line(0), line(1)])?;
    host.stop()
}

fn two_guests_meet_and_check_every_byte() -> Result<()> {
    let host = host()?;
    together(&host, &[format!("handshake a {PATH}"), format!("handshake b {PATH}")])?;
    host.stop()
}

fn the_host_and_a_guest_meet() -> Result<()> {
    let host = host()?;
    let mut guests = Guests::new(&host);
    guests.boot("guest", &[], &under(&host, &format!("handshake b {PATH}")))?;
    let ours = run(host.run("handshake").args(["a", PATH]), LIMIT)?;
    ensure!(ours.good(), "on the host: {}\n{}", ours.end, ours.stderr);
    guests.finish(LIMIT)?;
    host.stop()
}

fn a_file_goes_from_one_guest_to_another() -> Result<()> {
    let host = host()?;
    let file = kernel_image()?.display().to_string();
    let said = together(
        &host,
        &[format!("transfer send {file} {PATH}"), format!("transfer receive {PATH}")],
    )?;
    let sum = Command::new("sha256sum").arg(&file).output()?;
    let sum = String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap_or_default().to_owned();
    for lines in &said {
        ensure!(field(lines, "sha256")? == sum.as_str(), "another digest than {sum}: {lines:?}");
    }
    host.stop()
}

fn semop_wakes_across_guests() -> Result<()> {
    let host = host()?;
    for how in ["word --busy 64 20000", "semop --busy 64 5000", "semop --block 64 2000"] {
        let line = |n| format!("sync {n} {PATH} {how}");
        let said = together(&host, &[line(0), line(1)])?;
        eprintln!("  {how}: p50 {} us", field(&said[0], "p50")?);
    }
    host.stop()
}

/// `sem_t`, mutexes, condition variables, barriers and read-write locks in a segment.
fn posix_objects_work_between_two_guests_and_the_host() -> Result<()> {
    let host = host()?;
    let mut guests = Guests::new(&host);
    let rounds = 1000;
    for n in 1..3 {
        let line = format!("objects {n} 3 {PATH} {rounds}");
        guests.boot(&format!("guest {n}"), &[], &under(&host, &line))?;
    }
    let ours = run(host.run("objects").args(["0", "3", PATH, &rounds.to_string()]), LIMIT)?;
    ensure!(ours.good(), "on the host: {}\n{}", ours.end, ours.stderr);
    eprintln!("  {}", ours.stdout.trim());
    guests.finish(LIMIT)?;
    let line = |n| format!("objects {n} 2 {PATH} {rounds}");
    let said = together(&host, &[line(0), line(1)])?;
    eprintln!("  a sem_t between two guests, there and back: p50 {} us", field(&said[0], "p50")?);
    host.stop()
}

/// On the host, then in a guest: no living waiter sleeps beside a unit.
fn killed_waiters_of_a_sem_t_take_no_wake_with_them() -> Result<()> {
    let host = host()?;
    let ours = run(host.run("storm").args([PATH, "4"]), LIMIT)?;
    ensure!(ours.good(), "on the host: {}\n{}", ours.end, ours.stderr);
    let guest = together(&host, &[format!("storm {PATH} 8")])?;
    eprintln!("  {}\n  {}", ours.stdout.trim(), guest.concat().join("\n  "));
    host.stop()
}

fn four_guests_count_and_pass_messages() -> Result<()> {
    let host = host()?;
    let lines: Vec<_> = (0..4).map(|n| format!("parties {n} 4 {PATH} 200")).collect();
    together(&host, &lines)?;
    host.stop()
}

/// Runs watcher and holder; `end` ends the holder once it holds. Returns how
/// long after it the semaphore and the attachment were free.
fn death(host: &Host, holder: &str, end: impl Fn(&Guests<&Host>, usize)) -> Result<[Duration; 2]> {
    let mut guests = Guests::new(host);
    let watcher = guests.boot("watcher", &[], &under(host, &format!("death watcher {PATH}")))?;
    let held =
        guests.boot("holder", &[], &["sh".to_owned(), "-c".to_owned(), holder.to_owned()])?;
    let deadline = Instant::now() + LIMIT;
    let (mut killed, mut acquired, mut detached) = (None, None, None);
    loop {
        let (guest, event) = guests.next(deadline)?;
        let now = Instant::now();
        match event {
            Event::End(end) if guest == watcher => {
                ensure!(end == "exit 0", "the watcher ended with {end}");
                break;
            }
            Event::End(_) => continue,
            Event::Line(line) if line.contains("\"held\"") => {
                killed = Some(now);
                end(&guests, held);
            }
            Event::Line(line) if line.contains("\"acquired\"") => acquired = Some(now),
            Event::Line(line) if line.contains("\"detached\"") => detached = Some(now),
            Event::Line(_) => {}
        }
    }
    let (Some(killed), Some(acquired), Some(detached)) = (killed, acquired, detached) else {
        bail!("the watcher did not see all of it");
    };
    Ok([acquired - killed, detached - killed])
}

fn what_a_killed_guest_held_is_free_within_a_second() -> Result<()> {
    let host = host()?;
    let [_, _, line] = under(&host, &format!("death holder {PATH}"));
    let times = death(&host, &line, |guests, holder| guests.kill(holder))?;
    eprintln!("  released after {times:?}");
    ensure!(times.iter().all(|t| *t < Duration::from_secs(1)), "released after {times:?}");
    host.stop()
}

fn what_a_process_killed_in_a_guest_held_is_free() -> Result<()> {
    let host = host()?;
    let [_, _, line] = under(&host, &format!("death holder {PATH}"));
    // The guest's own shell kills it once it says that it holds.
    let line = line.replacen("exec ", "", 1);
    let script =
        format!("mkfifo /tmp/says; {line} >/tmp/says & read said </tmp/says; kill -9 $!; wait");
    let times = death(&host, &script, |_, _| {})?;
    eprintln!("  released {times:?} after it was held");
    host.stop()
}

/// Runs every conformance program on the guest's kernel and under vshmem
/// there, and prints how they differ: how they ended (139 is SIGSEGV, 128 and
/// its number), then after bars what they said.
const CONFORM: &str = r#"
for program in ./conform/*; do
    name=${program##*/}
    unshare -i "$program" >/tmp/kernel 2>/tmp/kernel.err; a=$?
    timeout -s KILL 90 "$VSHMEM" run --region "$REGION" -- "$program" >/tmp/ours 2>/tmp/ours.err; b=$?
    if [ $a = $b ] && cmp -s /tmp/kernel /tmp/ours; then
        echo "same $name"
    else
        echo "differs $name: the kernel's run ended with $a, ours with $b"
        diff /tmp/kernel /tmp/ours | head -20 | sed 's/^/| /'
        tail -n 5 /tmp/kernel.err | sed 's/^/| the kernel: /'
        tail -n 5 /tmp/ours.err | sed 's/^/| ours: /'
    fi
done
"#;

/// Programs whose calls are trapped in a guest as well.
const TRAPPED: &[&str] = &[
    "msg_block",
    "msg_signal",
    "proc_kill",
    "sem_signal",
    "sem_undo",
    "sem_undo_exec",
    "shm_attach",
    "shm_fork",
    "shm_vma",
];

fn programs_in_a_guest_agree_with_its_kernel() -> Result<()> {
    let host = host()?;
    let folder = host.folder().join("conform");
    std::fs::create_dir(&folder)?;
    let sources = build::sources(&build::programs())?;
    for source in &sources {
        build::compile(source, &folder)?;
    }
    // Some of them also linked statically: there the supervisor maps /dev/vshmem into them.
    let apart = tempfile::tempdir_in(host.folder())?;
    for name in TRAPPED {
        let source = build::programs().join(format!("{name}.c"));
        let program = build::compile_static(&source, apart.path())?;
        std::fs::rename(program, folder.join(format!("trapped-{name}")))?;
    }
    let vshmem = host.session().artifacts().vshmem.display();
    let script = format!("VSHMEM='{vshmem}' REGION={}\n{CONFORM}", host.region());
    let mut guests = Guests::new(&host);
    guests.boot("guest", &["--smp", "2"], &["sh", "-c", &script])?;
    let said = guests.finish(Duration::from_secs(400))?.concat();
    let same = said.iter().filter(|l| l.starts_with("same ")).count();
    let differs = |l: &&String| l.starts_with("differs ") || l.starts_with("| ");
    let differ: Vec<_> = said.iter().filter(differs).map(String::as_str).collect();
    eprintln!("  {same} programs agree");
    ensure!(differ.is_empty(), "{}", differ.join("\n"));
    let all = sources.len() + TRAPPED.len();
    ensure!(same == all, "only {same} of {all} programs ran");
    host.stop()
}

fn an_unknown_region_is_refused_by_name() -> Result<()> {
    let host = host()?;
    let outcome = run(
        host.session().vshmem().args(["vm", "run", "--region", "nowhere", "--", "true"]),
        LIMIT,
    )?;
    ensure!(!outcome.good(), "it ran");
    ensure!(outcome.stderr.contains("nowhere"), "the message names no region: {}", outcome.stderr);
    host.stop()
}

fn the_commands_exit_code_comes_back() -> Result<()> {
    let host = host()?;
    let mut command = host.session().vshmem();
    command.args([
        "vm",
        "run",
        "--region",
        host.region(),
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 42",
    ]);
    let outcome = run(command.current_dir(host.folder()), LIMIT)?;
    ensure!(outcome.end == "exit 42", "it ended with {}\n{}", outcome.end, outcome.stderr);
    ensure!(outcome.stdout == "out\n", "its output is {:?}", outcome.stdout);
    host.stop()
}

/// Runs a test and says how long it took.
fn timed(test: impl FnOnce() -> Result<()>) -> Result<(), Failed> {
    let started = Instant::now();
    let outcome = test();
    eprintln!("  after {:.1} s", started.elapsed().as_secs_f64());
    outcome.map_err(|e| Failed::from(format!("{e:#}")))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Two cores hold two guests: side by side the tests would slow each other.
    arguments.test_threads = Some(1);
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(Trial::test(stringify!($name), || timed($name))),*]
        };
    }
    let mut trials = trials![
        the_commands_exit_code_comes_back,
        an_unknown_region_is_refused_by_name,
        atomics_between_two_guests_are_exact,
        two_guests_meet_and_check_every_byte,
        the_host_and_a_guest_meet,
        a_file_goes_from_one_guest_to_another,
        semop_wakes_across_guests,
        what_a_killed_guest_held_is_free_within_a_second,
        what_a_process_killed_in_a_guest_held_is_free,
        four_guests_count_and_pass_messages,
        posix_objects_work_between_two_guests_and_the_host,
        killed_waiters_of_a_sem_t_take_no_wake_with_them,
        programs_in_a_guest_agree_with_its_kernel,
        rules_lead_to_two_regions_in_guests_too,
        the_module_and_its_crate_pass_their_own_tests,
        two_guests_meet_through_the_module_alone,
    ];
    let stage = deaths::Stage::default();
    trials.extend(semantics::trials(&stage));
    trials.extend(stage.trials());
    trials.extend(fence::trials(&stage));
    let conclusion = libtest_mimic::run(&arguments, trials);
    match stage.end() {
        Ok(()) => conclusion.exit_code(),
        Err(error) => {
            eprintln!("error: the guests of the deaths do not end as they should: {error:#}");
            ExitCode::FAILURE
        }
    }
}
