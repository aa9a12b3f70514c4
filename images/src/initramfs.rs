use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Digest;
use crate::libs::libraries_of;
use crate::modules::Modules;
use crate::{Cache, Cpio, Error, Kernel, Result};

/// The guest's first process, a static program made by the build script.
const INIT: &[u8] = include_bytes!(env!("VSHMEM_INIT"));

/// Describes the archive that a guest's kernel unpacks as its first root.
///
/// The modules are in groups, because a guest loads only those it uses: each
/// costs an emulated guest 10 to 30 ms.
#[derive(Debug, Clone)]
pub struct Initramfs {
    kernel: Kernel,
    host_root: bool,
    module: Option<PathBuf>,
    files: Vec<PathBuf>,
}

impl Initramfs {
    /// For a guest whose root is the host's root file system.
    #[must_use]
    pub fn for_host_root(kernel: &Kernel) -> Initramfs {
        Initramfs { kernel: kernel.clone(), host_root: true, module: None, files: Vec::new() }
    }

    /// For a guest that shares nothing with the host: the archive itself holds
    /// `programs`, at their host paths, with the libraries that they need.
    #[must_use]
    pub fn isolated(kernel: &Kernel, programs: &[PathBuf]) -> Initramfs {
        Initramfs { host_root: false, files: programs.to_vec(), ..Self::for_host_root(kernel) }
    }

    /// Adds the region's module, as [`build_module`](crate::build_module) made it.
    #[must_use]
    pub fn with_module(mut self, module: impl Into<PathBuf>) -> Initramfs {
        self.module = Some(module.into());
        self
    }

    /// Returns the archive from the cache, or makes it.
    ///
    /// # Errors
    ///
    /// [`Error::File`] for what cannot be read; [`Error::Malformed`] if the
    /// kernel lacks a module or a program a library.
    pub fn build(&self, cache: &Cache) -> Result<PathBuf> {
        let mut digest = Digest::new().add(self.kernel.release.as_bytes()).add(INIT);
        // Which modules the groups hold is part of the content.
        digest = digest.add(format!("{}{:?}", self.host_root, GROUPS).as_bytes());
        if let Some(module) = &self.module {
            digest = digest.add(&fs::read(module).map_err(Error::file(module))?);
        }
        let files = self.all_files()?;
        for file in &files {
            digest = digest.add(file.as_os_str().as_encoded_bytes());
            digest = digest.add(&fs::read(file).map_err(Error::file(file))?);
        }
        cache.entry(&format!("initramfs/{}.cpio", digest.hex()), |at| {
            let entry = at.join("entry");
            fs::write(&entry, self.archive(&files)?).map_err(Error::file(entry))
        })
    }

    fn archive(&self, files: &[PathBuf]) -> Result<Vec<u8>> {
        let mut cpio = Cpio::new(Vec::new());
        self.fill(&mut cpio, files)?;
        cpio.finish().map_err(Error::file("initramfs"))
    }

    fn fill(&self, cpio: &mut Cpio<Vec<u8>>, files: &[PathBuf]) -> Result<()> {
        let fail = |e| Error::file("initramfs")(e);
        // A merged /usr: programs name their loader by the short path.
        if !self.host_root {
            for name in ["bin", "sbin", "lib", "lib64"] {
                if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                    cpio.symlink(name, &target.to_string_lossy()).map_err(fail)?;
                }
            }
        }
        cpio.file("init", 0o755, INIT).map_err(fail)?;
        // The kernel opens it for the first process before devtmpfs is there.
        cpio.char_device("dev/console", 0o600, (5, 1)).map_err(fail)?;
        let modules = Modules::of(&self.kernel.modules)?;
        let (mut list, mut index) = (Vec::new(), String::new());
        for (group, names) in GROUPS {
            if *group == "host" && !self.host_root {
                continue;
            }
            let from = list.len();
            for name in *names {
                modules.add(name, &mut list)?;
            }
            if let Some(module) = self.module.as_ref().filter(|_| *group == "region") {
                modules.add_foreign(module, &mut list)?;
            }
            for (name, _) in &list[from..] {
                index.push_str(&format!("{group} {name}.ko\n"));
            }
        }
        for (name, code) in &list {
            cpio.file(&format!("modules/{name}.ko"), 0o644, code).map_err(fail)?;
        }
        cpio.file("modules/list", 0o644, index.as_bytes()).map_err(fail)?;
        for file in files {
            // The loader looks libraries up by the path that `ldd` printed; what
            // they point to is what is stored there.
            let contents = fs::read(file).map_err(Error::file(file))?;
            let at = unmerged(file);
            cpio.file(&at.to_string_lossy(), 0o755, &contents).map_err(fail)?;
        }
        Ok(())
    }

    fn all_files(&self) -> Result<Vec<PathBuf>> {
        let mut all = std::collections::BTreeSet::new();
        for file in &self.files {
            all.extend(libraries_of(file)?);
            all.insert(file.clone());
        }
        Ok(all.into_iter().collect())
    }
}

/// `/lib64/x` → `/usr/lib64/x` where `/lib64` is a link to `usr/lib64`: an
/// archive cannot hold a file below a link.
fn unmerged(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let (root, top) = (parts.next(), parts.next());
    let (Some(root), Some(top)) = (root, top) else { return path.to_path_buf() };
    match fs::read_link(Path::new(&root).join(top)) {
        Ok(target) => Path::new(&root).join(target).join(parts.as_path()),
        Err(_) => path.to_path_buf(),
    }
}

/// What a guest loads for what. The order within is found from the modules.
const GROUPS: &[(&str, &[&str])] = &[
    ("boot", &["virtio_pci", "virtio_console"]),
    ("host", &["9pnet_virtio", "9p", "overlay"]),
    ("net", &["virtio_net"]),
    ("region", &["uio"]),
];
