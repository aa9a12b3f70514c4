//! What a process pays once, and what is awake when nobody calls.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

use crate::place::Place;
use crate::row::{Goal, Program, Row, Unit};
use crate::run::Turn;

/// Long enough for what happens once a second.
const WATCH: Duration = Duration::from_secs(3);

/// The rows.
pub fn rows() -> Vec<Row> {
    let life = |code: &str, about: &str| Row::program("setup", "life", code, about);
    vec![
        life("first-call", "a new process's first set, made and removed: it attaches"),
        life("first-touch", "its first segment: shmget, shmat, touch; it attaches"),
        life("first-touch", "its first segment beside memfd, mmap, touch")
            .named("first-touch-memfd")
            .beside("memfd", "first-map"),
        Row::alone(
            "idle",
            "idle-nobody",
            Unit::PerSecond,
            "wake-ups of daemon and holder, nobody attached",
            |place, _| wakes(&place.session().processes()),
        )
        .goal(Goal::Most(0.0)),
        Row::program("idle", "life", "asleep", "wake-ups of a process asleep in semop")
            .named("idle-asleep")
            .unit(Unit::PerSecond)
            .through(sleeper)
            .goal(Goal::Most(0.0)),
        Row::alone(
            "idle",
            "idle-attached",
            Unit::PerSecond,
            "wake-ups of daemon and holder, one asleep in semop",
            attached,
        )
        .goal(Goal::Most(0.0)),
    ]
}

/// How often the threads of these processes went to sleep, or were stopped, until now.
fn switches(pids: &[Pid]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} has ended"))?;
        for thread in threads {
            let status = std::fs::read_to_string(thread?.path().join("status"))?;
            let lines = status.lines().filter_map(|l| l.split_once("ctxt_switches:"));
            for (_, count) in lines {
                sum += count.trim().parse::<u64>()?;
            }
        }
    }
    Ok(sum)
}

/// Wake-ups a second.
fn wakes(pids: &[Pid]) -> Result<Vec<f64>> {
    ensure!(!pids.is_empty(), "there is no process to watch");
    let (before, begun) = (switches(pids)?, Instant::now());
    std::thread::sleep(WATCH);
    let woken = switches(pids)?.saturating_sub(before);
    Ok(vec![woken as f64 / begun.elapsed().as_secs_f64()])
}

/// A process that waits in semop; killed when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn new(place: &Place, program: &Program) -> Result<Self> {
        let mut command = place.command(program)?;
        let child = command.arg("once").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut sleeper = Self(child);
        let mut line = String::new();
        let output = sleeper.0.stdout.take().context("no stdout")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "{command:?} said '{line}'");
        // It was ready; soon it sleeps.
        std::thread::sleep(Duration::from_millis(100));
        Ok(sleeper)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleeper(place: &Place, program: &Program, _turn: Turn) -> Result<Vec<f64>> {
    let sleeper = Sleeper::new(place, program)?;
    wakes(&[Pid::from_child(&sleeper.0)])
}

fn attached(place: &Place, _turn: Turn) -> Result<Vec<f64>> {
    let served = place.session().processes();
    let program = Program {
        source: "life",
        code: "asleep".into(),
        arguments: Vec::new(),
        vshmem: true,
        wide: false,
        trapped: false,
        environment: Vec::new(),
    };
    let _sleeper = Sleeper::new(place, &program)?;
    wakes(&served)
}
