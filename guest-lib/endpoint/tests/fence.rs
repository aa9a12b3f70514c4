//! Peers that are declared dead: who may, what becomes of their VM, and of what they held.

mod common;

use common::{World, dial, helper_main, reply, request};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use vshmem_core::attach::{FENCE_ALIVE, Op, Reply, Request};
use vshmem_core::layout::{peer, task};
use vshmem_core::task::{NewTask, Owner, TaskId};

#[test]
fn helper() {
    helper_main();
}

const IVSHMEM: u32 = 7;

/// A guest, a task of it that holds a semaphore of value 1 (with undo), and a process for its VM.
struct Guest {
    index: u32,
    incarnation: u32,
    task: TaskId,
    set: i32,
    vmm: Child,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
    }
}

fn guest(w: &mut World) -> Guest {
    let set = w.new_set(1);
    let index = w.region.claim_peer(IVSHMEM, [1; 16], 2, "guest").unwrap().unwrap();
    let incarnation = w.region.peer(index).unwrap().unwrap().incarnation;
    let new = NewTask { peer: index, pid: 9, start: 1, uid: 0, comm: "x", state: task::LIVE };
    let task = w.region.claim_task(&mut w.lane, &new).unwrap().unwrap();
    let mut lane = w.region.claim_lane(Owner::Task(task)).unwrap().unwrap();
    let down = vshmem_sysv::sem::SemBuf { num: 0, op: -1, flg: 0x1000 };
    let c = common::caller(task, 9);
    vshmem_sysv::sem::op(&w.region, &mut lane, &c, set, &[down], None).unwrap();
    let vmm = Command::new("sleep").arg("1000").spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&vmm), PidfdFlags::empty()).unwrap();
    w.events.runs(IVSHMEM, vmm.id(), Some(pidfd));
    assert_eq!(w.value(set), 0);
    Guest { index, incarnation, task, set, vmm }
}

fn fence(w: &mut World, index: u64, incarnation: u32) -> Reply {
    let socket = dial(&w.socket());
    let request = Request { op: Op::Fence, a: index, b: incarnation.into() };
    common::send_raw(&socket, &request.encode(), &[]);
    w.until(socket.as_fd());
    reply(&socket).unwrap().0
}

fn refused(w: &mut World, index: u64, incarnation: u32, errno: Errno, why: &str) {
    let said = fence(w, index, incarnation);
    assert_eq!(said.status, errno.raw_os_error().unsigned_abs(), "{}", said.text);
    assert!(said.text.contains(why), "{}", said.text);
}

#[test]
fn a_fenced_peer_loses_its_vm_and_what_it_held_at_once_and_its_slot_with_the_vm() {
    let mut w = World::new();
    let mut g = guest(&mut w);
    let said = fence(&mut w, g.index.into(), g.incarnation);
    assert_eq!(said.status, 0, "{}", said.text);
    assert!(said.text.contains("guest") && said.text.contains(&g.vmm.id().to_string()));
    assert!(!g.vmm.wait().unwrap().success(), "killed");
    // Its death has yet to be noticed.
    assert_eq!(w.value(g.set), 1);
    let entry = w.region.peer(g.index).unwrap().unwrap();
    assert!(entry.fenced && entry.state == peer::DEAD);
    assert!(w.region.check_task(g.task).unwrap_err().is_fenced());
    // Again, before and after that.
    assert_eq!(fence(&mut w, g.index.into(), g.incarnation).status, 0);
    w.events.ended(IVSHMEM);
    w.endpoint().peer_died(IVSHMEM);
    assert_eq!((w.region.peer(g.index).unwrap(), w.slots(), w.value(g.set)), (None, 0, 1));
    refused(&mut w, g.index.into(), g.incarnation, Errno::SRCH, "gone already");
}

#[test]
fn a_peer_fenced_without_its_vm_keeps_slot_and_lanes_until_the_vm_ends() {
    let mut w = World::new();
    let mut g = guest(&mut w);
    assert_eq!(fence(&mut w, u64::from(g.index) | FENCE_ALIVE, g.incarnation).status, 0);
    assert!(g.vmm.try_wait().unwrap().is_none(), "its VM lives");
    assert_eq!(w.value(g.set), 1);
    let lanes = |w: &World| w.region.lanes_of(Owner::Task(g.task)).unwrap().len();
    // A restarted endpoint knows; and neither that nor a doorbell frees what may be written yet.
    w.stop();
    w.start();
    w.endpoint().control_doorbell();
    assert_eq!((lanes(&w), w.slots()), (1, 1));
    assert!(w.region.peer(g.index).unwrap().unwrap().fenced);
    // Its guest enters anew beside it.
    let again = w.region.claim_peer(IVSHMEM, [1; 16], 2, "guest").unwrap().unwrap();
    assert_ne!(again, g.index);
    w.endpoint().peer_died(IVSHMEM);
    assert_eq!((lanes(&w), w.slots()), (0, 0));
    assert_eq!((w.region.peer(g.index).unwrap(), w.region.peer(again).unwrap()), (None, None));
}

#[test]
fn an_endpoint_killed_between_marking_and_shutting_out_is_made_up_for() {
    let mut w = World::new();
    let g = guest(&mut w);
    w.stop();
    assert!(w.region.fence_peer(g.index, g.incarnation).unwrap());
    assert_eq!(w.value(g.set), 0);
    w.start();
    assert_eq!(w.value(g.set), 1);
}

#[test]
fn a_peer_whose_vm_is_gone_already_is_reaped() {
    let mut w = World::new();
    let g = guest(&mut w);
    w.events.ended(IVSHMEM);
    assert_eq!(fence(&mut w, g.index.into(), g.incarnation).status, 0);
    assert_eq!((w.region.peer(g.index).unwrap(), w.slots(), w.value(g.set)), (None, 0, 1));
}

#[test]
fn what_cannot_be_fenced_is_refused_and_left_as_it_is() {
    let mut w = World::new();
    let g = guest(&mut w);
    let at = u64::from(g.index);
    refused(&mut w, 0, 0, Errno::INVAL, "the host itself");
    refused(&mut w, 64, 0, Errno::INVAL, "no peer 64");
    refused(&mut w, at, g.incarnation + 1, Errno::SRCH, "gone already");
    // Its process handed the connection to another one.
    w.events.passed_on(IVSHMEM);
    refused(&mut w, at, g.incarnation, Errno::BUSY, "--no-kill");
    assert_eq!(w.region.peer(g.index).unwrap().unwrap().state, peer::LIVE);
    if rustix::process::geteuid().is_root() {
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(w.socket(), all).unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(w.socket().parent().unwrap(), all).unwrap();
        let mut stranger = w.helper_with(|c| c.uid(4241).gid(4241));
        w.tell(&mut stranger, "attach");
        let said = w.ask(&mut stranger, &format!("fence {} {}", g.index, g.incarnation));
        assert!(said.starts_with("1 ") && said.contains("uid 4241"), "{said}");
    }
    assert_eq!(w.value(g.set), 0);
    // The request of before the peers had this: no index.
    let socket = dial(&w.socket());
    request(&socket, Op::Fence, TaskId { index: u32::MAX, incarnation: u64::MAX }, &[]);
    w.until(socket.as_fd());
    assert_ne!(reply(&socket).unwrap().0.status, 0);
}
