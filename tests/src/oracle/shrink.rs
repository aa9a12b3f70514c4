//! Making a program that differs short enough to read.

use super::Program;

/// The smallest program found that still `differs`, within so many tries.
pub fn shrink(
    program: &Program,
    tries: usize,
    mut differs: impl FnMut(&Program) -> bool,
) -> Program {
    let mut left = tries;
    let mut best = program.clone();
    let mut attempt = |candidate: Program, best: &mut Program| {
        if left == 0 || candidate == *best {
            return false;
        }
        left -= 1;
        let better = differs(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    loop {
        let before = best.clone();
        // Ever smaller runs of steps, from the end: what comes after the difference goes at once.
        let mut run = best.steps.len().div_ceil(2);
        while run > 0 {
            let mut at = best.steps.len();
            while at > 0 {
                at = at.saturating_sub(run);
                let mut candidate = best.clone();
                let end = (at + run).min(candidate.steps.len());
                candidate.steps.drain(at.min(end)..end);
                attempt(candidate, &mut best);
            }
            run = if run == 1 { 0 } else { run / 2 };
        }
        for at in 0..best.steps.len() {
            let mut tried = 0;
            // What was tried in vain is passed over; what helped makes a new list.
            while let Some(step) = simpler(&best.steps[at]).into_iter().nth(tried) {
                let mut candidate = best.clone();
                candidate.steps[at] = step;
                if !attempt(candidate, &mut best) {
                    tried += 1;
                }
            }
        }
        for workers in 1..best.workers {
            if attempt(Program { workers, ..best.clone() }, &mut best) {
                break;
            }
        }
        if best == before {
            return best;
        }
    }
}

/// Forms of a step with less in them, each one word away.
fn simpler(step: &str) -> Vec<String> {
    let words: Vec<&str> = step.split(' ').collect();
    let mut all = Vec::new();
    let mut with = |at: usize, word: Option<String>| {
        let mut new: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        match word {
            Some(word) => new[at] = word,
            None => drop(new.remove(at)),
        }
        all.push(new.join(" "));
    };
    let call = words.get(1).copied().unwrap_or_default();
    for (at, word) in words.iter().enumerate() {
        // A worker by name, then the first.
        if at == 0 {
            if let Some(n) = word.strip_prefix('*') {
                with(at, Some(n.to_owned()));
            } else if !matches!(*word, "-" | "0") {
                with(at, Some("0".into()));
            }
            continue;
        }
        // An operation less; a flag less.
        if (call.starts_with("sem") && at > 2 && word.contains(':')) || word.starts_with('@') {
            with(at, None);
        }
        let (head, flags) = word.rsplit_once(':').map_or(("", *word), |(h, f)| (h, f));
        if flags.contains('|') {
            let parts: Vec<_> = flags.split('|').collect();
            for skip in 0..parts.len() {
                let left: Vec<_> =
                    parts.iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, p)| *p).collect();
                let colon = if head.is_empty() { "" } else { ":" };
                with(at, Some(format!("{head}{colon}{}", left.join("|"))));
            }
        } else if head.contains(':') {
            with(at, Some(head.to_owned()));
        } else if word.parse::<i64>().is_ok_and(|n| !(0..=1).contains(&n)) {
            with(at, Some("1".into()));
        } else if let Some((plain, _)) = word.split_once('+') {
            with(at, Some(plain.to_owned()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_difference_does_not_need_goes() {
        let steps = ["*1 msgget k0 creat", "*2 semop s0 0:1:undo|nowait 1:2", "- tick", "*0 exit"];
        let program = Program {
            name: "x".into(),
            workers: 4,
            watched: true,
            steps: steps.map(str::to_owned).to_vec(),
        };
        let small = shrink(&program, 1000, |p| p.steps.iter().any(|s| s.contains("1:2")));
        assert_eq!(small.steps, ["0 semop s0 1:2"]);
        assert_eq!(small.workers, 1);
    }
}
