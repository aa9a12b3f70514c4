use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{ZSTD, decompress, run};
use crate::{Cache, Error, Result};

/// Which kernel a guest gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KernelChoice {
    /// Debian's default (`linux-image-amd64`).
    #[default]
    Default,
    /// A series such as `6.12` (`linux-image-6.12-amd64`).
    Series(String),
    /// One release such as `6.1.0-56-amd64`.
    Release(String),
}

impl std::str::FromStr for KernelChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<KernelChoice, Self::Err> {
        Ok(match text {
            "" | "default" => KernelChoice::Default,
            t if t.contains('-') => KernelChoice::Release(t.to_string()),
            t => KernelChoice::Series(t.to_string()),
        })
    }
}

/// An unpacked kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The uncompressed kernel. QEMU enters it by the PVH protocol, which saves
    /// an emulated guest the three seconds of unpacking itself.
    pub vmlinux: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// The headers' build directory, for modules.
    pub headers: PathBuf,
}

impl Kernel {
    /// Returns the kernel from the cache, or downloads and unpacks it there.
    ///
    /// The headers come with it: later the sources may have moved on to another
    /// release, and a module fits one release only. A choice once resolved
    /// stays; [`Kernel::update`] resolves it anew.
    ///
    /// # Errors
    ///
    /// [`Error::NoPackage`], [`Error::Missing`], [`Error::Failed`] and
    /// [`Error::File`], as the packages and tools have it.
    pub fn fetch(cache: &Cache, choice: &KernelChoice) -> Result<Kernel> {
        let release = match choice {
            KernelChoice::Release(release) => release.clone(),
            KernelChoice::Default => resolve(cache, "linux-image-amd64")?,
            KernelChoice::Series(series) => resolve(cache, &format!("linux-image-{series}-amd64"))?,
        };
        let root = cache.entry(&format!("kernel/{release}"), |at| {
            tracing::info!(release, "downloading the guest kernel");
            let entry = at.join("entry");
            unpack(&format!("linux-image-{release}"), at, &entry)?;
            let image = entry.join(format!("boot/vmlinuz-{release}"));
            let vmlinux = extract_vmlinux(&image)?;
            let to = entry.join("boot/vmlinux");
            fs::write(&to, vmlinux).map_err(Error::file(to))
        })?;
        let headers = crate::module::headers(cache, &release)?;
        Ok(Kernel {
            vmlinux: root.join("boot/vmlinux"),
            modules: root.join("lib/modules").join(&release),
            headers,
            release,
        })
    }

    /// Forgets which release a choice means, so that the next
    /// [`fetch`](Kernel::fetch) asks the package sources again.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if the cache cannot be changed.
    pub fn update(cache: &Cache) -> Result<()> {
        let dir = cache.root().join("choice");
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file(dir)(e)),
            _ => Ok(()),
        }
    }
}

/// Asks apt for the release that a meta package stands for.
fn resolve(cache: &Cache, meta: &str) -> Result<String> {
    let ask = || -> Result<Option<String>> {
        let out = run(Command::new("apt-cache").args(["depends", "--important", meta]))?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(text
            .split_whitespace()
            .filter_map(|w| w.strip_prefix("linux-image-"))
            .find(|r| {
                r.starts_with(|c: char| c.is_ascii_digit()) && meta != format!("linux-image-{r}")
            })
            .map(str::to_string))
    };
    let path = cache.entry(&format!("choice/{meta}"), |at| {
        let mut release = ask().ok().flatten();
        if release.is_none() && rustix::process::geteuid().is_root() {
            run(Command::new("apt-get").arg("update"))?;
            release = ask().ok().flatten();
        }
        let release = release.ok_or_else(|| Error::NoPackage { package: meta.into() })?;
        let entry = at.join("entry");
        fs::write(&entry, release).map_err(Error::file(entry))
    })?;
    fs::read_to_string(&path).map_err(Error::file(path))
}

/// Downloads a package into `scratch` and unpacks it to `to`.
pub(crate) fn unpack(package: &str, scratch: &Path, to: &Path) -> Result<()> {
    let mut apt = Command::new("apt-get");
    if rustix::process::geteuid().is_root() {
        // The unprivileged user that apt would use cannot write to the cache.
        apt.args(["-o", "APT::Sandbox::User=root"]);
    }
    run(apt.arg("download").arg(package).current_dir(scratch)).map_err(|e| match e {
        Error::Failed { output, .. } if output.contains("Unable to locate") => {
            Error::NoPackage { package: package.into() }
        }
        other => other,
    })?;
    let listing = fs::read_dir(scratch).map_err(Error::file(scratch))?;
    // apt writes `:` of a version as `%3a`, so the name is not predictable.
    let deb = listing
        .flatten()
        .map(|e| e.path())
        .find(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        })
        .ok_or_else(|| Error::NoPackage { package: package.into() })?;
    fs::create_dir_all(to).map_err(Error::file(to))?;
    run(Command::new("dpkg").arg("-x").arg(&deb).arg(to))?;
    fs::remove_file(&deb).map_err(Error::file(deb))
}

/// Takes the kernel proper out of a bzImage (Documentation/arch/x86/boot.rst).
fn extract_vmlinux(image: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(image).map_err(Error::file(image))?;
    let malformed = |what: &str| Error::Malformed { path: image.into(), what: what.into() };
    let word = |at: usize| -> Option<usize> {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(four)).ok()
    };
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        return Err(malformed("no x86 kernel image"));
    }
    let sectors = match bytes[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let payload = word(0x248)
        .zip(word(0x24c))
        .and_then(|(offset, length)| {
            bytes.get((sectors + 1) * 512 + offset..)?.get(..length).map(<[u8]>::to_vec)
        })
        .ok_or_else(|| malformed("its payload lies outside the file"))?;
    let mut payload = payload;
    if payload.starts_with(&ZSTD) {
        // Kbuild appends the unpacked size, which zstd takes for a second frame.
        payload.truncate(payload.len() - 4);
    }
    let vmlinux = decompress(image, payload)?;
    if vmlinux.starts_with(b"\x7fELF") {
        Ok(vmlinux)
    } else {
        Err(malformed("its compression is not known here (xz, gzip and zstd are)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_from_its_text() {
        let parse = |t: &str| t.parse::<KernelChoice>().unwrap();
        assert_eq!(parse("default"), KernelChoice::Default);
        assert_eq!(parse("6.12"), KernelChoice::Series("6.12".into()));
        assert_eq!(parse("6.1.0-56-amd64"), KernelChoice::Release("6.1.0-56-amd64".into()));
    }

    #[test]
    fn a_truncated_image_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinuz");
        let mut bytes = vec![0; 0x300];
        for contents in [&[][..], &[0; 512], &bytes.clone()] {
            fs::write(&path, contents).unwrap();
            assert!(matches!(extract_vmlinux(&path), Err(Error::Malformed { .. })));
        }
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x248..0x250].fill(0xff);
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(extract_vmlinux(&path), Err(Error::Malformed { .. })));
    }
}
