//! An endpoint of the user's own that is killed: nobody restarts it but the next who wants it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;

const LIMIT: Duration = Duration::from_secs(60);

/// The daemon, which is not its holder.
fn endpoint(session: &Session) -> Result<Pid> {
    let is_it = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(10).any(|w| w == b"--embedded")
    };
    session.processes().into_iter().find(is_it).context("no endpoint")
}

fn said(outcome: &Outcome) -> String {
    format!("{}{}\nended with {}", outcome.stdout, outcome.stderr, outcome.end)
}

#[test]
fn a_killed_endpoint_of_the_users_own_is_started_again_and_reaps_who_died_meanwhile() -> Result<()>
{
    let session = Session::new()?;
    for command in [["run", "--", "true"].as_slice(), &["task", "list"], &["ipcs"]] {
        let mut sleeper = session.vshmem();
        sleeper.args(["run", "--", "sleep", "1000"]);
        let mut sleeper = sleeper.stdin(Stdio::null()).spawn()?;
        let tasks = || -> Result<String> {
            let listed = run(session.vshmem().args(["task", "list"]), LIMIT)?;
            ensure!(listed.good(), "{}", said(&listed));
            Ok(listed.stdout)
        };
        let pid = format!(" {} ", sleeper.id());
        let until = Instant::now() + LIMIT;
        // The first one starts the endpoint.
        while !tasks().is_ok_and(|t| t.contains(&pid)) {
            ensure!(Instant::now() < until, "the sleeper is no task");
            std::thread::sleep(Duration::from_millis(10));
        }
        let killed = endpoint(&session)?;
        kill_process(killed, Signal::KILL)?;
        sleeper.kill()?;
        sleeper.wait()?;

        let begun = Instant::now();
        let outcome = run(session.vshmem().args(command), LIMIT)?;
        ensure!(outcome.good(), "{command:?}: {}", said(&outcome));
        // Asking one that was killed would take five seconds.
        ensure!(begun.elapsed() < Duration::from_secs(4), "{command:?}: {:?}", begun.elapsed());
        ensure!(endpoint(&session)? != killed);
        ensure!(!tasks()?.contains(&pid), "{}", tasks()?);
    }
    Ok(())
}
