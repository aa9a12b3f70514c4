//! How a guest becomes a peer.

use crate::memory::Memory;
use tracing::{info, warn};
use vshmem_core::layout::peer;
use vshmem_core::task::Owner;
use vshmem_core::{Corrupt, Region};
use vshmem_sysv::reap;

/// Who enters.
#[derive(Clone, Copy, Debug)]
pub struct Enter<'a> {
    /// The ivshmem ID that the device reports.
    pub ivshmem: u32,
    /// This kernel's boot id, see [`crate::boot_id`].
    pub boot: [u8; 16],
    /// Its interrupt vectors.
    pub vectors: u32,
    /// What listings call it.
    pub name: &'a str,
}

/// Why a guest cannot enter.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// All peer slots are taken.
    #[error(
        "all {} peer slots of the region are taken: stop a VM, or ask the host's vshmemd to reap \
         dead ones (it does when its VMs end)",
        peer::COUNT
    )]
    Full,
    /// The region is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// What an earlier boot left cannot be reaped.
    #[error("cannot reap what an earlier boot of this VM left: {0}")]
    Reap(vshmem_sysv::Error),
}

/// Enters this kernel into the peer table and returns its index; ring the host's control vector
/// afterwards.
///
/// The entry of a former agent of the same boot is taken over, unless it was fenced: that one stays
/// as it is until the VM ends. Entries of earlier boots (a panic,
/// a kexec: the VMM lived on) are marked dead and reaped: their kernel cannot run any more, since
/// this one does.
///
/// # Errors
/// See [`EnterError`].
///
/// # If the caller dies
/// A slot it claimed carries its ivshmem ID: the next agent, or the host, settles it.
pub fn enter(region: &Region<Memory>, new: &Enter<'_>) -> Result<u32, EnterError> {
    let mut mine = None;
    let mut stale = Vec::new();
    for p in region.peers()? {
        if p.index == 0 || p.ivshmem != new.ivshmem {
            continue;
        }
        if p.state == peer::LIVE && p.boot == new.boot && mine.is_none() {
            mine = Some(p.index);
        } else if p.fenced && p.boot == new.boot {
            warn!(
                peer = p.index,
                "this guest was fenced: what ran then is shut out of the region for good, what \
                 starts now is not"
            );
        } else {
            warn!(peer = p.index, "an earlier boot of this VM is still entered: it is dead");
            region.set_peer_state(p.index, peer::DEAD)?;
            stale.push(p.index);
        }
    }
    let index = match mine {
        Some(index) => index,
        None => region
            .claim_peer(new.ivshmem, new.boot, new.vectors, new.name)?
            .ok_or(EnterError::Full)?,
    };
    info!(peer = index, ivshmem = new.ivshmem, again = mine.is_some(), "entered the region");
    if stale.is_empty() {
        return Ok(index);
    }
    let incarnation = region.peer(index)?.map_or(0, |p| p.incarnation);
    let owner = Owner::Endpoint { peer: index, incarnation };
    region.mem().enter(region, index);
    // Without a free lane the host, who was rung, reaps them.
    if let Some(mut lane) = region.claim_lane(owner)? {
        for old in stale {
            reap::peer(region, &mut lane, old).map_err(EnterError::Reap)?;
        }
        region.release_lane(lane.id(), owner)?;
    }
    Ok(index)
}
