//! Medians, percentiles, and how sure they are.

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

/// Thousandths: a histogram counts whole numbers, and half a nanosecond shows.
const SCALE: f64 = 1000.0;

/// How many values an interval of 95 % needs: of fewer a fair coin puts all on
/// one side too often.
pub const ENOUGH: usize = 6;

/// Every sample of one side of a row.
pub struct Samples(Histogram<u64>);

impl Samples {
    /// Without any yet; four digits are kept of each.
    pub fn new() -> Self {
        Self(Histogram::new(4).expect("four digits are a precision that a histogram can have"))
    }

    /// Takes one more.
    ///
    /// # Errors
    ///
    /// It is no amount.
    pub fn add(&mut self, value: f64) -> Result<()> {
        ensure!(value.is_finite() && value >= 0.0, "{value} was measured");
        self.0.record((value * SCALE).round() as u64)?;
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value that this part of all is not above.
    pub fn at(&self, quantile: f64) -> f64 {
        // Of all that the histogram does not tell apart it says the highest: a count would not be
        // a whole number.
        let value = self.0.lowest_equivalent(self.0.value_at_quantile(quantile));
        value as f64 / SCALE
    }
}

/// The middle one; of none, not a number.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => values[n / 2],
        _ => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The interval around the median of `values` that holds the true one with
/// 95 %, whatever their distribution: as many of the smallest and of the largest
/// are left out as a fair coin allows (the sign test). None of too few values.
pub fn interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n < ENOUGH {
        return None;
    }
    // Logarithms: of several hundred values the first terms are too small.
    let (mut below, mut term, mut out) = (0.0, n as f64 * 0.5f64.ln(), 0);
    for k in 0..n / 2 {
        below += term.exp();
        if below > 0.025 {
            break;
        }
        out = k + 1;
        term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    // `out` of them lie outside on each side.
    let low = out.saturating_sub(1);
    Some((values[low], values[n - 1 - low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // Tables of the sign test: of 15 values the 4th and the 12th, of 6 all.
        let count = |n: u32| (1..=n).map(f64::from).collect::<Vec<_>>();
        assert_eq!(interval(count(15)), Some((4.0, 12.0)));
        assert_eq!(interval(count(6)), Some((1.0, 6.0)));
        assert_eq!(interval(count(5000)), Some((2431.0, 2570.0)));
        assert_eq!(interval(count(5)), None);
        assert_eq!(median(count(15)), 8.0);
        assert_eq!(median(count(4)), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn percentiles_are_of_all_samples_and_keep_fractions() {
        let mut samples = Samples::new();
        for n in 1..=1000 {
            samples.add(f64::from(n) / 10.0).unwrap();
        }
        assert_eq!(samples.count(), 1000);
        assert!((samples.at(0.5) - 50.0).abs() < 0.1, "{}", samples.at(0.5));
        assert!((samples.at(0.999) - 99.9).abs() < 0.1, "{}", samples.at(0.999));
        assert_eq!(Samples::new().at(0.5), 0.0);
    }

    #[test]
    fn what_is_no_amount_is_no_sample() {
        for wrong in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Samples::new().add(wrong).is_err());
        }
    }
}
