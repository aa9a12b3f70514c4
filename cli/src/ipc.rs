//! `vshmem ipcs` and `vshmem ipcrm`.

use crate::args::{Ipcrm, Ipcs, Kind};
use crate::listing::{self, Format};
use anyhow::{anyhow, bail};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use vshmem::Session;
use vshmem::sysv::{Errno, Error, Perm, msg, sem, shm, withdrawn_to};
use vshmem_core::region::Kind as Table;

#[derive(Serialize, Default)]
struct Objects {
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Vec<Queue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shmems: Option<Vec<Segment>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    semaphores: Option<Vec<Set>>,
}

#[derive(Serialize)]
struct Owned {
    key: String,
    id: i32,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    perms: String,
    /// This kernel's alone, by `vshmem unshare`. (Others do not see it at all.)
    withdrawn: bool,
}

impl Owned {
    fn new(session: Option<&Session>, kind: Table, id: i32, p: &Perm) -> Self {
        let Perm { key, uid, gid, cuid, cgid, mode, .. } = *p;
        let perms = format!("{:o}", mode & 0o777);
        // One that has gone meanwhile is not.
        let to = |s: &Session| s.call(|r, _, _| withdrawn_to(r, kind, id & 0x7fff));
        let withdrawn = session.is_some_and(|s| to(s).is_ok_and(|to| to.is_some()));
        Self { key: format!("{key:#010x}"), id, uid, gid, cuid, cgid, perms, withdrawn }
    }
}

#[derive(Serialize)]
struct Queue {
    #[serde(flatten)]
    owned: Owned,
    used_bytes: u64,
    messages: u64,
    max_bytes: u64,
    last_send: u64,
    last_receive: u64,
    last_change: u64,
    sender_pid: i32,
    receiver_pid: i32,
}

#[derive(Serialize)]
struct Segment {
    #[serde(flatten)]
    owned: Owned,
    bytes: u64,
    attached: u64,
    removed: bool,
    last_attach: u64,
    last_detach: u64,
    last_change: u64,
    creator_pid: i32,
    last_pid: i32,
}

#[derive(Serialize)]
struct Set {
    #[serde(flatten)]
    owned: Owned,
    semaphores: u32,
    last_operation: u64,
    last_change: u64,
}

/// Whether an object went away while it was looked for.
fn gone(e: &Error) -> bool {
    matches!(e, Error::Errno(Errno::EINVAL | Errno::EIDRM))
}

/// All objects of one kind, by index as the kernel lists them.
fn each<T>(
    session: &Session,
    highest: i32,
    mut stat: impl FnMut(&Session, i32) -> vshmem::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let mut found = Vec::new();
    for index in 0..=highest {
        match stat(session, index) {
            Ok(object) => found.push(object),
            Err(vshmem::Error::Call(e)) if gone(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

fn segments(session: &Session) -> anyhow::Result<Vec<(i32, shm::SegStat)>> {
    let highest = session.call(|r, _, _| shm::info(r))?.highest;
    each(session, highest, |s, i| s.call(|r, on, c| shm::stat_index(r, on, c, i, true)))
}

fn queues(session: &Session) -> anyhow::Result<Vec<(i32, msg::QueueStat)>> {
    let highest = session.call(|r, _, _| msg::info(r))?.highest;
    each(session, highest, |s, i| s.call(|r, on, c| msg::stat_index(r, on, c, i, true)))
}

fn sets(session: &Session) -> anyhow::Result<Vec<(i32, sem::SetStat)>> {
    let highest = session.call(|r, _, _| sem::info(r))?.highest;
    each(session, highest, |s, i| s.call(|r, on, c| sem::stat_index(r, on, c, i, true)))
}

/// The listing of a region that `session` is attached to; without one, of nothing.
fn objects(session: Option<&Session>, args: &Ipcs) -> anyhow::Result<Objects> {
    let all = !(args.queues || args.shmems || args.semaphores);
    let mut listed = Objects::default();
    if all || args.queues {
        let found = session.map_or_else(|| Ok(Vec::new()), queues)?;
        let queue = |(id, q): (i32, msg::QueueStat)| Queue {
            owned: Owned::new(session, Table::Queue, id, &q.perm),
            used_bytes: q.cbytes,
            messages: q.qnum,
            max_bytes: q.qbytes,
            last_send: q.stime,
            last_receive: q.rtime,
            last_change: q.ctime,
            sender_pid: q.lspid,
            receiver_pid: q.lrpid,
        };
        listed.queues = Some(found.into_iter().map(queue).collect());
    }
    if all || args.shmems {
        let found = session.map_or_else(|| Ok(Vec::new()), segments)?;
        let segment = |(id, s): (i32, shm::SegStat)| Segment {
            owned: Owned::new(session, Table::Seg, id, &s.perm),
            bytes: s.size,
            attached: s.nattch,
            removed: s.perm.mode & vshmem::sysv::flag::SHM_DEST != 0,
            last_attach: s.atime,
            last_detach: s.dtime,
            last_change: s.ctime,
            creator_pid: s.cpid,
            last_pid: s.lpid,
        };
        listed.shmems = Some(found.into_iter().map(segment).collect());
    }
    if all || args.semaphores {
        let found = session.map_or_else(|| Ok(Vec::new()), sets)?;
        let set = |(id, s): (i32, sem::SetStat)| Set {
            owned: Owned::new(session, Table::Set, id, &s.perm),
            semaphores: s.nsems,
            last_operation: s.otime,
            last_change: s.ctime,
        };
        listed.semaphores = Some(found.into_iter().map(set).collect());
    }
    Ok(listed)
}

/// `vshmem ipcs`.
pub fn list(runtime_dir: &Path, args: &Ipcs) -> anyhow::Result<()> {
    let session = listing::session_if_any(runtime_dir, args.at.region.as_deref())?;
    let listed = objects(session.as_ref(), args)?;
    match listing::format(&args.format) {
        Format::Json => listing::print_json(&listed),
        Format::Text => listing::print(&text(&listed, &Users::read())),
    }
}

/// The tables as util-linux's `ipcs` prints them.
fn text(listed: &Objects, users: &Users) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    if let Some(queues) = &listed.queues {
        let _ = writeln!(out, "\n------ Message Queues --------");
        let _ = writeln!(
            out,
            "{:<10} {:<10} {:<10} {:<10} {:<12} {:<12}",
            "key", "msqid", "owner", "perms", "used-bytes", "messages"
        );
        for Queue { owned: o, used_bytes, messages, .. } in queues {
            let _ = writeln!(
                out,
                "{:<10} {:<10} {:<10.10} {:<10} {used_bytes:<12} {messages:<12}",
                o.key,
                o.id,
                users.name(o.uid),
                o.perms
            );
        }
    }
    if let Some(segments) = &listed.shmems {
        let _ = writeln!(out, "\n------ Shared Memory Segments --------");
        let _ = writeln!(
            out,
            "{:<10} {:<10} {:<10} {:<10} {:<10} {:<10} {:<12}",
            "key", "shmid", "owner", "perms", "bytes", "nattch", "status"
        );
        for Segment { owned: o, bytes, attached, removed, .. } in segments {
            let status = if *removed { "dest" } else { "" };
            let _ = writeln!(
                out,
                "{:<10} {:<10} {:<10.10} {:<10} {bytes:<10} {attached:<10} {status:<12}",
                o.key,
                o.id,
                users.name(o.uid),
                o.perms
            );
        }
    }
    if let Some(sets) = &listed.semaphores {
        let _ = writeln!(out, "\n------ Semaphore Arrays --------");
        let _ = writeln!(
            out,
            "{:<10} {:<10} {:<10} {:<10} {:<10}",
            "key", "semid", "owner", "perms", "nsems"
        );
        for Set { owned: o, semaphores, .. } in sets {
            let _ = writeln!(
                out,
                "{:<10} {:<10} {:<10.10} {:<10} {semaphores:<10}",
                o.key,
                o.id,
                users.name(o.uid),
                o.perms
            );
        }
    }
    out.push('\n');
    out
}

/// Names of users, from the password file; other sources need the C library's plug-ins, and a
/// number does as well.
struct Users(HashMap<u32, String>);

impl Users {
    fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        };
        // The first entry of a number counts.
        let mut users = HashMap::new();
        for (uid, name) in text.lines().filter_map(entry) {
            users.entry(uid).or_insert(name);
        }
        Self(users)
    }

    fn name(&self, uid: u32) -> String {
        self.0.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

/// `vshmem ipcrm`.
pub fn remove(runtime_dir: &Path, args: &Ipcrm) -> anyhow::Result<()> {
    let session = listing::session(runtime_dir, args.at.region.as_deref())?;
    let mut failed = 0;
    let mut note = |result: anyhow::Result<()>| {
        if let Err(e) = result {
            eprintln!("vshmem: {e:#}");
            failed += 1;
        }
    };
    for (kind, number, is_key) in args.objects.named() {
        let id = if is_key { id_of(&session, kind, number) } else { Ok(number) };
        note(id.and_then(|id| remove_one(&session, kind, id, args.dry_run)));
    }
    if let Some(which) = args.all {
        let wanted = |kind| which.is_none_or(|w| w == kind);
        if wanted(Kind::Shm) {
            for (id, _) in segments(&session)? {
                note(remove_one(&session, Table::Seg, id, args.dry_run));
            }
        }
        if wanted(Kind::Msg) {
            for (id, _) in queues(&session)? {
                note(remove_one(&session, Table::Queue, id, args.dry_run));
            }
        }
        if wanted(Kind::Sem) {
            for (id, _) in sets(&session)? {
                note(remove_one(&session, Table::Set, id, args.dry_run));
            }
        }
    }
    if failed > 0 {
        let objects = if failed == 1 { "object was" } else { "objects were" };
        bail!("{failed} {objects} not removed");
    }
    Ok(())
}

pub const fn word(kind: Table) -> &'static str {
    match kind {
        Table::Seg => "segment",
        Table::Set => "semaphore set",
        Table::Queue => "queue",
    }
}

/// What a failed call means for a person.
pub fn explain(e: vshmem::Error, what: &str) -> anyhow::Error {
    match e {
        vshmem::Error::Call(Error::Errno(Errno::ENOENT | Errno::EINVAL | Errno::EIDRM)) => {
            anyhow!("the region has no {what}: see `vshmem ipcs`")
        }
        vshmem::Error::Call(Error::Errno(Errno::EPERM | Errno::EACCES)) => {
            anyhow!("{what} is not yours: ask its owner, or root")
        }
        e => anyhow::Error::new(e).context(what.to_owned()),
    }
}

pub fn id_of(session: &Session, kind: Table, key: i32) -> anyhow::Result<i32> {
    let id = session.call(|r, on, c| match kind {
        Table::Seg => shm::get(r, on, c, key, 0, 0),
        Table::Set => sem::get(r, on, c, key, 0, 0),
        Table::Queue => msg::get(r, on, c, key, 0),
    });
    id.map_err(|e| explain(e, &format!("{} with key {key:#010x}", word(kind))))
}

fn remove_one(session: &Session, kind: Table, id: i32, dry: bool) -> anyhow::Result<()> {
    let done = session.call(|r, on, c| match (kind, dry) {
        (Table::Seg, true) => shm::stat(r, on, c, id).map(drop),
        (Table::Set, true) => sem::stat(r, on, c, id).map(drop),
        (Table::Queue, true) => msg::stat(r, on, c, id).map(drop),
        (Table::Seg, false) => shm::remove(r, on, c, id),
        (Table::Set, false) => sem::remove(r, on, c, id),
        (Table::Queue, false) => msg::remove(r, on, c, id),
    });
    done.map_err(|e| explain(e, &format!("{} {id}", word(kind))))?;
    if dry {
        listing::print(&format!("would remove {} {id}\n", word(kind)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_as_those_of_util_linux() {
        let owned = |id| Owned {
            key: "0x0000002a".to_owned(),
            id,
            uid: 0,
            gid: 0,
            cuid: 0,
            cgid: 0,
            perms: "600".to_owned(),
            withdrawn: false,
        };
        let listed = Objects {
            queues: Some(Vec::new()),
            shmems: Some(vec![Segment {
                owned: owned(1 << 30),
                bytes: 4096,
                attached: 2,
                removed: true,
                last_attach: 0,
                last_detach: 0,
                last_change: 0,
                creator_pid: 1,
                last_pid: 1,
            }]),
            semaphores: Some(vec![Set {
                owned: owned(1 << 30 | 1),
                semaphores: 3,
                last_operation: 0,
                last_change: 0,
            }]),
        };
        let users = Users::parse("root:x:0:0:root:/root:/bin/bash\n");
        let expected = "
------ Message Queues --------
key        msqid      owner      perms      used-bytes   messages    

------ Shared Memory Segments --------
key        shmid      owner      perms      bytes      nattch     status      
0x0000002a 1073741824 root       600        4096       2          dest        

------ Semaphore Arrays --------
key        semid      owner      perms      nsems     
0x0000002a 1073741825 root       600        3         

";
        assert_eq!(text(&listed, &users), expected);
        assert_eq!(users.name(77), "77");
    }
}
