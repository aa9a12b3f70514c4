#![allow(missing_docs)]
use super::*;
use crate::format::{Geometry, Place};
use crate::layout::{TABLES, Table};
use crate::mem::HeapMem;

/// Lanes and two cells, nothing else: what the model checker can afford.
fn bare<P: Platform>(mem: P, lanes: u64) -> Region<P> {
    let mut tables = [Place::default(); TABLES];
    tables[Table::Owners as usize] = Place { at: Offset(64), stride: 8, count: lanes };
    tables[Table::Lanes as usize] = Place { at: Offset(128), stride: lane::STRIDE, count: lanes };
    Region::with_geometry(mem, Geometry { tables, len: size(lanes), number: 0 })
}

fn size(lanes: u64) -> u64 {
    128 + lanes * lane::STRIDE
}

const LOCK: Offset = Offset(0);
const A: Offset = Offset(8);
const B: Offset = Offset(16);

fn transfer<P: Platform>(region: &Region<P>, on: &mut Lane) -> Result<(), Corrupt> {
    region.transact(on, |txn| {
        txn.lock(LOCK)?;
        let (a, b) = (txn.get(A)?, txn.get(B)?);
        txn.set(A, a + 1)?;
        txn.set(B, b + 1)
    })
}

#[cfg(not(loom))]
mod plain {
    use super::*;
    use crate::layout::wake;
    use crate::mem::{CrashMem, Died, Mem};
    use crate::task::Owner;

    #[test]
    fn a_failed_body_changes_nothing_and_frees_its_locks() {
        let region = bare(HeapMem::new(size(1)), 1);
        let mut on = Lane::new(LaneId(0));
        let failed: Result<(), Corrupt> = region.transact(&mut on, |txn| {
            txn.lock(LOCK)?;
            txn.set(A, 9)?;
            Err(Corrupt::new(A, "given up"))
        });
        assert!(failed.is_err());
        assert_eq!((region.peek(A), region.is_free(LOCK)), (Ok(0), Ok(true)));
    }

    #[test]
    fn a_transaction_reads_its_own_writes() {
        let region = bare(HeapMem::new(size(1)), 1);
        let seen = region.transact(&mut Lane::new(LaneId(0)), |txn| {
            txn.lock(LOCK)?;
            txn.set(A, 5)?;
            txn.set(A, 6)?;
            txn.get(A)
        });
        assert_eq!((seen, region.peek(A)), (Ok(6), Ok(6)));
    }

    #[test]
    fn a_stopped_owner_is_robbed_and_retries_without_loss() {
        let region = bare(HeapMem::new(size(2)), 2);
        let (mut slow, mut fast) = (Lane::new(LaneId(0)), Lane::new(LaneId(1)));
        let mut runs = 0;
        region
            .transact(&mut slow, |txn| {
                runs += 1;
                txn.lock(LOCK)?;
                let a = txn.get(A)?;
                if runs == 1 {
                    // "Stopped" here while another does its whole step.
                    transfer(&region, &mut fast)?;
                }
                txn.set(A, a + 1)
            })
            .unwrap();
        assert_eq!(runs, 2);
        assert_eq!((region.peek(A), region.peek(B)), (Ok(2), Ok(1)));
    }

    #[test]
    fn a_fenced_owner_begins_nothing_more_and_the_next_is_not_fenced_late() {
        let region = bare(HeapMem::new(size(2)), 2);
        let (was, is) = (Owner::from_word(5).unwrap(), Owner::from_word(9).unwrap());
        let mut zombie = region.claim_lane(was).unwrap().unwrap();
        let id = zombie.id();
        transfer(&region, &mut zombie).unwrap();
        assert!(region.fence_lane(id, was).unwrap());
        assert!(transfer(&region, &mut zombie).unwrap_err().is_fenced());
        assert!(region.release_lane(id, was).unwrap());
        let mut next = region.claim_lane(is).unwrap().unwrap();
        assert_eq!(next.id(), id);
        // A second reaper that was stopped since before the first was done.
        assert!(!region.fence_lane(id, was).unwrap());
        transfer(&region, &mut next).unwrap();
        assert!(transfer(&region, &mut zombie).unwrap_err().is_fenced());
        assert_eq!(region.peek(A), Ok(2));
    }

    #[test]
    fn an_owner_fenced_in_the_middle_commits_nothing() {
        let region = bare(HeapMem::new(size(1)), 1);
        let owner = Owner::from_word(5).unwrap();
        let mut on = region.claim_lane(owner).unwrap().unwrap();
        let id = on.id();
        let result: Result<(), Corrupt> = region.transact(&mut on, |txn| {
            txn.lock(LOCK)?;
            txn.set(A, 1)?;
            assert!(region.fence_lane(id, owner)?);
            Ok(())
        });
        assert!(result.unwrap_err().is_fenced());
        assert_eq!((region.peek(A), region.is_free(LOCK)), (Ok(0), Ok(true)));
    }

    /// The crash test of this module: death at every single store.
    #[test]
    fn death_at_any_store_leaves_all_or_nothing_and_no_lock() {
        let mut done = 0;
        for n in 0.. {
            let heap = HeapMem::new(size(2));
            let dying = bare(CrashMem::new(heap.clone()), 2);
            dying.mem().die_after(n);
            let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                transfer(&dying, &mut Lane::new(LaneId(0))).unwrap();
            }));
            let others = bare(heap, 2);
            match &died {
                Ok(()) => {}
                Err(payload) => assert!(payload.is::<Died>(), "another panic after {n} stores"),
            }
            // The next comer needs no reaper.
            transfer(&others, &mut Lane::new(LaneId(1))).unwrap();
            let (a, b) = (others.peek(A).unwrap(), others.peek(B).unwrap());
            assert_eq!(a, b, "half a step after {n} stores");
            assert!(a == 1 || a == 2);
            done = done.max(a);
            others.settle_lane(LaneId(0), true).unwrap();
            assert!(others.is_free(LOCK).unwrap());
            if died.is_ok() {
                assert!(n > 12, "the step has fewer stores than steps");
                assert_eq!(done, 2);
                return;
            }
        }
    }

    #[test]
    fn death_of_the_helper_too_is_survived() {
        for n in 0..40 {
            for m in 0..40 {
                let heap = HeapMem::new(size(3));
                for (lane, stores) in [(0, n), (1, m)] {
                    let dying = bare(CrashMem::new(heap.clone()), 3);
                    dying.mem().die_after(stores);
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        transfer(&dying, &mut Lane::new(LaneId(lane))).unwrap();
                    }));
                }
                let others = bare(heap, 3);
                transfer(&others, &mut Lane::new(LaneId(2))).unwrap();
                let (a, b) = (others.peek(A).unwrap(), others.peek(B).unwrap());
                assert_eq!(a, b, "after {n} and {m} stores");
                assert!((1..=3).contains(&a));
            }
        }
    }

    #[test]
    fn threads_lose_no_update() {
        const TURNS: u32 = 20_000;
        let region = bare(HeapMem::new(size(4)), 4);
        std::thread::scope(|s| {
            for i in 0..4 {
                let region = &region;
                s.spawn(move || {
                    let mut on = Lane::new(LaneId(i));
                    for _ in 0..TURNS {
                        transfer(region, &mut on).unwrap();
                    }
                });
            }
        });
        assert_eq!((region.peek(A), region.peek(B)), (Ok(4 * TURNS), Ok(4 * TURNS)));
    }

    #[test]
    fn a_hostile_journal_is_reported() {
        let region = bare(HeapMem::new(size(2)), 2);
        let lane0 = region.lane(LaneId(0)).unwrap();
        let put = |at, v| region.mem().store(at, v, Ordering::Release).unwrap();
        put(lane0.plus(lane::JOURNAL), journal(5, COMMITTED));
        put(lane0.plus(lane::ENTRIES), 1 << 40);
        put(LOCK, lock_word(5, LaneId(0)));
        let met = transfer(&region, &mut Lane::new(LaneId(1))).unwrap_err();
        assert_eq!(met.what, "journal longer than its room");
        put(LOCK, 77 << LANE_BITS | 31_000);
        let met = transfer(&region, &mut Lane::new(LaneId(1))).unwrap_err();
        assert_eq!(met.what, "lock held by a lane that does not exist");
        // An entry that points outside is refused by the one function that knows the bounds.
        put(lane0.plus(lane::ENTRIES), 1);
        put(lane0.plus(lane::JOURNAL_ENTRY), 1 << 50);
        put(LOCK, lock_word(5, LaneId(0)));
        assert!(transfer(&region, &mut Lane::new(LaneId(1))).is_err());
    }

    #[test]
    fn a_stale_cell_write_cannot_land() {
        let old = next_cell(0, 1);
        let newer = next_cell(next_cell(old, 2), 1);
        assert_ne!(old, newer, "same value, other tag");
        assert_eq!(next_cell(u64::from(u32::MAX) << 32, 3), 3, "the tag wraps");
    }

    const _: () = assert!(wake::MAX_LANES < 1 << LANE_BITS);
}

#[cfg(loom)]
mod model {
    use super::*;
    use crate::mem::Mem;

    fn explore(f: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(f);
    }

    /// Patience is 0 under loom: every meeting of two transactions is a robbery or a helping.
    #[test]
    fn loom_two_transactions_steal_and_help_without_loss() {
        explore(|| {
            let mem = HeapMem::new(size(2));
            let other = mem.clone();
            let t = loom::thread::spawn(move || {
                transfer(&bare(other, 2), &mut Lane::new(LaneId(1))).unwrap();
            });
            let region = bare(mem, 2);
            transfer(&region, &mut Lane::new(LaneId(0))).unwrap();
            t.join().unwrap();
            assert_eq!((region.peek(A), region.peek(B)), (Ok(2), Ok(2)));
        });
    }

    #[test]
    fn loom_a_reader_sees_both_writes_or_none() {
        explore(|| {
            let mem = HeapMem::new(size(2));
            let other = mem.clone();
            let t = loom::thread::spawn(move || {
                transfer(&bare(other, 2), &mut Lane::new(LaneId(1))).unwrap();
            });
            let region = bare(mem, 2);
            let (a, b) = region
                .transact(&mut Lane::new(LaneId(0)), |txn| {
                    txn.lock(LOCK)?;
                    Ok::<_, Corrupt>((txn.get(A)?, txn.get(B)?))
                })
                .unwrap();
            assert_eq!(a, b);
            t.join().unwrap();
        });
    }

    #[test]
    fn loom_a_reaper_and_a_next_comer_finish_a_dead_commit_once() {
        explore(|| {
            let mem = HeapMem::new(size(3));
            {
                // A lane that died right after its commit: A and B not yet written, lock held.
                let region = bare(mem.clone(), 3);
                let base = region.lane(LaneId(2)).unwrap();
                let put = |at, v| region.mem().store(at, v, Ordering::Release).unwrap();
                for (i, at) in [A, B].into_iter().enumerate() {
                    let entry = base.plus(lane::JOURNAL_ENTRY).index(i as u64, lane::ENTRY_SIZE);
                    put(entry, at.0);
                    put(entry.plus(16), next_cell(0, 1));
                }
                put(base.plus(lane::ENTRIES), 2);
                put(base.plus(lane::LOCKS), 1);
                put(base.plus(lane::LOCK), LOCK.0);
                put(LOCK, lock_word(1, LaneId(2)));
                put(base.plus(lane::JOURNAL), journal(1, COMMITTED));
            }
            let other = mem.clone();
            let t = loom::thread::spawn(move || {
                bare(other, 3).settle_lane(LaneId(2), true).unwrap();
            });
            let region = bare(mem, 3);
            transfer(&region, &mut Lane::new(LaneId(0))).unwrap();
            t.join().unwrap();
            assert_eq!((region.peek(A), region.peek(B)), (Ok(2), Ok(2)));
            assert!(region.is_free(LOCK).unwrap());
        });
    }

    /// A helper that was slow meets the entries of its owner's next transaction, which is aborted.
    #[test]
    fn loom_a_late_helper_applies_no_uncommitted_entry() {
        const C: Offset = Offset(24);
        explore(|| {
            let mem = HeapMem::new(size(3));
            {
                let region = bare(mem.clone(), 3);
                let base = region.lane(LaneId(2)).unwrap();
                let put = |at, v| region.mem().store(at, v, Ordering::Release).unwrap();
                put(base.plus(lane::JOURNAL_ENTRY), A.0);
                put(base.plus(lane::JOURNAL_ENTRY + 16), next_cell(0, 1));
                put(base.plus(lane::ENTRIES), 1);
                put(base.plus(lane::JOURNAL), journal(1, COMMITTED));
            }
            let other = mem.clone();
            let t = loom::thread::spawn(move || {
                bare(other, 3).settle_lane(LaneId(2), false).unwrap();
            });
            let region = bare(mem, 3);
            let mut runs = 0;
            region
                .transact(&mut Lane::new(LaneId(2)), |txn| {
                    runs += 1;
                    txn.lock(LOCK)?;
                    if runs == 1 {
                        // Robbed here.
                        region.transact(&mut Lane::new(LaneId(0)), |thief| thief.lock(LOCK))?;
                        txn.set(C, 1)?;
                    }
                    Ok::<_, Corrupt>(())
                })
                .unwrap();
            t.join().unwrap();
            assert_eq!(region.peek(C), Ok(0), "a write that was never committed");
        });
    }
}
