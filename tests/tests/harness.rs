//! What the tests themselves promise.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vshmem_tests::guests::Daemon;
use vshmem_tests::session::{Session, describe, processes};

/// In the test that is killed: where it tells its session.
const VICTIM: &str = "VSHMEM_TEST_VICTIM";
const LIMIT: Duration = Duration::from_secs(60);

fn comes(mut so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + LIMIT;
    while !so() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A daemon and its holder, and whoever has its place after it.
fn be_the_victim(tell: &Path) -> ! {
    let session = Session::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(&session, folder.path(), "left", "16M").unwrap();
    assert!(session.processes().len() >= 2, "no holder");
    let written = tell.with_extension("new");
    std::fs::write(&written, session.runtime().as_os_str().as_encoded_bytes()).unwrap();
    std::fs::rename(written, tell).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_test_that_is_killed_leaves_no_daemon() {
    if let Some(tell) = std::env::var_os(VICTIM) {
        be_the_victim(Path::new(&tell));
    }
    let folder = tempfile::tempdir().unwrap();
    let tell = folder.path().join("session");
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_test_that_is_killed_leaves_no_daemon"])
        .env(VICTIM, &tell)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = comes(|| tell.exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(begun, "the victim does not begin");
    let runtime = PathBuf::from(std::fs::read_to_string(&tell).unwrap());
    let left = || processes(&runtime).into_iter().map(describe).collect::<Vec<_>>();
    assert!(comes(|| left().is_empty()), "left: {:?}", left());
    assert!(comes(|| !runtime.exists()), "its directory is left");
}
