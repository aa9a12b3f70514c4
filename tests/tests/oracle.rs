//! The oracle's fixed part: a range of seeds, the programs that differed once,
//! and that a lie is found. `cargo xtask soak` does the long run.
//!
//! `ORACLE_SEED=n cargo test -p vshmem-tests --test oracle one_seed -- --nocapture`
//! shows the program of one seed and where it differs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use vshmem_tests::oracle::compare::compare;
use vshmem_tests::oracle::world::{Honesty, Pair};
use vshmem_tests::oracle::{Program, corpus, explained, generate, player, soak};

/// Steps of the fixed part; it ends before that where the machine is slow.
const OPERATIONS: u64 = 30_000;
const TIME: Duration = Duration::from_secs(60);

fn compiled() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let player = player(folder.path()).unwrap();
    (folder, player)
}

/// The worlds need root: their programs act as several users.
fn root() -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("skipped: the oracle needs root");
    }
    is
}

#[test]
fn random_programs_do_the_same_on_the_kernel_and_on_vshmem() {
    if !root() {
        return;
    }
    let (_folder, player) = compiled();
    let started = Instant::now();
    let tally = soak::soak(&player, 1, |t| {
        t.operations >= OPERATIONS || !t.unexplained.is_empty() || started.elapsed() > TIME
    })
    .unwrap();
    eprintln!(
        "{} operations, {} programs: {:?}",
        tally.operations, tally.programs, tally.explained
    );
    // Which they are has been told above.
    assert_eq!(tally.unexplained.len(), 0);
    assert!(tally.operations > 0);
}

#[test]
fn programs_that_differed_once_do_no_more() {
    if !root() {
        return;
    }
    let (_folder, player) = compiled();
    let mut programs = Vec::new();
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        programs.push(Program::read(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut pair = Pair::start(&player, Honesty::Honest).unwrap();
    let mut different = Vec::new();
    pair.play(&programs, |program, both| {
        if let Some(text) = compare(&both).difference {
            different.push(format!("{}:\n{text}", program.name));
        }
        Ok(true)
    })
    .unwrap();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn a_world_that_lies_is_found_and_what_it_lies_about_shrunk() {
    if !root() {
        return;
    }
    let (_folder, player) = compiled();
    let mut judge = soak::Judge::new(&player, Honesty::OursLies);
    let found = (1..).map(generate::program).find(|p| judge.differs(p).unwrap().is_some());
    let (small, difference) =
        soak::minimal(&player, Honesty::OursLies, &found.unwrap()).unwrap().unwrap();
    // A set, a value above 1, and somebody who asks for it.
    assert!(small.steps.len() <= 3, "{small}{difference}");
    assert!(difference.contains("getval"), "{difference}");
}

#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("ORACLE_SEED") else { return };
    let program = generate::program(seed.parse().unwrap());
    let (_folder, player) = compiled();
    println!("{program}");
    if let Some((small, text)) = soak::minimal(&player, Honesty::Honest, &program).unwrap() {
        panic!("{small}\n{text}");
    }
}

#[test]
fn every_explained_difference_stands_in_the_documentation() {
    let page =
        std::fs::read_to_string(vshmem_tests::build::root().join("docs/semantics.md")).unwrap();
    let rules = explained::RULES.iter().map(|r| (r.name, r.reason));
    for (name, reason) in rules.chain(explained::NOT_PLAYED.iter().copied()) {
        let row = format!("| `{name}` | {reason} |");
        assert!(page.contains(&row), "docs/semantics.md has no line: {row}");
    }
}
