//! Keeping a guest's clock with the host's, which is the region's: see [`vshmem_core::clock`].
//!
//! The guest rings the host, which notes its time in the region; the guest looks at its own before
//! and after. That happens when its endpoint begins, when its clock is set, and every minute while
//! tasks are attached.

use crate::memory::Memory;
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tracing::{debug, error};
use vshmem_core::layout::peer;
use vshmem_core::{Corrupt, Region};

/// Ticks between two measurements.
const PERIOD: u32 = 60;
/// Times it asks; the quickest answer is the most exact.
const ROUNDS: usize = 3;
/// How long it waits for an answer: a daemon that restarts gives none.
const PATIENCE: Duration = Duration::from_millis(30);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(50);

fn now() -> i64 {
    let t = clock_gettime(ClockId::Realtime);
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// On the host: notes the time.
pub(crate) fn tell(region: &Region<Memory>) {
    if let Err(e) = region.tell_time(now().cast_unsigned()) {
        error!(error = %e, "cannot tell the time");
    }
}

/// A guest's clock.
pub(crate) struct Clock {
    /// Becomes readable when the clock is set.
    set: OwnedFd,
    /// Ticks until the next measurement.
    due: u32,
}

impl Clock {
    pub fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let set = timerfd_create(TimerfdClockId::Realtime, flags)?;
        // Never, but for the cancelling.
        let never = Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 };
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: none, it_value: never };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&set, flags, &spec)?;
        Ok(Self { set, due: PERIOD })
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    /// Whether it is time to measure; called once a tick.
    pub fn is_due(&mut self) -> bool {
        self.due = self.due.saturating_sub(1);
        self.due == 0
    }

    /// Measures, and notes what peer `index` has to add to its time.
    pub fn set(&mut self, region: &Region<Memory>, index: u32) {
        let mut count = [0; 8];
        // ECANCELED: the clock was set; which is why we are here, or will be looked at now.
        let _ = rustix::io::read(&self.set, &mut count);
        let measured = (0..ROUNDS).filter_map(|_| measure(region).transpose());
        let quickest = measured.collect::<Result<Vec<_>, Corrupt>>();
        let noted = quickest.map(|all| all.into_iter().min()).and_then(|best| match best {
            Some((took, lag)) => {
                debug!(lag, took, "clock measured");
                region.set_lag(index, lag).map(|()| PERIOD)
            }
            // Again at the next tick.
            None => Ok(1),
        });
        self.due = noted.unwrap_or_else(|e| {
            error!(error = %e, "cannot keep the host's time");
            PERIOD
        });
    }
}

/// How long the host's answer took, and how far this kernel's clock lags behind, in nanoseconds.
fn measure(region: &Region<Memory>) -> Result<Option<(i64, i64)>, Corrupt> {
    let before = region.told_time()?;
    let (asked, began) = (now(), Instant::now());
    region.mem().events().ring(peer::HOST_IVSHMEM, peer::CONTROL_VECTOR);
    loop {
        let told = region.told_time()?;
        if told != before {
            let took = now().saturating_sub(asked);
            let then = asked.saturating_add(took / 2);
            return Ok(Some((took, told.cast_signed().saturating_sub(then))));
        }
        if began.elapsed() > PATIENCE {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}
