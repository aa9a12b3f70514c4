//! System V IPC between virtual machines, containers and the host, for Rust programs.
//!
//! A [`Session`] makes the process a task of a region, through the endpoint of its kernel
//! (`vshmemd` on the host, `vshmem agent` in a guest). Its calls then work on the region directly:
//! an operation that need not wait makes no system call.
//!
//! ```no_run
//! use vshmem::{Flags, Key, SemOp, Session};
//!
//! fn main() -> vshmem::Result<()> {
//!     let session = Session::attach()?;
//!     let lock = session.semaphores(Key(42), 1, Flags::CREATE.mode(0o600))?;
//!     let shared = session.segment(Key(42), 4096, Flags::CREATE.mode(0o600))?.attach()?;
//!     lock.op(&[SemOp::wait_zero(0), SemOp::add(0, 1).undo()])?;
//!     shared.write(0, b"hello, other machine");
//!     lock.op(&[SemOp::add(0, -1).undo()])
//! }
//! ```
//!
//! A wait spins for a little before it sleeps. The environment variable `VSHMEM_SPIN` caps that, in
//! nanoseconds; 0 forbids it.
//!
//! Non-goals: the C ABI and the preload (`vshmem-capi`), semantics (`vshmem-sysv`).
//!
//! ```text
//!  Session ── semaphores · queue · segment        this crate's API
//!    │ call: a lane of the calling thread
//!  lanes ── fork ── pieces (segments mapped here)
//!    │
//!  Mapping: Mem + Park    link: the endpoint's socket, descriptors, doorbells
//! ```

pub mod abi;
mod areas;
mod call;
mod credentials;
mod environment;
mod error;
mod fd;
mod fork;
mod interrupt;
mod keeper;
mod lanes;
mod link;
mod lock;
mod mapping;
mod module;
mod objects;
mod park;
mod pieces;
mod place;
mod rules;
mod session;
mod sharing;
mod space;
mod spin;
mod sys;
pub mod user;
mod whereabouts;

pub use call::{Word, system_call};
pub use environment::{rules_from_environment, socket_from_environment, socket_of};
pub use error::{Error, Result};
pub use fork::Forking;
pub use interrupt::Signals;
pub use keeper::Rights;
pub use mapping::Mapping;
pub use objects::{Attached, Flags, Key, Message, Queue, Segment, SemOp, SemSet};
pub use park::{Slept, Spot};
pub use place::Placement;
pub use rules::{BadRule, Rules, Target};
pub use session::Session;
pub use sharing::Sharing;
pub use space::AddressSpace;
pub use vshmem_core::layout::{Limit, MAX_NUMBER};
pub use vshmem_core::{Region, region::Kind};
/// What the calls do: for those who need every detail of them.
pub use vshmem_sysv as sysv;

/// The README's example is compiled like any other.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
