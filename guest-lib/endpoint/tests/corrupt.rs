//! What an endpoint does about a region that somebody has scribbled on.

mod common;

use common::{World, helper_main};
use std::time::{Duration, Instant};
use vshmem_core::layout::{Table, lane, peer, task};
use vshmem_core::mem::{Mem, Ordering};
use vshmem_core::task::Owner;

#[test]
fn helper() {
    helper_main();
}

fn until(w: &mut World, what: &str, done: impl Fn(&World) -> bool) {
    let start = Instant::now();
    while !done(w) {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        w.settle();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_task_that_could_not_be_reaped_is_reaped_once_the_region_is_repaired() {
    let mut w = World::new();
    let set = w.new_set(1);
    let mut h = w.helper();
    w.tell(&mut h, "attach");
    w.tell(&mut h, &format!("down {set}"));
    let id = w.task_of(&h).unwrap();
    let undo = w.region.element(Table::Tasks, id.index).unwrap().plus(task::UNDO);
    let good = w.region.mem().load(undo, Ordering::Acquire).unwrap();
    w.region.mem().store(undo, good | 0xffff_ffff, Ordering::Release).unwrap();
    w.kill(&mut h);
    assert_eq!((w.value(set), w.slots()), (0, 1), "its undo record is out of reach");
    w.region.mem().store(undo, good, Ordering::Release).unwrap();
    until(&mut w, "reaped again", |w| w.slots() == 0);
    assert_eq!(w.value(set), 1);
}

#[test]
fn peers_that_ring_without_end_are_heard_and_not_each_time() {
    let mut w = World::new();
    let dead = |w: &World| {
        let index = w.region.claim_peer(1, [1; 16], 2, "a").unwrap().unwrap();
        assert!(w.region.set_peer_state(index, peer::DEAD).unwrap());
        index
    };
    let there = |w: &World, index| w.region.peer(index).unwrap().is_some();
    // Somewhere a hundred rings come sooner than the next look.
    let late = (0..100).find_map(|_| {
        w.endpoint().control_doorbell();
        let index = dead(&w);
        (0..100).for_each(|_| w.endpoint().control_doorbell());
        there(&w, index).then_some(index)
    });
    let late = late.expect("not every ring is a look");
    until(&mut w, "looked at later", |w| !there(w, late));
}

#[test]
fn an_endpoint_whose_own_journal_was_scribbled_on_serves_again() {
    let mut w = World::new();
    let set = w.new_set(1);
    let owner = Owner::Endpoint { peer: 0, incarnation: 0 };
    let lane = w.region.lanes_of(owner).unwrap()[0];
    let journal = w.region.lane(lane).unwrap().plus(lane::JOURNAL);
    for lie in [77 << 2, u64::MAX, 0, 99 << 2 | 1] {
        w.region.mem().store(journal, lie, Ordering::Release).unwrap();
        let mut h = w.helper();
        w.tell(&mut h, "attach");
        w.tell(&mut h, &format!("down {set}"));
        w.kill(&mut h);
        assert_eq!((w.value(set), w.slots()), (1, 0), "reaped after the lie {lie:#x}");
    }
}
