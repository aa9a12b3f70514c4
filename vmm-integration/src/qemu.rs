use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// A QEMU version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The installed QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
    /// A minimal firmware that leaves the PCI addresses to Linux, which places
    /// 64-bit BARs above 4 GiB; the default one places them below, where real
    /// hardware has an uncacheable MTRR. `None` if it is not installed.
    pub qboot: Option<PathBuf>,
}

const NAME: &str = "qemu-system-x86_64";

impl Qemu {
    /// Finds `$VSHMEM_QEMU`, else `qemu-system-x86_64` in PATH.
    ///
    /// # Errors
    ///
    /// [`Error::NoQemu`]; [`Error::OldQemu`] below 6.2, the oldest that knows
    /// every option used without a network.
    pub fn find() -> Result<Qemu> {
        let program = std::env::var_os("VSHMEM_QEMU").map(PathBuf::from);
        let program = program.unwrap_or_else(|| PathBuf::from(NAME));
        let out = Command::new(&program).arg("--version").output().map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                Error::NoQemu
            } else {
                Error::file(&program)(e)
            }
        })?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let version = parse_version(&text).ok_or_else(|| Error::OldQemu {
            found: text.lines().next().unwrap_or("of unknown version").to_string(),
            what: "vshmem",
            needed: "6.2",
        })?;
        if version < (Version { major: 6, minor: 2 }) {
            let found = version.to_string();
            return Err(Error::OldQemu { found, what: "vshmem", needed: "6.2" });
        }
        let qboot = ["/usr/share/qemu/qboot.rom", "/usr/share/qboot/qboot.rom"]
            .map(Path::new)
            .into_iter()
            .find(|p| p.exists())
            .map(Path::to_path_buf);
        Ok(Qemu { program, version, qboot })
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let rest = text.split_once("version ")?.1;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some(Version { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_are_read() {
        let v = |t| parse_version(t).map(|v| (v.major, v.minor));
        assert_eq!(v("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some((7, 2)));
        assert_eq!(v("QEMU emulator version 10.0.2\n"), Some((10, 0)));
        assert_eq!(v("garbage"), None);
    }
}
