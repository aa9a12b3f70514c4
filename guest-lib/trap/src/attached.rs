//! The attachments of all supervised processes, counted as the kernel would.

use crate::failed::Result;
use crate::maps::{self, FileId, Key, Shape};
use crate::pool::Hands;
use crate::process::{Process, lock};
use crate::supervisor::Supervisor;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use vshmem::Rights;
use vshmem::sysv::{Caller, shm};
use vshmem_core::task::{Identity, TaskId};

/// What is known of segments.
#[derive(Debug)]
pub struct Attached {
    /// The region's file.
    pub file: FileId,
    known: Mutex<HashMap<Key, Shape>>,
}

impl Attached {
    pub fn new(file: FileId) -> Self {
        Self { file, known: Mutex::default() }
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

    /// Counts anew what everybody has attached, children included that nobody has heard of.
    pub fn count_all(&self, hands: &mut Hands) {
        if self.attached.is_empty() {
            return;
        }
        self.attached.prune(hands);
        let mut left = lock(&self.processes).all();
        left.retain(|p| !lock(&p.attached).is_empty());
        while let Some(process) = left.pop() {
            // One that cannot be counted keeps its count until it ends.
            let _ = self.count(hands, &process);
            for pid in children(process.pid) {
                left.extend(self.adopt(hands, pid));
            }
        }
    }

    /// Before a process with attachments is reaped: whoever has inherited them counts, so that no
    /// page is freed that somebody maps.
    pub fn count_heirs(&self, hands: &mut Hands, dead: &Process) {
        if lock(&dead.attached).is_empty() {
            return;
        }
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                self.adopt(hands, pid);
            }
        }
    }

    /// Makes a process a task that maps segments and is none.
    fn adopt(&self, hands: &mut Hands, pid: u32) -> Option<Arc<Process>> {
        if lock(&self.processes).process(pid).is_some() {
            return None;
        }
        if self.attached.parts(pid)?.is_empty() {
            return None;
        }
        let process = self.process(pid, None).ok()?;
        let _ = self.count(hands, &process);
        Some(process)
    }
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        all.extend(list.split_ascii_whitespace().filter_map(|n| n.parse::<u32>().ok()));
    }
    all
}
