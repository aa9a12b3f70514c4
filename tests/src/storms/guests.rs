//! Whole guests die under load, and so do the agent and the daemon.
//!
//! Three guests and the host work on the same objects (`programs/storm/load.c`). In each round
//! one of them holds a token with SEM_UNDO when its end comes, and somebody elsewhere sleeps for
//! it; then the accounts are settled, and another guest takes the dead one's place.

mod field;
mod look;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Plan, Report, Storm};
use crate::rng::Rng;
use field::{Field, HOST, PLACES};

/// For the table of [`super::STORMS`].
pub const STORM: Storm = Storm {
    name: "guests",
    about: "Guests that are killed, panic, reboot, start another kernel, power off or leave under \
            load on shared sets, queues and segments; agents, daemons and holders killed beneath \
            them.",
    full: 100,
    short: 3,
    guests: true,
    run,
};

/// A second, and what the kernel needs to report a VMM's death: 70 ms for each GiB in small
/// pages. The rest is for a machine that has more to do than processors.
const SOON: Duration = Duration::from_secs(5);

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// QEMU is killed.
    Killed,
    /// So are two at once.
    TwoKilled,
    /// The guest's kernel panics, and stays there.
    PanicStays,
    /// As by a power button that is held.
    PowerOff,
    /// The guest's command ends.
    Leaves,
    /// It panics, and boots again in the same machine.
    Panic,
    /// The same without a panic: in order, as far as a kernel does that by itself.
    Reboot,
    /// Another kernel starts in its place.
    Kexec,
    /// The machine is reset without a word to anybody: only the next boot can tell.
    Reset,
    /// The guest's agent is killed, and a task before the next one is there.
    Agent,
    /// The daemon is killed, and a task of the host before the next one is there.
    Daemon,
    /// The daemon is stopped as a service manager does it, and a task of the host killed.
    DaemonStops,
    /// The daemon is killed, and a guest before the next one is there.
    DaemonAndGuest,
    /// The daemon is killed, and a guest reboots before the next one is there.
    DaemonAndReboot,
    /// The holder is killed, then the daemon, then a guest.
    HolderAndGuest,
}

impl End {
    const ALL: [Self; 15] = [
        Self::Killed,
        Self::TwoKilled,
        Self::PanicStays,
        Self::PowerOff,
        Self::Leaves,
        Self::Panic,
        Self::Reboot,
        Self::Kexec,
        Self::Reset,
        Self::Agent,
        Self::Daemon,
        Self::DaemonStops,
        Self::DaemonAndGuest,
        Self::DaemonAndReboot,
        Self::HolderAndGuest,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Killed => "QEMU killed",
            Self::TwoKilled => "two QEMUs killed",
            Self::PanicStays => "panic, and stays",
            Self::PowerOff => "power off",
            Self::Leaves => "leaves",
            Self::Panic => "panic, and boots again",
            Self::Reboot => "reboot",
            Self::Kexec => "kexec",
            Self::Reset => "reset, until it has booted again",
            Self::Agent => "agent and a task killed",
            Self::Daemon => "vshmemd and a task killed",
            Self::DaemonStops => "vshmemd stopped in order, and a task killed",
            Self::DaemonAndGuest => "vshmemd and a guest killed",
            Self::DaemonAndReboot => "vshmemd killed, and a guest reboots",
            Self::HolderAndGuest => "holder, vshmemd and a guest killed",
        }
    }

    /// Whether the daemon ends as well.
    const fn takes_daemon(self) -> bool {
        matches!(self, Self::DaemonAndGuest | Self::DaemonAndReboot | Self::HolderAndGuest)
            || self.is_ours()
    }

    /// Whether what dies with the daemon is a process of the host.
    const fn is_ours(self) -> bool {
        matches!(self, Self::Daemon | Self::DaemonStops)
    }

    /// Whether the machine is there afterwards, with another boot.
    const fn comes_back(self) -> bool {
        matches!(
            self,
            Self::Panic | Self::Reboot | Self::Kexec | Self::Reset | Self::DaemonAndReboot
        )
    }

    /// Does it to the guest at `victim`.
    fn befall(self, field: &mut Field, victim: usize) -> Result<()> {
        let told = match self {
            Self::Killed | Self::DaemonAndGuest | Self::HolderAndGuest => {
                field.kill(victim);
                return Ok(());
            }
            Self::PanicStays => "echo 300 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger",
            Self::PowerOff => "busybox poweroff -f",
            Self::Leaves => "exit 0",
            Self::Panic => "echo c >/proc/sysrq-trigger",
            Self::Reboot | Self::DaemonAndReboot => "busybox reboot -f",
            Self::Kexec => "./kexec",
            Self::Reset => "echo b >/proc/sysrq-trigger",
            Self::TwoKilled => {
                field.kill(victim);
                field.kill((victim + 1) % PLACES);
                return Ok(());
            }
            Self::Agent | Self::Daemon | Self::DaemonStops => {
                bail!("{} befalls no guest", self.name())
            }
        };
        field.tell(victim, told)
    }
}

fn run(plan: &Plan) -> Result<Report> {
    let mut rng = Rng::new(plan.seed);
    let mut report = Report::default();
    let mut waits: Vec<(End, Duration)> = Vec::new();
    let started = Instant::now();
    let mut field = Field::lay_out()?;
    let boot = started.elapsed();
    eprintln!("  three guests work after {:.1} s", boot.as_secs_f64());
    // One that has taken over holds a little less than the one that began.
    field.host().kill_daemon();
    field.host().restart_daemon()?;
    let before = field.census()?;
    let mut ends = Vec::new();
    for round in 0..plan.rounds {
        // Each as often as any other, in an order of its own.
        if ends.is_empty() {
            ends = End::ALL.to_vec();
        }
        let end = ends.swap_remove(rng.below(ends.len()));
        let (took, accounts) = strike(&mut field, &mut rng, boot, end).map_err(|e| {
            let log = field.host().log_tail();
            e.context(format!("{log}\nround {round}: {}", end.name()))
        })?;
        eprintln!("  {round}: {}: {:.0} ms; {accounts}", end.name(), took.as_secs_f64() * 1e3);
        report.promise(took < SOON || end == End::Reset, || {
            format!("round {round}, {}: the others went on only after {took:?}", end.name())
        });
        waits.push((end, took));
        if let Some(found) = field.check(HOST)? {
            report.promise(false, || format!("after round {round}, {}: {found}", end.name()));
        }
    }
    let after = field.census()?;
    // In a guest, and while everybody works.
    let found = field.check(rng.below(PLACES))?;
    report.promise(found.is_none(), || found.unwrap_or_default());
    report.promise(after == before, || format!("counted {before:?} before, {after:?} after"));
    let totals = field.totals();
    for broken in field.clear_away()? {
        report.promise(false, || broken);
    }
    report.row("calls of the workers", totals.done);
    report.row("messages", totals.messages);
    report.row("messages lost in the hands of the dead, of so many allowed", {
        format!("{} of {}", totals.lost, totals.allowed)
    });
    report.row("counted before and after (of vshmemd and its holder)", before.words());
    report.row("until another one went on", "median / 99 % / worst, ms");
    for end in End::ALL {
        let mut of: Vec<_> = waits.iter().filter(|w| w.0 == end).map(|w| w.1).collect();
        if !of.is_empty() {
            report.row(format!("{}, {} times", end.name(), of.len()), quantiles(&mut of));
        }
    }
    let mut all: Vec<_> = waits.iter().filter(|w| w.0 != End::Reset).map(|w| w.1).collect();
    if !all.is_empty() {
        report.row("all but resets", quantiles(&mut all));
    }
    Ok(report)
}

fn quantiles(of: &mut [Duration]) -> String {
    of.sort();
    let at = |percent: usize| of[(of.len() * percent / 100).min(of.len() - 1)].as_secs_f64() * 1e3;
    format!("{:.0} / {:.0} / {:.0}", at(50), at(99), at(100))
}

/// One end, and how long another one waited; the accounts are settled, and the field is full again.
fn strike(
    field: &mut Field,
    rng: &mut Rng,
    boot: Duration,
    end: End,
) -> Result<(Duration, String)> {
    let mut victim = rng.below(PLACES);
    if end == End::Agent {
        // The guest's first process starts its agent so many times.
        victim = field.with_agents_left(victim)?;
    }
    let before = field.peer(victim)?;
    let holder = if end.is_ours() { HOST } else { victim };
    let mut dying = vec![victim];
    if end == End::TwoKilled {
        dying.push((victim + 1) % PLACES);
    }
    let others = (0..=HOST).filter(|place| *place != holder && !dying[1..].contains(place));
    let others: Vec<_> = others.collect();
    let taker = *rng.one(&others);
    field.hold(holder)?;
    field.take(taker)?;
    // Anywhere in what the workers do.
    std::thread::sleep(Duration::from_micros(rng.below(200_000) as u64));

    match end {
        End::HolderAndGuest => field.kill_holder()?,
        End::Kexec => field.load_kernel(victim)?,
        _ => {}
    }
    let mut since = Instant::now();
    if end.takes_daemon() {
        match end {
            End::DaemonStops => field.host().stop_daemon()?,
            _ => field.host().kill_daemon(),
        }
        if end.is_ours() {
            field.kill_host_holder();
        } else {
            end.befall(field, victim)?;
        }
        std::thread::sleep(Duration::from_micros(rng.below(2_000_000) as u64));
        // Until then nobody can know.
        since = Instant::now();
        field.host().restart_daemon()?;
    } else if end == End::Agent {
        since = field.kill_agent_and_holder(victim)?;
    } else {
        end.befall(field, victim)?;
    }
    let taken = field.taken(taker)?;
    let took = taken.saturating_duration_since(since);
    if end == End::Agent || end.is_ours() {
        let accounts = field.settle(&[])?;
        return Ok((took, accounts));
    }
    if end.comes_back() {
        field.comes_back(victim, before)?;
    } else {
        if end == End::PanicStays {
            ensure!(field.is_running(victim), "QEMU has ended: the panic was not seen");
            field.kill(victim);
        }
        if rng.percent(33) {
            // Anywhere in its boot, with luck as its agent enters.
            field.boot_in_vain(boot.mul_f64(rng.below(700) as f64 / 1e3))?;
        }
        for place in &dying {
            field.replace(*place)?;
        }
    }
    let accounts = field.settle(&dying)?;
    for place in dying {
        field.work(place)?;
    }
    Ok((took, accounts))
}
