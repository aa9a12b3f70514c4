//! What can be seen of the field from outside: peers, tasks, descriptors, and what the checker says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use serde_json::Value;

use super::field::{Field, HOST, LIMIT};
use crate::run::run;
use crate::session::describe;

/// A guest as its peers know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    index: u64,
    /// Its device's.
    pub ivshmem: u64,
    incarnation: u64,
}

/// What is counted before and after: nothing of it may grow.
#[derive(Debug, PartialEq, Eq)]
pub struct Census {
    daemon: Descriptors,
    holder: Descriptors,
    peers: usize,
    tasks: usize,
}

impl Census {
    /// In short.
    pub fn words(&self) -> String {
        let sum = |of: &Descriptors| of.values().sum::<usize>();
        let (daemon, holder) = (sum(&self.daemon), sum(&self.holder));
        let Self { peers, tasks, .. } = self;
        format!("{peers} peers, {tasks} tasks, {daemon} and {holder} descriptors")
    }
}

/// How many of each kind a process has open.
type Descriptors = BTreeMap<String, usize>;

fn descriptors(pid: Pid) -> Result<Descriptors> {
    let mut found = Descriptors::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // Closed since it was listed.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        // socket:[NUMBER]
        let kind = target.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
        *found.entry(kind.to_owned()).or_default() += 1;
    }
    Ok(found)
}

impl Field {
    /// The process that keeps what the daemon has, and its pid.
    pub fn holder_process(&self) -> Result<Pid> {
        let all = self.host.session().processes();
        let mut found = all.into_iter().filter(|p| describe(*p).contains(" --holder "));
        let one = found.next().context("no holder runs")?;
        ensure!(found.next().is_none(), "there are two holders");
        Ok(one)
    }

    /// A place's guest, as its peers know it.
    pub fn peer(&self, place: usize) -> Result<Peer> {
        let name = self.guests.name(self.places[place].guest);
        let peers = self.peers()?;
        peers.get(name).copied().with_context(|| format!("{name} is no peer: {peers:?}"))
    }

    pub fn listed(&self, what: &[&str]) -> Result<Vec<Value>> {
        let mut command = self.host.session().vshmem();
        command.args(what).args(["list", "--json", "--region", self.host.region()]);
        let outcome = run(&mut command, LIMIT)?;
        ensure!(outcome.good(), "{what:?}: {}", outcome.stderr);
        Ok(serde_json::from_str(&outcome.stdout)?)
    }

    /// The peers that live.
    pub fn peers(&self) -> Result<BTreeMap<String, Peer>> {
        let mut live = BTreeMap::new();
        for peer in self.listed(&["peer"])? {
            let name = peer["name"].as_str().unwrap_or_default();
            ensure!(peer["state"] == "live", "peer {name} is {}", peer["state"]);
            let number = |field: &str| peer[field].as_u64().context("a field is missing");
            let index = number("index")?;
            let one = Peer {
                // The host's is not one of those that are given out.
                ivshmem: if index == 0 { 0 } else { number("ivshmem")? },
                index,
                incarnation: number("incarnation")?,
            };
            live.insert(name.to_owned(), one);
        }
        Ok(live)
    }

    /// Counts, without the host's workers: after a daemon's death each connects to the next one
    /// when it has something to ask.
    pub fn census(&mut self) -> Result<Census> {
        self.workers = None;
        self.settle(&[HOST])?;
        let (peers, tasks) = (self.peers()?.len(), self.listed(&["task"])?.len());
        // A listing is a task itself, and forgotten only a moment after its end.
        let least = |pid: Pid| -> Result<Descriptors> {
            let mut least = descriptors(pid)?;
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(50));
                let now = descriptors(pid)?;
                if now.values().sum::<usize>() < least.values().sum() {
                    least = now;
                }
            }
            Ok(least)
        };
        let (daemon, holder) = (least(self.host.daemon_pid())?, least(self.holder_process()?)?);
        self.work(HOST)?;
        Ok(Census { daemon, holder, peers, tasks })
    }

    /// What `vshmem region check` finds, on the host or in a guest.
    pub fn check(&mut self, place: usize) -> Result<Option<String>> {
        let region = self.host.region().to_owned();
        if place == HOST {
            let mut command = self.host.session().vshmem();
            let outcome = run(command.args(["region", "check", &region]), LIMIT)?;
            return Ok((!outcome.good()).then_some(outcome.stdout + &outcome.stderr));
        }
        let vshmem = self.host.session().artifacts().vshmem.display().to_string();
        self.tell(place, &format!("'{vshmem}' region check {region} 2>&1; echo \"checked $?\""))?;
        let mut found = String::new();
        loop {
            let line = self.guests.expect_line(self.places[place].guest, LIMIT)?;
            match line.strip_prefix("checked ") {
                Some("0") => return Ok(None),
                Some(_) => return Ok(Some(found)),
                None => found += &format!("{line}\n"),
            }
        }
    }
}
