//! vshmemd: the daemon that serves vshmem regions to VMs and tasks.

use anyhow::{Context, bail};
use clap::{ArgGroup, Parser};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use vshmem_host::config::Config;
use vshmem_host::daemon::{self, Options};
use vshmem_host::endpoint::Endpoints;
use vshmem_host::{holder, sys};

/// Serves vshmem regions to virtual machines, containers and processes.
///
/// SIGINT, and SIGTERM when started by hand, let everything go: tasks keep
/// their mappings, VMs go on without each other. Under a service manager
/// SIGTERM only ends the daemon; a small holder process keeps memory and
/// connections for the next one, as after a crash.
#[derive(Parser, Debug)]
#[command(name = "vshmemd", version)]
#[command(group = ArgGroup::new("mode").required(true).args(["config", "embedded", "holder", "shutdown"]))]
struct Args {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration, print what it says, and leave
    #[arg(long, requires = "config")]
    check_config: bool,

    /// Serve one user's default region, without VMs; leave when it is unused
    #[arg(long, requires = "socket")]
    embedded: bool,

    /// Where tasks attach to the embedded region
    #[arg(long, value_name = "PATH", requires = "embedded")]
    socket: Option<PathBuf>,

    /// End the running daemon and its holder, or a holder left by a crash
    #[arg(long)]
    shutdown: bool,

    /// Directory of the sockets [default: $VSHMEM_RUNTIME_DIR, as configured, or /run/vshmem]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,

    /// Log filter: error, warn, info, debug, trace, or as RUST_LOG has it
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,

    /// Write "ready" and a newline to this open descriptor once serving
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,

    /// Create this file, with the pid in it, once serving
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,

    #[arg(long, hide = true)]
    holder: bool,

    #[arg(long, hide = true, default_value_t = 600)]
    linger: u64,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vshmemd: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    if args.holder {
        // SAFETY: nothing has been opened yet: whatever is above 2 was left
        // open by whoever started the daemon.
        unsafe { sys::close_inherited() };
        let listener = std::io::stdin();
        return Ok(holder::run(listener.as_fd(), Duration::from_secs(args.linger))?);
    }
    let ready_fd = args.ready_fd.map(take_ready_fd).transpose()?;
    let default_dir = || PathBuf::from("/run/vshmem");
    let asked_dir =
        args.runtime_dir.clone().or_else(|| std::env::var_os("VSHMEM_RUNTIME_DIR").map(Into::into));
    if args.shutdown {
        let dir = asked_dir.unwrap_or_else(default_dir);
        println!("ended {}", daemon::shut_down(&dir)?);
        return Ok(());
    }
    let (config, embedded) = match (&args.config, &args.socket) {
        (Some(path), _) => (Config::read(path)?, None),
        (None, Some(socket)) => {
            (Config::embedded(rustix::process::geteuid().as_raw()), Some(absolute(socket)?))
        }
        (None, None) => bail!("--config FILE or --embedded --socket PATH is missing"),
    };
    if args.check_config {
        print_regions(&config)?;
        return Ok(());
    }
    start_log(args.log.as_deref().or(config.daemon.log.as_deref()))?;
    let runtime_dir = match &embedded {
        // Beside its socket, whatever the system's daemon uses.
        Some(socket) => socket.parent().map(Path::to_owned).unwrap_or_else(default_dir),
        None => asked_dir.or_else(|| config.daemon.runtime_dir.clone()).unwrap_or_else(default_dir),
    };
    let runtime_dir = absolute(&runtime_dir)?;
    let options = Options { config, runtime_dir, embedded };
    daemon::run(options, &Endpoints, move || announce(ready_fd, args.ready_file.as_deref()))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("path {}", path.display()))
}

fn start_log(filter: Option<&str>) -> anyhow::Result<()> {
    let filter = match (filter, std::env::var("RUST_LOG")) {
        (Some(text), _) => EnvFilter::try_new(text).with_context(|| format!("log {text:?}"))?,
        (None, Ok(text)) => {
            EnvFilter::try_new(&text).with_context(|| format!("RUST_LOG {text:?}"))?
        }
        (None, Err(_)) => EnvFilter::new("info"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn print_regions(config: &Config) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for r in &config.regions {
        let vms = match r.ivshmem {
            true => format!("{} vectors, {} VMs", r.vectors, r.max_vms),
            false => "no VMs".to_owned(),
        };
        writeln!(out, "region {}: {}M, {}, {vms}", r.name, r.size >> 20, r.backing)?;
    }
    Ok(())
}

fn take_ready_fd(number: i32) -> anyhow::Result<File> {
    if number <= 2 {
        bail!("--ready-fd {number}: a descriptor above 2");
    }
    // SAFETY: nothing has been opened yet, so a descriptor above 2 is one we
    // were started with, and it has no other owner.
    let fd = unsafe { sys::inherited_fd(number) };
    Ok(File::from(fd.with_context(|| format!("--ready-fd {number} is not open"))?))
}

/// Tells whoever asked that everything is up.
fn announce(ready_fd: Option<File>, ready_file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(mut file) = ready_fd
        && let Err(e) = file.write_all(b"ready\n")
    {
        // Whoever asked may have been killed meanwhile; others will come.
        tracing::warn!(error = %e, "cannot write to --ready-fd");
    }
    if let Some(path) = ready_file {
        // Whole or not at all, for whoever watches the directory.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        std::fs::write(&temporary, format!("{}\n", std::process::id()))
            .and_then(|()| std::fs::rename(&temporary, path))
            .with_context(|| format!("cannot write --ready-file {}", path.display()))?;
    }
    notify_manager("READY=1");
    Ok(())
}

/// `sd_notify`: one datagram to the service manager, if there is one.
fn notify_manager(text: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|a| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &a));
    if let Err(e) = sent {
        tracing::warn!(error = %e, "cannot tell the service manager");
    }
}
