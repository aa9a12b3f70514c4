//! `vshmem peer fence`: declares a guest dead.

use crate::args::Fence;
use crate::listing::{self, plain};
use anyhow::{Context, anyhow, bail};
use std::path::Path;
use std::time::{Duration, Instant};
use vshmem::Session;
use vshmem_core::layout::peer;
use vshmem_core::task::Peer;

/// How long a VM that was killed may take to end, and a peer that died by itself to be reaped.
const LIMIT: Duration = Duration::from_secs(10);

/// `vshmem peer fence`.
pub fn run(runtime_dir: &Path, args: &Fence) -> anyhow::Result<()> {
    let session = listing::session(runtime_dir, args.at.region.as_deref())?;
    let (slots, region) = session.call(|r, _, _| {
        let slots: Result<Vec<_>, _> = (0..peer::COUNT as u32).map(|i| r.last_peer(i)).collect();
        Ok((slots?, r.name()?))
    })?;
    let region = plain(&region);
    let found = find(&slots, &args.peer).with_context(|| format!("region {region}"))?;
    if found.state == peer::EMPTY {
        return told(&format!("{} is gone already", named(found)));
    }
    match session.fence_peer(found.index, found.incarnation, !args.no_kill) {
        Ok(said) => {
            told(&said)?;
            if !args.no_kill && !gone_within(&session, found, LIMIT)? {
                eprintln!(
                    "vshmem: its VM has not ended after {} s; what it held was given to others, and \
                     the rest goes with its end",
                    LIMIT.as_secs()
                );
            }
            Ok(())
        }
        // It may have died by itself meanwhile.
        Err(_) if gone_within(&session, found, Duration::from_millis(500))? => {
            told(&format!("{} is gone already", named(found)))
        }
        Err(e) => Err(anyhow!(e).context(format!("region {region}: cannot fence {}", args.peer))),
    }
}

fn named(p: &Peer) -> String {
    format!("peer {} ({})", p.index, plain(&p.name))
}

fn told(text: &str) -> anyhow::Result<()> {
    listing::print(&format!("{}\n", plain(text)))
}

/// The peer of that number or name: one that is there, else the one that was there last.
fn find<'a>(slots: &'a [Peer], wanted: &str) -> anyhow::Result<&'a Peer> {
    let known = || slots.iter().filter(|p| p.index == 0 || p.incarnation != 0);
    if let Ok(index) = wanted.parse::<u32>()
        && let Some(p) = known().find(|p| p.index == index)
    {
        return Ok(p);
    }
    let of_name = || known().filter(|p| !wanted.is_empty() && p.name == wanted);
    let here: Vec<_> = of_name().filter(|p| p.state != peer::EMPTY && !p.fenced).collect();
    match here[..] {
        [one] => return Ok(one),
        [] => {}
        _ => {
            let numbers: Vec<_> = here.iter().map(|p| p.index.to_string()).collect();
            bail!(
                "{} peers are called {wanted}: give the number of the one you mean, {}",
                here.len(),
                numbers.join(" or ")
            );
        }
    }
    let last = of_name().max_by_key(|p| (p.fenced, p.incarnation));
    last.with_context(|| {
        let there: Vec<_> = slots.iter().filter(|p| p.state != peer::EMPTY).map(named).collect();
        format!("there is no peer {}; there are: {}", plain(wanted), there.join(", "))
    })
}

/// Waits until this incarnation of the peer has left the table.
fn gone_within(session: &Session, which: &Peer, limit: Duration) -> anyhow::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let now = session.call(|r, _, _| Ok(r.peer(which.index)?))?;
        if now.is_none_or(|p| p.incarnation != which.incarnation) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Vec<Peer> {
        let slot = |(index, (state, incarnation, name)): (u32, (u32, u32, &str))| Peer {
            index,
            state,
            ivshmem: index,
            fenced: name == "paused",
            incarnation,
            boot: [0; 16],
            name: name.to_owned(),
        };
        let all = [
            (peer::LIVE, 0, "host"),
            (peer::LIVE, 3, "web"),
            (peer::EMPTY, 2, "gone"),
            (peer::EMPTY, 0, ""),
            (peer::LIVE, 1, "twin"),
            (peer::LIVE, 1, "twin"),
            (peer::EMPTY, 1, "web"),
            (peer::DEAD, 1, "paused"),
        ];
        (0..).zip(all).map(slot).collect()
    }

    #[test]
    fn a_peer_is_found_by_number_and_by_name_also_when_it_is_gone() {
        let slots = slots();
        let at = |wanted| find(&slots, wanted).map(|p| p.index).map_err(|e| e.to_string());
        assert_eq!(at("1"), Ok(1));
        assert_eq!(at("web"), Ok(1));
        assert_eq!(at("2"), Ok(2));
        assert_eq!(at("gone"), Ok(2));
        assert_eq!(at("0"), Ok(0));
        assert_eq!(at("paused"), Ok(7));
    }

    #[test]
    fn a_peer_that_never_was_and_one_of_several_are_not_guessed() {
        let slots = slots();
        let why = |wanted| find(&slots, wanted).unwrap_err().to_string();
        assert!(why("3").starts_with("there is no peer 3; there are: peer 0 (host), peer 1 (web)"));
        assert!(why("wbe").contains("no peer wbe"));
        assert!(why("").contains("no peer"));
        assert!(why("twin").contains("4 or 5"));
    }
}
