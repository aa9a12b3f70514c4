//! What an operation is made of: system calls, sleeps, instructions.
//!
//! Counted from outside: a program does its operation so many times, and three
//! times as many; what the second takes more is theirs. So start and end do not
//! count.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vshmem_tests::run::run;

use crate::place::{Place, WATCHDOG, ended_badly};
use crate::row::{Goal, Program, Row, Unit};
use crate::run::Turn;

/// Operations of the shorter run.
const FEW: u64 = 500;
/// What the longer one has more of them.
const MORE: u64 = 2 * FEW;

/// The rows.
pub fn rows() -> Vec<Row> {
    let micro =
        |code: &str, about: &str| Row::program("counts", "micro", code, about).unit(Unit::PerOp);
    let calls = |code: &str, about: &str| {
        micro(code, about).named(format!("calls-{code}")).through(system_calls)
    };
    let asleep = |code: &str, about: &str| {
        micro(code, about).asleep().named(format!("calls-{code}")).through(system_calls)
    };
    let mut rows = vec![
        calls("sem-pair", "system calls of semop +1, -1").goal(Goal::Most(0.0)),
        calls("sem-undo-pair", "system calls of semop +1, -1 with SEM_UNDO").goal(Goal::Most(0.0)),
        calls("msg-pair", "system calls of msgsnd, msgrcv of 64 bytes").goal(Goal::Most(0.0)),
        calls("shm-cycle", "system calls of shmget, shmat, touch, shmdt, remove"),
        asleep("sem-turns", "system calls of a turn of semop, each wait sleeps"),
        asleep("msg-turns", "system calls of a turn of messages, each wait sleeps"),
        // Two: each side sleeps once a turn. More are spurious wake-ups.
        micro("sem-turns-switches-pinned", "sleeps of a turn of semop, no wait spins")
            .asleep()
            .named("sleeps-sem-turns")
            .goal(Goal::Most(2.1)),
        micro("msg-turns-switches-pinned", "sleeps of a turn of messages, no wait spins")
            .asleep()
            .named("sleeps-msg-turns")
            .goal(Goal::Most(2.1)),
    ];
    for (code, about) in [
        ("sem-pair", "semop +1, -1, uncontended"),
        ("sem-undo-pair", "semop +1, -1 with SEM_UNDO"),
        ("sem-multi", "semop of four operations"),
        ("sem-read", "semctl GETVAL"),
        ("msg-pair", "msgsnd, msgrcv of 64 bytes"),
        ("msg-type-pair", "msgsnd, msgrcv of 64 bytes, by type"),
        ("shm-cycle", "shmget, shmat, touch, shmdt, remove"),
        ("mutex-pair", "lock, unlock of a mutex in a segment"),
    ] {
        let mut row = Row::program(super::INSTRUCTIONS, "micro", code, about);
        row.base = None;
        row = row.unit(Unit::PerOp).named(format!("instructions-{code}"));
        rows.push(row.through(instructions));
    }
    rows
}

/// What one operation takes of what `count` counts of `n` operations.
fn of_one(count: impl Fn(u64) -> Result<u64>) -> Result<Vec<f64>> {
    let few = count(FEW)?;
    let more = count(FEW + MORE)?.saturating_sub(few);
    Ok(vec![more as f64 / MORE as f64])
}

/// The environment that makes a program use vshmem without `vshmem run`.
fn environment(place: &Place, program: &Program) -> Result<Vec<(String, String)>> {
    let mut all = if program.vshmem { place.environment()? } else { Vec::new() };
    all.extend(program.environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    Ok(all)
}

fn outcome_of(mut command: Command, built: &Path, program: &Program, n: u64) -> Result<String> {
    command.arg(built).arg(&program.code).arg(format!("{n}x"));
    let outcome = run(&mut command, WATCHDOG)?;
    ensure!(outcome.good(), "{}", ended_badly(&command, &outcome));
    Ok(outcome.stderr)
}

/// Those of all its processes.
fn system_calls(place: &Place, program: &Program, _turn: Turn) -> Result<Vec<f64>> {
    let (built, table) = (place.program(program.source, false)?, place.folder().join("strace"));
    of_one(|n| {
        let mut command = place.session().command("strace");
        command.args(["-f", "-qq", "-c", "-o"]).arg(&table);
        for (name, value) in environment(place, program)? {
            command.arg("-E").arg(format!("{name}={value}"));
        }
        outcome_of(command, &built, program, n)?;
        total(&std::fs::read_to_string(&table)?)
    })
}

/// The calls in the last line of strace's table: time, seconds, mean, calls, errors if any, total.
fn total(table: &str) -> Result<u64> {
    let line = table.lines().rfind(|line| line.ends_with(" total"));
    let calls = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    calls.with_context(|| format!("strace counted nothing:\n{table}"))
}

/// Those that valgrind sees: the program's and the library's, not the kernel's.
fn instructions(place: &Place, program: &Program, _turn: Turn) -> Result<Vec<f64>> {
    let built = place.program(program.source, false)?;
    of_one(|n| {
        let mut command = place.session().command("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        command.envs(environment(place, program)?);
        collected(&outcome_of(command, &built, program, n)?)
    })
}

/// What callgrind says at its end.
fn collected(text: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    let count = line.and_then(|(_, count)| count.trim().parse().ok());
    count.with_context(|| format!("valgrind counted nothing:\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_table_of_strace_is_read_with_and_without_errors() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n";
        for line in [
            "100.00    0.001234           2       617        12 total\n",
            "100.00    0.001234           2       617           total\n",
        ] {
            assert_eq!(total(&format!("{head}{line}")).unwrap(), 617);
        }
        assert!(total(head).is_err());
    }

    #[test]
    fn what_callgrind_collected_is_read() {
        assert_eq!(collected("==1== \n==1== Collected : 172841\n==1==\n").unwrap(), 172_841);
        assert!(collected("==1== Collected :\n").is_err());
    }

    #[test]
    fn only_what_more_operations_take_more_is_theirs() {
        let of = |each: u64| of_one(|n| Ok(1234 + each * n)).unwrap();
        assert_eq!((of(0), of(7)), (vec![0.0], vec![7.0]));
    }
}
