use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What can go wrong with a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel, the module or the initial root could not be made.
    #[error(transparent)]
    Image(#[from] vshmem_images::Error),
    /// A file could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// QEMU is not installed.
    #[error("qemu-system-x86_64 is not installed; run: apt-get install qemu-system-x86")]
    NoQemu,
    /// QEMU is too old.
    #[error("QEMU {found} is too old for {what}; {needed} or newer has it")]
    OldQemu {
        /// The installed version.
        found: String,
        /// What needs a newer one.
        what: &'static str,
        /// The first version that has it.
        needed: &'static str,
    },
    /// The region's ivshmem socket cannot be reached.
    #[error(
        "region {region}: cannot connect to {}: {source}; \
         is vshmemd running, with this region in its configuration?", socket.display()
    )]
    Region {
        /// The region.
        region: String,
        /// Its socket.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The description contradicts itself.
    #[error("VM {name}: {what}")]
    Spec {
        /// The guest.
        name: String,
        /// The contradiction and what helps.
        what: String,
    },
    /// The network segment cannot take this guest.
    #[error("network {name}: {what}")]
    Net {
        /// The segment.
        name: String,
        /// Why not, and what helps.
        what: String,
    },
    /// The guest's first process gave up.
    #[error("VM {name}: {what}{}", section("guest console", console))]
    Guest {
        /// The guest.
        name: String,
        /// What it said.
        what: String,
        /// The end of its console.
        console: String,
    },
    /// QEMU ended before the command did.
    #[error(
        "VM {name}: QEMU ended before the command did ({status}){}{}",
        section("QEMU", log),
        section("guest console", console)
    )]
    Died {
        /// The guest.
        name: String,
        /// QEMU's exit status.
        status: String,
        /// What QEMU wrote.
        log: String,
        /// The end of the guest's console.
        console: String,
    },
    /// The command did not start in time.
    #[error(
        "VM {name}: the command did not start within {} s{}{}",
        limit.as_secs(), section("QEMU", log), section("guest console", console)
    )]
    Boot {
        /// The guest.
        name: String,
        /// The limit.
        limit: Duration,
        /// What QEMU wrote.
        log: String,
        /// The end of the guest's console.
        console: String,
    },
}

/// The result of an operation on a guest.
pub type Result<T> = std::result::Result<T, Error>;

/// A titled part of a message; nothing when there is nothing to show.
fn section(title: &str, text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!("\n--- {title} ---\n{text}") }
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what, source: source.into() }
    }
}
