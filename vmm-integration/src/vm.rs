use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use vshmem_images::{Cache, Initramfs, Kernel};

use crate::io::VmIo;
use crate::net::Seat;
use crate::process::Process;
use crate::wire::{self, FromGuest};
use crate::{
    Accel, Boot, Error, NetLink, Ports, Qemu, Result, Root, VmSpec, choose_accel, qemu_args,
    tsc_khz,
};

/// How long a guest's start took, from the start of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Until the guest's first process had its control port.
    pub booted: Duration,
    /// Until the command was started.
    pub started: Duration,
}

/// A running guest. Dropping it kills it.
pub struct Vm {
    shared: Arc<Shared>,
    relays: Vec<JoinHandle<()>>,
    accel: Accel,
    limit: Duration,
    seat: Option<Seat>,
}

struct Shared {
    name: String,
    process: Mutex<Option<Process>>,
    state: Mutex<State>,
    changed: Condvar,
    control: Mutex<UnixStream>,
    /// The command's output, as the relays read it.
    outputs: [UnixStream; 2],
    console: Mutex<Ring>,
    log: Mutex<Ring>,
    begun: Instant,
}

#[derive(Default)]
struct State {
    framed: bool,
    booted: Option<Duration>,
    started: Option<Duration>,
    exit: Option<(i32, u64, u64)>,
    failed: Option<String>,
    got: [u64; 2],
    /// Where the counts of the present boot begin.
    before: [u64; 2],
    /// Input since the present boot began, and whether that was all.
    fed: u64,
    fed_all: bool,
    /// The last word to the guest was said then; it has to end soon.
    bye: Option<Instant>,
    killed: bool,
    notices: Vec<String>,
    ended: Option<ExitStatus>,
}

/// A guest that was told to end has that long.
const GRACE: Duration = Duration::from_secs(5);

impl Vm {
    /// Boots a guest and runs the description's command in it.
    ///
    /// It returns when QEMU runs; [`wait_ready`](Vm::wait_ready) returns when
    /// the command does, [`wait`](Vm::wait) when all is over.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] for what the guest is made of, [`Error::NoQemu`],
    /// [`Error::OldQemu`], [`Error::Region`] and [`Error::Net`] for what it is
    /// attached to, [`Error::Spec`] for a contradiction.
    ///
    /// # If the caller dies
    ///
    /// The kernel kills QEMU.
    pub fn spawn(spec: &VmSpec, io: VmIo) -> Result<Vm> {
        check(spec)?;
        let qemu = Qemu::find()?;
        if spec.net.is_some() && qemu.version < (crate::Version { major: 7, minor: 2 }) {
            let found = qemu.version.to_string();
            return Err(Error::OldQemu { found, what: "a network between guests", needed: "7.2" });
        }
        let cache = Cache::open()?;
        let (kernel, initrd) = image(&cache, spec)?;
        let accel = match spec.accel {
            Some(accel) => accel,
            None => choose_accel(&cache, &qemu, &kernel.vmlinux, &initrd)?,
        };
        let mut seat = spec.net.as_ref().map(Seat::take).transpose()?;
        let link = seat.as_ref().map(|s| s.link.clone());
        if let Some(link) = &link {
            tracing::info!(vm = spec.name, %link, "network");
        }

        // What QEMU inherits, under the same numbers.
        let mut pairs = Vec::new();
        let mut pair = || -> Result<(UnixStream, i32)> {
            let (ours, theirs) = UnixStream::pair().map_err(Error::system("socketpair"))?;
            let fd = theirs.as_raw_fd();
            pairs.push(OwnedFd::from(theirs));
            Ok((ours, fd))
        };
        let (console, control, stdout, stderr) = (pair()?, pair()?, pair()?, pair()?);
        let stdin = if spec.stdin { Some(pair()?) } else { None };
        let mut keep = pairs;
        keep.extend(seat.as_mut().and_then(Seat::take_fd));
        let boot = Boot {
            version: qemu.version,
            kernel: kernel.vmlinux,
            initrd,
            accel,
            tsc_khz: if accel == Accel::Tcg { tsc_khz() } else { None },
            qboot: qemu.qboot.clone(),
            net: link.clone(),
            ports: Ports {
                console: console.1,
                control: control.1,
                stdout: stdout.1,
                stderr: stderr.1,
                stdin: stdin.as_ref().map(|s| s.1),
            },
        };
        let dup = |of: &UnixStream| of.try_clone().map_err(Error::system("dup"));
        let reader = dup(&control.0)?;
        let outputs = [dup(&stdout.0)?, dup(&stderr.0)?];
        let shared = Arc::new(Shared {
            name: spec.name.clone(),
            process: Mutex::new(None),
            state: Mutex::default(),
            changed: Condvar::new(),
            control: Mutex::new(control.0),
            outputs,
            console: Mutex::default(),
            log: Mutex::default(),
            begun: Instant::now(),
        });
        let at_end = Arc::clone(&shared);
        let args = qemu_args(spec, &boot);
        tracing::debug!(?args, "starting QEMU");
        let (process, log) = Process::launch(&qemu.program, &args, keep, move |status| {
            at_end.update(|s| s.ended = Some(status));
        })?;
        *lock(&shared.process) = Some(process);

        let mut vm = Vm { shared, relays: Vec::new(), accel, limit: spec.boot_limit, seat };
        vm.start_threads(
            spec,
            link.as_ref(),
            io,
            Streams {
                console: console.0,
                log,
                stdout: stdout.0,
                stderr: stderr.0,
                stdin: stdin.map(|s| s.0),
                control: reader,
            },
        );
        Ok(vm)
    }

    fn start_threads(&mut self, spec: &VmSpec, link: Option<&NetLink>, io: VmIo, with: Streams) {
        let shared = &self.shared;
        let (a, b) = (Arc::clone(shared), Arc::clone(shared));
        self.relays = vec![
            thread::spawn(move || keep_tail(with.console, &a.console)),
            thread::spawn(move || keep_tail(with.log, &b.log)),
        ];
        for (n, from, to) in [(0, with.stdout, io.stdout), (1, with.stderr, io.stderr)] {
            let shared = Arc::clone(shared);
            self.relays.push(thread::spawn(move || shared.relay(n, from, to)));
        }
        let frame = wire::frame(spec, link);
        let talker = Arc::clone(shared);
        self.relays.push(thread::spawn(move || talker.converse(&frame, with.control)));
        if let Some((port, from)) = with.stdin.zip(io.stdin) {
            let shared = Arc::clone(shared);
            // Not joined: it may sit in a read that never ends.
            thread::spawn(move || shared.feed(port, from));
        } else if spec.stdin {
            let shared = Arc::clone(shared);
            thread::spawn(move || shared.end_input());
        }
    }

    /// The process id of QEMU.
    #[must_use]
    pub fn pid(&self) -> u32 {
        lock(&self.shared.process).as_ref().map_or(0, |p| p.pid)
    }

    /// How the guest's instructions are run.
    #[must_use]
    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// The guest's place in its network segment.
    #[must_use]
    pub fn net(&self) -> Option<&NetLink> {
        self.seat.as_ref().map(|s| &s.link)
    }

    /// Waits until the command has started.
    ///
    /// # Errors
    ///
    /// [`Error::Guest`], [`Error::Died`] or, after the description's limit,
    /// [`Error::Boot`]; the guest is then dead.
    pub fn wait_ready(&self) -> Result<Timing> {
        let left = self.limit.saturating_sub(self.shared.begun.elapsed());
        let mut state = self
            .shared
            .wait_while(left, |s| s.started.is_none() && s.failed.is_none() && s.ended.is_none());
        if let (Some(booted), Some(started)) = (state.booted, state.started) {
            return Ok(Timing { booted, started });
        }
        let timed_out = state.failed.is_none() && state.ended.is_none();
        state.killed |= timed_out;
        let failed = state.failed.clone();
        drop(state);
        if timed_out {
            self.shared.kill();
        }
        self.end();
        Err(if timed_out {
            Error::Boot {
                name: self.shared.name.clone(),
                limit: self.limit,
                log: self.log(),
                console: self.console(),
            }
        } else if let Some(what) = failed {
            Error::Guest { name: self.shared.name.clone(), what, console: self.console() }
        } else {
            self.died()
        })
    }

    /// Sends a signal to the command's process group; one that has not started
    /// gets it when it does.
    pub fn signal(&self, number: i32) {
        self.remote().signal(number);
    }

    /// Kills the guest as a power cut would.
    pub fn kill(&self) {
        self.remote().kill();
    }

    /// A handle for another thread than the one that waits.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote(Arc::clone(&self.shared))
    }

    /// Waits for the command's end and the guest's, and returns the command's
    /// exit code: 128 and the signal's number if a signal ended it, 137 if
    /// [`kill`](Vm::kill) ended the guest.
    ///
    /// # Errors
    ///
    /// Those of [`wait_ready`](Vm::wait_ready).
    pub fn wait(mut self) -> Result<i32> {
        self.wait_mut()
    }

    /// [`wait`](Vm::wait), for a guest that is held elsewhere.
    ///
    /// # Errors
    ///
    /// Those of [`wait_ready`](Vm::wait_ready).
    pub fn wait_mut(&mut self) -> Result<i32> {
        let ready = self.wait_ready();
        let killed = |vm: &Vm| lock(&vm.shared.state).killed;
        match ready {
            Ok(_) => {}
            Err(Error::Died { .. }) if killed(self) => return Ok(128 + libc::SIGKILL),
            Err(other) => return Err(other),
        }
        self.end();
        for relay in self.relays.drain(..) {
            let _ = relay.join();
        }
        let state = lock(&self.shared.state);
        match state.exit {
            Some((code, out, err)) if state.got == [out, err] => Ok(code),
            _ if state.killed => Ok(128 + libc::SIGKILL),
            _ => {
                drop(state);
                Err(self.died())
            }
        }
    }

    /// What the guest reported beside the command's course, such as an agent
    /// that had to be started again.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        lock(&self.shared.state).notices.clone()
    }

    /// The end of the guest's kernel console.
    #[must_use]
    pub fn console(&self) -> String {
        lock(&self.shared.console).text()
    }

    /// The end of what QEMU wrote.
    fn log(&self) -> String {
        lock(&self.shared.log).text()
    }

    fn died(&self) -> Error {
        let ended = lock(&self.shared.state).ended;
        Error::Died {
            name: self.shared.name.clone(),
            status: ended.map_or_else(|| "still running".to_string(), |s| s.to_string()),
            log: self.log(),
            console: self.console(),
        }
    }

    /// Waits until QEMU is gone; from the last word on with a limit.
    fn end(&self) {
        let state = self.shared.wait_while(Duration::MAX, |s| s.ended.is_none() && s.bye.is_none());
        let left = state.bye.map(|b| GRACE.saturating_sub(b.elapsed()));
        drop(state);
        if let Some(left) = left
            && self.shared.wait_while(left, |s| s.ended.is_none()).ended.is_none()
        {
            tracing::warn!(vm = self.shared.name, "the guest did not power off; killing it");
            self.shared.kill();
        }
        drop(self.shared.wait_while(Duration::MAX, |s| s.ended.is_none()));
    }
}

/// Steers a guest that another thread waits for.
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

impl Remote {
    /// Whether the command has started.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        lock(&self.0.state).started.is_some()
    }

    /// See [`Vm::signal`].
    pub fn signal(&self, number: i32) {
        self.0.say(&format!("signal {number}"));
    }

    /// See [`Vm::kill`].
    pub fn kill(&self) {
        self.0.update(|s| s.killed = true);
        self.0.kill();
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("name", &self.0.name).finish()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.shared.kill();
        drop(self.shared.wait_while(GRACE, |s| s.ended.is_none()));
        // The place in the segment is free only now that QEMU has closed its
        // socket.
        self.seat = None;
    }
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("name", &self.shared.name).field("pid", &self.pid()).finish()
    }
}

/// Our ends of QEMU's channels.
struct Streams {
    console: UnixStream,
    log: std::process::ChildStderr,
    stdout: UnixStream,
    stderr: UnixStream,
    stdin: Option<UnixStream>,
    control: UnixStream,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    fn wait_while(
        &self,
        limit: Duration,
        mut keep_waiting: impl FnMut(&State) -> bool,
    ) -> MutexGuard<'_, State> {
        let state = lock(&self.state);
        if limit == Duration::MAX {
            let waited = self.changed.wait_while(state, |s| keep_waiting(s));
            return waited.unwrap_or_else(PoisonError::into_inner);
        }
        let waited = self.changed.wait_timeout_while(state, limit, |s| keep_waiting(s));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn kill(&self) {
        if let Some(process) = &*lock(&self.process) {
            process.kill();
        }
    }

    /// Sends a line, after the configuration frame. A guest that is gone shows
    /// itself elsewhere.
    fn say(&self, line: &str) {
        drop(self.wait_while(Duration::MAX, |s| !s.framed && s.ended.is_none()));
        let _ = lock(&self.control).write_all(format!("{line}\n").as_bytes());
    }

    /// Reads the guest's lines to their end, and sends every boot its
    /// configuration.
    fn converse(&self, frame: &[u8], from: UnixStream) {
        // A line is bounded: the guest is not trusted.
        let mut lines = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            match (&mut lines).take(64 << 10).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match String::from_utf8_lossy(&line).trim_end() {
                "hello" => self.greet(frame),
                line => self.hear(line),
            }
        }
    }

    /// A boot begins.
    fn greet(&self, frame: &[u8]) {
        let mut state = lock(&self.state);
        let again = std::mem::replace(&mut state.framed, false);
        if again {
            tracing::warn!(vm = self.name, "the guest boots again");
            // What QEMU wrote before it passed on this boot's first word is of the one before.
            let unread = |of: &UnixStream| rustix::io::ioctl_fionread(of).unwrap_or(0);
            for (n, output) in self.outputs.iter().enumerate() {
                state.before[n] = state.got[n] + unread(output);
            }
            state.exit = None;
            state.fed = 0;
        }
        let over = state.fed_all;
        drop(state);
        let mut control = lock(&self.control);
        let sent = control.write_all(frame);
        if over {
            let _ = control.write_all(b"stdin-eof 0\n");
        }
        drop(control);
        if sent.is_ok() {
            self.update(|s| s.framed = true);
        }
    }

    fn hear(&self, line: &str) {
        let now = self.begun.elapsed();
        match wire::parse(line) {
            FromGuest::Booted => self.update(|s| {
                s.booted.get_or_insert(now);
            }),
            FromGuest::Started => self.update(|s| {
                s.started.get_or_insert(now);
            }),
            FromGuest::Notice(text) => {
                tracing::warn!(vm = self.name, "{text}");
                self.update(|s| {
                    // The guest is not trusted with this process's memory.
                    if s.notices.len() < 100 {
                        s.notices.push(text);
                    }
                });
            }
            FromGuest::Fail(why) => {
                self.update(|s| {
                    s.failed = Some(why);
                    s.bye = Some(Instant::now());
                });
                self.say("bye");
            }
            FromGuest::Exit { code, out, err } => {
                self.update(|s| {
                    // A command that could not be started has only an end.
                    s.booted.get_or_insert(now);
                    s.started.get_or_insert(now);
                    s.exit = Some((code, s.before[0] + out, s.before[1] + err));
                });
                self.dismiss();
            }
            // See `converse`.
            FromGuest::Hello => {}
            FromGuest::Unknown(text) => tracing::debug!(vm = self.name, "unknown line {text:?}"),
        }
    }

    /// Lets the guest go when its command is over and all its output is here.
    fn dismiss(&self) {
        let mut state = lock(&self.state);
        let complete = state.exit.is_some_and(|(_, out, err)| state.got == [out, err]);
        if !complete || state.bye.is_some() {
            return;
        }
        state.bye = Some(Instant::now());
        drop(state);
        self.changed.notify_all();
        self.say("bye");
    }

    /// Copies one of the output streams until QEMU closes it.
    fn relay(&self, stream: usize, mut from: UnixStream, mut to: Box<dyn Write + Send>) {
        let mut buf = vec![0; 64 << 10];
        let mut open = true;
        while let Some(n) = self.read_output(stream, &mut from, &mut buf) {
            if open && to.write_all(&buf[..n]).and_then(|()| to.flush()).is_err() {
                // Nobody reads any more; the command learns it as it would from
                // a pipe.
                open = false;
                self.say(&format!("signal {}", libc::SIGPIPE));
            }
            self.dismiss();
        }
    }

    /// Reads and counts in one step, so that `greet` finds each byte either
    /// counted or unread.
    fn read_output(&self, stream: usize, from: &mut UnixStream, buf: &mut [u8]) -> Option<usize> {
        let mut wait = [PollFd::new(&*from, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = poll(&mut wait, None) {}
        let mut state = lock(&self.state);
        let n = from.read(buf).ok().filter(|n| *n > 0)?;
        state.got[stream] += n as u64;
        Some(n)
    }

    /// Copies the input and says how much it was.
    fn feed(&self, mut port: UnixStream, mut from: Box<dyn Read + Send>) {
        let mut buf = vec![0; 64 << 10];
        loop {
            match from.read(&mut buf) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(n @ 1..) if port.write_all(&buf[..n]).is_ok() => {
                    self.update(|s| s.fed += n as u64);
                }
                _ => break,
            }
        }
        self.end_input();
        // The port stays open until the guest has read it all.
        drop(self.wait_while(Duration::MAX, |s| s.ended.is_none()));
    }

    fn end_input(&self) {
        self.update(|s| s.fed_all = true);
        let fed = lock(&self.state).fed;
        self.say(&format!("stdin-eof {fed}"));
    }
}

fn keep_tail(mut from: impl Read, ring: &Mutex<Ring>) {
    let mut buf = vec![0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        lock(ring).push(&buf[..n]);
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Ring(VecDeque<u8>);

impl Ring {
    const SIZE: usize = 16 << 10;

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let excess = self.0.len().saturating_sub(Ring::SIZE);
        self.0.drain(..excess);
    }

    fn text(&mut self) -> String {
        // A terminal must not obey what a guest prints.
        String::from_utf8_lossy(self.0.make_contiguous())
            .chars()
            .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
            .collect()
    }
}

/// A poisoned lock only means that a thread died; the state is still whole,
/// since each change is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses what cannot work before anything is started.
fn check(spec: &VmSpec) -> Result<()> {
    let wrong = |what: &str| Error::Spec { name: spec.name.clone(), what: what.to_string() };
    if spec.command.is_empty() {
        return Err(wrong("no command to run; put it after `--`"));
    }
    if spec.smp == 0 || spec.smp > 64 {
        return Err(wrong("the number of processors must be 1 to 64"));
    }
    if spec.mem_mib < 128 {
        return Err(wrong("less than 128 MiB of memory does not boot; use --mem 512"));
    }
    for region in &spec.regions {
        let fail = |source| Error::Region {
            region: region.name.clone(),
            socket: region.socket.clone(),
            source,
        };
        // Not a trial connection: it would be a peer that comes and goes.
        let meta = std::fs::metadata(&region.socket).map_err(fail)?;
        if !meta.file_type().is_socket() {
            return Err(fail(std::io::Error::other("it is not a socket")));
        }
        if spec.agent.is_none() {
            return Err(wrong("a region needs the path of the `vshmem` program for its agent"));
        }
    }
    Ok(())
}

/// The kernel and the initial root that the description asks for.
fn image(cache: &Cache, spec: &VmSpec) -> Result<(Kernel, std::path::PathBuf)> {
    let kernel = Kernel::fetch(cache, &spec.kernel)?;
    let mut initramfs = match &spec.root {
        Root::Host { .. } => Initramfs::for_host_root(&kernel),
        Root::Isolated { programs } => {
            let mut all = programs.clone();
            all.extend(spec.agent.clone());
            Initramfs::isolated(&kernel, &all)
        }
    };
    if !spec.regions.is_empty() {
        let source = vshmem_images::module_source()?;
        initramfs =
            initramfs.with_module(vshmem_images::build_module(cache, &kernel.headers, &source)?);
    }
    let initrd = initramfs.build(cache)?;
    Ok((kernel, initrd))
}
