//! What a transaction will write, as its journal will say it, found by offset.

use super::WAKE;
use crate::layout::lane;
use crate::mem::{Corrupt, Offset};

/// {offset with [`WAKE`], old word, new word}.
type Entry = [u64; 3];

const SLOTS: usize = 4096;
/// Bits of an entry's index in a slot; above them is the stamp.
const INDEX_BITS: u32 = 11;

const _: () = assert!(lane::MAX_ENTRIES <= 1 << INDEX_BITS && lane::MAX_ENTRIES * 2 < SLOTS);

/// A list of entries with a hash table beside it (open addressing, linear probing). A slot counts
/// only with the present stamp, so that beginning anew clears nothing.
#[derive(Debug)]
pub(super) struct Writes {
    entries: Vec<Entry>,
    slots: Box<[u32; SLOTS]>,
    stamp: u32,
    wakes: bool,
}

/// Neighbours hash to neighbours: the cells of an object share a line of the table.
#[inline]
const fn slot_of(at: Offset) -> usize {
    (at.0 >> 3 ^ at.0 >> 15) as usize % SLOTS
}

impl Writes {
    pub fn new() -> Self {
        let slots = vec![0; SLOTS].into_boxed_slice();
        Self {
            entries: Vec::with_capacity(lane::MAX_ENTRIES),
            slots: slots.try_into().expect("it has as many slots as it was made with"),
            stamp: 1,
            wakes: false,
        }
    }

    #[inline]
    pub fn clear(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        self.entries.clear();
        self.wakes = false;
        self.stamp += 1;
        if self.stamp >> (u32::BITS - INDEX_BITS) != 0 {
            self.slots.fill(0);
            self.stamp = 1;
        }
    }

    /// All entries in order, word by word.
    #[inline]
    pub fn words(&self) -> &[u64] {
        self.entries.as_flattened()
    }

    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether some entry wakes a sleeper.
    #[inline]
    pub fn wakes(&self) -> bool {
        self.wakes
    }

    /// The entry of the word at `at`.
    #[inline]
    pub fn find(&self, at: Offset) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        let mut slot = slot_of(at);
        loop {
            let found = self.slots[slot];
            if found >> INDEX_BITS != self.stamp {
                return None;
            }
            let i = found as usize % (1 << INDEX_BITS);
            if self.entries[i][0] & !WAKE == at.0 {
                return Some(i);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// What entry `i` replaces.
    #[inline]
    pub fn old(&self, i: usize) -> u64 {
        self.entries[i][1]
    }

    /// What entry `i` writes.
    #[inline]
    pub fn new_word(&self, i: usize) -> u64 {
        self.entries[i][2]
    }

    /// Has entry `i` write `new`.
    #[inline]
    pub fn change(&mut self, i: usize, new: u64, wake: bool) {
        self.entries[i][0] |= u64::from(wake);
        self.entries[i][2] = new;
        self.wakes |= wake;
    }

    /// Adds an entry for a word that has none.
    ///
    /// # Errors
    /// The journal has no more room.
    #[inline]
    pub fn push(&mut self, at: Offset, old: u64, new: u64, wake: bool) -> Result<(), Corrupt> {
        if self.entries.len() >= lane::MAX_ENTRIES {
            return Err(Corrupt::new(at, "transaction writes too much"));
        }
        let mut slot = slot_of(at);
        while self.slots[slot] >> INDEX_BITS == self.stamp {
            slot = (slot + 1) % SLOTS;
        }
        self.slots[slot] = self.stamp << INDEX_BITS | self.entries.len() as u32;
        self.entries.push([at.0 | u64::from(wake), old, new]);
        self.wakes |= wake;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_and_none_of_before() {
        let mut writes = Writes::new();
        // Lanes' words: far apart, and many at the same place in their table.
        let at = |i: u64| Offset(128 + i * lane::STRIDE);
        for round in 0..3 {
            writes.clear();
            assert!((0..2000).all(|i| writes.find(at(i)).is_none()), "round {round}");
            for i in 0..lane::MAX_ENTRIES as u64 {
                writes.push(at(i), i, i + round, false).unwrap();
            }
            for i in 0..lane::MAX_ENTRIES as u64 {
                let found = writes.find(at(i)).unwrap();
                assert_eq!((writes.old(found), writes.new_word(found)), (i, i + round));
            }
            assert!(writes.push(at(1999), 0, 0, false).is_err());
            assert_eq!(writes.find(at(1999)), None);
        }
    }

    #[test]
    fn stamps_that_come_round_find_nothing_old() {
        let mut writes = Writes::new();
        for i in 0..1u64 << (u32::BITS - INDEX_BITS) {
            writes.clear();
            assert_eq!(writes.find(Offset(i % 64 * 8)), None);
            writes.push(Offset(i % 64 * 8), 0, i, false).unwrap();
        }
    }
}
