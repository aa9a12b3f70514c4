//! Finds, opens and wraps the devices of the `uio_vshmem` kernel module.
//!
//! In a guest, a region arrives as an ivshmem-doorbell PCI device. The module makes of it a
//! `/dev/vshmemN` (memory, and sleeping and waking on its words) and one UIO device per interrupt
//! vector. This crate has three layers, each usable without the next:
//!
//! - [`abi`]: the bytes of the module's ioctls, equal to `uio_vshmem/vshmem_abi.h` by test;
//! - [`raw`]: one plain function per ioctl over a descriptor, async-signal-safe, for libraries
//!   that live inside other people's programs;
//! - [`Device`], [`UioEvent`] and [`find`]: for the agent and for tools, with errors that name
//!   object, cause and remedy.
//!
//! It knows nothing of the region's format; what the module must know of it passes through
//! [`Device::bind`].
//!
//! ```no_run
//! use vshmem_driver::Device;
//!
//! let device = Device::open_first()?;
//! let info = device.info()?;
//! println!("id {}, {} MiB", info.ivposition, info.bar2_size >> 20);
//! let mut control = device.uio(1)?;
//! let count = control.wait()?; // until somebody rings (info.ivposition, 1)
//! # let _ = count;
//! # Ok::<(), vshmem_driver::Error>(())
//! ```

pub mod abi;
mod device;
mod error;
pub mod find;
pub mod raw;
mod uio;

pub use abi::{Bind, Info};
pub use device::{Access, Device};
pub use error::Error;
pub use raw::Errno;
pub use uio::UioEvent;
