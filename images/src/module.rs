use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Digest;
use crate::kernel::unpack;
use crate::tools::run;
use crate::{Cache, Error, Result};

/// Returns the build directory of a kernel's headers: the installed one, or one
/// unpacked into the cache.
///
/// # Errors
///
/// [`Error::NoPackage`] if the package sources no longer have this release;
/// others as the tools have it.
pub fn headers(cache: &Cache, release: &str) -> Result<PathBuf> {
    let installed = Path::new("/usr/src").join(format!("linux-headers-{release}"));
    // A removed package may leave its directory behind, without the objects
    // that a build needs.
    if installed.join("Makefile").exists() && installed.join("Module.symvers").exists() {
        return Ok(installed);
    }
    // The package's makefile includes the common part by its absolute path, so
    // the tree is made where it stays and its last file marks it as complete.
    let root = cache.root().join("headers").join(release);
    let build = root.join("usr/src").join(format!("linux-headers-{release}"));
    cache.entry(&format!("headers/{release}.done"), |scratch| {
        tracing::info!(release, "downloading the kernel headers");
        let _ = fs::remove_dir_all(&root);
        unpack(&format!("linux-headers-{release}"), scratch, &root)?;
        let depends = run(Command::new("apt-cache")
            .args(["depends", "--important"])
            .arg(format!("linux-headers-{release}")))?;
        let depends = String::from_utf8_lossy(&depends.stdout).into_owned();
        for package in depends
            .split_whitespace()
            .filter(|w| w.starts_with("linux-kbuild-") || w.ends_with("-common"))
        {
            unpack(package, scratch, &root)?;
        }
        let makefile = build.join("Makefile");
        let text = fs::read_to_string(&makefile).map_err(Error::file(&makefile))?;
        let here = format!("{}/usr/src/", root.display());
        fs::write(&makefile, text.replace("/usr/src/", &here)).map_err(Error::file(makefile))?;
        let entry = scratch.join("entry");
        fs::write(&entry, "").map_err(Error::file(entry))
    })?;
    Ok(build)
}

/// Finds the sources of `uio_vshmem`: `$VSHMEM_MODULE_SRC`, the workspace that
/// this was built in, `/usr/src/vshmem-VERSION`.
///
/// # Errors
///
/// [`Error::NoModuleSource`].
pub fn module_source() -> Result<PathBuf> {
    let mut tried = Vec::new();
    if let Some(dir) = std::env::var_os("VSHMEM_MODULE_SRC") {
        tried.push(PathBuf::from(dir));
    } else {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-driver/uio_vshmem");
        tried.push(fs::canonicalize(&workspace).unwrap_or(workspace));
        tried.push(Path::new("/usr/src").join(concat!("vshmem-", env!("CARGO_PKG_VERSION"))));
    }
    let found = tried.iter().find(|d| d.join("Kbuild").exists() || d.join("Makefile").exists());
    found.cloned().ok_or(Error::NoModuleSource { tried })
}

/// Builds the module in `source` against `headers`, in a copy, and returns the
/// `.ko`; equal sources and headers are built once.
///
/// # Errors
///
/// [`Error::Failed`] with the compiler's words; others as the tools have it.
pub fn build_module(cache: &Cache, headers: &Path, source: &Path) -> Result<PathBuf> {
    let files = source_files(source)?;
    let mut digest = Digest::new().add(headers.as_os_str().as_encoded_bytes());
    // The release alone does not tell a rebuilt headers package from its
    // predecessor; the symbol versions do.
    let symbols = headers.join("Module.symvers");
    digest = digest.add(&fs::read(&symbols).map_err(Error::file(symbols))?);
    for (name, contents) in &files {
        digest = digest.add(name.as_bytes()).add(contents);
    }
    cache.entry(&format!("module/{}/uio_vshmem.ko", digest.hex()), |scratch| {
        tracing::info!(headers = %headers.display(), "building uio_vshmem");
        let copy = scratch.join("src");
        for (name, contents) in &files {
            let to = copy.join(name);
            let parent = to.parent().unwrap_or(&copy);
            fs::create_dir_all(parent).map_err(Error::file(parent))?;
            fs::write(&to, contents).map_err(Error::file(to))?;
        }
        let mut m = std::ffi::OsString::from("M=");
        m.push(&copy);
        // What a surrounding make or cargo exports must not reach Kbuild.
        run(Command::new("make")
            .arg("-C")
            .arg(headers)
            .arg(m)
            .arg("modules")
            .env_remove("MAKEFLAGS")
            .env_remove("CFLAGS")
            .env_remove("MAKELEVEL"))?;
        let (built, entry) = (copy.join("uio_vshmem.ko"), scratch.join("entry"));
        fs::rename(&built, entry).map_err(Error::file(built))
    })
}

/// The sources with their names relative to `root`, in order; what a build made
/// is left out, so that a tree in which somebody ran make gives the same module.
fn source_files(root: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let at = root.join(&dir);
        for entry in fs::read_dir(&at).map_err(Error::file(&at))? {
            let path = dir.join(entry.map_err(Error::file(&at))?.file_name());
            let full = root.join(&path);
            let name = path.to_string_lossy().into_owned();
            let source = [".c", ".h", "Kbuild", "Makefile"].iter().any(|e| name.ends_with(e));
            if full.is_dir() && !name.starts_with('.') {
                todo.push(path);
            } else if source && !name.ends_with(".mod.c") {
                files.push((name, fs::read(&full).map_err(Error::file(full))?));
            }
        }
    }
    files.sort();
    Ok(files)
}
