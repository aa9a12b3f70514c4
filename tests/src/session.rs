//! A vshmem of one's own: a run-time directory that nobody else uses.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::build::{Artifacts, artifacts};

/// Marks every process of a session, so that its end can find them.
const MARK: &str = "VSHMEM_TEST_SESSION";

/// The shipped binaries together with a fresh run-time directory. Everything
/// started in it, an endpoint left running included, ends with it, even if the
/// test itself is killed.
#[derive(Debug)]
pub struct Session {
    artifacts: Artifacts,
    runtime: TempDir,
    /// Last: it steps in where the end of the above does not come.
    _guard: Guard,
}

/// Ends a session whose test could not: its input ends with the test, without
/// the line that says that all is done. (A parent-death signal would do it as
/// soon as the *thread* that started a daemon ends.)
#[derive(Debug)]
struct Guard(Child);

/// Twice, for what was being forked.
const GUARD: &str = r#"trap '' INT TERM HUP; read -r _ && exit
for _ in 1 2; do
    for e in $(grep -lzxF "$1" /proc/[0-9]*/environ 2>/dev/null); do
        p=${e#/proc/}; kill -9 "${p%/environ}"
    done
done
rm -rf "$2""#;

impl Guard {
    fn new(runtime: &Path) -> Result<Self> {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard"]).arg(mark(runtime)).arg(runtime);
        guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        guard.spawn().context("cannot start sh").map(Self)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        use std::io::Write;
        let told = self.0.stdin.take().is_some_and(|mut input| input.write_all(b"\n").is_ok());
        if !told {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// The variable that every process of the session with this directory has.
fn mark(runtime: &Path) -> String {
    format!("{MARK}={}", runtime.display())
}

/// The processes of the session with this run-time directory that are alive.
pub fn processes(runtime: &Path) -> Vec<Pid> {
    let mark = mark(runtime);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let Ok(environ) = std::fs::read(entry.path().join("environ")) else { continue };
        if environ.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

impl Session {
    /// Builds the binaries if need be and makes the directory.
    ///
    /// # Errors
    ///
    /// The build's, or the directory's.
    pub fn new() -> Result<Self> {
        let runtime = tempfile::Builder::new().prefix("vsh").tempdir()?;
        Ok(Self { artifacts: artifacts()?, _guard: Guard::new(runtime.path())?, runtime })
    }

    /// The same with copies of the binaries in the directory, which is open to every user, and
    /// seen by guests below its own name: for programs that do not run as the user who builds.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), or a binary cannot be copied.
    pub fn installed() -> Result<Self> {
        let mut session = Self::new()?;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(session.runtime(), open.clone())?;
        let to = session.runtime().join("bin");
        std::fs::create_dir(&to)?;
        std::fs::set_permissions(&to, open)?;
        let copy = |from: &Path| -> Result<PathBuf> {
            let at = to.join(from.file_name().context("a binary without a name")?);
            std::fs::copy(from, &at).with_context(|| format!("cannot copy {}", from.display()))?;
            Ok(at)
        };
        copy(&session.artifacts.vshmem.with_file_name("libvshmem.so"))?;
        session.artifacts = Artifacts {
            vshmem: copy(&session.artifacts.vshmem)?,
            vshmemd: copy(&session.artifacts.vshmemd)?,
        };
        Ok(session)
    }

    /// The binaries it uses.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Its run-time directory.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// Any program, inside this session.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("VSHMEM_RUNTIME_DIR", self.runtime().join("system"))
            .env(MARK, self.runtime())
            .env_remove("VSHMEM_SOCKET")
            .env_remove("VSHMEM_RULES")
            .env_remove("LD_PRELOAD");
        command
    }

    /// The `vshmem` command inside this session.
    pub fn vshmem(&self) -> Command {
        self.command(&self.artifacts.vshmem)
    }

    /// A program under `vshmem run`: in a region that a daemon serves, else with
    /// the user's own endpoint, which the first one starts.
    pub fn run(&self, region: Option<&str>, program: &Path) -> Command {
        let mut command = self.vshmem();
        command.arg("run");
        if let Some(region) = region {
            command.args(["--region", region]);
        }
        command.arg("--").arg(program);
        command
    }

    /// The processes of this session that are alive.
    pub fn processes(&self) -> Vec<Pid> {
        processes(self.runtime())
    }
}

/// A process in words: its pid and command line.
pub fn describe(pid: Pid) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

impl Drop for Session {
    fn drop(&mut self) {
        for pid in self.processes() {
            // It may have ended by itself in between.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
