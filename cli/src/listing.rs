//! `peer list`, `task list`, `region list`, and what all listings share.

use crate::args;
use crate::places::{self, Socket};
use crate::run::unreachable;
use anyhow::Context;
use rustix::io::Errno;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use vshmem::Session;
use vshmem_core::layout::{REGION_BASE, peer, task};

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    Json,
}

pub const fn format(args: &args::Format) -> Format {
    if args.json { Format::Json } else { Format::Text }
}

/// Writes to standard output; a reader that has seen enough is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot print"),
        _ => Ok(()),
    }
}

pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Becomes a task of the region meant.
pub fn session(runtime_dir: &Path, region: Option<&str>) -> anyhow::Result<Session> {
    let socket = places::socket(runtime_dir, region)?;
    let reached = crate::client::reach(socket.path());
    if let (Ok(_), Socket::Own(path)) = (&reached, &socket) {
        // It may have been killed: what it served is still there.
        return crate::run::join_own(path);
    }
    if let Err(e) = reached {
        return Err(match &socket {
            Socket::Region(path) => unreachable(path, region, e),
            Socket::Own(path) => anyhow::anyhow!(
                "your own endpoint does not run ({}), so there is nothing: name a region with \
                 --region, or start a program with `vshmem run`",
                path.display()
            ),
        });
    }
    Ok(Session::attach_to(socket.path())?)
}

/// As [`session`]; `None` where the user's own endpoint does not run, which holds nothing then.
pub fn session_if_any(runtime_dir: &Path, region: Option<&str>) -> anyhow::Result<Option<Session>> {
    if let Socket::Own(path) = places::socket(runtime_dir, region)?
        && matches!(crate::client::reach(&path), Err(Errno::NOENT | Errno::CONNREFUSED))
    {
        return Ok(None);
    }
    session(runtime_dir, region).map(Some)
}

/// Columns as wide as their widest field, the last one as it is.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    let width = |i: usize| {
        let fields = rows.iter().filter_map(|r| r.get(i)).map(|f| f.chars().count());
        fields.chain([head.get(i).map_or(0, |h| h.len())]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|&h| h.to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (field, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{field:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Text of a region's tables, which any peer may have written, as a terminal may have it.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[derive(Serialize)]
struct Peer {
    index: u32,
    name: String,
    state: &'static str,
    ivshmem: u32,
    incarnation: u32,
    tasks: usize,
    here: bool,
}

/// What a peer is doing, in a word.
pub fn peer_state(p: &vshmem_core::task::Peer) -> &'static str {
    match p.state {
        peer::LIVE => "live",
        peer::DEAD if p.fenced => "fenced",
        peer::DEAD => "dead",
        _ => "entering",
    }
}

/// `vshmem peer list`.
pub fn peers(runtime_dir: &Path, args: &args::List) -> anyhow::Result<()> {
    let session = session(runtime_dir, args.at.region.as_deref())?;
    let (peers, tasks, me) = session.call(|r, _, c| Ok((r.peers()?, r.tasks()?, c.who.peer())))?;
    let one = |p: vshmem_core::task::Peer| Peer {
        index: p.index,
        name: plain(&p.name),
        state: peer_state(&p),
        ivshmem: p.ivshmem,
        incarnation: p.incarnation,
        tasks: tasks.iter().filter(|t| t.peer == p.index).count(),
        here: p.index == me,
    };
    let peers: Vec<_> = peers.into_iter().map(one).collect();
    if format(&args.format) == Format::Json {
        return print_json(&peers);
    }
    let row = |p: &Peer| {
        let here = if p.here { "this one" } else { "" };
        vec![
            p.index.to_string(),
            p.name.clone(),
            p.state.to_owned(),
            p.ivshmem.to_string(),
            p.tasks.to_string(),
            here.to_owned(),
        ]
    };
    let rows: Vec<_> = peers.iter().map(row).collect();
    print(&table(&["PEER", "NAME", "STATE", "IVSHMEM", "TASKS", ""], &rows))
}

#[derive(Serialize)]
struct Task {
    slot: u32,
    incarnation: u64,
    peer: u32,
    pid: u32,
    uid: u32,
    state: &'static str,
    command: String,
}

/// `vshmem task list`.
pub fn tasks(runtime_dir: &Path, args: &args::List) -> anyhow::Result<()> {
    let session = session(runtime_dir, args.at.region.as_deref())?;
    let tasks = session.call(|r, _, _| Ok(r.tasks()?))?;
    let one = |t: vshmem_core::task::Task| Task {
        slot: t.id.index,
        incarnation: t.id.incarnation,
        peer: t.peer,
        pid: t.pid,
        uid: t.uid,
        state: match t.state {
            task::LIVE => "live",
            task::DYING => "dying",
            _ => "being born",
        },
        command: plain(&t.comm),
    };
    let tasks: Vec<_> = tasks.into_iter().map(one).collect();
    if format(&args.format) == Format::Json {
        return print_json(&tasks);
    }
    let row = |t: &Task| {
        vec![
            t.slot.to_string(),
            t.peer.to_string(),
            t.pid.to_string(),
            t.uid.to_string(),
            t.state.to_owned(),
            t.command.clone(),
        ]
    };
    let rows: Vec<_> = tasks.iter().map(row).collect();
    print(&table(&["SLOT", "PEER", "PID", "UID", "STATE", "COMMAND"], &rows))
}

#[derive(Serialize)]
struct Region {
    name: Option<String>,
    socket: PathBuf,
    number: Option<u32>,
    size: Option<u64>,
    peers: Option<usize>,
    tasks: Option<usize>,
    problem: Option<String>,
}

/// `vshmem region list`.
pub fn regions(runtime_dir: &Path, args: &args::Format) -> anyhow::Result<()> {
    let mut sockets = Vec::new();
    match std::fs::read_dir(runtime_dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.with_context(|| format!("{}", runtime_dir.display()))?.path();
                if is_attach_socket(&path) {
                    sockets.push(path);
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", runtime_dir.display())),
    }
    sockets.sort();
    let own = vshmem::socket_of(None);
    if crate::client::reach(&own).is_ok() {
        sockets.push(own);
    }
    let regions: Vec<_> = sockets.into_iter().map(region).collect();
    if format(args) == Format::Json {
        return print_json(&regions);
    }
    let number = |n: Option<usize>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let row = |r: &Region| {
        vec![
            r.name.clone().unwrap_or_else(|| "-".to_owned()),
            r.number.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            r.size.map_or_else(|| "-".to_owned(), |s| format!("{}M", s >> 20)),
            number(r.peers),
            number(r.tasks),
            match &r.problem {
                Some(problem) => format!("{} ({problem})", r.socket.display()),
                None => r.socket.display().to_string(),
            },
        ]
    };
    let rows: Vec<_> = regions.iter().map(row).collect();
    print(&table(&["REGION", "NUMBER", "SIZE", "PEERS", "TASKS", "SOCKET"], &rows))
}

/// Whether tasks attach there: VMs and the daemon's holder have sockets of other names.
fn is_attach_socket(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "sock")
}

/// Looks at one region; what cannot be looked at is listed with the reason.
fn region(socket: PathBuf) -> Region {
    let look = || -> anyhow::Result<(String, u32, u64, usize, usize)> {
        let session = Session::attach_to(&socket)?;
        Ok(session.call(|r, _, _| {
            let size = r.geometry().len + REGION_BASE;
            Ok((plain(&r.name()?), r.number(), size, r.peers()?.len(), r.tasks()?.len()))
        })?)
    };
    match look() {
        Ok((name, number, size, peers, tasks)) => Region {
            name: Some(name),
            number: Some(number),
            size: Some(size),
            peers: Some(peers),
            tasks: Some(tasks),
            problem: None,
            socket,
        },
        Err(e) => {
            let problem = Some(format!("{e:#}"));
            let (number, size) = (None, None);
            Region { name: None, number, size, peers: None, tasks: None, problem, socket }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_field() {
        let rows = vec![vec!["1".to_owned(), "long name".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["A", "NAME", "LAST"], &rows), "A  NAME       LAST\n1  long name  x\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\n"), "a?[2Jb?");
    }
}
