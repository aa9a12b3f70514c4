//! Storms: thousands of deaths, stops and lies, drawn from a seed.
//!
//! Each is in a module of its own and has two sizes: `cargo xtask test` runs the short one with a
//! fixed seed (`tests/survival.rs`), `cargo xtask soak` the full one, of which it leaves a page
//! under `docs/results`. `docs/promises.md` says which promise each one shows.

mod crowd;
mod guest_sizes;
mod guests;
mod kills;
mod module;
mod scribble;
mod sockets;
mod stops;

use std::fmt::Display;

use anyhow::Result;

/// What decides a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Everything random follows from it, but for what the scheduler does.
    pub seed: u64,
    /// How many deaths, stops or lies.
    pub rounds: u64,
}

/// A kind of storm.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// What `--only` and the page of results call it.
    pub name: &'static str,
    /// One line: what happens to whom.
    pub about: &'static str,
    /// Rounds of the soak.
    pub full: u64,
    /// Rounds of the daily test: some seconds.
    pub short: u64,
    /// Whether it boots guests.
    pub guests: bool,
    /// Raises it. What breaks a promise goes into the report; an error is what kept it from running.
    pub run: fn(&Plan) -> Result<Report>,
}

/// All of them.
pub const STORMS: &[Storm] = &[
    crowd::STORM,
    kills::STORM,
    kills::RESTARTS,
    guests::STORM,
    guest_sizes::STORM,
    scribble::STORM,
    Storm {
        name: "module",
        about: "random calls at the kernel module of a guest, by nobody and by root, and removals",
        // 736 to 811 s on a busy machine, as the guest is emulated and its kernel checks everything; a
        // quarter of an hour is what such a run may take, and 4000 would take more than 40 minutes.
        full: 1200,
        short: 8,
        guests: true,
        run: module::storm,
    },
    Storm {
        name: "sockets",
        about: "abusive clients at the daemon's sockets, beside programs that want to be served",
        full: 20_000,
        short: 150,
        guests: false,
        run: sockets::storm,
    },
    stops::STORM,
];

/// What a storm found.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    broken: Vec<String>,
}

impl Report {
    /// A figure, for the table.
    pub fn row(&mut self, name: impl Into<String>, value: impl Display) {
        self.rows.push((name.into(), value.to_string()));
    }

    /// Notes a broken promise unless `kept`.
    pub fn promise(&mut self, kept: bool, otherwise: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(otherwise());
        }
    }

    /// The promises that were broken.
    #[must_use]
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Its figures as a table in Markdown, after `before`.
    #[must_use]
    pub fn table(&self, before: &[(String, String)]) -> String {
        let mut text = String::from("| | |\n|-|-|\n");
        for (name, value) in before.iter().chain(&self.rows) {
            text += &format!("| {name} | {value} |\n");
        }
        text += &format!("| broken promises | {} |\n", self.broken.len());
        for broken in &self.broken {
            text += &format!("\nBroken: {broken}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_report_shows_its_figures_and_what_broke() {
        let mut report = Report::default();
        report.row("kills", 3);
        report.promise(true, || unreachable!());
        report.promise(false, || "a page is lost".into());
        let before = [("seed".to_owned(), "1".to_owned())];
        let text = report.table(&before);
        assert_eq!(
            text,
            "| | |\n|-|-|\n| seed | 1 |\n| kills | 3 |\n| broken promises | 1 |\n\
             \nBroken: a page is lost\n"
        );
        assert_eq!(report.broken(), ["a page is lost"]);
    }
}
