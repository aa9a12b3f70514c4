//! The bytes every vshmem peer shares, and the only code that changes them.
//!
//! A region is one memory object mapped by every peer: the host, its containers and its virtual
//! machines. This crate lays it out ([`layout`], [`mod@format`]), changes it in transactions that no
//! death and no stopped process can leave half done ([`txn`]), hands out its memory ([`arena`]),
//! lets threads sleep for one another ([`wait`]) and keeps the tables of peers and tasks ([`task`]).
//!
//! It does no I/O: a [`mem::Platform`] lends it memory, sleep, wake and clocks. The same code runs
//! over a mapped region, under the loom model checker and under a memory that dies at a chosen
//! store ([`mem::CrashMem`]).
//!
//! Non-goals: System V semantics (`vshmem-sysv`), descriptors and sockets (`vshmem-endpoint`).
//!
//! ```text
//!  sysv: sets, queues, segments
//!    │ Region::transact            one closure = one atomic, recoverable step
//!  txn ── arena ── task ── wait    cells, locks, journal, blocks, pages, slots
//!    │ Mem + Park                  one function turns an offset into an address
//!  mapping (memfd, BAR2) · heap · loom · crash
//! ```
//!
//! ```
//! use vshmem_core::{format::Spec, mem::HeapMem, region::Region};
//!
//! let mem = HeapMem::new(14 << 20);
//! let region = Region::format(mem, &Spec::new("demo", 14 << 20)).unwrap();
//! assert_eq!(region.name().unwrap(), "demo");
//! ```

pub mod arena;
pub mod attach;
pub mod clock;
pub mod format;
pub mod layout;
#[cfg(not(loom))]
pub mod mapped;
pub mod mem;
pub mod region;
pub mod task;
mod turns;
pub mod txn;
pub mod wait;

pub use mem::{Corrupt, Offset, Platform};
pub use region::Region;
pub use turns::Turns;
pub use txn::{Lane, LaneId, Txn};
