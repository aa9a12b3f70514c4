//! The two worlds, and the player in each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Program;
use crate::guests::Daemon;
use crate::session::Session;

/// Longer than the player itself waits for a step.
const WATCHDOG: Duration = Duration::from_secs(40);
/// Several users take part, so the region is a daemon's.
const REGION: &str = "oracle";

/// A player that runs.
struct World {
    child: Child,
    to: ChildStdin,
    lines: Receiver<String>,
    name: &'static str,
}

impl World {
    fn start(name: &'static str, command: &mut Command, cpu: usize) -> Result<Self> {
        let mut child = command
            .env("PLAYER_CPU", cpu.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let to = child.stdin.take().context("a player without input")?;
        let from = child.stdout.take().context("a player without output")?;
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(std::result::Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, to, lines, name })
    }

    fn give(&mut self, program: &Program) {
        // One that has ended says so by its silence.
        let _ = self.to.write_all(program.to_string().as_bytes());
    }

    /// The transcript of a program that was given.
    fn take(&mut self, program: &Program) -> Result<String> {
        let until = Instant::now() + WATCHDOG;
        let end = format!("end {}", program.name);
        let mut text = String::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let state = match self.child.try_wait() {
                    Ok(Some(status)) => format!("ended with {status}"),
                    _ => "is silent".to_owned(),
                };
                // What it told before is the program's transcript, and a difference.
                text += &format!("the player of {} {state}\n", self.name);
                return Ok(text);
            };
            if line == end {
                return Ok(text);
            }
            if line.starts_with("HANG") {
                // The line says who; the rest is lost.
                return Ok(text + &line + "\n");
            }
            text += &line;
            text.push('\n');
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Gone already when it has ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What a program did in the one world and in the other.
#[derive(Debug, Clone)]
pub struct Transcripts {
    /// On the kernel.
    pub kernel: String,
    /// On vshmem.
    pub ours: String,
}

/// Both worlds, without objects at the start.
pub struct Pair {
    // Dropped in this order.
    kernel: World,
    ours: World,
    _daemon: Daemon,
    _session: Session,
    _folder: tempfile::TempDir,
}

/// The processor of each world: two, where there are two.
fn processors() -> [usize; 2] {
    let set = rustix::thread::sched_getaffinity(None);
    let allowed: Vec<usize> = match set {
        Ok(set) => (0..1024).filter(|i| set.is_set(*i)).collect(),
        Err(_) => vec![0],
    };
    [*allowed.first().unwrap_or(&0), *allowed.last().unwrap_or(&0)]
}

/// How the worlds are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honesty {
    /// Both tell what they see.
    Honest,
    /// One of them lies about values above 1: to show that it would be found.
    OursLies,
}

impl Pair {
    /// Starts both.
    ///
    /// # Errors
    ///
    /// No root, no `unshare`, or the daemon does not come up.
    pub fn start(player: &Path, honesty: Honesty) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the oracle needs root: its programs act as several users");
        }
        let (session, folder) = (Session::new()?, tempfile::tempdir()?);
        let daemon = Daemon::start(&session, folder.path(), REGION, "256M")?;
        let [one, other] = processors();
        let mut command = Command::new("unshare");
        command.arg("-i").arg(player).env_remove("PLAYER_LIES");
        let kernel = World::start("the kernel", &mut command, one)?;
        let mut command = session.command("unshare");
        command.arg("-i").arg(&session.artifacts().vshmem);
        command.args(["run", "--region", REGION, "--"]).arg(player);
        // A spin ends in the same result; asleep is what the player can see.
        command.env("VSHMEM_SPIN", "0");
        if honesty == Honesty::OursLies {
            command.env("PLAYER_LIES", "1");
        }
        let ours = World::start("vshmem", &mut command, other)?;
        Ok(Self { kernel, ours, _daemon: daemon, _session: session, _folder: folder })
    }

    /// Plays programs, in both worlds at once, and shows each pair of transcripts
    /// to `look` until it says no more.
    ///
    /// # Errors
    ///
    /// A player is gone before it was given all, or `look`'s.
    pub fn play<'a>(
        &mut self,
        programs: &'a [Program],
        mut look: impl FnMut(&'a Program, Transcripts) -> Result<bool>,
    ) -> Result<()> {
        // Some ahead, so that nobody waits for the driver; few enough for the pipes.
        const AHEAD: usize = 8;
        let mut given = 0;
        for (n, program) in programs.iter().enumerate() {
            while given < programs.len() && given < n + AHEAD {
                self.kernel.give(&programs[given]);
                self.ours.give(&programs[given]);
                given += 1;
            }
            let kernel = self.kernel.take(program)?;
            let ours = self.ours.take(program)?;
            if !look(program, Transcripts { kernel, ours })? {
                return Ok(());
            }
        }
        Ok(())
    }
}
