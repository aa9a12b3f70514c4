//! Finds ivshmem devices and what belongs to them, by way of sysfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

const VENDOR: &str = "0x1af4";
const DEVICE: &str = "0x1110";
const MODULE: &str = "uio_vshmem";

/// An ivshmem device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// PCI address, such as `0000:00:04.0`.
    pub address: String,
    /// Whether it has an MSI-X table, that is, interrupts and doorbells.
    pub has_doorbell: bool,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// `/dev/vshmemN`, if `uio_vshmem` drives it.
    pub node: Option<PathBuf>,
}

/// A view of sysfs; [`Sysfs::default`] is the real one.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self { root: "/sys".into() }
    }
}

impl Sysfs {
    /// Looks below `root` instead of `/sys`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Lists the ivshmem devices in the order of their addresses, of either flavour.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if sysfs is not there. A machine without PCI has no devices.
    pub fn devices(&self) -> Result<Vec<PciDevice>, Error> {
        let bus = self.root.join("bus/pci/devices");
        let mut found = Vec::new();
        for path in entries(&bus)? {
            // A device may vanish between listing and reading: it is then not one of ours.
            let ours = read_line(&path.join("vendor")).is_some_and(|v| v == VENDOR)
                && read_line(&path.join("device")).is_some_and(|d| d == DEVICE);
            if !ours {
                continue;
            }
            let node = entries(&path.join("misc"))?
                .iter()
                .filter_map(|p| Some(Path::new("/dev").join(p.file_name()?)))
                .next();
            found.push(PciDevice {
                address: name(&path),
                // BAR1 is the MSI-X table; ivshmem-plain has none.
                has_doorbell: path.join("resource1").exists(),
                driver: fs::read_link(path.join("driver")).ok().map(|p| name(&p)),
                node,
            });
        }
        Ok(found)
    }

    /// Whether the module is in the kernel.
    pub fn module_loaded(&self) -> bool {
        self.root.join("module").join(MODULE).exists()
    }

    /// The nodes of all devices that the module drives.
    ///
    /// # Errors
    ///
    /// When there is none: the most specific of [`Error::NoDevice`], [`Error::NoDoorbell`],
    /// [`Error::NotLoaded`], [`Error::OtherDriver`] and [`Error::Refused`].
    pub fn nodes(&self) -> Result<Vec<PathBuf>, Error> {
        let devices = self.devices()?;
        let nodes: Vec<_> = devices.iter().filter_map(|d| d.node.clone()).collect();
        if !nodes.is_empty() {
            return Ok(nodes);
        }
        let first = devices.first().ok_or(Error::NoDevice)?;
        let Some(device) = devices.iter().find(|d| d.has_doorbell) else {
            return Err(Error::NoDoorbell { address: first.address.clone() });
        };
        let address = device.address.clone();
        Err(match &device.driver {
            Some(driver) if driver != MODULE => {
                Error::OtherDriver { address, driver: driver.clone() }
            }
            _ if self.module_loaded() => Error::Refused { address },
            _ => Error::NotLoaded { address },
        })
    }

    /// The UIO device of `vector` that belongs to the character device `major:minor`.
    pub(crate) fn uio(&self, major: u32, minor: u32, vector: u32) -> Result<PathBuf, Error> {
        let wanted = uio_name(vector);
        let devices = self.root.join(format!("dev/char/{major}:{minor}/device/uio"));
        for path in entries(&devices)? {
            if read_line(&path.join("name")).is_some_and(|n| n == wanted) {
                return Ok(Path::new("/dev").join(name(&path)));
            }
        }
        let source = io::Error::new(io::ErrorKind::NotFound, format!("no UIO device {wanted}"));
        Err(Error::Io { path: devices, source })
    }
}

/// The name that the module gives to the UIO device of `vector`.
pub fn uio_name(vector: u32) -> String {
    match vector {
        0 => "vshmem-wake".into(),
        1 => "vshmem-control".into(),
        n => format!("vshmem-vec{n}"),
    }
}

/// Loads the module with `modprobe`, which needs root; does nothing when it is loaded.
///
/// The kernel offers it the devices before this returns, so [`Sysfs::nodes`] knows at once.
///
/// # Errors
///
/// [`Error::Load`] with what modprobe said.
pub fn load_module() -> Result<(), Error> {
    if Sysfs::default().module_loaded() {
        return Ok(());
    }
    let cause = match Command::new("modprobe").arg(MODULE).output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if said.is_empty() { format!("modprobe ended with {}", output.status) } else { said }
        }
        Err(source) => format!("cannot run modprobe: {source}"),
    };
    let kernel = read_line(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    Err(Error::Load { cause, kernel })
}

/// The paths in a directory, sorted; none if it does not exist.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { path: dir.to_owned(), source };
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut paths =
        listing.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn read_line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of what sysfs shows, with one device of each fate.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(tree.0.path().join("bus/pci/devices")).unwrap();
            tree.device("0000:00:00.0", "0x8086", "0x29c0", true, None);
            tree
        }

        fn sysfs(&self) -> Sysfs {
            Sysfs::at(self.0.path())
        }

        fn device(&self, addr: &str, vendor: &str, id: &str, msix: bool, driver: Option<&str>) {
            let dir = self.0.path().join("bus/pci/devices").join(addr);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(dir.join("device"), format!("{id}\n")).unwrap();
            if msix {
                fs::write(dir.join("resource1"), "").unwrap();
            }
            if let Some(driver) = driver {
                let to = self.0.path().join("bus/pci/drivers").join(driver);
                std::os::unix::fs::symlink(to, dir.join("driver")).unwrap();
            }
        }

        fn ivshmem(&self, addr: &str, msix: bool, driver: Option<&str>) {
            self.device(addr, VENDOR, DEVICE, msix, driver);
        }
    }

    #[test]
    fn each_missing_piece_has_its_own_message() {
        let tree = Tree::new();
        assert!(matches!(tree.sysfs().nodes(), Err(Error::NoDevice)));

        tree.ivshmem("0000:00:03.0", false, None);
        let error = tree.sysfs().nodes().unwrap_err();
        assert!(error.to_string().starts_with("PCI device 0000:00:03.0 is ivshmem-plain"));

        tree.ivshmem("0000:00:04.0", true, None);
        let error = tree.sysfs().nodes().unwrap_err();
        assert!(error.to_string().starts_with("uio_vshmem is not loaded: PCI device 0000:00:04.0"));

        fs::create_dir_all(tree.0.path().join("module/uio_vshmem")).unwrap();
        let error = tree.sysfs().nodes().unwrap_err();
        assert!(matches!(error, Error::Refused { address } if address == "0000:00:04.0"));
    }

    #[test]
    fn a_device_of_another_driver_is_named_with_its_driver() {
        let tree = Tree::new();
        tree.ivshmem("0000:00:04.0", true, Some("vfio-pci"));
        let error = tree.sysfs().nodes().unwrap_err();
        assert!(matches!(error, Error::OtherDriver { driver, .. } if driver == "vfio-pci"));
    }

    #[test]
    fn a_bound_device_shows_its_node_and_its_uio_devices() {
        let tree = Tree::new();
        tree.ivshmem("0000:00:05.0", true, Some(MODULE));
        let dir = tree.0.path().join("bus/pci/devices/0000:00:05.0");
        fs::create_dir_all(dir.join("misc/vshmem0")).unwrap();
        for (uio, vector) in [("uio3", 0), ("uio4", 1), ("uio5", 2)] {
            fs::create_dir_all(dir.join("uio").join(uio)).unwrap();
            fs::write(dir.join("uio").join(uio).join("name"), uio_name(vector) + "\n").unwrap();
        }
        let links = tree.0.path().join("dev/char/10:120");
        fs::create_dir_all(&links).unwrap();
        std::os::unix::fs::symlink(&dir, links.join("device")).unwrap();

        let sysfs = tree.sysfs();
        assert_eq!(sysfs.nodes().unwrap(), [PathBuf::from("/dev/vshmem0")]);
        assert_eq!(sysfs.uio(10, 120, 1).unwrap(), PathBuf::from("/dev/uio4"));
        assert_eq!(sysfs.uio(10, 120, 2).unwrap(), PathBuf::from("/dev/uio5"));
        assert!(sysfs.uio(10, 120, 3).is_err());
        assert!(sysfs.uio(10, 121, 0).is_err());
    }

    #[test]
    fn the_real_sysfs_can_be_listed() {
        Sysfs::default().devices().unwrap();
    }
}
