//! A guest that is paused is not dead; `vshmem peer fence` says that it is.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};
use vshmem_tests::run::{Outcome, run};

use crate::LIMIT;
use crate::deaths::{Pair, Stage, after, complains};

/// As long as a guest stays paused before anybody looks: an endpoint looks at the dead every second.
const WHILE: Duration = Duration::from_millis(2500);

fn fence(pair: &Pair, arguments: &[&str]) -> Result<Outcome> {
    let mut command = pair.host.session().vshmem();
    command.args(["peer", "fence", "--region", pair.host.region()]).args(arguments);
    run(&mut command, LIMIT)
}

fn fenced(pair: &Pair, arguments: &[&str], told: &str) -> Result<()> {
    let outcome = fence(pair, arguments)?;
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(outcome.good() && said.contains(told), "{}: no '{told}' in {said}", outcome.end);
    Ok(())
}

/// State of the peers of that name.
fn states(pair: &Pair, name: &str) -> Result<Vec<String>> {
    let mut command = pair.host.session().vshmem();
    command.args(["peer", "list", "--json", "--region", pair.host.region()]);
    let outcome = run(&mut command, LIMIT)?;
    ensure!(outcome.good(), "peer list: {}", outcome.stderr);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&outcome.stdout)?;
    let its = listed.iter().filter(|p| p["name"] == name);
    Ok(its.filter_map(|p| Some(p["state"].as_str()?.to_owned())).collect())
}

/// The monitor of a QEMU that was started with [`WITH_MONITOR`].
struct Monitor(BufReader<UnixStream>);

const WITH_MONITOR: &str =
    "#!/bin/sh\nexec qemu-system-x86_64 \"$@\" -qmp unix:SOCKET,server=on,wait=off\n";

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("no monitor")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut this = Self(BufReader::new(stream));
        this.0.read_line(&mut String::new())?;
        this.ask("qmp_capabilities")?;
        Ok(this)
    }

    fn ask(&mut self, what: &str) -> Result<()> {
        writeln!(self.0.get_mut(), "{{\"execute\": \"{what}\"}}")?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the monitor has ended");
            ensure!(!line.contains("\"error\""), "{what}: {line}");
            if line.contains("\"return\"") {
                return Ok(());
            }
        }
    }
}

fn a_paused_guest_keeps_what_it_holds_until_it_is_fenced(pair: &mut Pair) -> Result<()> {
    let b = pair.b;
    let paused = pair.another("paused")?;
    pair.here("K make add=0")?;
    pair.start(paused, "K find hold=0 attach say=holding pause")?;
    pair.says(paused, "holding")?;
    // First in the queues.
    pair.start(paused, "K find take=1")?;
    pair.start(paused, "K find receive=1")?;
    pair.here("K find waiters=1:1")?;
    pair.start(b, "K find take=0 say=taken")?;
    pair.here("K find waiters=0:1 attached=1")?;
    kill_process(pair.guests.machine(paused)?, Signal::STOP)?;
    std::thread::sleep(WHILE);
    // Paused is not dead.
    pair.here("K find waiters=0:1 waiters=1:1 attached=1")?;
    ensure!(states(pair, "paused")? == ["live"], "{:?}", states(pair, "paused")?);

    let fencing = Instant::now();
    fenced(pair, &["paused"], "was killed")?;
    after("the command is done", fencing, Instant::now())?;
    after("the semaphore is free", fencing, pair.says(b, "taken")?)?;
    after("its places are given up", fencing, pair.here("K find waiters=1:0 attached=0")?)?;
    pair.guests.expect_end(paused, LIMIT)?;
    ensure!(states(pair, "paused")?.is_empty(), "{:?}", states(pair, "paused")?);
    // Nobody takes what is sent.
    pair.here("K find add=1 value=1:1 send=1 receive=1")?;
    // Again, which is no error; and what is one.
    fenced(pair, &["paused"], "is gone already")?;
    for (who, why) in [("0", "the host itself"), ("63", "there is no peer 63"), ("x", "no peer x")]
    {
        let outcome = fence(pair, &[who])?;
        ensure!(outcome.end == "exit 1" && outcome.stderr.contains(why), "{}", outcome.stderr);
    }
    complains(pair, "peer fence --region test b", &["cannot fence b", "on the host"])?;
    pair.here("K remove").map(drop)
}

/// Everything a program can be at when its guest is paused; and then the guest goes on.
fn a_guest_fenced_alive_comes_back_shut_out(pair: &mut Pair) -> Result<()> {
    let b = pair.b;
    let folder = tempfile::tempdir()?;
    let (qemu, socket) = (folder.path().join("qemu"), folder.path().join("monitor"));
    std::fs::write(&qemu, WITH_MONITOR.replace("SOCKET", &socket.display().to_string()))?;
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755))?;
    let guest = pair.guests.shell_on("frozen", Some(&qemu))?;
    pair.ready(guest)?;
    let mut monitor = Monitor::connect(&socket)?;

    pair.here("L make add=0")?;
    pair.start(guest, "L find hold=0 attach say=holding dismissed=1 say=woken shut say=shut")?;
    pair.says(guest, "holding")?;
    pair.start(guest, "L find busy=2 say=interrupted shut say=out-too")?;
    // Both at it: one that is still looking for the set when its guest stops never finds it.
    pair.here("L find waiters=1:1 attached=1 value=2:1")?;
    pair.start(b, "L find take=0 say=taken")?;
    pair.here("L find waiters=0:1")?;
    monitor.ask("stop")?;
    std::thread::sleep(WHILE);
    pair.here("L find waiters=0:1 waiters=1:1 attached=1")?;

    let fencing = Instant::now();
    fenced(pair, &["--no-kill", "frozen"], "not killed")?;
    after("the semaphore is free", fencing, pair.says(b, "taken")?)?;
    after("the rest is", fencing, pair.here("L find waiters=1:0 attached=0")?)?;
    fenced(pair, &["--no-kill", "frozen"], "is fenced")?;
    ensure!(states(pair, "frozen")? == ["fenced"], "{:?}", states(pair, "frozen")?);
    // Whatever it was at: from now on these are the host's. A second daemon knows it too.
    pair.host.kill_daemon();
    pair.host.restart_daemon()?;
    pair.here("L find drain=2 add=1 value=1:1 value=2:0 value=0:0")?;

    let continuing = Instant::now();
    monitor.ask("cont")?;
    // In whichever order they come to run.
    for said in ["woken", "shut", "interrupted", "out-too"] {
        after(said, continuing, pair.says(guest, said)?)?;
    }
    pair.here("L find value=0:0 value=1:1 value=2:0 attached=0")?;
    // What is started now takes part, and is woken.
    pair.start(guest, "L find take=1 say=again take=2 say=and-again")?;
    pair.says(guest, "again")?;
    pair.here("L find waiters=2:1 add=2")?;
    pair.says(guest, "and-again")?;
    ensure!(states(pair, "frozen")? == ["fenced", "live"], "{:?}", states(pair, "frozen")?);
    pair.guests.tell(guest, "exit 7")?;
    let (end, ended) = pair.guests.expect_end(guest, LIMIT)?;
    ensure!(end == "exit 7", "it ended with {end}");
    while !states(pair, "frozen")?.is_empty() {
        after("its places are free", ended, Instant::now())?;
    }
    pair.here("L remove").map(drop)
}

/// The tests; they share the guests of `stage`.
pub fn trials(stage: &Stage) -> Vec<Trial> {
    macro_rules! trials {
        ($($name:ident),* $(,)?) => {
            vec![$(stage.trial(stringify!($name), $name)),*]
        };
    }
    trials![
        a_paused_guest_keeps_what_it_holds_until_it_is_fenced,
        a_guest_fenced_alive_comes_back_shut_out,
    ]
}
