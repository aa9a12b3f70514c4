//! Sleep, wake and doorbell through `/dev/vshmemN`.

use crate::interrupt;
use std::os::fd::RawFd;
use vshmem_core::Offset;
use vshmem_core::layout::REGION_BASE;
use vshmem_driver::abi::{self, Wait};
use vshmem_driver::raw;

/// The device's offsets count from the start of its BAR, ours from the region's base.
fn device(at: Offset) -> u64 {
    at.plus(REGION_BASE).0
}

/// Sleeps while the word at `at` is `expected`, until `until` (monotonic nanoseconds); the errno of
/// what ended it, 0 for a wake.
pub(crate) fn wait(fd: RawFd, at: Offset, expected: u32, until: u64) -> i32 {
    let second = 1_000_000_000;
    let wait = Wait {
        off: device(at),
        expected,
        flags: abi::WAIT_DEADLINE,
        sec: (until / second).cast_signed(),
        nsec: (until % second).cast_signed(),
    };
    let arg = (&raw const wait).expose_provenance();
    let args = [fd as usize, abi::IOC_WAIT as usize, arg, 0, 0, 0];
    // SAFETY: WAIT reads a `Wait`; `wait` is one, and outlives the call.
    unsafe { interrupt::sleep(libc::SYS_ioctl, args) }
}

/// Wakes a sleeper of this kernel.
pub(crate) fn wake(fd: RawFd, at: Offset) {
    // Of a device that is gone nobody sleeps.
    let _ = raw::wake(fd, device(at), 1);
}

/// Rings another peer; again, when a signal ended the wait for a turn.
pub(crate) fn ring(fd: RawFd, ivshmem: u32, vector: u32) {
    while raw::ring(fd, ivshmem, vector).is_err_and(|e| e.0 == libc::EINTR) {}
}
