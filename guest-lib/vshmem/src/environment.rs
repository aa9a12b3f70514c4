//! What the environment says of regions and their sockets.

use crate::rules::{BadRule, Rules};
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A variable of the environment, unless it is empty.
fn environment(name: &CStr) -> Option<OsString> {
    // SAFETY: a string with its end. (`std::env` would take a lock that a handler may meet.)
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: the environment's strings have an end; it is copied at once.
    let value = unsafe { CStr::from_ptr(value) }.to_bytes();
    (!value.is_empty()).then(|| OsStr::from_bytes(value).to_owned())
}

/// The socket that `VSHMEM_SOCKET` names.
#[must_use]
pub fn socket_from_environment() -> Option<PathBuf> {
    environment(c"VSHMEM_SOCKET").map(PathBuf::from)
}

/// The rules that `VSHMEM_RULES` holds.
///
/// # Errors
/// They cannot be read.
pub fn rules_from_environment() -> Option<std::result::Result<Rules, BadRule>> {
    environment(c"VSHMEM_RULES").map(|text| Rules::parse(&text.to_string_lossy()))
}

/// The socket of region `name` on this machine, or the user's own default endpoint.
#[must_use]
pub fn socket_of(name: Option<&str>) -> PathBuf {
    let var = |name: &CStr| environment(name).map(PathBuf::from);
    match name {
        Some(name) => {
            let dir = var(c"VSHMEM_RUNTIME_DIR").unwrap_or_else(|| "/run/vshmem".into());
            dir.join(format!("{name}.sock"))
        }
        None => {
            // SAFETY: cannot fail.
            let uid = unsafe { libc::getuid() };
            let own = || PathBuf::from(format!("/tmp/vshmem-{uid}"));
            var(c"XDG_RUNTIME_DIR").map_or_else(own, |d| d.join("vshmem")).join("default.sock")
        }
    }
}
