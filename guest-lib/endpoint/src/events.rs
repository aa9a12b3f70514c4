//! How an endpoint reaches sleepers and other peers.

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
}

/// Futexes, and the eventfds of the VMs that are connected now.
///
/// The daemon's server keeps it up to date; the endpoint only reads.
#[derive(Debug, Default)]
pub struct HostEvents {
    peers: Mutex<HashMap<u32, Vec<OwnedFd>>>,
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

    /// A VM is gone.
    pub fn disconnect(&self, ivshmem: u32) {
        self.lock().remove(&ivshmem);
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
}
