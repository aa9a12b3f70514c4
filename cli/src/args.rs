//! The command line, as `clap` reads it.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use vshmem::Limit;

/// System V IPC between virtual machines, containers and the host.
///
/// A region is a piece of memory that several kernels share. Programs started with `vshmem run`
/// find their segments, semaphores and message queues there, on whichever of those kernels they
/// run. On the host `vshmemd` serves regions, in a guest `vshmem agent` does.
#[derive(Parser, Debug)]
#[command(name = "vshmem", version, max_term_width = 100)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_long_help = TOP_HELP)]
pub struct Vshmem {
    /// Directory of the sockets [default: $VSHMEM_RUNTIME_DIR, or /run/vshmem]
    #[arg(long, global = true, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

const TOP_HELP: &str = "\
Examples:
  vshmem run -- ./program        its System V IPC now lives in memory that programs share directly
  vshmem ipcs                    what is there
  vshmem vm run --region demo -- vshmem run --region demo -- ./program
                                 the same in a guest, with what the host and other guests have

Environment:
  VSHMEM_RUNTIME_DIR  directory of the sockets
  VSHMEM_SOCKET       socket to attach to; `vshmem run` sets it for its program
  VSHMEM_RULES        rules, as --share has them, with ; between; `vshmem run` sets it
  VSHMEM_LIB          the libvshmem.so to preload
  VSHMEM_SPIN         nanoseconds that a wait may spin before it sleeps; 0: never
  VSHMEM_FTOK=plain   keys as the C library's ftok makes them, which differ between machines
  VSHMEM_QEMU         the QEMU of `vshmem vm run`

Exit status: 0 done, 1 failed, 2 wrong usage, 3 unshared and still attached elsewhere. Programs run
by `vshmem run` and `vshmem vm run` give theirs.";

const RUN_HELP: &str = "\
Examples:
  vshmem run -- ./program                 with others of this user on this machine
  vshmem run --region demo -- ./program   with everybody who uses the region, in VMs and here
  vshmem run -- bash                      for everything that is started from that shell
  vshmem run --region demo --share 0x1000-0x1fff -- ./program
                                          these keys through demo, all else stays in this kernel

Rules:
  Without rules everything goes through the region. With rules, the first one that names a key
  decides where the object with that key is, and what no rule names stays in this kernel. A rule is
  a list of keys, then optionally = and where they lead:

    0x1000-0x1fff,0x5000=blue   these keys to region blue
    private=local               objects without a key (IPC_PRIVATE) to this kernel
    shm:*                       all segments to the default region; the others are sem: and msg:
    *=default                   the rest to the default region, the one that --region names

  A file of rules has one a line; # begins a comment. The regions that one program uses need
  different numbers (`number` in vshmemd's configuration). Calls that list objects or limits speak
  of the place of the rest.";

const VM_RUN_HELP: &str = "\
Examples:
  vshmem vm run --region demo -- vshmem run --region demo -- ./program
  vshmem vm run --region demo --smp 2 --mem 1G -- sh    # a shell; it ends the guest";

const FENCE_HELP: &str = "\
Examples:
  vshmem peer fence --region demo 3             kill the VM of peer 3
  vshmem peer fence --region demo web1          the same, by its name
  vshmem peer fence --region demo --no-kill 3   for a VM that another manager will end or resume";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    Run(Run),
    Agent(Agent),
    /// Throw-away virtual machines
    #[command(subcommand)]
    Vm(Vm),
    Ipcs(Ipcs),
    Ipcrm(Ipcrm),
    Unshare(Unshare),
    Top(Top),
    /// The kernels that share a region
    #[command(subcommand)]
    Peer(Peer),
    /// The regions of this machine
    #[command(subcommand)]
    Region(RegionCommand),
    /// The processes attached to a region
    #[command(subcommand)]
    Task(Task),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Start the user's own endpoint (internal)
    #[command(name = "start-endpoint", hide = true)]
    StartEndpoint {
        /// Its attach socket
        #[arg(long)]
        socket: PathBuf,
    },
}

/// Run a program whose System V IPC goes through a region
///
/// The program's calls (shmget, semop, msgsnd and their relatives) are served by libvshmem.so,
/// which is preloaded into it and into the programs it starts. Without --region the user's own
/// endpoint is used; it is started if need be, shared by later commands, and leaves by itself when
/// it has neither tasks nor objects.
///
/// A preload cannot reach programs that issue the system calls themselves: of those that are linked
/// statically (or with --trap) the calls are trapped by the kernel and made by a supervisor, some
/// microseconds each. Programs that run with other privileges than their caller's (setuid, setgid,
/// file capabilities) are refused.
#[derive(Args, Debug)]
#[command(after_long_help = RUN_HELP)]
pub struct Run {
    /// Region to use, served by vshmemd or `vshmem agent` [default: $VSHMEM_SOCKET, or the user's own]
    #[arg(long, value_name = "REGION", value_parser = region_name)]
    pub region: Option<String>,

    /// Share these keys only: KEYS or KEYS=TARGET; may be given several times, see below
    #[arg(long, value_name = "RULE")]
    pub share: Vec<String>,

    /// Read rules from a file, after those of --share
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,

    /// Trap the system calls as well: for programs that start static ones, or issue them directly
    #[arg(long, overrides_with = "no_trap")]
    pub trap: bool,

    /// Trap nothing, and refuse a program that the preload cannot reach
    #[arg(long, overrides_with = "trap")]
    pub no_trap: bool,

    /// Program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    pub program: Vec<OsString>,
}

/// Serve regions inside a guest
///
/// Enters each region through its /dev/vshmemN (kernel module uio_vshmem), lets programs attach at
/// DIR/REGION.sock, watches them, and settles what they leave behind when they die. Running
/// programs survive a restart of the agent. Needs root.
#[derive(Args, Debug)]
pub struct Agent {
    /// Region to serve; may be given several times
    #[arg(long = "region", value_name = "REGION", required = true, value_parser = region_name)]
    pub regions: Vec<String>,

    /// Create this file, with the pid in it, once programs can attach
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Stay in the foreground (it always does; for service files that say so)
    #[arg(long)]
    pub foreground: bool,
}

/// Throw-away virtual machines
#[derive(Subcommand, Debug)]
pub enum Vm {
    Run(VmRun),
}

/// Boot a guest with a region attached and run a command in it
///
/// The guest sees the host's root file system under a writable layer of its own, so that any
/// program of the host runs in it. Output streams through, and the exit status is the command's.
/// `vshmemd` must serve the region, and QEMU must be installed.
#[derive(Args, Debug)]
#[command(after_long_help = VM_RUN_HELP)]
pub struct VmRun {
    /// Region to attach; may be given several times
    #[arg(long = "region", value_name = "REGION", required = true, value_parser = region_name)]
    pub regions: Vec<String>,

    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: u32,

    /// Memory, such as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = mebibytes)]
    pub mem: u64,

    /// Join the guests of the same network name
    #[arg(long, value_name = "NAME")]
    pub net: Option<String>,

    /// Kernel: a series such as 6.12, or a release such as 6.1.0-40-amd64 [default: the distribution's]
    #[arg(long, value_name = "VERSION")]
    pub kernel: Option<String>,

    /// More words for the kernel's command line, such as "slub_debug=FZPU panic_on_warn=1"
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,

    /// Let a guest that reboots, panics or is reset boot again, and its command with it
    #[arg(long)]
    pub reboot: bool,

    /// The guest's name in messages
    #[arg(long, value_name = "NAME", default_value = "guest")]
    pub name: String,

    /// Command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub program: Vec<OsString>,
}

fn mebibytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?}: a size such as 512M or 2G");
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'M' | 'm')) => (&text[..at], 1),
        Some((at, 'G' | 'g')) => (&text[..at], 1024),
        _ => return Err(wrong()),
    };
    let n: u64 = digits.parse().map_err(|_| wrong())?;
    n.checked_mul(unit).filter(|mib| (64..=1 << 20).contains(mib)).ok_or_else(wrong)
}

/// List segments, semaphore sets and message queues of a region
///
/// Without -m, -q or -s all three are listed.
#[derive(Args, Debug)]
pub struct Ipcs {
    #[command(flatten)]
    pub at: At,

    /// Shared memory segments
    #[arg(short = 'm', long)]
    pub shmems: bool,

    /// Message queues
    #[arg(short = 'q', long)]
    pub queues: bool,

    /// Semaphore sets
    #[arg(short = 's', long)]
    pub semaphores: bool,

    #[command(flatten)]
    pub format: Format,
}

/// Remove segments, semaphore sets and message queues of a region
///
/// A segment that is attached goes when its last user detaches it.
#[derive(Args, Debug)]
#[command(
    override_usage = "vshmem ipcrm [OPTIONS] -m ID | -M KEY | -q ID | -Q KEY | -s ID | -S KEY \
                            | --all[=KIND]..."
)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(
    ["shmem_id", "shmem_key", "queue_id", "queue_key", "semaphore_id", "semaphore_key", "all"]
))]
pub struct Ipcrm {
    #[command(flatten)]
    pub at: At,

    #[command(flatten)]
    pub objects: Objects,

    /// Everything, or everything of one kind
    #[arg(short = 'a', long, value_name = "KIND", num_args = 0..=1, require_equals = true)]
    pub all: Option<Option<Kind>>,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Objects by id and by key.
#[derive(Args, Debug)]
pub struct Objects {
    /// Segment with this id
    #[arg(short = 'm', long, value_name = "ID")]
    pub shmem_id: Vec<i32>,

    /// Segment with this key
    #[arg(short = 'M', long, value_name = "KEY", value_parser = key)]
    pub shmem_key: Vec<i32>,

    /// Queue with this id
    #[arg(short = 'q', long, value_name = "ID")]
    pub queue_id: Vec<i32>,

    /// Queue with this key
    #[arg(short = 'Q', long, value_name = "KEY", value_parser = key)]
    pub queue_key: Vec<i32>,

    /// Semaphore set with this id
    #[arg(short = 's', long, value_name = "ID")]
    pub semaphore_id: Vec<i32>,

    /// Semaphore set with this key
    #[arg(short = 'S', long, value_name = "KEY", value_parser = key)]
    pub semaphore_key: Vec<i32>,
}

impl Objects {
    /// Kind, number, and whether that is a key.
    pub fn named(&self) -> Vec<(vshmem::Kind, i32, bool)> {
        use vshmem::Kind::{Queue, Seg, Set};
        let lists = [
            (Seg, &self.shmem_id, false),
            (Seg, &self.shmem_key, true),
            (Queue, &self.queue_id, false),
            (Queue, &self.queue_key, true),
            (Set, &self.semaphore_id, false),
            (Set, &self.semaphore_key, true),
        ];
        let one = |(kind, list, is_key): (_, &Vec<i32>, _)| {
            list.iter().map(move |n| (kind, *n, is_key)).collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(one).collect()
    }
}

/// Withdraw segments, semaphore sets and message queues of a region from other kernels
///
/// What is withdrawn belongs to this kernel alone from then on, the host or the guest in which the
/// command runs. Its key is free: nobody finds it any more. Programs of this kernel use it on by its
/// id. For programs of other kernels it is gone: those that wait on it are sent away with EIDRM, later
/// calls fail with EINVAL. It ends with this kernel.
///
/// A segment that programs of other kernels have attached cannot be taken out of their memory. They
/// are listed, and the exit status is 3; nobody else can attach it.
///
/// Owner, creator and root may do this.
#[derive(Args, Debug)]
#[command(
    override_usage = "vshmem unshare [OPTIONS] -m ID | -M KEY | -q ID | -Q KEY | -s ID | -S KEY"
)]
#[command(group = clap::ArgGroup::new("object").required(true).multiple(true).args(
    ["shmem_id", "shmem_key", "queue_id", "queue_key", "semaphore_id", "semaphore_key"]
))]
pub struct Unshare {
    #[command(flatten)]
    pub at: At,

    #[command(flatten)]
    pub objects: Objects,
}

/// A kind of object, as `ipcrm --all` names them.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Shared memory segments
    Shm,
    /// Message queues
    Msg,
    /// Semaphore sets
    Sem,
}

fn region_name(text: &str) -> Result<String, String> {
    if vshmem_core::format::valid_name(text) {
        return Ok(text.to_owned());
    }
    Err("use 1 to 32 of a-z, 0-9, '-' and '_'".to_owned())
}

/// A key as `ipcs` prints it: decimal, or hexadecimal after 0x.
fn key(text: &str) -> Result<i32, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok().map(u32::cast_signed),
        None => text.parse::<i64>().ok().and_then(|n| {
            i32::try_from(n).ok().or_else(|| u32::try_from(n).ok().map(u32::cast_signed))
        }),
    };
    match parsed {
        Some(0) => Err("key 0 is IPC_PRIVATE, which many objects may have: use an id".to_owned()),
        Some(key) => Ok(key),
        None => Err(format!("{text:?}: a number such as 42 or 0x2a")),
    }
}

/// The kernels that share a region
#[derive(Subcommand, Debug)]
pub enum Peer {
    /// List the host and the guests that have entered a region
    List(List),
    Fence(Fence),
}

/// Declare a guest dead that is paused or has gone mad
///
/// A VM that is paused is not dead: what its programs hold stays held, and others wait. This kills
/// the VM (in all its regions) and gives what it held to the others, as its end by itself would.
/// Only root and the region's owner may, and only on the host.
///
/// With --no-kill the VM is left to whoever manages it: its programs are shut out of the region,
/// paused or not, and their calls fail with EIDRM should they ever run again. What they store in
/// segments that they have attached still reaches the region: end the VM before what is there is
/// relied on. Programs that are started in it later use the region as before.
///
/// To fence what is fenced, or gone already, does nothing, and succeeds.
#[derive(Args, Debug)]
#[command(after_long_help = FENCE_HELP)]
pub struct Fence {
    #[command(flatten)]
    pub at: At,

    /// Shut the guest out and leave its VM as it is
    #[arg(long)]
    pub no_kill: bool,

    /// Its number or name, as `vshmem peer list` shows them
    #[arg(value_name = "PEER")]
    pub peer: String,
}

/// The processes attached to a region
#[derive(Subcommand, Debug)]
pub enum Task {
    /// List the processes attached to a region
    List(List),
}

/// The regions of this machine
#[derive(Subcommand, Debug)]
pub enum RegionCommand {
    /// List the regions that can be attached to here
    List(Format),
    /// List the limits of a region
    Limits(List),
    Set(Set),
    Check(Check),
}

/// Check that everything in a region is as it must be
///
/// Walks all tables, objects, lists, blocks and pages, and names what is wrong, where, and what it
/// means. Programs may use the region meanwhile: what changes during the walk is looked at again, and
/// only what stays as it is is reported; so damage in memory that is busy may only be seen when it is
/// quiet. What is of the dead gets three seconds to be cleaned up.
///
/// With --repair what can be mended is, and each mending is told: counts, indices, key chains and lists
/// of sleepers are made anew, memory that nobody owns is given back, the dead are reaped, and queues and
/// sets of which the content cannot be known are removed (their sleepers get EIDRM). It may run beside
/// programs at work, and be interrupted and run again. Only root and the region's owner may.
///
/// Exit status: 0 nothing is wrong (any more), 1 something is, or the check failed.
#[derive(Args, Debug)]
pub struct Check {
    /// Region [default: $VSHMEM_SOCKET, or the user's own]
    #[arg(value_name = "REGION", value_parser = region_name, conflicts_with = "region")]
    pub name: Option<String>,

    #[command(flatten)]
    pub at: At,

    /// Mend what can be mended
    #[arg(long)]
    pub repair: bool,

    #[command(flatten)]
    pub format: Format,
}

impl Check {
    /// The region asked for, one way or the other.
    pub fn region(&self) -> Option<&str> {
        self.name.as_deref().or(self.at.region.as_deref())
    }
}

/// Set limits of a region
///
/// They are those of /proc/sys/kernel: shmmni, shmall (pages), shmmax (bytes), shm_rmid_forced,
/// semmsl, semmns, semopm, semmni, msgmax, msgmnb and msgmni. A change counts at once, on every
/// kernel that shares the region; what is in use already stays. Only root and the region's owner
/// may. (Programs under `vshmem run` can also use sysctl(8) or write to /proc/sys/kernel.)
#[derive(Args, Debug)]
pub struct Set {
    #[command(flatten)]
    pub at: At,

    /// Limits and their values
    #[arg(required = true, value_name = "LIMIT=VALUE", value_parser = limit)]
    pub limits: Vec<(Limit, u64)>,
}

fn limit(text: &str) -> Result<(Limit, u64), String> {
    let names = || Limit::ALL.map(Limit::name).join(", ");
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?}: LIMIT=VALUE, such as shmmni=1000"))?;
    let limit = Limit::ALL.into_iter().find(|l| l.name() == name);
    let limit = limit.ok_or_else(|| format!("{name:?} is none of {}", names()))?;
    let value = value.parse().map_err(|_| format!("{value:?}: not a number"))?;
    Ok((limit, value))
}

/// Show who does what in a region, who waits, and who holds something while stopped
///
/// Tasks of this kernel are shown with their processes' state: one that is STOPPED in the middle of a
/// change, or holding semaphores that it took with SEM_UNDO, is named first. STEPS/S are the region's
/// transactions; operations on a single semaphore that nobody waits for need none, and count under the
/// set's CHANGES/S. On a terminal the view is renewed every second until q is pressed, else it is
/// printed once.
#[derive(Args, Debug)]
pub struct Top {
    #[command(flatten)]
    pub at: At,

    /// Print it once
    #[arg(long)]
    pub once: bool,

    #[command(flatten)]
    pub format: Format,
}

/// A listing of one region.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    pub at: At,

    #[command(flatten)]
    pub format: Format,
}

/// Which region.
#[derive(Args, Debug)]
pub struct At {
    /// Region [default: $VSHMEM_SOCKET, or the user's own]
    #[arg(long, value_name = "REGION", value_parser = region_name)]
    pub region: Option<String>,
}

/// How to print.
#[derive(Args, Debug)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Vshmem::command().debug_assert();
    }

    #[test]
    fn keys_are_read_as_they_are_printed() {
        assert_eq!(key("0x2a"), Ok(42));
        assert_eq!(key("0xffffffff"), Ok(-1));
        assert_eq!(key("4294967295"), Ok(-1));
        assert_eq!(key("-1"), Ok(-1));
        assert!(key("0").unwrap_err().contains("IPC_PRIVATE"));
        assert!(key("x").is_err());
        assert!(key("0x1ffffffff").is_err());
    }

    #[test]
    fn memory_sizes_have_a_unit() {
        assert_eq!(mebibytes("512M"), Ok(512));
        assert_eq!(mebibytes("2G"), Ok(2048));
        for wrong in ["512", "M", "", "1M", "99999999999999999999G", "é"] {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }
}
