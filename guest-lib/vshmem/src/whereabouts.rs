//! Which segment an address belongs to: asked by every operation on a `sem_t` or a mutex that a
//! program keeps in one, so without a lock and without a system call.
//!
//! A sorted table under a sequence lock. Whoever attaches and detaches writes all of it
//! ([`publish`]), one at a time; readers try again when it changed under them. Most addresses that
//! are asked about are nowhere near: that costs two loads.

use crate::session::Shared;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use vshmem_sysv::park::Key;

/// A part of a segment, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub from: usize,
    pub to: usize,
    /// The session it was attached through.
    pub shared: *const Shared,
    /// What is at `from`.
    pub key: Key,
}

#[derive(Debug, Default)]
struct Entry {
    from: AtomicUsize,
    to: AtomicUsize,
    shared: AtomicPtr<Shared>,
    /// Segment and life.
    segment: AtomicU64,
    at: AtomicU64,
}

struct Index {
    /// Odd while it changes.
    version: AtomicUsize,
    used: AtomicUsize,
    room: AtomicUsize,
    /// Never freed: a reader may still be in it. It doubles, so all of them are twice the last.
    entries: AtomicPtr<Entry>,
    low: AtomicUsize,
    high: AtomicUsize,
}

impl Index {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            room: AtomicUsize::new(0),
            entries: AtomicPtr::new(ptr::null_mut()),
            low: AtomicUsize::new(usize::MAX),
            high: AtomicUsize::new(0),
        }
    }

    fn publish(&self, mut all: Vec<Range>) {
        all.sort_unstable_by_key(|r| r.from);
        // Relaxed where nothing else is said: one thread at a time writes.
        let version = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(version, Ordering::Relaxed);
        // Release: whoever reads what is stored below sees the odd version too.
        fence(Ordering::Release);
        if all.len() > self.room.load(Ordering::Relaxed) {
            let room = all.len().next_power_of_two().max(8);
            let entries: Box<[Entry]> = (0..room).map(|_| Entry::default()).collect();
            // Release: the entries are there for whoever finds them.
            self.entries.store(Box::leak(entries).as_mut_ptr(), Ordering::Release);
            self.room.store(room, Ordering::Release);
        }
        let entries = self.entries.load(Ordering::Relaxed);
        for (i, r) in all.iter().enumerate() {
            // SAFETY: below `room`, which the entries have.
            let entry = unsafe { &*entries.add(i) };
            entry.from.store(r.from, Ordering::Relaxed);
            entry.to.store(r.to, Ordering::Relaxed);
            entry.shared.store(r.shared.cast_mut(), Ordering::Relaxed);
            let segment = u64::from(r.key.seg) << 32 | u64::from(r.key.life);
            entry.segment.store(segment, Ordering::Relaxed);
            entry.at.store(r.key.at, Ordering::Relaxed);
        }
        self.used.store(all.len(), Ordering::Relaxed);
        self.low.store(all.first().map_or(usize::MAX, |r| r.from), Ordering::Relaxed);
        self.high.store(all.iter().map(|r| r.to).max().unwrap_or(0), Ordering::Relaxed);
        // Release: all of it is there when the version is even again.
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }

    #[inline]
    fn find(&self, at: usize) -> Option<Range> {
        // Relaxed: a thread asks about memory it has, which was published before it got it.
        if at < self.low.load(Ordering::Relaxed) || at >= self.high.load(Ordering::Relaxed) {
            return None;
        }
        self.search(at)
    }

    fn search(&self, at: usize) -> Option<Range> {
        let range = loop {
            if let Some(found) = self.undisturbed(|| self.last_from(at)) {
                break found?;
            }
            std::hint::spin_loop();
        };
        if at >= range.to {
            return None;
        }
        Some(Range { key: range.key.plus((at - range.from) as u64), ..range })
    }

    /// Whether any range may meet `from..to`: while the table changes, the answer is yes.
    fn meets(&self, from: usize, to: usize) -> bool {
        let Some(last) = to.checked_sub(1) else { return false };
        let found = self.undisturbed(|| self.last_from(last));
        found.is_none_or(|range| range.is_some_and(|range| range.to > from))
    }

    /// What `look` sees of the table, unless somebody changes it meanwhile.
    fn undisturbed<T>(&self, look: impl Fn() -> T) -> Option<T> {
        // Acquire: pairs with the last store of `publish`.
        let version = self.version.load(Ordering::Acquire);
        if version & 1 != 0 {
            return None;
        }
        let found = look();
        // Acquire: pairs with the fence in `publish`: what was read of a newer table shows.
        fence(Ordering::Acquire);
        (self.version.load(Ordering::Relaxed) == version).then_some(found)
    }

    /// The last range that begins at `at` or before.
    fn last_from(&self, at: usize) -> Option<Range> {
        // Acquire: the room before the entries: a newer room would have shown newer entries too.
        let room = self.room.load(Ordering::Acquire);
        let entries = self.entries.load(Ordering::Acquire);
        let used = self.used.load(Ordering::Relaxed).min(room);
        // SAFETY: never freed; below `room`.
        let entry = |i: usize| unsafe { &*entries.add(i) };
        let (mut low, mut high) = (0, used);
        while low < high {
            let middle = low.midpoint(high);
            if entry(middle).from.load(Ordering::Relaxed) <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.nth(low.checked_sub(1)?)
    }

    fn nth(&self, i: usize) -> Option<Range> {
        // Acquire: as in `look`.
        let room = self.room.load(Ordering::Acquire);
        if i >= room {
            return None;
        }
        // SAFETY: never freed; below `room`.
        let entry = unsafe { &*self.entries.load(Ordering::Acquire).add(i) };
        let segment = entry.segment.load(Ordering::Relaxed);
        Some(Range {
            from: entry.from.load(Ordering::Relaxed),
            to: entry.to.load(Ordering::Relaxed),
            shared: entry.shared.load(Ordering::Relaxed),
            key: Key {
                seg: (segment >> 32) as u32,
                life: segment as u32,
                at: entry.at.load(Ordering::Relaxed),
            },
        })
    }
}

static INDEX: Index = Index::new();

/// Makes `all` what is attached in this address space. Its callers take turns, with signals blocked.
pub(crate) fn publish(all: Vec<Range>) {
    INDEX.publish(all);
}

/// Whether any of `from..to` may be attached: two loads, where nothing is near.
///
/// A thread that asks about memory of its own is not told no wrongly: nobody else attaches there.
#[inline]
pub(crate) fn touches(from: usize, to: usize) -> bool {
    // Relaxed: as in `find`.
    from < INDEX.high.load(Ordering::Relaxed)
        && to > INDEX.low.load(Ordering::Relaxed)
        && INDEX.meets(from, to)
}

/// What is attached at `at`, if anything: the range it is in, with the key of `at` itself.
#[inline]
pub(crate) fn find(at: usize) -> Option<Range> {
    INDEX.find(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn range(from: usize, to: usize, seg: u32) -> Range {
        Range { from, to, shared: ptr::null(), key: Key { seg, life: 4, at: 0x1000 } }
    }

    #[test]
    fn addresses_are_found_in_their_ranges_and_nowhere_else() {
        let index = Index::new();
        assert!(index.find(5).is_none());
        index.publish(vec![range(500, 600, 5), range(100, 200, 1), range(200, 250, 2)]);
        for (at, seg) in [(100, 1), (199, 1), (200, 2), (249, 2), (500, 5), (599, 5)] {
            assert_eq!(index.find(at).unwrap().key.seg, seg, "{at}");
        }
        assert_eq!(index.find(199).unwrap().key.at, 0x1063);
        for at in [0, 99, 250, 499, 600, usize::MAX] {
            assert!(index.find(at).is_none(), "{at}");
        }
        for (from, to, met) in [
            (0, 100, false),
            (0, 101, true),
            (249, 260, true),
            (250, 500, false),
            (250, 501, true),
            (300, 900, true),
            (600, 900, false),
            (0, 0, false),
        ] {
            assert_eq!(index.meets(from, to), met, "{from}..{to}");
        }
        index.publish((0..100).map(|i| range(i * 10, i * 10 + 5, i as u32)).collect());
        assert_eq!(index.find(994).unwrap().key.seg, 99);
        assert!(index.find(995).is_none());
        index.publish(Vec::new());
        assert!(index.find(994).is_none());
    }

    #[test]
    fn readers_see_one_table_or_the_other() {
        let (index, over) = (Index::new(), AtomicBool::new(false));
        index.publish(vec![range(100, 250, 100)]);
        std::thread::scope(|s| {
            s.spawn(|| {
                for i in 0..200_000usize {
                    // The start of each stands in its key, and there are more of them each time.
                    let n = 1 + i % 40;
                    let start = 100 - i % 7;
                    index.publish(
                        (0..n)
                            .map(|k| {
                                let from = start + k * 200;
                                range(from, from + 150, from as u32)
                            })
                            .collect(),
                    );
                }
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                let found = index.find(150).unwrap();
                assert_eq!((found.from as u32, found.to), (found.key.seg, found.from + 150));
            }
        });
    }
}
