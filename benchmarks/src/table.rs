//! The results as a table and as JSON.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{Micro, SCALE};

/// Percentiles of one side, in nanoseconds.
#[derive(Clone, Copy)]
struct Side {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Side {
    fn of(samples: &Histogram<u64>) -> Self {
        let at = |q| samples.value_at_quantile(q) as f64 / SCALE;
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }

    fn json(self) -> Value {
        json!({ "p50": self.p50, "p99": self.p99, "p99.9": self.p999 })
    }
}

/// One micro-code's results.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    about: &'static str,
    bound: Option<f64>,
    kernel: Side,
    ours: Option<Side>,
}

impl Row {
    /// Takes the percentiles of both sides.
    pub fn new(
        micro: &'static Micro,
        kernel: &Histogram<u64>,
        ours: Option<&Histogram<u64>>,
    ) -> Self {
        Self {
            name: micro.name,
            about: micro.about,
            bound: micro.bound,
            kernel: Side::of(kernel),
            ours: ours.map(Side::of),
        }
    }

    /// Whether our median is over the bound.
    pub fn misses(&self) -> bool {
        self.ours.zip(self.bound).is_some_and(|(side, bound)| side.p50 > bound)
    }

    fn ratio(&self) -> Option<f64> {
        self.ours.map(|side| self.kernel.p50 / side.p50)
    }
}

/// The table; times in nanoseconds.
pub fn text(rows: &[Row]) -> String {
    let mut out = format!(
        "{:23} {:>11} {:>11} {:>11} {:>11} {:>8}  {}\n",
        "ns", "kernel p50", "p99", "vshmem p50", "p99", "faster", "what"
    );
    for row in rows {
        let cell = |value: Option<f64>, unit| match value {
            Some(value) => format!("{value:.1}{unit}"),
            None => "-".into(),
        };
        let ours = |pick: fn(Side) -> f64| cell(row.ours.map(pick), "");
        let mark = if row.misses() { " !" } else { "" };
        let _ = writeln!(
            out,
            "{:23} {:>11.1} {:>11.1} {:>11} {:>11} {:>8}  {}{mark}",
            row.name,
            row.kernel.p50,
            row.kernel.p99,
            ours(|s| s.p50),
            ours(|s| s.p99),
            cell(row.ratio(), "x"),
            row.about,
        );
    }
    out
}

/// The same for programs.
pub fn json(rows: &[Row], machine: &[(&'static str, String)]) -> Value {
    let facts: serde_json::Map<_, _> =
        machine.iter().map(|(n, v)| ((*n).to_owned(), json!(v))).collect();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "about": row.about,
                "unit": "ns",
                "kernel": row.kernel.json(),
                "vshmem": row.ours.map(Side::json),
                "ratio": row.ratio(),
                "bound": row.bound,
            })
        })
        .collect();
    json!({ "machine": facts, "results": rows })
}
