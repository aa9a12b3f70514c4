//! `libvshmem.so`: System V IPC for programs that were never told about vshmem.
//!
//! Preloaded (as `vshmem run` does) it takes the place of the C library's calls. It is inert until
//! a program makes one: then `VSHMEM_SOCKET` and `VSHMEM_RULES` decide. With a socket alone, `*get`
//! goes to that region; rules lead each key to it, to another region or to the kernel ([`global`]).
//! If an endpoint cannot be reached, or the rules cannot be read, a message on standard error says so
//! once and the calls fail with ENOSYS: never does a program silently get the kernel's objects
//! instead. If neither is set, everything goes to the kernel. Ids tell the worlds apart: ours have
//! bit 30, and their region's number.
//!
//! Semaphores (`sem_t`), mutexes and the like that a program keeps in a segment reach other kernels
//! too: [`posix`].
//!
//! Linked, it serves the same calls also under names of its own: see `include/vshmem.h`.
//!
//! Non-goals: static programs and system call instructions outside of the C library, which no
//! library can reach.
//!
//! ```text
//!  program ─ semop ─┬─ one operation, nobody waits: one compare-and-swap
//!                   ├─ else: Session::call, a lane, vshmem-sysv
//!                   └─ an id without bit 30: the system call
//! ```

mod alloc;
mod birth;
mod ftok;
mod global;
mod memory;
mod msg;
mod next;
mod own;
mod posix;
mod proc;
mod process;
mod raw;
mod sem;
mod shm;
mod signal;
mod space;
// Its jumps are instructions; other processors load the unwinder at once.
#[cfg(target_arch = "x86_64")]
mod unwind;

use vshmem::abi;

#[global_allocator]
static ALLOCATOR: alloc::Lockless = alloc::Lockless::new();
