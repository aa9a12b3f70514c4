//! How two outputs differ, line by line.

use std::fmt::Write;

/// One step from the one text to the other.
enum Step<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// The lines of `old` and `new` that differ, with `-` and `+` before them and
/// two lines of context around; empty when the texts are equal.
pub fn diff(old: &str, new: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    // longest[i][j]: of the common subsequence of a[i..] and b[j..].
    let mut longest = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = if a[i] == b[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let mut steps = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            steps.push(Step::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            steps.push(Step::Gone(a[i]));
            i += 1;
        } else {
            steps.push(Step::New(b[j]));
            j += 1;
        }
    }
    show(&steps)
}

const CONTEXT: usize = 2;

fn show(steps: &[Step]) -> String {
    let changed: Vec<usize> = steps
        .iter()
        .enumerate()
        .filter(|(_, s)| !matches!(s, Step::Same(_)))
        .map(|(n, _)| n)
        .collect();
    let near = |n: usize| {
        let after = changed.partition_point(|c| c + CONTEXT < n);
        changed.get(after).is_some_and(|c| *c <= n + CONTEXT)
    };
    let mut text = String::new();
    let mut gap = false;
    for (n, step) in steps.iter().enumerate() {
        if !near(n) {
            gap = true;
            continue;
        }
        if std::mem::take(&mut gap) {
            let _ = writeln!(text, "  @ line {}", n + 1);
        }
        let _ = match step {
            Step::Same(line) => writeln!(text, "    {line}"),
            Step::Gone(line) => writeln!(text, "  - {line}"),
            Step::New(line) => writeln!(text, "  + {line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn equal_texts_have_no_difference() {
        assert_eq!(diff("a\nb\n", "a\nb\n"), "");
    }

    #[test]
    fn a_changed_line_shows_both_forms_and_its_place() {
        let old = "1\n2\n3\n4\n5\n6\n7\n";
        let new = "1\n2\n3\n4\nfive\n6\n7\n";
        assert_eq!(diff(old, new), "  @ line 3\n    3\n    4\n  - 5\n  + five\n    6\n    7\n");
    }

    #[test]
    fn added_and_missing_lines_are_found() {
        assert_eq!(diff("a\n", "a\nb\n"), "    a\n  + b\n");
        assert_eq!(diff("a\nb\n", "b\n"), "  - a\n    b\n");
    }
}
