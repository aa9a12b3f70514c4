//! Unmodified programs of the distribution that use System V IPC: on the host
//! and in a guest. What each must do stands in its script in
//! `programs/users/`; here it is started, in a name space of its own where
//! that is allowed, so that whatever went past vshmem is seen in the kernel.
//!
//! `cargo test -p vshmem-tests --test users -- host_postgresql` runs one. The
//! scripts need the packages that `cargo xtask test --only users` installs.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use vshmem_tests::build;
use vshmem_tests::guests::{Guests, Host};
use vshmem_tests::run::run;

/// On the host each takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Boot included; instructions are emulated.
const GUEST_LIMIT: Duration = Duration::from_secs(300);

/// An unmodified program and how it is tried.
struct User {
    /// Its script's name.
    name: &'static str,
    /// Whether it runs as another user on the host: then it cannot use the
    /// endpoint of the user who tests.
    other: bool,
}

const USERS: &[User] = &[
    User { name: "fakeroot", other: true },
    User { name: "openmpi", other: false },
    User { name: "postgresql", other: true },
    User { name: "stress", other: false },
];

fn folder() -> PathBuf {
    build::programs().join("users")
}

/// Copies the scripts and compiles what they need.
fn prepare(user: &User, to: &Path) -> Result<()> {
    for name in ["users.sh", &format!("{}.sh", user.name)] {
        std::fs::copy(folder().join(name), to.join(name)).with_context(|| name.to_owned())?;
    }
    if user.name == "openmpi" {
        let mut compiler = Command::new("mpicc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(to.join("ring"));
        let outcome = run(compiler.arg(folder().join("ring.c")), LIMIT)
            .context("mpicc is missing: install libopenmpi-dev")?;
        ensure!(outcome.good(), "mpicc ended with {}:\n{}", outcome.end, outcome.stderr);
    }
    Ok(())
}

/// The script's environment and call; `region` is empty for the own endpoint.
fn call(host: &Host, user: &User, region: &str) -> Vec<String> {
    // Root may make a name space of its own.
    let own = match rustix::process::geteuid().is_root() {
        true => &["unshare", "-i", "env", "FRESH=1"][..],
        false => &["env"],
    };
    let vshmem = host.session().artifacts().vshmem.display();
    let ring = host.folder().join("ring");
    let mut line: Vec<String> = own.iter().map(|s| (*s).to_owned()).collect();
    line.extend([
        format!("VSHMEM={vshmem}"),
        format!("REGION={region}"),
        format!("RING={}", ring.display()),
    ]);
    line.extend(["sh".to_owned(), format!("./{}.sh", user.name)]);
    line
}

fn host() -> Result<Host> {
    Host::open_to_all("users", "256M")
}

fn on_the_host(user: &User) -> Result<()> {
    let host = host()?;
    prepare(user, host.folder())?;
    let line = call(&host, user, if user.other { host.region() } else { "" });
    let mut command = host.session().command(&line[0]);
    let outcome = run(command.args(&line[1..]).current_dir(host.folder()), LIMIT)?;
    ensure!(
        outcome.good(),
        "{} ended with {} after\n{}{}",
        user.name,
        outcome.end,
        outcome.stdout,
        outcome.stderr
    );
    eprint!("{}", outcome.stdout);
    host.stop()
}

fn in_a_guest(user: &User) -> Result<()> {
    let host = host()?;
    prepare(user, host.folder())?;
    let mut line = vec!["env".to_owned(), "SMALL=1".to_owned()];
    line.extend(call(&host, user, host.region()));
    let mut guests = Guests::new(&host);
    guests.boot(user.name, &["--smp", "2", "--mem", "1G"], &line)?;
    for said in guests.finish(GUEST_LIMIT)?.concat() {
        eprintln!("{said}");
    }
    host.stop()
}

/// Runs a test and says how long it took.
fn timed(test: impl FnOnce() -> Result<()>) -> Result<(), Failed> {
    let started = Instant::now();
    let outcome = test();
    eprintln!("  after {:.1} s", started.elapsed().as_secs_f64());
    outcome.map_err(|e| Failed::from(format!("{e:#}")))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each of them keeps two cores busy.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for user in USERS {
        let on_host = move || timed(|| on_the_host(user));
        trials.push(Trial::test(format!("host_{}", user.name), on_host));
        let guest = move || timed(|| in_a_guest(user));
        trials.push(Trial::test(format!("guest_{}", user.name), guest));
    }
    trials.sort_by(|a, b| b.name().cmp(a.name()));
    libtest_mimic::run(&arguments, trials).exit_code()
}
