//! A daemon and its guests, steered through the commands that a user types.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::build;
use crate::session::Session;

/// How long the daemon may take to serve, and to end.
const DAEMON_LIMIT: Duration = Duration::from_secs(20);

/// What a guest says.
#[derive(Debug)]
pub enum Event {
    /// A line of its command's standard output.
    Line(String),
    /// It ended: in the words of [`crate::run::Outcome`].
    End(String),
}

/// `vshmemd` with one region, in a run-time directory of its own. Dropped, it
/// and all guests are gone.
#[derive(Debug)]
pub struct Host {
    // Dropped in this order: the session ends what the daemon leaves.
    daemon: Mutex<Daemon>,
    session: Session,
    region: String,
    config: String,
    folder: tempfile::TempDir,
}

/// `vshmemd` by itself; killed when dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    fn kill(&mut self) {
        // Gone already when it was ended in order.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Host {
    /// Starts the daemon and compiles the demo's programs for the guests.
    ///
    /// # Errors
    ///
    /// A build's failure, or the daemon does not come up.
    pub fn start(region: &str, size: &str) -> Result<Self> {
        Self::configured(region, &one_region(region, size))
    }

    /// As [`start`](Self::start), with a daemon of this configuration; guests
    /// and programs are in `region` of it.
    ///
    /// # Errors
    ///
    /// A build's failure, or the daemon does not come up.
    pub fn configured(region: &str, config: &str) -> Result<Self> {
        // Below the target directory, which guests see through the host's root
        // file system; /tmp is their own.
        let session = Session::new()?;
        let near = session.artifacts().vshmem.parent().context("a binary without a folder")?;
        let folder = tempfile::Builder::new().prefix("guest-programs-").tempdir_in(near)?;
        for source in build::sources(&build::programs().join("demo"))? {
            build::compile(&source, folder.path())?;
        }
        Self::serve(session, folder, region, config)
    }

    /// The same for programs that run as other users: binaries and folder are
    /// open to everyone, on the host and in guests.
    ///
    /// # Errors
    ///
    /// A build's failure, or the daemon does not come up.
    pub fn open_to_all(region: &str, size: &str) -> Result<Self> {
        let session = Session::installed()?;
        let folder = tempfile::Builder::new().prefix("programs-").tempdir_in(session.runtime())?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        Self::serve(session, folder, region, &one_region(region, size))
    }

    fn serve(
        session: Session,
        folder: tempfile::TempDir,
        region: &str,
        config: &str,
    ) -> Result<Self> {
        let daemon = Mutex::new(Daemon::serve(&session, folder.path(), config)?);
        Ok(Self { session, region: region.to_owned(), config: config.to_owned(), daemon, folder })
    }

    /// Kills the daemon as the kernel short of memory would. Its holder and the
    /// guests run on.
    pub fn kill_daemon(&self) {
        self.daemon.lock().unwrap_or_else(|e| e.into_inner()).kill();
    }

    /// Ends it as a service manager does before it starts another. Whether its
    /// holder and the guests run on, its configuration says.
    ///
    /// # Errors
    ///
    /// It does not end, or not well.
    pub fn stop_daemon(&self) -> Result<()> {
        let mut daemon = self.daemon.lock().unwrap_or_else(|e| e.into_inner());
        kill_process(Pid::from_child(&daemon.0), Signal::TERM)?;
        let status = wait_for(&mut daemon.0, DAEMON_LIMIT)?.context("vshmemd ignores SIGTERM")?;
        ensure!(status.success(), "vshmemd ended with {status}");
        Ok(())
    }

    /// Its process.
    pub fn daemon_pid(&self) -> Pid {
        Pid::from_child(&self.daemon.lock().unwrap_or_else(|e| e.into_inner()).0)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.folder().join("vshmemd.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Starts it anew with the same configuration.
    ///
    /// # Errors
    ///
    /// It does not come up.
    pub fn restart_daemon(&self) -> Result<()> {
        let new = Daemon::serve(&self.session, self.folder.path(), &self.config)?;
        *self.daemon.lock().unwrap_or_else(|e| e.into_inner()) = new;
        Ok(())
    }

    /// The binaries and the environment.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Where the compiled programs are; every guest's working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The region's name.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// A program of the folder under `vshmem run`, on the host itself.
    pub fn run(&self, program: &str) -> Command {
        let mut command = self.session.vshmem();
        command.current_dir(self.folder()).args(["run", "--region", &self.region, "--"]);
        command.arg(format!("./{program}"));
        command
    }

    /// Ends the daemon as a user would, and checks that nothing stays behind.
    ///
    /// # Errors
    ///
    /// It does not end, or a process of the session is left.
    pub fn stop(mut self) -> Result<()> {
        let daemon = self.daemon.get_mut().unwrap_or_else(|e| e.into_inner());
        kill_process(Pid::from_child(&daemon.0), Signal::INT)?;
        let status = wait_for(&mut daemon.0, DAEMON_LIMIT)?.context("vshmemd ignores SIGINT")?;
        ensure!(status.success(), "vshmemd ended with {status}");
        let until = Instant::now() + DAEMON_LIMIT;
        loop {
            let left = self.session.processes();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                let names: Vec<_> = left.iter().map(|p| crate::session::describe(*p)).collect();
                bail!("still running: {}", names.join("; "));
            }
            std::thread::sleep(POLL);
        }
    }
}

fn one_region(name: &str, size: &str) -> String {
    format!("[[region]]\nname = \"{name}\"\nsize = \"{size}\"\n")
}

/// Between two looks at something that gives no event.
const POLL: Duration = Duration::from_millis(20);

/// The child's end, or none within the limit.
///
/// # Errors
///
/// It is no child.
pub fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

impl Daemon {
    /// Serves one region, to which everyone may attach; returns once it does.
    /// Its configuration and log are in `folder`.
    ///
    /// # Errors
    ///
    /// It ends, or is not ready in time; its log is in the message.
    pub fn start(session: &Session, folder: &Path, region: &str, size: &str) -> Result<Self> {
        Self::serve(session, folder, &one_region(region, size))
    }

    /// Serves what a configuration says; returns once it does. It and the log
    /// are in `folder`.
    ///
    /// # Errors
    ///
    /// It ends, or is not ready in time; its log is in the message.
    pub fn serve(session: &Session, folder: &Path, text: &str) -> Result<Self> {
        let config = folder.join("vshmemd.toml");
        std::fs::write(&config, text).with_context(|| format!("{}", config.display()))?;
        let ready = folder.join("ready");
        // One that was killed has left its own.
        let _ = std::fs::remove_file(&ready);
        let log = folder.join("vshmemd.log");
        let mut daemon = session
            .command(&session.artifacts().vshmemd)
            .arg("--config")
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log)?)
            .process_group(0)
            .spawn()
            .context("cannot start vshmemd")?;
        let until = Instant::now() + DAEMON_LIMIT;
        while !ready.exists() {
            let ended = daemon.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let _ = daemon.kill();
                let _ = daemon.wait();
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                match ended {
                    Some(status) => bail!("vshmemd ended with {status}\n{said}"),
                    None => bail!("vshmemd is not ready within {DAEMON_LIMIT:?}\n{said}"),
                }
            }
            std::thread::sleep(POLL);
        }
        Ok(Self(daemon))
    }
}

struct Guest {
    name: String,
    group: Pid,
    stdin: Option<ChildStdin>,
}

/// Guests of one host, and what they say as it comes.
pub struct Guests<H: Deref<Target = Host>> {
    host: H,
    guests: Vec<Guest>,
    sender: Sender<Said>,
    events: Receiver<Said>,
    /// What was said while something else was waited for.
    unheard: VecDeque<Said>,
}

/// Which guest, what, and when.
type Said = (usize, Event, Instant);

impl<H: Deref<Target = Host>> Guests<H> {
    /// None yet.
    pub fn new(host: H) -> Self {
        let (sender, events) = mpsc::channel();
        Self { host, guests: Vec::new(), sender, events, unheard: VecDeque::new() }
    }

    /// Boots one more that runs `command` in the programs' folder; `options`
    /// go to `vshmem vm run`. Its standard error passes through with its name.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn boot<S: AsRef<OsStr>>(
        &mut self,
        name: &str,
        options: &[&str],
        command: &[S],
    ) -> Result<usize> {
        self.start(name, options, command, Stdio::null(), None)
    }

    /// Boots one more with a shell that does what [`tell`](Self::tell) says.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn shell(&mut self, name: &str) -> Result<usize> {
        self.shell_on(name, None)
    }

    /// The same, on another QEMU than the one in PATH.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn shell_on(&mut self, name: &str, qemu: Option<&Path>) -> Result<usize> {
        self.start(name, &["--name", name], &["sh"], Stdio::piped(), qemu)
    }

    /// The process that is a guest's machine.
    ///
    /// # Errors
    ///
    /// There is none (any more).
    pub fn machine(&self, guest: usize) -> Result<Pid> {
        let parent = format!(" {} ", self.guests[guest].group);
        let its = |pid: &i32| {
            // PID (COMMAND) STATE PARENT ...
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let (name, rest) = stat.rsplit_once(')').unwrap_or_default();
            name.contains("(qemu") && rest.get(2..).is_some_and(|r| r.starts_with(&parent))
        };
        let all = std::fs::read_dir("/proc").context("/proc")?.flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
        let found = pids.filter(its).find_map(Pid::from_raw);
        found.with_context(|| format!("{} has no machine", self.name(guest)))
    }

    /// The same with more options for `vshmem vm run`; each boot says `first`.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn shell_that_says(
        &mut self,
        first: &str,
        name: &str,
        options: &[&str],
        qemu: Option<&Path>,
    ) -> Result<usize> {
        let options = [&["--name", name], options].concat();
        let command = ["sh", "-c", &format!("echo {first}; exec sh")];
        self.start(name, &options, &command, Stdio::piped(), qemu)
    }

    /// As [`shell`](Self::shell), with more options for `vshmem vm run`.
    ///
    /// # Errors
    ///
    /// The command cannot be started.
    pub fn shell_with(&mut self, name: &str, options: &[&str]) -> Result<usize> {
        let options = [&["--name", name], options].concat();
        self.start(name, &options, &["sh"], Stdio::piped(), None)
    }

    /// Has the shell of a guest do a line, and returns what that printed and how it ended.
    ///
    /// # Errors
    ///
    /// The guest ends, or the line takes longer than `limit`.
    pub fn ask(&mut self, guest: usize, line: &str, limit: Duration) -> Result<(i32, Vec<String>)> {
        const END: &str = "@end ";
        self.tell(guest, &format!("{{ {line}\n}} 2>&1; end=$?; echo; echo '{END}'$end"))?;
        let until = Instant::now() + limit;
        let mut said = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let next = self.expect_line(guest, left);
            let next = next.with_context(|| format!("{line}: so far {said:?}"))?;
            if let Some(status) = next.strip_prefix(END) {
                said.pop_if(|last: &mut String| last.is_empty());
                return Ok((status.parse().context("a status")?, said));
            }
            said.push(next);
        }
    }

    /// A line for the shell of a guest.
    ///
    /// # Errors
    ///
    /// The guest is gone, or was not booted with [`shell`](Self::shell).
    pub fn tell(&mut self, guest: usize, line: &str) -> Result<()> {
        let guest = &mut self.guests[guest];
        let shell = guest.stdin.as_mut().context("a guest without a shell")?;
        writeln!(shell, "{line}").and_then(|()| shell.flush()).with_context(|| {
            format!("{} does not listen any more; it was to do: {line}", guest.name)
        })
    }

    fn start<S: AsRef<OsStr>>(
        &mut self,
        name: &str,
        options: &[&str],
        command: &[S],
        stdin: Stdio,
        qemu: Option<&Path>,
    ) -> Result<usize> {
        let mut vshmem = self.host.session.vshmem();
        if let Some(qemu) = qemu {
            vshmem.env("VSHMEM_QEMU", qemu);
        }
        let mut child = vshmem
            .args(["vm", "run", "--region", &self.host.region])
            .args(options)
            .arg("--")
            .args(command)
            .current_dir(self.host.folder())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start vshmem vm run")?;
        let number = self.guests.len();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let stdin = child.stdin.take();
        self.guests.push(Guest { name: name.to_owned(), group: Pid::from_child(&child), stdin });
        let label = name.to_owned();
        let errors = std::thread::spawn(move || lines(err, |line| eprintln!("  [{label}] {line}")));
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            // The receiver may be gone when the test has failed.
            lines(out, |line| drop(sender.send((number, Event::Line(line), Instant::now()))));
            let _ = errors.join();
            let end = match child.wait() {
                Ok(status) => crate::run::describe(status),
                Err(error) => format!("lost: {error}"),
            };
            let _ = sender.send((number, Event::End(end), Instant::now()));
        });
        Ok(number)
    }

    /// The name that a guest was given.
    pub fn name(&self, guest: usize) -> &str {
        &self.guests[guest].name
    }

    /// Whether a guest's machine is still there.
    pub fn is_running(&mut self, guest: usize) -> bool {
        self.unheard.extend(self.events.try_iter());
        !self.unheard.iter().any(|(n, e, _)| *n == guest && matches!(e, Event::End(_)))
    }

    /// Kills a guest as a power failure would.
    pub fn kill(&self, guest: usize) {
        let _ = kill_process_group(self.guests[guest].group, Signal::KILL);
    }

    /// What is said next.
    ///
    /// # Errors
    ///
    /// Nothing until `deadline`.
    pub fn next(&mut self, deadline: Instant) -> Result<(usize, Event)> {
        if let Some((guest, event, _)) = self.unheard.pop_front() {
            return Ok((guest, event));
        }
        self.receive(deadline).map(|(guest, event, _)| (guest, event))
    }

    fn receive(&self, deadline: Instant) -> Result<Said> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                anyhow::anyhow!("the guests say nothing more within the time")
            }
            RecvTimeoutError::Disconnected => anyhow::anyhow!("the guests are gone"),
        })
    }

    /// Waits until a guest says a line, and tells when it came. What the others
    /// say meanwhile is kept.
    ///
    /// # Errors
    ///
    /// It ends first, or does not say it within `limit`.
    pub fn expect(&mut self, guest: usize, line: &str, limit: Duration) -> Result<Instant> {
        let (event, when) = self.expect_any(guest, limit, |event| {
            matches!(event, Event::End(_)) || matches!(event, Event::Line(l) if l == line)
        })?;
        match event {
            Event::Line(_) => Ok(when),
            Event::End(end) => bail!("{} ended with {end} before '{line}'", self.name(guest)),
        }
    }

    /// The next line that a guest says, whatever it is.
    ///
    /// # Errors
    ///
    /// It ends first, or says nothing within `limit`.
    pub fn expect_line(&mut self, guest: usize, limit: Duration) -> Result<String> {
        match self.expect_any(guest, limit, |_| true)?.0 {
            Event::Line(line) => Ok(line),
            Event::End(end) => bail!("{} ended with {end}", self.name(guest)),
        }
    }

    /// Waits until a guest has ended, and tells how and when.
    ///
    /// # Errors
    ///
    /// It does not end within `limit`.
    pub fn expect_end(&mut self, guest: usize, limit: Duration) -> Result<(String, Instant)> {
        let ended = self.expect_any(guest, limit, |event| matches!(event, Event::End(_)))?;
        match ended {
            (Event::End(end), when) => Ok((end, when)),
            (Event::Line(line), _) => bail!("'{line}' is no end"),
        }
    }

    fn expect_any(
        &mut self,
        guest: usize,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<(Event, Instant)> {
        let deadline = Instant::now() + limit;
        let mut seen = 0;
        loop {
            if seen == self.unheard.len() {
                let said = self.receive(deadline).with_context(|| {
                    format!("waiting for {}; unheard: {:?}", self.name(guest), self.unheard)
                })?;
                self.unheard.push_back(said);
            }
            let (from, event, _) = &self.unheard[seen];
            if *from == guest && wanted(event) {
                let said = self.unheard.remove(seen).context("just seen")?;
                return Ok((said.1, said.2));
            }
            seen += 1;
        }
    }

    /// Everything they print, by guest, until all have ended with 0.
    ///
    /// # Errors
    ///
    /// One ended otherwise, or not within `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Vec<Vec<String>>> {
        let deadline = Instant::now() + limit;
        let mut said = vec![Vec::new(); self.guests.len()];
        let mut running = self.guests.len();
        while running > 0 {
            match self.next(deadline).with_context(|| format!("so far: {said:?}"))? {
                (guest, Event::Line(line)) => said[guest].push(line),
                (guest, Event::End(end)) => {
                    ensure!(
                        end == "exit 0",
                        "guest {} ended with {end} after {:?}",
                        self.name(guest),
                        said[guest]
                    );
                    running -= 1;
                }
            }
        }
        Ok(said)
    }
}

impl<H: Deref<Target = Host>> Drop for Guests<H> {
    fn drop(&mut self) {
        for guest in 0..self.guests.len() {
            self.kill(guest);
        }
    }
}

fn lines(from: Option<impl Read>, mut each: impl FnMut(String)) {
    let Some(from) = from else { return };
    for line in BufReader::new(from).split(b'\n').map_while(|l| l.ok()) {
        each(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
    }
}

/// The guest kernel's image: a real file of some megabytes to send.
///
/// # Errors
///
/// There is none.
pub fn kernel_image() -> Result<PathBuf> {
    let entries = std::fs::read_dir("/boot").context("/boot")?;
    let images = entries.flatten().map(|e| e.path());
    let newest = images
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .max();
    newest.context("no /boot/vmlinuz-*: install linux-image-amd64")
}
