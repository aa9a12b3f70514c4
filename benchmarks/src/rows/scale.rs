//! What grows when there are many.
//!
//! For each operation a row of every size beside the kernel, and one of the
//! growth from the smallest to the largest, the kernel's beside ours.

use anyhow::Result;

use crate::place::Place;
use crate::row::{Goal, Program, Row, Unit};
use crate::run::Turn;
use crate::stats::median;

/// From the smallest to the largest, where the kernel is flat.
const FLAT: Goal = Goal::MostOrBase(1.5);

/// One more is made while they are there.
const OBJECTS: &[&str] = &["10", "1000", "31999"];
/// As many as the kernel has of them unless told.
const SEGMENTS: &[&str] = &["10", "1000", "4000"];
const SLEEPERS: &[&str] = &["1", "30", "1000"];
const TASKS: &[&str] = &["1", "30", "1000"];
/// Ten thousand, but for what 20,000 descriptors of a daemon, two for each, are needed for besides.
const CROWD: &[&str] = &["1", "9900"];

/// The rows.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, what, sizes) in
        [("sem", "sets", OBJECTS), ("msg", "queues", OBJECTS), ("shm", "segments", SEGMENTS)]
    {
        let mut add = |code: &str, about: &str| {
            rows.extend(sizes_of(&format!("{code}-{kind}"), &format!("{about} {what}"), sizes));
        };
        add("lookup", "*get of an existing key, of so many");
        add("get", "made and removed beside so many");
        if kind != "shm" {
            add("operation", "an uncontended pair on any of so many");
        }
        if kind == "sem" {
            add("wake", "ping-pong on one of so many");
        }
    }
    for (code, about) in [
        ("sleepers", "so many asleep on a semaphore, the first is woken and answers"),
        (
            "sleepers-apart",
            "one asleep is woken and answers, so many on another semaphore of the set",
        ),
        ("receivers", "so many asleep on a queue, each for a type; one is woken and answers"),
    ] {
        rows.extend(sizes_of(code, about, SLEEPERS));
    }
    rows.extend(sizes_of("tasks", "semop +1, -1; so many others are attached, and asleep", TASKS));
    let apart = |vshmem, name: &str, about: &str| {
        Row::program("scale", "scale", "apart", about).named(name).wide().beside_itself(
            vshmem,
            ("one", "1"),
            ("two", "2"),
        )
    };
    // Twice as many in the same time is half of the time; 1.9 times are asked for.
    rows.push(
        apart(true, "apart", "pairs of two processes on two sets, beside one's")
            .goal(Goal::Ratio(1.0 / 1.9)),
    );
    rows.push(apart(
        false,
        "apart-kernel",
        "pairs of two processes on two sets of the kernel, beside one's",
    ));
    let crowd = sizes_of("tasks", "semop +1, -1; so many others are attached, and asleep", CROWD);
    rows.extend(crowd.into_iter().filter(|row| row.name != "tasks-1").map(|mut row| {
        row.group = super::CROWD;
        row.name = row.name.replace("growth", "crowd-growth");
        row
    }));
    rows
}

/// A row for each, and one of the growth.
fn sizes_of(code: &str, about: &str, sizes: &'static [&'static str]) -> Vec<Row> {
    let row = |name: &str| Row::program("scale", "scale", code, about).named(name).wide();
    let mut rows: Vec<_> = sizes.iter().map(|n| row(&format!("{code}-{n}")).with(&[n])).collect();
    if let [first, .., last] = sizes {
        let grown = row(&format!("{code}-growth"))
            .unit(Unit::Times)
            .through(|place, program, turn| growth(place, program, turn, first, last))
            .goal(FLAT);
        rows.push(grown);
    }
    rows
}

/// How many times as much the largest takes, measured one after the other.
fn growth(place: &Place, program: &Program, turn: Turn, from: &str, to: &str) -> Result<Vec<f64>> {
    let of = |n: &str| {
        let mut program = program.clone();
        program.arguments.push(n.to_owned());
        Ok::<_, anyhow::Error>(median(place.measure(&program, turn.slice)?))
    };
    let small = of(from)?;
    Ok(vec![of(to)? / small])
}
