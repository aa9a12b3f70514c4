//! Running one stage of the tests: its output passes through, its results are
//! counted.

use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::failures;

/// How many tests passed, failed and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: u64,
    /// Failed, or could not run.
    pub failed: u64,
    /// Left out, by name or because something they name is absent.
    pub skipped: u64,
}

impl Count {
    /// One test that passed.
    pub const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    /// One test that failed.
    pub const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    /// One test that was skipped.
    pub const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The numbers of libtest's line `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result_line(line: &str) -> Option<Count> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let mut count = Count::default();
    for part in numbers.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => count.passed = number,
            "failed" => count.failed = number,
            "ignored" => count.skipped = number,
            _ => {}
        }
    }
    Some(count)
}

/// Runs a command that must succeed as one test.
///
/// # Errors
///
/// The command cannot be started.
pub fn single(command: &mut Command) -> Result<Count> {
    eprintln!("$ {}", shown(command));
    let started = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    eprintln!("  {status} after {:.1} s", started.elapsed().as_secs_f64());
    if status.success() {
        return Ok(Count::PASSED);
    }
    failures::add(format!("{}: {status}", shown(command)));
    Ok(Count::FAILED)
}

/// Runs tests in libtest's format, passes their output on, and counts them. A
/// run that fails without naming a test, or that runs none, is a failure.
///
/// # Errors
///
/// The command cannot be started.
pub fn libtest(command: &mut Command) -> Result<Count> {
    eprintln!("$ {}", shown(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let output = child.stdout.take().context("the child has no output")?;
    let (mut count, mut failed) = (Count::default(), failures::Reader::default());
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("{line}");
        failed.line(&line);
        if let Some(more) = result_line(&line) {
            count += more;
        }
    }
    failed.end().into_iter().for_each(failures::add);
    let status = child.wait()?;
    let unnamed = if !status.success() && count.failed == 0 {
        Some(format!("{status}, and no test is named"))
    } else {
        (count == Count::default()).then(|| "no test ran".to_owned())
    };
    if let Some(what) = unnamed {
        eprintln!("error: {what}: counted as one failure");
        failures::add(format!("{}: {what}", shown(command)));
        count += Count::FAILED;
    }
    Ok(count)
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_line_of_libtest_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 7 filtered out; finished in 0.1s";
        assert_eq!(result_line(line), Some(Count { passed: 12, failed: 3, skipped: 4 }));
        assert_eq!(result_line("test some::name ... ok"), None);
    }

    #[test]
    fn a_command_that_fails_without_results_counts_as_a_failure() {
        assert_eq!(libtest(&mut Command::new("false")).unwrap(), Count::FAILED);
        assert_eq!(libtest(&mut Command::new("true")).unwrap(), Count::FAILED);
    }
}
