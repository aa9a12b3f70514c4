//! The host and its guests with their workers.

use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::look::Peer;
use crate::build;
use crate::guests::{Guests, Host};
use crate::run::run;

/// Guests at a time: one dies, two go on.
pub const PLACES: usize = 3;
/// The place of the host's own processes.
pub const HOST: usize = PLACES;
/// Workers of each place.
const WORKERS: usize = 3;
/// How often a guest starts its agent again.
const AGENTS: u32 = 5;
/// Boots included, on a machine that has more to do.
pub const LIMIT: Duration = Duration::from_secs(150);

/// One place, and which guest has it now.
pub(super) struct Place {
    pub(super) guest: usize,
    agents_killed: u32,
    ended: bool,
}

/// Sums of what the settlings found.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    /// Rounds of the workers.
    pub done: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Those of them that the dead had received.
    pub lost: u64,
    /// How many those can have been.
    pub allowed: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, one: Self) {
        self.done += one.done;
        self.messages += one.messages;
        self.lost += one.lost;
        self.allowed += one.allowed;
    }
}

/// A process of the host, whose lines are read; killed when dropped.
pub(super) struct Ours(Child, BufReader<std::process::ChildStdout>);

impl Ours {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self(child, lines))
    }

    fn expect(&mut self, line: &str) -> Result<Instant> {
        let mut said = String::new();
        self.1.read_line(&mut said)?;
        ensure!(said.trim_end() == line, "the host's says {said:?}, not '{line}'");
        Ok(Instant::now())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // By itself the group goes too: workers have children.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// All of it.
pub struct Field {
    // Dropped in this order: the daemon outlives those it serves.
    pub(super) workers: Option<Ours>,
    holder: Option<Ours>,
    taker: Option<Ours>,
    pub(super) guests: Guests<Arc<Host>>,
    pub(super) places: Vec<Place>,
    booted: usize,
    /// The ivshmem ID of the guest that came last.
    newest: u64,
    totals: Totals,
    pub(super) host: Arc<Host>,
}

impl Field {
    /// Starts a daemon, three guests and their workers.
    pub fn lay_out() -> Result<Self> {
        let config =
            "[daemon]\non_sigterm = \"keep\"\n[[region]]\nname = \"storm\"\nsize = \"64M\"\n";
        let host = Arc::new(Host::configured("storm", config)?);
        for name in ["load", "kexec"] {
            build::compile(&build::programs().join(format!("storm/{name}.c")), host.folder())?;
        }
        let mut field = Self {
            workers: None,
            holder: None,
            taker: None,
            guests: Guests::new(Arc::clone(&host)),
            places: Vec::new(),
            booted: 0,
            newest: 0,
            totals: Totals::default(),
            host,
        };
        field.here(&["make"])?;
        for _ in 0..PLACES {
            let guest = field.boot()?;
            field.places.push(Place { guest, agents_killed: 0, ended: false });
        }
        for place in 0..PLACES {
            field.ready(place)?;
        }
        field.newest = field.peers()?.values().map(|p| p.ivshmem).max().unwrap_or(0);
        for place in 0..=HOST {
            field.work(place)?;
        }
        Ok(field)
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What was settled so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn boot(&mut self) -> Result<usize> {
        self.booted += 1;
        // Every other one with two processors: they die with calls under way on both.
        let smp = if self.booted.is_multiple_of(2) { "2" } else { "1" };
        let name = format!("storm-{}", self.booted);
        let options = ["--smp", smp, "--mem", "256M", "--reboot"];
        self.guests.shell_that_says("booted", &name, &options, None)
    }

    fn ready(&mut self, place: usize) -> Result<()> {
        let guest = self.places[place].guest;
        self.guests.expect(guest, "booted", LIMIT).map(drop)
    }

    /// Steps of the host, to their end.
    fn here(&self, steps: &[&str]) -> Result<String> {
        let outcome = run(self.host.run("load").args(steps), LIMIT)?;
        ensure!(outcome.good(), "{steps:?}: {}\n{}", outcome.end, outcome.stderr);
        Ok(outcome.stdout)
    }

    fn start_here(&self, steps: &[&str]) -> Result<Ours> {
        use std::os::unix::process::CommandExt;
        let mut command = self.host.run("load");
        command.args(steps).process_group(0);
        Ours::start(command)
    }

    /// Starts steps in a guest; its shell has their pid in the variable `name`.
    fn start(&mut self, place: usize, name: &str, steps: &str) -> Result<()> {
        let vshmem = self.host.session().artifacts().vshmem.display().to_string();
        let region = self.host.region().to_owned();
        self.tell(place, &format!("'{vshmem}' run --region {region} -- ./load {steps} & {name}=$!"))
    }

    /// A line for the shell of a place's guest.
    pub fn tell(&mut self, place: usize, line: &str) -> Result<()> {
        self.guests.tell(self.places[place].guest, line)
    }

    fn slots(place: usize) -> impl Iterator<Item = String> {
        (place * WORKERS..(place + 1) * WORKERS).map(|n| n.to_string())
    }

    /// Starts the workers of a place.
    pub fn work(&mut self, place: usize) -> Result<()> {
        let (first, n) = ((place * WORKERS).to_string(), WORKERS.to_string());
        if place == HOST {
            let mut workers = self.start_here(&["work", &first, &n])?;
            workers.expect("working")?;
            self.workers = Some(workers);
            return Ok(());
        }
        self.start(place, "workers", &format!("work {first} {n}"))?;
        self.guests.expect(self.places[place].guest, "working", LIMIT).map(drop)
    }

    /// The token goes to a process of `place`.
    pub fn hold(&mut self, place: usize) -> Result<()> {
        if place == HOST {
            let mut holder = self.start_here(&["hold"])?;
            holder.expect("holding")?;
            self.holder = Some(holder);
            return Ok(());
        }
        self.start(place, "holder", "hold")?;
        self.guests.expect(self.places[place].guest, "holding", LIMIT).map(drop)
    }

    /// A process of `place` sleeps for the token.
    pub fn take(&mut self, place: usize) -> Result<()> {
        if place == HOST {
            self.taker = Some(self.start_here(&["take"])?);
        } else {
            self.start(place, "taker", "take")?;
        }
        self.here(&["asleep"]).map(drop)
    }

    /// When it got it.
    pub fn taken(&mut self, place: usize) -> Result<Instant> {
        if place == HOST {
            let mut taker = self.taker.take().context("no taker")?;
            let when = taker.expect("taken")?;
            // It gives the token back, and only then ends.
            ensure!(taker.0.wait()?.success(), "the taker failed");
            return Ok(when);
        }
        let when = self.guests.expect(self.places[place].guest, "taken", LIMIT)?;
        self.tell(place, "wait $taker; echo \"given $?\"")?;
        self.guests.expect(self.places[place].guest, "given 0", LIMIT)?;
        Ok(when)
    }

    /// As a power failure would.
    pub fn kill(&self, place: usize) {
        self.guests.kill(self.places[place].guest);
    }

    /// Waits until its QEMU has gone.
    pub fn ended(&mut self, place: usize) -> Result<()> {
        if !self.places[place].ended {
            self.guests.expect_end(self.places[place].guest, LIMIT)?;
            self.places[place].ended = true;
        }
        Ok(())
    }

    /// Whether its QEMU is there.
    pub fn is_running(&mut self, place: usize) -> bool {
        self.guests.is_running(self.places[place].guest)
    }

    /// Kills what holds the token on the host.
    pub fn kill_host_holder(&mut self) {
        self.holder = None;
    }

    /// This place, or one whose guest still starts agents.
    pub fn with_agents_left(&self, place: usize) -> Result<usize> {
        let all = (place..PLACES).chain(0..place);
        let mut left = all.filter(|p| self.places[*p].agents_killed < AGENTS);
        left.next().context("every guest has seen its agent die too often")
    }

    /// Both at once; returns when, once another agent serves.
    pub fn kill_agent_and_holder(&mut self, place: usize) -> Result<Instant> {
        self.places[place].agents_killed += 1;
        let line = "agents() { grep -lz '^agent$' /proc/[0-9]*/cmdline 2>/dev/null; }; \
             old=$(agents); kill -9 $(echo $old | cut -d/ -f3) $holder; echo killed; \
             until new=$(agents) && [ \"$new\" != \"$old\" ] && [ -e /run/vshmem/.agent-ready ]; \
             do sleep 0.05; done; echo agent again";
        self.tell(place, line)?;
        let guest = self.places[place].guest;
        let when = self.guests.expect(guest, "killed", LIMIT)?;
        self.guests.expect(guest, "agent again", LIMIT)?;
        Ok(when)
    }

    /// Kills it, and waits until the daemon has another.
    pub fn kill_holder(&self) -> Result<()> {
        let old = self.holder_process()?;
        kill_process(old, Signal::KILL)?;
        let until = Instant::now() + LIMIT;
        while self.holder_process().map_or(true, |new| new == old) {
            ensure!(Instant::now() < until, "the daemon starts no other holder");
            std::thread::sleep(Duration::from_millis(5));
        }
        // It is there; the daemon answers once it has handed everything over.
        self.peers().map(drop)
    }

    /// Boots a guest and kills it after a while: whatever it is doing then.
    pub fn boot_in_vain(&mut self, life: Duration) -> Result<()> {
        let guest = self.boot()?;
        std::thread::sleep(life);
        self.guests.kill(guest);
        self.guests.expect_end(guest, LIMIT).map(drop)
    }

    /// Boots another guest in place of one that has ended or is about to.
    pub fn replace(&mut self, place: usize) -> Result<()> {
        let guest = self.boot()?;
        self.ended(place)?;
        self.places[place] = Place { guest, agents_killed: 0, ended: false };
        self.ready(place)?;
        let id = self.peer(place)?.ivshmem;
        let name = self.guests.name(guest);
        ensure!(id > self.newest, "{name} has the id {id}, and {} was given before", self.newest);
        self.newest = id;
        Ok(())
    }

    /// Waits until a guest that was `before` has booted again in the same machine; when.
    pub fn comes_back(&mut self, place: usize, before: Peer) -> Result<Instant> {
        let guest = self.places[place].guest;
        let when = self.guests.expect(guest, "booted", LIMIT)?;
        self.places[place].agents_killed = 0;
        let now = self.peer(place)?;
        ensure!(now.ivshmem == before.ivshmem, "its device was {before:?}, and is {now:?}");
        ensure!(now != before, "it is still what it was: {now:?}");
        Ok(when)
    }

    /// Loads the kernel for a kexec.
    pub fn load_kernel(&mut self, place: usize) -> Result<()> {
        let guest = self.places[place].guest;
        let line = format!("./kexec /boot/vmlinuz-$(uname -r) '{}'; echo \"loaded $?\"", {
            self.initrd(guest)?
        });
        self.tell(place, &line)?;
        self.guests.expect(guest, "loaded 0", LIMIT).map(drop)
    }

    /// The first root of a guest, which it sees as a file too.
    fn initrd(&self, guest: usize) -> Result<String> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.guests.machine(guest)?))?;
        let mut arguments = line.split(|b| *b == 0).skip_while(|a| *a != b"-initrd");
        let path = arguments.nth(1).context("a QEMU without an initrd")?;
        Ok(String::from_utf8_lossy(path).into_owned())
    }

    /// Stops the workers, checks the accounts with those of `dead` places dead, and lets the
    /// others go on.
    pub fn settle(&mut self, dead: &[usize]) -> Result<String> {
        let slots: Vec<_> = dead.iter().flat_map(|place| Self::slots(*place)).collect();
        let mut steps = vec!["settle"];
        steps.extend(slots.iter().map(String::as_str));
        let said = self.here(&steps)?;
        let accounts: Value = serde_json::from_str(&said)?;
        let of = |name: &str| accounts[name].as_u64().context("an account is missing");
        let living = PLACES + 1 - dead.len();
        ensure!(of("workers")? == (living * WORKERS) as u64, "workers: {said}");
        self.totals += Totals {
            done: of("done")?,
            messages: of("messages")?,
            lost: of("lost")?,
            allowed: of("allowed")?,
        };
        Ok(said.trim_end().to_owned())
    }

    /// Ends everything in order; what is left that should not be.
    pub fn clear_away(mut self) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for place in 0..PLACES {
            self.tell(place, "exit 0")?;
        }
        for place in 0..PLACES {
            let (end, _) = self.guests.expect_end(self.places[place].guest, LIMIT)?;
            ensure!(end == "exit 0", "a guest ended with {end}");
        }
        self.workers = None;
        self.here(&["remove"])?;
        let until = Instant::now() + LIMIT;
        // The lister itself is one.
        while self.listed(&["task"])?.len() > 1 || self.peers()?.len() > 1 {
            if Instant::now() > until {
                broken.push(format!(
                    "left: tasks {:?}, peers {:?}",
                    self.listed(&["task"])?,
                    self.peers()?
                ));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        broken.extend(self.check(HOST)?);
        let Self { guests, host, .. } = self;
        drop(guests);
        match Arc::into_inner(host) {
            Some(host) => host.stop()?,
            None => bail!("somebody else has the host"),
        }
        Ok(broken)
    }
}
