//! Absolute times on the two clocks that waits are measured by.

use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME, clockid_t, timespec};

const SECOND: i64 = 1_000_000_000;

/// When to give up.
#[derive(Clone, Copy)]
pub struct Until {
    clock: clockid_t,
    at: timespec,
}

/// Whether waits can be measured by `clock`.
pub fn is_known(clock: clockid_t) -> bool {
    clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC
}

impl Until {
    /// The time `at` leads to; `None` where its nanoseconds are none.
    ///
    /// # Safety
    /// `at` leads to a time.
    pub unsafe fn new(clock: clockid_t, at: *const timespec) -> Option<Self> {
        // SAFETY: as the caller promises.
        let at = unsafe { *at };
        (0..SECOND).contains(&at.tv_nsec).then_some(Self { clock, at })
    }

    /// How long it is until then; `None` when it has passed.
    fn left(&self) -> Option<u64> {
        let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: room for the result.
        unsafe { libc::clock_gettime(self.clock, &raw mut now) };
        let seconds = self.at.tv_sec.saturating_sub(now.tv_sec);
        let left = seconds.saturating_mul(SECOND).saturating_add(self.at.tv_nsec - now.tv_nsec);
        u64::try_from(left).ok().filter(|left| *left > 0)
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.left().is_none()
    }

    /// The moment on the clock that shows `now`; `None` when it has passed.
    pub fn after(&self, now: u64) -> Option<u64> {
        Some(now.saturating_add(self.left()?))
    }
}
