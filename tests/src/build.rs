//! Building what the tests run: the shipped binaries and the C programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The root of the source tree.
pub fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// The folder of the C programs.
pub fn programs() -> PathBuf {
    root().join("tests/programs")
}

/// The shipped files, built once per process in the release profile: the
/// profile that users run is the one whose races matter.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The command.
    pub vshmem: PathBuf,
    /// The host's daemon.
    pub vshmemd: PathBuf,
}

/// Builds the shipped binaries, at most once.
///
/// # Errors
///
/// The build's failure, the same one for every caller.
pub fn artifacts() -> Result<Artifacts> {
    static BUILT: OnceLock<std::result::Result<Artifacts, String>> = OnceLock::new();
    BUILT.get_or_init(|| build().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

/// Builds the binaries as a release that differs in some versions would have them, and copies them
/// into a folder: each of `axes` is `FORMAT` (of the region), `ATTACH`, `ABI` (of the module) or
/// `HOLDER`, whose version is then one more.
///
/// # Errors
///
/// The build's failure, or a file cannot be copied.
pub fn skewed(axes: &[&str], into: &Path) -> Result<Artifacts> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Beside the others, which stay as they are; not optimised, since that takes minutes.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let target = root().join(target).join("skew");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "-p", "vshmem-cli", "-p", "vshmem-capi", "-p", "vshmem-host"])
        .args(["--config", "profile.dev.debug=false", "--target-dir"])
        .arg(&target)
        .current_dir(root())
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null());
    for axis in ["FORMAT", "ATTACH", "ABI", "HOLDER"] {
        let name = format!("VSHMEM_SKEW_{axis}");
        if axes.contains(&axis) {
            command.env(name, "1")
        } else {
            command.env_remove(name)
        };
    }
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the build of another version failed ({status})");
    }
    for name in ["vshmem", "vshmemd", "libvshmem.so"] {
        let built = target.join("debug").join(name);
        std::fs::copy(&built, into.join(name)).with_context(|| format!("{}", built.display()))?;
    }
    Ok(Artifacts { vshmem: into.join("vshmem"), vshmemd: into.join("vshmemd") })
}

/// Names a folder of built binaries to test instead, such as an installation's.
const BINARIES: &str = "VSHMEM_TEST_BINARIES";

fn build() -> Result<Artifacts> {
    if let Some(folder) = std::env::var_os(BINARIES).map(PathBuf::from) {
        eprintln!("testing what is in {}, which {BINARIES} names", folder.display());
        return Ok(Artifacts { vshmem: folder.join("vshmem"), vshmemd: folder.join("vshmemd") });
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(["-p", "vshmem-cli", "-p", "vshmem-capi", "-p", "vshmem-host"])
        .current_dir(root())
        // The flags of a loom or sanitizer run are not for what is shipped.
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the release build failed ({})", output.status);
    }
    let mut executables = Vec::new();
    let mut library = None;
    for line in output.stdout.split(|b| *b == b'\n') {
        let Ok(message) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        if let Some(path) = message["executable"].as_str() {
            executables.push(PathBuf::from(path));
        }
        let files = message["filenames"].as_array().into_iter().flatten();
        for file in files.filter_map(|f| f.as_str()) {
            if file.ends_with("/libvshmem.so") {
                library = Some(PathBuf::from(file));
            }
        }
    }
    if library.is_none() {
        bail!("the release build made no libvshmem.so");
    }
    let find = |name: &str| {
        let found = executables.iter().find(|p| p.file_name().is_some_and(|f| f == name));
        found.cloned().with_context(|| format!("the release build made no {name}"))
    };
    Ok(Artifacts { vshmem: find("vshmem")?, vshmemd: find("vshmemd")? })
}

/// Compiles one C program as a user would, with all warnings as errors.
///
/// # Errors
///
/// The compiler's messages, or that there is none.
pub fn compile(source: &Path, into: &Path) -> Result<PathBuf> {
    let name = source.file_stem().context("a source without a name")?;
    compile_all(&name.to_string_lossy(), &[source.to_path_buf()], into)
}

/// The same, linked statically, under the same name: into another folder.
///
/// # Errors
///
/// As [`compile`].
pub fn compile_static(source: &Path, into: &Path) -> Result<PathBuf> {
    let name = source.file_stem().context("a source without a name")?;
    compile_with(&["-static"], &name.to_string_lossy(), &[source.to_path_buf()], into)
}

/// Compiles a C program of several sources.
///
/// # Errors
///
/// As [`compile`].
pub fn compile_all(name: &str, sources: &[PathBuf], into: &Path) -> Result<PathBuf> {
    compile_with(&[], name, sources, into)
}

/// The same, linked statically.
///
/// # Errors
///
/// As [`compile`].
pub fn compile_all_static(name: &str, sources: &[PathBuf], into: &Path) -> Result<PathBuf> {
    compile_with(&["-static"], name, sources, into)
}

fn compile_with(more: &[&str], name: &str, sources: &[PathBuf], into: &Path) -> Result<PathBuf> {
    let program = into.join(name);
    let output = Command::new("cc")
        .args(more)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .args(sources)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cc: install a C compiler (build-essential)")?;
    if !output.status.success() {
        bail!("cc, {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(program)
}

/// Builds an example of a package and copies it into a folder.
///
/// # Errors
///
/// The build's failure, or it cannot be copied.
pub fn example(package: &str, name: &str, into: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root().join("target"), PathBuf::from);
    let target = root().join(target);
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", package, "--example", name, "--target-dir"]);
    let status = command.arg(&target).current_dir(root()).env_remove("RUSTFLAGS").status();
    let status = status.context("cannot start cargo")?;
    if !status.success() {
        bail!("the build of the example {name} failed ({status})");
    }
    let (built, copy) = (target.join("debug/examples").join(name), into.join(name));
    std::fs::copy(&built, &copy).with_context(|| format!("{}", built.display()))?;
    Ok(copy)
}

/// The C sources directly inside a folder, by name.
///
/// # Errors
///
/// The folder cannot be read.
pub fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "c") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
