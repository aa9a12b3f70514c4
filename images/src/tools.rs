use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{Error, Result};

/// A program of the host and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// The program's name.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
}

/// Everything that running a guest with a region needs on the host.
pub const REQUIRED: &[Requirement] = &[
    Requirement { program: "qemu-system-x86_64", package: "qemu-system-x86" },
    Requirement { program: "apt-get", package: "apt" },
    Requirement { program: "dpkg", package: "dpkg" },
    Requirement { program: "xz", package: "xz-utils" },
    Requirement { program: "make", package: "make" },
    Requirement { program: "gcc-12", package: "gcc-12" },
    Requirement { program: "ldd", package: "libc-bin" },
];

/// Those of [`REQUIRED`] that are not installed.
#[must_use]
pub fn missing() -> Vec<Requirement> {
    REQUIRED.iter().copied().filter(|r| find(r.program).is_none()).collect()
}

/// Installs what [`missing`] names when run as root.
///
/// # Errors
///
/// [`Error::Missing`] with the one command to run, when not root;
/// [`Error::Failed`] when apt fails.
pub fn ensure_installed() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|r| r.package).collect();
    if !rustix::process::geteuid().is_root() {
        let programs: Vec<_> = missing.iter().map(|r| r.program).collect();
        return Err(Error::Missing { program: programs.join(", "), remedy: install(&packages) });
    }
    tracing::info!(?packages, "installing");
    run(Command::new("apt-get").arg("update"))?;
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"])
        .args(&packages))?;
    Ok(())
}

fn install(packages: &[&str]) -> String {
    let sudo = if rustix::process::geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Looks a program up in PATH and in the administrator's directories, which the
/// PATH of a normal user lacks on Debian.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|at| at.is_file())
}

/// Runs a program to its end; its output is part of the error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let line = describe(command);
    let out = command.env("LC_ALL", "C").output().map_err(|e| {
        let program = command.get_program().to_string_lossy().into_owned();
        if e.kind() == std::io::ErrorKind::NotFound {
            let package = REQUIRED.iter().find(|r| r.program == program).map(|r| r.package);
            let remedy = install(&[package.unwrap_or(&program)]);
            return Error::Missing { program, remedy };
        }
        Error::File { path: PathBuf::from(command.get_program()), source: e }
    })?;
    if out.status.success() {
        return Ok(out);
    }
    // A filter's output is data, not words.
    let mut text = String::from_utf8(out.stdout).unwrap_or_default();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    let tail: Vec<_> = text.trim().lines().rev().take(12).collect();
    Err(Error::Failed {
        program: line,
        status: out.status.to_string(),
        output: tail.into_iter().rev().collect::<Vec<_>>().join("\n"),
    })
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first bytes of a zstd frame.
pub(crate) const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Unpacks xz, gzip or zstd by its magic number; other contents pass unchanged.
pub(crate) fn decompress(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let program: &[&str] = match bytes.as_slice() {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => &["xz", "-dc", "--single-stream"],
        [0x1f, 0x8b, ..] => &["gzip", "-dc"],
        _ if bytes.starts_with(&ZSTD) => &["zstd", "-dcq"],
        _ => return Ok(bytes),
    };
    // Through a file: a pipe for both directions needs a thread.
    let mut scratch = std::env::temp_dir();
    scratch.push(format!("vshmem-unpack.{}.{:p}", std::process::id(), &bytes));
    std::fs::write(&scratch, &bytes).map_err(Error::file(&scratch))?;
    let file = std::fs::File::open(&scratch).map_err(Error::file(&scratch));
    let _ = std::fs::remove_file(&scratch);
    let out = run(Command::new(program[0]).args(&program[1..]).stdin(file?))?;
    if out.stdout.is_empty() {
        let what = format!("{} unpacked it to nothing", program[0]);
        return Err(Error::Malformed { path: path.into(), what });
    }
    Ok(out.stdout)
}
