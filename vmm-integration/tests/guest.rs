//! Guests that are really booted. Each test has a watchdog: it aborts the
//! process, and the guests die with it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use vshmem_vmm::{Captured, Error, NetBackend, NetSpec, Root, Vm, VmIo, VmSpec};

/// One test at a time: emulated guests take whole processors, and two tests'
/// guests together would measure the machine, not the code.
static ONE: Mutex<()> = Mutex::new(());

struct Guard {
    _turn: MutexGuard<'static, ()>,
    _done: mpsc::Sender<()>,
}

fn watchdog(limit: u64) -> Guard {
    let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        if is_done.recv_timeout(Duration::from_secs(limit)) == Err(mpsc::RecvTimeoutError::Timeout)
        {
            eprintln!("watchdog: the test has not ended within {limit} s");
            std::process::abort();
        }
    });
    Guard { _turn: turn, _done: done }
}

fn spec<const N: usize>(command: [&str; N]) -> VmSpec {
    VmSpec { cwd: "/".into(), ..VmSpec::new(command) }
}

fn spec_of(program: &Path, arg: &str) -> VmSpec {
    spec([program.to_str().unwrap(), arg])
}

fn start(spec: &VmSpec) -> (Vm, Captured, Captured) {
    let (io, out, err) = VmIo::capture();
    (Vm::spawn(spec, io).unwrap(), out, err)
}

fn run(spec: &VmSpec) -> (i32, String, String) {
    let (vm, out, err) = start(spec);
    let code = vm.wait().unwrap();
    (code, out.text(), err.text())
}

/// Whether the process exists and is no zombie.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(") ").next().unwrap_or("").starts_with('Z'))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20)); // the watchdog bounds it
    }
}

#[test]
fn a_program_of_the_host_runs_with_its_streams_apart_and_its_exit_code() {
    let _guard = watchdog(90);
    let host = fs::read_to_string("/etc/debian_version").unwrap();
    let script = "cat /etc/debian_version; uname -n >&2; echo x > /etc/new && cat /etc/new; exit 3";
    let (code, out, err) = run(&VmSpec { name: "alpha".into(), ..spec(["sh", "-c", script]) });
    assert_eq!((code, out, err), (3, format!("{host}x\n"), "alpha\n".to_string()));
    assert!(!Path::new("/etc/new").exists(), "the guest wrote to the host");
}

#[test]
fn ten_megabytes_pass_unchanged_through_stdin_and_stdout() {
    let _guard = watchdog(120);
    // xorshift: no pattern that a lost or doubled block would hide in.
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    })
    .take(10 << 17)
    .flatten()
    .collect();
    let spec = VmSpec { stdin: true, ..spec(["cat"]) };
    let (mut io, out, _) = VmIo::capture();
    io.stdin = Some(Box::new(std::io::Cursor::new(bytes.clone())));
    assert_eq!(Vm::spawn(&spec, io).unwrap().wait().unwrap(), 0);
    assert!(out.bytes() == bytes, "{} bytes of {} came back", out.bytes().len(), bytes.len());
}

#[test]
fn many_files_of_the_host_read_the_same_in_the_guest() {
    let _guard = watchdog(120);
    let script = "cd /usr/include && find . -type f | LC_ALL=C sort | head -n 1500 | \
                  xargs -d '\\n' cat | sha256sum";
    let host = Command::new("sh").args(["-c", script]).output().unwrap();
    let (code, out, err) = run(&spec(["sh", "-c", script]));
    assert_eq!((code, out.as_bytes(), err.as_str()), (0, host.stdout.as_slice(), ""));
}

#[test]
fn commands_that_cannot_start_end_as_in_a_shell() {
    let _guard = watchdog(120);
    let (code, _, err) = run(&spec(["no-such-program"]));
    assert_eq!(code, 127);
    assert!(err.contains("no-such-program"), "{err}");
    assert_eq!(run(&spec(["/etc"])).0, 126);
}

#[test]
fn a_signal_reaches_the_command_and_its_own_signal_the_caller() {
    let _guard = watchdog(120);
    let script = "trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    let (vm, out, _) = start(&spec(["sh", "-c", script]));
    eventually("the trap is set", || out.text() == "up\n");
    vm.signal(libc::SIGTERM);
    assert_eq!((vm.wait().unwrap(), out.text().as_str()), (9, "up\ngot\n"));
    assert_eq!(run(&spec(["sh", "-c", "kill -SEGV $$"])).0, 128 + libc::SIGSEGV);
}

#[test]
fn a_killed_guest_is_gone_at_once() {
    let _guard = watchdog(90);
    let (vm, _, _) = start(&spec(["sleep", "1000"]));
    vm.wait_ready().unwrap();
    let pid = vm.pid();
    assert!(lives(pid));
    vm.kill();
    assert_eq!(vm.wait().unwrap(), 137);
    assert!(!lives(pid));
    let (vm, _, _) = start(&spec(["true"]));
    let pid = vm.pid();
    drop(vm);
    assert!(!lives(pid), "a dropped guest lives on");
}

#[test]
fn a_guest_dies_with_the_process_that_started_it() {
    let _guard = watchdog(90);
    const ROLE: &str = "VSHMEM_TEST_PARENT";
    if std::env::var_os(ROLE).is_some() {
        let (vm, _, _) = start(&spec(["sleep", "1000"]));
        println!("\npid={}", vm.pid());
        std::io::stdout().flush().unwrap();
        let _ = vm.wait();
        return;
    }
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_guest_dies_with_the_process_that_started_it", "--nocapture"])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(parent.stdout.take().unwrap());
    let pid = std::io::BufRead::lines(lines)
        .map_while(Result::ok)
        .find_map(|l| l.strip_prefix("pid=").and_then(|p| p.parse::<u32>().ok()))
        .unwrap();
    assert!(lives(pid));
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("QEMU is gone", || !lives(pid));
}

#[test]
fn the_guests_clock_runs_as_the_hosts() {
    let _guard = watchdog(120);
    let script = "cut -d' ' -f1 /proc/uptime; read line; cut -d' ' -f1 /proc/uptime";
    let spec = VmSpec { stdin: true, ..spec(["sh", "-c", script]) };
    let (mut io, out, _) = VmIo::capture();
    let (input, mut answer) = std::io::pipe().unwrap();
    io.stdin = Some(Box::new(input));
    let vm = Vm::spawn(&spec, io).unwrap();
    eventually("the first reading", || out.text().ends_with('\n'));
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(2)); // the interval that is measured
    answer.write_all(b"go\n").unwrap();
    eventually("the second reading", || out.text().lines().count() == 2);
    let host = begun.elapsed().as_secs_f64();
    drop(answer);
    assert_eq!(vm.wait().unwrap(), 0);
    let read: Vec<f64> = out.text().lines().map(|l| l.parse().unwrap()).collect();
    let ratio = (read[1] - read[0]) / host;
    // Loose on the low side: the second reading takes an emulated guest a while.
    assert!((0.8..1.1).contains(&ratio), "{ratio}");
}

#[test]
fn an_isolated_guest_has_its_program_and_nothing_else() {
    let _guard = watchdog(90);
    let mut spec = spec(["/bin/ls", "/", "/etc"]);
    spec.root = Root::Isolated { programs: vec!["/bin/ls".into()] };
    let (code, out, err) = run(&spec);
    assert_eq!(code, 2, "{out}{err}");
    assert!(err.contains("/etc"), "{err}");
    assert!(out.contains("modules") && !out.contains("home"), "{out}");

    // A program that was built below /tmp is there too.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::copy("/bin/echo", &program).unwrap();
    let mut spec = spec_of(&program, "here");
    spec.root = Root::Isolated { programs: vec![program] };
    assert_eq!(run(&spec), (0, "here\n".to_string(), String::new()));
}

#[test]
fn a_newer_kernel_boots_where_the_package_sources_have_one() {
    let _guard = watchdog(240);
    let mut spec = spec(["uname", "-r"]);
    spec.kernel = "6.12".parse().unwrap();
    let (io, out, _) = VmIo::capture();
    match Vm::spawn(&spec, io) {
        Ok(vm) => {
            assert_eq!(vm.wait().unwrap(), 0);
            assert!(out.text().starts_with("6.12."), "{}", out.text());
        }
        Err(Error::Image(vshmem_images::Error::NoPackage { package })) => {
            println!("NOT TESTED: no package source here has {package}");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn two_guests_of_a_network_talk_and_a_taken_place_is_refused() {
    let _guard = watchdog(120);
    talk(NetBackend::default(), 1);
}

#[test]
fn four_guests_without_privilege_start_together_and_talk() {
    let _guard = watchdog(180);
    talk(NetBackend::Multicast, 3);
}

#[test]
fn two_guests_without_privilege_talk() {
    let _guard = watchdog(120);
    talk(NetBackend::Pair, 1);
}

#[test]
fn four_guests_on_a_bridge_talk_and_leave_no_device_behind() {
    let _guard = watchdog(180);
    if !rustix::process::geteuid().is_root() {
        println!("NOT TESTED: tap devices need root");
        return;
    }
    let before = fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    talk(NetBackend::Tap, 3);
    assert_eq!(fs::read_to_string("/proc/net/dev").unwrap().lines().count(), before);
}

/// One guest serves, the others ask it.
fn talk(backend: NetBackend, clients: usize) {
    let name = format!("t{}", std::process::id());
    let net = NetSpec { backend, ..NetSpec::new(&name) };
    let server = format!(
        "use IO::Socket::INET; my $l = IO::Socket::INET->new(LocalPort => 7, Listen => 5) or die; \
         for (1..{clients}) {{ my $c = $l->accept or die; my $q = <$c>; print $c \"re: $q\"; }}"
    );
    let client = "use IO::Socket::INET; my $c; for (1..100) { \
         $c = IO::Socket::INET->new(PeerAddr => '10.77.0.1', PeerPort => 7, Timeout => 2) and last; \
         select(undef, undef, undef, 0.1); } die \"no connection\" unless $c; \
         print $c \"hello\\n\"; print scalar <$c>;";
    let mut one = spec(["perl", "-e", &server]);
    one.net = Some(NetSpec { index: Some(1), ..net.clone() });
    let (server, _, trouble) = start(&one);
    let mut asking = Vec::new();
    for n in 0..clients {
        let mut other = spec(["perl", "-e", client]);
        other.name = format!("client{n}");
        other.net = Some(net.clone());
        asking.push(start(&other));
    }
    let full = NetSpec { index: Some(1), ..net };
    let (io, _, _) = VmIo::capture();
    let refused = Vm::spawn(&VmSpec { net: Some(full), ..one }, io);
    assert!(matches!(refused, Err(Error::Net { .. })), "{refused:?}");
    for (vm, out, err) in asking {
        let timing = vm.wait_ready().unwrap();
        println!("{vm:?}: command started after {:?}", timing.started);
        assert_eq!(vm.wait().unwrap(), 0, "{}", err.text());
        assert_eq!(out.text(), "re: hello\n");
    }
    assert_eq!(server.wait().unwrap(), 0, "{}", trouble.text());
}

/// `vshmemd` with one raw region, until dropped.
struct Daemon {
    dir: tempfile::TempDir,
    program: PathBuf,
    child: Child,
}

impl Daemon {
    fn start() -> Daemon {
        // Cargo builds a test's own package only.
        let exe = std::env::current_exe().unwrap();
        let program = exe.parent().unwrap().parent().unwrap().join("vshmemd");
        assert!(program.exists(), "no {}: run `cargo build -p vshmem-host`", program.display());
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("c.toml");
        fs::write(&config, "[[region]]\nname = \"r\"\nsize = \"16M\"\ncontents = \"raw\"\n")
            .unwrap();
        let ready = dir.path().join("ready");
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).arg("--runtime-dir").arg(dir.path());
        command.arg("--ready-file").arg(&ready).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        eventually("vshmemd serves", || ready.exists());
        // The agent proper belongs to another layer; here the module and the
        // way the guest starts an agent are what is tested.
        let agent = dir.path().join("agent");
        fs::write(
            &agent,
            "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" = --ready-file ] && f=$2; shift; done\n\
             [ -n \"$AGENT_EXIT\" ] && exit $AGENT_EXIT\n\
             : > \"$f\"; trap 'exit 0' TERM; while :; do sleep 0.1; done\n",
        )
        .unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        Daemon { dir, program, child }
    }

    fn attach(&self, spec: VmSpec) -> VmSpec {
        let dir = self.dir.path();
        spec.with_region("r", &dir.join("r.ivshmem"), &dir.join("agent"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new(&self.program)
            .arg("--shutdown")
            .arg("--runtime-dir")
            .arg(self.dir.path())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const COUNT: u32 = 2_000_000;

/// Adds to a counter in the region beside another guest; both begin together.
const ADDER: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int fd = open("/dev/vshmem0", O_RDWR);
    volatile unsigned long *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 2 << 20);
    if (fd < 0 || w == MAP_FAILED) { perror("/dev/vshmem0"); return 1; }
    unsigned n = atoi(argv[1]);
    __atomic_fetch_add(&w[0], 1, __ATOMIC_SEQ_CST);
    while (w[0] < 2) ;
    for (unsigned i = 0; i < n; i++) __atomic_fetch_add(&w[8], 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&w[16], 1, __ATOMIC_SEQ_CST);
    while (w[16] < 2) ;
    printf("%lu\n", w[8]);
    return 0;
}
"#;

#[test]
fn two_guests_adding_to_one_counter_lose_nothing() {
    let _guard = watchdog(180);
    let daemon = Daemon::start();
    let (source, program) = (daemon.dir.path().join("adder.c"), daemon.dir.path().join("adder"));
    fs::write(&source, ADDER).unwrap();
    let built = Command::new("cc").arg("-O2").arg(&source).arg("-o").arg(&program).status();
    assert!(built.unwrap().success());
    let count = COUNT.to_string();
    let spec = daemon.attach(spec([program.to_str().unwrap(), &count]));
    let both = [start(&spec), start(&spec)];
    for (vm, out, err) in both {
        let timing = vm.wait_ready().unwrap();
        println!("{vm:?}: command started after {:?}", timing.started);
        assert_eq!(vm.wait().unwrap(), 0, "{}", err.text());
        assert_eq!(out.text().trim(), (2 * COUNT).to_string());
    }
}

#[test]
fn what_a_region_lacks_is_named() {
    let _guard = watchdog(120);
    let daemon = Daemon::start();
    let mut dying = daemon.attach(spec(["true"]));
    dying.env.push(("AGENT_EXIT".into(), "4".into()));
    let (vm, _, _) = start(&dying);
    let why = vm.wait().unwrap_err().to_string();
    assert!(why.contains("agent") && why.contains("exit status: 4"), "{why}");

    // One that dies later is started again, and that is told.
    let mut dying =
        daemon.attach(spec(["sh", "-c", "pkill -KILL -x agent; sleep 2; pgrep -x agent"]));
    dying.name = "restart".into();
    let (mut vm, _, _) = start(&dying);
    assert_eq!(vm.wait_mut().unwrap(), 0, "no agent runs");
    let told = vm.notices();
    assert!(told.iter().any(|n| n.contains("signal: 9")), "{told:?}");

    let (io, _, _) = VmIo::capture();
    let absent = spec(["true"]).with_region("r", Path::new("/nowhere/r.ivshmem"), Path::new("/x"));
    let why = Vm::spawn(&absent, io).unwrap_err().to_string();
    assert!(why.contains("region r") && why.contains("vshmemd"), "{why}");
}
