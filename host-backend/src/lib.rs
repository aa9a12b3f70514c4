//! vshmemd: regions, ivshmem server, policy and logs of the host.
//!
//! ```text
//!   QEMU ── R.ivshmem ──► server ─┐                        ┌─► RegionService
//!   task ── R.sock ───────────────┼── daemon (one loop) ───┤   (format, attach,
//!   guest's doorbell ── eventfd ──┘        │               └─   deaths, reaping)
//!                                       vault
//!                                          │ duplicates, counts
//!                                  holder process ◄── the next daemon resumes
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`codec`] | the messages of the ivshmem protocol, no I/O |
//! | [`server`] | who is told what, and when: the protocol's rules |
//! | [`service`], [`endpoint`] | the seam to the part that knows a region's contents, and that part |
//! | [`backing`] | the memory: memfd, hugetlbfs, file |
//! | [`vault`], [`holder`], [`state`] | what survives a crash of the daemon |
//! | [`config`], [`lock`], [`daemon`] | configuration, one daemon each, the loop |
//!
//! Not here: the format of a region, System V semantics, tasks; see
//! `vshmem_core`, `vshmem_sysv` and `vshmem_endpoint`.
#![deny(unsafe_code)]

pub mod backing;
pub mod codec;
pub mod config;
pub mod daemon;
pub mod endpoint;
pub mod holder;
pub mod lock;
pub mod poller;
pub mod server;
pub mod service;
pub mod state;
pub mod sys;
pub mod vault;
