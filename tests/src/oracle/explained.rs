//! Differences that have a reason. Each stands in `docs/semantics.md` too, in
//! the same words; a test compares.

/// A kind of difference, and why it is none.
#[derive(Debug)]
pub struct Rule {
    /// What it is called in results.
    pub name: &'static str,
    /// Why the two may differ here.
    pub reason: &'static str,
    /// Whether it is what these two lines differ in.
    pub explains: fn(kernel: &str, ours: &str) -> bool,
}

/// All of them.
pub const RULES: &[Rule] = &[
    Rule {
        name: "memory-of-the-region",
        reason: "`shmctl(IPC_INFO)` tells the region's size where the kernel tells that there is no limit.",
        explains: |kernel, ours| differ_in(kernel, ours, &["shmmax=", "shmall="]),
    },
    Rule {
        name: "resident-pages",
        reason: "`shmctl(SHM_INFO)` counts every page of a segment as resident: a region has them all from the start.",
        explains: |kernel, ours| differ_in(kernel, ours, &["rss="]),
    },
];

/// Whether the lines are equal but for words that begin with one of `fields`.
fn differ_in(kernel: &str, ours: &str, fields: &[&str]) -> bool {
    let (k, o): (Vec<_>, Vec<_>) = (kernel.split(' ').collect(), ours.split(' ').collect());
    let same = |(k, o): (&&str, &&str)| {
        k == o || fields.iter().any(|f| k.starts_with(f) && o.starts_with(f))
    };
    k.len() == o.len() && k.iter().zip(&o).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_explains_its_own_field_and_no_other() {
        let rule = RULES.iter().find(|r| r.name == "resident-pages").unwrap();
        assert!((rule.explains)("1 used=1 tot=3 rss=2", "1 used=1 tot=3 rss=3"));
        assert!(!(rule.explains)("1 used=1 tot=3 rss=2", "1 used=1 tot=4 rss=3"));
    }
}
