//! What the tests of the whole system share: building the shipped binaries,
//! compiling the C programs, running them under a watchdog, and saying how two
//! outputs differ.
//!
//! The tests themselves are in `tests/`:
//!
//! - `conformance`: every program of `programs/` runs against the kernel and
//!   against vshmem on the host; output and exit code must be equal.
//! - `oracle`: random programs of IPC calls do the same on the kernel and on vshmem.
//! - `survival`: storms of deaths, stops and lies ([`storms`]).
//! - `layers`: no manifest has an upward dependency.
//! - `bad_input`: what is wrong is named, and leaves nothing behind.
//! - `vm`: guests share a region with each other and with the host, and die.

pub mod build;
pub mod diff;
pub mod driver;
pub mod guests;
pub mod machine;
pub mod oracle;
pub mod rng;
pub mod run;
pub mod session;
pub mod storms;
