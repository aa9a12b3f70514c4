//! The local service tasks attach through: attach socket, death watch, dispatcher, reaper.
//!
//! One kernel, one endpoint per region: inside `vshmemd` on the host, inside `vshmem agent` in a
//! guest. It hands out descriptors and task slots, watches its tasks by pidfd, and settles what
//! the dead leave behind. It is never in the way of an IPC operation, and it may be killed and
//! started again under running tasks: all it knows is in the region and in `/proc`.
//!
//! ```text
//!   task ── R.sock ──► door ──► requests ──► region: task slots, lanes
//!   its pidfd ───────► watch ──► vshmem_sysv::reap
//!   wake vector ─────► wake_doorbell ──► local sleepers
//!   control vector ──► control_doorbell ──► dead peers
//! ```
//!
//! Non-goals: making the memory, ringing hardware (see [`Events`]), System V semantics.
//!
//! # Embedding
//!
//! An [`Endpoint`] is one single-threaded state machine behind one descriptor. Nest
//! [`Endpoint::epoll_fd`] in a loop of your own and call [`Endpoint::dispatch`] when it is
//! readable; neither ever blocks. (`Endpoint` is `Send`, so it may as well have a thread.)
//!
//! On the host:
//!
//! ```no_run
//! use std::{os::fd::OwnedFd, sync::Arc};
//! use vshmem_core::{attach::Transport, format::Spec, region::Region};
//! use vshmem_endpoint::{Endpoint, HostEvents, Memory, Policy, Setup};
//!
//! # fn host(memory: OwnedFd, read_only: OwnedFd, listener: OwnedFd, size: u64, fresh: bool)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let spec = Spec::for_file("demo", size)?; // `spec.limits`, `spec.tasks` from the configuration
//! let events = Arc::new(HostEvents::new()); // keep a clone: connect and disconnect VMs in it
//! let mapped = Memory::map(&memory, spec.len, events.clone())?;
//! let region = if fresh { Region::format(mapped, &spec)? } else { Region::open(mapped)? };
//! let mut endpoint = Endpoint::open(Setup {
//!     region,
//!     peer: 0, // the host
//!     read_write: memory,
//!     read_only,
//!     transport: Transport::Memfd,
//!     listener, // SOCK_SEQPACKET, bound, listening
//!     policy: Policy::open(1024),
//! })?;
//! // vm_connected(vm):  events.connect(vm.id, vm.ring); events.runs(vm.id, vm.pid, vm.process)
//! // vm_detached(id):   events.disconnect(id)
//! // vm_dead(id):       events.disconnect(id); events.ended(id); endpoint.peer_died(id)
//! // doorbell(0):       endpoint.wake_doorbell()
//! // doorbell(1):       endpoint.control_doorbell()
//! // is_idle():         endpoint.is_idle()
//! endpoint.dispatch();
//! # Ok(())
//! # }
//! ```
//!
//! In a guest [`enter()`] claims the peer first, [`Setup::transport`] is `Module`, and [`Events`] is
//! the module's ioctls. Drop an `Endpoint` to stop: tasks keep their mappings, and the next
//! endpoint adopts them.

mod clock;
mod complaints;
mod door;
mod endpoint;
mod enter;
mod events;
mod fence;
mod foreign;
mod memory;
mod policy;
mod requests;
mod sys;
mod watch;

pub use endpoint::{Endpoint, Error, Setup};
pub use enter::{Enter, EnterError, enter};
pub use events::{Events, HostEvents, Killed};
pub use foreign::Bin;
pub use memory::Memory;
pub use policy::Policy;
pub use sys::boot_id;
