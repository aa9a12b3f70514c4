//! Deaths and restarts under running tasks.
//!
//! Two guests stay up and do in turn what each test tells their shells; whoever
//! is to die with a whole machine gets one of its own. `programs/demo/steps.c`
//! is what they run. A test that fails takes the guests with it: the next one
//! boots others.

use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use vshmem_tests::guests::{Guests, Host, wait_for};
use vshmem_tests::run::run;

use crate::sharing::what_is_unshared_is_gone_for_other_guests;
use crate::{LIMIT, host, timed};

/// How soon the living go on: deaths are noticed, not polled for, but the
/// machine may be busy and its guests are emulated.
const SOON: Duration = Duration::from_secs(5);

/// A host with two guests.
pub struct Pair {
    // Dropped first: the daemon outlives its guests.
    pub guests: Guests<Arc<Host>>,
    pub host: Arc<Host>,
    pub a: usize,
    pub b: usize,
}

/// Processes of the host; killed when dropped.
pub struct Task(Child);

impl Task {
    /// Waits for its end, which must be a good one.
    pub fn ends_well(mut self, limit: Duration) -> Result<()> {
        let status = wait_for(&mut self.0, limit)?.context("it does not end")?;
        ensure!(status.success(), "a task of the host ended with {status}");
        Ok(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Pair {
    fn boot() -> Result<Self> {
        let host = Arc::new(host()?);
        let mut guests = Guests::new(Arc::clone(&host));
        let (a, b) = (guests.shell("a")?, guests.shell("b")?);
        let mut pair = Self { guests, host, a, b };
        for guest in [a, b] {
            pair.ready(guest)?;
        }
        Ok(pair)
    }

    /// One more guest, for a test of its own.
    pub fn another(&mut self, name: &str) -> Result<usize> {
        let guest = self.guests.shell(name)?;
        self.ready(guest)?;
        Ok(guest)
    }

    pub fn ready(&mut self, guest: usize) -> Result<()> {
        self.guests.tell(guest, "echo ready")?;
        self.guests.expect(guest, "ready", LIMIT).map(drop)
    }

    /// Starts steps in a guest. Its shell has their pid in `$task`.
    pub fn start(&mut self, guest: usize, steps: &str) -> Result<()> {
        let vshmem = self.host.session().artifacts().vshmem.display();
        let region = self.host.region();
        let line = format!("'{vshmem}' run --region {region} -- ./steps {steps} & task=$!");
        self.guests.tell(guest, &line)
    }

    pub fn says(&mut self, guest: usize, line: &str) -> Result<Instant> {
        self.guests.expect(guest, line, LIMIT)
    }

    /// Does steps on the host, to their end.
    pub fn here(&self, steps: &str) -> Result<Instant> {
        let mut command = self.host.run("steps");
        let outcome = run(command.args(steps.split(' ')), LIMIT)?;
        ensure!(outcome.good(), "{steps}, here: {}\n{}", outcome.end, outcome.stderr);
        Ok(Instant::now())
    }

    /// Starts steps on the host.
    pub fn task_here(&self, steps: &str) -> Result<Task> {
        let mut command = self.host.run("steps");
        command.args(steps.split(' ')).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Task(command.spawn().context("vshmem run")?))
    }

    /// The peers that live, as the host sees them.
    fn peers(&self) -> Result<Vec<(String, u64)>> {
        let mut command = self.host.session().vshmem();
        command.args(["peer", "list", "--json", "--region", self.host.region()]);
        let outcome = run(&mut command, LIMIT)?;
        ensure!(outcome.good(), "peer list: {}", outcome.stderr);
        let listed: Vec<serde_json::Value> = serde_json::from_str(&outcome.stdout)?;
        let live = listed.iter().filter(|p| p["state"] == "live");
        let live = live.map(|p| {
            let name = p["name"].as_str().unwrap_or_default().to_owned();
            (name, p["incarnation"].as_u64().unwrap_or(0))
        });
        Ok(live.collect())
    }
}

/// Since when, in words.
pub fn after(what: &str, since: Instant, now: Instant) -> Result<()> {
    let took = now.saturating_duration_since(since);
    eprintln!("  {what} after {:.0} ms", took.as_secs_f64() * 1e3);
    ensure!(took < SOON, "{what} only after {took:?}");
    Ok(())
}

fn a_killed_daemon_comes_back_under_running_guests(pair: &mut Pair) -> Result<()> {
    let (a, b) = (pair.a, pair.b);
    pair.here("A make add=2")?;
    pair.start(a, "A find take=0 say=first take=1 say=second")?;
    let held = pair.task_here("A find hold=2 attach pause")?;
    pair.here("A find waiters=0:1 value=2:0 attached=1")?;
    let before = pair.peers()?;
    ensure!(before.len() == 3, "peers: {before:?}");

    pair.host.kill_daemon();
    // Nothing that they do needs it.
    pair.start(b, "A find add=0 say=added")?;
    // ... except attaching, which the guest's own agent does.
    pair.says(b, "added")?;
    pair.says(a, "first")?;
    let restarting = Instant::now();
    pair.host.restart_daemon()?;
    after("the daemon serves again", restarting, Instant::now())?;

    let now = pair.peers()?;
    ensure!(before == now, "peers were {before:?}, and are {now:?}");
    pair.here("A find waiters=1:1")?;
    pair.start(b, "A find add=1")?;
    pair.says(a, "second")?;
    // A task of before is watched by the new daemon.
    let killing = Instant::now();
    drop(held);
    after("a task of before is reaped", killing, pair.here("A find take=2 attached=0")?)?;
    // New ones get in.
    let late = pair.another("late")?;
    pair.start(late, "A find say=found")?;
    pair.says(late, "found")?;
    ensure!(pair.peers()?.len() == 4, "peers: {:?}", pair.peers()?);
    pair.guests.tell(late, "exit 7")?;
    let (end, _) = pair.guests.expect_end(late, LIMIT)?;
    ensure!(end == "exit 7", "the late guest ended with {end}");
    pair.here("A remove").map(drop)
}

/// Kills the agent of a guest and waits for the next one.
const KILL_AGENT: &str = "agents() { grep -lz '^agent$' /proc/[0-9]*/cmdline 2>/dev/null; }; \
     old=$(agents); kill -9 $(echo $old | cut -d/ -f3); \
     until new=$(agents) && [ \"$new\" != \"$old\" ] && [ -e /run/vshmem/.agent-ready ]; do :; done; \
     echo agent again";

fn a_killed_agent_comes_back_under_a_running_task(pair: &mut Pair) -> Result<()> {
    let (a, b) = (pair.a, pair.b);
    pair.here("B make add=0 add=0")?;
    pair.start(a, "B find hold=0 attach say=holding take=1 hold=0 say=goes-on pause")?;
    pair.says(a, "holding")?;
    pair.here("B find waiters=1:1 attached=1")?;
    let before = pair.peers()?;

    let killing = Instant::now();
    pair.guests.tell(a, KILL_AGENT)?;
    after("an agent serves again", killing, pair.says(a, "agent again")?)?;
    ensure!(pair.peers()? == before, "peers were {before:?}, and are {:?}", pair.peers()?);
    // The task was asleep all the while, and is woken.
    pair.start(b, "B find add=1")?;
    pair.says(a, "goes-on")?;
    pair.here("B find value=0:0 attached=1")?;
    // Its guest's new agent notices its death.
    pair.start(b, "B find take=0 take=0 say=taken")?;
    pair.here("B find waiters=0:1")?;
    pair.guests.tell(a, "kill -9 $task; echo killed")?;
    let killed = pair.says(a, "killed")?;
    after("a task of before is reaped", killed, pair.says(b, "taken")?)?;
    pair.here("B find attached=0 remove").map(drop)
}

/// Whether what a guest held is free soon after `end` was told to its shell.
fn released(pair: &mut Pair, guest: usize, scene: char, end: &str) -> Result<()> {
    let b = pair.b;
    pair.here(&format!("{scene} make add=0"))?;
    pair.start(guest, &format!("{scene} find hold=0 attach say=holding pause"))?;
    pair.says(guest, "holding")?;
    pair.start(b, &format!("{scene} find take=0 say=taken attached=0 say=detached"))?;
    pair.here(&format!("{scene} find waiters=0:1 attached=1"))?;
    let ending = Instant::now();
    pair.guests.tell(guest, end)?;
    after("the semaphore is free", ending, pair.says(b, "taken")?)?;
    after("the attachment is gone", ending, pair.says(b, "detached")?)?;
    pair.here(&format!("{scene} remove")).map(drop)
}

fn a_kernel_that_panics_lets_go_at_once(pair: &mut Pair) -> Result<()> {
    let guest = pair.another("panics")?;
    // It stays in its panic: the module tells the host, not QEMU's end.
    released(pair, guest, 'C', "echo 300 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger")?;
    ensure!(pair.guests.is_running(guest), "QEMU has ended: nothing was shown");
    pair.guests.kill(guest);
    pair.guests.expect_end(guest, LIMIT).map(drop)
}

fn a_guest_that_reboots_lets_go_at_once(pair: &mut Pair) -> Result<()> {
    let guest = pair.another("reboots")?;
    released(pair, guest, 'D', "echo b >/proc/sysrq-trigger")?;
    let (end, _) = pair.guests.expect_end(guest, LIMIT)?;
    ensure!(end != "exit 0", "a guest that was cut off ended with {end}");
    Ok(())
}

/// Its processes run on while its devices shut down: what is free then is not theirs any more.
fn a_guest_that_reboots_writes_nothing_after_its_death(pair: &mut Pair) -> Result<()> {
    let guest =
        pair.guests.shell_that_says("booted", "counts", &["--smp", "2", "--reboot"], None)?;
    pair.says(guest, "booted")?;
    pair.here("J make add=0")?;
    pair.start(guest, "J find hold=0 say=holding count")?;
    pair.says(guest, "holding")?;
    let watcher = pair.task_here("J find post=0 take=0 still")?;
    pair.here("J find waiters=0:1")?;
    pair.guests.tell(guest, "busybox reboot -f")?;
    watcher.ends_well(LIMIT)?;
    // The same machine, another boot.
    pair.says(guest, "booted")?;
    pair.start(guest, "J find add=0 say=back")?;
    pair.says(guest, "back")?;
    pair.guests.tell(guest, "exit 0")?;
    let (end, _) = pair.guests.expect_end(guest, LIMIT)?;
    ensure!(end == "exit 0", "it ended with {end}");
    pair.here("J remove").map(drop)
}

fn a_guest_killed_while_it_waits_is_passed_over(pair: &mut Pair) -> Result<()> {
    let (a, b) = (pair.a, pair.b);
    let victim = pair.another("victim")?;
    pair.here("E make")?;
    // First in the queue, and at another semaphore and the queue of messages.
    pair.start(victim, "E find take=0")?;
    pair.start(victim, "E find take=1")?;
    pair.start(victim, "E find receive=1")?;
    pair.here("E find waiters=0:1 waiters=1:1")?;
    pair.start(a, "E find take=0 say=taken receive=1 say=received")?;
    pair.start(b, "E find take=1 say=taken")?;
    pair.here("E find waiters=0:2 waiters=1:2")?;
    let killing = Instant::now();
    pair.guests.kill(victim);
    pair.guests.expect_end(victim, LIMIT)?;
    after("its places are given up", killing, pair.here("E find waiters=0:1 waiters=1:1")?)?;
    // One each: what the dead took would be missing.
    pair.here("E find add=0 add=1")?;
    pair.says(a, "taken")?;
    pair.says(b, "taken")?;
    pair.here("E find send=1")?;
    pair.says(a, "received")?;
    pair.here("E find value=0:0 value=1:0 remove").map(drop)
}

fn a_process_killed_in_a_guest_lets_go_at_once(pair: &mut Pair) -> Result<()> {
    let a = pair.a;
    released(pair, a, 'F', "kill -9 $task")
}

fn a_guest_killed_asleep_on_a_sem_t_leaves_its_wake_to_the_next(pair: &mut Pair) -> Result<()> {
    let (a, b) = (pair.a, pair.b);
    let victim = pair.another("sleeper")?;
    pair.here("H make")?;
    pair.start(victim, "H find wait=0 say=woken")?;
    pair.here("H find asleep=0:1")?;
    pair.start(a, "H find wait=0 say=taken")?;
    pair.start(b, "H find wait=0 say=taken")?;
    pair.here("H find asleep=0:3")?;
    let killing = Instant::now();
    pair.guests.kill(victim);
    // The victim is first in the queue, dead or not yet known to be: both others get one.
    pair.here("H find post=0 post=0")?;
    after("one goes on", killing, pair.says(a, "taken")?)?;
    after("so does the other", killing, pair.says(b, "taken")?)?;
    pair.guests.expect_end(victim, LIMIT)?;
    pair.here("H remove").map(drop)
}

fn a_robust_mutex_of_a_killed_guest_goes_to_the_next(pair: &mut Pair) -> Result<()> {
    let (a, b) = (pair.a, pair.b);
    let owner = pair.another("owner")?;
    pair.here("I make")?;
    pair.start(owner, "I find lock say=locked pause")?;
    pair.says(owner, "locked")?;
    pair.start(a, "I find lock unlock post=0 say=unlocked wait=1")?;
    let killing = Instant::now();
    pair.guests.kill(owner);
    after("the next owner is told", killing, pair.says(a, "owner died")?)?;
    pair.says(a, "unlocked")?;
    // Whole again; and of a process that is killed in a living guest.
    pair.start(b, "I find wait=0 lock say=locked pause")?;
    pair.says(b, "locked")?;
    let waiting = pair.task_here("I find lock unlock post=1 pause")?;
    pair.guests.tell(b, "kill -9 $task; echo killed")?;
    let killed = pair.says(b, "killed")?;
    pair.here("I find lock unlock")?;
    after("the mutex is free", killed, Instant::now())?;
    drop(waiting);
    pair.guests.expect_end(owner, LIMIT)?;
    pair.here("I find post=1 remove").map(drop)
}

/// Runs a command in a guest that must fail, and say these on one line.
pub fn complains(pair: &mut Pair, arguments: &str, parts: &[&str]) -> Result<()> {
    let a = pair.a;
    let vshmem = pair.host.session().artifacts().vshmem.display().to_string();
    let line = format!("'{vshmem}' {arguments} 2>&1 >/dev/null; echo \"exit $?\"");
    pair.guests.tell(a, &line)?;
    let said = pair.guests.expect_line(a, LIMIT)?;
    pair.says(a, "exit 1")?;
    for part in parts {
        ensure!(said.contains(part), "{arguments}: no '{part}' in: {said}");
    }
    Ok(())
}

fn bad_input_in_a_guest_is_named(pair: &mut Pair) -> Result<()> {
    let region = pair.host.region().to_owned();
    complains(pair, &format!("agent --region {region}"), &["region", &region, "another agent"])?;
    complains(
        pair,
        "agent --region nowhere",
        &[
            "region nowhere",
            "no device of this guest has it",
            "there are: test",
            "correct --region",
        ],
    )?;
    complains(
        pair,
        "run --region nowhere -- true",
        &["region nowhere", "no such socket", "`vshmem agent`"],
    )?;
    // Nothing of it has hurt the agent.
    let a = pair.a;
    pair.start(a, "G make remove say=well")?;
    pair.says(a, "well").map(drop)
}

/// Where the tests find their guests.
#[derive(Default, Clone)]
pub struct Stage(Arc<Mutex<Option<Pair>>>);

impl Stage {
    /// The tests; they share the guests that the first one boots.
    pub fn trials(&self) -> Vec<Trial> {
        macro_rules! trials {
            ($($name:ident),* $(,)?) => {
                vec![$(self.trial(stringify!($name), $name)),*]
            };
        }
        trials![
            bad_input_in_a_guest_is_named,
            what_is_unshared_is_gone_for_other_guests,
            a_process_killed_in_a_guest_lets_go_at_once,
            a_killed_agent_comes_back_under_a_running_task,
            a_killed_daemon_comes_back_under_running_guests,
            a_guest_killed_while_it_waits_is_passed_over,
            a_guest_killed_asleep_on_a_sem_t_leaves_its_wake_to_the_next,
            a_robust_mutex_of_a_killed_guest_goes_to_the_next,
            a_kernel_that_panics_lets_go_at_once,
            a_guest_that_reboots_lets_go_at_once,
            a_guest_that_reboots_writes_nothing_after_its_death,
        ]
    }

    /// One test.
    pub fn trial(&self, name: &str, test: fn(&mut Pair) -> Result<()>) -> Trial {
        let stage = self.clone();
        Trial::test(name, move || timed(|| stage.play(test)))
    }

    fn play(&self, test: fn(&mut Pair) -> Result<()>) -> Result<()> {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pair = match stage.take() {
            Some(pair) => pair,
            None => Pair::boot()?,
        };
        test(&mut pair)?;
        *stage = Some(pair);
        Ok(())
    }

    /// Ends the guests as a user would, then the daemon; nothing may be left.
    pub fn end(&self) -> Result<()> {
        let pair = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Pair { mut guests, host, a, b }) = pair else { return Ok(()) };
        for guest in [a, b] {
            guests.tell(guest, "exit 0")?;
            let (end, _) = guests.expect_end(guest, LIMIT)?;
            ensure!(end == "exit 0", "{} ended with {end}", guests.name(guest));
        }
        drop(guests);
        Arc::into_inner(host).context("somebody else has the host")?.stop()
    }
}
