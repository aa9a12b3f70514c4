//! Every word the command says of itself, and what it says when something is wrong.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p vshmem-cli` writes the files anew; read the difference.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A run-time directory of its own.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vshmem"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("XDG_RUNTIME_DIR", self.path("user"));
        command.env("VSHMEM_RUNTIME_DIR", self.path("system"));
        command.env("COLUMNS", "100");
        for name in [
            "VSHMEM_SOCKET",
            "VSHMEM_RULES",
            "VSHMEM_LIB",
            "LD_PRELOAD",
            "RUST_LOG",
            "RUST_BACKTRACE",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args))
    }
}

/// Its output, or the end of the test.
fn finish(mut command: Command) -> Output {
    let child = command.spawn().unwrap();
    let pid = child.id();
    let (done, end) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output().unwrap()));
    end.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{command:?} (pid {pid}) does not end"))
}

/// Status, standard output and standard error, with the directories' names taken out.
fn told(world: &World, output: &Output) -> String {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.replace(&world.0.path().display().to_string(), "DIR")
    };
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    format!("exit {}\n--- stdout\n{out}--- stderr\n{err}", output.status.code().unwrap_or(-1))
}

/// Compares with the file of that name.
fn check(name: &str, text: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected == text {
        return Ok(());
    }
    Err(format!("{} differs\n=== expected\n{expected}\n=== now\n{text}", path.display()))
}

fn all(checks: impl IntoIterator<Item = Result<(), String>>) {
    let wrong: Vec<_> = checks.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_help_text_is_as_recorded() {
    let world = World::new();
    let commands: &[&[&str]] = &[
        &[],
        &["run"],
        &["agent"],
        &["vm"],
        &["vm", "run"],
        &["ipcs"],
        &["ipcrm"],
        &["unshare"],
        &["top"],
        &["peer", "list"],
        &["peer", "fence"],
        &["task", "list"],
        &["region", "list"],
        &["region", "limits"],
        &["region", "set"],
        &["region", "check"],
        &["completions"],
    ];
    all(commands.iter().flat_map(|command| {
        [("-h", "short"), ("--help", "full")].map(|(flag, which)| {
            let args: Vec<_> = command.iter().copied().chain([flag]).collect();
            let name = format!("help-{}-{which}.txt", [&["vshmem"], *command].concat().join("-"));
            check(&name, &told(&world, &world.run(&args)))
        })
    }));
}

/// A snapshot's name, arguments, and what is in the environment.
type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a Path)]);

#[test]
fn every_complaint_is_as_recorded() {
    let world = World::new();
    let library = world.path("libvshmem.so");
    fs::write(&library, "").unwrap();
    let odd = world.path("with space.so");
    fs::write(&odd, "").unwrap();
    let dead = world.path("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let rules = world.path("rules");
    fs::write(&rules, "# shared\n0x1000-0x1fff = demo\n0x2000- = demo\n").unwrap();
    let (rules, none) = (rules.to_str().unwrap(), world.path("none"));
    let library_only: &[(&str, &Path)] = &[("VSHMEM_LIB", &library)];
    let cases: &[Case<'_>] = &[
        ("nothing", &[], &[]),
        ("unknown-command", &["frobnicate"], &[]),
        ("run-without-program", &["run"], &[]),
        ("run-unknown-program", &["run", "no-such-program"], &[]),
        ("run-directory", &["run", "/"], &[]),
        (
            "run-region-not-served",
            &["run", "--region", "demo", "true"],
            &[("VSHMEM_LIB", &library)],
        ),
        ("run-region-bad-name", &["run", "--region", "../x", "true"], &[("VSHMEM_LIB", &library)]),
        (
            "run-dead-socket",
            &["run", "true"],
            &[("VSHMEM_LIB", &library), ("VSHMEM_SOCKET", &dead)],
        ),
        ("run-share-bad-key", &["run", "--share", "1,0x2z=demo", "true"], library_only),
        ("run-share-bad-target", &["run", "--share", "1=../x", "true"], library_only),
        ("run-share-not-served", &["run", "--share", "1=demo", "true"], library_only),
        (
            "run-share-never-applies",
            &["run", "--share", "*=local", "--share", "1=demo", "true"],
            library_only,
        ),
        (
            "run-share-without-default",
            &["run", "--region", "demo", "--share", "1=blue", "true"],
            library_only,
        ),
        ("run-rules-bad-file", &["run", "--rules", rules, "true"], library_only),
        ("run-rules-no-file", &["run", "--rules", none.to_str().unwrap(), "true"], library_only),
        (
            "run-rules-bad-environment",
            &["run", "true"],
            &[("VSHMEM_LIB", &library), ("VSHMEM_RULES", Path::new("1=demo;2=De mo"))],
        ),
        ("run-library-missing", &["run", "true"], &[("VSHMEM_LIB", Path::new("/no/lib.so"))]),
        ("run-library-odd-path", &["run", "true"], &[("VSHMEM_LIB", &odd)]),
        ("vm-run-region-not-served", &["vm", "run", "--region", "demo", "--", "true"], &[]),
        ("vm-run-bad-memory", &["vm", "run", "--region", "demo", "--mem", "12", "true"], &[]),
        ("ipcs-region-not-served", &["ipcs", "--region", "demo"], &[]),
        ("ipcs-without-endpoint", &["ipcs"], &[]),
        ("ipcs-without-endpoint-json", &["ipcs", "--json"], &[]),
        ("ipcrm-nothing", &["ipcrm"], &[]),
        ("ipcrm-private-key", &["ipcrm", "-M", "0"], &[]),
        ("ipcrm-without-endpoint", &["ipcrm", "-m", "1"], &[]),
        ("unshare-nothing", &["unshare"], &[]),
        ("unshare-private-key", &["unshare", "-S", "0"], &[]),
        ("unshare-not-served", &["unshare", "--region", "demo", "-s", "1"], &[]),
        ("peer-list-without-endpoint", &["peer", "list"], &[]),
        ("region-check-not-served", &["region", "check", "demo"], &[]),
        ("region-check-two-names", &["region", "check", "demo", "--region", "demo"], &[]),
        ("peer-fence-without-endpoint", &["peer", "fence", "1"], &[]),
        ("peer-fence-nobody", &["peer", "fence"], &[]),
        ("top-without-endpoint", &["top", "--once"], &[]),
        ("region-list-empty", &["region", "list"], &[]),
        ("region-list-empty-json", &["region", "list", "--json"], &[]),
        ("agent-bad-name", &["agent", "--region", "A"], &[]),
    ];
    all(cases.iter().map(|(name, args, env)| {
        let mut command = world.command(args);
        command.envs(env.iter().copied());
        check(&format!("{name}.txt"), &told(&world, &finish(command)))
    }));
}

#[test]
fn completions_and_manual_are_made() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = world.run(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("ipcrm"), "{shell}");
    }
    let page = world.run(&["man"]);
    assert!(page.status.success());
    assert!(String::from_utf8(page.stdout).unwrap().contains("vshmem"));
}

#[test]
fn a_static_and_a_setuid_program_are_refused_by_name() {
    let world = World::new();
    // A program without an interpreter: this one's, with that header blanked out.
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_vshmem")).unwrap();
    let at = u64::from_le_bytes(bytes[0x20..0x28].try_into().unwrap()) as usize;
    let (size, count) = (usize::from(bytes[0x36]), usize::from(bytes[0x38]));
    for entry in (0..count).map(|i| at + i * size) {
        if bytes[entry] == 3 {
            bytes[entry] = 0;
        }
    }
    let program = world.path("static");
    fs::write(&program, bytes).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();
    let told = told(&world, &world.run(&["run", "--region", "demo", "--no-trap", "--", program]));
    assert!(told.starts_with("exit 1\n") && told.contains("linked statically"), "{told}");
}
