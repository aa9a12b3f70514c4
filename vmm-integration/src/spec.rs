use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vshmem_images::KernelChoice;

use crate::{Accel, NetSpec};

/// A region to attach: its name and the socket of its ivshmem server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSocket {
    /// The region's name, as the guest's programs use it.
    pub name: String,
    /// `<runtime directory>/NAME.ivshmem`.
    pub socket: PathBuf,
}

/// What the guest sees as its root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The host's, read-only under a layer in the guest's memory. `/proc`,
    /// `/sys`, `/dev`, `/run` and `/tmp` are the guest's own, but what is in
    /// `shares` is seen even below those (as a copy-on-write layer too).
    ///
    /// The guest reads what QEMU's user may read on the host.
    Host {
        /// Files and directories below `/tmp` or `/run`; see [`VmSpec::share`].
        shares: Vec<PathBuf>,
    },
    /// Nothing of the host: only these programs with their libraries.
    Isolated {
        /// The programs, by their host paths.
        programs: Vec<PathBuf>,
    },
}

/// Describes one throw-away guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// The guest's host name, and its name in messages.
    pub name: String,
    /// The regions to attach. With none, no agent is started.
    pub regions: Vec<RegionSocket>,
    /// Virtual processors.
    pub smp: u32,
    /// Memory in MiB.
    pub mem_mib: u64,
    /// The network segment to join.
    pub net: Option<NetSpec>,
    /// The program to run with its arguments; looked up in the guest's PATH.
    pub command: Vec<OsString>,
    /// Its whole environment; see [`VmSpec::inherited_env`].
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory in the guest.
    pub cwd: PathBuf,
    /// User and group to run it as, else root.
    pub user: Option<(u32, u32)>,
    /// Whether the caller's standard input goes to the command.
    pub stdin: bool,
    /// The `vshmem` program, started in the guest as `vshmem agent`.
    pub agent: Option<PathBuf>,
    /// The kernel to boot.
    pub kernel: KernelChoice,
    /// More words for the kernel's command line, after its own.
    pub kernel_args: Vec<String>,
    /// The root file system.
    pub root: Root,
    /// How instructions are run; `None` probes once per boot of the host.
    pub accel: Option<Accel>,
    /// Whether a guest that reboots, panics or is reset boots again, and its
    /// command with it; else that ends it.
    pub reboot: bool,
    /// How long the guest may take until the command starts.
    pub boot_limit: Duration,
}

impl VmSpec {
    /// Describes a guest with one processor, 512 MiB and no region that runs
    /// `command` in the caller's directory with the caller's environment.
    pub fn new<S: Into<OsString>>(command: impl IntoIterator<Item = S>) -> VmSpec {
        let mut spec = VmSpec {
            name: "guest".to_string(),
            regions: Vec::new(),
            smp: 1,
            mem_mib: 512,
            net: None,
            command: command.into_iter().map(Into::into).collect(),
            env: VmSpec::inherited_env(),
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            user: None,
            stdin: false,
            agent: None,
            kernel: KernelChoice::Default,
            kernel_args: Vec::new(),
            root: Root::Host { shares: Vec::new() },
            accel: None,
            reboot: false,
            boot_limit: Duration::from_secs(60),
        };
        // Programs that were just built often live below /tmp, which is fresh in
        // the guest; what the caller names is meant to be seen.
        let named = spec.command.iter().map(PathBuf::from).filter(|p| p.is_absolute());
        for place in named.chain([spec.cwd.clone()]).collect::<Vec<_>>() {
            spec.share(&place);
        }
        spec
    }

    /// Attaches a region, with `vshmem` as the program of the guest's agent.
    #[must_use]
    pub fn with_region(mut self, name: &str, socket: &Path, vshmem: &Path) -> VmSpec {
        self.regions.push(RegionSocket { name: name.to_string(), socket: socket.to_path_buf() });
        self.share(vshmem);
        self.agent = Some(vshmem.to_path_buf());
        self
    }

    /// Lets the guest see `path` of the host although it lies below `/tmp` or
    /// `/run`; elsewhere it is seen anyway. With a file come its neighbours,
    /// except in `/tmp` and `/run` themselves, which stay the guest's own.
    pub fn share(&mut self, path: &Path) {
        const TOPS: [&str; 4] = ["/tmp", "/run", "/var/run", "/dev/shm"];
        let is_top = |p: &Path| TOPS.iter().any(|top| p == Path::new(top));
        let place = match path.parent() {
            Some(parent) if !path.is_dir() && !is_top(parent) => parent,
            _ => path,
        };
        let hidden = !is_top(place) && TOPS.iter().any(|top| place.starts_with(top));
        if let Root::Host { shares } = &mut self.root
            && hidden
            && path.exists()
            && !shares.iter().any(|s| place.starts_with(s))
        {
            shares.push(place.to_path_buf());
        }
    }

    /// The caller's environment without what names things of the host: its
    /// vshmem sockets, preloads and per-user runtime directory.
    #[must_use]
    pub fn inherited_env() -> Vec<(OsString, OsString)> {
        std::env::vars_os()
            .filter(|(name, _)| {
                let name = name.to_string_lossy();
                !name.starts_with("VSHMEM_")
                    && !name.starts_with("DBUS_")
                    && !["LD_PRELOAD", "XDG_RUNTIME_DIR", "TMPDIR", "PWD", "OLDPWD"]
                        .contains(&name.as_ref())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_guest_would_miss_is_shared() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let mut spec = VmSpec { cwd: "/".into(), ..VmSpec::new(["true"]) };
        spec.root = Root::Host { shares: Vec::new() };
        spec.share(Path::new("/usr"));
        spec.share(Path::new("/tmp"));
        spec.share(&dir.path().join("absent"));
        spec.share(dir.path());
        let program = dir.path().join("program");
        std::fs::write(&program, "").unwrap();
        spec.share(&program);
        let single = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        spec.share(single.path());
        let want = vec![dir.path().to_path_buf(), single.path().to_path_buf()];
        assert_eq!(spec.root, Root::Host { shares: want });
    }
}
