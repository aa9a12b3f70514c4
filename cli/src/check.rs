//! `vshmem region check`.

use crate::args;
use crate::listing::{Format, format, plain, print, print_json, session};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vshmem::sysv::check::{self, Fault, Finding};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// For reapers, which look around once a second.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Report {
    region: String,
    findings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    fault: &'static str,
    object: String,
    offset: u64,
    what: String,
    means: &'static str,
}

impl From<Finding> for Row {
    fn from(f: Finding) -> Self {
        Self {
            fault: f.fault.word(),
            object: f.object,
            offset: f.at.0,
            what: plain(&f.what),
            means: f.fault.means(),
        }
    }
}

/// `vshmem region check`: 1 if something was found.
pub fn run(runtime_dir: &Path, args: &args::Check) -> anyhow::Result<ExitCode> {
    let session = session(runtime_dir, args.region())?;
    let begun = Instant::now();
    let found = loop {
        let found = session.call(|r, on, _| check::check(r, on, || sleep(PAUSE)))?;
        let passing = found.iter().all(|f| f.fault == Fault::Unreaped);
        if found.is_empty() || !passing || begun.elapsed() > PATIENCE {
            break found;
        }
        sleep(PAUSE * 10);
    };
    let clean = found.is_empty();
    // A region whose name is damaged is checked all the same.
    let region = session.region()?.name().map_or_else(|_| "?".to_owned(), |name| plain(&name));
    let report = Report { region, findings: found.into_iter().map(Row::from).collect() };
    match format(&args.format) {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report))?,
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for row in &report.findings {
        let Row { fault, object, offset, what, means } = row;
        let _ = writeln!(out, "{object} at {offset:#x}: {what} [{fault}]\n    {means}");
    }
    let n = report.findings.len();
    let _ = match n {
        0 => writeln!(out, "region {}: nothing found", report.region),
        1 => writeln!(out, "region {}: 1 finding", report.region),
        _ => writeln!(out, "region {}: {n} findings", report.region),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_where_what_and_what_it_means() {
        let mut report = Report { region: "demo".into(), findings: Vec::new() };
        assert_eq!(text(&report), "region demo: nothing found\n");
        report.findings.push(Row {
            fault: Fault::Queue.word(),
            object: "queue 3 (id 1073741827)".into(),
            offset: 0x1290,
            what: "counts 3 messages, holds 2".into(),
            means: Fault::Queue.means(),
        });
        let expected = "queue 3 (id 1073741827) at 0x1290: counts 3 messages, holds 2 [queue]\n    \
                        Sends and receives fail with EIO, or count wrongly.\n\
                        region demo: 1 finding\n";
        assert_eq!(text(&report), expected);
    }
}
