//! An open region: memory whose superblock was checked, and where its tables are.

use crate::format::{self, FormatError, Geometry, Place, Spec};
use crate::layout::{self, LIMITS, Limit, Table, dir, lane, obj, peer, sb, task};
use crate::mem::{Corrupt, Offset, Ordering, Platform};
use crate::txn::LaneId;

/// The three kinds of System V object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u32)]
pub enum Kind {
    /// Shared memory segments.
    Seg = 0,
    /// Semaphore sets.
    Set = 1,
    /// Message queues.
    Queue = 2,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Seg, Self::Set, Self::Queue];

    /// Its table of objects.
    #[must_use]
    pub const fn table(self) -> Table {
        match self {
            Self::Seg => Table::Segs,
            Self::Set => Table::Sets,
            Self::Queue => Table::Queues,
        }
    }

    /// Its hash buckets.
    #[must_use]
    pub const fn keys(self) -> Table {
        match self {
            Self::Seg => Table::SegKeys,
            Self::Set => Table::SetKeys,
            Self::Queue => Table::QueueKeys,
        }
    }

    /// Its bitmap of used indices.
    #[must_use]
    pub const fn used(self) -> Table {
        match self {
            Self::Seg => Table::SegUsed,
            Self::Set => Table::SetUsed,
            Self::Queue => Table::QueueUsed,
        }
    }

    /// Its directory block.
    #[must_use]
    pub const fn dir(self) -> Offset {
        Offset(sb::DIRS).index(self as u64, dir::STRIDE)
    }
}

/// A region over platform `P`.
///
/// Invariant R1: the geometry was checked against the memory's length when it was opened and is
/// this process's own copy; a peer that scribbles on the superblock changes nothing here.
pub struct Region<P> {
    mem: P,
    geometry: Geometry,
}

impl<P: Platform> Region<P> {
    /// Writes a new region over zeroed memory.
    ///
    /// # Errors
    /// The memory is too small for the specification.
    ///
    /// # If the caller dies
    /// The magic is stored last: the memory is no region yet and can be formatted again.
    pub fn format(mem: P, spec: &Spec) -> Result<Self, FormatError> {
        let geometry = format::format(&mem, spec)?;
        Ok(Self { mem, geometry })
    }

    /// Opens a region that another peer may have written.
    ///
    /// # Errors
    /// Wrong magic, version or features, tables outside the memory or not as this version lays
    /// them out; each message says which.
    pub fn open(mem: P) -> Result<Self, FormatError> {
        let geometry = format::open(&mem)?;
        Ok(Self { mem, geometry })
    }

    /// A region with tables of the caller's own, for tests of single mechanisms.
    #[must_use]
    pub fn with_geometry(mem: P, geometry: Geometry) -> Self {
        Self { mem, geometry }
    }

    /// The memory, and how to sleep and wake.
    pub fn mem(&self) -> &P {
        &self.mem
    }

    /// Where everything is.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Its number, which its ids carry.
    pub fn number(&self) -> u32 {
        self.geometry.number
    }

    /// Its name.
    ///
    /// # Errors
    /// The name is not UTF-8.
    pub fn name(&self) -> Result<String, Corrupt> {
        self.text(Offset(sb::NAME), 64)
    }

    /// Zero-padded text of at most `len` bytes at `at`.
    ///
    /// # Errors
    /// The bytes are not UTF-8, or outside.
    pub fn text(&self, at: Offset, len: usize) -> Result<String, Corrupt> {
        let mut bytes = vec![0; len];
        self.mem.read_bytes(at, &mut bytes)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(len);
        bytes.truncate(end);
        String::from_utf8(bytes).map_err(|_| Corrupt::new(at, "text is not UTF-8"))
    }

    /// Where table `t` is.
    #[inline]
    pub fn table(&self, t: Table) -> Place {
        self.geometry.tables[t as usize]
    }

    /// Element `i` of table `t`.
    ///
    /// # Errors
    /// The table has no such element.
    #[inline]
    pub fn element(&self, t: Table, i: u32) -> Result<Offset, Corrupt> {
        let place = self.table(t);
        if u64::from(i) < place.count {
            // R1: the whole table is inside the memory, so nothing overflows.
            Ok(Offset(place.at.0.wrapping_add(u64::from(i).wrapping_mul(place.stride))))
        } else {
            Err(no_element(place, i))
        }
    }

    /// A lane.
    ///
    /// # Errors
    /// There is no such lane.
    #[inline]
    pub fn lane(&self, id: LaneId) -> Result<Offset, Corrupt> {
        self.element(Table::Lanes, id.0)
    }

    /// An object of `kind`.
    ///
    /// # Errors
    /// There is no such index.
    #[inline]
    pub fn object(&self, kind: Kind, i: u32) -> Result<Offset, Corrupt> {
        self.element(kind.table(), i)
    }

    /// The current value of the cell at `at`, outside any transaction.
    ///
    /// # Errors
    /// `at` is outside the region.
    #[inline]
    pub fn peek(&self, at: Offset) -> Result<u32, Corrupt> {
        // Acquire: pairs with the application of the step that wrote it.
        Ok(self.mem.load(at, Ordering::Acquire)? as u32)
    }

    /// Writes a cell of memory that no other peer uses yet, keeping its tag growing.
    ///
    /// # Errors
    /// `at` is outside the region.
    pub fn init(&self, at: Offset, value: u32) -> Result<(), Corrupt> {
        let old = self.mem.load(at, Ordering::Relaxed)?;
        // Release: late helpers compare with an older tag and fail.
        self.mem.store(at, crate::txn::next_cell(old, value), Ordering::Release)
    }

    /// The user whom it belongs to.
    ///
    /// # Errors
    /// The superblock is outside the memory, which opening excluded.
    pub fn owner(&self) -> Result<u32, Corrupt> {
        // Relaxed: written once, before the region is found.
        Ok(self.mem.load(Offset(sb::OWNER), Ordering::Relaxed)? as u32)
    }

    /// Whether memory that nobody uses may be given back: it is had again as it is touched. Where all
    /// was had beforehand, so that nobody ever lacks it, it must not be.
    ///
    /// # Errors
    /// The superblock is outside the memory, which opening excluded.
    pub fn is_sparse(&self) -> Result<bool, Corrupt> {
        // Relaxed: written once, before the region is found.
        Ok(self.mem.load(Offset(sb::COMPAT), Ordering::Relaxed)? & layout::FEATURE_SPARSE != 0)
    }

    /// A limit of this region as it is now, never more than the region has room for.
    ///
    /// # Errors
    /// The superblock is outside the memory, which opening excluded.
    pub fn limit(&self, limit: Limit) -> Result<u64, Corrupt> {
        // Relaxed: nothing stands behind it.
        let word = self.mem.load(Offset(sb::LIMITS).index(limit as u64, 8), Ordering::Relaxed)?;
        Ok(word.min(self.geometry.limit_max(limit)))
    }

    /// Sets a limit for everybody, from their next call on; `false` where the region has no room
    /// for that much. What is in use already stays, as in the kernel.
    ///
    /// # Errors
    /// As for [`Region::limit`].
    ///
    /// # If the caller dies
    /// It is one store.
    pub fn set_limit(&self, limit: Limit, value: u64) -> Result<bool, Corrupt> {
        let fits = value <= self.geometry.limit_max(limit);
        if fits {
            let at = Offset(sb::LIMITS).index(limit as u64, 8);
            self.mem.store(at, value, Ordering::Relaxed)?;
        }
        Ok(fits)
    }
}

#[cold]
fn no_element(place: Place, i: u32) -> Corrupt {
    Corrupt::new(place.at.index(i.into(), place.stride), "index outside its table")
}

const _: () = assert!(sb::LIMITS + LIMITS as u64 * 8 <= sb::CLOCK && sb::CLOCK + 8 <= sb::DIRS);
const _: () = assert!(sb::TABLES + layout::TABLES as u64 * 24 <= sb::LIMITS);
const _: () = assert!(
    layout::arena::POOLS
        + (layout::arena::POOLS_COUNT * layout::arena::CLASSES) as u64 * layout::arena::POOL_STRIDE
        + sb::ARENA
        <= sb::SIZE
);
const _: () = assert!(obj::STRIDE.is_multiple_of(128) && lane::STRIDE.is_multiple_of(128));
const _: () = assert!(peer::STRIDE.is_multiple_of(128) && task::STRIDE.is_multiple_of(128));
