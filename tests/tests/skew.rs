//! Versions that meet: what is refused says which versions and what to do, and harms nobody.
//!
//! The other version is built from the same sources with a number changed ([`build::skewed`]):
//! "next format" differs in the region's format, "next wire" in everything that processes say to
//! one another and to the module.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vshmem_tests::build::{self, Artifacts};
use vshmem_tests::guests::{Guests, Host};
use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;

/// Boots included.
const LIMIT: Duration = Duration::from_secs(240);
const REGION_BASE: u64 = 2 << 20;
/// In the superblock.
const FEATURES: [(u64, &str); 3] =
    [(0x10, "compatible"), (0x18, "read-only compatible"), (0x20, "incompatible")];

struct Next {
    format: Artifacts,
    wire: Artifacts,
    _folders: [tempfile::TempDir; 2],
}

/// Both are built once, below the target directory, which guests see.
fn next() -> &'static Next {
    static BUILT: OnceLock<Next> = OnceLock::new();
    BUILT.get_or_init(|| {
        let near = build::artifacts().unwrap().vshmem;
        let folder =
            || tempfile::Builder::new().prefix("skew-").tempdir_in(near.parent().unwrap()).unwrap();
        let folders = [folder(), folder()];
        let format = build::skewed(&["FORMAT"], folders[0].path()).unwrap();
        let wire = build::skewed(&["ATTACH", "ABI", "HOLDER"], folders[1].path()).unwrap();
        Next { format, wire, _folders: folders }
    })
}

/// One at a time: they build, and boot.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A daemon; killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A region in a file, and programs that use it.
struct World {
    session: Session,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { session: Session::new().unwrap(), folder: tempfile::tempdir().unwrap() };
        let text = format!(
            "[[region]]\nname = \"r\"\nsize = \"16M\"\nbacking = \"file\"\npath = \"{}\"\n",
            world.path("memory").display()
        );
        std::fs::write(world.path("vshmemd.toml"), text).unwrap();
        build::compile(&build::programs().join("demo/steps.c"), world.folder.path()).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vshmemd(&self, of: &Artifacts) -> Command {
        let mut command = self.session.command(&of.vshmemd);
        command.arg("--config").arg(self.path("vshmemd.toml")).stdin(Stdio::null());
        command
    }

    fn serve(&self, of: &Artifacts) -> Daemon {
        let ready = self.path("ready");
        let _ = std::fs::remove_file(&ready);
        let mut command = self.vshmemd(of);
        command.arg("--ready-file").arg(&ready).stderr(Stdio::null());
        let mut daemon = Daemon(command.spawn().unwrap());
        let until = Instant::now() + LIMIT;
        while !ready.exists() {
            assert!(daemon.0.try_wait().unwrap().is_none(), "vshmemd ended");
            assert!(Instant::now() < until, "vshmemd is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// A program with the library of that version.
    fn steps(&self, of: &Artifacts, steps: &str) -> Outcome {
        let mut command = self.session.command(&of.vshmem);
        command.args(["run", "--region", "r", "--"]).arg(self.path("steps"));
        run(command.args(steps.split(' ')), LIMIT).unwrap()
    }

    fn works(&self, of: &Artifacts) {
        let outcome = self.steps(of, "B make say=made remove");
        assert!(outcome.good(), "{outcome:?}");
    }
}

/// That it failed, and said all of `parts`.
#[track_caller]
fn refused(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.end, "exit 1", "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "no '{part}' in: {}", outcome.stderr);
    }
}

/// The version that a message names before or after `word`: what is found, and what is spoken.
fn versions(own: u32, skew: bool) -> [String; 2] {
    let (found, spoken) = if skew { (own, own + 1) } else { (own + 1, own) };
    [format!("version {found}"), spoken.to_string()]
}

fn ours() -> Artifacts {
    build::artifacts().unwrap()
}

/// The format's version, as the region's own superblock says.
fn format(world: &World) -> u32 {
    let mut bytes = [0; 4];
    let file = std::fs::File::open(world.path("memory")).unwrap();
    file.read_exact_at(&mut bytes, REGION_BASE + 8).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn library_and_daemon_of_different_attach_protocols_refuse_each_other() {
    let _turn = turn();
    let (ours, next) = (ours(), &next().wire);
    for (daemon, library, said) in [
        (&ours, next, "version 1 of the attach protocol, this one 2"),
        (next, &ours, "version 2 of the attach protocol, this one 1"),
    ] {
        let world = World::new();
        let _daemon = world.serve(daemon);
        let todo = "install the same vshmem on both sides";
        refused(&world.steps(library, "A make"), &["r.sock", said, todo]);
        world.works(daemon);
    }
}

#[test]
fn library_and_region_of_different_formats_refuse_each_other() {
    let _turn = turn();
    let (ours, next) = (ours(), &next().format);
    for (daemon, library, skew) in [(&ours, next, true), (next, &ours, false)] {
        let world = World::new();
        let _daemon = world.serve(daemon);
        let own = format(&world) - u32::from(!skew);
        let [found, spoken] = versions(own, skew);
        let says = [&found, &format!("speaks {spoken}: install the same vshmem release")[..]];
        refused(&world.steps(library, "A make"), &["r.sock", says[0], says[1]]);
        world.works(daemon);
    }
}

#[test]
fn a_daemon_of_another_format_refuses_a_file_and_leaves_it_as_it_is() {
    let _turn = turn();
    let (ours, next) = (ours(), &next().format);
    let world = World::new();
    drop(world.serve(&ours));
    // Without a holder, as after a restart of the machine.
    let _ = run(world.vshmemd(&ours).arg("--shutdown"), LIMIT).unwrap();
    let before = std::fs::read(world.path("memory")).unwrap();
    let [found, spoken] = versions(format(&world), true);
    let says = ["region r", &found, &format!("speaks {spoken}")];
    refused(&run(&mut world.vshmemd(next), LIMIT).unwrap(), &says);
    assert!(before == std::fs::read(world.path("memory")).unwrap(), "the file was changed");
    let _daemon = world.serve(&ours);
    world.works(&ours);
}

#[test]
fn a_newer_daemon_that_cannot_take_over_leaves_tasks_and_holder_to_the_former_one() {
    let _turn = turn();
    let (ours, next) = (ours(), next());
    let world = World::new();
    let mut daemon = Some(world.serve(&ours));
    let mut command = world.session.command(&ours.vshmem);
    command.args(["run", "--region", "r", "--"]).arg(world.path("steps"));
    command.args(["A", "make", "take=0", "say=first", "take=1", "remove"]).stdout(Stdio::null());
    let mut task = Daemon(command.spawn().unwrap());
    assert!(world.steps(&ours, "A find waiters=0:1").good());
    let format = versions(format(&world), true);
    for (other, says) in [
        (
            &next.wire,
            ["version 1 of its protocol, this vshmemd 2", "start the vshmemd that started it"],
        ),
        (&next.format, [&format[0], "install the same vshmem release"]),
    ] {
        drop(daemon.take()); // killed, as by an upgrade that goes wrong
        refused(&run(&mut world.vshmemd(other), LIMIT).unwrap(), &says);
        daemon = Some(world.serve(&ours));
        world.works(&ours);
    }
    assert!(world.steps(&ours, "A find add=0 add=1").good());
    let status = task.0.wait().unwrap();
    assert!(status.success(), "the task ended with {status}");
}

#[test]
fn unknown_feature_bits_are_served_or_refused_by_their_kind() {
    let _turn = turn();
    let ours = ours();
    for (at, kind) in FEATURES {
        let world = World::new();
        let daemon = world.serve(&ours);
        let file =
            std::fs::File::options().read(true).write(true).open(world.path("memory")).unwrap();
        file.write_all_at(&(1u64 << 40).to_le_bytes(), REGION_BASE + at).unwrap();
        let says =
            [&format!("{kind} bits 0x10000000000"), "format version", "install the newer vshmem"];
        if kind == "compatible" {
            world.works(&ours);
        } else {
            refused(&world.steps(&ours, "A make"), &says);
        }
        drop(daemon);
        if kind == "compatible" {
            let _again = world.serve(&ours);
            world.works(&ours);
        } else {
            refused(&run(&mut world.vshmemd(&ours), LIMIT).unwrap(), &says);
        }
    }
}

/// Boots a guest whose agent must be refused; its messages.
fn refused_guest(host: &Host, vshmem: &Path, module: Option<&Path>) -> String {
    let mut command = host.session().command(vshmem);
    command.args(["vm", "run", "--region", host.region(), "--", "true"]);
    if let Some(module) = module {
        command.env("VSHMEM_MODULE_SRC", module);
    }
    let outcome = run(&mut command, LIMIT).unwrap();
    assert_ne!(outcome.end, "exit 0", "{outcome:?}");
    outcome.stderr
}

#[test]
fn guests_of_other_versions_are_refused_beside_one_that_an_upgrade_does_not_harm() {
    let _turn = turn();
    let (ours, next) = (ours(), next());
    let host = Host::start("test", "64M").unwrap();
    let mut guests = Guests::new(&host);
    let guest = guests.shell("stays").unwrap();
    let vshmem = ours.vshmem.display();
    let mut there = |steps: &str| {
        let line = format!("'{vshmem}' run --region test -- ./steps {steps}");
        let (status, said) = guests.ask(guest, &line, LIMIT).unwrap();
        assert_eq!(status, 0, "{steps}: {said:?}");
    };
    there("A make add=0");

    // An agent of the next format, and of the next interface to the module.
    let said = refused_guest(&host, &next.format.vshmem, None);
    for part in ["format version", "this library speaks", "install the same vshmem release"] {
        assert!(said.contains(part), "no '{part}' in {said}");
    }
    let said = refused_guest(&host, &next.wire.vshmem, None);
    for part in ["interface version 1, this program needs 2", "uio_vshmem of the same release"] {
        assert!(said.contains(part), "no '{part}' in {said}");
    }
    // A module of the next interface.
    let module = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(build::root().join("guest-driver/uio_vshmem")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), module.path().join(entry.file_name())).unwrap();
        }
    }
    let header = module.path().join("vshmem_abi.h");
    let text = std::fs::read_to_string(&header).unwrap();
    let changed = text.replace("VSHMEM_ABI_VERSION\t1", "VSHMEM_ABI_VERSION\t2");
    assert_ne!(text, changed);
    std::fs::write(&header, changed).unwrap();
    let said = refused_guest(&host, &ours.vshmem, Some(module.path()));
    assert!(said.contains("interface version 2, this program needs 1"), "{said}");

    // An upgrade of the host that does not fit, with the guest up.
    host.kill_daemon();
    for other in [&next.format, &next.wire] {
        let mut command = host.session().command(&other.vshmemd);
        command.arg("--config").arg(host.folder().join("vshmemd.toml")).stdin(Stdio::null());
        let outcome = run(&mut command, LIMIT).unwrap();
        refused(&outcome, &["version"]);
        there("A find take=0 add=0");
    }
    host.restart_daemon().unwrap();
    there("A find take=0 add=0");
    let here = run(host.run("steps").args(["A", "find", "value=0:1", "remove"]), LIMIT).unwrap();
    assert!(here.good(), "{here:?}");
    drop(guests);
    host.stop().unwrap();
}
