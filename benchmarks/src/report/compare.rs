//! What changed since an earlier run.
//!
//! Ratios are compared, not times: both runs had their own other side beside
//! them, so that another load, or another machine, says little.

use std::fmt::Write;

use super::table::number;
use super::{Outcome, Report};
use crate::row::Unit;

/// What became of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The intervals do not meet, and it is better.
    Better,
    /// They do not meet, and it is worse.
    Worse,
    /// They meet: what there is of a difference may be noise.
    Noise,
    /// One of both does not say how sure it is.
    Unknown,
}

impl Change {
    /// From the earlier run to this one.
    pub fn of(then: &Outcome, now: &Outcome) -> Self {
        match (spread(then), spread(now)) {
            (Some(then), Some(now)) if now.1 < then.0 => Self::Better,
            (Some(then), Some(now)) if now.0 > then.1 => Self::Worse,
            (Some(_), Some(_)) => Self::Noise,
            _ => Self::Unknown,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Noise => "noise",
            Self::Unknown => "too few rounds",
        }
    }
}

/// Where a row's ratio is. A count without another side is sure; a time is not.
fn spread(outcome: &Outcome) -> Option<(f64, f64)> {
    match outcome.base {
        None if outcome.unit != Unit::Ns => Some((outcome.vshmem.p50, outcome.vshmem.p50)),
        _ => outcome.interval,
    }
}

fn figure(outcome: &Outcome) -> Option<f64> {
    outcome.ratio.or_else(|| outcome.base.is_none().then_some(outcome.vshmem.p50))
}

/// Every row of now beside the earlier one.
pub fn changes<'a>(then: &Report, now: &'a Report) -> Vec<(&'a Outcome, Option<Change>)> {
    let former = |name: &str| then.results.iter().find(|o| o.name == name);
    now.results.iter().map(|o| (o, former(&o.name).map(|f| Change::of(f, o)))).collect()
}

/// The table of changes.
pub fn text(then: &Report, now: &Report) -> String {
    let mut out = String::from("\nbeside the earlier run");
    for name in ["machine", "kernel", "commit"] {
        let of = |report: &Report| report.machine.iter().find(|(n, _)| n == name).cloned();
        if let (Some((_, a)), Some((_, b))) = (of(then), of(now)) {
            let _ = write!(out, "\n  {name:8} {a}{}", if a == b { "" } else { " -> " });
            out += if a == b { "" } else { &b };
        }
    }
    let _ = writeln!(
        out,
        "\n\n{:25} {:>8} {:>16} {:>8} {:>16} {:>8}",
        "ratio", "then", "95 %    ", "now", "95 %    ", "change"
    );
    for (outcome, change) in changes(then, now) {
        let Some(change) = change else {
            let _ = writeln!(out, "{:25} is new", outcome.name);
            continue;
        };
        let former = then.results.iter().find(|o| o.name == outcome.name);
        let (a, b) = (former.and_then(figure), figure(outcome));
        let percent = match (a, b) {
            (Some(a), Some(b)) if a != 0.0 => format!("{:+.1} %", (b / a - 1.0) * 100.0),
            _ => "-".into(),
        };
        let cell = |value: Option<f64>| value.map_or("-".into(), number);
        let around = |outcome: Option<&Outcome>| match outcome.and_then(|o| o.interval) {
            Some((low, high)) => format!("{} .. {}", number(low), number(high)),
            None => "-".into(),
        };
        let _ = writeln!(
            out,
            "{:25} {:>8} {:>16} {:>8} {:>16} {percent:>8}  {}",
            outcome.name,
            cell(a),
            around(former),
            cell(b),
            around(Some(outcome)),
            change.text()
        );
    }
    let gone = then.results.iter().filter(|o| !now.results.iter().any(|n| n.name == o.name));
    let gone: Vec<_> = gone.map(|o| o.name.as_str()).collect();
    if !gone.is_empty() {
        let _ = writeln!(out, "not measured now: {}", gone.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{example, json::FORMAT};
    use super::*;

    fn around(ratio: f64) -> Vec<(f64, f64)> {
        (-5..=5).map(|n| (100.0, 100.0 * ratio + f64::from(n))).collect()
    }

    fn report(results: Vec<Outcome>) -> Report {
        let machine = vec![("commit".into(), format!("c{}", results.len()))];
        Report {
            format: FORMAT,
            machine,
            load: (None, None),
            quick: false,
            results,
            failed: vec![],
        }
    }

    #[test]
    fn only_what_is_outside_of_both_intervals_is_a_change() {
        let row = |ratio| example("a", around(ratio), None);
        assert_eq!(Change::of(&row(0.5), &row(0.51)), Change::Noise);
        assert_eq!(Change::of(&row(0.5), &row(0.7)), Change::Worse);
        assert_eq!(Change::of(&row(0.7), &row(0.5)), Change::Better);
        let few = example("a", vec![(100.0, 50.0); 3], None);
        assert_eq!(Change::of(&row(0.7), &few), Change::Unknown);
    }

    #[test]
    fn counts_without_another_side_are_compared_as_they_are() {
        let row = |count| {
            let mut outcome = example("a", vec![(1.0, count); 9], None);
            (outcome.base, outcome.ratio, outcome.interval) = (None, None, None);
            outcome.unit = Unit::PerOp;
            outcome
        };
        assert_eq!(Change::of(&row(2.0), &row(2.0)), Change::Noise);
        assert_eq!(Change::of(&row(2.0), &row(3.0)), Change::Worse);
        assert_eq!(Change::of(&row(2.0), &row(0.0)), Change::Better);
    }

    #[test]
    fn rows_that_only_one_run_has_are_named() {
        let then = report(vec![example("a", around(0.5), None), example("b", around(0.5), None)]);
        let now = report(vec![
            example("a", around(0.7), None),
            example("c", around(1.0), None),
            example("d", around(1.0), None),
        ]);
        let text = text(&then, &now);
        assert!(text.contains("commit   c2 -> c3"), "{text}");
        let line = text.lines().find(|l| l.starts_with("a ")).unwrap();
        assert!(line.contains("+40.0 %") && line.ends_with("WORSE"), "{line}");
        assert!(text.contains("c                         is new"), "{text}");
        assert!(text.contains("not measured now: b\n"), "{text}");
    }
}
