//! The preload unwinds without having loaded `libgcc_s` before: its jumps, as
//! they are, linked into this program, whose tests panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use vshmem_tests::build;

#[cfg(target_arch = "x86_64")]
#[path = "../../guest-lib/capi/src/unwind.rs"]
mod unwind;

/// The libraries that a program or a library names.
fn needed(file: &Path) -> Vec<String> {
    let output = Command::new("readelf").arg("-d").arg(file).output().expect("binutils");
    assert!(output.status.success(), "readelf {}", file.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name =
        |line: &str| Some(line.split_once("(NEEDED)")?.1.split(['[', ']']).nth(1)?.to_owned());
    text.lines().filter_map(name).collect()
}

struct Guard<'a>(&'a mut bool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        *self.0 = true;
    }
}

#[test]
fn a_panic_unwinds_through_the_jumps() {
    let mut dropped = false;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _guard = Guard(&mut dropped);
        // Not known at compile time: nothing is optimised away.
        let number = std::hint::black_box(1);
        assert_eq!(number, 2, "on purpose");
    }));
    assert!(outcome.is_err() && dropped);
    let trace = std::backtrace::Backtrace::force_capture().to_string();
    assert!(trace.contains("a_panic_unwinds_through_the_jumps"), "{trace}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn nothing_but_the_c_library_is_loaded_with_the_preload() {
    let own = needed(Path::new("/proc/self/exe"));
    assert!(!own.iter().any(|n| n.contains("libgcc_s")), "not what was to be tested: {own:?}");
    let library = build::artifacts().expect("a build").vshmem.with_file_name("libvshmem.so");
    let needed = needed(&library);
    assert!(
        needed.iter().all(|n| n.starts_with("libc.so") || n.starts_with("ld-linux")),
        "each library costs every program that is started: {needed:?}"
    );
}
