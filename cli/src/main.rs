//! The `vshmem` command: one binary for host and guest.
//!
//! Each subcommand is a module that returns a result; this file maps results to exit codes:
//! 0 done, 1 failed, 2 wrong usage, 3 unshared and still attached. `run` and `vm run` give the program's own.
#![forbid(unsafe_code)]

mod agent;
mod args;
mod check;
mod client;
mod fence;
mod ipc;
mod limits;
mod listing;
mod places;
mod preload;
mod run;
mod sharing;
mod top;
mod unshare;
mod vm;

use args::{Command, Peer, RegionCommand, Task, Vm, Vshmem};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match execute(&Vshmem::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("vshmem: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(args: &Vshmem) -> anyhow::Result<ExitCode> {
    let dir = &places::runtime_dir(args.runtime_dir.as_deref());
    let done = match &args.command {
        Command::Run(args) => Err(run::run(dir, args)),
        Command::Agent(args) => {
            start_log();
            agent::run(dir, args)
        }
        Command::Vm(Vm::Run(args)) => {
            let code = vm::run(dir, args)?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        Command::Ipcs(args) => ipc::list(dir, args),
        Command::Ipcrm(args) => ipc::remove(dir, args),
        Command::Unshare(args) => return unshare::run(dir, args),
        Command::Top(args) => top::run(dir, args),
        Command::Peer(Peer::List(args)) => listing::peers(dir, args),
        Command::Peer(Peer::Fence(args)) => fence::run(dir, args),
        Command::Task(Task::List(args)) => listing::tasks(dir, args),
        Command::Region(RegionCommand::List(args)) => listing::regions(dir, args),
        Command::Region(RegionCommand::Limits(args)) => limits::list(dir, args),
        Command::Region(RegionCommand::Set(args)) => limits::set(dir, args),
        Command::Region(RegionCommand::Check(args)) => return check::run(dir, args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Vshmem::command(), "vshmem", &mut script);
            listing::print(&String::from_utf8_lossy(&script))
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Vshmem::command()).render(&mut page)?;
            listing::print(&String::from_utf8_lossy(&page))
        }
        Command::StartEndpoint { socket } => run::start_endpoint(socket),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// The agent's log. Without colours: a guest's console is a terminal to it, and a file to whoever
/// reads it.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}
