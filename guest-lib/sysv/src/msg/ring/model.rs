//! The ring under the model checker: a queue of one ring of two places.

use super::gather::close;
use super::{Fast, Place, Ring, Turn, recv, send};
use crate::Caller;
use crate::msg::Want;
use crate::object::{ANYONE, Object};
use vshmem_core::arena::to_cell;
use vshmem_core::format::{Geometry, Place as At};
use vshmem_core::layout::{TABLES, Table, lane, obj, queue, ring, task};
use vshmem_core::mem::{HeapMem, Mem, Ordering};
use vshmem_core::task::{Identity, TaskId};
use vshmem_core::{Lane, LaneId, Offset, Region};

const QUEUE: Offset = Offset(0x400);
const RING: Offset = Offset(0x600);
const BLOCKS: Offset = Offset(0x800);
const LANES: Offset = Offset(0xa00);
const TASK: Offset = Offset(LANES.0 + 2 * lane::STRIDE);
const LEN: u64 = TASK.0 + task::STRIDE;
/// The first position.
const FIRST: u32 = 8;

fn region(mem: HeapMem) -> Region<HeapMem> {
    let mut tables = [At::default(); TABLES];
    tables[Table::Queues as usize] = At { at: QUEUE, stride: obj::STRIDE, count: 1 };
    tables[Table::Pages as usize] = At { at: RING, stride: 64, count: 2 };
    tables[Table::Lanes as usize] = At { at: LANES, stride: lane::STRIDE, count: 2 };
    tables[Table::Tasks as usize] = At { at: TASK, stride: task::STRIDE, count: 1 };
    Region::with_geometry(mem, Geometry { tables, len: LEN, number: 0 })
}

/// An open ring with `n` messages.
fn memory(n: u32) -> HeapMem {
    let mem = HeapMem::new(LEN);
    let put = |at, word| mem.store(at, word, Ordering::Release).unwrap();
    put(QUEUE.plus(obj::LIFE), obj::LIVE.into());
    put(QUEUE.plus(queue::QBYTES), 100);
    put(QUEUE.plus(queue::RING), to_cell(RING).into());
    put(RING.plus(ring::QUEUE), 1);
    put(RING.plus(ring::LIFE), obj::LIVE.into());
    put(TASK.plus(task::STATE), 1 << 8 | task::LIVE);
    let ring = Ring(RING);
    for i in 0..2 {
        let block = BLOCKS.index(i, 0x100);
        put(ring.block(FIRST + i as u32), to_cell(block).into());
        put(block.plus(vshmem_core::layout::msg::SIZE), super::super::pack(0, 0x100).into());
        put(block.plus(vshmem_core::layout::msg::TYPE_LO), 1);
    }
    put(ring.received(), Turn(0).open(FIRST).0);
    put(ring.sent(), Turn(0).open(FIRST + n).0);
    for i in 0..n {
        put(ring.place(FIRST + i), Place::full(FIRST + i, 0).0);
    }
    mem
}

fn caller() -> Caller {
    Caller {
        task: TaskId { index: 0, incarnation: 1 },
        who: Identity::new(0, 1),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        ipc_owner: true,
        sys_admin: true,
        ipc_lock: true,
        sys_resource: true,
    }
}

fn object() -> Object {
    Object { index: 0, at: QUEUE, life: obj::LIVE, peer: ANYONE }
}

/// What somebody does; how many messages that adds.
fn sends(r: &Region<HeapMem>, i: u32) -> i64 {
    let text: &[u8] = &[];
    let done = send(r, &Lane::new(LaneId(i)), &caller(), &object(), 1, text).unwrap();
    i64::from(matches!(done, Fast::Done(())))
}

fn receives(r: &Region<HeapMem>, _: u32) -> i64 {
    let (text, want): (&mut [u8], _) = (&mut [], Want::new(0, 0, 0));
    let done = recv(r, &caller(), &object(), text, want, 0).unwrap();
    -i64::from(matches!(done, Fast::Done((1, 0))))
}

fn closes(r: &Region<HeapMem>, i: u32) -> i64 {
    close(r, &mut Lane::new(LaneId(i)), &object()).unwrap();
    0
}

/// Messages in ring and list; and every place is in nobody's hands.
fn messages(r: &Region<HeapMem>) -> i64 {
    let ring = Ring(RING);
    let (received, sent) =
        (Ring::turn(r, ring.received()).unwrap(), Ring::turn(r, ring.sent()).unwrap());
    let mut n = i64::from(r.peek(QUEUE.plus(queue::QNUM)).unwrap());
    for position in received.position()..sent.position() {
        n += i64::from(ring.look(r, position).unwrap().message(position).is_some());
    }
    for i in 0..2 {
        let state = ring.look(r, i).unwrap().state();
        assert!(state == ring::EMPTY || state == ring::FULL, "place {i} in state {state}");
    }
    n
}

type Does = fn(&Region<HeapMem>, u32) -> i64;

fn explore(start: u32, a: Does, b: Does) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let mem = memory(start);
        let other = mem.clone();
        let t = loom::thread::spawn(move || b(&region(other), 1));
        let r = region(mem);
        let more = a(&r, 0) + t.join().unwrap();
        assert_eq!(messages(&r), i64::from(start) + more);
    });
}

#[test]
fn loom_a_message_is_received_once_or_there() {
    explore(1, sends, receives);
}

#[test]
fn loom_two_senders_lose_nothing() {
    explore(0, sends, sends);
}

#[test]
fn loom_two_receivers_get_one_message_once() {
    explore(1, receives, receives);
}

#[test]
fn loom_a_sender_beside_who_gathers_sends_or_not() {
    explore(0, sends, closes);
}

#[test]
fn loom_a_receiver_beside_who_gathers_receives_or_not() {
    explore(2, receives, closes);
}
