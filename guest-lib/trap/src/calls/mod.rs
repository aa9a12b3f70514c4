//! The calls themselves: arguments out of the caller's memory, results into it.
//!
//! Everything that may wait is tried without waiting first, so that the thread that receives calls
//! never sleeps; what would have to wait goes to a thread of its own and begins anew.

pub mod msg;
pub mod sem;
pub mod shm;

use crate::failed::{Failed, Result};
use crate::proxy::Proxy;
use crate::remote::Remote;
use std::time::Duration;
use vshmem::sysv::{Caller, Errno};
use vshmem_core::mem::Park;
use vshmem_core::{Lane, Region};

/// Whoever calls, and with what the call is done.
pub struct At<'a> {
    /// The region.
    pub r: &'a Region<Proxy>,
    /// A lane of the supervisor's.
    pub on: &'a mut Lane,
    /// The caller.
    pub c: &'a Caller,
    /// Its memory.
    pub memory: Remote,
}

impl At<'_> {
    /// What a `timespec` from now is on the region's clock.
    fn deadline(&self, [seconds, nanoseconds]: [i64; 2]) -> Result<u64> {
        let second = 1_000_000_000;
        let (Ok(s), Ok(ns)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else {
            return Err(Errno::EINVAL.into());
        };
        if ns >= second {
            return Err(Errno::EINVAL.into());
        }
        let time = u64::try_from(Duration::new(s, ns).as_nanos()).unwrap_or(u64::MAX);
        Ok(self.r.mem().now().saturating_add(time))
    }
}

/// A call that may have to wait.
pub trait Waits: Send {
    /// Does it; `None`: without waiting it cannot be done.
    ///
    /// # Errors
    /// As the kernel's.
    fn run(&mut self, at: &mut At<'_>, wait: bool) -> Result<Option<i64>>;
}

/// `errno` means that the call would have to wait.
fn unless<T>(done: vshmem::sysv::Result<T>, errno: Errno) -> Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(vshmem::sysv::Error::Errno(e)) if e == errno => Ok(None),
        Err(e) => Err(Failed::from(e)),
    }
}

/// An argument that is an int.
pub const fn int(arg: u64) -> i32 {
    arg as i32
}
