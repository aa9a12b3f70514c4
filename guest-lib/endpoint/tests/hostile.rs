//! What clients do that they should not: the endpoint serves the others, blocks nowhere and loses
//! no descriptor. One test only, since it counts the descriptors of its process.

mod common;

use common::{World, dial, helper_main, reply, request, send_raw};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use vshmem_core::attach::{Op, REQUEST, Request};
use vshmem_core::task::TaskId;
use vshmem_endpoint::Policy;

#[test]
fn helper() {
    helper_main();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until this process has `wanted` descriptors: what clients gave is closed by threads.
#[track_caller]
fn has_descriptors(wanted: usize, when: &str) {
    has_at_most(wanted, when);
    assert_eq!(descriptors(), wanted, "{when}");
}

#[track_caller]
fn has_at_most(most: usize, when: &str) {
    let until = Instant::now() + Duration::from_secs(30);
    while descriptors() > most {
        assert!(Instant::now() < until, "{when}: {} descriptors, not {most}", descriptors());
        std::thread::sleep(Duration::from_millis(1));
    }
}

const NO_ID: TaskId = TaskId { index: 0, incarnation: 0 };

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn hostile_clients_harm_nobody() {
    if std::env::var_os("HELPER").is_some() {
        return;
    }
    let policy = Policy { waiting_per_uid: 20, connections_per_task: 4, ..Policy::open(1000) };
    let mut w = World::with(policy, 0);
    let mut witness = w.helper();
    w.tell(&mut witness, "attach");
    let extra = std::fs::File::open("/dev/null").unwrap();
    let before = descriptors();

    // Packets that are no requests: told why, and closed. Descriptors with them: closed.
    let good = Request { op: Op::Attach, a: 0, b: 0 }.encode();
    let mut unknown = good;
    unknown[8] = 77;
    for bytes in [&b"x"[..], &[0; REQUEST], &[0xff; 4096], &unknown, &good[..REQUEST - 1]] {
        let socket = dial(&w.socket());
        let many: Vec<_> = (0..60).map(|_| extra.as_fd()).collect();
        send_raw(&socket, bytes, &many);
        w.until(socket.as_fd());
        let (answer, fds) = reply(&socket).unwrap();
        assert!(answer.status != 0 && !answer.text.is_empty() && fds.is_empty());
        w.until(socket.as_fd());
        assert!(reply(&socket).is_none(), "closed");
    }
    w.settle();
    has_descriptors(before, "after packets that are no requests");

    // An empty packet is no end of file, and a packet before its connection ends is read.
    let socket = dial(&w.socket());
    send_raw(&socket, b"", &[]);
    w.until(socket.as_fd());
    assert_ne!(reply(&socket).unwrap().0.status, 0);

    // Requests out of turn.
    for op in [Op::Hello, Op::Fork, Op::Ring, Op::Reap] {
        let socket = dial(&w.socket());
        request(&socket, op, NO_ID, &[extra.as_fd()]);
        w.until(socket.as_fd());
        assert_ne!(reply(&socket).unwrap().0.status, 0, "{op:?}");
    }
    drop(socket);
    w.settle();
    has_descriptors(before, "after requests out of turn");

    // A connection of another process: this one made it, a helper's child would use it. Here the
    // pair's creator is this process, so its peer says hello as its own parent.
    let me = dial(&w.socket());
    request(&me, Op::Attach, NO_ID, &[]);
    w.until(me.as_fd());
    assert_eq!(reply(&me).unwrap().0.status, 0);
    let mine = w.task_of_pid(std::process::id()).unwrap();
    let (near, far) = pair();
    for id in [mine, NO_ID, TaskId { index: u32::MAX, incarnation: 1 }] {
        request(&me, Op::Fork, id, &[far.as_fd()]);
        w.until(me.as_fd());
        assert_ne!(reply(&me).unwrap().0.status, 0, "a slot that is not claimed");
    }
    drop((near, far));
    // Reaping the living, and slots that do not exist.
    let other = w.task_of(&witness).unwrap();
    for id in [other, TaskId { index: u32::MAX, incarnation: 0 }] {
        request(&me, Op::Reap, id, &[]);
        w.until(me.as_fd());
        assert_ne!(reply(&me).unwrap().0.status, 0, "{id:?}");
    }

    // More connections than one task may have.
    let mut more = Vec::new();
    let refused = (0..10).find(|_| {
        let socket = dial(&w.socket());
        request(&socket, Op::Attach, NO_ID, &[]);
        w.until(socket.as_fd());
        let refused = reply(&socket).unwrap().0.status != 0;
        more.push(socket);
        refused
    });
    assert_eq!(refused, Some(3), "with the first, four");
    drop(more);
    drop(me);
    w.settle();

    // Crowds that say nothing: the oldest make way, and others get in.
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let socket = dial(&w.socket());
            w.settle();
            socket
        })
        .collect();
    has_at_most(before + 100 + 20 + 2, "for a crowd of 100");
    let mut late = w.helper();
    w.tell(&mut late, "attach");
    w.kill(&mut late);
    drop(crowd);
    w.settle();

    // A client that never reads its replies is cut off; nobody waits for it.
    let deaf = dial(&w.socket());
    let mut sent = 0;
    while sent < 100_000 {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        let bytes = Request { op: Op::Ring, a: 0, b: 0 }.encode();
        match rustix::net::send(&deaf, &bytes, flags) {
            Ok(_) => sent += 1,
            Err(rustix::io::Errno::AGAIN) => w.endpoint().dispatch(),
            Err(_) => break,
        }
    }
    assert!(sent < 100_000, "cut off");
    drop(deaf);
    drop(late);
    w.settle();

    // The witness never noticed. (This process itself is a task now: its pidfd remains.)
    assert_eq!(w.endpoint().tasks(), 2);
    let own = 1;
    has_descriptors(before + own, "at the end");
    let set = w.new_set(1);
    w.tell(&mut witness, &format!("down {set}"));
    w.kill(&mut witness);
    assert_eq!(w.value(set), 1);
}
