//! Numbers that a seed repeats, or that bytes say.

/// SplitMix64, after what bytes there are.
#[derive(Debug, Clone)]
pub struct Rng {
    bytes: Vec<u8>,
    at: usize,
    state: u64,
}

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { bytes: Vec::new(), at: 0, state: seed }
    }

    /// What `bytes` say, and then one sequence for all.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, state: 0 }
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        if let Some(eight) = self.bytes[self.at..].first_chunk::<8>() {
            self.at += 8;
            return u64::from_le_bytes(*eight);
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        if n <= 256
            && let Some(byte) = self.bytes.get(self.at)
        {
            self.at += 1;
            return usize::from(*byte) % n.max(1);
        }
        (self.draw() % n.max(1) as u64) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }
}
