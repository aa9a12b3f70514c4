//! Ends for loops that only a hostile peer could keep from ending.

use crate::mem::{Corrupt, Offset};

/// Work done at a word that others change meanwhile.
///
/// A loop that begins again whenever somebody was faster ends, since each time somebody *was*
/// faster; but a peer that only writes, and does nothing else, could keep it going. Losing this
/// often is no bad luck.
#[derive(Clone, Debug)]
pub struct Turns {
    left: u64,
}

impl Turns {
    /// Turns, or entries of journals carried out for others, in which somebody was faster: some
    /// milliseconds.
    const MOST: u64 = 1 << 17;

    /// As many as nobody needs.
    #[must_use]
    pub const fn new() -> Self {
        Self::at_most(Self::MOST)
    }

    /// As many as `n`.
    #[must_use]
    pub const fn at_most(n: u64) -> Self {
        Self { left: n }
    }

    /// Counts `work` more.
    ///
    /// # Errors
    /// It was too much; `what` is wrong at `at`.
    #[inline]
    pub const fn pass(&mut self, work: u64, at: Offset, what: &'static str) -> Result<(), Corrupt> {
        match self.left.checked_sub(work) {
            Some(left) => self.left = left,
            None => return Err(Corrupt::new(at, what)),
        }
        Ok(())
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}
