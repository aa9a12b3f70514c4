//! The contents of a region in the vshmem format: its [`RegionService`] is an
//! [`Endpoint`] of the host.

use crate::codec::IvshmemId;
use crate::config::{Backing, Region as Config};
use crate::service::{Open, RegionService, Services, Start, Vm};
use anyhow::{Context, anyhow};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use tracing::{info, warn};
use vshmem_core::attach::Transport;
use vshmem_core::format::{FormatError, Spec};
use vshmem_core::layout::{Limit, peer};
use vshmem_core::region::Region;
use vshmem_endpoint::{Endpoint, HostEvents, Memory, Policy, Setup};

/// Tasks of one user unless told: enough for any program, and far from all.
const TASKS_PER_UID: usize = 1024;

/// Makes endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endpoints;

/// One region's endpoint, and the VMs it can ring.
struct Host {
    /// `None` once stopped.
    endpoint: Option<Endpoint>,
    events: Arc<HostEvents>,
}

impl Services for Endpoints {
    fn open(&self, open: Open<'_>) -> anyhow::Result<Box<dyn RegionService>> {
        let Open { region: config, memory, read_only, start, attach } = open;
        let spec = spec(config)?;
        let events = Arc::new(HostEvents::new());
        let map = || {
            Memory::map(memory.as_fd(), spec.len, events.clone()).context("cannot map the memory")
        };
        let region = match start {
            Start::Fresh => Region::format(map()?, &spec)?,
            Start::Resumed => Region::open(map()?)?,
            Start::Reopened => match Region::open(map()?) {
                // Its daemon was killed between making and formatting it: the
                // magic is what formatting writes last.
                Err(FormatError::Magic(0)) => Region::format(map()?, &spec)?,
                other => other?,
            },
        };
        if region.number() != config.number {
            // Ids that programs hold name it.
            warn!(
                region = %config.name,
                number = region.number(),
                configured = config.number,
                "the region keeps its number until it is made anew"
            );
        }
        let mut endpoint = Endpoint::open(Setup {
            region,
            peer: 0,
            read_write: memory.as_fd().try_clone_to_owned()?,
            read_only,
            transport: Transport::Memfd,
            listener: attach,
            policy: policy(config),
        })?;
        if start == Start::Reopened {
            bury_vms(&mut endpoint)?;
        }
        Ok(Box::new(Host { endpoint: Some(endpoint), events }))
    }
}

/// Nobody but us has this file open (its lock says so): whatever VMs are in
/// its peer table ended with the server that knew them.
fn bury_vms(endpoint: &mut Endpoint) -> anyhow::Result<()> {
    let peers = endpoint.region().peers().map_err(|e| anyhow!("{e}"))?;
    for p in peers.into_iter().filter(|p| p.index != 0 && p.state != peer::DEAD) {
        info!(peer = p.index, name = p.name, "a VM of a former server is in the table: dead");
        endpoint.peer_died(p.ivshmem);
    }
    Ok(())
}

fn spec(config: &Config) -> Result<Spec, FormatError> {
    let mut spec = Spec::for_file(config.name.as_str(), config.size)?;
    let l = config.limits;
    spec.number = config.number;
    spec.owner = rustix::process::geteuid().as_raw();
    spec.tasks = l.tasks.map_or(0, u64::from);
    // What was allocated at the start stays.
    spec.sparse = config.backing == Backing::Memfd && !config.prealloc;
    let limits = [
        (Limit::Shmmni, l.shmmni.map(u64::from)),
        (Limit::Shmall, l.shmall),
        (Limit::Shmmax, l.shmmax),
        (Limit::Semmsl, l.semmsl.map(u64::from)),
        (Limit::Semmns, l.semmns.map(u64::from)),
        (Limit::Semopm, l.semopm.map(u64::from)),
        (Limit::Semmni, l.semmni.map(u64::from)),
        (Limit::Msgmax, l.msgmax.map(u64::from)),
        (Limit::Msgmnb, l.msgmnb.map(u64::from)),
        (Limit::Msgmni, l.msgmni.map(u64::from)),
        (Limit::ShmRmidForced, l.shm_rmid_forced.map(u64::from)),
    ];
    spec.limits = limits.into_iter().filter_map(|(limit, n)| Some((limit, n?))).collect();
    Ok(spec)
}

fn policy(config: &Config) -> Policy {
    let per_uid = config.limits.tasks_per_uid.and_then(|n| usize::try_from(n).ok());
    Policy {
        uids: config.allow_uids.clone(),
        gids: config.allow_gids.clone(),
        ..Policy::open(per_uid.unwrap_or(TASKS_PER_UID))
    }
}

impl RegionService for Host {
    fn vm_connected(&mut self, vm: Vm) {
        self.events.connect(vm.id.0.into(), vm.ring);
        self.events.runs(vm.id.0.into(), vm.pid, vm.process);
    }

    fn vm_detached(&mut self, id: IvshmemId) {
        self.events.disconnect(id.0.into());
    }

    fn vm_passed_on(&mut self, id: IvshmemId) {
        self.events.passed_on(id.0.into());
    }

    fn vm_dead(&mut self, id: IvshmemId) {
        self.events.disconnect(id.0.into());
        self.events.ended(id.0.into());
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.peer_died(id.0.into());
        }
    }

    fn doorbell(&mut self, vector: u16) {
        let Some(endpoint) = &mut self.endpoint else { return };
        match u32::from(vector) {
            peer::WAKE_VECTOR => endpoint.wake_doorbell(),
            peer::CONTROL_VECTOR => endpoint.control_doorbell(),
            _ => warn!(vector, "a guest rang a vector without a meaning"),
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.endpoint.as_ref().map(Endpoint::epoll_fd)
    }

    fn dispatch(&mut self) {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.dispatch();
        }
    }

    fn is_idle(&self) -> bool {
        self.endpoint.as_ref().is_none_or(Endpoint::is_idle)
    }

    fn stop(&mut self) {
        self.endpoint = None;
    }
}
