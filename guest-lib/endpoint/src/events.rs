//! How an endpoint reaches sleepers and other peers.

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::futex;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};
use vshmem_core::Offset;

/// The second half of a transport, as an endpoint needs it: [`HostEvents`] on the host, the
/// kernel module's ioctls in a guest. Everything here is a hint that may be lost.
pub trait Events: Send + Sync {
    /// Wakes whoever of this kernel sleeps on `word`, the word at `at`.
    fn wake_local(&self, word: &AtomicU32, at: Offset);

    /// Interrupts the peer with this ivshmem ID.
    fn ring(&self, ivshmem: u32, vector: u32);

    /// A descriptor with which a task may ring that peer's wake vector itself; `None` where there
    /// is no such peer, or tasks ring in another way.
    fn doorbell(&self, ivshmem: u32) -> Option<OwnedFd>;

    /// Kills the VM with this ivshmem ID, which cannot be undone. Only the host can.
    fn kill(&self, _ivshmem: u32) -> Killed {
        Killed::Nobody
    }
}

/// What became of a VM that was to be killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Killed {
    /// No process can be running it: none is connected, and none that was is alive.
    Nobody,
    /// Its process was sent SIGKILL, or has ended by itself.
    Sent {
        /// Its pid.
        pid: u32,
    },
    /// Somebody runs it whose process is not known: the one that connected has passed it on.
    Unknown {
        /// The pid of the one that connected.
        pid: u32,
    },
    /// The kernel does not let this process do it.
    Refused {
        /// The VM's process.
        pid: u32,
        /// What it says.
        why: Errno,
    },
}

/// The process of a VM.
#[derive(Debug)]
struct Vmm {
    pid: u32,
    pidfd: Option<OwnedFd>,
}

/// Futexes, and the eventfds of the VMs that are connected now.
///
/// The daemon's server keeps it up to date; the endpoint only reads.
#[derive(Debug, Default)]
pub struct HostEvents {
    peers: Mutex<HashMap<u32, Vec<OwnedFd>>>,
    processes: Mutex<HashMap<u32, Vmm>>,
}

impl HostEvents {
    /// Without any VM.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A VM is connected: the eventfds of its vectors, in order.
    pub fn connect(&self, ivshmem: u32, vectors: Vec<OwnedFd>) {
        self.lock().insert(ivshmem, vectors);
    }

    /// A VM cannot be rung any more.
    pub fn disconnect(&self, ivshmem: u32) {
        self.lock().remove(&ivshmem);
    }

    /// A VM is run by process `pid`, by its pidfd where that could be had: until [`Self::ended`].
    pub fn runs(&self, ivshmem: u32, pid: u32, pidfd: Option<OwnedFd>) {
        self.processes().insert(ivshmem, Vmm { pid, pidfd });
    }

    /// A VM's process has ended, but the VM has not: another process runs it.
    pub fn passed_on(&self, ivshmem: u32) {
        if let Some(vmm) = self.processes().get_mut(&ivshmem) {
            vmm.pidfd = None;
        }
    }

    /// A VM's process has ended.
    pub fn ended(&self, ivshmem: u32) {
        self.processes().remove(&ivshmem);
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Vmm>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Vec<OwnedFd>>> {
        // A panic elsewhere leaves a map that is still a map.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events for HostEvents {
    fn wake_local(&self, word: &AtomicU32, _: Offset) {
        // The futex is shared between processes, so not PRIVATE.
        if let Err(e) = futex::wake(word, futex::Flags::empty(), i32::MAX as u32) {
            tracing::warn!(error = %e, "cannot wake a futex");
        }
    }

    fn ring(&self, ivshmem: u32, vector: u32) {
        let peers = self.lock();
        let Some(fd) = peers.get(&ivshmem).and_then(|v| v.get(vector as usize)) else { return };
        // A full counter means that the peer has been rung and not yet looked: enough. (QEMU's
        // eventfds do not block; the daemon makes them so.)
        let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
    }

    fn doorbell(&self, ivshmem: u32) -> Option<OwnedFd> {
        let peers = self.lock();
        let fd = peers.get(&ivshmem)?.first()?;
        fd.as_fd().try_clone_to_owned().ok()
    }

    fn kill(&self, ivshmem: u32) -> Killed {
        let processes = self.processes();
        let Some(vmm) = processes.get(&ivshmem) else { return Killed::Nobody };
        let pid = vmm.pid;
        let Some(pidfd) = &vmm.pidfd else { return Killed::Unknown { pid } };
        match pidfd_send_signal(pidfd, Signal::KILL) {
            // Ended, and not noticed yet.
            Ok(()) | Err(Errno::SRCH) => Killed::Sent { pid },
            Err(why) => Killed::Refused { pid, why },
        }
    }
}
