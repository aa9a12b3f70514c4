#![allow(missing_docs)]
use super::*;
use crate::format::{Geometry, Place};
use crate::layout::TABLES;
#[cfg(not(loom))]
use crate::mem::Mem;
use crate::mem::{HeapMem, Offset};

fn bare(mem: HeapMem) -> Region<HeapMem> {
    let mut tables = [Place::default(); TABLES];
    tables[Table::Wake as usize] = Place { at: Offset(0), stride: ROW, count: 2 };
    tables[Table::Lanes as usize] = Place { at: Offset(2 * ROW), stride: lane::STRIDE, count: 2 };
    Region::with_geometry(mem, Geometry { tables, len: LEN, number: 0 })
}

/// Small rows: the model checker pays for every word.
const ROW: u64 = 128;
const LEN: u64 = 2 * ROW + 2 * lane::STRIDE;

#[cfg(not(loom))]
#[test]
fn posted_wakes_are_drained_once_and_rubbish_bits_are_ignored() {
    let region = bare(HeapMem::new(LEN));
    region.post_wake(1, LaneId(1)).unwrap();
    region.post_wake(1, LaneId(1)).unwrap();
    let drained = |peer| {
        let mut lanes = Vec::new();
        region.drain_wakes(peer, |l| lanes.push(l.0)).unwrap();
        lanes
    };
    assert_eq!(drained(0), []);
    assert_eq!(drained(1), [1]);
    assert_eq!(drained(1), []);
    for word in 0..16 {
        region.mem().store(Offset(128 + word * 8), u64::MAX, Ordering::Release).unwrap();
    }
    assert_eq!(drained(1), [0, 1]);
    assert!(region.post_wake(2, LaneId(0)).is_err());
    assert!(region.post_wake(1, LaneId(2)).is_err());
}

#[cfg(loom)]
#[test]
fn loom_a_posted_wake_is_drained_or_still_announced() {
    loom::model(|| {
        let mem = HeapMem::new(LEN);
        let other = mem.clone();
        let t = loom::thread::spawn(move || bare(other).post_wake(1, LaneId(0)).unwrap());
        let region = bare(mem);
        let mut seen = 0;
        region.drain_wakes(1, |_| seen += 1).unwrap();
        t.join().unwrap();
        // The doorbell comes after the post: this drain stands for it.
        region.drain_wakes(1, |_| seen += 1).unwrap();
        assert_eq!(seen, 1);
    });
}
