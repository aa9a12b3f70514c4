//! One clock for all peers: the host's.
//!
//! Times in a region are compared across kernels, whose clocks differ. The host's is the region's;
//! every other peer's endpoint measures by how much its own kernel's lags behind and notes that in
//! the peer table, where the peer's tasks add it to what their clock says.

use crate::format::Geometry;
use crate::layout::{Table, peer, sb};
use crate::mem::{Corrupt, Mem, Offset, Ordering, Platform};
use crate::region::Region;

impl<P: Platform> Region<P> {
    /// Notes the host's time, in nanoseconds since 1970.
    ///
    /// # Errors
    /// Never after a successful open.
    pub fn tell_time(&self, now: u64) -> Result<(), Corrupt> {
        // Relaxed: it stands for itself.
        self.mem().store(Offset(sb::CLOCK), now, Ordering::Relaxed)
    }

    /// The host's time as it was told last.
    ///
    /// # Errors
    /// Never after a successful open.
    pub fn told_time(&self) -> Result<u64, Corrupt> {
        self.mem().load(Offset(sb::CLOCK), Ordering::Relaxed)
    }

    /// Notes that the clock of peer `index` lags `lag` nanoseconds behind the host's.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_lag(&self, index: u32, lag: i64) -> Result<(), Corrupt> {
        let at = self.element(Table::Peers, index)?.plus(peer::LAG);
        self.mem().store(at, lag.cast_unsigned(), Ordering::Relaxed)
    }
}

/// Seconds since 1970 of the region's clock, for peer `index`, whose own says `sec` and `nsec`.
#[must_use]
pub fn seconds(mem: &impl Mem, geometry: &Geometry, index: u32, sec: i64, nsec: i64) -> u32 {
    let peers = geometry.tables[Table::Peers as usize];
    let at = peers.at.index(index.into(), peers.stride).plus(peer::LAG);
    // Relaxed: it stands for itself. Outside the region: the peer's own time.
    let lag = mem.load(at, Ordering::Relaxed).unwrap_or(0).cast_signed();
    let second = 1_000_000_000;
    let rest = nsec.saturating_add(lag % second).div_euclid(second);
    sec.saturating_add(lag / second).saturating_add(rest) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Spec;
    use crate::layout::MIN_FILE;
    use crate::mem::HeapMem;

    #[test]
    fn a_lag_is_added_to_what_the_own_clock_says() {
        let spec = Spec::for_file("test", MIN_FILE).unwrap();
        let r = Region::format(HeapMem::new(spec.len), &spec).unwrap();
        let says = |sec, nsec| seconds(r.mem(), r.geometry(), 3, sec, nsec);
        assert_eq!(says(1000, 999_999_999), 1000);
        for (lag, sec, nsec, now) in [
            (1, 1000, 999_999_999, 1001),
            (-1, 1000, 0, 999),
            (-1, 1000, 1, 1000),
            (3_600_000_000_000, 1000, 5, 4600),
            (-3_600_500_000_000, 10_000, 400_000_000, 6399),
        ] {
            r.set_lag(3, lag).unwrap();
            assert_eq!(says(sec, nsec), now, "{lag}");
        }
    }
}
