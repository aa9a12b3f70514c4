//! Why a trapped call got no result.

use vshmem_core::Corrupt;

/// See the module.
#[derive(Debug)]
pub enum Failed {
    /// As the kernel's call would fail.
    Errno(i32),
    /// The caller is gone: nobody wants an answer.
    Gone,
    /// The supervisor may not touch the caller's memory.
    NotOurs,
    /// It cannot be done here: ENOSYS, and these words for a person.
    Aloud(String),
    /// The region holds what no correct peer writes: EIO, and what and where for a person.
    Corrupt(Corrupt),
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Failed>;

impl From<vshmem::sysv::Error> for Failed {
    fn from(e: vshmem::sysv::Error) -> Self {
        match e {
            vshmem::sysv::Error::Corrupt(corrupt) => Self::Corrupt(corrupt),
            vshmem::sysv::Error::Errno(errno) => errno.into(),
        }
    }
}

impl From<vshmem::sysv::Errno> for Failed {
    fn from(e: vshmem::sysv::Errno) -> Self {
        Self::Errno(e as i32)
    }
}

impl From<Corrupt> for Failed {
    fn from(c: Corrupt) -> Self {
        vshmem::sysv::Error::from(c).into()
    }
}
