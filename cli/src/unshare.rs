//! `vshmem unshare`: withdraws objects from everybody but this kernel.

use crate::args::Unshare;
use crate::ipc::{explain, id_of, word};
use crate::listing;
use anyhow::bail;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use vshmem::sysv::{Holder, withdraw};
use vshmem::{Kind, Session};

/// Withdrawn, and somebody elsewhere still has it attached.
const STILL_ATTACHED: u8 = 3;

/// `vshmem unshare`.
pub fn run(runtime_dir: &Path, args: &Unshare) -> anyhow::Result<ExitCode> {
    let session = listing::session(runtime_dir, args.at.region.as_deref())?;
    let (mut failed, mut attached) = (0, false);
    for (kind, number, is_key) in args.objects.named() {
        let id = if is_key { id_of(&session, kind, number) } else { Ok(number) };
        match id.and_then(|id| Ok((id, one(&session, kind, id)?))) {
            Ok((_, holders)) if holders.is_empty() => {}
            Ok((id, holders)) => {
                attached = true;
                eprint!("{}", told(&session, id, &holders)?);
            }
            Err(e) => {
                eprintln!("vshmem: {e:#}");
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let objects = if failed == 1 { "object was" } else { "objects were" };
        bail!("{failed} {objects} not withdrawn");
    }
    Ok(if attached { ExitCode::from(STILL_ATTACHED) } else { ExitCode::SUCCESS })
}

fn one(session: &Session, kind: Kind, id: i32) -> anyhow::Result<Vec<Holder>> {
    let holders = session.call(|r, on, c| withdraw(r, on, c, kind, id));
    holders.map_err(|e| explain(e, &format!("{} {id}", word(kind))))
}

/// Who keeps a segment that was withdrawn.
fn told(session: &Session, id: i32, holders: &[Holder]) -> anyhow::Result<String> {
    let (peers, tasks) = session.call(|r, _, _| Ok((r.peers()?, r.tasks()?)))?;
    let mut text = format!(
        "vshmem: segment {id} is withdrawn, and stays attached where it was; it is out of reach once \
         these have ended or detached it:\n"
    );
    for holder in holders {
        let peer = peers.iter().find(|p| p.index == holder.peer);
        let task = tasks.iter().find(|t| t.id == holder.task);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  pid {} ({}) of {}",
            holder.pid,
            task.map_or_else(|| "gone".to_owned(), |t| listing::plain(&t.comm)),
            peer.map_or_else(|| format!("peer {}", holder.peer), |p| listing::plain(&p.name)),
        );
    }
    Ok(text)
}
