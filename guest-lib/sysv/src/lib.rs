//! System V shared memory, semaphores and message queues over a vshmem region, and [`park`]ing.
//!
//! Semantics only: what each call does to the region and which error it gives, in the order the
//! Linux kernel checks. The kernel is the oracle; the conformance tests run the same programs
//! against both. Mapping segments, sockets and the C ABI are other crates' work.
//!
//! Every change is one transaction of [`vshmem_core::txn`], or one compare-and-swap
//! ([`sem::op_fast`]): a caller that dies anywhere leaves the object before or after its call.
//! A blocked caller is served by hand-off: whoever makes its operation possible performs it.

#![forbid(unsafe_code)]

pub mod check;
mod error;
pub mod look;
pub mod msg;
pub mod object;
pub mod park;
pub mod proc;
pub mod reap;
mod removal;
pub mod sem;
pub mod shm;
mod waiters;
mod withdraw;

pub use error::{Errno, Error, Result};
pub use object::{Caller, ID_BIT, Perm, flag, number_of};
pub use waiters::{abandon, interrupt, interrupted, release};
pub use withdraw::{Holder, withdraw, withdrawn_to};
