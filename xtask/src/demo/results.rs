//! What the guests measured, the checks on it, and the table.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

/// Everything that was reported.
#[derive(Default)]
pub struct Results {
    reports: Vec<Value>,
    deaths: Vec<(String, Duration)>,
    checks: Vec<(String, Result<(), String>)>,
    stage: Vec<(&'static str, String)>,
    /// Whether the guests' processors are emulated.
    pub emulated: bool,
}

const SIZES: [i64; 3] = [8, 64, 1000];
/// What the demo measures: its name in the reports, and in the table.
const KINDS: [(&str, &str); 5] = [
    ("word busy", "P/V on words, busy"),
    ("semop busy", "semop, busy"),
    ("semop block", "semop, asleep"),
    ("tcp", "TCP, TCP_NODELAY"),
    ("udp", "UDP"),
];
/// The promise: hot semop against TCP.
const HOT_FACTOR: f64 = 100.0;
/// How soon the living go on after a death.
const RELEASE: Duration = Duration::from_secs(1);

/// A report in a few words, as progress.
pub fn short(report: &Value) -> String {
    let text = |name: &str| match &report[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match report["test"].as_str() {
        Some("handshake") => format!(
            "{}: {} bytes and {} counts are right",
            text("role"),
            text("bytes"),
            text("counter")
        ),
        Some("transfer") => format!(
            "{}: {} bytes, {} MB/s, {}",
            text("role"),
            text("bytes"),
            text("mb_per_s"),
            text("sha256")
        ),
        Some("sync" | "socket") => format!("p50 {} us, p99 {} us", text("p50"), text("p99")),
        _ => report.to_string(),
    }
}

impl Results {
    /// Takes one fact on what is measured with.
    pub fn stage(&mut self, name: &'static str, value: String) {
        self.stage.push((name, value));
    }

    /// What was measured with.
    pub fn header(&self) -> String {
        self.stage.iter().map(|(name, value)| format!("  {name:8} {value}\n")).collect()
    }

    /// Takes one report.
    pub fn add(&mut self, report: Value) {
        self.reports.push(report);
    }

    /// Takes an event of the death, and how long after the kill it was seen.
    pub fn death(&mut self, event: &str, after: Duration) {
        self.deaths.push((event.to_owned(), after));
    }

    /// Enters a check.
    pub fn check(&mut self, name: &str, outcome: Result<(), String>) {
        self.checks.push((name.to_owned(), outcome));
    }

    fn of<'a>(&'a self, test: &'a str) -> impl Iterator<Item = &'a Value> {
        self.reports.iter().filter(move |r| r["test"] == test)
    }

    fn turns(&self, how: &str, size: i64) -> Option<&Value> {
        self.reports.iter().find(|r| r["how"] == how && r["size"] == size)
    }

    fn median(&self, how: &str, size: i64) -> Result<f64, String> {
        let report =
            self.turns(how, size).ok_or_else(|| format!("{how} of {size} bytes gave no result"))?;
        report["p50"].as_f64().filter(|us| *us > 0.0).ok_or_else(|| format!("{how}: no median"))
    }

    /// Whether both sides of the transfer have this digest.
    pub fn digest_is(&self, digest: &str) -> Result<(), String> {
        let seen: Vec<_> = self.of("transfer").filter_map(|r| r["sha256"].as_str()).collect();
        if seen == [digest, digest] {
            Ok(())
        } else {
            Err(format!("{digest} here, {seen:?} in the guests"))
        }
    }

    /// Enters the checks on what was measured.
    pub fn judge(&mut self) {
        let met = self.of("handshake").count();
        self.check(
            "handshake on both sides",
            if met == 2 { Ok(()) } else { Err(format!("{met} of 2")) },
        );
        for size in SIZES {
            let missing: Vec<_> = KINDS
                .iter()
                .filter(|(how, _)| self.median(how, size).is_err())
                .map(|(_, name)| *name)
                .collect();
            let outcome = if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("none of {}", missing.join(", ")))
            };
            self.check(&format!("results of {size} bytes"), outcome);
        }
        let faster = |how: &str, factor: f64| -> Result<(), String> {
            let ratio = self.median("tcp", 8)? / self.median(how, 8)?;
            if ratio >= factor { Ok(()) } else { Err(format!("{ratio:.1} times")) }
        };
        let (hot, blocking) = (faster("semop busy", HOT_FACTOR), faster("semop block", 1.0));
        self.check("hot semop at least 100 times faster than TCP", hot);
        self.check("blocking semop faster than TCP", blocking);
        for event in ["acquired", "detached"] {
            let outcome = match self.deaths.iter().find(|(name, _)| name == event) {
                Some((_, after)) if *after <= RELEASE => Ok(()),
                Some((_, after)) => Err(format!("{} ms after the kill", after.as_millis())),
                None => Err("never".into()),
            };
            self.check(&format!("a killed machine's hold is {event} within a second"), outcome);
        }
    }

    /// Whether every check holds.
    pub fn good(&self) -> bool {
        self.checks.iter().all(|(_, outcome)| outcome.is_ok())
    }

    /// How many hold.
    pub fn summary(&self) -> String {
        let held = self.checks.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        format!("{held} of {} checks hold", self.checks.len())
    }

    /// Round trips, deaths and checks.
    pub fn table(&self) -> String {
        let guests = if self.emulated {
            "two emulated guests (TCG): compare the rows, not with hardware"
        } else {
            "two guests (KVM)"
        };
        let mut out = format!(
            "\n{}\nBetween {guests}\n{:20} {:>6} {:>8} {:>10} {:>10} {:>10} {:>10} {:>9}\n",
            self.header(),
            "round trip, us",
            "bytes",
            "turns",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "TCP is"
        );
        for (how, name) in KINDS {
            for size in SIZES {
                let Some(r) = self.turns(how, size) else { continue };
                let number = |field: &str| r[field].as_f64().unwrap_or(f64::NAN);
                let ratio = match (self.median("tcp", size), self.median(how, size)) {
                    (Ok(tcp), Ok(own)) => format!("{:.1}x", tcp / own),
                    _ => "-".into(),
                };
                let _ = writeln!(
                    out,
                    "{name:20} {size:>6} {:>8} {:>10.2} {:>10.2} {:>10.2} {:>10.2} {ratio:>9}",
                    r["turns"],
                    number("p50"),
                    number("p90"),
                    number("p99"),
                    number("p99.9"),
                );
            }
        }
        out.push('\n');
        for r in self.of("transfer") {
            let _ = writeln!(
                out,
                "file {}: {} bytes, {} MB/s",
                r["role"].as_str().unwrap_or("?"),
                r["bytes"],
                r["mb_per_s"]
            );
        }
        for (event, after) in &self.deaths {
            let _ =
                writeln!(out, "machine killed: {event} after {:.1} ms", after.as_secs_f64() * 1e3);
        }
        out.push('\n');
        for (name, outcome) in &self.checks {
            let _ = match outcome {
                Ok(()) => writeln!(out, "  ok     {name}"),
                Err(why) => writeln!(out, "  FAILED {name}: {why}"),
            };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn full() -> Results {
        let mut results = Results::default();
        for role in ["a", "b"] {
            results.add(json!({ "test": "handshake", "role": role, "bytes": 1, "counter": 2 }));
        }
        for (how, _) in KINDS {
            let us = match how {
                "tcp" | "udp" => 300.0,
                "semop block" => 100.0,
                _ => 1.0,
            };
            for size in SIZES {
                results.add(
                    json!({ "test": "sync", "how": how, "size": size, "turns": 10, "p50": us }),
                );
            }
        }
        results.death("acquired", Duration::from_millis(90));
        results.death("detached", Duration::from_millis(91));
        results
    }

    #[test]
    fn a_full_run_passes_every_check() {
        let mut results = full();
        results.judge();
        assert!(results.good(), "{}", results.table());
    }

    #[test]
    fn a_late_release_and_a_missing_report_fail() {
        let mut results = full();
        results.deaths[0].1 = Duration::from_millis(1500);
        results.reports.pop();
        results.judge();
        let failed: Vec<_> = results.checks.iter().filter(|(_, o)| o.is_err()).collect();
        assert_eq!(failed.len(), 2, "{failed:?}");
    }

    #[test]
    fn the_digest_must_be_the_same_on_both_sides() {
        let mut results = Results::default();
        results.add(json!({ "test": "transfer", "sha256": "abc" }));
        assert!(results.digest_is("abc").is_err());
        results.add(json!({ "test": "transfer", "sha256": "abc" }));
        assert!(results.digest_is("abc").is_ok());
        assert!(results.digest_is("abd").is_err());
    }
}
