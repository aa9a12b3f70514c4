//! A region in the heap and tasks in it.
#![allow(missing_docs, dead_code)]

pub mod damage;
pub mod full;
pub mod pause;
pub mod still;
pub mod told;

use vshmem_core::format::Spec;
use vshmem_core::layout::{MIN_FILE, task};
use vshmem_core::mem::{CrashMem, HeapMem};
use vshmem_core::task::{Identity, NewTask, Owner, TaskId};
use vshmem_core::{Lane, Platform, Region};
use vshmem_sysv::Caller;

pub const CREATE: i32 = 0o1000 | 0o600;

pub fn heap() -> HeapMem {
    let spec = Spec::for_file("test", MIN_FILE).unwrap();
    let mem = HeapMem::new(spec.len);
    Region::format(mem.clone(), &spec).unwrap();
    mem
}

/// Less to make anew a thousand times.
pub fn small() -> HeapMem {
    let spec = Spec { sparse: true, ..Spec::new("test", 4 << 20) };
    let mem = HeapMem::new(spec.len);
    Region::format(mem.clone(), &spec).unwrap();
    mem
}

pub fn region(mem: &HeapMem) -> Region<HeapMem> {
    Region::open(mem.clone()).unwrap()
}

pub fn dying(mem: &HeapMem) -> Region<CrashMem> {
    Region::open(CrashMem::new(mem.clone())).unwrap()
}

/// The endpoint's lane of peer 0.
pub fn endpoint<P: Platform>(r: &Region<P>) -> Lane {
    r.claim_lane(Owner::Endpoint { peer: 0, incarnation: 0 }).unwrap().unwrap()
}

pub fn task<P: Platform>(r: &Region<P>, on: &mut Lane, pid: u32) -> (Caller, Lane) {
    let new = NewTask { peer: 0, pid, start: 1, uid: 1000, comm: "test", state: task::LIVE };
    let id = r.claim_task(on, &new).unwrap().unwrap();
    let lane = r.claim_lane(Owner::Task(id)).unwrap().unwrap();
    (caller(id, pid), lane)
}

pub fn caller(id: TaskId, pid: u32) -> Caller {
    Caller {
        task: id,
        who: Identity::new(0, pid),
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
        ipc_owner: false,
        sys_admin: false,
        ipc_lock: false,
        sys_resource: false,
    }
}
