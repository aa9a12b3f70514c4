//! What a run found, as it is kept.

pub mod compare;
pub mod json;
pub mod plot;
pub mod table;

use serde::{Deserialize, Serialize};

use crate::row::{Goal, Row, Unit};
use crate::run::Found;
use crate::stats::{Samples, interval, median};

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this structure.
    pub format: u32,
    /// What a figure is worth nothing without.
    pub machine: Vec<(String, String)>,
    /// Programs that ran or waited for a processor, of the last minute, before and after.
    pub load: (Option<f64>, Option<f64>),
    /// Whether it was a short one.
    pub quick: bool,
    /// Its rows.
    pub results: Vec<Outcome>,
    /// Rows that could not be measured.
    pub failed: Vec<String>,
}

/// What was found of one row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// What is measured.
    pub about: String,
    /// What the figures count.
    pub unit: Unit,
    /// What vshmem is compared with.
    pub base: Option<Figures>,
    /// vshmem.
    pub vshmem: Figures,
    /// Both medians of each round.
    pub pairs: Vec<(f64, f64)>,
    /// The median of the rounds' ratios, vshmem to base.
    pub ratio: Option<f64>,
    /// Where that truly is, with 95 %.
    pub interval: Option<(f64, f64)>,
    /// What is asked of the row.
    pub goal: Option<Goal>,
    /// Whether it keeps that.
    pub met: Option<bool>,
}

/// One side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// What it is.
    pub label: String,
    /// How many samples there are.
    pub samples: u64,
    /// The median.
    pub p50: f64,
    /// What one of a hundred is above.
    pub p99: f64,
    /// What one of a thousand is above.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// Percentiles and their values, for a plot.
    pub curve: Vec<(f64, f64)>,
}

/// Ever closer to the worst.
const CURVE: &[f64] = &[
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9,
    99.95, 99.99, 100.0,
];

impl Figures {
    fn of(label: &str, samples: &Samples) -> Self {
        Self {
            label: label.to_owned(),
            samples: samples.count(),
            p50: samples.at(0.5),
            p99: samples.at(0.99),
            p999: samples.at(0.999),
            curve: CURVE.iter().map(|p| (*p, samples.at(p / 100.0))).collect(),
        }
    }
}

impl Outcome {
    /// Of a row and what was measured.
    pub fn new(row: &Row, found: &Found) -> Self {
        // A count may be 0 on both sides: then there is no ratio.
        let ratios: Vec<f64> = found.pairs.iter().map(|(base, ours)| ours / base).collect();
        let finite = !ratios.is_empty() && ratios.iter().all(|r| r.is_finite());
        let ratio = finite.then(|| median(ratios.clone()));
        let vshmem = Figures::of(&row.ours.label, &found.ours);
        let more = median(found.pairs.iter().map(|(base, ours)| ours - base).collect());
        Self {
            name: row.name.clone(),
            group: row.group.to_owned(),
            about: row.about.clone(),
            unit: row.unit,
            base: row.base.as_ref().map(|half| Figures::of(&half.label, &found.base)),
            pairs: found.pairs.clone(),
            ratio,
            interval: if finite { interval(ratios) } else { None },
            goal: row.goal,
            met: row.goal.map(|goal| met(goal, vshmem.p50, ratio, more)),
            vshmem,
        }
    }
}

/// A goal of which nothing is known is not met.
fn met(goal: Goal, p50: f64, ratio: Option<f64>, more: f64) -> bool {
    match goal {
        Goal::Most(most) => p50 <= most,
        Goal::Ratio(most) => ratio.is_some_and(|ratio| ratio <= most),
        Goal::More(most) => more <= most,
        Goal::MostOrBase(most) => p50 <= most || ratio.is_some_and(|ratio| ratio <= 1.0),
    }
}

/// An outcome with these pairs, for tests.
#[cfg(test)]
pub fn example(name: &str, pairs: Vec<(f64, f64)>, goal: Option<Goal>) -> Outcome {
    let mut found = Found { base: Samples::new(), ours: Samples::new(), pairs };
    for (base, ours) in &found.pairs {
        found.base.add(*base).unwrap();
        found.ours.add(*ours).unwrap();
    }
    let mut row = Row::program("sem", "micro", name, "an example");
    row.goal = goal;
    Outcome::new(&row, &found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_pairs_and_not_of_medians() {
        // The machine became ten times slower half-way: each pair still says the half.
        let pairs = vec![(10.0, 5.0), (10.0, 5.0), (100.0, 50.0), (100.0, 50.0), (100.0, 50.0)];
        let outcome = example("a", pairs, None);
        assert_eq!(outcome.ratio, Some(0.5));
        assert_eq!(outcome.interval, None);
        assert_eq!(outcome.met, None);
    }

    #[test]
    fn counts_of_zero_have_no_ratio_and_can_keep_a_goal() {
        let outcome = example("a", vec![(0.0, 0.0); 9], Some(Goal::Most(0.0)));
        assert_eq!((outcome.ratio, outcome.interval), (None, None));
        assert_eq!(outcome.met, Some(true));
        assert_eq!(example("a", vec![(0.0, 0.0)], Some(Goal::Ratio(2.0))).met, Some(false));
    }

    #[test]
    fn goals_are_bounds_of_the_median_the_ratio_or_the_difference() {
        let of = |goal| example("a", vec![(100.0, 110.0); 9], Some(goal)).met;
        assert_eq!(of(Goal::Most(109.0)), Some(false));
        assert_eq!(of(Goal::Most(110.5)), Some(true));
        assert_eq!(of(Goal::Ratio(1.05)), Some(false));
        assert_eq!(of(Goal::Ratio(1.1)), Some(true));
        assert_eq!(of(Goal::More(9.0)), Some(false));
        assert_eq!(of(Goal::More(10.0)), Some(true));
        assert_eq!(of(Goal::MostOrBase(109.0)), Some(false));
        assert_eq!(of(Goal::MostOrBase(110.0)), Some(true));
        let less = example("a", vec![(100.0, 90.0); 9], Some(Goal::MostOrBase(1.0)));
        assert_eq!(less.met, Some(true));
    }
}
