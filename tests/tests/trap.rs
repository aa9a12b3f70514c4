//! Programs that no library reaches: what their calls, their deaths and their supervisor's leave.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vshmem_tests::build;
use vshmem_tests::run::{Outcome, describe, run};
use vshmem_tests::session::Session;

const LIMIT: Duration = Duration::from_secs(60);

struct World {
    session: Session,
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = build::programs().join("trap/static.c");
        let program = build::compile_static(&source, folder.path())?;
        Ok(Self { session: Session::new()?, program, _folder: folder })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.session.run(None, &self.program);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        run(&mut self.command(arguments), LIMIT)
    }

    fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = self.command(arguments);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Running { child, stdin, stdout })
    }

    /// The supervisors of this session.
    fn supervisors(&self) -> Vec<Pid> {
        let comm = |pid: &Pid| {
            let path = format!("/proc/{}/comm", pid.as_raw_nonzero());
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let mut all = self.session.processes();
        all.retain(|pid| comm(pid) == "vshmem-trap\n");
        all
    }

    fn supervisor(&self) -> Result<Pid> {
        let all = self.supervisors();
        ensure!(all.len() == 1, "{} supervisors", all.len());
        Ok(all[0])
    }

    /// `vshmem task list`, without its own line.
    fn tasks(&self) -> Result<Vec<String>> {
        let listed = run(self.session.vshmem().args(["task", "list"]), LIMIT)?;
        ensure!(listed.good(), "{}", listed.stderr);
        let lines = listed.stdout.lines().skip(1).filter(|l| !l.ends_with(" vshmem"));
        Ok(lines.map(str::to_owned).collect())
    }
}

/// A program that is told and heard.
struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Its next line. (The programs have an alarm of their own.)
    fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn go_on(&mut self) -> Result<()> {
        Ok(writeln!(self.stdin)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn eventually(what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() > until {
            bail!("never: {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn descriptors(of: Pid) -> Result<usize> {
    Ok(Path::new(&format!("/proc/{}/fd", of.as_raw_nonzero())).read_dir()?.count())
}

#[test]
fn a_killed_program_that_waits_gives_back_what_it_holds() -> Result<()> {
    let world = World::new()?;
    let mut holder = world.start(&["hold"])?;
    ensure!(holder.hear()? == "holds");
    let tasks = world.tasks()?;
    ensure!(tasks.iter().any(|t| t.ends_with(" static")), "{tasks:?}");
    kill_process(holder.pid(), Signal::KILL)?;
    // While nobody has waited for it: its end counts, not its parent's knowledge of it.
    let got = world.run(&["acquire"])?;
    ensure!(got.stdout == "acquired, 0 wait\n", "{} {}", got.stdout, got.stderr);
    eventually("no supervisor is left", || Ok(world.supervisors().is_empty()))?;
    ensure!(world.tasks()?.is_empty(), "{:?}", world.tasks()?);
    Ok(())
}

#[test]
fn without_its_supervisor_a_program_goes_on_and_its_calls_fail() -> Result<()> {
    let world = World::new()?;
    let mut worker = world.start(&["work"])?;
    ensure!(worker.hear()? == "works");
    kill_process(world.supervisor()?, Signal::KILL)?;
    ensure!(worker.hear()? == "semop: ENOSYS");
    ensure!(worker.hear()? == "shmget: ENOSYS");
    ensure!(worker.hear()? == "fork: ok");
    ensure!(worker.child.wait()?.success());
    // One that waits fails as well, and what it held is given back when it ends.
    let mut other = world.start(&["hold"])?;
    ensure!(other.hear()? == "holds");
    kill_process(world.supervisor()?, Signal::KILL)?;
    ensure!(describe(other.child.wait()?) == "exit 0");
    let got = world.run(&["acquire"])?;
    ensure!(got.stdout == "acquired, 0 wait\n", "{} {}", got.stdout, got.stderr);
    Ok(())
}

#[test]
fn two_hundred_children_leave_neither_descriptors_nor_adjustments() -> Result<()> {
    let world = World::new()?;
    let mut parent = world.start(&["children", "60"])?;
    let mut open = Vec::new();
    for _ in 0..3 {
        let said = parent.hear()?;
        ensure!(said == "value 0, descriptors: as before", "{said}");
        open.push(descriptors(world.supervisor()?)?);
        parent.go_on()?;
    }
    ensure!(parent.child.wait()?.success());
    // Threads come and go, and have none of their own.
    ensure!(open[2] <= open[0], "{open:?}");
    Ok(())
}

#[test]
fn pages_that_only_a_silent_grandchild_maps_are_not_freed() -> Result<()> {
    let got = World::new()?.run(&["heir"])?;
    ensure!(got.stdout == "heir sees 4711\n", "{} {}", got.stdout, got.stderr);
    Ok(())
}

#[test]
fn threads_that_use_the_bare_instruction_and_are_signalled_all_the_while_count_exactly()
-> Result<()> {
    let got = World::new()?.run(&["threads", "300"])?;
    ensure!(got.stdout == "counted 1800, value 1, waiting 0\n", "{} {}", got.stdout, got.stderr);
    Ok(())
}

#[test]
fn a_program_ends_as_it_would_alone_and_its_supervisor_with_it() -> Result<()> {
    let world = World::new()?;
    for (arguments, end) in [
        (["exit", "0"], "exit 0"),
        (["exit", "7"], "exit 7"),
        (["die", "15"], "signal 15 (SIGTERM)"),
    ] {
        let got = world.run(&arguments)?;
        ensure!(got.end == end && got.stderr.is_empty(), "{}: {}", got.end, got.stderr);
    }
    eventually("no supervisor is left", || Ok(world.supervisors().is_empty()))
}

#[test]
fn a_shell_and_what_it_starts_share_one_supervisor() -> Result<()> {
    let world = World::new()?;
    let vshmem = world.session.artifacts().vshmem.display().to_string();
    let program = world.program.display().to_string();
    // Directly, and under another `vshmem run`, which finds the calls trapped already.
    let script = format!("'{program}' exit 0 && '{vshmem}' run -- '{program}' acquire");
    let mut holder = world.start(&["hold"])?;
    ensure!(holder.hear()? == "holds");
    kill_process(holder.pid(), Signal::KILL)?;
    let mut shell = world.session.vshmem();
    shell.args(["run", "--trap", "--", "sh", "-c", &script]);
    let got = run(&mut shell, LIMIT)?;
    ensure!(got.stdout == "acquired, 0 wait\n", "{} {}", got.stdout, got.stderr);
    ensure!(got.stderr.is_empty(), "{}", got.stderr);
    Ok(())
}

#[test]
fn a_program_that_must_not_be_trapped_is_refused() -> Result<()> {
    let world = World::new()?;
    let mut command = world.session.vshmem();
    let got = run(command.args(["run", "--no-trap", "--"]).arg(&world.program), LIMIT)?;
    ensure!(got.end == "exit 1" && got.stderr.contains("linked statically"), "{}", got.stderr);
    Ok(())
}

#[test]
fn keys_that_a_rule_calls_local_are_the_kernels() -> Result<()> {
    let world = World::new()?;
    let mut command = world.session.vshmem();
    command.args(["run", "--share", "sem:0x7ab5=local", "--share", "*", "--trap", "--"]);
    let mut child = command
        .arg(&world.program)
        .arg("hold")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    let listed = run(Command::new("ipcs").arg("-s"), LIMIT)?.stdout;
    let _ = run(Command::new("ipcrm").args(["-S", "0x7ab5"]), LIMIT);
    let _ = child.kill();
    child.wait()?;
    ensure!(line == "holds\n", "{line}");
    ensure!(listed.contains("0x00007ab5"), "{listed}");
    Ok(())
}
