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
        name: "resident-pages",
        reason: "`shmctl(SHM_INFO)` counts every page of a segment as resident: a region has them all from the start.",
        explains: |kernel, ours| differ_in(kernel, ours, &["rss="]),
    },
    Rule {
        name: "zeros-awaited",
        reason: "A sleeper that waits for several zeros counts in GETZCNT of the first that is none now; the kernel names the first that was none when it last looked, and it looks only when something becomes zero.",
        explains: zeros_awaited,
    },
];

/// What is not played, since from there on the two would go different ways: its name and why.
pub const NOT_PLAYED: &[(&str, &str)] = &[
    (
        "place-after-a-stop",
        "A process that is stopped and continued while it sleeps in `msgsnd` or `msgrcv` keeps its place among the sleepers; the kernel begins the call again and puts it last.",
    ),
    (
        "huge-pages",
        "`shmget` accepts SHM_HUGETLB and ignores it, since the host decides what pages a region is made of; the kernel fails with ENOMEM where none are set aside.",
    ),
    (
        "detached-by-exec",
        "Segments of a program that calls `exec` are detached when the new program makes its first call, at the latest when the endpoint notices, some milliseconds later; the kernel does it within `exec`.",
    ),
];

/// Whether only the last numbers of `value/pid/n/z` differ, and not their sum; or a `getzcnt`.
fn zeros_awaited(kernel: &str, ours: &str) -> bool {
    let asked = |line: &str| {
        let (step, result) = line.split_once(" getzcnt: ")?;
        result.parse::<u32>().ok()?;
        Some(step.to_owned())
    };
    if asked(kernel).is_some() {
        return asked(kernel) == asked(ours);
    }
    let (k, o): (Vec<_>, Vec<_>) = (kernel.split(' ').collect(), ours.split(' ').collect());
    let zeros = |word: &str| {
        let (rest, zeros) = word.rsplit_once('/')?;
        (rest.matches('/').count() == 2).then_some((rest.to_owned(), zeros.parse::<i64>().ok()?))
    };
    let mut sum = 0;
    let alike = k.len() == o.len()
        && k.iter().zip(&o).all(|(k, o)| {
            let (Some((k, kz)), Some((o, oz))) = (zeros(k), zeros(o)) else { return k == o };
            sum += kz - oz;
            k == o
        });
    alike && sum == 0 && kernel.contains("nsems=")
}

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

    #[test]
    fn awaited_zeros_may_move_but_not_vanish() {
        let line = |a, b| format!("   s0: nsems=2 1/w1.1/0/{a} 1/w1.1/0/{b}");
        assert!(zeros_awaited(&line(0, 1), &line(1, 0)));
        assert!(!zeros_awaited(&line(0, 1), &line(0, 0)));
        assert!(!zeros_awaited(&line(0, 1), &line(1, 0).replace("nsems=2 1/", "nsems=2 2/")));
        assert!(zeros_awaited("5 0 semctl s0 1 getzcnt: 1", "5 0 semctl s0 1 getzcnt: 0"));
        assert!(!zeros_awaited("5 0 semctl s0 1 getzcnt: 1", "5 0 semctl s0 1 getzcnt: EINVAL"));
    }
}
