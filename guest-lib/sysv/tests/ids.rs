//! What an id says: its region, and which of an index's successive objects is meant.
#![allow(missing_docs)]

mod common;

use common::{CREATE, endpoint, task};
use vshmem_core::Region;
use vshmem_core::format::{FormatError, Spec};
use vshmem_core::layout::{MAX_NUMBER, MIN_FILE, sb};
use vshmem_core::mem::{HeapMem, Mem, Offset, Ordering};
use vshmem_sysv::{Errno, Error, ID_BIT, msg, number_of, sem, shm};

fn numbered(number: u32) -> Region<HeapMem> {
    let spec = Spec { number, ..Spec::for_file("test", MIN_FILE).unwrap() };
    Region::format(HeapMem::new(spec.len), &spec).unwrap()
}

#[test]
fn an_id_names_its_region_and_is_its_sequence_above_its_index() {
    for number in 0..=MAX_NUMBER {
        let r = numbered(number);
        let (c, mut on) = task(&r, &mut endpoint(&r), 7);
        let set = sem::get(&r, &mut on, &c, 0, 1, CREATE).unwrap();
        let queue = msg::get(&r, &mut on, &c, 0, CREATE).unwrap();
        let segment = shm::get(&r, &mut on, &c, 0, 1, CREATE).unwrap();
        for id in [set, queue, segment] {
            assert!(id > 0 && id & ID_BIT != 0, "{id:#x}");
            assert_eq!(number_of(id), number, "{id:#x}");
        }
        let seq = sem::stat(&r, &mut on, &c, set).unwrap().perm.seq;
        assert_eq!((seq << 15) as i32 | set & 0x7fff, set);
        assert!(u16::try_from(seq).is_ok(), "`__seq` of the C structure has 16 bits");
    }
}

#[test]
fn the_id_of_another_region_names_nothing() {
    let (one, two) = (numbered(1), numbered(2));
    let (c, mut on) = task(&one, &mut endpoint(&one), 7);
    let (d, mut there) = task(&two, &mut endpoint(&two), 7);
    let id = sem::get(&one, &mut on, &c, 0, 1, CREATE).unwrap();
    let other = sem::get(&two, &mut there, &d, 0, 1, CREATE).unwrap();
    assert_eq!(id & 0x7fff, other & 0x7fff);
    assert_ne!(id, other);
    let asked = sem::getval(&two, &mut there, &d, id, 0);
    assert!(matches!(asked, Err(Error::Errno(Errno::EINVAL))), "{asked:?}");
    assert_eq!(sem::getval(&two, &mut there, &d, other, 0).unwrap(), 0);
}

#[test]
fn an_id_comes_again_only_when_its_sequence_has_gone_round() {
    let r = numbered(3);
    let (c, mut on) = task(&r, &mut endpoint(&r), 7);
    let first = msg::get(&r, &mut on, &c, 0, CREATE).unwrap();
    msg::remove(&r, &mut on, &c, first).unwrap();
    // 64 indices are used in turn, and a sequence has 12 bits in the id.
    for n in 1..64 * 4096 {
        let id = msg::get(&r, &mut on, &c, 0, CREATE).unwrap();
        assert_ne!(id, first, "after {n}");
        msg::remove(&r, &mut on, &c, id).unwrap();
    }
    assert_eq!(msg::get(&r, &mut on, &c, 0, CREATE).unwrap(), first);
}

#[test]
fn a_number_that_ids_have_no_room_for_is_refused() {
    let spec = Spec { number: MAX_NUMBER + 1, ..Spec::for_file("test", MIN_FILE).unwrap() };
    let made = Region::format(HeapMem::new(spec.len), &spec).map(drop);
    assert_eq!(made, Err(FormatError::Number(8)));
    let r = numbered(0);
    r.mem().store(Offset(sb::NUMBER), u64::from(MAX_NUMBER) + 1, Ordering::Relaxed).unwrap();
    assert!(matches!(Region::open(r.mem().clone()), Err(FormatError::Corrupt(_))));
}
