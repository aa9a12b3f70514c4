//! What a hostile peer writes, where and when: drawn from a seed, with a taste for the worst.

use super::mem::Hostile;
use super::rng::Rng;
use vshmem_core::Offset;
use vshmem_core::format::Geometry;
use vshmem_core::layout::{PAGE, Table, arena, dir, lane, sb};
use vshmem_core::mem::{Mem, Ordering};

/// How often it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// A few times, anywhere.
    Few,
    /// A few times, where the victim looks just now.
    Close,
    /// On and on, about one word.
    Stubborn,
    /// On and on, wherever the victim looks.
    Mad,
}

/// A peer that lies.
pub struct Liar {
    rng: Rng,
    manner: Manner,
    next: u64,
    left: u32,
    recent: [Offset; 8],
    turn: usize,
    about: Option<(Offset, [u64; 2])>,
    geometry: Geometry,
}

impl Liar {
    /// One that takes its decisions from `rng`.
    #[must_use]
    pub fn new(mut rng: Rng, geometry: &Geometry) -> Self {
        let manner = match rng.below(20) {
            0..7 => Manner::Few,
            7..15 => Manner::Close,
            15..18 => Manner::Stubborn,
            _ => Manner::Mad,
        };
        let left = match manner {
            Manner::Few | Manner::Close => 1 + rng.below(6) as u32,
            Manner::Stubborn | Manner::Mad => u32::MAX,
        };
        let geometry = geometry.clone();
        let recent = [Offset(0); 8];
        Self { rng, manner, next: 0, left, recent, turn: 0, about: None, geometry }
    }

    /// Another call begins.
    pub fn restart(&mut self) {
        self.next = 1 + (1u64 << self.rng.below(9)).wrapping_add(self.rng.below(40) as u64) / 2;
    }

    /// Access number `n` is about to be made, of the word at `at`.
    pub fn between(&mut self, mem: &Hostile, n: u64, at: Offset) {
        self.turn = (self.turn + 1) % 8;
        self.recent[self.turn] = at;
        if n < self.next || self.left == 0 {
            return;
        }
        self.left -= 1;
        self.next = n + match self.manner {
            Manner::Few | Manner::Close => 1 + (1u64 << self.rng.below(9)),
            Manner::Stubborn => 1 + self.rng.below(2) as u64,
            Manner::Mad => 1 + self.rng.below(6) as u64,
        };
        if self.manner == Manner::Stubborn {
            return self.insist(mem);
        }
        let close = self.manner != Manner::Few || self.rng.percent(30);
        let at = if close { self.near() } else { somewhere(&mut self.rng, &self.geometry) };
        let old = mem.raw().load(at, Ordering::Relaxed).unwrap_or(0);
        let value = self.value(mem, old);
        mem.lie(at, value);
    }

    /// Writes the same word again, now one way and now the other.
    fn insist(&mut self, mem: &Hostile) {
        if self.about.is_none() {
            let at = if self.rng.percent(70) {
                self.near()
            } else {
                somewhere(&mut self.rng, &self.geometry)
            };
            let old = mem.raw().load(at, Ordering::Relaxed).unwrap_or(0);
            let first = self.value(mem, old);
            let second = if self.rng.percent(50) { old } else { self.value(mem, old) };
            self.about = Some((at, [first, second]));
        }
        if let Some((at, values)) = &mut self.about {
            // The tag goes on, so that no comparison ever succeeds.
            values[0] = values[0].wrapping_add(1 << 32);
            let n = usize::from(self.next.is_multiple_of(4));
            mem.lie(*at, values[n]);
        }
    }

    fn near(&mut self) -> Offset {
        let back = self.rng.below(8) * self.rng.below(2);
        let at = self.recent[(self.turn + 8 - back) % 8];
        let by = [0, 0, 0, 8, 16, 0u64.wrapping_sub(8)][self.rng.below(6)];
        Offset(at.0.wrapping_add(by) & !7)
    }

    fn value(&mut self, mem: &Hostile, old: u64) -> u64 {
        let rng = &mut self.rng;
        if rng.percent(30) {
            return word(rng, &self.geometry, mem, old);
        }
        let low = cell(rng, &self.geometry, mem, old as u32);
        let tag = match rng.below(4) {
            0 => old >> 32,
            1 => rng.draw(),
            _ => (old >> 32).wrapping_add(1),
        };
        tag << 32 | u64::from(low)
    }
}

/// A word in one of the places that mean something.
pub fn somewhere(rng: &mut Rng, g: &Geometry) -> Offset {
    let word = |rng: &mut Rng, bytes: u64| rng.below((bytes / 8).max(1) as usize) as u64 * 8;
    let first = |rng: &mut Rng, count: u64| {
        let most = [2, 8, count][rng.below(3)].min(count).max(1);
        rng.below(most as usize) as u64
    };
    Offset(match rng.below(24) {
        0 => word(rng, sb::SIZE),
        1 => sb::LIMITS + word(rng, 96),
        2 => sb::DIRS + first(rng, 3) * dir::STRIDE + word(rng, 40),
        3 => sb::ARENA + word(rng, 24),
        4 => {
            let pool = rng.below((arena::POOLS_COUNT * arena::CLASSES) as usize) as u64;
            sb::ARENA + arena::POOLS + pool * arena::POOL_STRIDE + word(rng, 24)
        }
        5..9 => {
            let (place, i) = (g.tables[Table::Lanes as usize], first(rng, 24));
            let inside = match rng.below(4) {
                0 => word(rng, 0x200),
                1 => 0x80 + word(rng, 0x70),
                2 => 0x100 + word(rng, 0x90),
                _ => lane::JOURNAL_ENTRY + word(rng, 0x100),
            };
            place.at.index(i, place.stride).plus(inside).0
        }
        // Where blocks are carved.
        9..15 => {
            let at = g.tables[Table::Pages as usize].at.0;
            let most = 1 << [4, 8, 12][rng.below(3)];
            let units = 64 * rng.below(most) as u64;
            at + units + word(rng, 64)
        }
        15 => g.tables[Table::PageUsed as usize].at.0 + word(rng, 64),
        _ => {
            let place = g.tables[rng.below(g.tables.len() - 1)];
            let i = first(rng, place.count);
            place.at.index(i, place.stride).plus(word(rng, place.stride)).0
        }
    })
}

/// A value for a cell: another's, or one at an end of what it may be.
fn cell(rng: &mut Rng, g: &Geometry, mem: &Hostile, old: u32) -> u32 {
    let len = g.len;
    let pages = g.tables[Table::Pages as usize];
    let first = (pages.at.0 / 64) as u32;
    match rng.below(18) {
        0 => 0,
        1 => 1,
        2 => u32::MAX,
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        5 => 1 << rng.below(32),
        6 => old ^ 1 << rng.below(32),
        7 => i32::MIN as u32,
        8 => first,
        9 => first + rng.below(4096) as u32,
        10 => (len / 64) as u32 - rng.below(3) as u32,
        11 => [len / 64, len / 16, len / PAGE, len][rng.below(4)] as u32,
        12 => rng.below(40) as u32,
        13 => 0x1000 + rng.below(50) as u32,
        14 => rng.draw() as u32,
        // What another cell says.
        15 => mem.raw().load(somewhere(rng, g), Ordering::Relaxed).unwrap_or(0) as u32,
        16 => old / 2,
        _ => old.wrapping_mul(2),
    }
}

/// A value for a word: journals, locks, owners and sums.
fn word(rng: &mut Rng, g: &Geometry, mem: &Hostile, old: u64) -> u64 {
    let lanes = g.tables[Table::Lanes as usize];
    match rng.below(12) {
        0 => 0,
        1 => u64::MAX,
        2 => old ^ 1 << rng.below(64),
        3 => rng.draw(),
        // The same journal in another state.
        4 => old & !3 | rng.below(4) as u64,
        5 => old.wrapping_add(4),
        // A lock that some lane's journal seems to hold, in whatever state that is.
        6 | 7 => {
            let i = rng.below(lanes.count as usize) as u64;
            let at = lanes.at.index(i, lanes.stride).plus(lane::JOURNAL);
            let seq = mem.raw().load(at, Ordering::Relaxed).unwrap_or(0) >> 2;
            if rng.percent(60) {
                mem.lie(at, seq << 2 | (1 + rng.below(2) as u64));
            }
            if rng.percent(30) {
                mem.lie(at.plus(8), rng.below(1700) as u64);
            }
            seq << 15 | (i + 1)
        }
        8 => rng.below(60) as u64,
        9 => g.len - 8 * rng.below(3) as u64,
        10 => somewhere(rng, g).0 | rng.below(2) as u64,
        _ => mem.raw().load(somewhere(rng, g), Ordering::Relaxed).unwrap_or(0),
    }
}
