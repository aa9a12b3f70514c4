//! A sleeper and a waker under the model checker: neither misses the other.

use super::{Key, Limits, anyone, wait, wake};
use crate::Caller;
use vshmem_core::format::{Geometry, Place};
use vshmem_core::layout::{TABLES, Table, lane, park, task};
use vshmem_core::mem::{HeapMem, Mem, Ordering};
use vshmem_core::task::{Identity, TaskId};
use vshmem_core::{Lane, LaneId, Offset, Region};

const KEY: Key = Key { seg: 0, life: 0, at: 0 };
/// What the sleeper waits for.
const WORD: Offset = Offset(0);
const TASK: Offset = Offset(0x80);
const BUCKET: Offset = Offset(0x100);
const LANES: Offset = Offset(0x180);
const LEN: u64 = LANES.0 + 2 * lane::STRIDE;

/// All buckets are one: the model pays for every word.
fn region(mem: HeapMem) -> Region<HeapMem> {
    let mut tables = [Place::default(); TABLES];
    tables[Table::Tasks as usize] = Place { at: TASK, stride: task::STRIDE, count: 1 };
    tables[Table::Parking as usize] = Place { at: BUCKET, stride: 0, count: park::COUNT };
    tables[Table::Lanes as usize] = Place { at: LANES, stride: lane::STRIDE, count: 2 };
    Region::with_geometry(mem, Geometry { tables, len: LEN, number: 0 })
}

fn caller() -> Caller {
    Caller {
        task: TaskId { index: 0, incarnation: 1 },
        who: Identity::new(0, 1),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        ipc_owner: true,
        ipc_lock: true,
        sys_admin: true,
        sys_resource: true,
    }
}

#[test]
fn loom_a_sleeper_sees_the_change_or_is_seen() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let mem = HeapMem::new(LEN);
        mem.store(TASK.plus(task::STATE), 1 << 8 | task::LIVE, Ordering::Release).unwrap();
        let other = mem.clone();
        let waker = loom::thread::spawn(move || {
            let r = region(other);
            r.mem().store(WORD, 1, Ordering::Relaxed).unwrap();
            if anyone(&r, KEY).unwrap() {
                wake(&r, &mut Lane::new(LaneId(1)), KEY, 1).unwrap();
            }
        });
        let r = region(mem);
        let still = || r.mem().load(WORD, Ordering::Relaxed).unwrap() == 0;
        let limits = Limits { deadline: None, owner: None };
        // Missed, it would sleep for ever: the model's clock stands still.
        while still() {
            wait(&r, &mut Lane::new(LaneId(0)), &caller(), KEY, limits, still).unwrap();
        }
        waker.join().unwrap();
        assert_eq!(r.peek(BUCKET.plus(park::HEAD)).unwrap(), 0);
    });
}
