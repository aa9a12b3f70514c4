//! Two looks at a region, some time apart, and what they tell together.

use super::process;
use crate::listing::{peer_state, plain};
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use vshmem::sysv::look::{self, Awaited, Changes, Guarded, LaneNow, Lock, Promised, Stage};
use vshmem::{Kind, Session};
use vshmem_core::LaneId;
use vshmem_core::layout::{REGION_BASE, Table};
use vshmem_core::task::{Owner, Peer, Task, TaskId};

/// One look.
pub struct Look {
    at: Instant,
    region: String,
    size: u64,
    me: u32,
    pages: (u32, u64),
    slots: (u64, u64),
    peers: Vec<(Peer, u64)>,
    tasks: Vec<(Task, Vec<Promised>)>,
    lanes: Vec<LaneNow>,
    locks: Vec<Lock>,
    changes: Vec<Changes>,
}

impl Look {
    pub fn take(session: &Session) -> anyhow::Result<Self> {
        let own = session.call(|_, on, c| Ok((c.task, on.id())))?;
        Ok(session.call(|r, _, c| {
            let peers = r.peers()?.into_iter();
            let peers = peers.map(|p| Ok((look::wakes(r, p.index)?, p)));
            let peers: vshmem::sysv::Result<Vec<_>> =
                peers.map(|p| p.map(|(w, p)| (p, w))).collect();
            let tasks = r.tasks()?.into_iter().filter(|t| t.id != own.0);
            let tasks: vshmem::sysv::Result<Vec<_>> = tasks
                .map(|t| Ok((look::promised(r, t.id)?, t)))
                .map(|t| t.map(|(p, t)| (t, p)))
                .collect();
            Ok(Self {
                at: Instant::now(),
                region: plain(&r.name()?),
                size: r.geometry().len + REGION_BASE,
                me: c.who.peer(),
                pages: look::pages(r)?,
                slots: (r.table(Table::Tasks).count, r.table(Table::Lanes).count),
                peers: peers?,
                tasks: tasks?,
                lanes: look::lanes(r)?.into_iter().filter(|l| l.id != own.1).collect(),
                locks: look::locks(r)?,
                changes: look::changes(r)?,
            })
        })?)
    }
}

/// What is shown.
#[derive(Serialize)]
pub struct View {
    pub region: String,
    pub size_mib: u64,
    pub memory_used_percent: u64,
    pub peers: Vec<PeerRow>,
    pub tasks: Vec<TaskRow>,
    pub objects: Vec<ObjectRow>,
    pub holders: Vec<Holder>,
    /// What somebody should know or do.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
pub struct PeerRow {
    pub index: u32,
    pub name: String,
    pub state: &'static str,
    pub tasks: usize,
    pub here: bool,
    /// Wakes for it wait to be taken, the same as at the look before.
    pub unanswered_wakes: bool,
}

#[derive(Serialize)]
pub struct TaskRow {
    pub slot: u32,
    pub peer: u32,
    pub pid: u32,
    pub command: String,
    pub state: &'static str,
    pub steps_per_second: u64,
    pub waits: Vec<Waiting>,
    pub holds: Vec<Adjustment>,
}

/// A thread that sleeps for something.
#[derive(Serialize)]
pub struct Waiting {
    pub kind: &'static str,
    pub id: i32,
    pub what: String,
    /// As far as was looked.
    pub for_at_least_ms: u64,
}

#[derive(Serialize)]
pub struct Adjustment {
    pub set: i32,
    pub semaphore: u16,
    pub undo_adds: i32,
}

#[derive(Serialize)]
pub struct ObjectRow {
    pub kind: &'static str,
    pub id: i32,
    pub changes_per_second: u64,
    pub sleepers: usize,
}

/// Somebody who is in the middle of a change for longer than a look.
#[derive(Serialize)]
pub struct Holder {
    pub peer: u32,
    pub pid: u32,
    pub command: String,
    pub state: &'static str,
    pub stage: &'static str,
    pub locks: Vec<String>,
    pub for_at_least_ms: u64,
}

/// What was seen over several looks: since when each lane is as it is.
#[derive(Default)]
pub struct Since {
    lanes: HashMap<LaneId, (LaneNow, Instant)>,
}

impl Since {
    fn update(&mut self, look: &Look) {
        let old = std::mem::take(&mut self.lanes);
        for lane in &look.lanes {
            let same = old.get(&lane.id).filter(|(was, _)| was == lane);
            self.lanes.insert(lane.id, (*lane, same.map_or(look.at, |(_, since)| *since)));
        }
    }

    fn ms(&self, lane: LaneId, now: Instant) -> u64 {
        let since = self.lanes.get(&lane).map_or(now, |(_, since)| *since);
        (now - since).as_millis() as u64
    }
}

pub fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Seg => "segment",
        Kind::Set => "set",
        Kind::Queue => "queue",
    }
}

fn guarded(lock: &Lock) -> String {
    match lock.guards {
        Guarded::Object(kind, id) => format!("{} {id}", word(kind)),
        Guarded::Directory(kind) => format!("the list of {}s", word(kind)),
        Guarded::Arena => "the free memory".to_owned(),
        Guarded::Task(id) => format!("the records of task {}", id.index),
    }
}

fn awaited(a: Awaited) -> (&'static str, i32, String) {
    match a {
        Awaited::Set { id, num, op: 0 } => {
            ("set", id, format!("semaphore {num} of set {id} to be 0"))
        }
        Awaited::Set { id, num, op } => {
            ("set", id, format!("{op:+} on semaphore {num} of set {id}"))
        }
        Awaited::Message { id } => ("queue", id, format!("a message of queue {id}")),
        Awaited::Room { id } => ("queue", id, format!("room in queue {id}")),
        Awaited::Word { id } => ("segment", id, format!("a wake in segment {id}")),
    }
}

/// A difference as a rate.
fn rate(n: u64, over: Duration) -> u64 {
    (n as f64 / over.as_secs_f64().max(1e-3)).round() as u64
}

/// What two looks tell.
pub fn view(before: &Look, now: &Look, since: &mut Since) -> View {
    since.update(before);
    since.update(now);
    let over = now.at - before.at;
    let was: HashMap<_, _> = before.lanes.iter().map(|l| (l.id, *l)).collect();
    let state =
        |t: &Task| if t.peer == now.me { process::state(t.pid, t.start) } else { "elsewhere" };
    let row = |(t, promised): &(Task, Vec<Promised>)| {
        let its = || now.lanes.iter().filter(|l| l.owner == Owner::Task(t.id));
        let steps = its().filter_map(|l| {
            let old = was.get(&l.id).filter(|old| old.owner == l.owner)?;
            Some(l.sequence.saturating_sub(old.sequence))
        });
        let waits = its().filter_map(|l| Some((l.id, l.awaited?))).map(|(lane, a)| {
            let (kind, id, what) = awaited(a);
            Waiting { kind, id, what, for_at_least_ms: since.ms(lane, now.at) }
        });
        let holds = promised.iter().map(|p| Adjustment {
            set: p.id,
            semaphore: p.num,
            undo_adds: p.adjustment,
        });
        let waits: Vec<_> = waits.collect();
        TaskRow {
            slot: t.id.index,
            peer: t.peer,
            pid: t.pid,
            command: plain(&t.comm),
            state: match state(t) {
                "sleeping" if !waits.is_empty() => "waiting",
                other => other,
            },
            steps_per_second: rate(steps.sum(), over),
            waits,
            holds: holds.collect(),
        }
    };
    let tasks: Vec<_> = now.tasks.iter().map(row).collect();
    let task = |id: TaskId| now.tasks.iter().map(|(t, _)| t).find(|t| t.id == id);
    let stuck = now.lanes.iter().filter(|l| l.stage != Stage::Over && was.get(&l.id) == Some(l));
    let holder = |l: &LaneNow| {
        let its = now.locks.iter().filter(|k| k.lane == l.id && k.sequence == l.sequence);
        let stage = if l.stage == Stage::Active { "undecided" } else { "decided" };
        let (peer, pid, command, state) = match l.owner {
            Owner::Task(id) => match task(id) {
                Some(t) => (t.peer, t.pid, plain(&t.comm), state(t)),
                None => (0, 0, format!("task {}, which is gone", id.index), "dead"),
            },
            Owner::Endpoint { peer, .. } => (peer, 0, "the endpoint".to_owned(), "elsewhere"),
        };
        let for_at_least_ms = since.ms(l.id, now.at);
        Holder {
            peer,
            pid,
            command,
            state,
            stage,
            locks: its.map(guarded).collect(),
            for_at_least_ms,
        }
    };
    let holders: Vec<_> = stuck.map(holder).collect();
    let counts: HashMap<_, _> = before.changes.iter().map(|c| (c.id, c.count)).collect();
    let sleepers = |kind: Kind, id: i32| {
        let all = tasks.iter().flat_map(|t| &t.waits);
        all.filter(|w| w.kind == word(kind) && w.id == id).count()
    };
    let object = |c: &Changes| ObjectRow {
        kind: word(c.kind),
        id: c.id,
        changes_per_second: rate(
            counts.get(&c.id).map_or(0, |was| c.count.wrapping_sub(*was)).into(),
            over,
        ),
        sleepers: sleepers(c.kind, c.id),
    };
    let mut objects: Vec<_> = now.changes.iter().map(object).collect();
    objects.sort_by_key(|o| std::cmp::Reverse((o.sleepers, o.changes_per_second)));
    let peers = now.peers.iter().map(|(p, wakes)| PeerRow {
        index: p.index,
        name: plain(&p.name),
        state: peer_state(p),
        tasks: now.tasks.iter().filter(|(t, _)| t.peer == p.index).count(),
        here: p.index == now.me,
        unanswered_wakes: *wakes != 0 && before.peers.iter().any(|(o, w)| o == p && w == wakes),
    });
    let peers: Vec<_> = peers.collect();
    let mut view = View {
        region: now.region.clone(),
        size_mib: now.size >> 20,
        memory_used_percent: u64::from(now.pages.0) * 100 / now.pages.1.max(1),
        peers,
        tasks,
        objects,
        holders,
        notes: Vec::new(),
    };
    view.notes = super::notes::notes(&view, now.slots, now.lanes.len());
    view
}
