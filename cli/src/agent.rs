//! `vshmem agent`: the endpoint of a guest.

use crate::args::Agent;
use anyhow::{Context, anyhow, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tracing::{error, info, warn};
use vshmem_core::attach::Transport;
use vshmem_core::layout::{REGION_BASE, Table, lane, peer, wake};
use vshmem_core::task::peer_state;
use vshmem_core::{Corrupt, Offset, Region};
use vshmem_driver::find::Sysfs;
use vshmem_driver::{Access, Bind, Device, Errno, Info, UioEvent};
use vshmem_endpoint::{Endpoint, Enter, Events, Memory, Policy, Setup, boot_id, enter};

/// Tasks one user of the guest may have, less where the region has fewer slots.
const TASKS_PER_UID: usize = 1024;

/// Sleeping and ringing through the module.
struct ModuleEvents(Device);

impl Events for ModuleEvents {
    fn wake_local(&self, _: &AtomicU32, at: Offset) {
        if let Err(Errno(e)) = self.0.wake(at.plus(REGION_BASE).0, u32::MAX) {
            warn!(%at, errno = e, "cannot wake a sleeper");
        }
    }

    fn ring(&self, ivshmem: u32, vector: u32) {
        if let Err(Errno(e)) = self.0.ring(ivshmem, vector) {
            warn!(ivshmem, vector, errno = e, "cannot ring a peer");
        }
    }

    fn doorbell(&self, _: u32) -> Option<OwnedFd> {
        None
    }
}

/// A region that is served.
struct Served {
    name: String,
    endpoint: Endpoint,
    control: UioEvent,
    /// Tasks attach here, whichever incarnation of this guest serves them.
    listener: OwnedFd,
    /// Held for as long as the socket is ours.
    _lock: File,
}

/// Serves until killed, or until a region can no longer be served.
pub fn run(runtime_dir: &Path, args: &Agent) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(runtime_dir);
    made.with_context(|| format!("cannot create {}", runtime_dir.display()))?;
    let nodes = match Sysfs::default().nodes() {
        // The module is the one thing missing that can be had here.
        Err(vshmem_driver::Error::NotLoaded { .. }) => {
            vshmem_driver::find::load_module()?;
            Sysfs::default().nodes()?
        }
        other => other?,
    };
    let mut served = Vec::new();
    for name in &args.regions {
        let one = serve(runtime_dir, name, &nodes).with_context(|| format!("region {name}"))?;
        served.push(one);
    }
    if let Some(path) = &args.ready_file {
        announce(path)?;
    }
    loop {
        step(&mut served, &nodes)?;
    }
}

/// Waits for something to do and does it.
fn step(served: &mut [Served], nodes: &[PathBuf]) -> anyhow::Result<()> {
    let fds = served.iter().flat_map(|s| [s.endpoint.epoll_fd(), s.control.as_fd()]);
    let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e).context("cannot wait for events"),
    }
    let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    drop(fds);
    for (s, ready) in served.iter_mut().zip(ready.chunks(2)) {
        // First: a program that attaches now is to find a peer.
        if !s.endpoint.is_member() {
            enter_anew(s, nodes).with_context(|| format!("region {}", s.name))?;
            continue;
        }
        if ready.first() == Some(&true) {
            s.endpoint.dispatch();
        }
        if ready.get(1) == Some(&true) {
            s.control.wait()?;
            s.endpoint.control_doorbell();
        }
    }
    Ok(())
}

/// Enters a region again out of which this guest was thrown.
fn enter_anew(served: &mut Served, nodes: &[PathBuf]) -> anyhow::Result<()> {
    error!(
        region = served.name,
        tasks = served.endpoint.tasks(),
        "the host declared this guest dead (it was paused, or `vshmem peer fence` was mistaken): \
         what its programs held was given to others, and their calls fail with EIDRM until they are \
         started again; entering the region anew"
    );
    let listener = served.listener.as_fd();
    let (endpoint, control) =
        enter_region(&served.name, nodes, || Ok(listener.try_clone_to_owned()?))?;
    served.endpoint = endpoint;
    served.control = control;
    // A wake meant for the peer it was may have been lost: those who are out are to find out.
    served.endpoint.wake_all();
    Ok(())
}

/// A device with its region.
struct Found {
    device: Arc<ModuleEvents>,
    info: Info,
    region: Region<Memory>,
}

fn serve(runtime_dir: &Path, name: &str, nodes: &[PathBuf]) -> anyhow::Result<Served> {
    // First of all, so that a second agent touches nothing.
    let lock = lock(runtime_dir, name)?;
    let mut kept = None;
    let (endpoint, control) = enter_region(name, nodes, || {
        let listener = listener(&runtime_dir.join(format!("{name}.sock")))?;
        Ok(kept.insert(listener).as_fd().try_clone_to_owned()?)
    })?;
    let listener = kept.context("an endpoint without a socket")?;
    Ok(Served { name: name.to_owned(), endpoint, control, listener, _lock: lock })
}

/// Makes this guest a peer of region `name`, served on what `listener` gives: asked for last.
fn enter_region(
    name: &str,
    nodes: &[PathBuf],
    listener: impl FnOnce() -> anyhow::Result<OwnedFd>,
) -> anyhow::Result<(Endpoint, UioEvent)> {
    let Found { device, info, region } = find(name, nodes)?;
    if info.vectors <= peer::CONTROL_VECTOR {
        bail!(
            "{} has {} interrupt vectors, {} are needed: start the VM with -device \
             ivshmem-doorbell,vectors=2",
            device.0.path().display(),
            info.vectors,
            peer::CONTROL_VECTOR + 1
        );
    }
    // Opened before the first ring could be answered: it counts from here on.
    let control = device.0.uio(peer::CONTROL_VECTOR)?;
    let host_name = rustix::system::uname();
    let new = Enter {
        ivshmem: info.ivposition,
        boot: boot_id().context("cannot tell this boot from others")?,
        vectors: info.vectors,
        name: &host_name.nodename().to_string_lossy(),
    };
    let index = enter(&region, &new)?;
    device.0.bind(&geometry(&region, index, info.ivposition)?)?;
    device.ring(peer::HOST_IVSHMEM, peer::CONTROL_VECTOR);
    let slots = region.table(Table::Tasks).count;
    let quota = usize::try_from(slots / 4 * 3).unwrap_or(TASKS_PER_UID).min(TASKS_PER_UID);
    let read_only = device.0.reopen(Access::ReadOnly)?.as_fd().try_clone_to_owned()?;
    let endpoint = Endpoint::open(Setup {
        region,
        peer: index,
        read_write: device.0.as_fd().try_clone_to_owned()?,
        read_only,
        transport: Transport::Module,
        listener: listener()?,
        policy: Policy::open(quota),
    })?;
    info!(region = name, peer = index, device = %device.0.path().display(), "serving");
    Ok((endpoint, control))
}

/// The device whose region is called `name`: devices have no order that lasts.
fn find(name: &str, nodes: &[PathBuf]) -> anyhow::Result<Found> {
    let mut others = Vec::new();
    for node in nodes {
        match open(node) {
            Ok(found) if found.region.name()? == name => return Ok(found),
            Ok(found) => others.push(format!("{} ({})", found.region.name()?, node.display())),
            Err(e) => others.push(format!("{}: {e:#}", node.display())),
        }
    }
    Err(anyhow!(
        "no device of this guest has it; there are: {}. Attach it to the VM, or correct --region",
        others.join(", ")
    ))
}

fn open(node: &Path) -> anyhow::Result<Found> {
    let device = Device::open(node, Access::ReadWrite)?;
    let info = device.info()?;
    let fd = device.as_fd().try_clone_to_owned()?;
    let device = Arc::new(ModuleEvents(device));
    let len = info.bar2_size.checked_sub(REGION_BASE).context("its memory is too small")?;
    let memory = Memory::map(&fd, len, device.clone())
        .with_context(|| format!("cannot map {}", node.display()))?;
    Ok(Found { device, info, region: Region::open(memory)? })
}

/// Where the module finds this peer's words: it counts from the start of BAR2.
fn geometry(region: &Region<Memory>, index: u32, ivshmem: u32) -> Result<Bind, Corrupt> {
    let lanes = region.table(Table::Lanes);
    let of = |at: Offset| at.plus(REGION_BASE).0;
    Ok(Bind {
        peer_off: of(region.element(Table::Peers, index)?.plus(peer::STATE)),
        wake_off: of(region.element(Table::Wake, index)?),
        lanes_off: of(lanes.at),
        lane_stride: lane::STRIDE as u32,
        lane_count: lanes.count as u32,
        status_off: lane::STATUS as u32,
        summary_words: wake::SUMMARY as u32,
        dead_value: peer_state(peer::DEAD, ivshmem),
        host_id: peer::HOST_IVSHMEM,
        host_vector: peer::CONTROL_VECTOR,
        wake_vector: peer::WAKE_VECTOR,
        pad: [0; 2],
    })
}

fn lock(runtime_dir: &Path, name: &str) -> anyhow::Result<File> {
    let path = runtime_dir.join(format!("{name}.agent.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::WOULDBLOCK => anyhow!("another agent serves it ({})", path.display()),
        e => anyhow!("cannot lock {}: {e}", path.display()),
    })?;
    Ok(file)
}

/// Everybody may connect; what they may do, the credentials decide. With the lock held, a socket
/// that is there is a dead agent's.
fn listener(path: &Path) -> anyhow::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let failed = || format!("cannot listen on {}", path.display());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path).with_context(failed)?).with_context(failed)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o666)).with_context(failed)?;
    listen(&socket, 128).with_context(failed)?;
    Ok(socket)
}

/// The file appears whole or not at all.
fn announce(path: &Path) -> anyhow::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    fs::write(&temporary, format!("{}\n", std::process::id()))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write --ready-file {}", path.display()))
}
