//! The endpoint's mapping of the region.

use crate::complaints::Complaints;
use crate::events::Events;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use vshmem_core::layout::REGION_BASE;
use vshmem_core::mapped::MappedMem;
use vshmem_core::mem::{Mem, Ordering, Park, Woken};
use vshmem_core::txn::LaneId;
use vshmem_core::{Corrupt, Offset, Region};

/// A region's memory as an endpoint uses it: mapped for as long as this value lives, with wakes
/// going out through [`Events`].
pub struct Memory {
    mem: MappedMem,
    len: usize,
    events: Arc<dyn Events>,
    me: OnceLock<Me>,
    complaints: Complaints,
}

/// What is known only after the region was opened and a peer slot claimed.
struct Me {
    peer: u32,
    /// The same words, for the peer table and the wake bitmaps.
    tables: Region<Words>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("mem", &self.mem).finish_non_exhaustive()
    }
}

impl Memory {
    /// Maps the `len` bytes of region behind `fd`, a file or a `/dev/vshmemN`.
    ///
    /// # Errors
    /// What `mmap` says; `EINVAL` for a length no region has.
    pub fn map(fd: impl AsFd, len: u64, events: Arc<dyn Events>) -> std::io::Result<Self> {
        let invalid = || std::io::Error::from(rustix::io::Errno::INVAL);
        let bytes = usize::try_from(len).ok().filter(|n| *n > 0 && n % 4096 == 0);
        let bytes = bytes.ok_or_else(invalid)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
        let at =
            unsafe { mmap(std::ptr::null_mut(), bytes, prot, MapFlags::SHARED, fd, REGION_BASE) }?;
        let base = NonNull::new(at.cast::<u8>()).ok_or_else(invalid)?;
        // SAFETY: M1: mapped above, unmapped in `drop` only; the owner of the memory is the daemon,
        // which seals or fully allocates it. M2: page-aligned, a multiple of 4096. M3: nobody else
        // in this process knows the address.
        let mem = unsafe { MappedMem::new(base, len) };
        Ok(Self { mem, len: bytes, events, me: OnceLock::new(), complaints: Complaints::default() })
    }

    /// Says which peer this endpoint is; wakes before that go nowhere.
    pub(crate) fn enter(&self, region: &Region<Self>, peer: u32) {
        let words = Words(self.words());
        let tables = Region::with_geometry(words, region.geometry().clone());
        let _ = self.me.set(Me { peer, tables });
    }

    fn words(&self) -> MappedMem {
        // SAFETY: the same bytes under the same promises; `Me` lives inside `self`, so it ends
        // before the mapping does.
        unsafe { MappedMem::new(self.mem.base(), self.mem.len()) }
    }

    /// What is said of this region, and how often.
    pub(crate) fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    /// Where the outside world is.
    pub fn events(&self) -> &dyn Events {
        &*self.events
    }

    /// Wakes the sleeper of a lane of this kernel.
    pub(crate) fn wake_here(&self, at: Offset) {
        if let Ok(word) = self.mem.futex_word(at) {
            self.events.wake_local(word, at);
        }
    }

    fn wake_there(&self, me: &Me, lane: u32, peer: u32) -> Result<(), Corrupt> {
        me.tables.post_wake(peer, LaneId(lane))?;
        if let Some(there) = me.tables.peer(peer)? {
            self.events.ring(there.ivshmem, vshmem_core::layout::peer::WAKE_VECTOR);
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; every `MappedMem` over it is inside `self`.
        if let Err(e) = unsafe { munmap(self.mem.base().as_ptr().cast(), self.len) } {
            tracing::error!(error = %e, "cannot unmap the region");
        }
    }
}

/// Words only: to reach the tables from inside [`Park::wake`].
struct Words(MappedMem);

macro_rules! forward_mem {
    ($type:ty, $field:tt) => {
        impl Mem for $type {
            fn len(&self) -> u64 {
                self.$field.len()
            }
            fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt> {
                self.$field.load(at, order)
            }
            fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt> {
                self.$field.store(at, value, order)
            }
            fn store_words(&self, at: Offset, words: &[u64]) -> Result<(), Corrupt> {
                self.$field.store_words(at, words)
            }
            fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
                self.$field.cas(at, old, new)
            }
            fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
                self.$field.fetch_or(at, bits)
            }
            fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt> {
                self.$field.swap(at, value)
            }
            fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
                self.$field.read_bytes(at, to)
            }
            fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
                self.$field.write_bytes(at, from)
            }
            fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
                self.$field.zero(at, len)
            }
            fn discard(&self, at: Offset, len: u64) -> bool {
                let Ok(start) = self.$field.bytes(at, len) else { return false };
                let (start, len) = (start.as_ptr().cast(), len as usize);
                // Only the host's files can; a guest's device refuses.
                // SAFETY: inside the region's mapping, whose bytes others may change at any time too.
                unsafe { madvise(start, len, Advice::LinuxRemove) }.is_ok()
            }
            fn relax(&self, i: u32) {
                self.$field.relax(i);
            }
        }
    };
}

forward_mem!(Memory, mem);
forward_mem!(Words, 0);

impl Park for Memory {
    /// An endpoint never sleeps for a task: it gives up at once.
    fn sleep(&self, _: Offset, _: u32, _: Option<u64>) -> Woken {
        Woken::Interrupted
    }

    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        let Some(me) = self.me.get() else { return };
        if peer == me.peer {
            self.wake_here(at);
        } else if let Err(e) = self.wake_there(me, lane, peer) {
            // The rescan of that peer finds its sleeper.
            if let Some(quiet) = self.complaints.worth("wake") {
                tracing::warn!(peer, lane, error = %e, quiet, "cannot wake");
            }
        }
    }

    fn now(&self) -> u64 {
        let t = clock_gettime(ClockId::Monotonic);
        (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
    }

    fn seconds(&self) -> u32 {
        let own = clock_gettime(ClockId::RealtimeCoarse);
        match self.me.get() {
            Some(me) => {
                let tables = me.tables.geometry();
                vshmem_core::clock::seconds(&self.mem, tables, me.peer, own.tv_sec, own.tv_nsec)
            }
            None => own.tv_sec as u32,
        }
    }

    fn spin(&self) -> u64 {
        0
    }
}

impl Park for Words {
    fn sleep(&self, _: Offset, _: u32, _: Option<u64>) -> Woken {
        Woken::Interrupted
    }

    fn wake(&self, _: u32, _: Offset, _: u32) {}

    fn now(&self) -> u64 {
        0
    }

    fn seconds(&self) -> u32 {
        0
    }

    fn spin(&self) -> u64 {
        0
    }
}
