//! What is wrong is named with its cause and a remedy, ends with a code that is
//! not 0, and leaves nothing behind.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vshmem_tests::build;
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::{Session, describe};

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const SIZE: u64 = 16 << 20;
/// Where the region starts in its file, and what it starts with.
const REGION_BASE: u64 = 2 << 20;
const VERSION: u64 = REGION_BASE + 8;

/// A configuration for a daemon that does not run yet.
struct World {
    session: Session,
    folder: tempfile::TempDir,
}

/// A daemon that serves; killed when dropped. (Its holder ends with the session.)
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    /// One region `r` in a file; `more` is added to the configuration.
    fn new(size: &str, more: &str) -> Self {
        let session = Session::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let world = Self { session, folder };
        let file = world.file();
        let text = format!(
            "[[region]]\nname = \"r\"\nsize = \"{size}\"\nbacking = \"file\"\npath = \"{}\"\n{more}",
            file.display()
        );
        std::fs::write(world.path("vshmemd.toml"), text).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("memory")
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(self.file()).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = self.session.command(&self.session.artifacts().vshmemd);
        command.arg("--config").arg(self.path("vshmemd.toml"));
        command
    }

    fn serve(&self) -> Daemon {
        let ready = self.path("ready");
        let mut command = self.command();
        command.arg("--ready-file").arg(&ready).stdin(Stdio::null());
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut daemon = Daemon(command.stderr(log).spawn().unwrap());
        let until = Instant::now() + LIMIT;
        while !ready.exists() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(daemon.0.try_wait().unwrap().is_none(), "vshmemd ended: {}", log());
            assert!(Instant::now() < until, "vshmemd is not ready: {}", log());
            std::thread::sleep(POLL);
        }
        daemon
    }

    /// A command of `vshmem`.
    fn vshmem(&self, arguments: &[&str]) -> Outcome {
        run(self.session.vshmem().args(arguments), LIMIT).unwrap()
    }

    /// What is in the run-time directory, sockets and locks alike.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.session.runtime().join("system"));
        let names = entries.into_iter().flatten().flatten();
        let mut names: Vec<_> =
            names.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Waits until nothing of this session runs and its directory is empty.
    fn nothing_is_left(&self) {
        let until = Instant::now() + LIMIT;
        loop {
            let running: Vec<_> = self.session.processes().into_iter().map(describe).collect();
            let files = self.left();
            if running.is_empty() && files.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left: {files:?}, running: {running:?}");
            std::thread::sleep(POLL);
        }
    }
}

/// That it failed with 1, said all of `parts`, and nothing on standard output.
#[track_caller]
fn complains(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.end, "exit 1", "{outcome:?}");
    assert_eq!(outcome.stdout, "", "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "no '{part}' in: {}", outcome.stderr);
    }
    let lines = outcome.stderr.trim_end().lines().count();
    assert!(lines <= 2, "{lines} lines:\n{}", outcome.stderr);
}

fn compiled(name: &str, into: &Path) -> PathBuf {
    build::compile(&build::programs().join(format!("demo/{name}.c")), into).unwrap()
}

/// A daemon whose file is like this does not start, and changes nothing.
#[track_caller]
fn refused(world: &World, parts: &[&str]) {
    let before = std::fs::read(world.file()).ok();
    complains(&run(&mut world.command(), LIMIT).unwrap(), parts);
    assert!(before == std::fs::read(world.file()).ok(), "the file was changed");
    world.nothing_is_left();
}

#[test]
fn a_file_that_is_no_region_is_refused() {
    let world = World::new("16M", "");
    std::fs::write(world.file(), vec![0xa5; SIZE as usize]).unwrap();
    refused(&world, &["region r", "magic is 0xa5a5a5a5a5a5a5a5", "is this the right file"]);
}

#[test]
fn a_region_of_another_version_is_refused() {
    let world = World::new("16M", "");
    end(world.serve(), &world);
    world.write(VERSION, &77u32.to_le_bytes());
    refused(&world, &["region r", "version 77", "install the same vshmem release"]);
}

#[test]
fn a_truncated_region_is_refused() {
    let world = World::new("16M", "");
    end(world.serve(), &world);
    std::fs::File::options().write(true).open(world.file()).unwrap().set_len(SIZE / 2).unwrap();
    let path = world.file().display().to_string();
    refused(&world, &["region r", &path, "8388608 bytes", "16777216", "correct the size"]);
}

#[test]
fn a_region_that_says_it_is_longer_than_its_file_is_refused() {
    let world = World::new("32M", "");
    end(world.serve(), &world);
    std::fs::File::options().write(true).open(world.file()).unwrap().set_len(SIZE).unwrap();
    let config = std::fs::read_to_string(world.path("vshmemd.toml")).unwrap();
    std::fs::write(world.path("vshmemd.toml"), config.replace("32M", "16M")).unwrap();
    refused(&world, &["region r", "truncated", "bytes mapped"]);
}

#[test]
fn a_size_that_is_no_power_of_two_is_refused_with_its_line() {
    let world = World::new("48M", "");
    refused(&world, &["vshmemd.toml, line 3", "50331648", "power of two", "the next is 64M"]);
    assert!(!world.file().exists(), "a file was made");
}

#[test]
fn an_unknown_region_is_refused_by_every_command() {
    let world = World::new("16M", "");
    let daemon = world.serve();
    let before = world.left();
    for arguments in [
        &["run", "--region", "x", "--", "true"][..],
        &["ipcs", "--region", "x"],
        &["ipcrm", "--region", "x", "--all"],
        &["peer", "list", "--region", "x"],
        &["task", "list", "--region", "x"],
        &["vm", "run", "--region", "x", "--", "true"],
    ] {
        complains(&world.vshmem(arguments), &["region x", "socket", "start vshmemd"]);
    }
    assert_eq!(world.left(), before);
    end(daemon, &world);
}

#[test]
fn without_an_endpoint_every_command_says_how_to_start_one() {
    let world = World::new("16M", "");
    complains(
        &world.vshmem(&["run", "--region", "r", "--", "true"]),
        &["region r", "r.sock", "no such socket", "start vshmemd", "`vshmem agent`"],
    );
    complains(&world.vshmem(&["ipcs", "--region", "r"]), &["region r", "start vshmemd"]);
    complains(&world.vshmem(&["peer", "list"]), &["own endpoint does not run", "--region"]);
    complains(&world.vshmem(&["ipcrm", "-m", "1"]), &["own endpoint does not run", "--region"]);
    // Nothing to list is no failure.
    assert!(world.vshmem(&["ipcs"]).good());
    world.nothing_is_left();
}

#[test]
fn an_endpoint_that_died_is_told_from_one_that_never_was() {
    let world = World::new("16M", "");
    let folder = world.session.runtime().join("system");
    std::fs::create_dir(&folder).unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.join("r.sock")).unwrap());
    let outcome = world.vshmem(&["run", "--region", "r", "--", "true"]);
    complains(&outcome, &["region r", "r.sock", "start vshmemd"]);
    // What is left of a dead daemon does not stop the next one.
    end(world.serve(), &world);
}

#[test]
fn a_second_daemon_is_refused_and_the_first_serves_on() {
    let world = World::new("16M", "");
    let daemon = world.serve();
    let before = world.left();
    let outcome = run(&mut world.command(), LIMIT).unwrap();
    let pid = format!("pid {}", daemon.0.id());
    complains(&outcome, &[&pid, "serves", "already", "--shutdown"]);
    assert_eq!(world.left(), before);
    assert!(world.vshmem(&["ipcs", "--region", "r"]).good());
    // In another directory it is the region's file that is taken.
    let elsewhere = world.path("elsewhere");
    let mut command = world.command();
    let outcome = run(command.arg("--runtime-dir").arg(&elsewhere), LIMIT).unwrap();
    complains(&outcome, &["region r", "memory", "in use"]);
    assert!(world.vshmem(&["ipcs", "--region", "r"]).good());
    end(daemon, &world);
}

#[test]
fn a_damaged_superblock_is_refused_while_the_region_is_served() {
    let world = World::new("16M", "");
    let daemon = world.serve();
    let program = compiled("steps", world.folder.path());
    let go = || {
        let mut command = world.session.run(Some("r"), &program);
        run(command.args(["A", "make", "say=made", "remove"]), LIMIT).unwrap()
    };
    assert!(go().good());
    for (at, bytes, says) in [
        (REGION_BASE, &b"nonsense"[..], "no vshmem region: magic is"),
        (VERSION, &[9, 0, 0, 0], "version 9"),
    ] {
        let file = std::fs::File::open(world.file()).unwrap();
        let mut good = vec![0; bytes.len()];
        file.read_exact_at(&mut good, at).unwrap();
        world.write(at, bytes);
        complains(&go(), &["region", "r.sock", says]);
        complains(&world.vshmem(&["ipcs", "--region", "r"]), &["region", "r.sock", says]);
        let listed = world.vshmem(&["region", "list"]);
        assert!(listed.good() && listed.stdout.contains(says), "{listed:?}");
        world.write(at, &good);
        let outcome = go();
        assert!(outcome.good(), "repaired: {outcome:?}");
    }
    end(daemon, &world);
}

#[test]
fn when_all_task_slots_are_taken_the_next_is_refused_and_a_death_makes_room() {
    let world = World::new("16M", "[region.limits]\ntasks = 16\n");
    let daemon = world.serve();
    let program = compiled("steps", world.folder.path());
    let mut full = None;
    let mut tasks = Vec::new();
    while full.is_none() && tasks.len() <= 16 {
        let mut command = world.session.run(Some("r"), &program);
        command.args(["A", "make", "say=in", "pause"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut task = Daemon(command.stderr(Stdio::piped()).spawn().unwrap());
        let mut said = [0; 3];
        let mut stdout = task.0.stdout.take().unwrap();
        match std::io::Read::read_exact(&mut stdout, &mut said) {
            Ok(()) => tasks.push(task),
            Err(_) => full = Some(std::io::read_to_string(task.0.stderr.take().unwrap()).unwrap()),
        }
    }
    let message = full.unwrap_or_else(|| panic!("{} tasks, and no end", tasks.len()));
    // Of the slots, or of the lanes: the endpoint has some of those itself.
    let remedy = ["end some programs", "more tasks"].iter().any(|r| message.contains(r));
    assert!(message.contains("all 16") && message.contains("taken") && remedy, "{message}");
    drop(tasks.pop());
    // A death is noticed by the endpoint, not by us: ask until there is room.
    let until = Instant::now() + LIMIT;
    loop {
        let mut command = world.session.run(Some("r"), &program);
        if run(command.args(["A", "make", "say=in"]), LIMIT).unwrap().good() {
            break;
        }
        assert!(Instant::now() < until, "no room after a death");
    }
    drop(tasks);
    end(daemon, &world);
}

#[test]
fn a_full_region_says_so_by_errno_and_works_again_afterwards() {
    let world = World::new("16M", "");
    let daemon = world.serve();
    let program = compiled("fill", world.folder.path());
    // Again: what the first gave back is there for the second.
    for _ in 0..2 {
        let outcome = run(&mut world.session.run(Some("r"), &program), LIMIT).unwrap();
        assert!(outcome.good(), "{outcome:?}");
    }
    end(daemon, &world);
}

#[test]
fn a_mutex_that_cannot_reach_other_kernels_is_named_once() {
    let world = World::new("16M", "");
    let daemon = world.serve();
    let program = compiled("protocol", world.folder.path());
    let outcome = run(&mut world.session.run(Some("r"), &program), LIMIT).unwrap();
    assert!(outcome.good(), "{outcome:?}");
    let place = format!("at offset 0x40 of segment {}", outcome.stdout.trim());
    for part in ["priority protocol", &place, "PTHREAD_PRIO_NONE"] {
        assert_eq!(outcome.stderr.matches(part).count(), 1, "{part}: {outcome:?}");
    }
    end(daemon, &world);
}

#[test]
fn without_free_descriptors_a_program_is_told_so() {
    let world = World::new("16M", "");
    let daemon = world.serve();
    for limit in [4, 5] {
        let script = format!("ulimit -n {limit}; exec ipcmk -S 1");
        let mut command = world.session.vshmem();
        command.args(["run", "--region", "r", "--", "sh", "-c", &script]);
        let outcome = run(&mut command, LIMIT).unwrap();
        assert_ne!(outcome.end, "exit 0", "{outcome:?}");
        let told = "no free file descriptors";
        assert!(outcome.stderr.contains(told), "limit {limit}: {outcome:?}");
    }
    end(daemon, &world);
}

#[test]
fn an_agent_where_there_is_no_device_says_what_is_missing() {
    if Path::new("/dev/vshmem0").exists() {
        eprintln!("this machine has a region's device: nothing to refuse");
        return;
    }
    let world = World::new("16M", "");
    let outcome = world.vshmem(&["agent", "--region", "r"]);
    complains(&outcome, &["no ivshmem device", "started without a region", "`vshmem vm run`"]);
    world.nothing_is_left();
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let world = World::new("16M", "");
    std::fs::remove_file(world.path("vshmemd.toml")).unwrap();
    refused(&world, &["vshmemd.toml", "No such file"]);
}

/// Ends a daemon in order; everything of it must go.
#[track_caller]
fn end(mut daemon: Daemon, world: &World) {
    let pid = rustix::process::Pid::from_child(&daemon.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let until = Instant::now() + LIMIT;
    while daemon.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "vshmemd ignores SIGINT");
        std::thread::sleep(POLL);
    }
    std::fs::remove_file(world.path("ready")).unwrap();
    world.nothing_is_left();
}
