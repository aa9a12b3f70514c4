//! The daemon comes and goes; regions and VMs stay.
mod common;

use common::*;
use rustix::process::Signal;
use std::process::Command;
use std::time::Duration;

const RAW: &str = "[[region]]\nname = \"r\"\nsize = \"16M\"\ncontents = \"raw\"\n";

#[test]
fn vms_do_not_notice_a_killed_daemon_and_the_next_one_goes_on() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let b = FakeVm::join(&host.door(), 2);
    a.expect_connect(2);
    rustix::io::pwrite(a.memory.as_ref().unwrap(), b"kept", 4096).unwrap();

    host.kill();
    a.expect_silence();
    b.expect_silence();
    ring(&a.events_of(b.id)[1]);
    assert_eq!(take_rings(&b.events_of(b.id)[1]), 1);
    // One that comes meanwhile waits at the door.
    let early = FakeVm::connect(&host.door());
    // One that leaves meanwhile is noticed later.
    drop(b);

    host.daemon = Some(host.spawn());
    let c = FakeVm::read_handshake(early, 2);
    assert_eq!(c.id, a.id + 2);
    let told = [receive(&a.socket), receive(&a.socket), receive(&a.socket)];
    let told = told.map(|m| m.map(|m| (m.value, m.fd.is_some())));
    let gone = Some((a.id + 1, false));
    let came = Some((c.id, true));
    assert!(told == [gone, came, came] || told == [came, came, gone], "{told:?}");
    let mut kept = [0; 4];
    rustix::io::pread(c.memory.as_ref().unwrap(), &mut kept, 4096).unwrap();
    assert_eq!(&kept, b"kept");
    // The host's own vectors are the same descriptors as before.
    ring(&a.events_of(0xfff0)[1]);
    host.wait_log(&["a guest rang the host", "vector=1"]);
}

#[test]
fn queue_of_a_slow_client_goes_on_exactly_where_a_killed_daemon_left_it() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("vectors = 256");
    let a = FakeVm::join(&host.door(), 256);
    let slow = FakeVm::connect(&host.door());
    host.wait_log(&["VM is slow"]);
    for _ in 0..3 {
        host.restart_after_kill();
    }
    let mut slow = FakeVm::read_handshake(slow, 256);
    assert_eq!(slow.peer_ids(), [0xfff0, a.id, slow.id]);
    slow.expect_silence();
    for vector in [0, 100, 255] {
        ring(&slow.events_of(a.id)[vector]);
        assert_eq!(take_rings(&a.events_of(a.id)[vector]), 1);
    }
    let c = FakeVm::join(&host.door(), 256);
    assert_eq!(slow.expect_connect(256), c.id);
}

#[test]
fn daemon_killed_at_any_moment_loses_or_repeats_no_message() {
    let _watchdog = watchdog(120);
    let mut host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    for round in 0..25_u64 {
        // Connects, and is served by whichever daemon gets to it.
        let door = host.door();
        let peer = std::thread::spawn(move || FakeVm::join(&door, 2));
        for _ in 0..round * 2000 {
            std::hint::spin_loop();
        }
        host.restart_after_kill();
        let b = peer.join().unwrap();
        assert_eq!(b.peer_ids(), [0xfff0, a.id, b.id], "round {round}");
        assert_eq!(a.expect_connect(2), b.id, "round {round}");
        drop(b);
        for _ in 0..round * 2000 {
            std::hint::spin_loop();
        }
        host.restart_after_kill();
        a.expect_disconnect();
    }
    a.expect_silence();
}

#[test]
fn killed_holder_is_replaced_and_the_new_one_has_everything() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let line = host.wait_log(&["started a holder"]);
    let first: i32 = line.rsplit("pid=").next().unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    host.wait_log(&["started a holder"]);
    a.expect_silence();
    host.restart_after_kill();
    let b = FakeVm::join(&host.door(), 2);
    assert_eq!(a.expect_connect(2), b.id);
    assert_eq!(b.id, a.id + 1);
}

#[test]
fn sigterm_lets_go_when_started_by_hand() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    let a = FakeVm::join(&host.door(), 2);
    host.signal(Signal::TERM);
    assert!(host.wait().success());
    assert!(receive(&a.socket).is_none());
    assert_eq!(std::fs::read_dir(host.run_dir()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn sigterm_keeps_the_vms_when_configured_so_and_shutdown_ends_the_holder() {
    let _watchdog = watchdog(60);
    let mut host = Host::with_config(&format!("[daemon]\non_sigterm = \"keep\"\n{RAW}"));
    let mut a = FakeVm::join(&host.door(), 2);
    host.signal(Signal::TERM);
    assert!(host.wait().success());
    a.expect_silence();
    let holder = host.holder();
    host.daemon = Some(host.spawn());
    let b = FakeVm::join(&host.door(), 2);
    assert_eq!(a.expect_connect(2), b.id);
    host.signal(Signal::TERM);
    host.wait();

    let (code, out, _) =
        output(Command::new(program()).arg("--shutdown").arg("--runtime-dir").arg(host.run_dir()));
    assert_eq!(code, 0);
    assert!(out.contains(&format!("its holder (pid {holder})")), "{out}");
    assert!(receive(&a.socket).is_none());
    eventually("the holder is gone", || !is_running(holder));
}

#[test]
fn shutdown_without_a_daemon_is_an_error_that_names_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) =
        output(Command::new(program()).arg("--shutdown").arg("--runtime-dir").arg(dir.path()));
    assert_eq!(code, 1);
    assert!(err.contains(dir.path().to_str().unwrap()), "{err}");
}

#[test]
fn second_daemon_is_refused_naming_the_first() {
    let _watchdog = watchdog(60);
    let host = Host::start("");
    let (code, _, err) = output(&mut host.command());
    assert_eq!(code, 1);
    assert!(err.contains(&format!("pid {}", host.pid())), "{err}");
    FakeVm::join(&host.door(), 2);
}

#[test]
fn holder_leaves_by_itself_when_no_vm_is_alive() {
    let _watchdog = watchdog(60);
    let mut host = Host::with_config(&format!("[daemon]\nlinger_seconds = 0\n{RAW}"));
    let line = host.wait_log(&["started a holder"]);
    let holder: u32 = line.rsplit("pid=").next().unwrap().trim().parse().unwrap();
    host.kill();
    eventually("the holder is gone", || !is_running(holder));
    // And what it leaves behind is in nobody's way.
    host.daemon = Some(host.spawn());
    FakeVm::join(&host.door(), 2);
}

#[test]
fn holder_stays_past_its_time_while_a_vm_is_alive() {
    let _watchdog = watchdog(60);
    let mut host = Host::with_config(&format!("[daemon]\nlinger_seconds = 0\n{RAW}"));
    let a = FakeVm::join(&host.door(), 2);
    let line = host.wait_log(&["started a holder"]);
    let holder: u32 = line.rsplit("pid=").next().unwrap().trim().parse().unwrap();
    host.kill();
    // Several of its turns: a wait for something that must not happen.
    assert!(!readable(&a.socket, Duration::from_millis(500)));
    assert!(is_running(holder));
}

#[test]
fn changed_configuration_is_refused_while_the_region_runs() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    let a = FakeVm::join(&host.door(), 2);
    host.kill();
    for (config, part) in [
        (RAW.replace("16M", "32M"), "running with size 16777216"),
        (format!("{RAW}vectors = 4\n"), "running with vectors 2"),
        (RAW.replace("\"r\"", "\"other\""), "no longer configured"),
    ] {
        host.configure(&config);
        let (code, _, err) = output(&mut host.command());
        assert_eq!(code, 1);
        assert!(err.contains(part) && err.contains("--shutdown"), "{err}");
    }
    host.configure(RAW);
    host.daemon = Some(host.spawn());
    a.expect_silence();
    FakeVm::join(&host.door(), 2);
}

#[test]
fn region_that_cannot_be_made_leaves_nothing_of_the_others() {
    let _watchdog = watchdog(60);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("first");
    let config = format!(
        "{RAW}backing = \"file\"\npath = {file:?}\n\
         [[region]]\nname = \"s\"\nsize = \"16M\"\ncontents = \"raw\"\n\
         backing = \"file\"\npath = \"/nonexistent/file\"\n"
    );
    std::fs::write(dir.path().join("c.toml"), config).unwrap();
    let run = dir.path().join("run");
    let (code, _, err) = output(
        Command::new(program())
            .arg("--config")
            .arg(dir.path().join("c.toml"))
            .arg("--runtime-dir")
            .arg(&run),
    );
    assert_eq!(code, 1);
    assert!(err.contains("region s") && err.contains("/nonexistent/file"), "{err}");
    assert!(!file.exists());
    let left: Vec<_> = std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| n == "vshmemd.lock"), "{left:?}");
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let _watchdog = watchdog(60);
    assert_eq!(output(&mut Command::new(program())).0, 2);
    assert_eq!(output(Command::new(program()).args(["--config", "a", "--embedded"])).0, 2);
    let (code, _, err) = output(Command::new(program()).args(["--config", "/nonexistent"]));
    assert_eq!(code, 1);
    assert!(err.contains("/nonexistent"), "{err}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "[[region]]\nname = \"a\"\nsize = \"100M\"\n").unwrap();
    let check = |file: &std::path::Path| {
        output(Command::new(program()).arg("--check-config").arg("--config").arg(file))
    };
    let (code, _, err) = check(&file);
    assert_eq!(code, 1);
    assert!(err.contains("line 3") && err.contains("128M"), "{err}");
    std::fs::write(&file, "[[region]]\nname = \"a\"\nsize = \"128M\"\n").unwrap();
    let (code, out, _) = check(&file);
    assert_eq!((code, out.as_str()), (0, "region a: 128M, memfd, 2 vectors, 63 VMs\n"));
}
