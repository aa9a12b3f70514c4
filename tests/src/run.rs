//! Running a program to its end, whatever happens.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How it ended, in words that compare: `exit 0`, `signal 9 (SIGKILL)`,
    /// `timeout`.
    pub end: String,
}

impl Outcome {
    /// Whether it left with 0 in time.
    pub fn good(&self) -> bool {
        self.end == "exit 0"
    }
}

/// How a process ended, in words that compare.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        // Whether there is a core is the machine's affair.
        (None, Some(_)) => {
            status.to_string().trim_end_matches(" (core dumped)").replacen("signal: ", "signal ", 1)
        }
        (None, None) => "unknown".into(),
    }
}

fn text(mut file: File) -> Result<String> {
    use std::io::Seek;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs `command` in a process group of its own, and kills the group after
/// `limit`. Output goes through files: a daemon that the command leaves behind
/// would keep a pipe open for ever.
///
/// # Errors
///
/// The command cannot be started, or its output not be read.
pub fn run(command: &mut Command, limit: Duration) -> Result<Outcome> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let group = Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    let waiter = std::thread::spawn(move || ended.send(child.wait()));
    let end = match end.recv_timeout(limit) {
        Ok(status) => describe(status?),
        Err(_) => {
            // Its own end cannot be in doubt: nobody handles SIGKILL.
            let _ = kill_process_group(group, Signal::KILL);
            "timeout".into()
        }
    };
    let _ = waiter.join();
    Ok(Outcome { stdout: text(out)?, stderr: text(err)?, end })
}
