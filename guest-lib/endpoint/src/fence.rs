//! Declaring a VM dead that is paused or has gone mad.

use crate::door::{Answer, Refusal};
use crate::endpoint::Endpoint;
use crate::events::Killed;
use crate::sys::Credentials;
use rustix::io::Errno;
use tracing::{error, info, warn};
use vshmem_core::attach::{FENCE_ALIVE, Reply, Request};
use vshmem_core::layout::peer;
use vshmem_core::task::Peer;
use vshmem_sysv::reap;

impl Endpoint {
    /// Somebody wants a peer declared dead. Its VM is killed first, unless that is not wanted; then
    /// it is shut out, and others go on with what it held.
    ///
    /// Again, at the same time or later, it does nothing more.
    pub(crate) fn fence(&mut self, who: Credentials, request: Request) -> Result<Answer, Refusal> {
        let (index, incarnation) = (request.a as u32, request.b as u32);
        let alive = request.a & FENCE_ALIVE != 0;
        let entry = self.may_fence(who, index, incarnation)?;
        let name = &entry.name;
        let named = format!("peer {index} ({name})");
        let mut said = format!("{named} is fenced; its VM was not killed");
        if !alive {
            said = match self.region.mem().events().kill(entry.ivshmem) {
                Killed::Sent { pid } => format!("{named} is fenced; its VM (pid {pid}) was killed"),
                Killed::Nobody => {
                    warn!(peer = index, name, "a peer without a VM: reaping");
                    self.peer_died(entry.ivshmem);
                    format!("{named} is fenced; no process ran it any more")
                }
                Killed::Unknown { pid } => {
                    let text = format!(
                        "{named}: the process that connected it ({pid}) has passed it on, to whom \
                         is not known: kill the VM yourself, or fence it with --no-kill"
                    );
                    return Err(Refusal::new(Errno::BUSY, text));
                }
                Killed::Refused { pid, why } => {
                    let text = format!(
                        "{named}: cannot kill its VM (pid {pid}): {why}. Kill it yourself, or fence \
                         it with --no-kill"
                    );
                    return Err(Refusal::new(why, text));
                }
            };
        }
        warn!(peer = index, name, uid = who.uid, pid = who.pid, kill = !alive, "peer fenced");
        self.shut_out(&entry);
        Ok(Answer { reply: Reply { text: said, ..Reply::done() }, fds: Vec::new() })
    }

    /// The peer meant, if the asker may.
    fn may_fence(&self, who: Credentials, index: u32, incarnation: u32) -> Result<Peer, Refusal> {
        if self.peer != 0 {
            let text = "a guest cannot fence others: run `vshmem peer fence` on the host";
            return Err(Refusal::new(Errno::PERM, text));
        }
        let owner = self.region.owner()?;
        if ![0, self.own_uid, owner].contains(&who.uid) {
            let text = format!(
                "uid {} may not fence peers: only root and the region's owner (uid {owner}) may",
                who.uid
            );
            return Err(Refusal::new(Errno::PERM, text));
        }
        if index == 0 || u64::from(index) >= peer::COUNT {
            let text = match index {
                0 => "peer 0 is the host itself: it cannot be fenced".to_owned(),
                _ => format!("there is no peer {index}: `vshmem peer list` names those there are"),
            };
            return Err(Refusal::new(Errno::INVAL, text));
        }
        let entry = self.region.peer(index)?.filter(|p| p.incarnation == incarnation);
        entry.ok_or_else(|| Refusal::new(Errno::SRCH, format!("peer {index} is gone already")))
    }

    /// What a fenced peer holds goes to others; its agent, should it run again, is told to look.
    fn shut_out(&mut self, entry: &Peer) {
        let index = entry.index;
        match self.region.fence_peer(index, entry.incarnation) {
            Ok(_) => {}
            Err(e) => error!(peer = index, error = %e, "cannot mark a fenced peer"),
        }
        // Dead by another account: then all of it can go.
        self.reap_peer(index);
        if let Err(e) = reap::fenced(&self.region, &mut self.lane, index) {
            error!(peer = index, error = %e, "cannot shut out a fenced peer");
        }
        self.rescan();
        self.region.mem().events().ring(entry.ivshmem, peer::CONTROL_VECTOR);
    }

    /// On the host: finishes what an endpoint before this one had begun.
    pub(crate) fn shut_out_fenced(&mut self) {
        let peers = match self.region.peers() {
            Ok(peers) if self.peer == 0 => peers,
            Ok(_) => return,
            Err(e) => return error!(error = %e, "cannot read the peer table"),
        };
        for p in peers.iter().filter(|p| p.fenced) {
            info!(peer = p.index, name = p.name, "a fenced peer");
            self.shut_out(p);
        }
    }
}
