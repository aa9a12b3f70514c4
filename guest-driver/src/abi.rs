//! The ioctl interface of `/dev/vshmemN`, byte for byte that of `uio_vshmem/vshmem_abi.h`.
//!
//! Every offset counts bytes from the start of BAR2. The test `abi.rs` compiles the C header and
//! compares sizes, field offsets and request numbers.

use std::mem::size_of;

/// The version that [`Info::abi`] must report. (What is built to test how versions meet wants the
/// next one.)
pub const VERSION: u32 = 1 + option_env!("VSHMEM_SKEW_ABI").is_some() as u32;

/// The largest [`Bind::summary_words`].
pub const SUMMARY_WORDS_MAX: u32 = 8;

/// [`Wait::flags`]: `sec` and `nsec` hold an absolute time of CLOCK_MONOTONIC.
pub const WAIT_DEADLINE: u32 = 1;

/// What INFO answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Size of BAR2, which is the whole region file.
    pub bar2_size: u64,
    /// The ivshmem id of this device, by which other peers ring it.
    pub ivposition: u32,
    /// MSI-X vectors in use; vector v has its own UIO device.
    pub vectors: u32,
    /// 1 between BIND and UNBIND.
    pub bound: u32,
    /// The module's interface version, see [`VERSION`].
    pub abi: u32,
}

/// What BIND tells the module of the region's geometry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// This peer's state word; 64 bits, the low half is overwritten on death.
    pub peer_off: u64,
    /// This peer's wake bitmap: summary words, then 64 leaf words for each.
    pub wake_off: u64,
    /// Lane 0.
    pub lanes_off: u64,
    /// Bytes from one lane to the next.
    pub lane_stride: u32,
    /// How many lanes there are.
    pub lane_count: u32,
    /// Offset inside a lane of the word that its owner waits on.
    pub status_off: u32,
    /// 1 to [`SUMMARY_WORDS_MAX`].
    pub summary_words: u32,
    /// Stored at `peer_off` by the panic and reboot notifiers.
    pub dead_value: u32,
    /// The ivshmem id to ring after that.
    pub host_id: u32,
    /// The vector to ring there.
    pub host_vector: u32,
    /// Which of our vectors drains the wake bitmap.
    pub wake_vector: u32,
    /// Zero.
    pub pad: [u32; 2],
}

/// The argument of WAIT.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// A 32-bit word.
    pub off: u64,
    /// Sleep only while the word holds this.
    pub expected: u32,
    /// 0 or [`WAIT_DEADLINE`].
    pub flags: u32,
    /// Deadline, seconds.
    pub sec: i64,
    /// Deadline, nanoseconds below 1,000,000,000.
    pub nsec: i64,
}

/// The argument of WAKE.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// The word slept on.
    pub off: u64,
    /// Wake at most so many.
    pub count: u32,
    /// Zero.
    pub pad: u32,
}

/// The argument of RING.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// The ivshmem id to ring.
    pub peer: u32,
    /// The vector to ring there.
    pub vector: u32,
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of the generic layout, which x86 and arm64 share.
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    // The sizes are those of the structures above: far below 2^14.
    direction << 30 | (size as u32) << 16 | 0xb8 << 8 | number
}

/// `VSHMEM_IOC_INFO`
pub const IOC_INFO: u32 = request(READ, 0, size_of::<Info>());
/// `VSHMEM_IOC_BIND`
pub const IOC_BIND: u32 = request(WRITE, 1, size_of::<Bind>());
/// `VSHMEM_IOC_UNBIND`
pub const IOC_UNBIND: u32 = request(NONE, 2, 0);
/// `VSHMEM_IOC_WAIT`
pub const IOC_WAIT: u32 = request(WRITE, 3, size_of::<Wait>());
/// `VSHMEM_IOC_WAKE`
pub const IOC_WAKE: u32 = request(WRITE, 4, size_of::<Wake>());
/// `VSHMEM_IOC_RING`
pub const IOC_RING: u32 = request(WRITE, 5, size_of::<Ring>());
