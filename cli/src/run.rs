//! `vshmem run`: sets up a program's environment and becomes it.

use crate::args::Run;
use crate::client;
use crate::places::{self, Socket};
use crate::preload::{self, Reach};
use crate::sharing::Sharing;
use anyhow::{Context, anyhow, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use vshmem_trap::Waiting;

/// Returns only when the program cannot be run.
pub fn run(runtime_dir: &Path, args: &Run) -> anyhow::Error {
    match prepare(runtime_dir, args) {
        Ok((mut command, supervisor)) => {
            // Last of all: from here on this process is the program.
            match supervisor.map(Waiting::trap) {
                // An enclosing one makes these calls, in the same region.
                Some(Err(vshmem_trap::Error::Twice)) if enclosed(&command) => {}
                Some(Err(e)) => return e.into(),
                Some(Ok(())) | None => {}
            }
            let error = command.exec();
            let name = command.get_program().to_string_lossy().into_owned();
            anyhow::Error::new(error).context(format!("cannot run {name}"))
        }
        Err(e) => e,
    }
}

/// The region in which the supervisor of an enclosing `vshmem run` makes calls.
const TRAPPED: &str = "VSHMEM_TRAPPED";

/// Whether that is the region of this program.
fn enclosed(command: &Command) -> bool {
    let own = command.get_envs().find(|(name, _)| *name == TRAPPED).and_then(|(_, value)| value);
    own.is_some() && own == env::var_os(TRAPPED).as_deref()
}

fn prepare(runtime_dir: &Path, args: &Run) -> anyhow::Result<(Command, Option<Waiting>)> {
    let (program, rest) = args.program.split_first().context("no program given")?;
    let file = places::in_path(program)
        .ok_or_else(|| anyhow!("cannot run {}: it is not in PATH", program.to_string_lossy()))?;
    let reach = preload::check(&file, !args.no_trap)?;
    let library = places::library()?;
    let mut command = Command::new(program);
    command.args(rest);
    if reach != Reach::TrapAlone {
        command.env("LD_PRELOAD", preloads(&library));
    }
    let sharing = Sharing::read(args)?;
    let default = share(runtime_dir, args, &sharing, &mut command)?;
    if !args.trap && reach == Reach::Preload {
        // Not dropped: that would end the task.
        std::mem::forget(default);
        return Ok((command, None));
    }
    // The supervisor will find it to be a task when it calls.
    drop(default);
    let socket = sharing.only_region(runtime_dir, args.region.as_deref())?;
    command.env(TRAPPED, &socket);
    Ok((command, Some(vshmem_trap::start(&socket, sharing.rules().clone())?)))
}

/// The library first, then what was preloaded already.
fn preloads(library: &Path) -> OsString {
    let mut list = library.as_os_str().to_owned();
    let before = env::var_os("LD_PRELOAD").unwrap_or_default();
    let parts = before.as_encoded_bytes().split(|b| matches!(b, b':' | b' '));
    if parts.clone().any(|p| p == library.as_os_str().as_encoded_bytes()) {
        return before;
    }
    if parts.into_iter().any(|p| !p.is_empty()) {
        list.push(":");
        list.push(before);
    }
    list
}

/// Has the program's keys lead where they are to lead, and checks that they can; this process is a
/// task of the default region, if that is used, as long as what it returns lives.
fn share(
    runtime_dir: &Path,
    args: &Run,
    sharing: &Sharing,
    command: &mut Command,
) -> anyhow::Result<Option<vshmem::Session>> {
    let region = args.region.as_deref();
    let default = if sharing.uses_default() {
        let socket = places::socket(runtime_dir, region)?;
        command.env("VSHMEM_SOCKET", std::path::absolute(socket.path())?);
        Some(join(&socket, region)?)
    } else {
        if let Some(region) = region {
            bail!(
                "no rule leads to the default region, which --region says is {region}: add a --share \
                 with the keys that go there, or leave --region out"
            );
        }
        command.env_remove("VSHMEM_SOCKET");
        None
    };
    sharing.check(runtime_dir, default.as_ref())?;
    match sharing.variable() {
        Some(rules) => {
            // Regions of rules are found by name.
            let dir = std::path::absolute(runtime_dir)?;
            command.env("VSHMEM_RULES", rules).env("VSHMEM_RUNTIME_DIR", dir);
        }
        None => drop(command.env_remove("VSHMEM_RULES")),
    }
    Ok(default)
}

/// Becomes a task already now: the program, which this process will be, stays that task however
/// late its first call comes, and what is wrong with endpoint or region is told here, not by the
/// errno of some call in the middle of the program.
fn join(socket: &Socket, region: Option<&str>) -> anyhow::Result<vshmem::Session> {
    match socket {
        Socket::Region(path) => {
            let _reached = client::reach(path).map_err(|e| unreachable(path, region, e))?;
            Ok(vshmem::Session::attach_to(path)?)
        }
        Socket::Own(path) => join_own(path),
    }
}

/// Becomes a task of the user's own endpoint, which is started if it does not run.
pub fn join_own(path: &Path) -> anyhow::Result<vshmem::Session> {
    for _ in 0..STARTS {
        let _reached = own_endpoint(path)?;
        match vshmem::Session::attach_to(path) {
            // It left just when it was wanted, or was killed.
            Err(vshmem::Error::NoEndpoint { .. }) if !is_served(path) => {}
            other => return Ok(other?),
        }
    }
    bail!("the endpoint at {} leaves as soon as it is started: see its log there", path.display())
}

/// How often the user's own endpoint is started before that is no use.
const STARTS: usize = 3;

/// Whether an endpoint of the user's own runs: its lock says so. When it was killed, its holder
/// keeps the socket for the next one, and would let us wait.
fn is_served(path: &Path) -> bool {
    let Ok(lock) = File::open(path.with_file_name("vshmemd.lock")) else { return false };
    matches!(flock(&lock, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK))
}

/// Why nobody answers at `path`, and what to do about it.
pub fn unreachable(path: &Path, region: Option<&str>, errno: Errno) -> anyhow::Error {
    let cause = match errno {
        Errno::NOENT => "there is no such socket".to_owned(),
        Errno::CONNREFUSED => "nobody listens there any more".to_owned(),
        e => e.to_string(),
    };
    let what = match region {
        Some(region) => format!("region {region}"),
        None => "the region of VSHMEM_SOCKET".to_owned(),
    };
    let remedy = match errno {
        Errno::ACCESS | Errno::PERM => "ask for access to the socket",
        _ if region.is_none() => "unset VSHMEM_SOCKET, or start its endpoint",
        _ => "start vshmemd with that region (on the host) or `vshmem agent` (in a guest)",
    };
    anyhow!("{what} has no endpoint at {}: {cause}; {remedy}", path.display())
}

/// A connection to the user's own endpoint, which is started if nobody is there. It may leave just
/// when it is wanted: then the next round starts another.
fn own_endpoint(path: &Path) -> anyhow::Result<OwnedFd> {
    let dir = path.parent().context("the socket has no directory")?;
    places::make_private(dir)?;
    for _ in 0..STARTS {
        match client::reach(path) {
            Ok(connection) if is_served(path) => return Ok(connection),
            Ok(_) | Err(Errno::NOENT | Errno::CONNREFUSED) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot use {}", path.display())),
        }
        // A child of its own starts it: the program that this process becomes must not have a
        // daemon among its children.
        let me = env::current_exe().context("cannot find this program")?;
        let status = Command::new(me)
            .arg("start-endpoint")
            .arg("--socket")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("cannot start the endpoint")?;
        if !status.success() {
            bail!("there is no endpoint at {}, and none could be started", path.display());
        }
    }
    bail!("the endpoint at {} leaves as soon as it is started: see its log there", path.display())
}

/// How long a new endpoint may take.
const START_LIMIT: Duration = Duration::from_secs(20);

/// `vshmem start-endpoint`: starts `vshmemd --embedded` unless somebody else just did.
pub fn start_endpoint(path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().context("the socket has no directory")?;
    places::make_private(dir)?;
    let lock_path = dir.join("start.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.with_context(|| format!("cannot open {}", lock_path.display()))?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock")?;
    if client::reach(path).is_ok() && is_served(path) {
        return Ok(());
    }
    let log_path = dir.join("vshmemd.log");
    let log = OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.with_context(|| format!("cannot open {}", log_path.display()))?;
    let began = log.metadata()?.len();
    // Inherited by the daemon, which writes to it when it serves; without it, it has failed.
    for _ in 0..STARTS {
        let (ready, tell) = rustix::pipe::pipe().context("cannot make a pipe")?;
        rustix::io::fcntl_setfd(&ready, rustix::io::FdFlags::CLOEXEC)?;
        let daemon = places::daemon()?;
        let mut command = Command::new(&daemon);
        command.arg("--embedded").arg("--socket").arg(path);
        command.arg("--ready-fd").arg(tell.as_raw_fd().to_string());
        // It serves many programs: it must not keep this one's directory, terminal or preloads.
        command.current_dir("/").env_remove("LD_PRELOAD");
        command.env_remove("VSHMEM_SOCKET").env_remove("VSHMEM_RULES");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let mut child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", daemon.display()))?;
        drop(tell);
        if wait_ready(&ready)? {
            return Ok(());
        }
        // Killed by somebody, it is no worse than one that is killed a moment later.
        if child.try_wait()?.is_some_and(|end| end.signal() == Some(libc::SIGKILL)) {
            continue;
        }
        bail!(
            "{} (pid {}) did not get ready: {}\n(all of its log: {})",
            daemon.display(),
            child.id(),
            tail(&log_path, began),
            log_path.display()
        )
    }
    bail!("whoever starts the endpoint at {}, it is killed at once", path.display())
}

fn wait_ready(ready: &OwnedFd) -> anyhow::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let limit = Timespec::try_from(START_LIMIT)?;
    let mut fds = [PollFd::from_borrowed_fd(ready.as_fd(), PollFlags::IN)];
    if poll(&mut fds, Some(&limit))? == 0 {
        return Ok(false);
    }
    let mut bytes = [0; 16];
    Ok(rustix::io::read(ready, &mut bytes)? > 0)
}

/// The last lines written to `log` since it had `from` bytes.
fn tail(log: &Path, from: u64) -> String {
    use std::io::{Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(64 << 10).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join("\n")
}
