//! Debian packages that the build and the tests need.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::quiet;

/// Compiler and tools for every build.
pub const BUILD: &[&str] = &["build-essential", "util-linux"];

/// What sets limits in the tests of `/proc`.
pub const PROC: &[&str] = &["procps", "python3"];

/// What the benchmarks count with.
pub const COUNTERS: &[&str] = &["strace", "valgrind"];

/// What guests need: the machine, a kernel to boot and headers for the module.
pub const GUESTS: &[&str] = &[
    "qemu-system-x86",
    "kmod",
    "xz-utils",
    "busybox-static",
    "linux-image-amd64",
    "linux-headers-amd64",
];

/// The unmodified users of System V IPC that are tried, and what trying them
/// needs.
pub const USERS: &[&str] =
    &["postgresql", "fakeroot", "dpkg-dev", "stress-ng", "openmpi-bin", "libopenmpi-dev", "procps"];

fn installed(package: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|o| o.stdout == b"install ok installed")
}

fn apt(arguments: &[&str]) -> Result<bool> {
    let mut command = Command::new("apt-get");
    // Somebody else's apt may be at work: wait for it.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    // Its output is progress, and standard output is ours.
    command.stdout(std::io::stderr());
    eprintln!("==> apt-get {}", arguments.join(" "));
    Ok(command.status().context("cannot start apt-get")?.success())
}

/// Installs the packages that are missing when run as root; otherwise says
/// which one command does.
///
/// # Errors
///
/// Not root, no apt, or apt's failure.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !quiet(Command::new("apt-get").arg("--version")) {
        bail!(
            "missing: {}; there is no apt-get here, install them by other means",
            missing.join(", ")
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing: {}; run this once:\n  sudo {line}", missing.join(", "));
    }
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    // The lists may be fresh enough; they are fetched only if not.
    if apt(&install)? || (apt(&["update"])? && apt(&install)?) {
        return Ok(());
    }
    bail!(
        "apt-get could not install {}; try it by hand:\n  apt-get update && {line}",
        missing.join(", ")
    )
}

/// Debian's PostgreSQL makes a cluster when it is installed and starts a server
/// on it, unless its configuration says otherwise.
const NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/vshmem-tests.conf";

/// As [`ensure`] for [`USERS`], and starts no server.
///
/// # Errors
///
/// Those of [`ensure`], or the configuration cannot be written.
pub fn ensure_users() -> Result<()> {
    let quiet = rustix::process::geteuid().is_root() && !installed("postgresql");
    let file = Path::new(NO_CLUSTER);
    let folder = file.parent().context("a file without a folder")?;
    if quiet {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        std::fs::write(file, "create_main_cluster = false\n").context(NO_CLUSTER)?;
    }
    let outcome = ensure(USERS);
    if quiet {
        // What the user installs later is not ours to decide.
        std::fs::remove_file(file).context(NO_CLUSTER)?;
        // Not empty when somebody else uses it.
        let _ = std::fs::remove_dir(folder);
    }
    outcome
}
