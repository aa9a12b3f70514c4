//! What the building blocks cost, one thread, nobody else: the figures of `docs/adr/0001` and `0002`.
//!
//! `cargo run --release -p vshmem-sysv --example cost`

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use vshmem_core::format::Spec;
use vshmem_core::layout::{MIN_FILE, task};
use vshmem_core::mem::HeapMem;
use vshmem_core::task::{Identity, NewTask, Owner};
use vshmem_core::{Corrupt, Region};
use vshmem_sysv::sem::{self, SemBuf};
use vshmem_sysv::{Caller, msg};

const TURNS: u32 = 200_000;
const RUNS: usize = 15;

/// Median nanoseconds per turn.
fn median(mut f: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            (0..TURNS).for_each(|_| f());
            start.elapsed().as_nanos() as f64 / f64::from(TURNS)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let word = AtomicU64::new(0);
    let swap = |a: u64, b: u64| {
        let _ = black_box(&word).compare_exchange(a, b, Ordering::AcqRel, Ordering::Acquire);
    };
    let show = |what: &str, ns: f64| println!("{what:<58} {ns:7.1} ns");
    show("compare-and-swap, there and back", median(|| (swap(0, 1), swap(1, 0)).0));
    let journal = AtomicU64::new(0);
    let robust = median(|| {
        // What a robust lock needs at the least: intent, lock, unlock, intent gone.
        black_box(&journal).store(1, Ordering::Release);
        swap(0, 1);
        swap(1, 0);
        black_box(&journal).store(0, Ordering::Release);
    });
    show("robust lock and unlock, nothing done inside", robust);

    let spec = Spec::for_file("cost", MIN_FILE)?;
    let region = Region::format(HeapMem::new(spec.len), &spec)?;
    let mut on =
        region.claim_lane(Owner::Endpoint { peer: 0, incarnation: 0 })?.ok_or("no lane")?;
    let cells = region.table(vshmem_core::layout::Table::Pages).at;
    for writes in [0u64, 1, 4, 16] {
        let ns = median(|| {
            let done = region.transact(&mut on, |txn| {
                txn.lock(cells)?;
                for i in 1..=writes {
                    let at = cells.plus(i * 8);
                    let old = txn.get(at)?;
                    txn.set(at, old + 1)?;
                }
                Ok::<_, Corrupt>(())
            });
            assert!(done.is_ok());
        });
        show(&format!("transaction, one lock, {writes} words changed"), ns);
    }

    let new = NewTask { peer: 0, pid: 1, start: 1, uid: 0, comm: "cost", state: task::LIVE };
    let id = region.claim_task(&mut on, &new)?.ok_or("no task")?;
    let c = Caller {
        task: id,
        who: Identity::new(0, 1),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        ipc_owner: true,
        sys_admin: true,
        ipc_lock: true,
        sys_resource: true,
    };
    let set = sem::get(&region, &mut on, &c, 0, 1, 0o600)?;
    let op = |op, flg| SemBuf { num: 0, op, flg };
    let fast = median(|| {
        for n in [1, -1] {
            assert!(matches!(sem::op_fast(&region, &c, set, op(n, 0)), Some(Ok(()))));
        }
    });
    show("semop +1 and -1, the fast way", fast);
    let undo = median(|| {
        for n in [1, -1] {
            assert!(sem::op(&region, &mut on, &c, set, &[op(n, 0x1000)], None).is_ok());
        }
    });
    show("semop +1 and -1 with SEM_UNDO (two transactions)", undo);
    let queue = msg::get(&region, &mut on, &c, 0, 0o600)?;
    let text = [0; 8];
    let mut buf = [0; 8];
    let message = median(|| {
        assert!(msg::send(&region, &mut on, &c, queue, 1, &text, 0, None).is_ok());
        assert!(msg::recv(&region, &mut on, &c, queue, &mut buf, 0, 0, None).is_ok());
    });
    show("msgsnd and msgrcv, 8 bytes (three transactions)", message);
    Ok(())
}
