//! Why a trapped call got no result.

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
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Failed>;

impl From<vshmem::sysv::Error> for Failed {
    fn from(e: vshmem::sysv::Error) -> Self {
        Self::Errno(e.errno())
    }
}

impl From<vshmem::sysv::Errno> for Failed {
    fn from(e: vshmem::sysv::Errno) -> Self {
        Self::Errno(e as i32)
    }
}

impl From<vshmem_core::Corrupt> for Failed {
    fn from(c: vshmem_core::Corrupt) -> Self {
        vshmem::sysv::Error::from(c).into()
    }
}
