//! Every byte of the region format, as constants.
//!
//! `docs/region-format.md` tells the same in prose. All mutable state is in 64-bit words. Most are
//! *cells*: a 32-bit value in the low half (which is also the futex word) and a tag in the high
//! half that grows by one with every change, so that a helper that was stopped before its
//! compare-and-swap can never apply an old step to a newer value (see [`crate::txn`]).
//!
//! Any change here changes [`VERSION`].

/// Bytes before the region in its file on every transport; devdax keeps its info block there.
pub const REGION_BASE: u64 = 2 << 20;
/// The committing word of a formatted region: `VSHMEM` and a line end, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"VSHMEM\r\n");
/// The format's version. (What is built to test how versions meet pretends the next one.)
pub const VERSION: u32 = 4 + option_env!("VSHMEM_SKEW_FORMAT").is_some() as u32;
/// Highest number of a region: ids have three bits for it, by which a process that uses several
/// regions tells whose object an id names.
pub const MAX_NUMBER: u32 = 7;
/// Smallest region file: base, tables and something to hand out.
pub const MIN_FILE: u64 = 16 << 20;
/// A page of a segment, as a shift.
pub const PAGE_SHIFT: u32 = 12;
/// A page of a segment, in bytes.
pub const PAGE: u64 = 1 << PAGE_SHIFT;

/// Constants that C code needs, as a header: `VSHMEM_` and the name in capitals.
#[must_use]
pub fn c_header() -> String {
    use std::fmt::Write;
    let mut text = String::from(
        "/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */\n\
         /* Made from guest-lib/core/src/layout.rs by `cargo run -p vshmem-core --example header`. */\n\
         #ifndef VSHMEM_REGION_H\n#define VSHMEM_REGION_H\n\n",
    );
    for (name, value) in [
        ("REGION_VERSION", u64::from(VERSION)),
        ("REGION_MAGIC", MAGIC),
        ("REGION_BASE", REGION_BASE),
        ("PAGE_SHIFT", PAGE_SHIFT.into()),
        ("PEER_STRIDE", peer::STRIDE),
        ("PEER_COUNT", peer::COUNT),
        ("PEER_EMPTY", peer::EMPTY.into()),
        ("PEER_LIVE", peer::LIVE.into()),
        ("PEER_DEAD", peer::DEAD.into()),
        ("PEER_HOST_IVSHMEM", peer::HOST_IVSHMEM.into()),
        ("VECTOR_WAKE", peer::WAKE_VECTOR.into()),
        ("VECTOR_CONTROL", peer::CONTROL_VECTOR.into()),
        ("WAKE_SUMMARY_WORDS", wake::SUMMARY),
        ("WAKE_STRIDE", wake::STRIDE),
        ("LANES_MAX", wake::MAX_LANES),
        ("LANE_STRIDE", lane::STRIDE),
        ("LANE_STATUS", lane::STATUS),
    ] {
        let _ = writeln!(text, "#define VSHMEM_{name}\t{value:#x}");
    }
    text.push_str("\n#endif\n");
    text
}

/// Feature bits this code knows; an unknown bit of `INCOMPAT` refuses the region.
pub const FEATURES_INCOMPAT: u64 = 0;
/// Of the compatible bits: the region's memory is had as it is touched, so a part that nobody uses may
/// be given back.
pub const FEATURE_SPARSE: u64 = 1;
/// As [`FEATURES_INCOMPAT`], but only writing is refused.
pub const FEATURES_RO_COMPAT: u64 = 0;

/// The superblock: the region's first page.
pub mod sb {
    /// `u64` [`super::MAGIC`], stored last.
    pub const MAGIC: u64 = 0x000;
    /// `u32` version, `u32` page shift.
    pub const VERSION: u64 = 0x008;
    /// Feature bits that change nothing for others.
    pub const COMPAT: u64 = 0x010;
    /// Feature bits that forbid writing to those who do not know them.
    pub const RO_COMPAT: u64 = 0x018;
    /// Feature bits that forbid opening to those who do not know them.
    pub const INCOMPAT: u64 = 0x020;
    /// Bytes of the region (the file less [`super::REGION_BASE`]).
    pub const LEN: u64 = 0x028;
    /// Word: the region's number, which its ids carry; at most [`super::MAX_NUMBER`].
    pub const NUMBER: u64 = 0x030;
    /// Word: the user whom the region belongs to; it may set the limits.
    pub const OWNER: u64 = 0x038;
    /// 64 bytes, the region's name, zero-padded UTF-8.
    pub const NAME: u64 = 0x040;
    /// [`super::Table`] entries of {offset, stride, count}.
    pub const TABLES: u64 = 0x080;
    /// Words, one per [`super::Limit`].
    pub const LIMITS: u64 = 0x300;
    /// Word: the host's time, nanoseconds since 1970, when it was asked last; see [`crate::clock`].
    pub const CLOCK: u64 = 0x3f8;
    /// One [`super::dir`] block per kind, 256 bytes apart.
    pub const DIRS: u64 = 0x400;
    /// The arena's block, see [`super::arena`].
    pub const ARENA: u64 = 0x800;
    /// Bytes of the superblock.
    pub const SIZE: u64 = 0x4000;
}

/// Tables the superblock points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Table {
    /// Peers, [`peer`].
    Peers = 0,
    /// Wake bitmaps, one row a peer, [`wake`].
    Wake,
    /// Tasks, [`task`].
    Tasks,
    /// One owner word a lane: dense, so that a reaper finds a task's lanes without touching them.
    Owners,
    /// Lanes, [`lane`].
    Lanes,
    /// Segments, [`obj`] and [`seg`].
    Segs,
    /// Semaphore sets, [`obj`] and [`set`].
    Sets,
    /// Message queues, [`obj`] and [`queue`].
    Queues,
    /// Hash buckets of segments' keys: cells of index + 1.
    SegKeys,
    /// Hash buckets of sets' keys.
    SetKeys,
    /// Hash buckets of queues' keys.
    QueueKeys,
    /// Used segment indices, 32 a cell.
    SegUsed,
    /// Used set indices, 32 a cell.
    SetUsed,
    /// Used queue indices, 32 a cell.
    QueueUsed,
    /// Pages in use, 32 a cell.
    PageUsed,
    /// Pages that may hold old bytes, 32 a cell.
    PageDirty,
    /// Buckets of threads parked on words of segments, [`park`].
    Parking,
    /// The pages themselves.
    Pages,
}

/// Number of [`Table`]s.
pub const TABLES: usize = 18;

impl Table {
    /// All tables in their order in the region.
    pub const ALL: [Self; TABLES] = [
        Self::Peers,
        Self::Wake,
        Self::Tasks,
        Self::Owners,
        Self::Lanes,
        Self::Segs,
        Self::Sets,
        Self::Queues,
        Self::SegKeys,
        Self::SetKeys,
        Self::QueueKeys,
        Self::SegUsed,
        Self::SetUsed,
        Self::QueueUsed,
        Self::PageUsed,
        Self::PageDirty,
        Self::Parking,
        Self::Pages,
    ];
}

/// Limits of a region: words at [`sb::LIMITS`], defaults as Linux has them. No transaction writes one:
/// a single store changes it, and whoever asks next goes by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Limit {
    /// Segments at once.
    Shmmni = 0,
    /// Pages of all segments.
    Shmall,
    /// Bytes of the largest segment.
    Shmmax,
    /// Semaphores per set.
    Semmsl,
    /// Semaphores of all sets.
    Semmns,
    /// Operations per `semop`.
    Semopm,
    /// Sets at once.
    Semmni,
    /// Bytes per message.
    Msgmax,
    /// Default bytes per queue.
    Msgmnb,
    /// Queues at once.
    Msgmni,
    /// 1: a segment goes with its last attachment, removed or not.
    ShmRmidForced,
}

impl Limit {
    /// All of them, in their order.
    pub const ALL: [Self; LIMITS] = [
        Self::Shmmni,
        Self::Shmall,
        Self::Shmmax,
        Self::Semmsl,
        Self::Semmns,
        Self::Semopm,
        Self::Semmni,
        Self::Msgmax,
        Self::Msgmnb,
        Self::Msgmni,
        Self::ShmRmidForced,
    ];

    /// What the kernel and its manual pages call it, in small letters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shmmni => "shmmni",
            Self::Shmall => "shmall",
            Self::Shmmax => "shmmax",
            Self::Semmsl => "semmsl",
            Self::Semmns => "semmns",
            Self::Semopm => "semopm",
            Self::Semmni => "semmni",
            Self::Msgmax => "msgmax",
            Self::Msgmnb => "msgmnb",
            Self::Msgmni => "msgmni",
            Self::ShmRmidForced => "shm_rmid_forced",
        }
    }
}

/// Number of [`Limit`]s.
pub const LIMITS: usize = 11;

/// The directory block of one kind of object.
pub mod dir {
    /// Lock of the kind's directory: keys, indices, totals.
    pub const LOCK: u64 = 0x00;
    /// Objects in use.
    pub const IN_USE: u64 = 0x08;
    /// The index handed out last.
    pub const LAST: u64 = 0x10;
    /// The sequence number of ids handed out now.
    pub const SEQ: u64 = 0x18;
    /// Pages of all segments; semaphores of all sets; unused for queues.
    pub const TOTAL: u64 = 0x20;
    /// Bytes from one kind's block to the next.
    pub const STRIDE: u64 = 0x100;
}

/// The arena's block in the superblock.
pub mod arena {
    /// Lock of pages and pools.
    pub const LOCK: u64 = 0x00;
    /// Where the next search for pages begins.
    pub const CURSOR: u64 = 0x08;
    /// Pages in use.
    pub const PAGES: u64 = 0x10;
    /// {free list head, carving position, carving end} of each pool and class.
    pub const POOLS: u64 = 0x80;
    /// Bytes of one pool class.
    pub const POOL_STRIDE: u64 = 32;
    /// Smallest block, as a shift.
    pub const MIN_SHIFT: u32 = 6;
    /// Classes of a pool: 64 bytes to 2 MiB.
    pub const CLASSES: u32 = 16;
    /// Bytes of the largest block.
    pub const MAX_BLOCK: u64 = 1 << (MIN_SHIFT + CLASSES - 1);
    /// Pools: memory that changes hands only within one never changes its type, so that a late
    /// compare-and-swap on a freed word can never meet other data.
    pub const POOLS_COUNT: u32 = 5;
}

/// One peer.
pub mod peer {
    /// Cell: [`EMPTY`], [`CLAIMED`], [`LIVE`] or [`DEAD`] in the low 8 bits of the value, the
    /// peer's ivshmem ID in the 16 above, so that who it is is known from the first step on. The
    /// kernel module stores the value for [`DEAD`] into the low half on panic and reboot. Beside
    /// [`DEAD`], [`FENCED`] may be set.
    pub const STATE: u64 = 0x00;
    /// Cell, grows with every new owner of the slot.
    pub const INCARNATION: u64 = 0x08;
    /// Cell: its number of vectors.
    pub const VECTORS: u64 = 0x18;
    /// 16 bytes: the kernel's boot id.
    pub const BOOT: u64 = 0x20;
    /// 64 bytes: its name, zero-padded.
    pub const NAME: u64 = 0x40;
    /// Word, signed: nanoseconds by which its clock lags behind the host's.
    pub const LAG: u64 = 0x80;
    /// Bytes per peer.
    pub const STRIDE: u64 = 0x100;
    /// Peers of a region; the writer field of a semaphore has 6 bits for one.
    pub const COUNT: u64 = 64;
    /// Nobody.
    pub const EMPTY: u32 = 0;
    /// Attached.
    pub const LIVE: u32 = 1;
    /// Dead, being reaped.
    pub const DEAD: u32 = 2;
    /// Its name and boot id are being written.
    pub const CLAIMED: u32 = 3;
    /// Bit: declared dead by `vshmem peer fence` while its kernel may still come back. Its tasks are
    /// reaped, but slot, task slots and lanes are nobody else's until the kernel is known to be gone:
    /// whoever was stopped in the middle of a store finishes it in memory of its own.
    pub const FENCED: u32 = 1 << 24;
    /// The host's ivshmem ID.
    pub const HOST_IVSHMEM: u32 = 0xfff0;
    /// The interrupt vector that says "look at your wake bitmap".
    pub const WAKE_VECTOR: u32 = 0;
    /// The interrupt vector that says "look at the tables".
    pub const CONTROL_VECTOR: u32 = 1;
}

/// A peer's wake bitmap: which of its lanes somebody wants to wake. Hints only.
pub mod wake {
    /// Summary words; 64 leaf words for each follow.
    pub const SUMMARY: u64 = 8;
    /// Bytes from one peer's bitmap to the next.
    pub const STRIDE: u64 = (SUMMARY * 8 * 65).next_multiple_of(128);
    /// Lanes a region may have: half of what the summary covers, and what an owner word has bits
    /// for.
    pub const MAX_LANES: u64 = SUMMARY * 64 * 64 / 2 - 1;
}

/// One task.
pub mod task {
    /// Word: state in the low 8 bits, incarnation above; every change adds to bit 8 and up.
    pub const STATE: u64 = 0x00;
    /// Lock of the task's lists.
    pub const LOCK: u64 = 0x08;
    /// Cell: peer index.
    pub const PEER: u64 = 0x10;
    /// Cell: process id in that peer's own numbering.
    pub const PID: u64 = 0x18;
    /// Word: the process's start time, in clock ticks since that kernel's boot.
    pub const START: u64 = 0x20;
    /// Cell: first undo record.
    pub const UNDO: u64 = 0x28;
    /// Cell: first attachment record.
    pub const ATTACH: u64 = 0x30;
    /// Cell: user id, for listings.
    pub const UID: u64 = 0x38;
    /// 16 bytes: command name, for listings.
    pub const COMM: u64 = 0x40;
    /// Cell: the oldest version this task pins (for snapshots; 0 = none).
    pub const PIN: u64 = 0x50;
    /// Word: the task that makes this one's calls, as in an owner word; 0 for none. Only when that
    /// one has let go, or is reaped itself, is this one reaped: its waits are in the other's lanes.
    pub const KEEPER: u64 = 0x58;
    /// Bytes per task.
    pub const STRIDE: u64 = 0x80;
    /// Nobody.
    pub const FREE: u64 = 0;
    /// Being filled in by its endpoint or by a forking parent.
    pub const CLAIMED: u64 = 1;
    /// Attached.
    pub const LIVE: u64 = 2;
    /// Dead, being reaped.
    pub const DYING: u64 = 3;
}

/// One lane: a journal and a wait slot for one thread of execution of a task.
pub mod lane {
    /// Cell: the wait slot's status, alone on its line; see [`crate::wait`].
    pub const STATUS: u64 = 0x000;
    /// Word: the journal's {sequence, state}; see [`crate::txn`].
    pub const JOURNAL: u64 = 0x080;
    /// Word: number of journal entries.
    pub const ENTRIES: u64 = 0x088;
    /// Word: number of locks.
    pub const LOCKS: u64 = 0x090;
    /// Words: the locks' offsets.
    pub const LOCK: u64 = 0x098;
    /// Locks one transaction can hold.
    pub const MAX_LOCKS: usize = 4;
    /// Word: the sequence of the transaction that its owner finished last.
    pub const FINISHED: u64 = 0x0b8;
    /// Cell: what the lane holds on to between transactions (a block, in 64-byte units).
    pub const HELD: u64 = 0x0c0;
    /// Cell: why it holds it, [`super::held`].
    pub const HELD_WHY: u64 = 0x0c8;
    /// Cell: an index that belongs to the reason.
    pub const HELD_FOR: u64 = 0x0d0;
    /// Cell: the life of the object of that index.
    pub const HELD_LIFE: u64 = 0x0d8;
    /// Word: how often the transaction in progress was robbed; robbers are the more patient with it.
    pub const ROBBED: u64 = 0x0e0;
    /// Cell: a message block kept for the next message, so that an answer needs no allocation.
    pub const SPARE: u64 = 0x0e8;
    /// Word: the place in a ring that the lane sends to, [`super::ring`]; its own alone to write.
    pub const NOTE: u64 = 0x0f0;
    /// Cell: which list the wait slot is in, [`super::waits`].
    pub const WAIT_KIND: u64 = 0x100;
    /// Cell: the object's index.
    pub const WAIT_OBJ: u64 = 0x108;
    /// Cell: previous waiter, lane + 1.
    pub const WAIT_PREV: u64 = 0x110;
    /// Cell: next waiter, lane + 1.
    pub const WAIT_NEXT: u64 = 0x118;
    /// Cell: peer of the sleeper.
    pub const WAIT_PEER: u64 = 0x120;
    /// Cell: its {peer, pid}, as [`crate::task::Identity`].
    pub const WAIT_WHO: u64 = 0x128;
    /// Cell: task index.
    pub const WAIT_TASK: u64 = 0x130;
    /// Cell: number of operations; for queues flags.
    pub const WAIT_N: u64 = 0x138;
    /// Cell: undo record (block) or 0; for queues the message block.
    pub const WAIT_BLOCK: u64 = 0x140;
    /// Cells: message type wanted, low and high half.
    pub const WAIT_TYPE: u64 = 0x148;
    /// Cell: size of the receiver's buffer, low and high half.
    pub const WAIT_SIZE: u64 = 0x158;
    /// Cell: of a parked lane, its segment.
    pub const WAIT_SEG: u64 = 0x168;
    /// Cell: the segment's life.
    pub const WAIT_LIFE: u64 = 0x170;
    /// Cells: the place in the segment, low and high half.
    pub const WAIT_PLACE: u64 = 0x178;
    /// Cell: index + 1 of the task whose death it wants to hear of; 0 for none.
    pub const WAIT_OWNER: u64 = 0x188;
    /// Word: a semaphore's word that this lane made, or is about to make, which says that what
    /// follows belongs to it; 0 for none.
    pub const INTENT: u64 = 0x1c0;
    /// Word: where that semaphore is.
    pub const INTENT_SEM: u64 = 0x1c8;
    /// Word: where the adjustment is.
    pub const INTENT_AT: u64 = 0x1d0;
    /// Word: what the adjustment was.
    pub const INTENT_OLD: u64 = 0x1d8;
    /// Word: what it becomes.
    pub const INTENT_NEW: u64 = 0x1e0;
    /// Word: the {peer, pid} whose operation it is.
    pub const INTENT_WHO: u64 = 0x1e8;
    /// Words: the operations of a waiting `semop`, one each.
    pub const OPS: u64 = 0x200;
    /// Operations at the most. (The model checker gets small lanes: it pays for every word.)
    pub const MAX_OPS: usize = if cfg!(loom) { 2 } else { 500 };
    /// Journal entries: {offset and flags, old, new}.
    pub const JOURNAL_ENTRY: u64 = if cfg!(loom) { 0x210 } else { 0x1200 };
    /// Journal entries at the most.
    pub const MAX_ENTRIES: usize = if cfg!(loom) { 24 } else { 1600 };
    /// Bytes per journal entry.
    pub const ENTRY_SIZE: u64 = 24;
    /// Bytes per lane.
    pub const STRIDE: u64 = if cfg!(loom) { 0x480 } else { 0xc000 };
    const _: () = assert!(OPS + 8 * MAX_OPS as u64 <= JOURNAL_ENTRY);
    const _: () = assert!(JOURNAL_ENTRY + MAX_ENTRIES as u64 * ENTRY_SIZE <= STRIDE);
}

/// Why a lane holds a block between two transactions; what the reaper does with it.
pub mod held {
    /// It holds nothing.
    pub const NOTHING: u32 = 0;
    /// A message not yet sent: freed.
    pub const SENDING: u32 = 1;
    /// A message received and not yet copied out: goes back to its queue's head.
    pub const RECEIVED: u32 = 2;
    /// The extents of a segment being made or unmade: pages and list freed.
    pub const EXTENTS: u32 = 3;
    /// Semaphores of a set being made: freed.
    pub const SEMS: u32 = 4;
    /// An undo record not yet linked: freed.
    pub const UNDO: u32 = 5;
    /// Messages of a removed queue, linked: freed.
    pub const CHAIN: u32 = 7;
    /// No block but the kind of an object it removes: sleepers are sent away, the object is freed.
    pub const REMOVING: u32 = 8;
}

/// Which list a wait slot is in.
pub mod waits {
    /// None.
    pub const NONE: u32 = 0;
    /// A set's.
    pub const SEM: u32 = 1;
    /// A queue's receivers'.
    pub const RECV: u32 = 2;
    /// A queue's senders'.
    pub const SEND: u32 = 3;
    /// A parking bucket's.
    pub const PARK: u32 = 4;
    /// None any more: it was woken from a bucket. Stays until the lane waits again, so that the wake
    /// of a sleeper that dies of it is passed on.
    pub const WOKEN: u32 = 5;
}

/// A parking bucket: threads that sleep until somebody changes a word of a segment.
pub mod park {
    /// Lock of the bucket.
    pub const LOCK: u64 = 0x00;
    /// Cell: first sleeper, lane + 1.
    pub const HEAD: u64 = 0x08;
    /// Cell: last sleeper.
    pub const TAIL: u64 = 0x10;
    /// Bytes per bucket: a line of its own.
    pub const STRIDE: u64 = 0x40;
    /// Buckets.
    pub const COUNT: u64 = 1024;
}

/// What all objects begin with.
pub mod obj {
    /// Lock of the object.
    pub const LOCK: u64 = 0x00;
    /// Cell: sequence number << 2 | state.
    pub const LIFE: u64 = 0x08;
    /// Cell: key.
    pub const KEY: u64 = 0x10;
    /// Cell: the peer it was withdrawn to, index + 1; 0 while everybody may use it. On the first
    /// line, which every operation reads.
    pub const ONLY: u64 = 0x18;
    /// Cell: mode.
    pub const MODE: u64 = 0x20;
    /// Cell: owner.
    pub const UID: u64 = 0x28;
    /// Cell: owner's group.
    pub const GID: u64 = 0x30;
    /// Cell: creator.
    pub const CUID: u64 = 0x38;
    /// Cell: creator's group.
    pub const CGID: u64 = 0x40;
    /// Cell: time of the last change, seconds since 1970, unsigned.
    pub const CTIME: u64 = 0x48;
    /// Cell: {peer, pid} of the creator.
    pub const CPID: u64 = 0x50;
    /// Word: hash of the type, 0 for System V objects.
    pub const TYPE: u64 = 0x58;
    /// Cell: block with a long name, 0 for System V objects.
    pub const NAME: u64 = 0x60;
    /// Cell: next object of the same hash bucket, index + 1.
    pub const NEXT: u64 = 0x68;
    /// Bytes per object.
    pub const STRIDE: u64 = 0x100;
    /// No object.
    pub const FREE: u32 = 0;
    /// An object.
    pub const LIVE: u32 = 1;
    /// A segment removed while attached, a set or queue with sleepers still to be sent away.
    pub const DOOMED: u32 = 2;
}

/// A segment's own part.
pub mod seg {
    /// Cell: size in bytes, low half.
    pub const SIZE_LO: u64 = 0x80;
    /// Cell: size in bytes, high half.
    pub const SIZE_HI: u64 = 0x88;
    /// Cell: block of extents.
    pub const EXTENTS: u64 = 0x90;
    /// Cell: attachments.
    pub const NATTCH: u64 = 0x98;
    /// Cell: last attach.
    pub const ATIME: u64 = 0xa0;
    /// Cell: last detach.
    pub const DTIME: u64 = 0xa8;
    /// Cell: {peer, pid} of the last attach or detach.
    pub const LPID: u64 = 0xb0;
    /// Cell: pages.
    pub const PAGES: u64 = 0xb8;
}

/// A block of extents: count, then {first page, pages, references} each.
pub mod extents {
    /// Cell: number of extents.
    pub const COUNT: u64 = 0x08;
    /// Cells of the first extent.
    pub const FIRST: u64 = 0x20;
    /// Bytes per extent: first page, pages, references, spare.
    pub const STRIDE: u64 = 0x20;
    /// Pages of the largest extent: its bits in the page bitmap fit one journal.
    pub const MAX_PAGES: u32 = 16384;
}

/// A set's own part.
pub mod set {
    /// Cell: semaphores.
    pub const NSEMS: u64 = 0x80;
    /// Cell: block of semaphores.
    pub const SEMS: u64 = 0x88;
    /// Cell: first waiter, lane + 1.
    pub const HEAD: u64 = 0x90;
    /// Cell: last waiter.
    pub const TAIL: u64 = 0x98;
    /// Cell: waiters.
    pub const WAITERS: u64 = 0xa0;
    /// Cell: 1 while waiters may be able to go.
    pub const DIRTY: u64 = 0xa8;
    /// Cell: seconds of the last `semop` that took the queued path.
    pub const OTIME: u64 = 0xb0;
    /// Cell: not 0 if a waiter has several operations or waits for zero, or one had since somebody
    /// last found no waiters.
    pub const MIXED: u64 = 0xb8;
}

/// One semaphore; a block of them begins with a link cell in slot 0, semaphores follow.
pub mod sem {
    /// Word: see [`crate::layout::sem`]'s bits.
    pub const WORD: u64 = 0x00;
    /// Word: seconds of its last fast operation.
    pub const OTIME: u64 = 0x08;
    /// Cell: grows with every SETVAL, which cancels the undo adjustments of before.
    pub const EPOCH: u64 = 0x10;
    /// Bytes per semaphore: a line of its own.
    pub const STRIDE: u64 = 0x40;
    /// Bits of the value.
    pub const VALUE: u64 = 0x7fff;
    /// Set while only the holder of the set's lock may change the word.
    pub const FROZEN: u64 = 0x8000;
    /// Where the last writer's {peer, pid} begins.
    pub const WHO_SHIFT: u32 = 16;
    /// Its bits, from there on.
    pub const WHO: u32 = 0x0fff_ffff;
    /// Set where the word names a lane, whose intent tells of an adjustment that belongs to it, in
    /// place of a writer.
    pub const PENDING: u64 = 1 << 44;
    /// Where the sequence begins: 19 bits.
    pub const SEQ_SHIFT: u32 = 45;
}

/// An undo record: one task's adjustments of one set. Its cells are guarded by the set's lock, its
/// place in the task's list by the task's.
pub mod undo {
    /// Cell: free list link.
    pub const LINK: u64 = 0x00;
    /// Cell: next record of the task.
    pub const TASK_NEXT: u64 = 0x08;
    /// Cell: task index.
    pub const TASK: u64 = 0x18;
    /// Cell: set index.
    pub const SET: u64 = 0x20;
    /// Cell: the set's life.
    pub const LIFE: u64 = 0x28;
    /// Cell: semaphores.
    pub const NSEMS: u64 = 0x30;
    /// {adjustment, epoch} cells of the first semaphore.
    pub const FIRST: u64 = 0x40;
    /// Bytes per semaphore.
    pub const STRIDE: u64 = 0x10;
}

/// An attachment record: how often one task has one segment attached.
pub mod attach {
    /// Cell: free list link.
    pub const LINK: u64 = 0x00;
    /// Cell: next record of the task.
    pub const NEXT: u64 = 0x08;
    /// Cell: segment index.
    pub const SEG: u64 = 0x10;
    /// Cell: the segment's life.
    pub const LIFE: u64 = 0x18;
    /// Cell: attachments.
    pub const COUNT: u64 = 0x20;
    /// Bytes per record.
    pub const SIZE: u64 = 0x40;
}

/// A queue's own part.
pub mod queue {
    /// Cell: first message.
    pub const HEAD: u64 = 0x80;
    /// Cell: last message.
    pub const TAIL: u64 = 0x88;
    /// Cell: messages.
    pub const QNUM: u64 = 0x90;
    /// Cell: bytes.
    pub const CBYTES: u64 = 0x98;
    /// Cell: bytes allowed.
    pub const QBYTES: u64 = 0xa0;
    /// Cell: last send.
    pub const STIME: u64 = 0xa8;
    /// Cell: last receive.
    pub const RTIME: u64 = 0xb0;
    /// Cell: {peer, pid} of the last sender.
    pub const LSPID: u64 = 0xb8;
    /// Cell: {peer, pid} of the last receiver.
    pub const LRPID: u64 = 0xc0;
    /// Cell: first waiting receiver, lane + 1.
    pub const RECV_HEAD: u64 = 0xc8;
    /// Cell: last waiting receiver.
    pub const RECV_TAIL: u64 = 0xd0;
    /// Cell: first waiting sender.
    pub const SEND_HEAD: u64 = 0xd8;
    /// Cell: last waiting sender.
    pub const SEND_TAIL: u64 = 0xe0;
    /// Cell: 1 while waiters may be able to go.
    pub const DIRTY: u64 = 0xe8;
    /// Cell: block of its ring, 0 for none.
    pub const RING: u64 = 0xf0;
    /// Cell: messages it has had, until it has a ring.
    pub const HAD: u64 = 0xf8;
}

/// A busy queue's ring: messages pass through it without a transaction. `docs/adr/0009` tells how.
///
/// Positions count up for ever and wrap; position `p` is at place `p % PLACES`.
pub mod ring {
    /// Cell: free list link.
    pub const LINK: u64 = 0x00;
    /// Cell: index + 1 of its queue, 0 for none.
    pub const QUEUE: u64 = 0x08;
    /// Cell: the queue's life.
    pub const LIFE: u64 = 0x10;
    /// Cell: the first position of the queue's.
    pub const BEGAN: u64 = 0x18;
    /// Word: [`MADE`] once the places were made.
    pub const MARK: u64 = 0x28;
    /// What memory that was no ring before hardly holds.
    pub const MADE: u64 = u64::from_le_bytes(*b"vshmrng\n");
    /// Word, on a line that only senders write: closed, the next position, bytes sent.
    pub const SENT: u64 = 0x80;
    /// Word: who sent last and when, {seconds, identity}.
    pub const SENT_BY: u64 = 0x88;
    /// Word: what a sender saw last of [`RECEIVED`].
    pub const SEEN: u64 = 0x90;
    /// Word, on a line that only receivers write: closed, the next position, bytes received.
    pub const RECEIVED: u64 = 0x100;
    /// Word: who received last and when.
    pub const RECEIVED_BY: u64 = 0x108;
    /// Words, one a place, which only senders write while the ring is open: state, size, position.
    pub const PLACE: u64 = 0x180;
    /// Cells, one a place: the block of messages there; the low bits of its number are free for its
    /// size, as [`BLOCK_SHIFT`] more.
    pub const BLOCK: u64 = PLACE + 8 * PLACES;
    /// Places. (The model checker gets small rings.)
    pub const PLACES: u64 = if cfg!(loom) { 2 } else { 64 };
    /// Bytes of a ring.
    pub const SIZE: u64 = BLOCK + 8 * PLACES;
    /// A ring is aligned to this many bytes, as a shift.
    pub const ALIGN_SHIFT: u32 = if cfg!(loom) { 9 } else { 11 };
    const _: () = assert!(SIZE <= 1 << ALIGN_SHIFT && SIZE > 1 << (ALIGN_SHIFT - 1));

    /// Nothing is there at that position.
    pub const EMPTY: u64 = 0;
    /// A message, until `RECEIVED` is past its position.
    pub const FULL: u64 = 1;
    /// Its sender was too slow, and may still write there.
    pub const SKIPPED: u64 = 2;
    /// A place's state.
    pub const STATE: u64 = 3;
    /// Where the size of a full one's message begins: 15 bits.
    pub const SIZE_SHIFT: u32 = 2;
    /// Where a position begins: 32 bits.
    pub const POSITION_SHIFT: u32 = 17;
    /// In [`SENT`] and [`RECEIVED`]: nobody sends, or receives, without a transaction.
    pub const CLOSED: u64 = 1 << 63;
    /// Where a position of [`SENT`] and [`RECEIVED`] begins; below it bytes, 16 bits.
    pub const COUNT_SHIFT: u32 = 16;
    /// Bytes of the smallest block of a place, as a shift: 256.
    pub const BLOCK_SHIFT: u32 = 8;
    /// Bytes of the largest block of a place.
    pub const MAX_BLOCK: u64 = 1024;
    const _: () = assert!(PLACES * MAX_BLOCK <= 1 << COUNT_SHIFT);
}

/// A message: cells, then the bytes.
pub mod msg {
    /// Cell: free list link.
    pub const LINK: u64 = 0x00;
    /// Cell: next message of the queue.
    pub const NEXT: u64 = 0x08;
    /// Cell: type, low half.
    pub const TYPE_LO: u64 = 0x10;
    /// Cell: type, high half.
    pub const TYPE_HI: u64 = 0x18;
    /// Cell: bytes in the low [`CLASS_SHIFT`] bits, the class of its block above.
    pub const SIZE: u64 = 0x20;
    /// Where the class of a message's block begins.
    pub const CLASS_SHIFT: u32 = 24;
    /// The bytes.
    pub const BYTES: u64 = 0x28;
}
