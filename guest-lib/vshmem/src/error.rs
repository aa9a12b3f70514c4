//! What can go wrong between a program and its region.

use std::io;
use std::path::PathBuf;
use vshmem_core::attach::BadMessage;
use vshmem_core::format::FormatError;

/// Why a call, or the attaching before it, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As the kernel's System V call would fail.
    #[error(transparent)]
    Call(#[from] vshmem_sysv::Error),
    /// No endpoint answers.
    #[error("no vshmem endpoint at {}: {cause}; start vshmemd (on the host) or `vshmem agent` (in a guest), or use `vshmem run`", .socket.display())]
    NoEndpoint {
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// There is no room for the descriptors the endpoint gives.
    #[error("no free file descriptors to attach through {}: this process may have more (ulimit -n), or close some; attaching takes four", .socket.display())]
    Descriptors {
        /// The endpoint's socket.
        socket: PathBuf,
    },
    /// The endpoint said no.
    #[error("the vshmem endpoint at {} refused: {text}", .socket.display())]
    Refused {
        /// Its socket.
        socket: PathBuf,
        /// The errno it gave.
        status: u32,
        /// Its words.
        text: String,
    },
    /// The endpoint speaks something else.
    #[error("at {}: {cause}", .socket.display())]
    Protocol {
        /// Its socket.
        socket: PathBuf,
        /// What is wrong.
        cause: BadMessage,
    },
    /// What the endpoint handed out is no region.
    #[error("the region behind {}: {cause}", .socket.display())]
    Region {
        /// The endpoint's socket.
        socket: PathBuf,
        /// What is wrong.
        cause: FormatError,
    },
    /// The region could not be mapped.
    #[error("cannot map {len} bytes of the region behind {}: {cause}{}", .socket.display(), remedy(cause))]
    Map {
        /// The endpoint's socket.
        socket: PathBuf,
        /// Bytes.
        len: u64,
        /// Why.
        cause: io::Error,
    },
    /// All lanes are taken.
    #[error(
        "all {0} lanes of the region are taken (one per thread that uses it): give the region more tasks in its configuration"
    )]
    Lanes(u64),
    /// A segment of the endpoint's region could not be mapped here.
    #[error("cannot map the segment: {0}")]
    Segment(io::Error),
    /// Rules that cannot be read.
    #[error("VSHMEM_RULES: {0}")]
    Rules(#[from] crate::BadRule),
    /// An id would not tell which of two regions it is of.
    #[error(
        "the regions at {} and {} both have number {number}, and a program cannot use both: give one of them another `number` in vshmemd's configuration", .first.display(), .second.display()
    )]
    SameNumber {
        /// The number.
        number: u32,
        /// The region that was attached first.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The task was reaped though its process runs.
    #[error(
        "this process was shut out of its region: its machine, paused or not, was declared dead \
         there (`vshmem peer fence`), and what it held was given to others; start the program again"
    )]
    Fenced,
    /// A process has only so many sessions.
    #[error("more than {0} sessions in one process")]
    Sessions(usize),
}

/// What helps against a mapping's failure.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENOMEM) => "; let the process have more address space (ulimit -v)",
        _ => "",
    }
}

impl Error {
    /// The errno a C program sees.
    ///
    /// | cause | errno |
    /// |---|---|
    /// | the call itself | the kernel's for that case; `EIO` for a corrupt region |
    /// | no endpoint, or a strange one; rules or regions that cannot be | `ENOSYS`: there is no System V IPC here |
    /// | refused | what the endpoint said, `EACCES` as a rule |
    /// | no lanes, no memory, no descriptors | `ENOMEM` |
    /// | fenced | `EIDRM`: its objects are gone, for it |
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Call(e) => e.errno(),
            Self::NoEndpoint { .. }
            | Self::Protocol { .. }
            | Self::Region { .. }
            | Self::Rules(_)
            | Self::SameNumber { .. } => libc::ENOSYS,
            Self::Refused { status, .. } => i32::try_from(*status).unwrap_or(libc::EACCES),
            Self::Descriptors { .. } | Self::Map { .. } | Self::Lanes(_) | Self::Sessions(_) => {
                libc::ENOMEM
            }
            Self::Fenced => libc::EIDRM,
            Self::Segment(e) => e.raw_os_error().unwrap_or(libc::ENOMEM),
        }
    }

    /// What the call found that no correct peer writes.
    #[must_use]
    pub const fn corruption(&self) -> Option<vshmem_core::Corrupt> {
        match self {
            Self::Call(vshmem_sysv::Error::Corrupt(corrupt)) => Some(*corrupt),
            _ => None,
        }
    }

    /// Whether this is about the session, not about the call: worth telling a person once.
    #[must_use]
    pub const fn is_session(&self) -> bool {
        !matches!(self, Self::Call(_) | Self::Segment(_))
    }
}

impl From<vshmem_core::Corrupt> for Error {
    fn from(c: vshmem_core::Corrupt) -> Self {
        Self::Call(c.into())
    }
}

impl From<vshmem_sysv::Errno> for Error {
    fn from(e: vshmem_sysv::Errno) -> Self {
        Self::Call(e.into())
    }
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;
