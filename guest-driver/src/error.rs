//! What can go wrong, each with its remedy.

use std::io;
use std::path::PathBuf;

use crate::raw::Errno;

/// Why a device could not be found, opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine has no ivshmem device at all.
    #[error(
        "no ivshmem device (1af4:1110) on the PCI bus: this machine was started without a \
         region; start it with `vshmem vm run`, or give its VMM -device ivshmem-doorbell"
    )]
    NoDevice,

    /// There are devices, but none with interrupts.
    #[error(
        "PCI device {address} is ivshmem-plain, which has no doorbell: uio_vshmem needs \
         -device ivshmem-doorbell,vectors=2"
    )]
    NoDoorbell {
        /// PCI address of the first such device.
        address: String,
    },

    /// The module is not in the kernel.
    #[error(
        "uio_vshmem is not loaded: PCI device {address} has no driver; run `modprobe uio_vshmem` \
         (if it is not installed: dkms, see guest-driver/README.md)"
    )]
    NotLoaded {
        /// PCI address of the device that needs it.
        address: String,
    },

    /// Loading the module was tried, and failed.
    #[error(
        "uio_vshmem could not be loaded: {cause}; install it with dkms for kernel {kernel} (see \
         guest-driver/README.md) and load it as root"
    )]
    Load {
        /// What modprobe said, or why it could not be run.
        cause: String,
        /// The running kernel's release.
        kernel: String,
    },

    /// The device belongs to someone else.
    #[error(
        "PCI device {address} is held by driver {driver}, not uio_vshmem: write {address} to \
         /sys/bus/pci/drivers/{driver}/unbind, then to /sys/bus/pci/drivers/uio_vshmem/bind"
    )]
    OtherDriver {
        /// PCI address.
        address: String,
        /// The driver that holds it.
        driver: String,
    },

    /// The module is loaded and has not taken the device.
    #[error(
        "uio_vshmem is loaded but did not accept PCI device {address}: `dmesg | grep uio_vshmem` \
         tells why"
    )]
    Refused {
        /// PCI address.
        address: String,
    },

    /// The node exists and cannot be opened.
    #[error(
        "cannot open {path}: {source}; it is for root, other programs get descriptors from \
         `vshmem agent`"
    )]
    Open {
        /// The node.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// The file is no device of the module's.
    #[error("{path} is not a uio_vshmem device: {errno}; name a /dev/vshmemN")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it answered to INFO.
        errno: Errno,
    },

    /// Module and program disagree on the interface.
    #[error(
        "{path} has interface version {found}, this program needs {wanted}: install the \
         uio_vshmem of the same release",
        wanted = crate::abi::VERSION
    )]
    Version {
        /// The node.
        path: PathBuf,
        /// The version that the module reports.
        found: u32,
    },

    /// The module refused a request.
    #[error("{request} on {path} failed: {errno}{}", hint(.request, *.errno))]
    Request {
        /// The node.
        path: PathBuf,
        /// Which one.
        request: &'static str,
        /// What it answered.
        errno: Errno,
    },

    /// The device has fewer vectors.
    #[error(
        "{path} has no UIO device for vector {vector}: it has {vectors}; raise vectors= of \
         -device ivshmem-doorbell and of the region"
    )]
    NoVector {
        /// The node.
        path: PathBuf,
        /// The one asked for.
        vector: u32,
        /// How many there are.
        vectors: u32,
    },

    /// A file below /sys, or a UIO device, could not be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The error number behind it, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Request { errno, .. } | Self::NotOurs { errno, .. } => Some(errno.0),
            Self::Open { source, .. } | Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn hint(request: &str, errno: Errno) -> &'static str {
    match (request, errno.0) {
        (_, libc::ENODEV) => ": the device was removed; open it again when it is back",
        (_, libc::EPERM) => ": it needs CAP_SYS_ADMIN",
        (_, libc::EBADF) => ": the device was opened for reading only",
        ("BIND", libc::EINVAL) => ": the geometry does not lie inside BAR2",
        _ => "",
    }
}
