//! A daemon and its guests, steered through the commands that a user types.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
    daemon: Daemon,
    session: Session,
    region: String,
    folder: tempfile::TempDir,
}

/// `vshmemd` by itself; killed when dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already when it was ended in order.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    /// Starts the daemon and compiles the demo's programs for the guests.
    ///
    /// # Errors
    ///
    /// A build's failure, or the daemon does not come up.
    pub fn start(region: &str, size: &str) -> Result<Self> {
        // Below the target directory, which guests see through the host's root
        // file system; /tmp is their own.
        let session = Session::new()?;
        let near = session.artifacts().vshmem.parent().context("a binary without a folder")?;
        let folder = tempfile::Builder::new().prefix("guest-programs-").tempdir_in(near)?;
        for source in build::sources(&build::programs().join("demo"))? {
            build::compile(&source, folder.path())?;
        }
        let daemon = Daemon::start(&session, folder.path(), region, size)?;
        Ok(Self { session, region: region.to_owned(), daemon, folder })
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
        kill_process(Pid::from_child(&self.daemon.0), Signal::INT)?;
        let status =
            wait_for(&mut self.daemon.0, DAEMON_LIMIT)?.context("vshmemd ignores SIGINT")?;
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

/// Between two looks at something that gives no event.
const POLL: Duration = Duration::from_millis(20);

/// The child's end, or none within the limit.
fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
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
        let config = folder.join("vshmemd.toml");
        let text = format!("[[region]]\nname = \"{region}\"\nsize = \"{size}\"\n");
        std::fs::write(&config, text).with_context(|| format!("{}", config.display()))?;
        let ready = folder.join("ready");
        let log = folder.join("vshmemd.log");
        let mut daemon = session
            .command(&session.artifacts().vshmemd)
            .arg("--config")
            .arg(&config)
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
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
}

/// Guests of one host, and what they say as it comes.
pub struct Guests<'h> {
    host: &'h Host,
    guests: Vec<Guest>,
    sender: Sender<(usize, Event)>,
    events: Receiver<(usize, Event)>,
}

impl<'h> Guests<'h> {
    /// None yet.
    pub fn new(host: &'h Host) -> Self {
        let (sender, events) = mpsc::channel();
        Self { host, guests: Vec::new(), sender, events }
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
        let mut child = self
            .host
            .session
            .vshmem()
            .args(["vm", "run", "--region", &self.host.region])
            .args(options)
            .arg("--")
            .args(command)
            .current_dir(self.host.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start vshmem vm run")?;
        let number = self.guests.len();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        self.guests.push(Guest { name: name.to_owned(), group: Pid::from_child(&child) });
        let label = name.to_owned();
        let errors = std::thread::spawn(move || lines(err, |line| eprintln!("  [{label}] {line}")));
        let sender = self.sender.clone();
        std::thread::spawn(move || {
            // The receiver may be gone when the test has failed.
            lines(out, |line| drop(sender.send((number, Event::Line(line)))));
            let _ = errors.join();
            let end = match child.wait() {
                Ok(status) => crate::run::describe(status),
                Err(error) => format!("lost: {error}"),
            };
            let _ = sender.send((number, Event::End(end)));
        });
        Ok(number)
    }

    /// The name that a guest was given.
    pub fn name(&self, guest: usize) -> &str {
        &self.guests[guest].name
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
    pub fn next(&self, deadline: Instant) -> Result<(usize, Event)> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).map_err(|e| match e {
            RecvTimeoutError::Timeout => {
                anyhow::anyhow!("the guests say nothing more within the time")
            }
            RecvTimeoutError::Disconnected => anyhow::anyhow!("the guests are gone"),
        })
    }

    /// Everything they print, by guest, until all have ended with 0.
    ///
    /// # Errors
    ///
    /// One ended otherwise, or not within `limit`.
    pub fn finish(self, limit: Duration) -> Result<Vec<Vec<String>>> {
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

impl Drop for Guests<'_> {
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
