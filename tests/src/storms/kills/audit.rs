//! What is in the region when nobody works.

use anyhow::{Context, Result};

/// What `audit` printed and `vshmem ipcs` listed.
#[derive(Debug, Default)]
pub struct Audit {
    /// The values of the set.
    pub values: Vec<i64>,
    /// How many wait for each semaphore, to grow and to be zero.
    pub waiting: Vec<i64>,
    /// Attachments of the segment.
    pub attached: u64,
    /// Whether both records are whole.
    pub records: bool,
    /// The `sem_t`.
    pub slots: i64,
    /// Queue, type and serial of what was still there.
    pub messages: Vec<(u32, i64, u64)>,
    /// Whether the emptied queues count nothing.
    pub queues_empty: bool,
    /// Kind and id of the objects but those that all share.
    pub objects: Vec<(u32, i32)>,
}

/// The names of the lists in the output of `vshmem ipcs`, in the order of `KIND_*`.
const LISTS: [&str; 3] = ["shmems", "semaphores", "queues"];

impl Audit {
    /// Reads both.
    ///
    /// # Errors
    ///
    /// A line is not as it should be.
    pub fn parse(audit: &str, ipcs: &str) -> Result<Self> {
        let mut found = Self { records: true, queues_empty: true, ..Self::default() };
        let mut kept = Vec::new();
        for line in audit.lines() {
            let (name, rest) = line.split_once(' ').with_context(|| format!("{line:?}"))?;
            let numbers = rest.split(' ').map(str::parse::<i128>).collect::<Result<Vec<_>, _>>();
            let n = numbers.with_context(|| format!("{line:?}"))?;
            let all = || n.iter().map(|&n| n as i64).collect::<Vec<_>>();
            match (name, n.as_slice()) {
                ("values", _) => found.values = all(),
                ("waiting", _) => found.waiting = all(),
                ("attached", [n]) => found.attached = *n as u64,
                ("guarded" | "robust", [whole]) => found.records &= *whole == 1,
                ("slots", [n]) => found.slots = *n as i64,
                ("message", [queue, kind, serial]) => {
                    found.messages.push((*queue as u32, *kind as i64, *serial as u64));
                }
                ("queue", [_, count, bytes]) => {
                    found.queues_empty &= (*count, *bytes) == (0, 0);
                }
                ("kept", _) => kept = all(),
                _ => anyhow::bail!("{line:?}"),
            }
        }
        // A set, a segment and two queues: ids of different kinds may be equal.
        let [set, segment, first, second] = kept[..] else {
            anyhow::bail!("an audit without an end: {audit}");
        };
        let kept = [(1, set), (0, segment), (2, first), (2, second)];
        let own = |(kind, id): &(u32, i32)| !kept.contains(&(*kind, i64::from(*id)));
        found.objects = listed(ipcs)?.into_iter().filter(own).collect();
        Ok(found)
    }
}

/// Kind and id of all objects that `vshmem ipcs --json` lists.
///
/// # Errors
///
/// It is no such output.
pub fn listed(ipcs: &str) -> Result<Vec<(u32, i32)>> {
    let lists: serde_json::Value = serde_json::from_str(ipcs).context("vshmem ipcs --json")?;
    let mut found = Vec::new();
    for (kind, name) in (0..).zip(LISTS) {
        for object in lists[name].as_array().context("vshmem ipcs --json")? {
            found.push((kind, object["id"].as_i64().context("an id")? as i32));
        }
    }
    Ok(found)
}
