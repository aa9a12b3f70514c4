//! The checker can fail: each kind of damage, once, is found and named.
#![allow(missing_docs, clippy::wildcard_imports)]

mod common;
use common::damage::ALL;
use common::full::{Full, full};
use vshmem_core::layout::*;
use vshmem_core::mem::{Mem, Ordering};
use vshmem_core::{LaneId, Offset};
use vshmem_sysv::check::{self, Fault, Finding};

fn faults(f: &mut Full) -> Vec<Finding> {
    check::look(&f.r, &mut f.on).unwrap()
}

#[test]
fn each_kind_of_damage_is_found_and_named() {
    let mut wrong = Vec::new();
    for (name, fault, damage) in ALL.into_iter().flatten() {
        let mut f = full();
        let before = faults(&mut f);
        assert!(before.is_empty(), "{before:#?}");
        damage(&f);
        let found = faults(&mut f);
        if !found.iter().any(|f| f.fault == *fault) {
            wrong.push(format!("{name}: {fault:?} not among {found:#?}"));
        }
        // It stays so: what one look finds on a quiet region, all do.
        let again = check::check(&f.r, &mut f.on, || ()).unwrap();
        if again.iter().all(|f| f.fault != *fault) {
            wrong.push(format!("{name}: not confirmed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_finding_has_a_damage_that_shows_it() {
    for fault in Fault::ALL {
        let shown = ALL.into_iter().flatten().any(|(_, f, _)| f == fault);
        assert!(shown, "{fault:?}");
        assert!(!fault.word().is_empty() && fault.means().ends_with('.'));
    }
}

#[test]
fn whatever_the_region_holds_a_look_ends_and_reads_nothing_outside() {
    let mut seed = 1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut slowest = std::time::Duration::ZERO;
    for _ in 0..60 {
        let mut f = full();
        let tables = f.r.table(Table::Pages).at.0;
        for _ in 0..20 {
            // Numbers as they could stand there, and any.
            for _ in 0..1 + random() % 40 {
                let at = match random() % 4 {
                    0 => sb::DIRS + random() % (sb::SIZE - sb::DIRS),
                    1 => f.r.lane(LaneId(random() as u32 % 8)).unwrap().0 + random() % 0x210,
                    2 => tables + random() % (64 << 12),
                    _ => random() % tables,
                };
                let value = match random() % 4 {
                    0 => random(),
                    1 => random() % 64,
                    2 => (tables >> 6) + random() % 4096,
                    _ => u64::from(u32::MAX),
                };
                f.mem.store(Offset(at & !7), value, Ordering::Release).unwrap();
            }
            let begun = std::time::Instant::now();
            let _ = check::look(&f.r, &mut f.on);
            slowest = slowest.max(begun.elapsed());
        }
    }
    println!("the slowest look took {slowest:?}");
    assert!(slowest.as_secs() < 20, "{slowest:?}");
}
