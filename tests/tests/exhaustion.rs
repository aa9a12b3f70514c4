//! What is full says so, serves whom it served, and is as before when there is room again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vshmem_tests::build;
use vshmem_tests::guests::Daemon;
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;

const LIMIT: Duration = Duration::from_secs(100);

fn said(outcome: &Outcome) -> String {
    format!("{}{}\nended with {}", outcome.stdout, outcome.stderr, outcome.end)
}

/// `vshmem region check` finds nothing.
fn sound(session: &Session, region: &str) -> Result<()> {
    let checked = run(session.vshmem().args(["region", "check", "--region", region]), LIMIT)?;
    ensure!(checked.good(), "{}", said(&checked));
    Ok(())
}

#[test]
fn full_tables_and_a_full_arena_are_named_and_leave_nothing_behind() -> Result<()> {
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let _daemon = Daemon::start(&session, folder.path(), "full", "32M")?;
    let source = build::programs().join("storm/full.c");
    let program = build::compile(&source, folder.path())?;
    let outcome = run(&mut session.run(Some("full"), &program), LIMIT)?;
    ensure!(outcome.good(), "{}", said(&outcome));
    println!("{}", outcome.stdout);
    let lines: Vec<Vec<&str>> = outcome.stdout.lines().map(|l| l.split(' ').collect()).collect();
    let number = |name: &str, i: usize| -> Result<u64> {
        let line = lines.iter().filter(|l| l[0] == name).nth(i);
        Ok(line.with_context(|| said(&outcome))?[1].parse()?)
    };
    for line in &lines {
        let sound = match line[0] {
            "sets" | "queues" | "segments" => ["ENOSPC", "ENOMEM"].contains(&line[2]),
            "undo" => ["all", "ENOSPC", "ENOMEM"].contains(&line[2]),
            "messages" => ["EAGAIN", "ENOMEM"].contains(&line[2]),
            _ => true,
        };
        ensure!(sound, "{line:?} in {}", outcome.stdout);
    }
    // The last two rounds do the same in a region that has been full.
    for name in ["sets", "queues", "segments"] {
        let (second, third) = (number(name, 1)?, number(name, 2)?);
        ensure!(second == third && third > 0, "{name}: {second}, then {third}");
    }
    // Twice is what another on this machine may cost.
    let (before, after) = (number("before", 0)?, number("after", 0)?);
    ensure!(after < 3 * before, "an operation took {before} ns, and takes {after}");
    sound(&session, "full")
}

/// A task that does nothing, or its message.
fn sleeper(session: &Session) -> Result<Child> {
    let mut command = session.vshmem();
    command.args(["run", "--region", "few", "--", "sleep", "1000"]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

#[test]
fn a_daemon_without_descriptors_refuses_the_new_and_serves_the_old() -> Result<()> {
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let _daemon = Daemon::start(&session, folder.path(), "few", "32M")?;
    let pid = std::fs::read_to_string(folder.path().join("ready"))?.trim().to_owned();
    let open = || -> Result<usize> { Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let before = open()?;
    let limit = format!("--nofile={}:{}", before + 12, before + 12);
    let limited = run(Command::new("prlimit").args(["--pid", &pid, &limit]), LIMIT)?;
    ensure!(limited.good(), "{}", said(&limited));

    let mut tasks = Vec::new();
    let refused = loop {
        let mut task = sleeper(&session)?;
        let begun = Instant::now();
        let name = format!("/proc/{}/comm", task.id());
        // It becomes the program once it is a task.
        let ended = loop {
            if let Some(status) = task.try_wait()? {
                break Some(status);
            }
            if std::fs::read_to_string(&name)?.starts_with("sleep") {
                break None;
            }
            ensure!(begun.elapsed() < LIMIT, "it neither attaches nor fails");
            std::thread::sleep(Duration::from_millis(5));
        };
        match ended {
            Some(_) => break std::io::read_to_string(task.stderr.take().context("no stderr")?)?,
            None => tasks.push(task),
        }
        ensure!(tasks.len() < 40, "{} tasks with {} descriptors", tasks.len(), open()?);
    };
    println!("{} tasks, then: {refused}", tasks.len());
    ensure!(tasks.len() > 3, "{} tasks: {refused}", tasks.len());
    for part in ["few.sock", "open files", "LimitNOFILE", "end some programs"] {
        ensure!(refused.contains(part), "no '{part}' in: {refused}");
    }
    for task in &mut tasks {
        ensure!(task.try_wait()?.is_none(), "a task of before has ended");
    }
    for mut task in tasks.drain(..) {
        task.kill()?;
        task.wait()?;
    }
    // There is room again: at once, or when the daemon looks again.
    let works = run(session.vshmem().args(["run", "--region", "few", "--", "true"]), LIMIT)?;
    ensure!(works.good(), "{}", said(&works));
    let until = Instant::now() + LIMIT;
    while open()? != before {
        ensure!(Instant::now() < until, "{before} descriptors, and now {}", open()?);
        std::thread::sleep(Duration::from_millis(10));
    }
    sound(&session, "few")
}

#[test]
fn threads_beyond_the_lanes_are_refused_and_the_others_work_on() -> Result<()> {
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let config = "[[region]]\nname = \"lanes\"\nsize = \"16M\"\n[region.limits]\ntasks = 16\n";
    let _daemon = Daemon::serve(&session, folder.path(), config)?;
    let program = build::compile(&build::programs().join("storm/lanes.c"), folder.path())?;
    let outcome = run(session.run(Some("lanes"), &program).arg("40"), LIMIT)?;
    ensure!(outcome.good(), "{}", said(&outcome));
    println!("{}", said(&outcome));
    let rounds: Vec<&str> = outcome.stdout.lines().filter(|l| l.starts_with("round")).collect();
    // 24 lanes: one is the endpoint's, one each of the program's first thread and its child.
    ensure!(rounds[0] == "round 21 19 0", "{}", said(&outcome));
    // The child's is free again.
    ensure!(rounds[1..] == ["round 22 18 0"; 2], "{}", said(&outcome));
    ensure!(outcome.stdout.contains("neighbour worked"), "{}", said(&outcome));
    ensure!(outcome.stdout.matches("left 0").count() == 3, "{}", said(&outcome));
    for part in ["all 24 lanes", "one per thread", "more tasks in its configuration"] {
        ensure!(outcome.stderr.contains(part), "no '{part}' in: {}", outcome.stderr);
    }
    sound(&session, "lanes")
}

#[test]
fn a_process_without_room_to_map_the_region_is_told_so() -> Result<()> {
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let _daemon = Daemon::start(&session, folder.path(), "large", "1G")?;
    // Attached by the program itself, below its limit: not by the `vshmem` before it.
    let script = "ulimit -v 600000; exec ipcmk -S 1";
    let mut command = session.vshmem();
    command.args(["run", "--region", "large", "--", "sh", "-c", script]);
    let outcome = run(&mut command, LIMIT)?;
    println!("{}", said(&outcome));
    ensure!(outcome.end == "exit 1", "{}", said(&outcome));
    for part in ["cannot map", "Cannot allocate memory", "large.sock", "ulimit -v"] {
        ensure!(outcome.stderr.contains(part), "no '{part}' in: {}", said(&outcome));
    }
    let works = run(session.vshmem().args(["run", "--region", "large", "--", "true"]), LIMIT)?;
    ensure!(works.good(), "{}", said(&works));
    sound(&session, "large")
}

#[test]
fn a_region_on_a_full_file_system_is_refused_at_the_start_and_leaves_nothing() -> Result<()> {
    let (session, folder) = (Session::new()?, tempfile::tempdir()?);
    let place = folder.path().join("small");
    std::fs::create_dir(&place)?;
    let config = folder.path().join("vshmemd.toml");
    let text = format!(
        "[[region]]\nname = \"r\"\nsize = \"32M\"\nbacking = \"file\"\npath = \"{}/memory\"\n",
        place.display()
    );
    std::fs::write(&config, text)?;
    let script = "mount -t tmpfs -o size=20M none \"$1\" || exit 99\n\
                  \"$2\" --config \"$3\"; echo \"ended with $?, left: $(ls -A \"$1\")\"";
    let mut command = session.command("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).arg(&place);
    let outcome = run(command.arg(&session.artifacts().vshmemd).arg(&config), LIMIT)?;
    ensure!(outcome.stdout == "ended with 1, left: \n", "{}", said(&outcome));
    for part in ["region r", "allocate", "No space left", "free some room"] {
        ensure!(outcome.stderr.contains(part), "no '{part}' in: {}", said(&outcome));
    }
    Ok(())
}
