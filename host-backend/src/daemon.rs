//! The daemon: regions, their servers and services, and the one loop.

use crate::backing::{self, Memory};
use crate::config::{Config, Contents, OnSigterm, Region};
use crate::holder::Link;
use crate::lock::Lock;
use crate::poller::{Poller, Source};
use crate::server::{Around, Server};
use crate::service::{Open, Raw, RegionService, Services, Start};
use crate::state::{RegionState, State, VERSION};
use crate::sys::{read_signal, signal_fd};
use crate::vault::{STATE, Tag, Vault, bound_to};
use anyhow::{Context, anyhow, bail};
use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, connect, listen, socket_with, sockopt};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};
use vshmem_core::layout::lane;

/// How the daemon is run.
#[derive(Debug)]
pub struct Options {
    /// What to serve.
    pub config: Config,
    /// Where the sockets go.
    pub runtime_dir: PathBuf,
    /// The embedded default: attach here, and leave when nothing is left.
    pub embedded: Option<PathBuf>,
}

/// How long the embedded default stays without tasks and objects.
pub const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait before another holder is tried.
const HOLDER_RETRY: Duration = Duration::from_secs(5);

struct Served {
    config: Region,
    memory: Tag,
    attach: Option<Tag>,
    server: Option<Server>,
    service: Box<dyn RegionService>,
}

struct Daemon {
    vault: Vault,
    /// Whether it took over from another one.
    resumed: bool,
    poller: Poller,
    regions: Vec<Served>,
    signals: OwnedFd,
    linger: Duration,
    runtime_dir: PathBuf,
    sockets: Vec<PathBuf>,
    holder_retry: Instant,
}

/// Why the loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Release,
    Keep,
}

/// Raises the limit of open files to what this process may have, or to `wanted` where that is more
/// and it may: each VM takes a few descriptors, and `SCM_RIGHTS` counts those under way against the
/// same limit. The limit there is then.
pub fn raise_file_limit(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = |n| Rlimit { current: n, maximum: n };
    if most.is_some_and(|n| n < wanted) && setrlimit(Resource::Nofile, limit(Some(wanted))).is_ok()
    {
        return wanted;
    }
    let _ = setrlimit(Resource::Nofile, limit(most));
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The descriptors that the regions need when they are full.
fn files_of(config: &Config) -> u64 {
    /// What the daemon itself has, and what is under way.
    const OWN: u64 = 512;
    let of_region = |r: &Region| {
        let by_size = (r.size / 8 / lane::STRIDE).min(4096);
        let tasks = r.limits.tasks.map_or(by_size, u64::from);
        // A connection and a pidfd each; socket, process and vectors of a VM.
        let vms = if r.ivshmem { u64::from(r.max_vms) * (2 + u64::from(r.vectors)) } else { 0 };
        2 * tasks + vms
    };
    OWN + config.regions.iter().map(of_region).sum::<u64>()
}

/// Makes room for that many descriptors, or says that there is none.
fn make_room_for_files(config: &Config) {
    let wanted = files_of(config);
    let limit = raise_file_limit(wanted);
    if limit < wanted {
        warn!(
            limit,
            wanted,
            "too few open files are allowed for all tasks and VMs that the regions have room for, and \
             the last ones will be refused: raise LimitNOFILE, or `ulimit -Hn`"
        );
    }
}

/// Serves until told to stop; `ready` is called once everything is up.
///
/// # Errors
///
/// When something cannot be set up; nothing is then left behind.
pub fn run(
    options: Options,
    services: &dyn Services,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // First, so that threads started later inherit the mask.
    let signals = signal_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    make_room_for_files(&options.config);
    let private = options.embedded.is_some();
    make_runtime_dir(&options.runtime_dir, private)?;
    let lock = Lock::take(&options.runtime_dir)?;

    let mut daemon = match Daemon::set_up(&options, signals, services) {
        Ok(daemon) => daemon,
        Err(e) => {
            lock.remove();
            return Err(e);
        }
    };
    if let Err(e) = daemon.begin().and_then(|()| ready()) {
        // What was served before it came stays with the holder.
        let end = if daemon.resumed { End::Keep } else { End::Release };
        daemon.stop(end);
        if end == End::Release {
            lock.remove();
        }
        return Err(e);
    }
    let end = daemon.serve(&options);
    if let Err(e) = &end {
        error!(error = %e, "the loop failed: leaving everything to the holder");
    }
    let what = *end.as_ref().unwrap_or(&End::Keep);
    daemon.stop(what);
    if what == End::Release {
        lock.remove();
    }
    end.map(drop)
}

fn make_runtime_dir(dir: &Path, private: bool) -> anyhow::Result<()> {
    let mode = if private { 0o700 } else { 0o755 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .with_context(|| format!("cannot create the runtime directory {}", dir.display()))?;
    let meta = std::fs::metadata(dir)?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != own && meta.uid() != 0 {
        bail!(
            "the runtime directory {} belongs to uid {}: choose another with --runtime-dir",
            dir.display(),
            meta.uid()
        );
    }
    // Whoever may rename its entries could put sockets of their own there. (Not in one like /tmp.)
    if meta.mode() & 0o1002 == 0o002 {
        bail!(
            "the runtime directory {} can be written by everyone: `chmod o-w` it, or choose \
             another with --runtime-dir",
            dir.display()
        );
    }
    Ok(())
}

/// Whether SIGTERM lets everything go.
fn sigterm_means(config: OnSigterm) -> End {
    match config {
        OnSigterm::Release => End::Release,
        OnSigterm::Keep => End::Keep,
        // A service manager stops us to start us again. (Shells of a desktop
        // inherit the first of the two as well, so one is not enough.)
        OnSigterm::Auto => {
            let managed = |name| std::env::var_os(name).is_some();
            if managed("INVOCATION_ID") && managed("NOTIFY_SOCKET") {
                End::Keep
            } else {
                End::Release
            }
        }
    }
}

impl Daemon {
    fn set_up(
        options: &Options,
        signals: OwnedFd,
        services: &dyn Services,
    ) -> anyhow::Result<Self> {
        let dir = &options.runtime_dir;
        let linger = Duration::from_secs(options.config.daemon.linger_seconds.into());
        let (vault, old) = match Link::connect(dir).context("cannot ask the holder")? {
            Some(link) => {
                let pid = link.pid();
                let hint = || {
                    format!(
                        "cannot resume from the holder (pid {pid}): run `vshmemd --shutdown \
                         --runtime-dir {}` to let its regions go",
                        dir.display()
                    )
                };
                let mut vault = Vault::resume(link).with_context(hint)?;
                if vault.fd(STATE).is_err() {
                    // Its daemon died before it had given it everything.
                    vault.tags().into_iter().for_each(|tag| vault.remove(tag));
                    (vault, None)
                } else {
                    let state = State::load(&vault).with_context(hint)?;
                    info!(holder = pid, regions = state.region.len(), "resuming");
                    (vault, Some(state))
                }
            }
            None => (Vault::local(), None),
        };
        let resumed = vault.is_held();
        let mut daemon = Self {
            vault,
            resumed,
            poller: Poller::new()?,
            regions: Vec::new(),
            signals,
            linger,
            runtime_dir: dir.clone(),
            sockets: Vec::new(),
            holder_retry: Instant::now(),
        };
        let old = old.unwrap_or(State { version: VERSION, region: Vec::new() });
        // Before anything is changed.
        check_against(&old, &options.config)?;
        let set_up = daemon.set_up_regions(options, &old, services);
        if let Err(e) = set_up {
            for served in &mut daemon.regions {
                served.service.stop();
            }
            // What a holder has stays as it was: sockets of the old too.
            if !resumed {
                daemon.unlink_sockets();
            }
            return Err(e);
        }
        Ok(daemon)
    }

    fn set_up_regions(
        &mut self,
        options: &Options,
        old: &State,
        services: &dyn Services,
    ) -> anyhow::Result<()> {
        let mut fresh = Vec::new();
        for (index, region) in (0..).zip(&options.config.regions) {
            let state = old.region.iter().find(|r| r.name == region.name.as_str());
            let dir = &options.runtime_dir;
            let attach = match &options.embedded {
                Some(path) => path.clone(),
                None => dir.join(format!("{}.sock", region.name)),
            };
            let door = dir.join(format!("{}.ivshmem", region.name));
            let served = match state {
                Some(state) => {
                    let attach = (region.contents == Contents::Vshmem).then_some(attach);
                    self.sockets.extend(attach.into_iter().chain(region.ivshmem.then_some(door)));
                    self.resume_region(index, region, state, services)?
                }
                None => {
                    let (served, memory) =
                        self.new_region(index, region, &attach, &door, services)?;
                    fresh.push(memory);
                    served
                }
            };
            self.regions.push(served);
        }
        // From here on the files of new regions stay.
        for memory in fresh {
            memory.keep();
        }
        Ok(())
    }

    fn new_region(
        &mut self,
        index: u16,
        region: &Region,
        attach: &Path,
        door: &Path,
        services: &dyn Services,
    ) -> anyhow::Result<(Served, Memory)> {
        let memory = Memory::open(region)?;
        let attach = match region.contents {
            Contents::Vshmem => {
                let socket = listener(attach, SocketType::SEQPACKET, true)?;
                // Ours to remove from here on; before, the name may be somebody else's.
                self.sockets.push(attach.to_owned());
                Some(socket)
            }
            Contents::Raw => None,
        };
        let start = if memory.fresh { Start::Fresh } else { Start::Reopened };
        let attach_fd = attach.as_ref().map(AsFd::as_fd);
        let mut service = open_service(services, region, memory.fd(), start, attach_fd)?;
        let memory_tag = self.vault.put(memory.fd().try_clone_to_owned()?);
        let attach = attach.map(|fd| self.vault.put(fd));
        let server = if region.ivshmem {
            // Only as wide open as the uids allowed in ask for.
            let own = rustix::process::geteuid().as_raw();
            let open = region.allow_vm_uids.as_ref();
            let open = open.is_some_and(|uids| uids.iter().any(|&u| u != own && u != 0));
            let socket = listener(door, SocketType::STREAM, open);
            let socket = socket.inspect_err(|_| service.stop())?;
            self.sockets.push(door.to_owned());
            let door = self.vault.put(socket);
            Some(Server::new(index, region, memory_tag, door, &mut self.vault)?)
        } else {
            None
        };
        info!(region = %region.name, size = region.size, backing = %region.backing, "new region");
        let config = region.clone();
        Ok((Served { config, memory: memory_tag, attach, server, service }, memory))
    }

    fn resume_region(
        &mut self,
        index: u16,
        region: &Region,
        state: &RegionState,
        services: &dyn Services,
    ) -> anyhow::Result<Served> {
        let vault = &mut self.vault;
        let memory = vault.fd(state.memory)?;
        if !backing::is_intact(memory, region) {
            bail!("region {}: the memory the holder has is not the region's", region.name);
        }
        let attach = state.attach.map(|tag| vault.fd(tag)).transpose()?;
        let mut service = open_service(services, region, memory, Start::Resumed, attach)?;
        let server = match &state.server {
            Some(s) => {
                Some(Server::resume(index, region, state.memory, s, vault, service.as_mut())?)
            }
            None => None,
        };
        let vms = server.as_ref().map_or(0, Server::connected);
        info!(region = %region.name, vms, "region resumed");
        let config = region.clone();
        Ok(Served { config, memory: state.memory, attach: state.attach, server, service })
    }

    /// Starts the holder, saves, watches, and takes care of what a crash left.
    fn begin(&mut self) -> anyhow::Result<()> {
        if !self.vault.is_held() {
            self.start_holder().context("cannot start the holder")?;
        } else if let Some(link) = self.vault.link() {
            self.poller.watch(link.socket(), Source::Holder)?;
        }
        self.poller.watch(&self.signals, Source::Signal)?;
        for (index, served) in (0..).zip(&mut self.regions) {
            if let Some(fd) = served.service.poll_fd() {
                self.poller.watch(fd, Source::Service(index))?;
            }
            let mut around = Around {
                vault: &mut self.vault,
                poller: &self.poller,
                service: served.service.as_mut(),
            };
            if let Some(server) = &served.server {
                server.watch(&mut around)?;
            }
        }
        self.adopt_orphans();
        self.settle()
    }

    fn start_holder(&mut self) -> io::Result<()> {
        let link = Link::start(&self.runtime_dir, self.linger)?;
        self.vault.hand_to(link)?;
        if let Some(link) = self.vault.link() {
            info!(pid = link.pid(), "started a holder");
            self.poller.watch(link.socket(), Source::Holder)?;
        }
        Ok(())
    }

    /// What the holder has and no state mentions is from an event that a
    /// crash cut short. A connection to which nothing has been sent is a VM
    /// still waiting at its start-up: it is served as if it had come now.
    fn adopt_orphans(&mut self) {
        let state = self.state();
        let known = mentioned(&state);
        for tag in self.vault.tags() {
            if known.contains(&tag) {
                continue;
            }
            let door = (self.vault.sent(tag) == 0)
                .then(|| self.vault.fd(tag).ok().and_then(accepted_at))
                .flatten();
            let server = self.regions.iter_mut().find(|served| {
                let listener = served.server.as_ref().map(Server::listener);
                let path = listener.and_then(|t| self.vault.fd(t).ok()).and_then(bound_to);
                door.is_some() && path == door
            });
            match server {
                Some(Served { server: Some(server), service, .. }) => {
                    info!("a VM had just connected when the former daemon ended");
                    let service = service.as_mut();
                    let (vault, poller) = (&mut self.vault, &self.poller);
                    server.admit(tag, &mut Around { vault, poller, service });
                }
                _ => self.vault.remove(tag),
            }
        }
    }

    fn state(&self) -> State {
        let region = |r: &Served| RegionState {
            name: r.config.name.to_string(),
            size: r.config.size,
            backing: r.config.backing.to_string(),
            memory: r.memory,
            attach: r.attach,
            server: r.server.as_ref().map(|s| s.state(&self.vault)),
        };
        State { version: VERSION, region: self.regions.iter().map(region).collect() }
    }

    /// Saves what has changed, then sends what it implies, until both are done.
    fn settle(&mut self) -> anyhow::Result<()> {
        let servers = |regions: &[Served]| -> bool {
            regions.iter().filter_map(|r| r.server.as_ref()).any(Server::is_dirty)
        };
        let mut first = true;
        while first || servers(&self.regions) {
            first = false;
            if servers(&self.regions) || self.vault.fd(STATE).is_err() {
                self.state().save(&mut self.vault).context("cannot save the state")?;
            }
            for served in &mut self.regions {
                let Some(server) = &mut served.server else { continue };
                if server.is_dirty() {
                    server.saved(&mut self.vault);
                }
                server.pump(&mut Around {
                    vault: &mut self.vault,
                    poller: &self.poller,
                    service: served.service.as_mut(),
                });
            }
        }
        Ok(())
    }

    fn serve(&mut self, options: &Options) -> anyhow::Result<End> {
        let on_sigterm = sigterm_means(options.config.daemon.on_sigterm);
        let mut idle_since = Instant::now();
        loop {
            for (source, flags) in self.poller.wait(self.timeout(options))? {
                if let Some(end) = self.dispatch(source, flags, on_sigterm) {
                    return Ok(end);
                }
            }
            self.settle()?;
            if !self.vault.is_held() && Instant::now() >= self.holder_retry {
                self.holder_retry = Instant::now() + HOLDER_RETRY;
                if let Err(e) = self.start_holder() {
                    error!(error = %e, "cannot start another holder: trying again soon");
                }
            }
            if options.embedded.is_some() {
                let idle = self.regions.iter().all(|r| r.service.is_idle());
                if !idle {
                    idle_since = Instant::now();
                } else if idle_since.elapsed() >= IDLE_LIMIT {
                    info!("no task and no object: leaving");
                    return Ok(End::Release);
                }
            }
        }
    }

    fn timeout(&self, options: &Options) -> Option<Duration> {
        let servers = self.regions.iter().filter_map(|r| r.server.as_ref());
        let retry = servers.filter_map(Server::retry_at).min();
        let holder = (!self.vault.is_held()).then_some(self.holder_retry);
        let idle = options.embedded.is_some().then(|| Instant::now() + Duration::from_millis(500));
        let next = [retry, holder, idle].into_iter().flatten().min()?;
        // A little more, so that the instant has passed on return.
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn dispatch(&mut self, source: Source, flags: EventFlags, on_sigterm: End) -> Option<End> {
        let index = match source {
            Source::Signal => {
                while let Some((signal, sender)) = read_signal(&self.signals) {
                    match signal {
                        libc::SIGTERM | libc::SIGINT => {
                            info!(signal, sender, "told to stop");
                            let term = signal == libc::SIGTERM;
                            return Some(if term { on_sigterm } else { End::Release });
                        }
                        _ => info!("SIGHUP: the configuration is read at the start only"),
                    }
                }
                return None;
            }
            Source::Holder => {
                if let Some(link) = self.vault.link() {
                    warn!(pid = link.pid(), "the holder has ended: starting another");
                    self.poller.forget(link.socket());
                }
                self.vault.lose_holder();
                return None;
            }
            Source::Listener(r)
            | Source::Client(r, _)
            | Source::Process(r, _)
            | Source::HostEvent(r, _)
            | Source::Service(r) => usize::from(r),
        };
        let served = self.regions.get_mut(index)?;
        if let Source::Service(_) = source {
            served.service.dispatch();
            return None;
        }
        let server = served.server.as_mut()?;
        let around = &mut Around {
            vault: &mut self.vault,
            poller: &self.poller,
            service: served.service.as_mut(),
        };
        match source {
            Source::Listener(_) => server.accept(around),
            Source::Client(_, id) => server.client_ready(id, flags, around),
            Source::Process(_, id) => server.process_ended(id, around),
            Source::HostEvent(_, vector) => server.host_event(vector, around),
            Source::Signal | Source::Holder | Source::Service(_) => {}
        }
        None
    }

    fn unlink_sockets(&self) {
        for path in &self.sockets {
            let _ = std::fs::remove_file(path);
        }
    }

    fn stop(&mut self, end: End) {
        match end {
            End::Keep => info!("leaving; the holder keeps regions and VMs for the next daemon"),
            End::Release => info!("leaving, and letting everything go"),
        }
        for served in &mut self.regions {
            served.service.stop();
        }
        if end == End::Release {
            self.vault.release();
        }
    }
}

fn open_service(
    services: &dyn Services,
    region: &Region,
    memory: BorrowedFd<'_>,
    start: Start,
    attach: Option<BorrowedFd<'_>>,
) -> anyhow::Result<Box<dyn RegionService>> {
    let Some(attach) = attach else { return Ok(Box::new(Raw)) };
    let open = Open {
        region,
        memory: memory.try_clone_to_owned()?,
        read_only: backing::read_only(memory)?,
        start,
        attach: attach.try_clone_to_owned()?,
    };
    services.open(open).with_context(|| format!("region {} ({})", region.name, region.backing))
}

/// Whether the configuration still describes what the holder has.
fn check_against(old: &State, config: &Config) -> anyhow::Result<()> {
    for state in &old.region {
        let name = &state.name;
        let vms = state.server.as_ref().map_or(0, |s| s.client.len() + s.departed.len());
        let Some(region) = config.regions.iter().find(|r| r.name.as_str() == name) else {
            if vms == 0 {
                warn!(region = name, "no longer configured: letting it go");
                continue;
            }
            bail!(
                "region {name} is no longer configured, but {vms} VMs use it: \
                 configure it again, or let it go with `vshmemd --shutdown`"
            );
        };
        let differs = |what: &str, was: String, is: String| {
            anyhow!(
                "region {name} is running with {what} {was}, the configuration says {is}: \
                 restore that, or let the region go with `vshmemd --shutdown`"
            )
        };
        if state.size != region.size {
            return Err(differs("size", state.size.to_string(), region.size.to_string()));
        }
        if state.backing != region.backing.to_string() {
            return Err(differs("backing", state.backing.clone(), region.backing.to_string()));
        }
        if state.attach.is_some() != (region.contents == Contents::Vshmem) {
            let name_of = |raw: bool| if raw { "raw" } else { "vshmem" }.to_owned();
            let (was, is) = (state.attach.is_none(), region.contents == Contents::Raw);
            return Err(differs("contents", name_of(was), name_of(is)));
        }
        let was = state.server.as_ref().map_or(0, |s| s.vectors);
        let is = if region.ivshmem { region.vectors } else { 0 };
        if was != is {
            return Err(differs("vectors", was.to_string(), is.to_string()));
        }
    }
    Ok(())
}

/// Every tag a state names.
fn mentioned(state: &State) -> std::collections::BTreeSet<Tag> {
    let mut tags = std::collections::BTreeSet::from([STATE]);
    for region in &state.region {
        tags.insert(region.memory);
        tags.extend(region.attach);
        let Some(server) = &region.server else { continue };
        tags.insert(server.listener);
        tags.extend(&server.host_events);
        tags.extend(server.departed.iter().map(|d| d.process));
        for c in &server.client {
            tags.insert(c.socket);
            tags.extend(c.process);
            tags.extend(&c.events);
            tags.extend(c.queue.iter().filter_map(|q| q.fd));
        }
    }
    tags
}

/// The path of the listener that accepted `socket`, if it is a connection.
fn accepted_at(socket: impl AsFd) -> Option<PathBuf> {
    if sockopt::socket_acceptconn(&socket).ok()? {
        return None;
    }
    bound_to(socket)
}

/// Binds a listening socket at `path`; a dead one there is replaced.
fn listener(path: &Path, kind: SocketType, open: bool) -> anyhow::Result<OwnedFd> {
    let failed = |what: &str| format!("cannot {what} the socket {}", path.display());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    let address = SocketAddrUnix::new(path)
        .with_context(|| format!("{}: a socket's path has at most 107 bytes", failed("name")))?;
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            bail!("{}: there is something else of that name", failed("create"));
        }
        let probe = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        if connect(&probe, &address).is_ok() {
            bail!("{}: another program serves it", failed("create"));
        }
        std::fs::remove_file(path).with_context(|| failed("replace"))?;
    }
    // The file takes the socket's mode, less the umask: so it is never more
    // open than meant, and opened up afterwards.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).with_context(|| failed("restrict"))?;
    bind(&socket, &address).with_context(|| failed("create"))?;
    if open {
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(path, all).with_context(|| failed("open up"))?;
    }
    listen(&socket, 128).with_context(|| failed("listen on"))?;
    Ok(socket)
}

/// Ends the daemon of `runtime_dir` and its holder; returns what was ended.
///
/// # Errors
///
/// When there is neither, or one does not end.
pub fn shut_down(runtime_dir: &Path) -> anyhow::Result<String> {
    let mut ended = Vec::new();
    if let Some(pid) = Lock::owner(runtime_dir) {
        let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let raw = raw.ok_or_else(|| anyhow!("the lock file names pid {pid}"))?;
        let daemon = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())
            .with_context(|| format!("cannot reach vshmemd (pid {pid})"))?;
        // Asked again, now that the pid cannot become another process.
        if Lock::owner(runtime_dir) == Some(pid) {
            rustix::process::pidfd_send_signal(&daemon, rustix::process::Signal::INT)
                .with_context(|| format!("cannot signal vshmemd (pid {pid})"))?;
            let mut end = [rustix::event::PollFd::new(&daemon, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            if rustix::event::poll(&mut end, Some(&limit))? == 0 {
                bail!("vshmemd (pid {pid}) has not ended within 10 s");
            }
            ended.push(format!("vshmemd (pid {pid})"));
        }
    }
    // A holder without a daemon, left by a crash.
    if let Some(link) = Link::connect(runtime_dir)? {
        let pid = link.pid();
        link.release().with_context(|| format!("the holder (pid {pid}) does not leave"))?;
        ended.push(format!("its holder (pid {pid})"));
    }
    if ended.is_empty() {
        bail!("no vshmemd serves {}", runtime_dir.display());
    }
    Ok(ended.join(" and "))
}
