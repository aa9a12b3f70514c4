//! A daemon and fake VMs for the tests: real processes, real sockets.
#![allow(dead_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{BufRead, BufReader, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Ends the whole test program if the test that holds it is not over in time.
pub struct Watchdog(#[allow(dead_code)] std::sync::mpsc::Sender<()>);

pub fn watchdog(seconds: u64) -> Watchdog {
    let (alive, over) = channel::<()>();
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    std::thread::spawn(move || {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        if over.recv_timeout(Duration::from_secs(seconds)) == Err(Timeout) {
            eprintln!("watchdog: {name} has not ended within {seconds} s");
            std::process::abort();
        }
    });
    Watchdog(alive)
}

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A count that is the same twenty times running.
pub fn settled<T: PartialEq + Copy>(count: impl Fn() -> T) -> T {
    let (mut last, mut times) = (count(), 0);
    eventually("a steady count", || {
        let now = count();
        times = if now == last { times + 1 } else { 0 };
        last = now;
        times >= 20
    });
    last
}

/// Waits for `fd`; false when nothing came within `limit`.
pub fn readable(fd: impl AsFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    let fd = fd.as_fd();
    let mut ask = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut ask, Some(&limit)).unwrap() > 0
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_vshmemd")
}

/// A directory, a configuration, and at most one daemon that serves it.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub daemon: Option<Daemon>,
}

pub struct Daemon {
    pub child: Child,
    log: Receiver<String>,
}

impl Host {
    /// One raw region `r` of 16 MiB, with `extra` in its table.
    pub fn start(extra: &str) -> Self {
        let region =
            format!("[[region]]\nname = \"r\"\nsize = \"16M\"\ncontents = \"raw\"\n{extra}\n");
        Self::with_config(&region)
    }

    pub fn with_config(config: &str) -> Self {
        let mut host = Self { dir: tempfile::tempdir().unwrap(), daemon: None };
        host.configure(config);
        host.daemon = Some(host.spawn());
        host
    }

    pub fn configure(&self, config: &str) {
        std::fs::write(self.path("config.toml"), config).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub fn door(&self) -> PathBuf {
        self.run_dir().join("r.ivshmem")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .arg("--config")
            .arg(self.path("config.toml"))
            .arg("--runtime-dir")
            .arg(self.run_dir())
            .args(["--log", "debug"])
            .env_remove("RUST_LOG")
            .env_remove("INVOCATION_ID")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts a daemon and waits until it says that it is ready.
    pub fn spawn(&self) -> Daemon {
        let name = self.path("notify");
        let _ = std::fs::remove_file(&name);
        let notify = UnixDatagram::bind(&name).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut command = self.command();
        let mut child = command.env("NOTIFY_SOCKET", &name).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("| {line}");
                let _ = lines.send(line);
            }
        });
        let mut buf = [0; 64];
        let begin = Instant::now();
        loop {
            match notify.recv(&mut buf) {
                Ok(n) => break assert_eq!(&buf[..n], b"READY=1"),
                Err(_) => {
                    assert!(begin.elapsed() < LIMIT, "vshmemd is not ready");
                    let ended = child.try_wait().unwrap();
                    assert!(ended.is_none(), "vshmemd ended: {ended:?}");
                }
            }
        }
        Daemon { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().child.id()
    }

    /// As a crash, or the kernel short of memory, would.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
    }

    pub fn restart_after_kill(&mut self) {
        self.kill();
        self.daemon = Some(self.spawn());
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.daemon.take().unwrap().child.wait().unwrap()
    }

    /// Waits until the daemon logs a line that contains every part.
    pub fn wait_log(&self, parts: &[&str]) -> String {
        let daemon = self.daemon.as_ref().unwrap();
        let begin = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(begin.elapsed());
            let line = daemon.log.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no log line with {parts:?}"));
            if parts.iter().all(|p| line.contains(p)) {
                return line;
            }
        }
    }

    /// The holder's pid.
    pub fn holder(&self) -> u32 {
        let link = vshmem_host::holder::Link::connect(&self.run_dir());
        link.unwrap().expect("there is a holder").pid()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new(program())
            .arg("--shutdown")
            .arg("--runtime-dir")
            .arg(self.run_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
        }
    }
}

/// Whether process `pid` runs (a zombie does not).
pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

/// Open descriptors of process `pid`.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// One message as a VM sees it.
#[derive(Debug)]
pub struct Got {
    pub value: i64,
    pub fd: Option<OwnedFd>,
}

/// A VM without a VM: it speaks the protocol as QEMU does.
#[derive(Debug)]
pub struct FakeVm {
    pub socket: UnixStream,
    pub id: i64,
    pub memory: Option<OwnedFd>,
    /// (peer, its eventfds), the host first, this VM last.
    pub peers: Vec<(i64, Vec<OwnedFd>)>,
}

impl FakeVm {
    pub fn connect(door: &Path) -> UnixStream {
        let socket = UnixStream::connect(door).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    /// Connects and reads the whole handshake.
    pub fn join(door: &Path, vectors: usize) -> Self {
        Self::read_handshake(Self::connect(door), vectors)
    }

    pub fn read_handshake(socket: UnixStream, vectors: usize) -> Self {
        let version = receive(&socket).unwrap();
        assert_eq!((version.value, version.fd.is_some()), (0, false), "version");
        let id = receive(&socket).unwrap();
        assert!(id.fd.is_none(), "the id has no descriptor");
        let id = id.value;
        let memory = receive(&socket).unwrap();
        assert_eq!((memory.value, memory.fd.is_some()), (-1, true), "memory");
        let mut vm = Self { socket, id, memory: memory.fd, peers: Vec::new() };
        loop {
            let (peer, events) = receive_peer(&vm.socket, vectors);
            vm.peers.push((peer, events));
            if peer == id {
                return vm;
            }
        }
    }

    pub fn events_of(&self, peer: i64) -> &[OwnedFd] {
        &self.peers.iter().find(|(id, _)| *id == peer).expect("peer is known").1
    }

    pub fn peer_ids(&self) -> Vec<i64> {
        self.peers.iter().map(|(id, _)| *id).collect()
    }

    /// Reads the notices of a new peer.
    pub fn expect_connect(&mut self, vectors: usize) -> i64 {
        let (peer, events) = receive_peer(&self.socket, vectors);
        self.peers.push((peer, events));
        peer
    }

    pub fn expect_disconnect(&mut self) -> i64 {
        let got = receive(&self.socket).unwrap();
        assert!(got.fd.is_none(), "a disconnect notice, not {got:?}");
        self.peers.retain(|(id, _)| *id != got.value);
        got.value
    }

    /// That nothing waits to be read, and the connection stands.
    pub fn expect_silence(&self) {
        assert!(!readable(&self.socket, Duration::ZERO), "something came unasked");
    }
}

fn receive_peer(socket: &UnixStream, vectors: usize) -> (i64, Vec<OwnedFd>) {
    let mut events = Vec::new();
    let mut peer = None;
    for _ in 0..vectors {
        let got = receive(socket).unwrap();
        assert_eq!(got.value, *peer.get_or_insert(got.value), "vectors of one peer together");
        events.push(got.fd.expect("a vector has a descriptor"));
    }
    (peer.unwrap(), events)
}

/// One message; `None` at the end of the connection.
pub fn receive(socket: &UnixStream) -> Option<Got> {
    let mut bytes = [0_u8; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = match recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Err(Errno::CONNRESET) => return None,
        other => other.expect("a message in time").bytes,
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(new) = message {
            fds.extend(new);
        }
    }
    if got == 0 {
        return None;
    }
    assert_eq!(got, 8, "a whole message");
    assert!(fds.len() <= 1, "at most one descriptor");
    Some(Got { value: i64::from_le_bytes(bytes), fd: fds.pop() })
}

/// That the client is told by a refusal, and only then closed.
pub fn expect_refusal(socket: &UnixStream) {
    let got = receive(socket).expect("a refusal, not a bare close");
    assert_eq!((got.value, got.fd.is_some()), (-2, false));
    assert!(receive(socket).is_none(), "nothing after a refusal");
}

pub fn ring(event: &OwnedFd) {
    rustix::io::write(event, &1_u64.to_ne_bytes()).unwrap();
}

/// Takes the rings an eventfd has counted.
pub fn take_rings(event: &OwnedFd) -> u64 {
    assert!(readable(event, LIMIT), "no ring");
    let mut count = [0_u8; 8];
    rustix::io::read(event, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

/// Output and exit code of a command that must end by itself.
pub fn output(command: &mut Command) -> (i32, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code().unwrap_or(-1), out, err)
}
