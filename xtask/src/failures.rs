//! What failed and why, kept to be said once more at the end: of hours of output somebody may have
//! the last page alone.

use std::mem;
use std::sync::Mutex;

/// Lines kept of what one test says. Why it failed comes first.
const LINES: usize = 30;

static ALL: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a failure.
pub fn add(text: String) {
    ALL.lock().unwrap_or_else(|e| e.into_inner()).push(text);
}

/// What has failed since the last time.
pub fn take() -> Vec<String> {
    mem::take(&mut ALL.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Finds what failed tests said in libtest's output, which comes line by line.
#[derive(Default)]
pub struct Reader {
    /// Between the two lines `failures:`, the second of which begins a list of names.
    inside: bool,
    /// The test that speaks: its name, then its lines.
    test: Option<Vec<String>>,
    /// Nothing more of it is kept.
    enough: bool,
    found: Vec<String>,
}

impl Reader {
    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if line == "failures:" || line.starts_with("test result: ") {
            self.end_test();
            self.inside = !self.inside && line == "failures:";
        } else if self.inside && line.starts_with("---- ") && line.ends_with(" ----") {
            self.end_test();
            self.test = Some(vec![line.to_owned()]);
        } else if let Some(test) = &mut self.test
            && !self.enough
        {
            let trace = line.eq_ignore_ascii_case("stack backtrace:");
            self.enough = trace || test.len() == LINES;
            test.push(if self.enough { "…".to_owned() } else { line.to_owned() });
        }
    }

    fn end_test(&mut self) {
        let test = self.test.take().unwrap_or_default();
        let text = test.join("\n").trim_end().to_owned();
        if !text.is_empty() {
            self.found.push(text);
        }
        self.enough = false;
    }

    /// All that was found.
    pub fn end(mut self) -> Vec<String> {
        self.end_test();
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Vec<String> {
        let mut reader = Reader::default();
        output.lines().for_each(|l| reader.line(l));
        reader.end()
    }

    #[test]
    fn what_failed_is_found_without_its_backtrace() {
        let output = "running 3 tests\n\
            test sig_storm ... FAILED\n\
            \n\
            failures:\n\
            \n\
            ---- sig_storm ----\n\
            the kernel's run ended with exit 0, ours with signal 11 (SIGSEGV)\n\
            \n\
            ---- module stdout ----\n\
            it is not there\n\
            stack backtrace:\n   \
            0: main\n\
            \n\
            failures:\n    sig_storm\n    module\n\
            \n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n\
            running 1 test\n\
            ---- not a failure ----\n\
            failures:\n\
            ---- later ----\n\
            why\n\
            test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n";
        let storm = "---- sig_storm ----\nthe kernel's run ended with exit 0, ours with signal 11 (SIGSEGV)";
        let module = "---- module stdout ----\nit is not there\n…";
        assert_eq!(read(output), [storm, module, "---- later ----\nwhy"]);
    }

    #[test]
    fn who_says_much_is_cut_short() {
        let output = format!("failures:\n---- a ----\n{}---- b ----\nb\n", "more\n".repeat(100));
        let found = read(&output);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].lines().count(), LINES + 1);
        assert!(found[0].ends_with("more\n…"));
        assert_eq!(found[1], "---- b ----\nb");
    }
}
