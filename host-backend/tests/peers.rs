//! A region has room for 64 kernels: one more is refused, the others work on.

mod common;

use common::{FakeVm, Host, eventually, expect_refusal, ring, watchdog};
use std::sync::Arc;
use vshmem_core::Region;
use vshmem_core::layout::{REGION_BASE, peer};
use vshmem_core::task::{NewTask, Owner};
use vshmem_endpoint::{Enter, EnterError, HostEvents, Memory, enter};

/// Guests that fit.
const GUESTS: u32 = peer::COUNT as u32 - 1;
const SIZE: u64 = 16 << 20;

/// The region as a guest's agent sees it.
fn region(vm: &FakeVm) -> Region<Memory> {
    let memory = vm.memory.as_ref().unwrap();
    let events = Arc::new(HostEvents::new());
    Region::open(Memory::map(memory, SIZE - REGION_BASE, events).unwrap()).unwrap()
}

/// What the agent of the VM with this id does.
fn agent(region: &Region<Memory>, id: u32) -> Result<u32, EnterError> {
    enter(region, &Enter { ivshmem: id, boot: [id as u8; 16], vectors: 2, name: "guest" })
}

/// A task of the guest: claims a slot, and gives it back.
fn works(region: &Region<Memory>, index: u32) {
    let incarnation = region.peer(index).unwrap().unwrap().incarnation;
    let owner = Owner::Endpoint { peer: index, incarnation };
    let mut lane = region.claim_lane(owner).unwrap().expect("a lane");
    let state = vshmem_core::layout::task::LIVE;
    let new = NewTask { peer: index, pid: 1, start: 1, uid: 0, comm: "task", state };
    let id = region.claim_task(&mut lane, &new).unwrap().expect("a slot");
    vshmem_sysv::reap::task(region, &mut lane, id).unwrap();
    region.release_lane(lane.id(), owner).unwrap();
}

#[test]
fn the_guest_after_the_last_is_refused_and_one_that_ends_makes_room() {
    let _watchdog = watchdog(120);
    let config = format!("[[region]]\nname = \"r\"\nsize = \"{SIZE}\"\n");
    let host = Host::with_config(&config);
    let mut vms = Vec::new();
    for n in 1..=GUESTS {
        let mut vm = FakeVm::join(&host.door(), 2);
        // Of the others' events it needs none.
        vm.peers.truncate(1);
        let region = region(&vm);
        let index = agent(&region, vm.id as u32).unwrap();
        assert_eq!(index, n);
        vms.push((vm, region, index));
    }
    let peers = || vms[0].1.peers().unwrap().into_iter().filter(|p| p.state == peer::LIVE).count();
    assert_eq!(peers(), peer::COUNT as usize);

    // The daemon knows how many there may be.
    expect_refusal(&FakeVm::connect(&host.door()));
    host.wait_log(&["refused a VM", "63 VMs", "max_vms", "end one of them"]);
    // So does an agent, whoever let its VM in.
    for _ in 0..3 {
        let refused = agent(&vms[0].1, 4242).unwrap_err().to_string();
        for part in ["all 64 peer slots", "taken", "stop a VM"] {
            assert!(refused.contains(part), "no '{part}' in: {refused}");
        }
    }
    assert_eq!(peers(), peer::COUNT as usize);
    for (vm, region, index) in &vms {
        works(region, *index);
        assert_eq!(agent(region, vm.id as u32).unwrap(), *index, "an agent that starts again");
    }

    // One panics: its kernel says so, and rings the host.
    let (vm, region, index) = &vms[17];
    assert!(region.set_peer_state(*index, peer::DEAD).unwrap());
    let [_, control] = vm.events_of(i64::from(peer::HOST_IVSHMEM)) else { panic!("two vectors") };
    ring(control);
    let region = &vms[0].1;
    eventually("a free slot", || region.peer(*index).unwrap().is_none());
    assert_eq!(agent(region, 4242).unwrap(), *index);
    works(region, *index);
    assert!(agent(region, 4243).is_err());
    assert_eq!(region.tasks().unwrap().len(), 0);
}
