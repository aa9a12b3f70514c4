//! Regions in the vshmem format: tasks attach, also across a restart, and the
//! embedded default comes and goes with them.
mod common;

use common::*;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recvmsg, send, socket_with,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_core::attach::{Op, REPLY, Reply, Request};

const CONFIG: &str = "[[region]]\nname = \"r\"\nsize = \"16M\"\n";

/// An attached task: its connection, and the region for writing and reading.
struct Task {
    _socket: OwnedFd,
    fds: Vec<OwnedFd>,
}

fn attach(path: &Path) -> Task {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let request = Request { op: Op::Attach, a: 0, b: 0 };
    send(&socket, &request.encode(), SendFlags::empty()).unwrap();
    assert!(readable(&socket, LIMIT), "the endpoint does not answer");
    let mut bytes = [0_u8; REPLY];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    recvmsg(&socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(new) = message {
            fds.extend(new);
        }
    }
    let reply = Reply::decode(&bytes).unwrap();
    assert_eq!(fds.len(), 2, "{reply:?}");
    Task { _socket: socket, fds }
}

fn inode(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

#[test]
fn task_gets_the_region_and_cannot_write_through_the_second_descriptor() {
    let _watchdog = watchdog(60);
    let host = Host::with_config(CONFIG);
    let task = attach(&host.run_dir().join("r.sock"));
    let vm = FakeVm::join(&host.door(), 2);
    assert_eq!(inode(&task.fds[0]), inode(vm.memory.as_ref().unwrap()));
    assert_eq!(inode(&task.fds[0]), inode(&task.fds[1]));
    assert!(rustix::io::pwrite(&task.fds[1], b"x", 0).is_err());

    // Nor open it again for writing, as another user: needs one to become.
    if rustix::process::geteuid().is_root() {
        let script = format!("exec 9<>/proc/{}/fd/{}", std::process::id(), task.fds[1].as_raw_fd());
        let tried = Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "bash", "-c", &script])
            .stderr(Stdio::null())
            .status()
            .expect("setpriv (util-linux) runs");
        assert!(!tried.success());
    }
}

#[test]
fn tasks_find_the_same_region_after_a_restart() {
    let _watchdog = watchdog(60);
    let mut host = Host::with_config(CONFIG);
    let socket = host.run_dir().join("r.sock");
    let before = attach(&socket);
    host.restart_after_kill();
    let after = attach(&socket);
    assert_eq!(inode(&before.fds[0]), inode(&after.fds[0]));
}

#[test]
fn region_file_is_used_again_and_a_torn_one_is_formatted() {
    let _watchdog = watchdog(60);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r");
    let config = format!("{CONFIG}backing = \"file\"\npath = {file:?}\n");
    // As if a daemon had been killed just before it formatted the file.
    std::fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
    for _ in 0..2 {
        let mut host = Host::with_config(&config);
        let task = attach(&host.run_dir().join("r.sock"));
        drop(task);
        host.signal(rustix::process::Signal::TERM);
        assert!(host.wait().success());
    }
    let mut other = std::fs::read(&file).unwrap();
    other[2 << 20..][..8].copy_from_slice(b"anything");
    std::fs::write(&file, other).unwrap();
    let host = Host { dir: tempfile::tempdir().unwrap(), daemon: None };
    host.configure(&config);
    let (code, _, err) = output(&mut host.command());
    assert_eq!(code, 1);
    assert!(err.contains("region r") && err.contains("magic"), "{err}");
    assert!(file.exists());
}

#[test]
fn region_with_more_tasks_than_room_is_refused_and_leaves_nothing() {
    let _watchdog = watchdog(60);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r");
    let host = Host { dir: tempfile::tempdir().unwrap(), daemon: None };
    host.configure(&format!(
        "{CONFIG}backing = \"file\"\npath = {file:?}\nlimits = {{ tasks = 4096 }}\n"
    ));
    let (code, _, err) = output(&mut host.command());
    assert_eq!(code, 1);
    assert!(err.contains("fewer tasks"), "{err}");
    assert!(!file.exists());
}

#[test]
fn holder_stays_while_a_process_maps_the_region() {
    let _watchdog = watchdog(60);
    let mut host = Host::with_config(&format!("[daemon]\nlinger_seconds = 0\n{CONFIG}"));
    let task = attach(&host.run_dir().join("r.sock"));
    let line = host.wait_log(&["started a holder"]);
    let holder: u32 = line.rsplit("pid=").next().unwrap().trim().parse().unwrap();
    let len = 4096;
    // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
    let at = unsafe {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &task.fds[0], 0)
    }
    .unwrap();
    host.kill();
    // Several of its turns: a wait for something that must not happen.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        assert!(is_running(holder));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    // SAFETY: mapped above, and nobody has the address.
    unsafe { rustix::mm::munmap(at, len) }.unwrap();
    eventually("the holder is gone", || !is_running(holder));
    assert!(!host.run_dir().join("r.sock").exists(), "it removes the sockets' names");
}

#[test]
fn embedded_default_serves_its_user_and_leaves_when_unused() {
    let _watchdog = watchdog(60);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("u");
    let socket = run.join("default.sock");
    let ready = dir.path().join("ready");
    let mut child = Command::new(program())
        .args(["--embedded", "--socket"])
        .arg(&socket)
        .arg("--ready-file")
        .arg(&ready)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is ready", || ready.exists());
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&run).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    let task = attach(&socket);
    assert_eq!(rustix::fs::fstat(&task.fds[0]).unwrap().st_size, 1 << 30);

    // A second one leaves the first alone.
    let (code, _, err) =
        output(Command::new(program()).args(["--embedded", "--socket"]).arg(&socket));
    assert_eq!(code, 1);
    assert!(err.contains(&format!("pid {}", child.id())), "{err}");

    // This process lives, so the endpoint has to be told that it does not: the
    // task is a child's from here on.
    drop(task);
    let _ = child.kill();
    let _ = child.wait();
    let (code, ..) =
        output(Command::new(program()).arg("--shutdown").arg("--runtime-dir").arg(&run));
    assert_eq!(code, 0);

    let mut child = Command::new(program())
        .args(["--embedded", "--socket"])
        .arg(&socket)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    eventually("it leaves by itself", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success());
    assert!(begin.elapsed() >= vshmem_host::daemon::IDLE_LIMIT);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_daemon_whose_starter_was_killed_serves_and_keeps_what_it_took_over() {
    let _watchdog = watchdog(60);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("u");
    let socket = run.join("default.sock");
    let start = |n: u32| {
        // Nobody reads what it says.
        let (read, tell) = rustix::pipe::pipe().unwrap();
        drop(read);
        let ready = dir.path().join(n.to_string());
        let child = Command::new(program())
            .args(["--embedded", "--socket"])
            .arg(&socket)
            .args(["--ready-fd", &tell.as_raw_fd().to_string(), "--ready-file"])
            .arg(&ready)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("it is ready", || ready.exists());
        child
    };
    let mut first = start(1);
    let before = attach(&socket);
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = start(2);
    let after = attach(&socket);
    assert_eq!(inode(&before.fds[0]), inode(&after.fds[0]));

    // One that fails lets go of nothing that was there before it.
    second.kill().unwrap();
    second.wait().unwrap();
    let (code, _, err) = output(
        Command::new(program())
            .args(["--embedded", "--socket"])
            .arg(&socket)
            .args(["--ready-file", "/nonexistent/ready"]),
    );
    assert_eq!(code, 1);
    assert!(err.contains("/nonexistent/ready"), "{err}");
    let mut third = start(3);
    let again = attach(&socket);
    assert_eq!(inode(&before.fds[0]), inode(&again.fds[0]));
    third.kill().unwrap();
    third.wait().unwrap();
    let (code, ..) =
        output(Command::new(program()).arg("--shutdown").arg("--runtime-dir").arg(&run));
    assert_eq!(code, 0);
}
