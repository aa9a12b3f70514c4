//! Fast operations, transactions and hand-off under the model checker: one set of one semaphore.

use super::{SemBuf, Word, op, op_fast, release_intent};
use crate::Caller;
use crate::object::id_of;
use vshmem_core::arena::to_cell;
use vshmem_core::format::{Geometry, Place};
use vshmem_core::layout::{Limit, TABLES, Table, lane, obj, sb, set, task, undo};
use vshmem_core::mem::{HeapMem, Mem, Ordering};
use vshmem_core::task::{Identity, TaskId};
use vshmem_core::{Lane, LaneId, Offset, Region};

const SET: Offset = Offset(0x400);
const SEMS: Offset = Offset(0x500);
const RECORD: Offset = Offset(0x580);
const LANES: Offset = Offset(0x600);
const TASK: Offset = Offset(LANES.0 + 2 * lane::STRIDE);
const LEN: u64 = TASK.0 + task::STRIDE;

/// Only the tables these operations touch.
fn region(mem: HeapMem) -> Region<HeapMem> {
    let mut tables = [Place::default(); TABLES];
    tables[Table::Sets as usize] = Place { at: SET, stride: obj::STRIDE, count: 1 };
    tables[Table::Pages as usize] = Place { at: SEMS, stride: 64, count: 4 };
    tables[Table::Lanes as usize] = Place { at: LANES, stride: lane::STRIDE, count: 2 };
    tables[Table::Tasks as usize] = Place { at: TASK, stride: task::STRIDE, count: 1 };
    Region::with_geometry(mem, Geometry { tables, len: LEN, number: 0 })
}

fn memory(value: u64) -> HeapMem {
    let mem = HeapMem::new(LEN);
    for (at, word) in [
        (SET.plus(obj::LIFE), obj::LIVE.into()),
        (SET.plus(set::NSEMS), 1),
        (SET.plus(set::SEMS), to_cell(SEMS).into()),
        (SEMS.plus(64), value),
        (TASK.plus(task::STATE), 1 << 8 | task::LIVE),
        (TASK.plus(task::UNDO), to_cell(RECORD).into()),
        (RECORD.plus(undo::LIFE), obj::LIVE.into()),
        (RECORD.plus(undo::NSEMS), 1),
        (Offset(sb::LIMITS).index(Limit::Semopm as u64, 8), 2),
    ] {
        mem.store(at, word, Ordering::Release).unwrap();
    }
    mem
}

fn caller(pid: u32) -> Caller {
    Caller {
        task: TaskId { index: 0, incarnation: 1 },
        who: Identity::new(0, pid),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        ipc_owner: true,
        sys_admin: true,
        ipc_lock: true,
        sys_resource: true,
    }
}

/// An operation on the one semaphore there is.
macro_rules! ops {
    ($($op:literal),+) => { ops![$($op),+; 0] };
    ($($op:literal),+; $flags:literal) => {
        &[$(SemBuf { num: 0, op: $op, flg: $flags }),+]
    };
}

/// `semop` as the library calls it.
fn semop(r: &Region<HeapMem>, i: u32, ops: &[SemBuf]) {
    let (c, id) = (caller(i + 1), id_of(r, 0, obj::LIVE));
    if let [single] = ops
        && let Some(done) = op_fast(r, &c, id, *single)
    {
        return done.unwrap();
    }
    op(r, &mut Lane::new(LaneId(i)), &c, id, ops, None).unwrap();
}

fn value(r: &Region<HeapMem>) -> u64 {
    r.mem().load(SEMS.plus(64), Ordering::Acquire).unwrap() & 0x7fff
}

fn adjustment(r: &Region<HeapMem>) -> i32 {
    r.peek(RECORD.plus(undo::FIRST)).unwrap() as i32
}

fn explore(start: u64, a: &'static [SemBuf], b: &'static [SemBuf], end: u64) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let mem = memory(start);
        let other = mem.clone();
        let t = loom::thread::spawn(move || semop(&region(other), 1, b));
        let r = region(mem);
        semop(&r, 0, a);
        t.join().unwrap();
        assert_eq!(value(&r), end);
        // Of those that undo there are only whole ones.
        let undo = |ops: &[SemBuf]| ops.iter().filter(|o| o.undo()).map(|o| o.op).sum::<i16>();
        assert_eq!(adjustment(&r), -i32::from(undo(a) + undo(b)));
        assert_eq!(r.peek(SET.plus(set::WAITERS)).unwrap(), 0);
    });
}

#[test]
fn loom_a_fast_operation_is_not_lost_beside_a_transaction() {
    explore(3, ops![1, -2], ops![1], 3);
}

#[test]
fn loom_two_transactions_add_up() {
    explore(3, ops![1, -2], ops![2, -1], 3);
}

#[test]
fn loom_a_sleeper_is_served_by_a_fast_operation_that_meets_it() {
    explore(0, ops![-1], ops![1], 0);
}

#[test]
fn loom_a_sleeper_for_zero_is_served() {
    explore(1, ops![0], ops![-1], 0);
}

#[test]
fn loom_two_threads_that_undo_change_what_they_undo() {
    explore(3, ops![-1; 0x1000], ops![2; 0x1000], 4);
}

#[test]
fn loom_one_that_undoes_beside_one_that_does_not() {
    explore(3, ops![-1; 0x1000], ops![2], 4);
}

#[test]
fn loom_one_that_undoes_beside_a_transaction_that_undoes() {
    explore(3, ops![-1; 0x1000], ops![2, -1; 0x1000], 3);
}

/// Killed between the word and the adjustment: whoever comes next and the reaper do the rest once.
#[test]
fn loom_an_adjustment_that_its_owner_left_out_is_made_once() {
    loom::model(|| {
        let mem = memory(3);
        let word = Word(3).pending(1, LaneId(1));
        for (at, word) in [
            (SEMS.plus(64), word.0),
            (LANES.plus(lane::STRIDE + lane::INTENT), word.0),
            (LANES.plus(lane::STRIDE + lane::INTENT_SEM), SEMS.plus(64).0),
            (LANES.plus(lane::STRIDE + lane::INTENT_AT), RECORD.plus(undo::FIRST).0),
            (LANES.plus(lane::STRIDE + lane::INTENT_NEW), 1 << 32 | 2),
            (LANES.plus(lane::STRIDE + lane::INTENT_WHO), 7),
        ] {
            mem.store(at, word, Ordering::Release).unwrap();
        }
        let other = mem.clone();
        let t = loom::thread::spawn(move || release_intent(&region(other), LaneId(1)).unwrap());
        let r = region(mem);
        semop(&r, 0, ops![1; 0x1000]);
        t.join().unwrap();
        assert_eq!((value(&r), adjustment(&r)), (2, 1));
    });
}
