#![allow(missing_docs)]
use super::*;
use crate::format::Spec;
use crate::layout::MIN_FILE;
use crate::mem::{HeapMem, Mem};
use crate::txn::{Lane, LaneId};

fn region() -> Region<HeapMem> {
    let spec = Spec::for_file("test", MIN_FILE).unwrap();
    Region::format(HeapMem::new(spec.len), &spec).unwrap()
}

#[test]
fn blocks_do_not_overlap_and_come_back() {
    let region = region();
    let on = &mut Lane::new(LaneId(0));
    let mut blocks = Vec::new();
    for i in 0..200 {
        let block = region.transact(on, |t| t.alloc(Pool::Msgs, 64 << (i % 5))).unwrap().unwrap();
        blocks.push((block.0, 64u64 << (i % 5)));
    }
    blocks.sort_unstable();
    assert!(blocks.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
    let used = region.pages().unwrap().0;
    for (at, size) in &blocks {
        region.transact(on, |t| t.free(Pool::Msgs, *size, Offset(*at))).unwrap();
    }
    for i in 0..200 {
        region.transact(on, |t| t.alloc(Pool::Msgs, 64 << (i % 5))).unwrap().unwrap();
    }
    assert_eq!(region.pages().unwrap().0, used, "freed blocks serve again");
}

#[test]
fn a_full_arena_says_none_and_recovers() {
    let region = region();
    let on = &mut Lane::new(LaneId(0));
    let all = region.pages().unwrap().1;
    let mut runs = Vec::new();
    for n in [16384, 4096, 512, 64, 1] {
        while let Some(first) = region.transact(on, |t| t.take_run(n)).unwrap() {
            runs.push((first, n));
        }
    }
    assert_eq!(region.pages().unwrap(), (all, all));
    assert_eq!(region.transact(on, |t| t.alloc(Pool::Undo, 64)), Ok(None));
    for (first, n) in runs {
        region.transact(on, |t| t.free_run(first, n, Left::Warm)).unwrap();
    }
    assert_eq!(region.pages().unwrap(), (0, all));
    assert!(region.transact(on, |t| t.alloc(Pool::Undo, 2 << 20)).unwrap().is_some());
}

#[test]
fn runs_of_huge_pages_are_aligned() {
    let region = region();
    let on = &mut Lane::new(LaneId(0));
    region.transact(on, |t| t.take_run(3)).unwrap().unwrap();
    let huge = region.transact(on, |t| t.take_run(512)).unwrap().unwrap();
    assert_eq!(huge % 512, 0);
}

#[test]
fn scrubbing_zeroes_what_was_used_before() {
    let region = region();
    let on = &mut Lane::new(LaneId(0));
    let first = region.transact(on, |t| t.take_run(2)).unwrap().unwrap();
    let at = Offset(u64::from(first) * PAGE);
    region.mem().write_bytes(at, b"old bytes").unwrap();
    region.transact(on, |t| t.free_run(first, 2, Left::Warm)).unwrap();
    region.transact(on, |t| t.set(CURSOR, 0)).unwrap();
    let again = region.transact(on, |t| t.take_run(2)).unwrap().unwrap();
    assert_eq!(again, first);
    region.scrub(again, 2).unwrap();
    let mut bytes = [1; 9];
    region.mem().read_bytes(at, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 9]);
}

#[test]
fn freeing_what_is_not_in_use_is_corruption() {
    let region = region();
    let on = &mut Lane::new(LaneId(0));
    let first = region.transact(on, |t| t.take_run(4)).unwrap().unwrap();
    region.transact(on, |t| t.free_run(first, 4, Left::Warm)).unwrap();
    assert!(region.transact(on, |t| t.free_run(first, 4, Left::Warm)).is_err());
    assert!(region.transact(on, |t| t.free_run(0, 1, Left::Warm)).is_err());
    assert!(region.transact(on, |t| t.free_run(u32::MAX - 1, 4, Left::Warm)).is_err());
}
