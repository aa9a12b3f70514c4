//! How long to spin before sleeping.
//!
//! Spinning pays when it costs less than the sleep it saves. What a sleep costs is not known
//! beforehand (4 us on one machine, some 40 between processors, several hundred between emulated
//! guests), but every wait shows it: two partners that both sleep see each wait last as long as a
//! wake. So the budget follows how long waits took, whether they came to a sleep or not, and two
//! sleeping partners soon spin long enough to meet. Where spinning does not help, because the
//! partner needs this very processor or has more to do, it stops after a few tries and is tried
//! again only every so often. On a single processor it can only help where the partner is in another
//! kernel: not if the last sleeper that was woken is in this one.
//!
//! `VSHMEM_SPIN`, in nanoseconds, caps the budget; 0 forbids spinning. It is read when the process
//! attaches.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The most within one kernel: more than a futex wake costs.
const MOST_HERE: u64 = 100_000;
/// The most where other kernels may have to be woken: more than a doorbell between emulated guests.
const MOST_ACROSS: u64 = 1_000_000;
/// What spinning begins with, and comes down to.
const LEAST: u64 = 20_000;
/// Sleeps in a row after which spinning is given up.
const TRIES: u32 = 8;
/// Sleeps without a spin before it is tried again.
const REST: u32 = 128;

/// A budget in nanoseconds. Relaxed throughout: hints, of which a lost update costs nothing.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: AtomicU64,
    /// Zero where spinning cannot pay: on one processor, without other kernels.
    most: AtomicU64,
    /// Sleeps since the last spin that met its partner.
    sleeps: AtomicU32,
    /// There is one processor.
    single: AtomicBool,
    /// Who was woken last is in this kernel.
    near: AtomicBool,
    /// What the user allows at most.
    cap: u64,
}

/// The cap that `VSHMEM_SPIN` sets; none where it is unset or no number.
pub(crate) fn cap_from_environment() -> u64 {
    // SAFETY: a string with its end. (`std::env` would take a lock that a handler may meet.)
    let value = unsafe { libc::getenv(c"VSHMEM_SPIN".as_ptr()) };
    if value.is_null() {
        return u64::MAX;
    }
    // SAFETY: the environment's strings have an end; it is read at once.
    cap(unsafe { std::ffi::CStr::from_ptr(value) })
}

fn cap(value: &std::ffi::CStr) -> u64 {
    value.to_str().ok().and_then(|v| v.parse().ok()).unwrap_or(u64::MAX)
}

impl Spin {
    pub const fn new(cap: u64) -> Self {
        Self {
            budget: AtomicU64::new(LEAST),
            most: AtomicU64::new(MOST_HERE),
            sleeps: AtomicU32::new(0),
            single: AtomicBool::new(false),
            near: AtomicBool::new(false),
            cap,
        }
    }

    /// Where the partner may be: on another processor, in another kernel.
    pub fn allow(&self, processors: u32, foreigners: bool) {
        let most = match (processors, foreigners) {
            (_, true) => MOST_ACROSS,
            (0 | 1, false) => 0,
            _ => MOST_HERE,
        };
        self.most.store(most, Ordering::Relaxed);
        self.single.store(processors <= 1, Ordering::Relaxed);
    }

    /// A sleeper was woken: of this kernel, or of another.
    pub fn woke(&self, near: bool) {
        // Threads of one process share the line: written only when it changes.
        if self.near.load(Ordering::Relaxed) != near {
            self.near.store(near, Ordering::Relaxed);
        }
    }

    /// How long to spin now.
    pub fn budget(&self) -> u64 {
        let needed = self.single.load(Ordering::Relaxed) && self.near.load(Ordering::Relaxed);
        if needed || self.sleeps.load(Ordering::Relaxed) >= TRIES {
            return 0;
        }
        self.budget.load(Ordering::Relaxed).min(self.most.load(Ordering::Relaxed)).min(self.cap)
    }

    /// What the user allows at most.
    pub const fn cap(&self) -> u64 {
        self.cap
    }

    /// A wait took `took`; `slept` if the spin was not enough.
    pub fn learn(&self, took: u64, slept: bool) {
        let most = self.most.load(Ordering::Relaxed);
        let budget = self.budget.load(Ordering::Relaxed);
        if slept {
            let sleeps = self.sleeps.load(Ordering::Relaxed) + 1;
            self.sleeps.store(if sleeps >= TRIES + REST { 0 } else { sleeps }, Ordering::Relaxed);
        } else {
            self.sleeps.store(0, Ordering::Relaxed);
        }
        // A wait longer than any spin says nothing of what a spin would need.
        let next = if took > most { budget / 2 } else { (budget - budget / 64).max(2 * took) };
        self.budget.store(next.clamp(LEAST, most.max(LEAST)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sleeping_partners_come_to_spin_for_as_long_as_a_wake_takes() {
        let spin = Spin::new(u64::MAX);
        spin.allow(2, true);
        assert_eq!(spin.budget(), LEAST);
        spin.learn(300_000, true);
        assert_eq!(spin.budget(), 600_000);
        // They met: the budget comes down slowly, so that a hiccup does not part them.
        for _ in 0..100 {
            spin.learn(1_000, false);
        }
        assert!((100_000..300_000).contains(&spin.budget()), "{}", spin.budget());
    }

    #[test]
    fn spins_that_never_help_are_given_up_and_tried_again() {
        let spin = Spin::new(u64::MAX);
        spin.allow(2, false);
        for _ in 0..TRIES {
            assert!(spin.budget() > 0);
            spin.learn(50_000, true);
        }
        for _ in 0..REST {
            assert_eq!(spin.budget(), 0);
            spin.learn(10_000, true);
        }
        assert!(spin.budget() > 0);
    }

    #[test]
    fn idle_waits_and_one_processor_spin_little_or_not_at_all() {
        let spin = Spin::new(u64::MAX);
        spin.learn(60_000, true);
        spin.learn(10_000_000_000, true);
        assert!(spin.budget() <= 60_000);
        spin.allow(1, false);
        assert_eq!(spin.budget(), 0);
        spin.allow(1, true);
        assert!(spin.budget() > 0);
        spin.woke(true);
        assert_eq!(spin.budget(), 0, "the partner needs this processor");
        spin.woke(false);
        assert!(spin.budget() > 0);
        spin.woke(true);
        spin.allow(2, true);
        assert!(spin.budget() > 0);
    }

    #[test]
    fn the_user_may_cap_it() {
        for (value, budget) in [(c"0", 0), (c"500", 500), (c"99999999", LEAST), (c"-1", LEAST)] {
            let spin = Spin::new(cap(value));
            spin.allow(2, true);
            assert_eq!(spin.budget(), budget, "{value:?}");
        }
        assert_eq!(cap(c""), u64::MAX);
    }
}
