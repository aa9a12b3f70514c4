//! An allocator without locks, for code that runs inside other people's programs.
//!
//! A call may come from a signal handler that interrupted `malloc`, or from a child forked while
//! another thread was in it; there the C library's allocator deadlocks. This one cannot: free
//! blocks of each size lie on a stack whose head is one word, {address, count of changes}, changed
//! by compare-and-swap. Its memory comes from the kernel and never goes back (big blocks apart), so
//! that a thread which reads a block's link just as another takes it reads stale bytes, not a hole;
//! its swap then fails, because the count has changed.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use vshmem::system_call;

/// Smallest block: 16 bytes.
const MIN_SHIFT: u32 = 4;
/// Largest block from a stack: 64 KiB; above, each has its own mapping.
const MAX_SHIFT: u32 = 16;
const CLASSES: usize = (MAX_SHIFT - MIN_SHIFT + 1) as usize;
/// What a stack gets at once.
const SLAB: usize = 64 << 10;
const PAGE: usize = 4096;
/// User addresses have 47 bits (48 on some processors), 16 are left for the count.
const COUNT_BITS: u32 = 16;

/// The allocator.
pub struct Lockless {
    heads: [AtomicU64; CLASSES],
}

const fn pack(at: u64, count: u64) -> u64 {
    at << COUNT_BITS | (count & ((1 << COUNT_BITS) - 1))
}

fn class(layout: Layout) -> Option<u32> {
    let size = layout.size().max(layout.align()).max(1 << MIN_SHIFT);
    let shift = size.checked_next_power_of_two()?.trailing_zeros();
    // Blocks are aligned to their size, but slabs only to pages.
    (shift <= MAX_SHIFT && layout.align() <= PAGE).then_some(shift)
}

fn map(bytes: usize) -> *mut u8 {
    let (prot, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: new memory where the kernel chooses.
    let at = unsafe { system_call!(libc::SYS_mmap, 0usize, bytes, prot, flags, -1, 0usize) };
    if (-4095..0).contains(&at) {
        return ptr::null_mut();
    }
    ptr::with_exposed_provenance_mut(at.cast_unsigned())
}

impl Lockless {
    /// With nothing in it.
    pub const fn new() -> Self {
        Self { heads: [const { AtomicU64::new(0) }; CLASSES] }
    }

    fn head(&self, shift: u32) -> &AtomicU64 {
        &self.heads[(shift - MIN_SHIFT) as usize]
    }

    fn push(&self, shift: u32, block: *mut u8) {
        let head = self.head(shift);
        let mut old = head.load(Ordering::Relaxed);
        loop {
            let link = block.cast::<AtomicU64>();
            // SAFETY: the block is free and ours until the swap, aligned, and 16 bytes at least.
            unsafe { &*link }.store(old >> COUNT_BITS, Ordering::Relaxed);
            let new = pack(block as u64, old.wrapping_add(1));
            // Release: the link is written before the block is found.
            match head.compare_exchange_weak(old, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    fn pop(&self, shift: u32) -> *mut u8 {
        let head = self.head(shift);
        // Acquire: pairs with the Release in `push`: the link is there.
        let mut old = head.load(Ordering::Acquire);
        loop {
            let block = (old >> COUNT_BITS) as *mut u8;
            if block.is_null() {
                return block;
            }
            // SAFETY: blocks of the stacks are never unmapped; if this one was taken meanwhile the
            // value is stale and the swap fails.
            let next = unsafe { &*block.cast::<AtomicU64>() }.load(Ordering::Relaxed);
            let new = pack(next, old.wrapping_add(1));
            match head.compare_exchange_weak(old, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return block,
                Err(now) => old = now,
            }
        }
    }

    #[cold]
    fn refill(&self, shift: u32) -> *mut u8 {
        let size = 1usize << shift;
        let slab = map(SLAB.max(size));
        if slab.is_null() {
            return slab;
        }
        for at in (size..SLAB).step_by(size) {
            // SAFETY: inside the slab.
            self.push(shift, unsafe { slab.add(at) });
        }
        slab
    }
}

// SAFETY: blocks are disjoint pieces of memory that nobody else knows, at least as big and as
// aligned as asked; none of it unwinds.
unsafe impl GlobalAlloc for Lockless {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            Some(shift) => {
                let block = self.pop(shift);
                if block.is_null() { self.refill(shift) } else { block }
            }
            None if layout.align() <= PAGE => map(layout.size()),
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            Some(shift) => self.push(shift, block),
            // SAFETY: `alloc` mapped it with this size.
            None => drop(unsafe { system_call!(libc::SYS_munmap, block, layout.size()) }),
        }
    }
}
