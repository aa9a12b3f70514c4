//! Guest kernels and root file systems made from Debian's packages.
//!
//! A guest needs a kernel, the modules that reach its devices, and a first
//! process. The kernel comes from the package sources that apt already has; it
//! is unpacked into a cache and never installed, so that nothing of the host
//! changes and no privilege is needed. The first process is this crate's own
//! `init/main.rs`, embedded as a static program.
//!
//! Non-goals: a distribution image (the guest sees the host's root file system
//! instead), kernels built from source, other distributions' package tools.
//!
//! ```text
//! apt-get download ─► dpkg -x ─► vmlinuz ─► vmlinux        ┐
//!                                modules ─► what they need ├─► QEMU -kernel, -initrd
//! guest-driver/uio_vshmem ─► make -C headers ─► .ko ───────┘
//! ```
//!
//! ```no_run
//! use vshmem_images::{Cache, Initramfs, Kernel, KernelChoice};
//!
//! let cache = Cache::open()?;
//! let kernel = Kernel::fetch(&cache, &KernelChoice::Default)?;
//! let initrd = Initramfs::for_host_root(&kernel).build(&cache)?;
//! println!("{} {}", kernel.vmlinux.display(), initrd.display());
//! # Ok::<(), vshmem_images::Error>(())
//! ```

#![forbid(unsafe_code)]

mod cache;
mod cpio;
mod error;
mod initramfs;
mod kernel;
mod libs;
mod module;
mod modules;
mod tools;

pub use cache::Cache;
pub use cpio::Cpio;
pub use error::{Error, Result};
pub use initramfs::Initramfs;
pub use kernel::{Kernel, KernelChoice};
pub use libs::libraries_of;
pub use module::{build_module, headers, module_source};
pub use tools::{REQUIRED, Requirement, ensure_installed, missing};
