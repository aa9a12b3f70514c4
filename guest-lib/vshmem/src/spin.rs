//! How long to spin before sleeping.
//!
//! Spinning pays when whoever has to act runs on another processor right now. Where it does not
//! (a loaded machine, a partner with more to do), it only takes that partner's time. So the budget
//! follows what happened: a spin that ended in a sleep halves it, one that did not doubles it, and
//! every so often the whole is tried again.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The most: about what a sleep and a wake across machines cost.
const MOST: u64 = 50_000;
/// Below this a spin is none: the clock alone takes longer.
const LEAST: u64 = 500;
/// Sleeps between two tries of the whole budget.
const RETRY: u32 = 64;

/// A budget in nanoseconds. Relaxed throughout: hints, of which a lost update costs nothing.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: AtomicU64,
    /// Zero where spinning cannot pay: on one processor, without other kernels.
    most: AtomicU64,
    /// A spin began, and no sleep followed yet.
    spun: AtomicBool,
    sleeps: AtomicU32,
}

impl Spin {
    pub const fn new() -> Self {
        Self {
            budget: AtomicU64::new(MOST),
            most: AtomicU64::new(MOST),
            spun: AtomicBool::new(false),
            sleeps: AtomicU32::new(0),
        }
    }

    /// Whether it can pay.
    pub fn allow(&self, can_pay: bool) {
        self.most.store(if can_pay { MOST } else { 0 }, Ordering::Relaxed);
    }

    /// How long to spin now.
    pub fn begin(&self) -> u64 {
        let most = self.most.load(Ordering::Relaxed);
        let mut budget = self.budget.load(Ordering::Relaxed);
        if self.spun.swap(true, Ordering::Relaxed) {
            budget = (budget * 2).min(MOST);
            self.budget.store(budget, Ordering::Relaxed);
        }
        if budget < LEAST { 0 } else { budget.min(most) }
    }

    /// The spin was for nothing: a sleep follows.
    pub fn failed(&self) {
        if !self.spun.swap(false, Ordering::Relaxed) {
            return;
        }
        let n = self.sleeps.fetch_add(1, Ordering::Relaxed);
        let budget =
            if n % RETRY == RETRY - 1 { MOST } else { self.budget.load(Ordering::Relaxed) / 2 };
        self.budget.store(budget, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_shrink_it_successes_grow_it_and_the_whole_is_tried_again() {
        let spin = Spin::new();
        assert_eq!(spin.begin(), MOST);
        spin.failed();
        assert_eq!(spin.begin(), MOST / 2);
        assert_eq!(spin.begin(), MOST);
        for _ in 1..RETRY - 1 {
            spin.begin();
            spin.failed();
        }
        assert_eq!(spin.begin(), 0);
        spin.failed();
        assert_eq!(spin.begin(), MOST);
        spin.allow(false);
        assert_eq!(spin.begin(), 0);
    }
}
