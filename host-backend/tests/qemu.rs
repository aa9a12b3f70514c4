//! The server against the real thing: QEMU, started paused and without a
//! system in it. Without QEMU these fail; skip them by name where it cannot be
//! installed (`--skip qemu_`).
mod common;

use common::*;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Qemu {
    child: Child,
    qmp: Option<BufReader<UnixStream>>,
}

fn qemu(host: &Host, qmp: &Path) -> Child {
    Command::new("qemu-system-x86_64")
        .args(["-S", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg"])
        .args(["-m", "64"])
        .arg("-chardev")
        .arg(format!("socket,path={},id=c", host.door().display()))
        .args(["-device", "ivshmem-doorbell,chardev=c,vectors=2"])
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", qmp.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qemu-system-x86_64 runs (Debian: apt install qemu-system-x86)")
}

impl Qemu {
    /// Starts one and waits until its machine is complete.
    fn start(host: &Host, name: &str) -> Self {
        let path = host.path(name);
        let mut this = Self { child: qemu(host, &path), qmp: None };
        this.connect(&path);
        this
    }

    fn connect(&mut self, path: &Path) {
        // QEMU answers only once its devices exist.
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) => {
                    assert!(begin.elapsed() < LIMIT, "QEMU does not listen");
                    assert!(self.child.try_wait().unwrap().is_none(), "QEMU has ended");
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            }
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        self.qmp = Some(BufReader::new(stream));
        self.line("\"QMP\"");
        self.ask("{\"execute\": \"qmp_capabilities\"}");
    }

    fn line(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let n = self.qmp.as_mut().unwrap().read_line(&mut line).unwrap();
            assert!(n > 0, "QEMU has closed its monitor");
        }
        line
    }

    fn ask(&mut self, command: &str) -> String {
        let stream = self.qmp.as_mut().unwrap().get_mut();
        writeln!(stream, "{command}").unwrap();
        self.line("\"return\"")
    }

    fn assert_alive(&mut self) {
        let answer = self.ask("{\"execute\": \"query-status\"}");
        assert!(answer.contains("prelaunch"), "{answer}");
    }

    fn files(&self) -> usize {
        open_files(self.child.id())
    }

    /// The same once it has read all that was sent: it does so in its own time.
    fn files_at_rest(&self) -> usize {
        settled(|| self.files())
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn qemu_sees_a_bar_of_the_regions_size_and_its_death_is_noticed() {
    let _watchdog = watchdog(60);
    let host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let mut vm = Qemu::start(&host, "q1");
    let id = a.expect_connect(2);
    let pci = vm.ask("{\"execute\": \"query-pci\"}");
    let device = pci.split("\"slot\":").find(|d| d.contains("4368")).expect("1af4:1110");
    let bar = device.split('{').find(|r| r.contains("\"bar\": 2")).expect("a BAR 2");
    assert!(bar.contains("\"size\": 16777216"), "{bar}");
    let tree = "{\"execute\": \"human-monitor-command\", \
                 \"arguments\": {\"command-line\": \"info pci\"}}";
    let info = vm.ask(tree);
    assert!(info.contains("1af4:1110"), "{info}");
    host.wait_log(&["VM connected", &format!("pid={}", vm.child.id())]);
    vm.kill();
    assert_eq!(a.expect_disconnect(), id);
    host.wait_log(&["VM is dead", &format!("id={id}")]);
}

#[test]
fn qemus_survive_a_killed_daemon_and_hear_of_vms_that_come_later() {
    let _watchdog = watchdog(90);
    let mut host = Host::start("");
    let mut first = Qemu::start(&host, "q1");
    let before_second = first.files_at_rest();
    let mut second = Qemu::start(&host, "q2");
    eventually("the first has the second's eventfds", || first.files() == before_second + 2);
    host.restart_after_kill();
    first.assert_alive();
    let (one, two) = (first.files_at_rest(), second.files_at_rest());
    let mut third = Qemu::start(&host, "q3");
    eventually("both have the third's eventfds", || {
        first.files() == one + 2 && second.files() == two + 2
    });
    host.restart_after_kill();
    third.assert_alive();
    third.kill();
    host.wait_log(&["VM is dead", &format!("pid={}", third.child.id())]);
    eventually("both have closed them", || first.files() == one && second.files() == two);
    first.assert_alive();
    second.assert_alive();
}

#[test]
fn qemu_survives_sixty_peers_that_come_and_go() {
    let _watchdog = watchdog(90);
    let mut host = Host::start("");
    let mut vm = Qemu::start(&host, "q1");
    let before = vm.files_at_rest();
    for round in 0..60 {
        FakeVm::join(&host.door(), 2);
        if round % 20 == 10 {
            host.restart_after_kill();
        }
    }
    // All sixty were announced and ended, in order; the last proves it.
    let last = FakeVm::join(&host.door(), 2);
    eventually("QEMU knows the last one only", || vm.files() == before + 2);
    vm.assert_alive();
    drop(last);
    eventually("QEMU knows nobody", || vm.files() == before);
}

#[test]
fn qemu_that_is_refused_ends_by_itself_with_an_error() {
    let _watchdog = watchdog(60);
    let host = Host::start("allow_vm_uids = [4242]");
    let mut child = qemu(&host, &host.path("q1"));
    eventually("QEMU ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn qemu_started_while_the_daemon_is_down_waits_and_is_then_served() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    host.kill();
    let mut vm = Qemu { child: qemu(&host, &host.path("q1")), qmp: None };
    // Its connection is in the listener's queue.
    eventually("QEMU waits", || {
        std::fs::read_to_string("/proc/net/unix")
            .unwrap()
            .lines()
            .filter(|l| l.ends_with(host.door().to_str().unwrap()))
            .count()
            >= 2
    });
    host.daemon = Some(host.spawn());
    vm.connect(&host.path("q1"));
    vm.assert_alive();
    let b = FakeVm::join(&host.door(), 2);
    assert_eq!(b.peer_ids().len(), 3);
}

#[test]
fn qemu_waiting_at_the_door_of_a_holder_that_is_shut_down_ends_with_an_error() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    host.kill();
    let mut child = qemu(&host, &host.path("q1"));
    eventually("QEMU waits", || {
        std::fs::read_to_string("/proc/net/unix")
            .unwrap()
            .lines()
            .filter(|l| l.ends_with(host.door().to_str().unwrap()))
            .count()
            >= 2
    });
    let (code, ..) =
        output(Command::new(program()).arg("--shutdown").arg("--runtime-dir").arg(host.run_dir()));
    assert_eq!(code, 0);
    eventually("QEMU ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn qemu_goes_on_after_an_orderly_end_of_the_daemon() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    let mut vm = Qemu::start(&host, "q1");
    host.signal(Signal::TERM);
    assert!(host.wait().success());
    vm.assert_alive();
}
