//! Plots, as SVG: all ratios in one, and for each row how its samples spread.

use std::fmt::Debug;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Figures, Outcome, Report};

const BASE: RGBColor = RGBColor(150, 150, 150);
const OURS: RGBColor = RGBColor(20, 100, 180);
const MISSED: RGBColor = RGBColor(200, 40, 40);
const FONT: &str = "sans-serif";
/// Of a line of the plot of ratios.
const HEIGHT: u32 = 22;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Errors of the library borrow what they are about.
fn plain(error: impl Debug) -> anyhow::Error {
    anyhow!("cannot plot: {error:?}")
}

/// Writes `ratios.svg` and one file for each row that has samples enough.
///
/// # Errors
///
/// The folder cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    ratios(&report.results, &folder.join("ratios.svg"))?;
    for outcome in report.results.iter().filter(|o| o.vshmem.samples >= 100) {
        spread(outcome, &folder.join(&outcome.name).with_extension("svg"))?;
    }
    Ok(())
}

/// The least and the most of `values`, apart, for a logarithmic axis.
fn range(values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let known: Vec<f64> = values.filter(|v| v.is_finite() && *v > 0.0).collect();
    let least = known.iter().copied().reduce(f64::min)?;
    let most = known.iter().copied().reduce(f64::max)?;
    Some(least / 1.3..most * 1.3)
}

/// A line for each row: its ratio and where that truly is.
fn ratios(outcomes: &[Outcome], file: &Path) -> Result<()> {
    let known: Vec<_> = outcomes.iter().filter_map(|o| Some((o, o.ratio?))).collect();
    let ends = known.iter().flat_map(|(o, ratio)| {
        let (low, high) = o.interval.unwrap_or((*ratio, *ratio));
        [*ratio, low, high, 1.0]
    });
    let Some(range) = range(ends) else { return Ok(()) };
    let rows = known.len();
    let area = SVGBackend::new(file, (1000, 90 + HEIGHT * rows as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(plain)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("vshmem to what stands beside it (left of 1 is faster)", (FONT, 16))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(190)
        .build_cartesian_2d(range.log_scale(), -0.5..rows as f64 - 0.5)
        .map_err(plain)?;
    // Rows lie where whole numbers are; the first is on top.
    let name = |at: &f64| {
        let below = at.round();
        let row = rows.checked_sub(1 + below as usize).and_then(|i| known.get(i));
        row.filter(|_| (at - below).abs() < 1e-6).map_or(String::new(), |(o, _)| o.name.clone())
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(rows * 2 + 2)
        .y_label_formatter(&name)
        .x_label_formatter(&|x| format!("{x}"))
        .label_style((FONT, 12))
        .draw()
        .map_err(plain)?;
    let one = [(1.0, -0.5), (1.0, rows as f64 - 0.5)];
    chart.draw_series(LineSeries::new(one, BLACK)).map_err(plain)?;
    for (i, (outcome, ratio)) in known.iter().enumerate() {
        let at = (rows - 1 - i) as f64;
        let colour = if outcome.met == Some(false) { MISSED } else { OURS };
        if let Some((low, high)) = outcome.interval {
            let line = [(low, at), (high, at)];
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2))).map_err(plain)?;
        }
        chart.draw_series([Circle::new((*ratio, at), 4, colour.filled())]).map_err(plain)?;
    }
    area.present().map_err(plain)
}

/// The curve of percentiles: how far out on a logarithmic scale, and the value there.
fn curve(figures: &Figures) -> Vec<(f64, f64)> {
    // The worst is as far out as there are samples.
    let last = 1.0 / figures.samples.max(1) as f64;
    let far = |p: f64| 1.0 / (1.0 - p / 100.0).max(last);
    figures.curve.iter().filter(|(_, v)| *v > 0.0).map(|(p, v)| (far(*p), *v)).collect()
}

fn spread(outcome: &Outcome, file: &Path) -> Result<()> {
    let sides: Vec<_> = [(outcome.base.as_ref(), BASE), (Some(&outcome.vshmem), OURS)]
        .into_iter()
        .filter_map(|(figures, colour)| Some((figures?, colour)))
        .collect();
    let points: Vec<_> = sides.iter().map(|(f, colour)| (*f, curve(f), *colour)).collect();
    let values = || points.iter().flat_map(|(_, curve, _)| curve);
    let (Some(far), Some(value)) =
        (range(values().map(|(x, _)| *x)), range(values().map(|(_, y)| *y)))
    else {
        return Ok(());
    };
    let area: Area = SVGBackend::new(file, (700, 420)).into_drawing_area();
    area.fill(&WHITE).map_err(plain)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{}: {}", outcome.name, outcome.about), (FONT, 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((1.0..far.end).log_scale(), value.log_scale())
        .map_err(plain)?;
    chart
        .configure_mesh()
        .x_desc("one of so many is worse")
        .y_desc(outcome.unit.text())
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y}"))
        .label_style((FONT, 12))
        .draw()
        .map_err(plain)?;
    for (figures, curve, colour) in points {
        chart
            .draw_series(LineSeries::new(curve, colour.stroke_width(2)))
            .map_err(plain)?
            .label(figures.label.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .label_font((FONT, 12))
        .draw()
        .map_err(plain)?;
    area.present().map_err(plain)
}

#[cfg(test)]
mod tests {
    use super::super::{example, json::FORMAT};
    use super::*;
    use crate::row::Goal;

    fn report(results: Vec<Outcome>) -> Report {
        let (machine, failed) = (Vec::new(), Vec::new());
        Report { format: FORMAT, machine, load: (None, None), quick: false, results, failed }
    }

    #[test]
    fn each_row_is_in_the_plot_of_ratios_and_has_one_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let pairs = |ratio| (1..200).map(|n| (f64::from(n), ratio * f64::from(n))).collect();
        let results = vec![
            example("fast", pairs(0.1), None),
            example("slow", pairs(3.0), Some(Goal::Ratio(1.0))),
            example("none", vec![(0.0, 0.0); 200], None),
        ];
        write(&report(results), folder.path()).unwrap();
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let ratios = text("ratios.svg");
        // A name is a line of its own.
        let named = |name: &str| ratios.lines().filter(|l| *l == name).count();
        assert_eq!((named("fast"), named("slow"), named("none")), (1, 1, 0), "{ratios}");
        assert!(text("fast.svg").contains("vshmem") && text("slow.svg").contains("kernel"));
        // Zeros have no place on a logarithmic scale.
        assert!(!folder.path().join("none.svg").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(write(&report(Vec::new()), &file.path().join("below")).is_err());
    }
}
