//! `vshmem region check`.

use crate::args;
use crate::listing::{Format, format, plain, print, print_json, session};
use anyhow::anyhow;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vshmem::Session;
use vshmem::sysv::check::{self, Fault, Finding};
use vshmem::sysv::proc::File;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// For reapers, which look around once a second.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Report {
    region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mended: Option<Vec<String>>,
    findings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    fault: &'static str,
    object: String,
    offset: u64,
    what: String,
    means: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl From<Finding> for Row {
    fn from(f: Finding) -> Self {
        Self {
            fault: f.fault.word(),
            object: f.object,
            offset: f.at.0,
            what: plain(&f.what),
            means: f.fault.means(),
            remedy: None,
        }
    }
}

/// Looks until there is nothing but what stays.
fn look(session: &Session) -> anyhow::Result<Vec<Finding>> {
    let begun = Instant::now();
    loop {
        let found = session.call(|r, on, _| check::check(r, on, || sleep(PAUSE)))?;
        let passing = found.iter().all(|f| f.fault == Fault::Unreaped);
        if found.is_empty() || !passing || begun.elapsed() > PATIENCE {
            return Ok(found);
        }
        sleep(PAUSE * 10);
    }
}

/// `vshmem region check`: 1 if something is wrong.
pub fn run(runtime_dir: &Path, args: &args::Check) -> anyhow::Result<ExitCode> {
    let session = session(runtime_dir, args.region())?;
    // A region whose name is damaged is checked all the same.
    let region = session.region()?.name().map_or_else(|_| "?".to_owned(), |name| plain(&name));
    let mut found = look(&session)?;
    let mut mended = None;
    if args.repair {
        let owner = session.region()?.owner()?;
        session.call(|r, _, c| File::Sem.writable(r, c)).map_err(|_| {
            anyhow!("region {region}: only root and its owner (uid {owner}) may repair it")
        })?;
        let pause = || sleep(PAUSE);
        let repair = session.call(|r, on, _| check::repair(r, on, check::LOOKS, pause))?;
        mended = Some(repair.done.iter().map(|how| plain(how)).collect());
        found = repair.left;
    }
    let clean = found.is_empty();
    let row = |f: Finding| {
        let remedy = args.repair.then(|| check::remedy(&f));
        Row { remedy, ..Row::from(f) }
    };
    let report = Report { region, mended, findings: found.into_iter().map(row).collect() };
    match format(&args.format) {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report))?,
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for how in report.mended.iter().flatten() {
        let _ = writeln!(out, "mended: {how}");
    }
    for row in &report.findings {
        let Row { fault, object, offset, what, means, remedy } = row;
        let _ = writeln!(out, "{object} at {offset:#x}: {what} [{fault}]\n    {means}");
        if let Some(remedy) = remedy {
            let _ = writeln!(out, "    To do: {remedy}.");
        }
    }
    let n = report.findings.len();
    let _ = match n {
        0 if report.mended.as_ref().is_some_and(|m| !m.is_empty()) => {
            writeln!(out, "region {}: nothing is wrong any more", report.region)
        }
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
        let mut report = Report { region: "demo".into(), mended: None, findings: Vec::new() };
        assert_eq!(text(&report), "region demo: nothing found\n");
        report.findings.push(Row {
            fault: Fault::Queue.word(),
            object: "queue 3 (id 1073741827)".into(),
            offset: 0x1290,
            what: "counts 3 messages, holds 2".into(),
            means: Fault::Queue.means(),
            remedy: None,
        });
        let expected = "queue 3 (id 1073741827) at 0x1290: counts 3 messages, holds 2 [queue]\n    \
                        Sends and receives fail with EIO, or count wrongly.\n\
                        region demo: 1 finding\n";
        assert_eq!(text(&report), expected);
    }

    #[test]
    fn a_repair_says_what_it_did_and_what_is_left_to_do() {
        let mended = Some(vec!["queue 3 at 0x1290: counts 3 messages: counted anew".into()]);
        let mut report = Report { region: "demo".into(), mended, findings: Vec::new() };
        let did = "mended: queue 3 at 0x1290: counts 3 messages: counted anew\n";
        assert_eq!(text(&report), format!("{did}region demo: nothing is wrong any more\n"));
        report.findings.push(Row {
            fault: Fault::Leaked.word(),
            object: "arena".into(),
            offset: 64,
            what: "64 bytes are in use and nobody's".into(),
            means: Fault::Leaked.means(),
            remedy: Some("make it anew"),
        });
        assert!(text(&report).contains("\n    To do: make it anew.\nregion demo: 1 finding\n"));
    }
}
