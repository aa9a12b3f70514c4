//! The first process of a throw-away guest.
//!
//! It loads the modules of the initramfs, makes the root file system, starts
//! the region's agent, runs one command and reports how it ended. Everything
//! it talks about goes through virtio-serial ports, because they exist on
//! every machine type, need no network, and keep the command's standard
//! output and error apart from each other and from the kernel's console.
//!
//! | port | direction | content |
//! |---|---|---|
//! | `vshmem.control` | both | lines, and one configuration |
//! | `vshmem.stdin` | to guest | bytes, ended by the line `stdin-eof N` |
//! | `vshmem.stdout`, `vshmem.stderr` | to host | bytes |
//!
//! The first word is the guest's, `hello`: so each boot of one machine, after a
//! reboot or a kexec, gets its configuration. That is the line `config N` and N
//! bytes: NUL-terminated `key=value` fields. Lines to the guest after it:
//! `signal N`, `stdin-eof N`, `bye`. Lines to the host: `booted`, `started`,
//! `notice TEXT`, `fail TEXT`, `exit CODE OUT ERR`, where OUT and ERR count the
//! bytes sent since `hello`: the host says `bye` only when it has them all,
//! since a port's write returns before the bytes have left the guest.
//!
//! The file is compiled alone by the build script, as a static program, so
//! that the initramfs needs no libraries: hence the few declarations of `sys`
//! instead of a crate.

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod sys;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a port or the agent may take to appear. Generous: an emulated
/// guest on a busy machine is slow, and a real failure shows itself earlier.
const PATIENCE: Duration = Duration::from_secs(30);
const READY_FILE: &str = "/run/vshmem/.agent-ready";
const AGENT_RESTARTS: u32 = 5;

type Res<T> = Result<T, String>;

fn main() {
    if std::process::id() != 1 {
        eprintln!("vshmem-init: this is the first process of a guest, not a command");
        std::process::exit(2);
    }
    let outcome = boot();
    if let Err(why) = &outcome {
        console(&format!("vshmem-init: {why}"));
    }
    sys::power_off();
}

/// Writes to the kernel's console, which the host shows when a boot fails.
fn console(text: &str) {
    if let Ok(mut f) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = writeln!(f, "{text}");
    }
}

fn boot() -> Res<()> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        make_dir(at)?;
        sys::mount(kind, at, kind, 0, "")?;
    }
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if cmdline.split_whitespace().any(|w| w == "vshmem.probe") {
        console("vshmem-probe-ok");
        return Ok(());
    }
    load_modules("boot")?;
    let mut control = open_port("vshmem.control")?;
    say(&mut control, "hello");
    let config = Config::read(&mut control)?;
    say(&mut control, "booted");
    match serve(&config, &mut control) {
        Ok(()) => Ok(()),
        Err(why) => {
            say(&mut control, &format!("fail {why}"));
            // The host answers `bye` or closes the port: either ends the read.
            let _ = control.read(&mut [0; 64]);
            Err(why)
        }
    }
}

fn say(control: &mut File, line: &str) {
    // A host that is gone shows itself as end of file on the same port.
    let _ = control.write_all(format!("{}\n", line.replace('\n', " ")).as_bytes());
}

/// One line and no byte more: what follows it is not of lines.
fn read_line(from: &mut File) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
}

/// What the host wants run; see the page's head for the encoding.
#[derive(Default)]
struct Config {
    one: BTreeMap<String, OsString>,
    args: Vec<OsString>,
    env: Vec<OsString>,
    regions: Vec<OsString>,
    shares: Vec<PathBuf>,
}

impl Config {
    fn read(from: &mut File) -> Res<Config> {
        let failed = |e| format!("reading the configuration: {e}");
        // Lines that an earlier boot did not read may come first.
        let len = loop {
            let line = read_line(from).map_err(failed)?;
            if let Some(len) = line.strip_prefix("config ").and_then(|n| n.parse().ok()) {
                break len;
            }
        };
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).map_err(failed)?;
        let mut config = Config::default();
        for field in bytes.split(|b| *b == 0).filter(|f| !f.is_empty()) {
            let Some(eq) = field.iter().position(|b| *b == b'=') else { continue };
            let (key, value) = (&field[..eq], OsString::from_vec(field[eq + 1..].to_vec()));
            match key {
                b"arg" => config.args.push(value),
                b"env" => config.env.push(value),
                b"region" => config.regions.push(value),
                b"share" => config.shares.push(PathBuf::from(value)),
                _ => {
                    config.one.insert(String::from_utf8_lossy(key).into_owned(), value);
                }
            }
        }
        Ok(config)
    }

    fn get(&self, key: &str) -> Option<&OsStr> {
        self.one.get(key).map(OsString::as_os_str)
    }

    fn number(&self, key: &str) -> Option<u32> {
        self.get(key)?.to_str()?.parse().ok()
    }
}

fn serve(config: &Config, control: &mut File) -> Res<()> {
    let from_host = config.get("root") == Some(OsStr::new("host"));
    let has_net = config.get("address").is_some();
    for (wanted, group) in
        [(from_host, "host"), (has_net, "net"), (!config.regions.is_empty(), "region")]
    {
        if wanted {
            load_modules(group)?;
        }
    }
    if from_host {
        enter_host_root(&config.shares)?;
    } else {
        furnish("")?;
    }
    sys::set_hostname(config.get("name").unwrap_or(OsStr::new("guest")))?;
    sys::interface_up("lo", None)?;
    if let Some(address) = config.get("address").and_then(OsStr::to_str) {
        sys::interface_up("eth0", Some(address.parse().map_err(|_| "bad address".to_string())?))?;
    }

    let (events, inbox) = mpsc::channel();
    // Readers and reapers come after the agent's first start, so that a failure
    // until then is one plain error.
    let mut agent = None;
    if !config.regions.is_empty() {
        agent = Some(Agent::start(config)?);
    }
    // The ports open here and not earlier: an error above needs only `control`.
    let out = open_port("vshmem.stdout")?;
    let err = open_port("vshmem.stderr")?;
    let stdin = match config.get("stdin") {
        Some(_) => Some(open_port("vshmem.stdin")?),
        None => None,
    };
    watch_control(control, events.clone())?;
    let mut complaint = err.try_clone().map_err(|e| format!("stderr port: {e}"))?;
    let job = match Job::start(config, stdin, out, err) {
        Ok(job) => job,
        // As a shell has it: 127 not found, 126 found but not startable.
        Err((code, why)) => {
            let text = format!("vshmem: {why}\n");
            let _ = complaint.write_all(text.as_bytes());
            say(control, &format!("exit {code} 0 {}", text.len()));
            await_bye(&inbox);
            return Ok(());
        }
    };
    say(control, "started");
    watch_children(events);
    supervise(config, control, job, agent, &inbox)
}

enum Event {
    Line(String),
    HostGone,
    Exited(i32, ExitStatus),
}

fn supervise(
    config: &Config,
    control: &mut File,
    mut job: Job,
    mut agent: Option<Agent>,
    inbox: &Receiver<Event>,
) -> Res<()> {
    let status = loop {
        match inbox.recv().map_err(|_| "the event threads are gone".to_string())? {
            Event::HostGone => return Err("the host closed the control port".to_string()),
            Event::Exited(pid, status) if pid == job.pid => break status,
            Event::Exited(pid, status) => {
                let Some(dead) = agent.as_mut().filter(|a| a.pid == pid) else { continue };
                if dead.restarts == AGENT_RESTARTS {
                    say(control, &format!("notice agent ended ({status}) too often; left dead"));
                    agent = None;
                    continue;
                }
                say(control, &format!("notice agent ended ({status}); starting it again"));
                dead.restart(config)?;
            }
            Event::Line(line) => match line.split_once(' ') {
                Some(("signal", n)) => sys::kill(-job.pid, n.parse().unwrap_or(15)),
                Some(("stdin-eof", n)) => job.end_stdin(n.parse().unwrap_or(0)),
                _ => {}
            },
        }
    };

    // What the command left behind ends before the agent does, so that the agent
    // still reports those deaths; the agent ends in order, so that the host sees
    // a peer that left rather than one that died.
    let keep = agent.as_ref().map(|a| a.pid);
    kill_all_but(keep);
    if let Some(agent) = &agent {
        sys::kill(agent.pid, 15);
        let end = Instant::now() + Duration::from_secs(3);
        loop {
            match inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Exited(pid, _)) if pid == agent.pid => break,
                Ok(Event::HostGone) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    say(control, "notice agent ignored SIGTERM for 3 s; killed");
                    break;
                }
            }
        }
        kill_all_but(None);
    }
    let (out, err) = job.drain();
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    say(control, &format!("exit {code} {out} {err}"));
    await_bye(inbox);
    Ok(())
}

/// Waits until the host has all output and lets this guest go.
fn await_bye(inbox: &Receiver<Event>) {
    let end = Instant::now() + PATIENCE;
    while let Ok(event) = inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
        match event {
            Event::HostGone => break,
            Event::Line(line) if line == "bye" => break,
            _ => {}
        }
    }
}

/// The command with its three streams.
struct Job {
    pid: i32,
    stdin: Option<Sender<u64>>,
    out: JoinHandle<u64>,
    err: JoinHandle<u64>,
}

impl Job {
    fn start(
        config: &Config,
        stdin: Option<File>,
        out: File,
        err: File,
    ) -> Result<Job, (u8, String)> {
        let [program, args @ ..] = config.args.as_slice() else {
            return Err((127, "no command given".to_string()));
        };
        let mut command = Command::new(program);
        command.args(args).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        set_env(&mut command, config);
        let cwd = config.get("cwd").unwrap_or(OsStr::new("/"));
        fs::metadata(cwd)
            .map_err(|e| (126, format!("working directory {} in the guest: {e}", cwd.display())))?;
        command.current_dir(cwd);
        if let (Some(uid), Some(gid)) = (config.number("uid"), config.number("gid")) {
            command.uid(uid).gid(gid);
        }
        // A group of its own: a forwarded signal reaches all of it, as a
        // terminal's would.
        command.process_group(0);
        let mut child = command.spawn().map_err(|e| {
            let code = if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            (code, format!("command {} cannot be started in the guest: {e}", program.display()))
        })?;
        let out = relay(child.stdout.take(), out);
        let err = relay(child.stderr.take(), err);
        let stdin = stdin.zip(child.stdin.take()).map(|(port, pipe)| feed(port, pipe));
        Ok(Job { pid: child.id() as i32, stdin, out, err })
    }

    fn end_stdin(&mut self, total: u64) {
        if let Some(feeder) = self.stdin.take() {
            let _ = feeder.send(total);
        }
    }

    /// Waits until every byte is handed to the ports; returns the counts.
    fn drain(self) -> (u64, u64) {
        (self.out.join().unwrap_or(0), self.err.join().unwrap_or(0))
    }
}

fn set_env(command: &mut Command, config: &Config) {
    for pair in &config.env {
        let bytes = pair.as_bytes();
        if let Some(eq) = bytes.iter().position(|b| *b == b'=') {
            command.env(OsStr::from_bytes(&bytes[..eq]), OsStr::from_bytes(&bytes[eq + 1..]));
        }
    }
}

fn relay(from: Option<impl Read + Send + 'static>, mut port: File) -> JoinHandle<u64> {
    thread::spawn(move || {
        let Some(mut from) = from else { return 0 };
        let mut buf = vec![0; 64 << 10];
        let mut total = 0;
        loop {
            match from.read(&mut buf) {
                Ok(0) => return total,
                Ok(n) => {
                    if port.write_all(&buf[..n]).is_err() {
                        return total;
                    }
                    total += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return total,
            }
        }
    })
}

/// Copies the stdin port to the command and closes the pipe after as many bytes
/// as the returned channel names.
fn feed(mut port: File, pipe: impl Write + Send + 'static) -> Sender<u64> {
    let (end, ends) = mpsc::channel::<u64>();
    let (data, chunks) = mpsc::sync_channel::<Vec<u8>>(4);
    thread::spawn(move || {
        let mut buf = vec![0; 64 << 10];
        while let Ok(n) = port.read(&mut buf) {
            if n == 0 || data.send(buf[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        let mut pipe = pipe;
        let (mut sent, mut total) = (0u64, None);
        // More than the total: what an earlier boot left unread.
        while total.is_none_or(|total| sent < total) {
            // The two channels have no common wait; the end comes once, so a
            // short look at it between chunks costs nothing that matters.
            match chunks.recv_timeout(Duration::from_millis(20)) {
                Ok(chunk) => {
                    sent += chunk.len() as u64;
                    if pipe.write_all(&chunk).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            total = total.or_else(|| ends.try_recv().ok());
        }
    });
    end
}

/// `vshmem agent`, which serves the guest's tasks and the module.
struct Agent {
    pid: i32,
    restarts: u32,
}

impl Agent {
    fn spawn(config: &Config) -> Res<(i32, PathBuf)> {
        let program = config.get("agent").ok_or("no agent program was named for the region")?;
        let _ = fs::remove_file(READY_FILE);
        let mut command = Command::new(program);
        command.arg("agent");
        for region in &config.regions {
            command.arg("--region").arg(region);
        }
        command.arg("--ready-file").arg(READY_FILE).env_clear();
        set_env(&mut command, config);
        // Its messages belong to the guest's log, not to the command's output.
        let log = || {
            OpenOptions::new()
                .write(true)
                .open("/dev/console")
                .map_or_else(|_| Stdio::null(), Stdio::from)
        };
        command.stdin(Stdio::null()).stdout(log()).stderr(log()).process_group(0);
        let child = command
            .spawn()
            .map_err(|e| format!("agent {} cannot be started: {e}", program.display()))?;
        Ok((child.id() as i32, PathBuf::from(program)))
    }

    /// Starts it and waits until its attach socket listens.
    fn start(config: &Config) -> Res<Agent> {
        make_dir("/run/vshmem")?;
        let watch = sys::Watch::new("/run/vshmem")?;
        let (pid, program) = Agent::spawn(config)?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = sys::reap(pid) {
                return Err(format!("agent {} ended at once ({status})", program.display()));
            }
            if Path::new(READY_FILE).exists() {
                return Ok(Agent { pid, restarts: 0 });
            }
            if Instant::now() > end {
                return Err(format!(
                    "agent {} is not ready after {} s: no {READY_FILE}",
                    program.display(),
                    PATIENCE.as_secs()
                ));
            }
            // Bounded, because the watch does not report the agent's death.
            watch.wait(Duration::from_millis(100));
        }
    }

    fn restart(&mut self, config: &Config) -> Res<()> {
        let restarts = self.restarts + 1;
        let (pid, _) = Agent::spawn(config)?;
        *self = Agent { pid, restarts };
        Ok(())
    }
}

fn watch_control(control: &File, events: Sender<Event>) -> Res<()> {
    let mut port = control.try_clone().map_err(|e| format!("control port: {e}"))?;
    thread::spawn(move || {
        let (mut buf, mut line) = ([0; 512], Vec::new());
        while let Ok(n @ 1..) = port.read(&mut buf) {
            for byte in &buf[..n] {
                if *byte == b'\n' {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    line.clear();
                    if events.send(Event::Line(text)).is_err() {
                        return;
                    }
                } else {
                    line.push(*byte);
                }
            }
        }
        let _ = events.send(Event::HostGone);
    });
    Ok(())
}

/// Reaps every child, adopted orphans too, as the first process must.
fn watch_children(events: Sender<Event>) {
    thread::spawn(move || {
        loop {
            match sys::wait_any() {
                Some((pid, status)) => {
                    if events.send(Event::Exited(pid, status)).is_err() {
                        return;
                    }
                }
                // No child at the moment; one may be adopted or started later.
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    });
}

fn kill_all_but(keep: Option<i32>) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        if let Some(pid) = pid.filter(|p| *p > 1 && Some(*p) != keep) {
            sys::kill(pid, 9);
        }
    }
}

/// Loads one group of the initramfs's module list, in its order.
fn load_modules(group: &str) -> Res<()> {
    let list = fs::read_to_string("/modules/list").map_err(|e| format!("/modules/list: {e}"))?;
    for line in list.lines() {
        let Some((_, file)) = line.split_once(' ').filter(|(g, _)| *g == group) else { continue };
        let module = File::open(format!("/modules/{file}")).map_err(|e| format!("{file}: {e}"))?;
        sys::load_module(&module).map_err(|e| format!("loading {file}: {e}"))?;
    }
    Ok(())
}

/// Opens a virtio-serial port by its name, waiting for the device to appear.
fn open_port(name: &str) -> Res<File> {
    let uevents = sys::Uevents::new()?;
    let end = Instant::now() + PATIENCE;
    loop {
        for port in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let its = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if its.trim_end() == name {
                let node = Path::new("/dev").join(port.file_name());
                let port = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&node)
                    .map_err(|e| format!("{} ({name}): {e}", node.display()))?;
                // The name arrives before the news that the host's side is
                // open; until then a read would say end of file.
                while sys::hung_up(&port) && Instant::now() < end {
                    thread::sleep(Duration::from_millis(1));
                }
                return Ok(port);
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("the virtio-serial port {name} has not appeared"));
        }
        uevents.wait(left.min(Duration::from_secs(1)));
    }
}

fn make_dir(path: impl AsRef<Path>) -> Res<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|e| format!("making {}: {e}", path.display()))
}

/// Makes the host's root file system, read-only below a writable layer, the
/// root of this guest.
fn enter_host_root(shares: &[PathBuf]) -> Res<()> {
    for dir in ["/lower", "/layer", "/root"] {
        make_dir(dir)?;
    }
    sys::mount(
        "root",
        "/lower",
        "9p",
        sys::MS_RDONLY,
        "trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any",
    )?;
    sys::mount("tmpfs", "/layer", "tmpfs", 0, "mode=755")?;
    make_dir("/layer/upper")?;
    make_dir("/layer/work")?;
    let layers = "lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work";
    sys::mount("overlay", "/root", "overlay", 0, layers)?;

    // What is shared from below /tmp and /run must outlive the fresh file
    // systems put over them.
    for (n, share) in shares.iter().enumerate() {
        let (from, at) = (inside("/root", share), format!("/shares/{n}"));
        make_target(&at, Path::new(&from).is_dir())?;
        sys::mount(&from, &at, "", sys::MS_BIND, "")?;
    }
    furnish("/root")?;
    for (n, share) in shares.iter().enumerate() {
        let (from, at) = (format!("/shares/{n}"), inside("/root", share));
        make_target(&at, Path::new(&from).is_dir())?;
        sys::mount(&from, &at, "", sys::MS_BIND, "")?;
    }
    sys::switch_root("/root")
}

/// Makes what a file or a directory can be mounted on.
fn make_target(at: &str, is_dir: bool) -> Res<()> {
    if is_dir {
        return make_dir(at);
    }
    Path::new(at).parent().map_or(Ok(()), make_dir)?;
    File::create(at).map(drop).map_err(|e| format!("making {at}: {e}"))
}

fn inside(root: &str, path: &Path) -> String {
    format!("{root}/{}", path.to_string_lossy().trim_start_matches('/'))
}

/// Puts the guest's own file systems below `root`.
fn furnish(root: &str) -> Res<()> {
    let at = |dir: &str| format!("{root}{dir}");
    if !root.is_empty() {
        for dir in ["/dev", "/proc", "/sys"] {
            make_dir(at(dir))?;
            sys::mount(dir, &at(dir), "", sys::MS_MOVE, "")?;
        }
    }
    for (dir, mode) in
        [("/tmp", "mode=1777"), ("/run", "mode=755"), ("/dev/shm", "mode=1777"), ("/dev/pts", "")]
    {
        make_dir(at(dir))?;
        // An isolated guest's root is memory already, and may hold programs there.
        if root.is_empty() && !dir.starts_with("/dev") {
            let open = if dir == "/tmp" { 0o1777 } else { 0o755 };
            let _ = fs::set_permissions(dir, fs::Permissions::from_mode(open));
            continue;
        }
        let kind = if dir == "/dev/pts" { "devpts" } else { "tmpfs" };
        sys::mount(kind, &at(dir), kind, 0, mode)?;
    }
    make_dir(at("/run/lock"))?;
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(to, at(link));
    }
    Ok(())
}
