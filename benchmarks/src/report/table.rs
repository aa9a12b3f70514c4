//! The table: a heading, then a line as soon as its row is measured.

use super::{Figures, Outcome};
use crate::row::{Goal, Unit};

/// Four digits say all that can be said.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Names of the columns.
pub fn heading() -> String {
    format!(
        "{:25} {:6} {:>9} {:>9} {:>9} {:>9}  {:>9} {:>9} {:>9} {:>9}  {:>6} {:>16}  {:9} what",
        "",
        "unit",
        "beside",
        "p50",
        "p99",
        "p99.9",
        "",
        "p50",
        "p99",
        "p99.9",
        "ratio",
        "95 %    ",
        "goal",
    )
}

fn side(figures: Option<&Figures>) -> String {
    let Some(f) = figures else { return format!("{:>9} {:>9} {:>9} {:>9}", "-", "-", "-", "-") };
    let cells = [f.p50, f.p99, f.p999].map(number);
    format!("{:>9} {:>9} {:>9} {:>9}", f.label, cells[0], cells[1], cells[2])
}

fn goal(outcome: &Outcome) -> String {
    let Some(goal) = outcome.goal else { return String::new() };
    let mark = if outcome.met == Some(true) { "" } else { " !" };
    let text = match goal {
        Goal::Most(most) | Goal::MostOrBase(most) => format!("<= {}", number(most)),
        Goal::Ratio(most) => format!("{}x", number(most)),
        Goal::More(most) => format!("+{}", number(most)),
    };
    format!("{text}{mark}")
}

/// One row; the ratio is vshmem's to the other's, each less than 1 is faster.
pub fn line(outcome: &Outcome) -> String {
    let ratio = outcome.ratio.map_or("-".into(), number);
    let interval = match outcome.interval {
        Some((low, high)) => format!("{} .. {}", number(low), number(high)),
        None => "-".into(),
    };
    format!(
        "{:25} {:6} {}  {}  {ratio:>6} {interval:>16}  {:9} {}",
        outcome.name,
        outcome.unit.text(),
        side(outcome.base.as_ref()),
        side(Some(&outcome.vshmem)),
        goal(outcome),
        outcome.about,
    )
}

/// Rows that have a goal and miss it, a line each; nothing where there are none.
pub fn missed(outcomes: &[Outcome]) -> String {
    let missed = outcomes.iter().filter(|o| o.met == Some(false));
    let line = |o: &Outcome| {
        let value = match (o.goal, o.ratio) {
            (Some(Goal::Ratio(_)), Some(ratio)) => format!("{}x", number(ratio)),
            (_, _) => format!("{} {}", number(o.vshmem.p50), o.unit.text()),
        };
        format!("missed: {} is {value}, its goal {}\n", o.name, goal(o).trim_end_matches(" !"))
    };
    missed.map(line).collect()
}

/// What the columns mean, below them.
pub fn footnote(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "\nratio: vshmem to what stands beside it, the median of the rounds; below 1 is faster, or fewer. \
         95 %: where the true one is.\n",
    );
    if outcomes.iter().any(|o| o.unit == Unit::Ns) {
        text +=
            "Percentiles are of single turns where two take turns, else of the means of batches.\n";
    }
    if outcomes.iter().any(|o| o.base.is_some() && o.interval.is_none() && o.ratio.is_some()) {
        text += "'-' where a 95 % would be: fewer than 6 rounds; give it more --seconds.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn a_line_has_both_sides_the_ratio_its_interval_and_the_goal() {
        let outcome = example("sem-pair", vec![(500.0, 50.0); 9], Some(Goal::Most(60.0)));
        let line = line(&outcome);
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..4], ["sem-pair", "ns", "kernel", "500.0"], "{line}");
        assert_eq!(words[6..8], ["vshmem", "50.00"], "{line}");
        assert_eq!(words[10..16], ["0.100", "0.100", "..", "0.100", "<=", "60.00"], "{line}");
        assert!(!line.contains('!'));
        assert_eq!(missed(&[outcome]), "");
    }

    #[test]
    fn a_missed_goal_is_marked_and_named() {
        let outcome = example("sem-pair", vec![(500.0, 550.0); 9], Some(Goal::Ratio(1.0)));
        assert!(line(&outcome).contains("1.000x !"));
        assert_eq!(missed(&[outcome]), "missed: sem-pair is 1.100x, its goal 1.000x\n");
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut outcome = example("idle", vec![(1.0, 1.0); 2], None);
        outcome.base = None;
        outcome.ratio = None;
        assert_eq!(line(&outcome).matches(" - ").count(), 6);
    }

    #[test]
    fn numbers_have_four_digits() {
        let of = [0.0, 0.01, 1.5, 15.25, 338.94, 65437.7];
        assert_eq!(of.map(number), ["0", "0.010", "1.500", "15.25", "338.9", "65438"]);
    }
}
