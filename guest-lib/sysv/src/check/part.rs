//! What a look gathers: findings, who has which memory, who waits where.

use crate::object::id_of;
use std::collections::HashMap;
use std::fmt;
use vshmem_core::arena::{Pool, class_of};
use vshmem_core::layout::{PAGE, Table, arena, lane, obj};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::{LaneId, Offset, Platform, Region};

/// Findings of one look at the most; a region with more is not described but replaced.
const MOST: usize = 1000;

macro_rules! faults {
    ($($name:ident = $word:literal, $means:literal;)*) => {
        /// What can be wrong, by invariant.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum Fault {
            $(#[doc = $means] $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// A word for programs.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it means for those who use the region.
            #[must_use]
            pub const fn means(self) -> &'static str {
                match self { $(Self::$name => $means,)* }
            }
        }
    };
}

faults! {
    Superblock = "superblock", "Processes that attach from now on refuse the region.";
    Limit = "limit", "The limit does not count: what the region has room for does.";
    Lock = "lock", "Calls on the object fail with EIO.";
    Directory = "directory", "Limits and listings go by wrong counts.";
    Index = "index", "The object is not listed, or a new one may be made over it.";
    Key = "key", "A key finds no object, a wrong one, or an error.";
    Object = "object", "The object's state is none that calls leave behind; they may fail with EIO.";
    Segment = "segment", "The segment cannot be attached, or shows other memory than its own.";
    Attached = "attached", "The segment goes too early, or never.";
    Set = "set", "Operations on the set fail with EIO, or use memory that is not its own.";
    Queue = "queue", "Sends and receives fail with EIO, or count wrongly.";
    Ring = "ring", "Messages of the queue may be lost or not be seen; calls may fail with EIO.";
    Waiters = "waiters", "Sleepers of the object may never be woken, or calls fail with EIO.";
    Overlooked = "overlooked", "A sleeper sleeps on though it could go.";
    Undo = "undo", "What SEM_UNDO promised may not be undone, or twice.";
    Record = "record", "What the process has attached may not be given back when it ends.";
    Task = "task", "The task's end may not be seen, or its slot is lost.";
    Unreaped = "unreaped", "It is dead and not cleaned up; what it held is held.";
    Peer = "peer", "A kernel's coming, going or waking may fail.";
    Lane = "lane", "The lane is lost, or what it holds is.";
    Journal = "journal", "A step stays half done, with its locks.";
    Held = "held", "What the lane holds will not be given back.";
    Waiting = "waiting", "The sleeper waits where nobody looks: nobody will wake it.";
    Arena = "arena", "Allocations fail with EIO, or hand out wrong memory.";
    Pages = "pages", "Listings and ENOMEM go by a wrong count.";
    Shared = "shared", "Two owners write the same memory.";
    Unmarked = "unmarked", "The memory will be handed out a second time.";
    Leaked = "leaked", "The memory is lost until the region is made anew.";
}

/// Something that is not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which invariant is broken.
    pub fault: Fault,
    /// What it is about, for a person: `queue 3 (id 1073741827)`.
    pub object: String,
    /// Where in the region.
    pub at: Offset,
    /// What is wrong there.
    pub what: String,
    /// What that rests on: words with their tags.
    pub(super) evidence: Vec<(Offset, u64)>,
    pub(super) who: Who,
    pub(super) fix: Fix,
}

/// What a repair has to know beside the place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fix {
    /// Nothing.
    Look,
    /// The right value.
    Value(u32),
    /// Blocks in a row of a pool's class: first, how many.
    Blocks(Pool, u64, u64, u64),
    /// Pages in a row: first, how many.
    Pages(u64, u64),
    /// The cell through which a free list leads to what is another's too.
    Unlink(Offset),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.object, self.at, self.what)
    }
}

/// A region to read, whatever it holds.
pub(super) struct View<'a, P> {
    pub r: &'a Region<P>,
}

impl<P> Clone for View<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for View<'_, P> {}

impl<P: Platform> View<'_, P> {
    /// The word at `at`; 0 outside the region.
    pub fn word(self, at: Offset) -> u64 {
        // Acquire: pairs with the application of the step that wrote it.
        self.r.mem().load(at, Ordering::Acquire).unwrap_or(0)
    }

    /// The value of the cell at `at`.
    pub fn cell(self, at: Offset) -> u32 {
        self.word(at) as u32
    }

    /// Two cells as one value.
    pub fn pair(self, at: Offset) -> u64 {
        u64::from(self.cell(at.plus(8))) << 32 | u64::from(self.cell(at))
    }

    /// The words at `at`, to tell whether anything has changed.
    pub fn evidence(self, at: &[Offset]) -> Vec<(Offset, u64)> {
        at.iter().map(|at| (*at, self.word(*at))).collect()
    }
}

/// Whom something belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Superblock,
    Arena,
    Directory(Kind),
    Object(Kind, u32, i32),
    Task(u32),
    Peer(u32),
    Lane(u32),
    Bucket(u32),
}

impl Who {
    /// The object that is at `index` now.
    pub fn of<P: Platform>(v: View<'_, P>, kind: Kind, index: u32) -> Self {
        let at = v.r.table(kind.table()).at.index(index.into(), obj::STRIDE);
        Self::Object(kind, index, id_of(v.r, index, v.cell(at.plus(obj::LIFE))))
    }
}

/// For patterns.
pub(super) const SEG: Kind = Kind::Seg;

pub(super) const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Seg => "segment",
        Kind::Set => "semaphore set",
        Kind::Queue => "queue",
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => f.write_str("superblock"),
            Self::Arena => f.write_str("arena"),
            Self::Directory(kind) => write!(f, "directory of {}s", word(*kind)),
            Self::Object(kind, index, id) => write!(f, "{} {index} (id {id})", word(*kind)),
            Self::Task(i) => write!(f, "task {i}"),
            Self::Peer(i) => write!(f, "peer {i}"),
            Self::Lane(i) => write!(f, "lane {i}"),
            Self::Bucket(i) => write!(f, "parking bucket {i}"),
        }
    }
}

/// What a piece of memory is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// In a free list.
    Free,
    /// Not yet carved.
    Uncarved,
    /// Somebody's.
    Of(Who),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free => f.write_str("a free list"),
            Self::Uncarved => f.write_str("the part of a pool not yet handed out"),
            Self::Of(who) => who.fmt(f),
        }
    }
}

/// A piece of memory in units of 64 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub start: u64,
    pub units: u64,
    /// The pool and class; none for a segment's pages.
    pub class: Option<(Pool, u64)>,
    pub used: Use,
    /// The word that says so.
    pub says: (Offset, u64),
}

impl Span {
    pub const fn end(&self) -> u64 {
        self.start + self.units
    }
}

/// What was gathered so far.
#[derive(Default)]
pub(super) struct Part {
    pub found: Vec<Finding>,
    pub spans: Vec<Span>,
    /// Lanes that lists name: list and object.
    pub queued: HashMap<u32, (u32, u32)>,
    /// Attachments by segment and sequence, as tasks record them.
    pub records: HashMap<(u32, u32), u64>,
    /// Segments with their sequence and the word of `nattch`.
    pub counts: Vec<(Who, (u32, u32), Offset, u64)>,
    /// Blocks of linked undo records.
    pub undo: std::collections::HashSet<u32>,
    /// Sleepers' undo records: lane, block.
    pub wanted: Vec<(u32, u32)>,
}

impl Part {
    pub fn append(&mut self, other: Self) {
        self.found.extend(other.found);
        self.found.truncate(MOST);
        self.spans.extend(other.spans);
        self.queued.extend(other.queued);
        for (key, n) in other.records {
            *self.records.entry(key).or_default() += n;
        }
        self.counts.extend(other.counts);
        self.undo.extend(other.undo);
        self.wanted.extend(other.wanted);
    }

    /// Notes a finding that rests on the words at `rests`.
    pub fn note<P: Platform>(
        &mut self,
        v: View<'_, P>,
        fault: Fault,
        who: Who,
        at: Offset,
        what: String,
        rests: &[Offset],
    ) {
        self.push(fault, who, at, what, v.evidence(rests), Fix::Look);
    }

    /// Notes a finding with what it rests on, and what mends it.
    pub fn push(
        &mut self,
        fault: Fault,
        who: Who,
        at: Offset,
        what: String,
        evidence: Vec<(Offset, u64)>,
        fix: Fix,
    ) {
        if self.found.len() < MOST {
            let object = who.to_string();
            self.found.push(Finding { fault, object, at, what, evidence, who, fix });
        }
    }

    /// Notes `what` unless `good`.
    pub fn expect<P: Platform>(
        &mut self,
        v: View<'_, P>,
        good: bool,
        fault: Fault,
        who: Who,
        at: Offset,
        what: impl FnOnce() -> String,
    ) {
        if !good {
            self.note(v, fault, who, at, what(), &[at]);
        }
    }

    /// A lock word names a lane, and a transaction that has been.
    pub fn lock_word<P: Platform>(&mut self, v: View<'_, P>, who: Who, at: Offset) {
        let word = v.word(at);
        if word == 0 {
            return;
        }
        let holder = (word & 0x7fff).wrapping_sub(1) as u32;
        let Ok(slot) = v.r.lane(LaneId(holder)) else {
            return self.note(
                v,
                Fault::Lock,
                who,
                at,
                format!("lock {word:#x} names no lane"),
                &[at],
            );
        };
        let seq = v.word(slot.plus(lane::JOURNAL)) >> 2;
        self.expect(v, word >> 15 <= seq, Fault::Lock, who, at, || {
            format!("locked by step {} of lane {holder}, which is yet to come", word >> 15)
        });
    }

    /// The block that the cell at `says` names, if it has room for `size` bytes; noted as `who`'s.
    pub fn block<P: Platform>(
        &mut self,
        v: View<'_, P>,
        fault: Fault,
        who: Who,
        says: Offset,
        pool: Pool,
        size: impl FnOnce(Offset) -> u64,
    ) -> Option<Offset> {
        self.block_of(v, fault, who, says, v.cell(says), pool, size)
    }

    /// As [`Part::block`], where the cell at `says` means block `cell`.
    pub fn block_of<P: Platform>(
        &mut self,
        v: View<'_, P>,
        fault: Fault,
        who: Who,
        says: Offset,
        cell: u32,
        pool: Pool,
        size: impl FnOnce(Offset) -> u64,
    ) -> Option<Offset> {
        let word = v.word(says);
        let Ok(block) = v.r.block(cell) else {
            let what = format!("names a block at {:#x}, outside the pages", u64::from(cell) << 6);
            self.note(v, fault, who, says, what, &[says]);
            return None;
        };
        let size = size(block);
        let Some(class) = class_of(size).filter(|c| block.0 + (64 << c) <= v.r.mem().len()) else {
            let what = format!("its block at {block} would have {size} bytes");
            self.note(v, fault, who, says, what, &[says]);
            return None;
        };
        let start = block.0 >> arena::MIN_SHIFT;
        let class_of = Some((pool, class));
        let (units, used) = (1 << class, Use::Of(who));
        self.spans.push(Span { start, units, class: class_of, used, says: (says, word) });
        Some(block)
    }

    /// A run of pages that the cell at `says` names; `false` if it is none.
    pub fn run<P: Platform>(
        &mut self,
        v: View<'_, P>,
        fault: Fault,
        who: Who,
        says: Offset,
        pages: u32,
    ) -> bool {
        let word = v.word(says);
        let place = v.r.table(Table::Pages);
        let (first, lowest) = (u64::from(word as u32), place.at.0 / PAGE);
        if pages == 0 || first < lowest || first - lowest + u64::from(pages) > place.count {
            let what = format!("{pages} pages from page {first}: not in the region");
            self.note(v, fault, who, says, what, &[says, says.plus(8)]);
            return false;
        }
        let per = PAGE >> arena::MIN_SHIFT;
        self.spans.push(Span {
            start: first * per,
            units: u64::from(pages) * per,
            class: None,
            used: Use::Of(who),
            says: (says, word),
        });
        true
    }

    /// Segments count their attachments as tasks do.
    pub fn attachments(&mut self) {
        for (who, key, at, word) in std::mem::take(&mut self.counts) {
            let recorded = self.records.get(&key).copied().unwrap_or(0);
            let counted = u64::from(word as u32);
            if counted != recorded {
                let what = format!("counts {counted} attachments, its tasks {recorded}");
                let fix = u32::try_from(recorded).map_or(Fix::Look, Fix::Value);
                self.push(Fault::Attached, who, at, what, vec![(at, word)], fix);
            }
        }
    }
}
