//! Measures a row: both sides in turns, within a bound of time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::stats::{ENOUGH, Samples, median};

/// How long a row is measured.
#[derive(Clone, Copy)]
pub struct Bound {
    /// All its rounds together; what is begun is ended.
    pub time: Duration,
    /// What a program is told to measure in one round.
    pub slice: Duration,
}

impl Bound {
    /// Several rows' worth, for what needs more rounds.
    pub fn times(self, n: u32) -> Self {
        Self { time: self.time * n, slice: self.slice }
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// What vshmem is compared with.
    Base,
    /// vshmem.
    Ours,
}

/// One turn of one side.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Whose it is.
    pub side: Side,
    /// Which round, from 0; the warm-up is one.
    pub round: usize,
    /// What to measure.
    pub slice: Duration,
}

/// What was found of a row.
pub struct Found {
    /// All samples of what is compared with.
    pub base: Samples,
    /// All of ours.
    pub ours: Samples,
    /// The medians of both sides, a round each.
    pub pairs: Vec<(f64, f64)>,
}

/// One side's median of a round, and its samples into `all`.
fn take(samples: Vec<f64>, all: &mut Samples) -> Result<f64> {
    ensure!(!samples.is_empty(), "nothing was measured");
    for sample in &samples {
        all.add(*sample)?;
    }
    Ok(median(samples))
}

/// Measures both sides in turns, so that a disturbance of the machine meets
/// both; who begins changes, too. The first round warms up and does not count.
///
/// # Errors
///
/// A side's own, or one that measured nothing.
pub fn in_turns(bound: Bound, mut turn: impl FnMut(Turn) -> Result<Vec<f64>>) -> Result<Found> {
    let mut found = Found { base: Samples::new(), ours: Samples::new(), pairs: Vec::new() };
    let mut begun = Instant::now();
    for round in 0.. {
        let mut at = |side| turn(Turn { side, round, slice: bound.slice });
        let (base, ours) = if round % 2 == 0 {
            let base = at(Side::Base)?;
            (base, at(Side::Ours)?)
        } else {
            let ours = at(Side::Ours)?;
            (at(Side::Base)?, ours)
        };
        if round == 0 {
            ensure!(!base.is_empty() && !ours.is_empty(), "nothing was measured");
            begun = Instant::now();
            continue;
        }
        found.pairs.push((take(base, &mut found.base)?, take(ours, &mut found.ours)?));
        if over(begun.elapsed(), found.pairs.len(), bound) {
            break;
        }
    }
    Ok(found)
}

/// Measures what has nothing to be compared with.
///
/// # Errors
///
/// As [`in_turns`].
pub fn alone(bound: Bound, mut turn: impl FnMut(Turn) -> Result<Vec<f64>>) -> Result<Found> {
    let mut found = Found { base: Samples::new(), ours: Samples::new(), pairs: Vec::new() };
    let begun = Instant::now();
    for round in 0.. {
        take(turn(Turn { side: Side::Ours, round, slice: bound.slice })?, &mut found.ours)?;
        if begun.elapsed() >= bound.time {
            break;
        }
    }
    Ok(found)
}

/// Whether the time is over: later than bound if the rounds are too few to say
/// how sure the ratio is, but not three times as late.
fn over(spent: Duration, rounds: usize, bound: Bound) -> bool {
    spent >= bound.time && (rounds >= ENOUGH || spent >= bound.time * 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { time: Duration::ZERO, slice: Duration::from_millis(1) };

    #[test]
    fn the_order_within_a_pair_changes_and_its_meaning_does_not() {
        let mut order = Vec::new();
        let bound = Bound { time: Duration::from_secs(3600), ..BOUND };
        let _ = in_turns(bound, |turn| {
            ensure!(order.len() < 6, "enough seen");
            order.push(turn.side);
            Ok(vec![1.0])
        });
        use Side::{Base, Ours};
        assert_eq!(order, [Base, Ours, Ours, Base, Base, Ours]);
        let found = in_turns(BOUND, |turn| Ok(vec![if turn.side == Base { 2.0 } else { 1.0 }]));
        let found = found.unwrap();
        assert_eq!(found.pairs, [(2.0, 1.0)]);
        // That of the warm-up is none of them.
        assert_eq!((found.base.count(), found.ours.count()), (1, 1));
    }

    #[test]
    fn a_row_ends_with_enough_rounds_or_long_after_its_time() {
        let second = Duration::from_secs(1);
        let bound = Bound { time: second, ..BOUND };
        assert!(!over(second / 2, 100, bound));
        assert!(over(second, ENOUGH, bound));
        assert!(!over(second * 2, ENOUGH - 1, bound));
        assert!(over(second * 3, 1, bound));
    }

    #[test]
    fn a_side_that_measures_nothing_is_an_error() {
        assert!(in_turns(BOUND, |_| Ok(Vec::new())).is_err());
        assert!(alone(BOUND, |_| Ok(Vec::new())).is_err());
    }
}
