//! A child made by a bare system call, of which no handler of `fork` hears. Alone in its process: as in
//! the C library, a lock that another thread holds at that moment stays locked in the child.
#![allow(missing_docs, dead_code)]

mod common;

use common::{Manner, watchdog, world};
use vshmem::{Flags, Key, Session};
#[test]
fn a_child_made_behind_the_c_librarys_back_counts_from_its_first_call() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let segment = s.segment(Key::PRIVATE, 4096, Flags::default().mode(0o600)).unwrap();
    let _mine = segment.attach().unwrap();
    // SAFETY: a plain child, which makes calls of this crate only and leaves.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } as libc::pid_t;
    if child == 0 {
        let good = segment.stat().is_ok_and(|s| s.nattch == 2);
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    let mut status = 0;
    // SAFETY: a child of this test.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child says no");
    s.child_died(child.cast_unsigned());
    assert_eq!(segment.stat().unwrap().nattch, 1);
}
