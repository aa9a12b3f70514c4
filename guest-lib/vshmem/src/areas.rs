//! What is mapped of attached segments, as the kernel counts it.
//!
//! The kernel counts mappings, not calls of `shmat`: a hole in the middle makes two of one, and so
//! does changing the protection, or an advice, of a piece. What has the same flags again grows
//! together only by moving a boundary, and on newer kernels only ([`Merges`]): no mapping of a segment
//! is ever taken away by a merge, since its end is an event (`vm_ops->close`). This is that
//! book-keeping; what is mapped in truth is another matter.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

/// What makes mappings differ: protection, and what `madvise` and `mlock` note of a mapping.
pub(crate) mod flags {
    /// PROT_READ, PROT_WRITE, PROT_EXEC.
    pub const PROTECTION: u32 = 7;
    pub const RANDOM: u32 = 1 << 3;
    pub const SEQUENTIAL: u32 = 1 << 4;
    /// Not inherited by children.
    pub const DONT_FORK: u32 = 1 << 5;
    pub const DONT_DUMP: u32 = 1 << 6;
    pub const HUGE: u32 = 1 << 7;
    pub const NO_HUGE: u32 = 1 << 8;
    pub const LOCKED: u32 = 1 << 9;
    pub const ON_FAULT: u32 = 1 << 10;
}

/// Which neighbours of a piece that becomes like them take it over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Merges {
    /// None: Linux before 6.4 merges no mapping whose end is an event.
    None,
    /// The one before it: before 6.12.
    Before,
    /// Either.
    Both,
}

impl Merges {
    /// Those of a kernel of this version.
    pub fn of(release: (u32, u32)) -> Self {
        match release {
            (0..6, _) | (6, ..4) => Self::None,
            (6, ..12) => Self::Before,
            _ => Self::Both,
        }
    }
}

/// Names one `shmat`: mappings of different ones never merge, even of one segment.
pub(crate) trait Source: Clone {
    fn is(&self, other: &Self) -> bool;
}

/// One mapping; where it begins is its key.
#[derive(Clone, Debug)]
pub(crate) struct Area<S> {
    pub to: usize,
    /// Which byte of the segment is its first.
    pub offset: usize,
    pub flags: u32,
    pub source: S,
}

/// A mapping that came to be, or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Open,
    Close,
}

/// All of them in one address space, by where they begin.
#[derive(Debug)]
pub(crate) struct Areas<S> {
    all: BTreeMap<usize, Area<S>>,
    /// What happened since it was last asked.
    events: Vec<(S, Event)>,
    pub merges: Merges,
}

impl<S: Source> Areas<S> {
    pub const fn new() -> Self {
        Self { all: BTreeMap::new(), events: Vec::new(), merges: Merges::Both }
    }

    pub fn events(&mut self) -> Vec<(S, Event)> {
        std::mem::take(&mut self.events)
    }

    /// Takes the last of them back.
    pub fn take_last(&mut self) -> Option<Event> {
        self.events.pop().map(|(_, event)| event)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Area<S>)> {
        self.all.iter().map(|(from, area)| (*from, area))
    }

    /// First and last byte (exclusive) of all of them.
    pub fn bounds(&self) -> Option<(usize, usize)> {
        let (first, last) = (self.all.first_key_value()?, self.all.last_key_value()?);
        Some((*first.0, last.1.to))
    }

    /// The mapping that holds the byte at `at`, and where it begins.
    pub fn at(&self, at: usize) -> Option<(usize, &Area<S>)> {
        let (from, area) = self.all.range(..=at).next_back()?;
        (at < area.to).then_some((*from, area))
    }

    /// Where those begin that meet `from..to`.
    fn inside(&self, from: usize, to: usize) -> Vec<usize> {
        let first = self.at(from).map(|(first, _)| first).filter(|_| from < to).into_iter();
        let rest = self.all.range((Excluded(from), Unbounded)).map(|(at, _)| *at);
        first.chain(rest.take_while(|at| *at < to)).collect()
    }

    /// Makes a boundary at `at`, if that is inside a mapping: one more.
    fn split(&mut self, at: usize) {
        let Some((from, area)) = self.at(at).filter(|(from, _)| *from < at) else { return };
        let behind = Area { offset: area.offset + (at - from), ..area.clone() };
        self.events.push((behind.source.clone(), Event::Open));
        if let Some(before) = self.all.get_mut(&from) {
            before.to = at;
        }
        self.all.insert(at, behind);
    }

    /// `munmap`.
    pub fn unmap(&mut self, from: usize, to: usize) {
        if from >= to {
            return;
        }
        self.split(from);
        self.split(to);
        for at in self.inside(from, to) {
            self.end(at);
        }
    }

    /// Ends the mapping that begins at `at`.
    fn end(&mut self, at: usize) {
        if let Some(area) = self.all.remove(&at) {
            self.events.push((area.source, Event::Close));
        }
    }

    /// Leaves out those that `gone` says, without an event.
    pub fn forget(&mut self, gone: impl Fn(&Area<S>) -> bool) {
        self.all.retain(|_, area| !gone(area));
    }

    /// Whether a mapping of `area`'s flags and source at `from` would go on where `before` ends.
    fn continues(before: &Area<S>, start: usize, area: &Area<S>, from: usize) -> bool {
        before.to == from
            && before.flags == area.flags
            && before.source.is(&area.source)
            && before.offset + (from - start) == area.offset
    }

    /// Changes the flags of everything in `from..to`.
    pub fn change(&mut self, from: usize, to: usize, how: impl Fn(u32) -> u32) {
        for at in self.inside(from, to) {
            let Some(old) = self.all.get(&at).cloned() else { continue };
            let (start, end) = (at.max(from), old.to.min(to));
            let flags = how(old.flags);
            if flags != old.flags {
                self.change_one(at, &old, start, end, flags);
            }
        }
    }

    /// Changes the flags of `start..end` inside the mapping `old` at `at`: a neighbour that is
    /// alike takes it over, unless that would take the whole mapping away.
    fn change_one(&mut self, at: usize, old: &Area<S>, start: usize, end: usize, flags: u32) {
        let (whole_left, whole_right) = (start == at, end == old.to);
        let new = Area { to: end, offset: old.offset + (start - at), flags, ..old.clone() };
        let left = || self.all.range(..start).next_back().map(|(from, area)| (*from, area));
        if whole_left
            && !whole_right
            && self.merges != Merges::None
            && let Some((from, before)) = left()
            && Self::continues(before, from, &new, start)
        {
            self.shorten(at, old, end);
            if let Some(before) = self.all.get_mut(&from) {
                before.to = end;
            }
        } else if whole_right
            && !whole_left
            && self.merges == Merges::Both
            && self.all.get(&end).is_some_and(|next| Self::continues(&new, start, next, end))
        {
            if let Some(area) = self.all.get_mut(&at) {
                area.to = start;
            }
            if let Some(mut next) = self.all.remove(&end) {
                next.offset = new.offset;
                self.all.insert(start, next);
            }
        } else {
            self.split(start);
            self.split(end);
            if let Some(area) = self.all.get_mut(&start) {
                area.flags = flags;
            }
        }
    }

    /// Takes the first bytes, up to `to`, off the mapping `old` at `at`.
    fn shorten(&mut self, at: usize, old: &Area<S>, to: usize) {
        self.all.remove(&at);
        self.all.insert(to, Area { offset: old.offset + (to - at), ..old.clone() });
    }

    /// A new mapping where nothing is; with `merge`, a neighbour that it continues grows instead.
    pub fn add(&mut self, from: usize, area: Area<S>, merge: bool) {
        if merge && self.merges != Merges::None {
            let before = self.all.range(..from).next_back();
            let before = before.filter(|(at, b)| Self::continues(b, **at, &area, from));
            if let Some(at) = before.map(|(at, _)| *at) {
                if let Some(before) = self.all.get_mut(&at) {
                    before.to = area.to;
                }
                return;
            }
            let next = self.all.get(&area.to).filter(|_| self.merges == Merges::Both);
            if next.is_some_and(|n| Self::continues(&area, from, n, area.to)) {
                if let Some(mut next) = self.all.remove(&area.to) {
                    next.offset = area.offset;
                    self.all.insert(from, next);
                }
                return;
            }
        }
        self.events.push((area.source.clone(), Event::Open));
        self.all.insert(from, area);
    }

    /// Lengthens the mapping that begins at `at`, over nothing.
    pub fn grow(&mut self, at: usize, to: usize) {
        if let Some(area) = self.all.get_mut(&at) {
            area.to = to;
        }
    }

    /// What `shmdt(at)` unmaps: the first mapping above that lies where an attachment at `at`
    /// would have it, and of the same `shmat` those within the segment's size from there.
    pub fn attached_at(&self, at: usize, size: impl Fn(&S) -> usize) -> Vec<(usize, usize)> {
        let fits = |(from, area): &(&usize, &Area<S>)| **from - at == area.offset;
        let Some((first, found)) = self.all.range(at..).find(fits) else { return Vec::new() };
        let most = size(&found.source);
        let rest = self.all.range((Excluded(*first), Unbounded));
        let rest = rest
            .take_while(|(_, area)| area.to - at <= most)
            .filter(|pair| fits(pair) && pair.1.source.is(&found.source));
        let all = std::iter::once((first, found)).chain(rest);
        all.map(|(from, area)| (*from, area.to)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Source for u8 {
        fn is(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn one(from: usize, to: usize) -> Areas<u8> {
        let mut areas = Areas::new();
        areas.add(from, Area { to, offset: 0, flags: 3, source: 1 }, false);
        assert_eq!(areas.events(), [(1, Event::Open)]);
        areas
    }

    fn seen(areas: &Areas<u8>) -> Vec<(usize, usize, usize, u32)> {
        areas.iter().map(|(from, a)| (from, a.to, a.offset, a.flags)).collect()
    }

    /// How many more there are than before.
    fn balance(areas: &mut Areas<u8>) -> i32 {
        areas.events().iter().map(|(_, e)| if *e == Event::Open { 1 } else { -1 }).sum()
    }

    #[test]
    fn holes_split_ends_shorten_and_everything_vanishes() {
        let mut areas = one(10, 20);
        areas.unmap(14, 16);
        assert_eq!(seen(&areas), [(10, 14, 0, 3), (16, 20, 6, 3)]);
        assert_eq!(balance(&mut areas), 1);
        areas.unmap(0, 12);
        areas.unmap(19, 99);
        assert_eq!(seen(&areas), [(12, 14, 2, 3), (16, 19, 6, 3)]);
        assert_eq!(balance(&mut areas), 0);
        areas.unmap(13, 17);
        areas.unmap(0, 99);
        assert_eq!(seen(&areas), []);
        assert_eq!(balance(&mut areas), -2);
    }

    #[test]
    fn boundaries_move_but_no_mapping_is_merged_away() {
        let mut areas = one(10, 20);
        areas.change(12, 16, |f| f);
        areas.change(15, 15, |_| 1);
        areas.unmap(15, 15);
        assert_eq!(balance(&mut areas), 0);
        areas.change(12, 16, |_| 1);
        assert_eq!(seen(&areas), [(10, 12, 0, 3), (12, 16, 2, 1), (16, 20, 6, 3)]);
        assert_eq!(balance(&mut areas), 2);
        areas.change(12, 13, |_| 3);
        areas.change(15, 16, |_| 3);
        assert_eq!(seen(&areas), [(10, 13, 0, 3), (13, 15, 3, 1), (15, 20, 5, 3)]);
        areas.change(0, 99, |_| 3);
        assert_eq!(seen(&areas), [(10, 13, 0, 3), (13, 15, 3, 3), (15, 20, 5, 3)]);
        assert_eq!(balance(&mut areas), 0);
    }

    #[test]
    fn older_kernels_move_fewer_boundaries() {
        for (release, expected) in
            [((5, 10), 2), ((6, 1), 2), ((6, 4), 1), ((6, 11), 1), ((6, 12), 0), ((7, 0), 0)]
        {
            let mut areas = one(10, 20);
            areas.merges = Merges::of(release);
            areas.change(12, 16, |_| 1);
            assert_eq!(balance(&mut areas), 2);
            areas.change(12, 13, |_| 3);
            areas.change(15, 16, |_| 3);
            assert_eq!(balance(&mut areas), expected, "{release:?}");
        }
    }

    #[test]
    fn what_comes_back_to_its_place_grows_together_once() {
        let mut areas = one(10, 20);
        areas.unmap(12, 14);
        assert_eq!(balance(&mut areas), 1);
        let piece = Area { to: 14, offset: 2, flags: 3, source: 1 };
        areas.add(12, Area { source: 2, ..piece.clone() }, true);
        assert_eq!(balance(&mut areas), 1, "of another shmat");
        areas.unmap(12, 14);
        areas.add(12, piece, true);
        assert_eq!(seen(&areas), [(10, 14, 0, 3), (14, 20, 4, 3)]);
        assert_eq!(balance(&mut areas), -1);
    }

    #[test]
    fn shmdt_finds_pieces_that_lie_as_attached() {
        let mut areas = one(10, 20);
        areas.unmap(10, 12);
        areas.unmap(14, 15);
        let moved = Area { to: 41, offset: 0, flags: 3, source: 1 };
        areas.add(40, moved, true);
        let size = |_: &u8| 10;
        assert_eq!(areas.attached_at(10, size), [(12, 14), (15, 20)]);
        assert_eq!(areas.attached_at(11, size), []);
        assert_eq!(areas.attached_at(40, size), [(40, 41)]);
        assert_eq!(areas.attached_at(21, size), []);
    }
}
