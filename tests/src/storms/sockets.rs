//! Abusive clients at the daemon's sockets, beside programs that only want to be served.
//!
//! What the clients do stands in `programs/storm/abuser.c`: malformed, mutated, slow, silent and
//! deaf conversations, floods of descriptors, identities that are not theirs, descriptors whose
//! close would take minutes. The others are a program that forks all the time, each child of which
//! the daemon must register, and a process that attaches anew all the time.

use std::io::{BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, send, socket_with,
};
use rustix::process::Pid;

use super::{Plan, Report};
use crate::build;
use crate::guests::{Host, wait_for};
use crate::run::run;
use crate::session::describe;

/// Where the daemon's region is.
const REGION: &str = "gates";
/// Abusive processes at one time; the last is at the door of VMs.
const ABUSERS: u64 = 4;
/// The user they are, where the daemon is root's: nobody.
const NOBODY: u32 = 65534;
/// How long the others run alone first.
const QUIET: Duration = Duration::from_secs(2);
/// After this the storm hangs.
const LIMIT: Duration = Duration::from_secs(3600);
/// How long the daemon may take to let go of the last abuser.
const SETTLE: Duration = Duration::from_secs(15);
/// An answer on a busy machine: what abusers would make others wait for is minutes, or for ever.
const BOUND: Duration = Duration::from_secs(5);
/// What the daemon's memory may grow by, in KiB.
const GROWTH: u64 = 8 << 10;
/// What the daemon's log may grow by, in bytes: at the start; for each round, since each connection
/// at the door is told; in each second, since of all others so much is told.
const LOG: [u64; 3] = [20_000, 1200, 2500];

/// `run` of the storm.
///
/// # Errors
///
/// What kept it from running.
pub fn storm(plan: &Plan) -> Result<Report> {
    let host = Host::open_to_all(REGION, "64M")?;
    let source = |name| build::programs().join(format!("storm/{name}.c"));
    let abuser = build::compile_static(&source("abuser"), host.folder())?;
    build::compile(&source("caller"), host.folder())?;
    let place = host.session().runtime().join("system");
    let (socket, door) =
        (place.join(format!("{REGION}.sock")), place.join(format!("{REGION}.ivshmem")));

    let mut report = Report::default();
    let caller = Caller::start(&host)?;
    let mut attached = Times::default();
    let alone = Instant::now();
    while alone.elapsed() < QUIET {
        attached.add(attach(&socket)?);
    }
    let called = caller.take();
    let before = Held::least(&host)?;

    report.row("undisturbed fork and semop", called.shown());
    report.row("undisturbed attach", attached.shown());
    let mut attached = Times::default();
    let mut abusers = Vec::new();
    for n in 0..ABUSERS {
        let at_door = n == ABUSERS - 1;
        abusers.push(abuse(&abuser, &socket, &door, at_door, plan, n)?);
    }
    let begun = Instant::now();
    while !abusers.iter_mut().all(|a| a.0.try_wait().is_ok_and(|s| s.is_some())) {
        ensure!(begun.elapsed() < LIMIT, "the abusers do not end");
        attached.add(attach(&socket)?);
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = begun.elapsed();
    for abuser in &mut abusers {
        let status = wait_for(&mut abuser.0, SETTLE)?.context("an abuser that does not end")?;
        ensure!(status.success(), "an abuser ended with {status}");
    }
    drop(abusers);
    let stormed = caller.take();
    let after = Held::settle(&host, &before)?;

    report.row("conversations", plan.rounds * ABUSERS);
    report.row("seconds", format!("{:.1}", took.as_secs_f64()));
    report.row("fork and semop meanwhile", stormed.shown());
    report.row("attach meanwhile", attached.shown());
    report.row("held by the daemon before", &before);
    report.row("held by the daemon after", &after);
    for (what, times) in [("fork and semop", &stormed), ("attach", &attached)] {
        let worst = times.worst();
        report.promise(worst < BOUND, || format!("{what} took {worst:?} beside the abusers"));
    }
    before.compare(&after, &mut report);
    let grown = after.log.saturating_sub(before.log);
    let most = LOG[0] + LOG[1] * plan.rounds + LOG[2] * took.as_secs();
    report.promise(grown < most, || format!("the log grew by {grown} bytes, not {most}"));
    let ended = caller.end()?;
    report.promise(ended == "exit 0", || format!("the caller ended with {ended}"));
    host.stop()?;
    Ok(report)
}

/// An abusive process; killed when dropped.
struct Abuser(Child);

impl Drop for Abuser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn abuse(
    program: &Path,
    socket: &Path,
    door: &Path,
    at_door: bool,
    plan: &Plan,
    n: u64,
) -> Result<Abuser> {
    let mut command = Command::new(program);
    let none = PathBuf::from("-");
    let (socket, door) = if at_door { (&*none, door) } else { (socket, &*none) };
    command.arg(socket).arg(door);
    let seed = plan.seed.wrapping_mul(ABUSERS).wrapping_add(n);
    command.args([seed.to_string(), plan.rounds.to_string()]);
    if rustix::process::geteuid().is_root() && !at_door {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    Ok(Abuser(command.spawn().context("the abuser")?))
}

/// One attach of this process; an endpoint makes the oldest of a crowd wait for another try.
fn attach(socket: &Path) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let connection =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let limit = Some(Duration::from_secs(60));
        set_socket_timeout(&connection, Timeout::Recv, limit)?;
        set_socket_timeout(&connection, Timeout::Send, limit)?;
        connect(&connection, &SocketAddrUnix::new(socket)?)?;
        let mut request = [0; 32];
        request[..4].copy_from_slice(b"vshm");
        request[4] = 1;
        request[8] = 1;
        send(&connection, &request, SendFlags::NOSIGNAL).context("asking to attach")?;
        let (status, fds) = reply(&connection)?;
        if status == 0 {
            ensure!(fds == 2, "an attach brought {fds} descriptors");
            return Ok(begun.elapsed());
        }
        let busy = rustix::io::Errno::BUSY.raw_os_error().unsigned_abs();
        ensure!(status == busy, "an attach was refused with {status}");
    }
}

/// Status and number of descriptors of a reply.
fn reply(connection: &OwnedFd) -> Result<(u32, usize)> {
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut part = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg(connection, &mut part, &mut control, RecvFlags::CMSG_CLOEXEC)
        .context("waiting for the endpoint")?;
    ensure!(got.bytes == 256, "a reply of {} bytes", got.bytes);
    let mut fds = 0;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds += rights.count();
        }
    }
    Ok((u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]), fds))
}

/// The program that forks.
struct Caller {
    child: Child,
    times: Receiver<Duration>,
}

impl Caller {
    fn start(host: &Host) -> Result<Self> {
        let mut command = host.run("caller");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("piped")?);
        let (sender, times) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(|l| l.ok()) {
                let Ok(nanos) = line.parse() else { continue };
                // Nobody listens after a failure.
                let _ = sender.send(Duration::from_nanos(nanos));
            }
        });
        Ok(Self { child, times })
    }

    /// What it took since this was asked last.
    fn take(&self) -> Times {
        Times(self.times.try_iter().collect())
    }

    fn end(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let status = wait_for(&mut self.child, SETTLE)?.context("the caller does not end")?;
        Ok(crate::run::describe(status))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long something took, many times.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    fn worst(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    fn shown(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = |percent: usize| {
            let i = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(i).map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        format!(
            "{} times: p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms",
            sorted.len(),
            at(50),
            at(99),
            at(100)
        )
    }
}

/// What the daemon and its holder hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    descriptors: [usize; 2],
    threads: [u64; 2],
    memory: [u64; 2],
    tasks: usize,
    log: u64,
}

impl Held {
    fn now(host: &Host) -> Result<Self> {
        let mut held = Self::default();
        for pid in host.session().processes() {
            let line = describe(pid);
            let i = usize::from(line.contains("--holder"));
            if i == 0 && !line.contains("vshmemd --config") {
                continue;
            }
            held.descriptors[i] = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            held.threads[i] = status(pid, "Threads")?;
            held.memory[i] = status(pid, "VmRSS")?;
        }
        let mut command = host.session().vshmem();
        let listed = run(command.args(["task", "list", "--json", "--region", REGION]), SETTLE)?;
        ensure!(listed.good(), "task list: {}", listed.stderr);
        held.tasks = serde_json::from_str::<Vec<serde_json::Value>>(&listed.stdout)?.len();
        held.log = std::fs::metadata(host.folder().join("vshmemd.log"))?.len();
        Ok(held)
    }

    /// The least that is held in a while: the caller's children come and go.
    fn least(host: &Host) -> Result<Self> {
        let mut least = Self::now(host)?;
        for _ in 0..20 {
            let now = Self::now(host)?;
            if (now.descriptors[0], now.tasks) < (least.descriptors[0], least.tasks) {
                least = now;
            }
        }
        Ok(least)
    }

    /// As soon as no more is held than before, or what is left then.
    fn settle(host: &Host, before: &Self) -> Result<Self> {
        let until = Instant::now() + SETTLE;
        loop {
            let now = Self::now(host)?;
            let same = (now.descriptors, now.threads, now.tasks)
                == (before.descriptors, before.threads, before.tasks);
            if same || Instant::now() > until {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn compare(&self, after: &Self, report: &mut Report) {
        for (i, who) in ["daemon", "holder"].into_iter().enumerate() {
            let (old, new) = (self.descriptors[i], after.descriptors[i]);
            report.promise(old == new, || format!("{who}: {old} descriptors became {new}"));
            let (old, new) = (self.threads[i], after.threads[i]);
            report.promise(old == new, || format!("{who}: {old} threads became {new}"));
            let (old, new) = (self.memory[i], after.memory[i]);
            report.promise(new < old + GROWTH, || format!("{who}: {old} KiB became {new}"));
        }
        let (old, new) = (self.tasks, after.tasks);
        report.promise(old == new, || format!("{old} tasks became {new}"));
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { descriptors: d, threads: t, memory: m, tasks, log } = self;
        write!(
            f,
            "{} + {} descriptors, {} + {} threads, {} + {} KiB, {tasks} tasks, {log} bytes of log",
            d[0], d[1], t[0], t[1], m[0], m[1]
        )
    }
}

/// A number of `/proc/PID/status`.
fn status(pid: Pid, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|l| l.split_ascii_whitespace().next()).context("no such line")?;
    Ok(number.parse()?)
}
