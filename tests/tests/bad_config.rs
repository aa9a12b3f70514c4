//! Configurations that are wrong, by accident or by intent: each is refused with the place, the
//! cause and what would be right, at once, and nothing is left half made.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vshmem_tests::run::{Outcome, run};
use vshmem_tests::session::Session;

const LIMIT: Duration = Duration::from_secs(30);
const GOOD: &str = "[[region]]\nname = \"r\"\nsize = \"16M\"\n";

struct World {
    session: Session,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { session: Session::new().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, config: &[u8], runtime_dir: Option<&Path>) -> Outcome {
        let file = self.path("vshmemd.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = self.session.command(&self.session.artifacts().vshmemd);
        command.arg("--config").arg(&file);
        if let Some(dir) = runtime_dir {
            command.arg("--runtime-dir").arg(dir);
        }
        run(&mut command, LIMIT).unwrap()
    }

    /// That it is refused with all of `parts`, and nothing runs or lies about.
    #[track_caller]
    fn refuses(&self, config: impl AsRef<[u8]>, runtime_dir: Option<&Path>, parts: &[&str]) {
        let (config, what) = (config.as_ref(), String::from_utf8_lossy(config.as_ref()));
        let outcome = self.start(config, runtime_dir);
        let what = what.chars().take(300).collect::<String>();
        assert_eq!(outcome.end, "exit 1", "{what}\n{outcome:?}");
        for part in parts {
            assert!(outcome.stderr.contains(part), "{what}\nno '{part}' in {}", outcome.stderr);
        }
        assert!(outcome.stderr.lines().count() <= 2, "{what}\n{}", outcome.stderr);
        assert!(self.session.processes().is_empty(), "{what}");
        let place = self.session.runtime().join("system");
        let left: Vec<_> = std::fs::read_dir(place).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{what}\n{left:?}");
    }
}

/// A region with one line more, or instead.
fn with(line: &str) -> String {
    let key = line.split(['=', ' ']).next().unwrap();
    let rest: String =
        GOOD.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
    format!("{rest}{line}\n")
}

#[test]
fn numbers_that_cannot_be_are_named_with_their_line() {
    let world = World::new();
    for (line, parts) in [
        ("size = \"0\"", &["line 3", "0 bytes", "at least 16M"][..]),
        ("size = 0", &["line 3", "16M"]),
        ("size = -16777216", &["line 3", "size"]),
        ("size = \"-16M\"", &["line 3", "size"]),
        ("size = \"1\"", &["line 3", "16M"]),
        ("size = \"17M\"", &["line 3", "power of two"]),
        ("size = \"99999999999999999999T\"", &["line 3", "size"]),
        ("size = \"512T\"", &["line 3", "at most"]),
        ("size = \"512G\"", &["region r", "at most", "256G"]),
        ("size = 1.5", &["line 3", "size"]),
        ("size = \"a lot\"", &["line 3", "a lot"]),
        ("size = []", &["line 3"]),
        ("vectors = 0", &["line 4", "vectors", "1 to 256"]),
        ("vectors = 257", &["line 4", "vectors", "1 to 256"]),
        ("max_vms = 0", &["line 4", "max_vms", "1 to"]),
        ("max_vms = 100000", &["line 4", "max_vms"]),
        ("number = 8", &["line 4", "number", "0 to 7"]),
        ("number = -1", &["line 4", "number"]),
        ("allow_uids = [-1]", &["line 4"]),
        ("allow_uids = [4294967296]", &["line 4"]),
        ("allow_uids = \"root\"", &["line 4"]),
        ("limits = { tasks = -5 }", &["line 4"]),
        ("limits = { shmmni = 4000000000 }", &["region r", "shmmni", "lower it"]),
        ("limits = { msgmax = 99999999999999 }", &["line 4", "u32"]),
    ] {
        let parts = [&["vshmemd.toml"], parts].concat();
        let parts = if parts.contains(&"region r") { &parts[1..] } else { &parts[..] };
        world.refuses(with(line), None, parts);
    }
}

#[test]
fn names_keys_and_syntax_that_mean_nothing_are_named_with_their_line() {
    let world = World::new();
    let nested = format!("{GOOD}x = {}", "[".repeat(100_000));
    for (config, parts) in [
        (with("name = \"\""), &["line 3", "name"][..]),
        (with("name = \"../r\""), &["line 3", "../r"]),
        (with("name = \"R\\u0000\""), &["line 3", "name"]),
        (with(&format!("name = \"{}\"", "r".repeat(1000))), &["line 3", "32"]),
        (with("colour = 1"), &["line 4", "colour"]),
        (with("limits = { colour = 1 }"), &["line 4", "colour"]),
        (with("backing = \"cloud\""), &["line 4", "cloud", "memfd"]),
        (with("contents = \"soup\""), &["line 4", "soup", "raw"]),
        (format!("[daemon]\ncolour = 1\n{GOOD}"), &["line 2", "colour"]),
        (format!("[daemon]\nlinger_seconds = -1\n{GOOD}"), &["line 2"]),
        (format!("[daemon]\non_sigterm = \"maybe\"\n{GOOD}"), &["line 2", "maybe", "keep"]),
        (format!("{GOOD}{GOOD}"), &["line 5", "\"r\"", "twice"]),
        (format!("{GOOD}size = \"16M\"\n"), &["line 4", "duplicate key"]),
        ("[[region]]\nname = \"r\"\n".into(), &["line 1", "size"]),
        ("[[region]]\nsize = \"16M\"\n".into(), &["line 1", "name"]),
        (String::new(), &["region"]),
        ("[[region".into(), &["line 1"]),
        (nested, &["vshmemd.toml"]),
    ] {
        let parts = [&["vshmemd.toml"], parts].concat();
        world.refuses(config, None, &parts);
    }
    world.refuses([0xff, 0xfe, 0], None, &["vshmemd.toml", "UTF-8"]);
}

#[test]
fn files_that_are_no_memory_are_refused_and_left_alone() {
    let world = World::new();
    let file = |path: &Path| format!("{GOOD}backing = \"file\"\npath = \"{}\"\n", path.display());
    let target = world.path("target");
    std::fs::write(&target, "precious").unwrap();
    symlink(&target, world.path("link")).unwrap();
    symlink(world.path("nowhere"), world.path("dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    std::fs::create_dir(world.path("folder")).unwrap();
    for (name, parts) in [
        ("target", &["8 bytes", "correct the size"][..]),
        ("link", &["link"]),
        ("dangling", &["dangling"]),
        ("pipe", &["pipe"]),
        ("folder", &["folder"]),
        ("absent/memory", &["absent/memory", "No such file"]),
    ] {
        let parts = [&["region r"], parts].concat();
        world.refuses(file(&world.path(name)), None, &parts);
    }
    world.refuses(file(Path::new("/dev/zero")), None, &["region r", "/dev/zero"]);
    world.refuses(format!("{GOOD}backing = \"file\"\n"), None, &["path"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    assert!(!world.path("nowhere").exists(), "made through a link");
}

#[test]
fn run_time_directories_that_will_not_do_are_refused() {
    let world = World::new();
    let file = world.path("file");
    std::fs::write(&file, "").unwrap();
    world.refuses(GOOD, Some(&file), &["runtime directory", "file"]);
    let long = world.path(&"d".repeat(120));
    world.refuses(GOOD, Some(&long), &["vshmemd.holder", "107 bytes", "--runtime-dir"]);
    let open = world.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    world.refuses(GOOD, Some(&open), &["runtime directory", "everyone", "chmod"]);
    assert!(std::fs::read_dir(&open).unwrap().next().is_none(), "something was made");
    if rustix::process::geteuid().is_root() {
        let other = world.path("other");
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::chown(&other, Some(65534), None).unwrap();
        world.refuses(GOOD, Some(&other), &["runtime directory", "uid 65534", "--runtime-dir"]);
    }
    // What is there already and no socket is not replaced.
    let taken = world.path("taken");
    std::fs::create_dir(&taken).unwrap();
    symlink("/etc/passwd", taken.join("r.sock")).unwrap();
    world.refuses(GOOD, Some(&taken), &["r.sock", "something else"]);
    assert!(taken.join("r.sock").is_symlink());
}
