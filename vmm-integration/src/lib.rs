//! Starts virtual machines with a vshmem region attached.
//!
//! [`run()`] boots a throw-away QEMU guest, runs one command in it and returns
//! the command's exit code; its output streams through. [`Vm`] is the same in
//! pieces, for whoever steers several guests. [`qemu_args`] is a pure function
//! from a description to QEMU's arguments, useful also to attach a region to a
//! machine that somebody else starts.
//!
//! Non-goals: machines that keep state, installed distributions, migration.
//!
//! ```text
//!  run(spec) ── socketpairs ──► QEMU: virtio-serial ports ──► init ──► COMMAND
//!      │                          │ 9p: the host's root, read-only
//!      │                          │ ivshmem-doorbell ──► vshmemd's R.ivshmem
//!      └─ dies ─► QEMU dies       └ virtio-net ──► the other guests of --net NAME
//! ```
//!
//! ```no_run
//! use vshmem_vmm::VmSpec;
//!
//! let code = vshmem_vmm::run(&VmSpec::new(["uname", "-a"]))?;
//! assert_eq!(code, 0);
//! # Ok::<(), vshmem_vmm::Error>(())
//! ```

mod accel;
mod args;
mod error;
mod io;
mod net;
mod process;
mod qemu;
mod run;
mod spec;
mod tap;
mod vm;
mod wire;

pub use accel::{Accel, choose_accel, tsc_khz};
pub use args::{Boot, Ports, qemu_args};
pub use error::{Error, Result};
pub use io::{Captured, VmIo};
pub use net::{NetBackend, NetLink, NetSpec};
pub use qemu::{Qemu, Version};
pub use run::run;
pub use spec::{RegionSocket, Root, VmSpec};
pub use vm::{Remote, Timing, Vm};
