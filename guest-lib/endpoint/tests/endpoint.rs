//! Attaching, dying, executing, forking and restarting, with real processes and a real memfd.

mod common;

use common::{World, dial, helper_main, reply, request};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use vshmem_core::attach::Op;
use vshmem_core::layout::peer;
use vshmem_core::task::TaskId;
use vshmem_endpoint::Policy;

#[test]
fn helper() {
    helper_main();
}

#[test]
fn a_killed_task_is_reaped_its_semaphore_undone_and_its_segment_detached() {
    let mut w = World::new();
    let (set, segment) = (w.new_set(1), w.new_segment());
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("down {set}"));
    w.tell(&mut h, &format!("shmat {segment}"));
    assert_eq!((w.value(set), w.nattch(segment), w.slots()), (0, 1, 1));
    w.kill(&mut h);
    assert_eq!((w.value(set), w.nattch(segment), w.slots()), (1, 0, 0));
    assert_eq!(w.endpoint().tasks(), 0);
}

#[test]
fn exec_keeps_the_undo_and_the_slot_and_drops_lanes_and_attachments() {
    let mut w = World::new();
    let (set, segment) = (w.new_set(1), w.new_segment());
    let mut h = w.helper();
    let before = w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("down {set}"));
    w.tell(&mut h, &format!("shmat {segment}"));
    assert_eq!(w.lanes_of(&h), 1);
    assert_eq!(w.ask(&mut h, "exec"), "ready");
    w.settle();
    assert_eq!((w.value(set), w.nattch(segment)), (0, 0));
    assert_eq!(w.lanes_of(&h), 0);
    assert_eq!(w.tell(&mut h, "attach"), before, "the same slot and incarnation");
    w.kill(&mut h);
    assert_eq!((w.value(set), w.slots()), (1, 0));
}

#[test]
fn a_program_that_closes_all_descriptors_stays_a_task() {
    let mut w = World::new();
    let (set, segment) = (w.new_set(2), w.new_segment());
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("down {set}"));
    w.tell(&mut h, &format!("shmat {segment}"));
    w.tell(&mut h, "close");
    w.settle();
    assert_eq!((w.value(set), w.nattch(segment), w.lanes_of(&h)), (1, 1, 1));
    w.tell(&mut h, &format!("down {set}"));
    w.kill(&mut h);
    assert_eq!((w.value(set), w.nattch(segment), w.slots()), (2, 0, 0));
}

#[test]
fn a_second_connection_of_the_same_image_shares_the_slot_and_keeps_its_lanes() {
    let mut w = World::new();
    let mut h = w.helper();
    let first = w.tell(&mut h, "attach");
    w.tell(&mut h, "close");
    w.settle();
    assert_eq!(w.tell(&mut h, "attach"), first);
    assert_eq!(w.lanes_of(&h), 2);
}

#[test]
fn a_task_that_has_left_attaches_as_another_one() {
    let mut w = World::new();
    let set = w.new_set(1);
    let mut h = w.helper();
    let first = w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("down {set}"));
    w.tell(&mut h, "leave");
    assert_eq!((w.value(set), w.slots()), (1, 0));
    assert_ne!(w.tell(&mut h, "attach"), first);
    assert_eq!((w.slots(), w.endpoint().tasks()), (1, 1));
    w.tell(&mut h, &format!("down {set}"));
    w.kill(&mut h);
    assert_eq!((w.value(set), w.slots()), (1, 0));
}

#[test]
fn a_restarted_endpoint_adopts_the_living_and_reaps_the_dead() {
    let mut w = World::new();
    let set = w.new_set(5);
    let (mut a, mut b) = (w.helper(), w.helper());
    for h in [&mut a, &mut b] {
        w.tell(h, "attach");
        w.tell(h, &format!("down {set}"));
    }
    w.stop();
    w.kill(&mut b);
    assert_eq!(w.value(set), 3, "nobody is there to reap");
    w.tell(&mut a, &format!("down {set}"));
    w.start();
    assert_eq!((w.value(set), w.endpoint().tasks()), (3, 1));
    w.kill(&mut a);
    assert_eq!((w.value(set), w.slots()), (5, 0));
}

#[test]
fn an_exec_that_no_endpoint_saw_is_noticed_by_the_next_one() {
    let mut w = World::new();
    let (set, segment) = (w.new_set(1), w.new_segment());
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("down {set}"));
    w.tell(&mut h, &format!("shmat {segment}"));
    w.stop();
    assert_eq!(w.ask(&mut h, "exec"), "ready");
    w.start();
    // With the next tick: it might have been about to map the region.
    let begun = std::time::Instant::now();
    while w.lanes_of(&h) > 0 {
        assert!(begun.elapsed().as_secs() < 30, "its former image is not settled");
        std::thread::sleep(std::time::Duration::from_millis(10));
        w.settle();
    }
    assert_eq!((w.value(set), w.nattch(segment)), (0, 0));
    w.kill(&mut h);
    assert_eq!((w.value(set), w.slots()), (1, 0));
}

#[test]
fn a_restarted_endpoint_knows_a_task_that_attaches_again() {
    let mut w = World::new();
    let mut h = w.helper();
    let first = w.tell(&mut h, "attach");
    w.stop();
    w.start();
    assert_eq!(w.tell(&mut h, "attach"), first);
    assert_eq!((w.slots(), w.endpoint().tasks()), (1, 1));
}

#[test]
fn a_child_takes_its_announced_slot_and_its_death_is_settled_when_the_parent_asks() {
    let mut w = World::new();
    let segment = w.new_segment();
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("shmat {segment}"));
    // Parent and child speak at once.
    let mut said = [w.ask(&mut h, "fork"), w.hear(&mut h)];
    said.sort_by_key(|line| line.starts_with("hello"));
    let [announced, hello] = said;
    let mut words = announced.split(' ').skip(1).map(|n| n.parse::<u64>().unwrap());
    let (index, incarnation, pid) =
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    assert_eq!(hello, format!("hello ok {index} {incarnation}"));
    let id = TaskId { index: index as u32, incarnation };
    assert_eq!(w.task_of_pid(pid as u32), Some(id));
    assert_eq!((w.nattch(segment), w.endpoint().tasks()), (2, 2));
    let alive = w.ask(&mut h, &format!("reap {index} {incarnation}"));
    assert!(alive.contains("alive"), "{alive}");
    w.tell(&mut h, &format!("reap-child {index} {incarnation}"));
    assert_eq!((w.nattch(segment), w.slots()), (1, 1));
    // Twice is no harm.
    w.tell(&mut h, &format!("reap {index} {incarnation}"));
}

#[test]
fn a_child_that_is_never_born_leaves_no_slot() {
    let mut w = World::new();
    let segment = w.new_segment();
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("shmat {segment}"));
    w.tell(&mut h, "fork mute");
    w.settle();
    assert_eq!((w.slots(), w.nattch(segment)), (1, 1));
}

#[test]
fn only_whom_the_policy_admits_may_attach() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("needs root to become another user: not run");
        return;
    }
    let closed = Policy { uids: Some(vec![4242]), ..Policy::open(1) };
    let mut w = World::with(closed, 0);
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(w.socket(), all).unwrap();
    let dir = w.socket().parent().unwrap().to_owned();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir, all).unwrap();
    // Not with `uid` alone: that would keep root's supplementary groups.
    let mut stranger = w.helper_with(|c| c.uid(4241).gid(4241));
    let refused = w.ask(&mut stranger, "attach");
    assert!(refused.contains("uid 4241 may not attach to region test"), "{refused}");
    let mut first = w.helper_with(|c| c.uid(4242).gid(4242));
    w.tell(&mut first, "attach");
    // A read-only descriptor stays one.
    let reopened = w.ask(&mut first, "try-readonly");
    assert!(reopened.contains("Err"), "{reopened}");
    let mut second = w.helper_with(|c| c.uid(4242).gid(4242));
    let refused = w.ask(&mut second, "attach");
    assert!(refused.contains("as many as a user may have"), "{refused}");
    w.kill(&mut first);
    w.tell(&mut second, "attach");
}

#[test]
fn a_full_region_is_refused_by_name_and_its_room_is_used_again() {
    let mut w = World::with(Policy::open(1000), 4);
    let mut all: Vec<_> = (0..4).map(|_| w.helper()).collect();
    // One lane each, besides the endpoint's and the test's: attach only to the slots.
    for h in &mut all[..2] {
        w.tell(h, "attach");
    }
    let connections: Vec<_> = (0..2).map(|_| dial(&w.socket())).collect();
    request(&connections[0], Op::Attach, TaskId { index: 0, incarnation: 0 }, &[]);
    w.until(connections[0].as_fd());
    assert_eq!(reply(&connections[0]).unwrap().0.status, 0);
    assert_eq!(w.slots(), 3);
    w.kill(&mut all[0]);
    assert_eq!(w.slots(), 2);
    w.tell(&mut all[2], "attach");
}

#[test]
fn a_task_gets_the_doorbell_of_a_connected_peer_only() {
    let mut w = World::new();
    let index = w.region.claim_peer(7, [1; 16], 2, "guest").unwrap().unwrap();
    let socket = dial(&w.socket());
    let ring = |w: &mut World, index: u32| {
        request(&socket, Op::Ring, TaskId { index, incarnation: 0 }, &[]);
        w.until(socket.as_fd());
        reply(&socket).unwrap()
    };
    assert_ne!(ring(&mut w, index).0.status, 0, "not attached yet");
    request(&socket, Op::Attach, TaskId { index: 0, incarnation: 0 }, &[]);
    w.until(socket.as_fd());
    assert_eq!(reply(&socket).unwrap().0.status, 0);
    assert_ne!(ring(&mut w, index).0.status, 0, "not connected yet");
    let bells: Vec<_> = (0..2).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
    let wake = bells[0].try_clone().unwrap();
    w.events.connect(7, bells);
    let (answer, fds) = ring(&mut w, index);
    assert_eq!((answer.status, fds.len()), (0, 1));
    rustix::io::write(&fds[0], &1_u64.to_ne_bytes()).unwrap();
    let mut count = [0; 8];
    rustix::io::read(&wake, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    for wrong in [0, index + 1, 64, u32::MAX] {
        assert_ne!(ring(&mut w, wrong).0.status, 0, "peer {wrong}");
    }
}

#[test]
fn a_dead_vm_and_one_that_marked_itself_dead_are_reaped() {
    let mut w = World::new();
    let a = w.region.claim_peer(1, [1; 16], 2, "a").unwrap().unwrap();
    let b = w.region.claim_peer(2, [2; 16], 2, "b").unwrap().unwrap();
    let c = w.region.claim_peer(3, [3; 16], 2, "c").unwrap().unwrap();
    w.endpoint().peer_died(1);
    assert_eq!(w.region.peer(a).unwrap(), None);
    assert!(w.region.set_peer_state(b, peer::DEAD).unwrap());
    w.endpoint().control_doorbell();
    assert_eq!(w.region.peer(b).unwrap(), None);
    assert_eq!(w.region.peer(c).unwrap().unwrap().state, peer::LIVE);
    w.endpoint().peer_died(peer::HOST_IVSHMEM);
    assert_eq!(w.region.peer(0).unwrap().unwrap().state, peer::LIVE, "the host itself stays");
}

#[test]
fn an_unused_endpoint_with_an_object_is_not_idle() {
    let mut w = World::new();
    assert!(w.endpoint().is_idle());
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    assert!(!w.endpoint().is_idle());
    w.kill(&mut h);
    assert!(w.endpoint().is_idle());
    w.new_set(0);
    assert!(!w.endpoint().is_idle());
}

#[test]
fn a_kept_task_is_left_to_its_keeper_while_that_lives() {
    let mut w = World::new();
    let set = w.new_set(1);
    let (mut keeper, mut kept) = (w.helper(), w.helper());
    w.tell(&mut keeper, "attach");
    w.tell(&mut keeper, &format!("keep {}", kept.child.id()));
    assert!(w.task_of(&kept).is_some());
    w.tell(&mut keeper, &format!("down-for {set}"));
    w.kill(&mut kept);
    assert_eq!((w.value(set), w.slots()), (0, 2));
    w.tell(&mut keeper, "reap-kept");
    assert_eq!((w.value(set), w.slots()), (1, 1));
    w.kill(&mut keeper);
    assert_eq!((w.slots(), w.endpoint().tasks()), (0, 0));
}

#[test]
fn a_kept_task_outlives_its_keeper_and_the_dead_one_goes_with_it() {
    let mut w = World::new();
    let set = w.new_set(2);
    let (mut keeper, mut kept) = (w.helper(), w.helper());
    w.tell(&mut keeper, "attach");
    w.tell(&mut keeper, &format!("keep {}", kept.child.id()));
    w.tell(&mut keeper, &format!("down-for {set}"));
    w.kill(&mut keeper);
    assert_eq!((w.value(set), w.slots()), (1, 1));
    let mut second = w.helper();
    w.tell(&mut second, "attach");
    w.tell(&mut second, &format!("keep {}", kept.child.id()));
    w.tell(&mut second, &format!("down-for {set}"));
    w.kill(&mut kept);
    assert_eq!((w.value(set), w.slots()), (0, 2));
    w.kill(&mut second);
    assert_eq!((w.value(set), w.slots()), (2, 0));
}

#[test]
fn a_restarted_endpoint_knows_who_keeps_whom() {
    let mut w = World::new();
    let set = w.new_set(1);
    let (mut keeper, mut kept) = (w.helper(), w.helper());
    w.tell(&mut keeper, "attach");
    w.tell(&mut keeper, &format!("keep {}", kept.child.id()));
    w.tell(&mut keeper, &format!("down-for {set}"));
    w.stop();
    w.kill(&mut kept);
    w.start();
    assert_eq!((w.value(set), w.slots()), (0, 2), "it may be in the middle of a call");
    w.stop();
    w.kill(&mut keeper);
    w.start();
    assert_eq!((w.value(set), w.slots()), (1, 0));
}

#[test]
fn nobody_keeps_the_processes_of_others() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut w = World::new();
    let kept = w.helper();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(w.socket(), all).unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(w.socket().parent().unwrap(), all).unwrap();
    let mut other = w.helper_with(|c| c.uid(4241).gid(4241));
    w.tell(&mut other, "attach");
    let said = w.ask(&mut other, &format!("keep {}", kept.child.id()));
    assert!(said.starts_with("refused 1 process"), "{said}");
    assert!(w.task_of(&kept).is_none());
}
