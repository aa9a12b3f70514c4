//! Calling cargo from inside cargo.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The root of the source tree.
pub fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => root().join(path),
        None => root().join("target"),
    }
}

/// Drops what the outer cargo set for this program: an inner one would take it
/// for the user's wish.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name == "CARGO_BIN_NAME"
        {
            command.env_remove(name);
        }
    }
    command.current_dir(root()).stdin(Stdio::null())
}

/// The cargo that runs us.
pub fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clean(&mut command).args(arguments);
    command
}

/// The nightly one, through rustup.
pub fn nightly<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("rustup");
    clean(&mut command).args(["run", "nightly", "cargo"]).args(arguments);
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// Whether rustup has a nightly toolchain.
pub fn has_nightly() -> bool {
    let mut probe = Command::new("rustup");
    probe.args(["run", "nightly", "rustc", "--version"]).env_remove("RUSTUP_TOOLCHAIN");
    quiet(&mut probe)
}

/// Whether the command succeeds; its output is thrown away.
pub fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// The machine's architecture as rustc names targets.
pub fn host_target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// A target directory of a stage's own: other flags would rebuild everything.
pub fn own_target(name: &str) -> PathBuf {
    target().join(name)
}
