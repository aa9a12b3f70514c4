//! What hostile bytes do to every part that reads them: nothing that is not an error.
//!
//! Each [`Target`] takes any bytes and panics only where a promise is broken. Three drive them: the
//! tests, with the bytes under `corpus/` that once broke something or lead far inside; libFuzzer
//! (`libfuzzer/`, `cargo xtask soak --only fuzz`), which finds others; and [`scribble`], which needs
//! no bytes but a seed.

use std::path::Path;

pub mod scribble;

use vshmem_core::attach::{Reply, Request};
use vshmem_core::format::Spec;
use vshmem_core::mem::{HeapMem, Mem, Offset};
use vshmem_core::region::{Kind, Region};
use vshmem_core::{Lane, LaneId};
use vshmem_sysv::proc::{File, Listing};

/// Something that reads bytes which others may have written.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What `FUZZ_TARGET` and the folder in `corpus/` call it.
    pub name: &'static str,
    /// Reads them.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "sysv", run: scribble::bytes },
    Target { name: "open", run: open },
    Target { name: "attach", run: attach },
    Target { name: "config", run: config },
    Target { name: "state", run: state },
    Target { name: "rules", run: rules },
    Target { name: "proc", run: proc },
];

/// A superblock of these bytes: refused, or a region that can be looked through.
fn open(data: &[u8]) {
    let mut spec = Spec::new("fuzz", 3 << 20);
    spec.tasks = 16;
    let mem = HeapMem::new(spec.len);
    Region::format(mem.clone(), &spec).expect("it fits");
    let (at, bytes) = match data {
        [low, high, rest @ ..] => (u64::from(*low) | u64::from(*high) << 8, rest),
        _ => (0, data),
    };
    let bytes = &bytes[..bytes.len().min(4096)];
    mem.write_bytes(Offset(at), bytes).expect("inside");
    let Ok(r) = Region::open(mem) else { return };
    assert!(r.geometry().len <= spec.len);
    let _ = (r.name(), r.owner(), r.peers(), r.tasks(), r.pages());
    for kind in Kind::ALL {
        let _ = vshmem_sysv::object::indices(&r, kind);
    }
    let _ = vshmem_sysv::check::look(&r, &mut Lane::new(LaneId(0)));
}

/// Messages of the attach protocol: what is understood says the same again.
fn attach(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(Request::decode(&request.encode()).expect("its own"), request);
    }
    if let Ok(reply) = Reply::decode(data) {
        let again = Reply::decode(&reply.encode()).expect("its own");
        // What was no text became one, and that may be longer than there is room for.
        assert!(reply.text.starts_with(&again.text));
        assert_eq!(again, Reply { text: again.text.clone(), ..reply });
    }
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// The daemon's configuration, and the sizes in it.
fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let _ = vshmem_host::config::parse_size(text).map(vshmem_host::config::check_size);
    match vshmem_host::config::Config::parse(text, Path::new("fuzz.toml")) {
        Ok(config) => assert!(config.regions.iter().all(|r| r.size.is_power_of_two())),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// What a holder gives back to the next daemon: what is understood says the same again.
fn state(data: &[u8]) {
    use vshmem_host::state::State;
    let Some(Ok(state)) = text(data).map(State::parse) else { return };
    let again = state.to_text().expect("it was text");
    assert_eq!(State::parse(&again).expect("its own"), state);
}

/// `VSHMEM_RULES`: what is understood leads every key somewhere.
fn rules(data: &[u8]) {
    let Some(text) = text(data) else { return };
    match vshmem::Rules::parse(text) {
        Ok(rules) => {
            let all = rules.targets();
            for kind in Kind::ALL {
                for key in [i32::MIN, -1, 0, 1, i32::MAX] {
                    let target = rules.target(kind, key);
                    assert!(all.contains(&target) || *target == *rules.rest(kind));
                }
            }
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// Paths below `/proc`, and what is written there.
fn proc(data: &[u8]) {
    let _ = (File::at(data), File::is_name(data));
    let Some((which, text)) = data.split_first() else { return };
    scribble::with_region(|r, on, c| {
        let limits = vshmem_core::layout::Limit::ALL;
        let files = limits.map(File::Limit).into_iter();
        let files: Vec<_> = files.chain([File::Sem, File::NextId(Listing::Sem)]).collect();
        let file = files[usize::from(*which) % files.len()];
        if let Ok(taken) = file.store(r, on, c, text) {
            assert!(taken <= text.len());
        }
        for limit in limits {
            let now = r.limit(limit).expect("the region is whole");
            assert!(now <= r.geometry().limit_max(limit));
        }
    });
}
