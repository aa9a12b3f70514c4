//! What two transcripts have in common.

use super::explained::{RULES, Rule};
use super::world::Transcripts;

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The rules that explain what differs, once for each line.
    pub explained: Vec<&'static Rule>,
    /// What nothing explains, for people; none where all is well.
    pub difference: Option<String>,
}

/// Lines shown before the first that differs.
const CONTEXT: usize = 12;

/// Compares line by line, up to the first difference that no rule explains.
pub fn compare(of: &Transcripts) -> Verdict {
    let mut verdict = Verdict::default();
    let (kernel, ours): (Vec<_>, Vec<_>) = (of.kernel.lines().collect(), of.ours.lines().collect());
    for n in 0..kernel.len().max(ours.len()) {
        let (k, o) = (kernel.get(n).copied(), ours.get(n).copied());
        if k == o {
            continue;
        }
        let rule = match (k, o) {
            (Some(k), Some(o)) => RULES.iter().find(|r| (r.explains)(k, o)),
            _ => None,
        };
        match rule {
            Some(rule) => verdict.explained.push(rule),
            None => {
                let mut text = String::new();
                for line in
                    &kernel[n.saturating_sub(CONTEXT).min(kernel.len())..n.min(kernel.len())]
                {
                    text += &format!("    {line}\n");
                }
                text += &format!("  kernel: {}\n", k.unwrap_or("(nothing more)"));
                text += &format!("  vshmem: {}\n", o.unwrap_or("(nothing more)"));
                verdict.difference = Some(text);
                return verdict;
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(kernel: &str, ours: &str) -> Verdict {
        compare(&Transcripts { kernel: kernel.into(), ours: ours.into() })
    }

    #[test]
    fn equal_transcripts_have_no_difference() {
        assert!(verdict("a\nb\n", "a\nb\n").difference.is_none());
    }

    #[test]
    fn another_result_a_missing_line_and_a_further_one_are_differences() {
        for ours in ["a\nc\n", "a\n", "a\nb\nc\n"] {
            assert!(verdict("a\nb\n", ours).difference.is_some(), "{ours:?}");
        }
    }
}
