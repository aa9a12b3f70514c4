//! Several regions and the kernel in one process, and the rules that lead to them, through the
//! commands that a user types.
#![allow(missing_docs)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vshmem_tests::guests::Daemon;
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;
use vshmem_tests::{build, diff::diff};

/// Longer than the programs' own alarm, which names the place better.
const WATCHDOG: Duration = Duration::from_secs(75);
const REGIONS: &str = r#"
[[region]]
name = "red"
size = "64M"
number = 1
[[region]]
name = "green"
size = "64M"
number = 7
[[region]]
name = "blue"
size = "64M"
[[region]]
name = "twin"
size = "16M"
number = 1
"#;

struct World {
    _daemon: Daemon,
    session: Session,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (session, folder) = (Session::new().unwrap(), tempfile::tempdir().unwrap());
        let daemon = Daemon::serve(&session, folder.path(), REGIONS).unwrap();
        Self { _daemon: daemon, session, folder }
    }

    fn program(&self, name: &str) -> PathBuf {
        build::compile(&build::programs().join(name), self.folder.path()).unwrap()
    }

    /// `vshmem run` with these options.
    fn run<S: AsRef<OsStr>>(&self, options: &[&str], program: &[S]) -> Outcome {
        let mut command = self.session.vshmem();
        command.arg("run").args(options).arg("--").args(program);
        run(&mut command, WATCHDOG).unwrap()
    }

    /// What `get` says of `keys` under these options.
    fn leads(&self, options: &[&str], keys: &[&str]) -> String {
        let program = self.program("regions/get.c");
        let words: Vec<_> =
            [program.as_os_str()].into_iter().chain(keys.iter().map(OsStr::new)).collect();
        let outcome = self.run(options, &words);
        assert!(outcome.good(), "{outcome:?}");
        assert_eq!(outcome.stderr, "");
        outcome.stdout
    }
}

fn refused(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.end, "exit 1", "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in {}", outcome.stderr);
    }
}

#[test]
fn one_process_works_in_two_regions_and_the_kernel() {
    let world = World::new();
    let program = world.program("regions/several.c");
    let rules = ["--share", "0x1000-0x1fff,msg:private=red", "--share", "0x2000-0x2fff=green"];
    let outcome = world.run(&rules, &[&program]);
    let expected = include_str!("../programs/regions/several.expected");
    let differs = diff(expected, &outcome.stdout);
    assert!(differs.is_empty() && outcome.good(), "{differs}{outcome:?}");
}

/// The programs about processes, undo and attachments, with each kind of object in another region.
#[test]
fn what_conforms_in_one_region_conforms_in_three() {
    let world = World::new();
    let rules = ["--share", "shm:*=red", "--share", "sem:*=green", "--share", "msg:*=blue"];
    for source in build::sources(&build::programs()).unwrap() {
        let name = source.file_name().unwrap().to_string_lossy().into_owned();
        let wanted = ["proc_", "sem_undo", "shm_fork", "shm_exec", "shm_vma"];
        if !wanted.iter().any(|w| name.starts_with(w)) {
            continue;
        }
        let program = world.program(&name);
        let kernel = run(&mut on_the_kernel(&program), WATCHDOG).unwrap();
        let ours = world.run(&rules, &[&program]);
        let differs = diff(&kernel.stdout, &ours.stdout);
        assert!(differs.is_empty() && ours.end == kernel.end, "{name}:\n{differs}{ours:?}");
    }
}

fn on_the_kernel(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut unshare = Command::new("unshare");
    unshare.arg("-i").arg(program);
    unshare
}

#[test]
fn rules_decide_by_key_and_kind_and_the_first_one_wins() {
    let world = World::new();
    assert_eq!(
        world.leads(&["--region", "red"], &["5", "0"]),
        "5: sem 1, shm 1, msg 1\n0: sem 1, shm 1, msg 1\n"
    );
    // What no rule names stays here, in every way of saying so.
    let one = "5: sem 1, shm 1, msg 1\n6: sem kernel, shm kernel, msg kernel\n\
               0: sem kernel, shm kernel, msg kernel\n";
    for rules in [
        &["--region", "red", "--share", "5"][..],
        &["--share", "5=red"],
        &["--share", "5=red", "--share", "*=local"],
    ] {
        assert_eq!(world.leads(rules, &["5", "6", "0"]), one, "{rules:?}");
    }
    let file = world.folder.path().join("rules");
    std::fs::write(&file, "sem:5-9 = green # not the rest\n\nprivate = blue\n*\n").unwrap();
    let rules = ["--region", "red", "--share", "7=local", "--rules", file.to_str().unwrap()];
    let seen = world.leads(&rules, &["5", "7", "0", "0xffffffff"]);
    let expected = "5: sem 7, shm 1, msg 1\n7: sem kernel, shm kernel, msg kernel\n\
                    0: sem 0, shm 0, msg 0\n0xffffffff: sem 1, shm 1, msg 1\n";
    assert_eq!(seen, expected);
}

#[test]
fn rules_reach_the_programs_that_a_program_starts() {
    let world = World::new();
    let get = world.program("regions/get.c");
    let text = format!("{} 5 6", get.display());
    let outcome = world.run(&["--share", "5=green"], &["sh", "-c", &text]);
    let expected = "5: sem 7, shm 7, msg 7\n6: sem kernel, shm kernel, msg kernel\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    // An inner `vshmem run` keeps them, unless it is told otherwise.
    let vshmem = world.session.artifacts().vshmem.display();
    for (inner, expected) in [
        ("", expected),
        ("--share 6=red", "5: sem kernel, shm kernel, msg kernel\n6: sem 1, shm 1, msg 1\n"),
        ("--region blue", "5: sem 0, shm 0, msg 0\n6: sem 0, shm 0, msg 0\n"),
    ] {
        let text = format!("{vshmem} run {inner} -- {} 5 6", get.display());
        let outcome = world.run(&["--share", "5=green"], &["sh", "-c", &text]);
        assert_eq!(outcome.stdout, expected, "{inner}: {outcome:?}");
    }
}

#[test]
fn two_regions_of_one_number_are_refused_before_the_program_starts() {
    let world = World::new();
    let both = ["red", "twin", "number 1", "vshmemd's configuration"];
    let rules = ["--share", "5=red", "--share", "6=twin"];
    refused(&world.run(&rules, &["echo", "started"]), &both);
    refused(
        &world.run(&["--region", "red", "--share", "6=twin", "--share", "*"], &["true"]),
        &both,
    );
    // One region under two names is one.
    let rules = ["--region", "red", "--share", "5=red", "--share", "*"];
    assert_eq!(
        world.leads(&rules, &["5", "6"]),
        "5: sem 1, shm 1, msg 1\n6: sem 1, shm 1, msg 1\n"
    );
    refused(
        &world.run(&["--share", "5=nowhere"], &["true"]),
        &["region nowhere", "no such socket"],
    );
}

/// What `vshmem run` checks, the library does not take for granted.
#[test]
fn a_program_with_impossible_rules_gets_errors_and_no_other_objects() {
    let world = World::new();
    let get = world.program("regions/get.c").display().to_string();
    for (rules, said, seen) in [
        (
            "5=red;6=twin",
            "both have number 1",
            "5: sem 1, shm 1, msg 1\n6: sem ENOSYS, shm ENOSYS, msg ENOSYS\n",
        ),
        (
            "5=red;6=nowhere",
            "nowhere.sock",
            "5: sem 1, shm 1, msg 1\n6: sem ENOSYS, shm ENOSYS, msg ENOSYS\n",
        ),
        (
            "5=red;6=?",
            "column 9",
            "5: sem ENOSYS, shm ENOSYS, msg ENOSYS\n6: sem ENOSYS, shm ENOSYS, msg ENOSYS\n",
        ),
    ] {
        let set = format!("VSHMEM_RULES={rules}");
        let outcome = world.run(&["--region", "blue"], &["env", &set, &get, "5", "6"]);
        assert_eq!(outcome.stdout, seen, "{rules}: {outcome:?}");
        assert!(outcome.stderr.contains(said), "{rules}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "said once: {}", outcome.stderr);
    }
}

#[test]
fn regions_are_listed_with_their_numbers() {
    let world = World::new();
    let outcome = run(world.session.vshmem().args(["region", "list"]), WATCHDOG).unwrap();
    let rows: Vec<Vec<_>> =
        outcome.stdout.lines().map(|l| l.split_whitespace().take(3).collect()).collect();
    let expected = [
        ["REGION", "NUMBER", "SIZE"],
        ["blue", "0", "64M"],
        ["green", "7", "64M"],
        ["red", "1", "64M"],
        ["twin", "1", "16M"],
    ];
    assert_eq!(rows, expected, "{outcome:?}");
}

/// The memory of a region, through the daemon that holds it.
fn memory(world: &World, name: &str) -> File {
    let fds = world.session.processes().into_iter().flat_map(|pid| {
        let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|f| f.path())
    });
    let named = |fd: &PathBuf| {
        let to = std::fs::read_link(fd).unwrap_or_default();
        to.to_string_lossy().starts_with("/memfd:") && to.to_string_lossy().contains(name)
    };
    let writable = |fd: PathBuf| File::options().read(true).write(true).open(fd).ok();
    fds.filter(named).find_map(writable).expect("the daemon holds the region's memory")
}

#[test]
fn a_damaged_region_is_checked_and_repaired() {
    let world = World::new();
    let check = |options: &[&str]| {
        let mut command = world.session.vshmem();
        run(command.args(["region", "check", "blue"]).args(options), WATCHDOG).unwrap()
    };
    let clean = check(&[]);
    assert_eq!((clean.stdout.as_str(), clean.good()), ("region blue: nothing found\n", true));
    // How many segments there are, by the region's directory.
    let counted = (2 << 20) + 0x408;
    memory(&world, "blue").write_all_at(&9u64.to_le_bytes(), counted).unwrap();
    let found = check(&[]);
    assert_eq!(found.end, "exit 1", "{found:?}");
    let says = "directory of segments at 0x408: counts 9 segments, there are 0 [directory]\n";
    assert!(found.stdout.starts_with(says), "{found:?}");
    let json: serde_json::Value = serde_json::from_str(&check(&["--json"]).stdout).unwrap();
    assert_eq!(json["findings"][0]["fault"], "directory");
    assert_eq!(json["findings"][0]["offset"], 0x408);
    let repaired = check(&["--repair"]);
    assert!(repaired.good() && repaired.stdout.starts_with("mended: directory of segments"));
    assert_eq!(check(&["--repair"]).stdout, clean.stdout);
    assert_eq!(check(&[]).stdout, clean.stdout);
}
