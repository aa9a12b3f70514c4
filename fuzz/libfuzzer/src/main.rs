//! libFuzzer over the target that `FUZZ_TARGET` names; see `vshmem_fuzz::TARGETS`.
//!
//! `cargo xtask soak --only fuzz` builds it with coverage and runs it over all of them.
#![no_main]

use std::sync::OnceLock;

fn target() -> fn(&[u8]) {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        let found = vshmem_fuzz::TARGETS.iter().find(|t| t.name == name);
        found.unwrap_or_else(|| panic!("no target is called {name}")).run
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target()(data));
