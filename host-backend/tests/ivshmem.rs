//! The ivshmem server against clients that behave, that are slow, that leave,
//! and that send what they should not.
mod common;

use common::*;
use std::io::Write;
use std::process::{Command, Stdio};

const HOST: i64 = 0xfff0;

#[test]
fn handshake_gives_memory_host_others_and_own_vectors_in_this_order() {
    let _watchdog = watchdog(60);
    let host = Host::start("vectors = 3");
    let mut a = FakeVm::join(&host.door(), 3);
    assert_eq!(a.peer_ids(), [HOST, a.id]);
    let b = FakeVm::join(&host.door(), 3);
    assert_eq!(b.peer_ids(), [HOST, a.id, b.id]);
    assert_eq!(b.id, a.id + 1);
    assert_eq!(a.expect_connect(3), b.id);

    let memory = rustix::fs::fstat(a.memory.as_ref().unwrap()).unwrap();
    assert_eq!(memory.st_size, 16 << 20);
    let same = rustix::fs::fstat(b.memory.as_ref().unwrap()).unwrap();
    assert_eq!((memory.st_dev, memory.st_ino), (same.st_dev, same.st_ino));
}

#[test]
fn every_vector_rings_its_own_eventfd_and_the_host_hears_its_vectors() {
    let _watchdog = watchdog(60);
    let host = Host::start("vectors = 2");
    let mut a = FakeVm::join(&host.door(), 2);
    let b = FakeVm::join(&host.door(), 2);
    a.expect_connect(2);
    for vector in [1, 0] {
        ring(&b.events_of(a.id)[vector]);
        assert_eq!(take_rings(&a.events_of(a.id)[vector]), 1);
        ring(&a.events_of(b.id)[vector]);
        assert_eq!(take_rings(&b.events_of(b.id)[vector]), 1);
        ring(&a.events_of(HOST)[vector]);
        host.wait_log(&["a guest rang the host", &format!("vector={vector}")]);
    }
}

#[test]
fn disconnect_is_told_to_the_others_and_ids_are_never_used_again() {
    let _watchdog = watchdog(60);
    let mut host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let mut last = a.id;
    for round in 0..6 {
        let b = FakeVm::join(&host.door(), 2);
        assert_eq!(b.id, last + 1, "round {round}");
        last = b.id;
        assert_eq!(a.expect_connect(2), b.id);
        drop(b);
        assert_eq!(a.expect_disconnect(), last);
        if round == 2 {
            host.restart_after_kill();
        }
    }
    a.expect_silence();
}

#[test]
fn sixty_connections_leave_no_descriptor_behind() {
    let _watchdog = watchdog(60);
    let host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let (daemon, holder) = (host.pid(), holder_of(&host));
    let count = || (open_files(daemon), open_files(holder));
    let before = settled(count);
    for _ in 0..60 {
        let b = FakeVm::join(&host.door(), 2);
        a.expect_connect(2);
        drop(b);
        a.expect_disconnect();
        // The notices brought descriptors of this test's own, long dropped.
    }
    eventually("descriptors are as before", || count() == before);
}

/// The pid of the holder from the daemon's log: asking the holder itself would
/// wait, since it answers one daemon at a time.
fn holder_of(host: &Host) -> u32 {
    let line = host.wait_log(&["started a holder"]);
    let pid = line.rsplit("pid=").next().unwrap();
    pid.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn client_that_reads_nothing_blocks_nobody_and_then_reads_everything_in_order() {
    let _watchdog = watchdog(60);
    // More messages than a socket's buffer takes.
    let host = Host::start("vectors = 256");
    let mut a = FakeVm::join(&host.door(), 256);
    let slow = FakeVm::connect(&host.door());
    host.wait_log(&["VM is slow"]);
    let slow_id = a.expect_connect(256);
    let b = FakeVm::join(&host.door(), 256);
    assert_eq!(a.expect_connect(256), b.id);
    ring(&b.events_of(a.id)[255]);
    assert_eq!(take_rings(&a.events_of(a.id)[255]), 1);

    let mut slow = FakeVm::read_handshake(slow, 256);
    assert_eq!(slow.id, slow_id);
    assert_eq!(slow.peer_ids(), [HOST, a.id, slow_id]);
    assert_eq!(slow.expect_connect(256), b.id);
    ring(&slow.events_of(b.id)[200]);
    assert_eq!(take_rings(&b.events_of(b.id)[200]), 1);
}

#[test]
fn client_that_reads_nothing_is_not_told_of_peers_that_came_and_went() {
    let _watchdog = watchdog(60);
    let host = Host::start("vectors = 256");
    let mut a = FakeVm::join(&host.door(), 256);
    let slow = FakeVm::connect(&host.door());
    host.wait_log(&["VM is slow"]);
    a.expect_connect(256);
    for _ in 0..8 {
        let b = FakeVm::join(&host.door(), 256);
        a.expect_connect(256);
        drop(b);
        a.expect_disconnect();
    }
    let last = FakeVm::join(&host.door(), 256);
    let mut slow = FakeVm::read_handshake(slow, 256);
    assert_eq!(slow.peer_ids(), [HOST, a.id, slow.id]);
    assert_eq!(slow.expect_connect(256), last.id);
    slow.expect_silence();
}

#[test]
fn client_that_closes_in_the_middle_of_the_handshake_harms_nobody() {
    let _watchdog = watchdog(60);
    let host = Host::start("vectors = 256");
    let mut a = FakeVm::join(&host.door(), 256);
    for _ in 0..10 {
        let early = FakeVm::connect(&host.door());
        receive(&early).unwrap();
        drop(early);
    }
    host.wait_log(&["VM disconnected region=r id=11"]);
    let b = FakeVm::join(&host.door(), 256);
    assert_eq!(b.peer_ids(), [HOST, a.id, b.id]);
    // Of each of the others the first one heard everything, or nothing at all.
    loop {
        let peer = a.expect_connect(256);
        if peer == b.id {
            break;
        }
        assert_eq!(a.expect_disconnect(), peer);
    }
}

#[test]
fn byte_from_a_client_ends_its_connection_and_the_others_are_told() {
    let _watchdog = watchdog(60);
    let host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let mut b = FakeVm::join(&host.door(), 2);
    a.expect_connect(2);
    b.socket.write_all(b"x").unwrap();
    assert_eq!(a.expect_disconnect(), b.id);
    assert!(receive(&b.socket).is_none());
    host.wait_log(&["protocol error"]);
    FakeVm::join(&host.door(), 2);
}

#[test]
fn user_who_is_not_allowed_is_refused_before_the_id() {
    let _watchdog = watchdog(60);
    let host = Host::start("allow_vm_uids = [4242]");
    expect_refusal(&FakeVm::connect(&host.door()));
    host.wait_log(&["refused a VM", "allow_vm_uids"]);
}

#[test]
fn client_beyond_max_vms_is_refused_until_another_leaves() {
    let _watchdog = watchdog(60);
    let host = Host::start("max_vms = 2");
    let mut a = FakeVm::join(&host.door(), 2);
    let b = FakeVm::join(&host.door(), 2);
    a.expect_connect(2);
    expect_refusal(&FakeVm::connect(&host.door()));
    drop(b);
    a.expect_disconnect();
    let c = FakeVm::join(&host.door(), 2);
    assert_eq!(c.peer_ids(), [HOST, a.id, c.id]);
}

/// Not a test: what `process_in_between` runs in a process of its own. It
/// connects, gives the connection to a child as its standard output, and ends.
#[test]
#[ignore = "helper of another test"]
fn helper_connects_and_passes_the_connection_on() {
    let Some(door) = std::env::var_os("VSHMEM_TEST_DOOR") else { return };
    let vm = FakeVm::join(door.as_ref(), 2);
    let keeper = Command::new("cat").stdout(std::os::fd::OwnedFd::from(vm.socket)).spawn();
    drop(keeper.unwrap());
    std::process::exit(0);
}

#[test]
fn vm_whose_connection_is_held_by_another_process_is_dead_only_when_that_ends() {
    let _watchdog = watchdog(60);
    let host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let mut between = Command::new(std::env::current_exe().unwrap())
        .args(["helper_connects_and_passes_the_connection_on", "--exact", "--ignored"])
        .env("VSHMEM_TEST_DOOR", host.door())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let id = a.expect_connect(2);
    let held_open = between.stdin.take();
    assert!(between.wait().unwrap().success());
    host.wait_log(&["another holds its connection", &format!("id={id}")]);
    a.expect_silence();
    // The child reads the end of its input, and leaves.
    drop(held_open);
    assert_eq!(a.expect_disconnect(), id);
    host.wait_log(&["VM is dead", &format!("id={id}")]);
}

#[test]
fn vm_that_closes_its_connection_is_detached_but_not_dead() {
    let _watchdog = watchdog(60);
    let host = Host::start("");
    let mut a = FakeVm::join(&host.door(), 2);
    let b = FakeVm::join(&host.door(), 2);
    a.expect_connect(2);
    drop(b);
    a.expect_disconnect();
    // This process lives.
    let line = host.wait_log(&["VM d"]);
    assert!(line.contains("VM disconnected"), "{line}");
}
