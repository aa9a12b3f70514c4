//! As many objects as Linux allows by default, in the smallest region with room for them.
#![allow(missing_docs)]

mod common;

use vshmem_core::format::Spec;
use vshmem_core::layout::Limit;
use vshmem_core::mem::HeapMem;
use vshmem_core::{Lane, Region};
use vshmem_sysv::proc::File;
use vshmem_sysv::{Caller, Errno, Error, msg, object, reap, sem, shm};

const SIZE: u64 = 256 << 20;
const FULL: Result<i32, Error> = Err(Error::Errno(Errno::ENOSPC));

fn big() -> Region<HeapMem> {
    let spec = Spec { owner: 1000, ..Spec::for_file("big", SIZE).unwrap() };
    Region::format(HeapMem::new(spec.len), &spec).unwrap()
}

fn until_full(mut make: impl FnMut() -> Result<i32, Error>) -> Vec<i32> {
    let mut all = Vec::new();
    loop {
        match make() {
            Ok(id) => all.push(id),
            end => {
                assert_eq!(end, FULL, "after {}", all.len());
                return all;
            }
        }
    }
}

/// Makes all there can be, and removes them.
fn round(r: &Region<HeapMem>, on: &mut Lane, c: &Caller) {
    let private = object::flag::IPC_PRIVATE;
    let sets = until_full(|| sem::get(r, on, c, private, 1, common::CREATE));
    assert_eq!(sets.len(), 32_000);
    let queues = until_full(|| msg::get(r, on, c, private, common::CREATE));
    assert_eq!(queues.len(), 32_000);
    let segments = until_full(|| shm::get(r, on, c, private, 5000, common::CREATE));
    assert_eq!(segments.len(), 4096);
    assert_eq!(reap::objects(r).unwrap(), 68_096);
    sets.iter().for_each(|id| sem::remove(r, on, c, *id).unwrap());
    queues.iter().for_each(|id| msg::remove(r, on, c, *id).unwrap());
    segments.iter().for_each(|id| shm::remove(r, on, c, *id).unwrap());
    assert_eq!(reap::objects(r).unwrap(), 0);
}

#[test]
fn a_region_of_256_mib_holds_what_linux_allows_and_leaks_nothing() {
    let r = big();
    let mut endpoint = common::endpoint(&r);
    let (c, mut on) = common::task(&r, &mut endpoint, 7);
    round(&r, &mut on, &c);
    // Pools keep what they took for small blocks; a second round needs no more.
    let (used, _) = r.pages().unwrap();
    round(&r, &mut on, &c);
    assert_eq!(r.pages().unwrap().0, used, "pages were lost");
}

#[test]
fn root_and_the_owner_set_limits_and_nobody_else() {
    let r = big();
    let mut endpoint = common::endpoint(&r);
    let (owner, mut on) = common::task(&r, &mut endpoint, 7);
    let limit = File::at(b"sys/kernel/shmmni").unwrap();
    let mut set = |c: &Caller, text: &str| limit.store(&r, &mut on, c, text.as_bytes());
    assert_eq!(set(&owner, "5\n"), Ok(2));
    assert_eq!(set(&Caller { uid: 0, ..owner.clone() }, "6"), Ok(1));
    let other = Caller { uid: 1001, sys_admin: true, ipc_owner: true, ..owner.clone() };
    assert_eq!(set(&other, "7"), Err(Errno::EACCES.into()));
    assert_eq!(r.limit(Limit::Shmmni), Ok(6));
    // No more than there is room for, and no file that cannot be written.
    assert_eq!(set(&owner, "4097"), Err(Errno::EINVAL.into()));
    let next = File::at(b"sys/kernel/shm_next_id").unwrap();
    assert_eq!(next.store(&r, &mut on, &owner, b"1"), Err(Errno::EACCES.into()));
    let sem = File::at(b"sys/kernel/sem").unwrap();
    assert_eq!(sem.store(&r, &mut on, &owner, b"1 2 3 99999"), Err(Errno::ERANGE.into()));
    assert_eq!(sem.show(&r, &mut on, &owner).unwrap(), "1\t2\t3\t32000\n");
    assert_eq!(sem.store(&r, &mut on, &owner, b"-1"), Err(Errno::EINVAL.into()));
}
