//! System V IPC for programs that issue the system calls themselves: static ones, Go.
//!
//! No library can stand before their calls, but the kernel can stop them: a seccomp filter sends
//! them to a supervisor, which makes them in the region and tells the kernel what they return. That
//! costs a change of process instead of a compare-and-swap, so it is for programs that a preload
//! cannot reach; those that it does reach are served by it also under a supervisor.
//!
//! ```text
//!  program ── semop ──► kernel ── listener ──► supervisor ── vshmem-sysv ──► region
//!     ▲                                            │ reads and writes the program's memory
//!     └──────────────── result ────────────────────┘
//! ```
//!
//! Non-goals: the preload (`vshmem-capi`), what the calls do (`vshmem-sysv`).

mod attached;
mod calls;
mod deaths;
mod failed;
mod filter;
mod inject;
mod listener;
mod mapping;
mod maps;
mod pool;
mod process;
mod proxy;
mod remote;
mod start;
mod status;
mod supervisor;

pub use start::{Error, Waiting, start};
