//! The attachments of all supervised processes, counted as the kernel would.

use crate::failed::Result;
use crate::maps::{self, FileId, Key, Shape};
use crate::pool::Hands;
use crate::process::{Process, lock};
use crate::supervisor::Supervisor;
use std::collections::HashMap;
use std::sync::Mutex;
use vshmem::Rights;
use vshmem::sysv::{Caller, shm};
use vshmem_core::task::{Identity, TaskId};

/// What is known of segments.
#[derive(Debug)]
pub struct Attached {
    /// The region's file.
    pub file: FileId,
    known: Mutex<HashMap<Key, Shape>>,
    /// The newest pid when heirs were last looked for.
    newest: Mutex<u32>,
}

impl Attached {
    pub fn new(file: FileId) -> Self {
        Self { file, known: Mutex::default(), newest: Mutex::new(newest().unwrap_or(0)) }
    }

    /// Somebody attaches a segment.
    pub fn know(&self, key: Key, shape: Shape) {
        lock(&self.known).insert(key, shape);
    }

    /// Whether anybody ever attached anything.
    pub fn is_empty(&self) -> bool {
        lock(&self.known).is_empty()
    }

    /// What of the region process `pid` maps; `None` if it keeps its own count, or has ended.
    pub fn parts(&self, pid: u32) -> Option<Vec<maps::Part>> {
        let known = lock(&self.known).clone();
        maps::parts(pid, self.file, &known).ok().flatten()
    }

    /// Forgets segments that are gone: their pages may be another's by now.
    fn prune(&self, hands: &mut Hands) {
        let (r, on) = (&hands.region, &mut hands.lane);
        let nobody = nobody();
        lock(&self.known).retain(|(seg, _), shape| {
            let there = shm::stat_index(r, on, &nobody, *seg as i32, true);
            there.is_ok_and(|(id, _)| id == shape.id)
        });
    }
}

/// A caller that only looks, where no permission is asked.
fn nobody() -> Caller {
    Caller {
        task: TaskId { index: 0, incarnation: 0 },
        who: Identity::default(),
        uid: u32::MAX,
        gid: u32::MAX,
        groups: Vec::new(),
        ipc_owner: false,
        ipc_lock: false,
        sys_admin: false,
        sys_resource: false,
    }
}

impl Supervisor {
    /// Counts what a process has attached by what it maps.
    pub fn count(&self, hands: &mut Hands, process: &Process) -> Result<()> {
        // Held while the maps are read: whoever attaches holds it until it is counted.
        let mut counted = lock(&process.attached);
        let Some(parts) = self.attached.parts(process.pid) else { return Ok(()) };
        let mut now: HashMap<Key, u32> = HashMap::new();
        for part in parts {
            *now.entry(part.key).or_default() += 1;
        }
        let Some(_busy) = process.begin(hands.lane.id()) else { return Ok(()) };
        let rights = Rights::default();
        let Ok(c) = self.session.caller_for(process.task, process.pid, &rights) else {
            return Ok(());
        };
        let ids: HashMap<Key, i32> =
            lock(&self.attached.known).iter().map(|(k, s)| (*k, s.id)).collect();
        let keys: Vec<Key> = counted.keys().chain(now.keys()).copied().collect();
        for key in keys {
            let (had, has) = (counted.get(&key).copied(), now.get(&key).copied());
            let (had, has) = (had.unwrap_or(0), has.unwrap_or(0));
            for _ in had..has {
                let Some(id) = ids.get(&key) else { break };
                shm::attach(&hands.region, &mut hands.lane, &c, *id, 0)?;
            }
            for _ in has..had {
                shm::detach(&hands.region, &mut hands.lane, &c, key.0, key.1)?;
            }
            if has == 0 {
                counted.remove(&key);
            } else {
                counted.insert(key, has);
            }
        }
        Ok(())
    }

    /// Counts anew what everybody has attached, heirs that nobody has heard of included.
    pub fn count_all(&self, hands: &mut Hands) {
        if self.attached.is_empty() {
            return;
        }
        self.attached.prune(hands);
        // First of all: they may be the only ones left.
        self.count_heirs(hands);
        for process in lock(&self.processes).all() {
            if !lock(&process.attached).is_empty() {
                // One that cannot be counted keeps its count until it ends.
                let _ = self.count(hands, &process);
            }
        }
    }

    /// Before anything is detached: whoever has inherited it by a fork counts, so that no page is
    /// freed that somebody maps. Only processes that are newer than the last look can be unheard of.
    pub fn count_heirs(&self, hands: &mut Hands) {
        if self.attached.is_empty() {
            return;
        }
        let Some(now) = newest() else { return };
        let before = std::mem::replace(&mut *lock(&self.attached.newest), now);
        if before == now {
            return;
        }
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
            if let Some(pid) = pid
                && is_between(pid, before, now)
            {
                self.adopt(hands, pid);
            }
        }
    }

    /// Makes a process a task that maps segments and is none.
    fn adopt(&self, hands: &mut Hands, pid: u32) {
        if lock(&self.processes).process(pid).is_none()
            && self.attached.parts(pid).is_some_and(|parts| !parts.is_empty())
            && let Ok(process) = self.process(pid, None)
        {
            // One that cannot be counted now is found when it calls.
            let _ = self.count(hands, &process);
        }
    }
}

/// The pid given out last; pids are given out in turn.
fn newest() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().last()?.parse().ok()
}

/// Whether `pid` was given out after `before` and not after `now`; they begin anew some time.
const fn is_between(pid: u32, before: u32, now: u32) -> bool {
    if before <= now { before < pid && pid <= now } else { before < pid || pid <= now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_given_out_since_are_told_from_older_ones() {
        assert!(is_between(5, 4, 9) && is_between(9, 4, 9));
        assert!(!is_between(4, 4, 9) && !is_between(10, 4, 9));
        // Begun anew in between.
        assert!(is_between(32_000, 31_000, 300) && is_between(300, 31_000, 300));
        assert!(!is_between(301, 31_000, 300) && !is_between(31_000, 31_000, 300));
    }

    #[test]
    fn a_new_process_is_newer() {
        let before = newest().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(is_between(child.id(), before, newest().unwrap()));
        child.wait().unwrap();
    }
}
