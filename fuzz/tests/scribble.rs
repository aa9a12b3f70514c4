//! A hostile peer that writes between any two accesses of every call: no panic, no access outside,
//! no endless loop; what it finds is reported with what and where.
//!
//! `SCRIBBLE_RUNS` and `SCRIBBLE_SEED` choose another size and seed.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use vshmem_fuzz::scribble::{Outcome, Rng, Scene, told};
use vshmem_sysv::Error;

/// Runs from one scene.
const PER_SCENE: u64 = 500;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |n| n.parse().expect("a number"))
}

/// Where in the library a call was when its patience ended, the innermost first.
fn place(trace: &str) -> String {
    let lines = trace.lines().map(str::trim).skip_while(|line| !line.contains("mem.rs"));
    let lines =
        lines.filter_map(|line| line.strip_prefix("at ./").or_else(|| line.split(": ").nth(1)));
    lines.skip(1).take(16).collect::<Vec<_>>().join(" ")
}

#[derive(Default)]
struct Tally {
    runs: u64,
    calls: BTreeMap<&'static str, (u64, u64)>,
    found: BTreeMap<&'static str, u64>,
    bad: BTreeMap<String, Vec<String>>,
}

fn scribble(seeds: std::ops::Range<u64>, honest: bool) -> Tally {
    let mut tally = Tally::default();
    let mut scene = None;
    for seed in seeds {
        let base = seed / PER_SCENE;
        if scene.as_ref().is_none_or(|(of, _)| *of != base) {
            scene = Some((base, Scene::new(base)));
        }
        let Some((_, scene)) = &scene else { unreachable!() };
        tally.runs += 1;
        let mut rng = Rng::new(seed);
        let lies = (!honest).then(|| Rng::new(rng.draw()));
        scene.run(rng, lies, |name, accesses, outcome| {
            let entry = tally.calls.entry(name).or_default();
            *entry = (entry.0 + 1, entry.1.max(accesses));
            let mut bad = |what: String| {
                tally.bad.entry(what).or_default().push(format!("seed {seed}, {name}"));
            };
            match outcome {
                Outcome::Done(Ok(())) | Outcome::Died => {}
                Outcome::Done(Err(error)) => {
                    if !told(&error, 22 << 20) {
                        bad(format!("not told: {error:?}"));
                    }
                    if let Error::Corrupt(c) = error {
                        *tally.found.entry(c.what).or_default() += 1;
                    }
                }
                Outcome::Endless(trace) => bad(format!("endless: {}", place(&trace))),
                Outcome::Panicked(text) => bad(format!("panic: {text}")),
            }
        });
    }
    tally
}

fn show(tally: &Tally) {
    println!("{} runs", tally.runs);
    for (name, (n, most)) in &tally.calls {
        println!("{n:9} {name}: at most {most} accesses");
    }
    for (what, n) in &tally.found {
        println!("{n:9} reports: {what}");
    }
    for (what, seeds) in &tally.bad {
        println!("{} times {what}\n    {}", seeds.len(), seeds[..seeds.len().min(4)].join("; "));
    }
}

#[test]
fn without_lies_nothing_is_corrupt() {
    let tally = scribble(0..2000, true);
    show(&tally);
    assert!(tally.bad.is_empty() && tally.found.is_empty());
}

#[test]
fn a_hostile_peer_is_reported_and_harms_nobody() {
    let first = number("SCRIBBLE_SEED", 1_000_000_000);
    let tally = scribble(first..first + number("SCRIBBLE_RUNS", 30_000), false);
    show(&tally);
    assert!(tally.bad.is_empty(), "{} kinds of failure", tally.bad.len());
    assert!(tally.found.len() > 20, "the lies are too small: {:?}", tally.found);
}
