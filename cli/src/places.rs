//! Where sockets, programs and libraries are.

use anyhow::{Context, bail};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The directory of the sockets: the one asked for, or the environment's, or the system's.
pub fn runtime_dir(asked: Option<&Path>) -> PathBuf {
    let from_environment = || env::var_os("VSHMEM_RUNTIME_DIR").filter(|d| !d.is_empty());
    match asked {
        Some(dir) => dir.to_owned(),
        None => from_environment().map_or_else(|| "/run/vshmem".into(), PathBuf::from),
    }
}

/// The attach socket meant by `--region`, else by `VSHMEM_SOCKET`, else the user's own.
pub fn socket(runtime_dir: &Path, region: Option<&str>) -> anyhow::Result<Socket> {
    if let Some(region) = region {
        return Ok(Socket::Region(runtime_dir.join(format!("{region}.sock"))));
    }
    match env::var_os("VSHMEM_SOCKET").filter(|s| !s.is_empty()) {
        Some(path) => Ok(Socket::Region(path.into())),
        None => Ok(Socket::Own(vshmem::socket_of(None))),
    }
}

/// Whose an endpoint's socket is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Socket {
    /// A configured region's: somebody serves it, or not.
    Region(PathBuf),
    /// The user's own: started when wanted.
    Own(PathBuf),
}

impl Socket {
    pub fn path(&self) -> &Path {
        match self {
            Self::Region(path) | Self::Own(path) => path,
        }
    }
}

pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes the directory of the user's own endpoint. In a shared `/tmp` anybody may have been there
/// first, so what is there must be a directory of the user's and closed to others.
pub fn make_private(dir: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot create {}", dir.display()))?;
    let meta = fs::symlink_metadata(dir)?;
    if !meta.is_dir() || meta.uid() != uid() || meta.mode() & 0o077 != 0 {
        bail!(
            "{} is not a directory of yours that is closed to others: remove it, or set \
             XDG_RUNTIME_DIR to a directory of your own",
            dir.display()
        );
    }
    Ok(())
}

/// The directory this program is in.
fn here() -> Option<PathBuf> {
    env::current_exe().ok()?.parent().map(Path::to_owned)
}

/// `libvshmem.so`: beside this program, where a build or an installation puts it, or `VSHMEM_LIB`.
pub fn library() -> anyhow::Result<PathBuf> {
    let found = match env::var_os("VSHMEM_LIB").filter(|v| !v.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            if !path.is_file() {
                bail!("VSHMEM_LIB names {}, which is no file: correct or unset it", path.display());
            }
            path
        }
        None => {
            let beside = here();
            let around = ["libvshmem.so", "../libvshmem.so", "../lib/vshmem/libvshmem.so"];
            let places = beside.iter().flat_map(|dir| around.map(|file| dir.join(file)));
            let system = [PathBuf::from("/usr/lib/vshmem/libvshmem.so")];
            places.chain(system).find(|p| p.is_file()).with_context(|| {
                format!(
                    "libvshmem.so is neither beside {} nor in /usr/lib/vshmem: install it, or name \
                     it in VSHMEM_LIB",
                    env::current_exe().unwrap_or_else(|_| "this program".into()).display()
                )
            })?
        }
    };
    let found = fs::canonicalize(&found).with_context(|| format!("{}", found.display()))?;
    let text = found.as_os_str().as_encoded_bytes();
    if text.iter().any(|b| matches!(b, b' ' | b':' | b'\t' | b'\n')) {
        bail!(
            "the path {} holds a space or a colon, which LD_PRELOAD cannot: install libvshmem.so \
             elsewhere, or name a copy in VSHMEM_LIB",
            found.display()
        );
    }
    Ok(found)
}

/// `vshmemd`: beside this program, or in PATH.
pub fn daemon() -> anyhow::Result<PathBuf> {
    let beside = here().map(|dir| dir.join("vshmemd")).filter(|p| p.is_file());
    beside.or_else(|| in_path("vshmemd".as_ref())).with_context(|| {
        "vshmemd is neither beside this program nor in PATH: install it, or start a region's \
         endpoint yourself and use --region"
            .to_owned()
    })
}

/// The file that `execvp` would run for `program`.
pub fn in_path(program: &OsStr) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let can_run = |p: &PathBuf| fs::metadata(p).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
    env::split_paths(&path).map(|dir| dir.join(program)).find(can_run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("a/b");
        make_private(&own).unwrap();
        make_private(&own).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&own, open).unwrap();
        assert!(make_private(&own).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(make_private(&link).is_err());
    }
}
