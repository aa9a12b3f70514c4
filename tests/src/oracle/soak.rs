//! Many programs, on as many pairs of worlds as it takes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::compare::compare;
use super::world::{Honesty, Pair};
use super::{Program, generate, shrink};

/// Programs in one pair of worlds: new ones begin with fresh numbers.
const BATCH: u64 = 400;
/// Plays a difference is worth.
const TRIES: usize = 300;

/// How long a program is made shorter.
const TIME: Duration = Duration::from_secs(60);

/// What a run has seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// Steps that were done; those left out, as their worker slept, do not count.
    pub operations: u64,
    /// Programs.
    pub programs: u64,
    /// How many lines each rule explained.
    pub explained: BTreeMap<&'static str, u64>,
    /// What nothing explains: the program, shrunk, and how it differs.
    pub unexplained: Vec<(Program, String)>,
}

/// Plays one program after another, in worlds that have seen no difference yet.
pub struct Judge<'a> {
    player: &'a Path,
    honesty: Honesty,
    /// Worlds that agreed so far number their objects alike.
    pair: Option<Pair>,
}

impl<'a> Judge<'a> {
    /// One for a compiled player.
    pub fn new(player: &'a Path, honesty: Honesty) -> Self {
        Self { player, honesty, pair: None }
    }

    /// The difference of one program, if there is one.
    ///
    /// # Errors
    ///
    /// The worlds do not start.
    pub fn differs(&mut self, program: &Program) -> Result<Option<String>> {
        let mut pair = match self.pair.take() {
            Some(pair) => pair,
            None => Pair::start(self.player, self.honesty)?,
        };
        let mut found = None;
        pair.play(std::slice::from_ref(program), |_, both| {
            found = compare(&both).difference;
            Ok(true)
        })?;
        if found.is_none() {
            self.pair = Some(pair);
        }
        Ok(found)
    }
}

/// Shrinks a program that differs; with its difference then. None where it does not differ again.
///
/// # Errors
///
/// The worlds do not start.
pub fn minimal(
    player: &Path,
    honesty: Honesty,
    program: &Program,
) -> Result<Option<(Program, String)>> {
    let mut judge = Judge::new(player, honesty);
    let Some(mut difference) = judge.differs(program)? else { return Ok(None) };
    let mut failed = None;
    let started = Instant::now();
    let small = shrink::shrink(program, TRIES, |p| {
        // One that hangs takes its time at every try: a longer program is the lesser evil.
        if started.elapsed() > TIME {
            return false;
        }
        match judge.differs(p) {
            Ok(Some(text)) => {
                difference = text;
                true
            }
            Ok(None) => false,
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    failed.map_or(Ok(Some((small, difference))), Err)
}

/// Steps of a transcript that were done.
fn operations(transcript: &str) -> u64 {
    let step = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    transcript.lines().filter(step).filter(|l| !l.ends_with(": skip")).count() as u64
}

/// Plays the programs of the seeds from `first` until `enough` says so of the tally, which it is
/// shown after every program. A difference ends its batch and, shrunk, joins the tally.
///
/// # Errors
///
/// The worlds do not start.
pub fn soak(player: &Path, first: u64, mut enough: impl FnMut(&Tally) -> bool) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut seed = first;
    while !enough(&tally) {
        let programs: Vec<_> = (seed..seed + BATCH).map(generate::program).collect();
        let mut different = None;
        let mut done = 0;
        Pair::start(player, Honesty::Honest)?.play(&programs, |program, both| {
            done += 1;
            tally.programs += 1;
            tally.operations += operations(&both.kernel);
            let verdict = compare(&both);
            for rule in verdict.explained {
                *tally.explained.entry(rule.name).or_default() += 1;
            }
            different = verdict.difference.map(|text| (program.clone(), text));
            Ok(different.is_none() && !enough(&tally))
        })?;
        seed += done;
        if let Some((program, text)) = different {
            let small = minimal(player, Honesty::Honest, &program)?;
            // One that needs what was before it, or luck, is told as it was.
            let (program, text) = small.unwrap_or((program, text));
            eprintln!("{program}\n{text}");
            tally.unexplained.push((program, text));
        }
    }
    Ok(tally)
}
