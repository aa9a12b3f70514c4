//! What a call can fail with.

use vshmem_core::mem::Corrupt;

/// Result of a call.
pub type Result<T> = core::result::Result<T, Error>;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $n:literal,)*) => {
        /// The errors System V calls give, by their Linux numbers.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(i32)]
        pub enum Errno {
            $($(#[$doc])* $name = $n,)*
        }

        impl Errno {
            /// The error of that number, if it is one of these.
            #[must_use]
            pub fn from_raw(n: i32) -> Option<Self> {
                match n {
                    $($n => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    /// Not the owner.
    EPERM = 1,
    /// No object of that key.
    ENOENT = 2,
    /// A signal arrived while sleeping.
    EINTR = 4,
    /// The region is corrupt.
    EIO = 5,
    /// More operations, or a larger message, than allowed.
    E2BIG = 7,
    /// Would sleep, or timed out.
    EAGAIN = 11,
    /// No memory left in the region.
    ENOMEM = 12,
    /// Not permitted by the object's mode.
    EACCES = 13,
    /// Bad address.
    EFAULT = 14,
    /// The object exists.
    EEXIST = 17,
    /// No such object, or an argument out of range.
    EINVAL = 22,
    /// No such semaphore in the set.
    EFBIG = 27,
    /// A limit of the region is reached.
    ENOSPC = 28,
    /// A semaphore value or adjustment out of range.
    ERANGE = 34,
    /// No message of that type.
    ENOMSG = 42,
    /// The object was removed while sleeping.
    EIDRM = 43,
}

/// Why a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// As the kernel's call would.
    Errno(Errno),
    /// The region holds what no correct peer writes.
    Corrupt(Corrupt),
}

impl Error {
    /// The errno a program sees; corruption is `EIO`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Errno(e) => *e as i32,
            Self::Corrupt(_) => Errno::EIO as i32,
        }
    }
}

impl From<Corrupt> for Error {
    fn from(c: Corrupt) -> Self {
        // For one who was shut out, the objects are gone.
        if c.is_fenced() { Self::Errno(Errno::EIDRM) } else { Self::Corrupt(c) }
    }
}

impl From<Errno> for Error {
    fn from(e: Errno) -> Self {
        Self::Errno(e)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Errno(e) => write!(f, "{e:?}"),
            Self::Corrupt(c) => c.fmt(f),
        }
    }
}

impl std::error::Error for Error {}
