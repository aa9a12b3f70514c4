//! Sessions against an endpoint of the test's own: attaching, working, forking, misbehaving.

mod common;

use common::{Manner, watchdog, world};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vshmem::sysv::shm;
use vshmem::{Error, Flags, Key, SemOp, Session};

fn errno<T: std::fmt::Debug>(result: vshmem::Result<T>) -> i32 {
    result.unwrap_err().errno()
}

/// Runs `f` in a child; it must return true.
fn in_child(f: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: the child uses this crate, which is made for it, and the allocator, which the C
    // library opens in the child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = f();
        // SAFETY: ends the child without the test harness.
        unsafe { libc::_exit(i32::from(!good)) };
    }
    pid
}

fn left_well(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: a child of this test.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0, "the child says no");
}

#[test]
fn the_three_kinds_work_and_are_found_by_key() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let flags = Flags::CREATE | Flags::EXCLUSIVE.mode(0o600);
    let set = s.semaphores(Key(7), 2, flags).unwrap();
    assert_eq!(errno(s.semaphores(Key(7), 2, flags)), libc::EEXIST);
    assert_eq!(s.semaphores(Key(7), 0, Flags::OPEN).unwrap().id(), set.id());
    set.set_value(0, 3).unwrap();
    set.op(&[SemOp::add(0, -1), SemOp::add(1, 5)]).unwrap();
    assert_eq!(set.values().unwrap(), [2, 5]);
    assert_eq!(errno(set.op(&[SemOp::wait_zero(0).no_wait()])), libc::EAGAIN);

    let queue = s.queue(Key(7), flags).unwrap();
    queue.send(4, b"four").unwrap();
    queue.send(2, b"two").unwrap();
    assert_eq!(queue.receive(-3, 100).unwrap().text, b"two");
    assert_eq!(errno(queue.try_receive(9, 100)), libc::ENOMSG);
    assert_eq!(queue.stat().unwrap().qnum, 1);

    let segment = s.segment(Key(7), 10_000, flags).unwrap();
    let (a, b) = (segment.attach().unwrap(), segment.attach_read_only().unwrap());
    a.write(9_990, b"0123456789");
    let mut back = [0; 10];
    b.read(9_990, &mut back);
    assert_eq!(&back, b"0123456789");
    assert_eq!((a.len(), segment.stat().unwrap().nattch), (10_000, 2));
    // SAFETY: this test's own mapping.
    let rc = unsafe { libc::mprotect(b.as_ptr().cast(), 4096, libc::PROT_READ | libc::PROT_WRITE) };
    assert_eq!((rc, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EACCES)));
    drop((a, b));
    assert_eq!(segment.stat().unwrap().nattch, 0);
    segment.remove().unwrap();
    queue.remove().unwrap();
    set.remove().unwrap();
    assert_eq!(errno(set.value(0)), libc::EINVAL);
}

#[test]
fn a_thread_that_ends_leaves_nothing_in_its_lane() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let queue = s.queue(Key(7), Flags::CREATE.mode(0o600)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            queue.send(1, b"one").unwrap();
            // The lane keeps the block for the next message.
            queue.receive(0, 100).unwrap();
        });
    });
    // The scope waits for the closure, the lane goes with the thread.
    let end = Instant::now() + Duration::from_secs(10);
    let look = || w.on(|r, on| vshmem::sysv::check::look(r, on).unwrap());
    while !look().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(look(), []);
}

#[test]
#[should_panic(expected = "2 bytes at 99 of a segment of 100")]
fn a_copy_beyond_the_segment_panics() {
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    s.segment(Key::PRIVATE, 100, Flags::CREATE.mode(0o600))
        .unwrap()
        .attach()
        .unwrap()
        .write(99, b"ab");
}

#[test]
fn threads_hand_over_and_give_their_lanes_back() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let set = s.semaphores(Key::PRIVATE, 2, Flags::default().mode(0o600)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..500).for_each(|_| set.op(&[SemOp::add(0, -1), SemOp::add(1, 1)]).unwrap())
        });
        (0..500).for_each(|_| {
            set.op(&[SemOp::add(0, 1)]).unwrap();
            set.op(&[SemOp::add(1, -1)]).unwrap();
        });
    });
    assert_eq!(set.values().unwrap(), [0, 0]);
    let lanes = || {
        let owners = w.region.tasks().unwrap().into_iter();
        let all = owners.map(|t| w.region.lanes_of(vshmem_core::task::Owner::Task(t.id)).unwrap());
        all.map(|l| l.len()).sum::<usize>()
    };
    // This thread's; the other's goes with it, a moment after its closure has returned.
    while lanes() != 1 {
        std::thread::yield_now();
    }
}

/// As when its peer was fenced.
#[test]
fn a_task_that_was_shut_out_gets_eidrm_and_takes_no_lanes() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let set = s.semaphores(Key::PRIVATE, 2, Flags::default().mode(0o600)).unwrap();
    set.op(&[SemOp::add(0, 1)]).unwrap();
    let task = w.region.tasks().unwrap()[0].id;
    w.on(|r, on| vshmem_sysv::reap::task(r, on, task)).unwrap();
    let alone = [SemOp::add(0, 1)];
    assert_eq!(errno(set.op(&alone)), libc::EIDRM);
    assert_eq!(errno(set.op(&[SemOp::add(1, -1)])), libc::EIDRM);
    assert_eq!(errno(set.value(0)), libc::EIDRM);
    assert_eq!(errno(s.semaphores(Key(1), 1, Flags::CREATE)), libc::EIDRM);
    // A thread without a lane gets none.
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(errno(set.set_value(0, 7)), libc::EIDRM)).join().unwrap();
    });
    assert_eq!(w.region.lanes_of(vshmem_core::task::Owner::Task(task)).unwrap(), []);
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let set = s.semaphores(Key::PRIVATE, 1, Flags::default().mode(0o600)).unwrap();
    let (begin, limit) = (Instant::now(), Duration::from_millis(30));
    assert_eq!(errno(set.op_within(&[SemOp::add(0, -1)], limit)), libc::EAGAIN);
    assert!(begin.elapsed() >= limit);
}

#[test]
fn dropping_the_session_undoes_detaches_and_frees_the_task() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let set = s.semaphores(Key(1), 1, Flags::CREATE.mode(0o600)).unwrap();
    set.op(&[SemOp::add(0, 3).undo()]).unwrap();
    let segment = s.segment(Key(1), 4096, Flags::CREATE.mode(0o600)).unwrap();
    std::mem::forget(segment.attach().unwrap());
    drop(s);
    assert!(w.region.tasks().unwrap().is_empty());
    let s = Session::attach_to(&w.socket()).unwrap();
    assert_eq!(s.semaphores(Key(1), 0, Flags::OPEN).unwrap().value(0).unwrap(), 0);
    assert_eq!(s.segment(Key(1), 0, Flags::OPEN).unwrap().stat().unwrap().nattch, 0);
}

#[test]
fn a_program_that_closes_every_descriptor_goes_on() {
    let (_w, _turn) = (watchdog(), FORKS.lock().unwrap());
    let w = world(Manner::Good, 0);
    let socket = w.socket();
    left_well(in_child(|| {
        let s = Session::attach_to(&socket).unwrap();
        let segment = s.segment(Key(5), 4096, Flags::CREATE.mode(0o600)).unwrap();
        let before = segment.attach().unwrap();
        // SAFETY: this child's descriptors; nothing of it relies on one.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
        // And others get the numbers.
        let other = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: as above.
        for n in 890..930 {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), n) }, n);
        }
        before.write(0, b"x");
        let after = segment.attach().unwrap();
        let mut byte = [0];
        after.read(0, &mut byte);
        // SAFETY: only asks.
        let untouched = (890..930).all(|n| unsafe { libc::fcntl(n, libc::F_GETFD) } == 0);
        byte == *b"x" && segment.stat().unwrap().nattch == 2 && untouched
    }));
}

/// These use the one pid that the test's endpoint believes, so they take turns.
static FORKS: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn a_child_has_its_parents_attachments_from_birth_and_they_end_with_it() {
    let (_w, _turn) = (watchdog(), FORKS.lock().unwrap());
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let set = s.semaphores(Key::PRIVATE, 1, Flags::default().mode(0o600)).unwrap();
    let segment = s.segment(Key::PRIVATE, 4096, Flags::default().mode(0o600)).unwrap();
    let mine = segment.attach().unwrap();
    // The endpoint of the test cannot know the child's pid; any will do that nobody has.
    common::CHILD.store(4_000_000, Ordering::SeqCst);
    let child = in_child(|| {
        let counted = segment.stat().unwrap().nattch == 2;
        mine.write(0, b"from the child");
        set.op(&[SemOp::add(0, 1).undo()]).unwrap();
        counted && set.value(0).unwrap() == 1
    });
    left_well(child);
    assert_eq!(segment.stat().unwrap().nattch, 2, "nobody saw it die yet");
    s.child_died(4_000_000);
    assert_eq!((segment.stat().unwrap().nattch, set.value(0).unwrap()), (1, 0));
    let mut text = [0; 14];
    mine.read(0, &mut text);
    assert_eq!(&text, b"from the child");
}

#[test]
fn two_sessions_of_one_process_do_not_disturb_each_other() {
    let (_w, _turn) = (watchdog(), FORKS.lock().unwrap());
    let worlds = [world(Manner::Good, 0), world(Manner::Good, 0)];
    let sessions = worlds.each_ref().map(|w| Session::attach_to(&w.socket()).unwrap());
    let made = Flags::CREATE | Flags::EXCLUSIVE.mode(0o600);
    // One key, and an object in each region.
    let sets = sessions.each_ref().map(|s| s.semaphores(Key(7), 2, made).unwrap());
    let segments = sessions.each_ref().map(|s| s.segment(Key(7), 4096, made).unwrap());
    let mapped = segments.each_ref().map(|s| s.attach().unwrap());
    // A thread asleep in each at once, and one thread that serves both.
    std::thread::scope(|scope| {
        for set in &sets {
            scope.spawn(move || set.op(&[SemOp::add(0, -1), SemOp::add(1, 1)]).unwrap());
        }
        while worlds.iter().any(|w| !asleep(w)) {
            std::thread::yield_now();
        }
        for set in &sets {
            set.op(&[SemOp::add(0, 1)]).unwrap();
            set.op(&[SemOp::add(1, -1)]).unwrap();
        }
    });
    // A child that inherits both.
    common::CHILD.store(4_000_001, Ordering::SeqCst);
    let child = in_child(|| {
        let counted = segments.iter().all(|s| s.stat().unwrap().nattch == 2);
        for ((set, memory), by) in sets.iter().zip(&mapped).zip([3, 4]) {
            set.op(&[SemOp::add(0, by).undo()]).unwrap();
            memory.write(0, &[by as u8]);
        }
        counted
    });
    left_well(child);
    for (i, session) in sessions.iter().enumerate() {
        session.child_died(4_000_001);
        let mut byte = [0];
        mapped[i].read(0, &mut byte);
        assert_eq!(byte, [3 + i as u8]);
        assert_eq!(segments[i].stat().unwrap().nattch, 1, "region {i}");
        assert_eq!(sets[i].value(0).unwrap(), 0, "region {i}");
    }
    // One ends, and the other goes on.
    drop(mapped);
    let [first, second] = sessions;
    drop(first);
    assert!(worlds[0].region.tasks().unwrap().is_empty());
    assert_eq!(worlds[1].region.tasks().unwrap().len(), 1);
    let set = second.semaphores(Key(7), 2, Flags::OPEN).unwrap();
    set.op(&[SemOp::add(0, 1)]).unwrap();
    assert_eq!(set.value(0).unwrap(), 1);
}

/// Whether some lane waits.
fn asleep(w: &common::World) -> bool {
    let tasks = w.region.tasks().unwrap().into_iter();
    let lanes =
        tasks.flat_map(|t| w.region.lanes_of(vshmem_core::task::Owner::Task(t.id)).unwrap());
    lanes.into_iter().any(|id| {
        let status = w.region.lane(id).unwrap().plus(vshmem_core::layout::lane::STATUS);
        w.region.peek(status).unwrap() == vshmem_core::wait::WAITING
    })
}

static SESSION: AtomicPtr<Session> = AtomicPtr::new(std::ptr::null_mut());
static SET: AtomicI32 = AtomicI32::new(0);
static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn nested(_: libc::c_int) {
    // SAFETY: set before the handler, and alive as long as it.
    let s = unsafe { &*SESSION.load(Ordering::SeqCst) };
    let ops = |by| [vshmem::sysv::sem::SemBuf { num: 0, op: by, flg: 0x1000 }];
    for by in [3, -3] {
        let done = s.call(|r, on, c| {
            vshmem::sysv::sem::op(r, on, c, SET.load(Ordering::SeqCst), &ops(by), None)
        });
        if done.is_err() {
            std::process::abort();
        }
    }
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_handler_may_use_the_object_whose_call_it_interrupts() {
    let _w = watchdog();
    let w = world(Manner::Good, 0);
    let mut s = Session::attach_to(&w.socket()).unwrap();
    SESSION.store(&raw mut s, Ordering::SeqCst);
    let set = s.semaphores(Key::PRIVATE, 1, Flags::default().mode(0o600)).unwrap();
    SET.store(set.id(), Ordering::SeqCst);
    // Made now: the handler must not be the first to need memory for them.
    nested(0);
    // SAFETY: zeros are valid; the handler is a function of this signature.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nested as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    // SAFETY: cannot fail.
    let me = unsafe { libc::pthread_self() };
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Ordering::SeqCst) == 0 {
                // SAFETY: that thread outlives the scope.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::yield_now();
            }
        });
        let mut rounds = 0;
        while HANDLED.load(Ordering::SeqCst) < 300 || rounds < 300 {
            for by in [2, -2] {
                while set.op(&[SemOp::add(0, by).undo()]).is_err() {}
            }
            rounds += 1;
        }
        stop.store(1, Ordering::SeqCst);
    });
    assert_eq!(set.value(0).unwrap(), 0);
}

#[test]
fn big_segments_lie_as_in_the_file_modulo_two_megabytes() {
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let segment = s.segment(Key::PRIVATE, 4 << 20, Flags::default().mode(0o600)).unwrap();
    let at = segment.attach().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line =
        maps.lines().find(|l| l.starts_with(&format!("{:x}-", at.as_ptr() as usize))).unwrap();
    let offset = usize::from_str_radix(line.split(' ').nth(2).unwrap(), 16).unwrap();
    assert_eq!((at.as_ptr() as usize - offset) % (2 << 20), 0);
}

#[test]
fn the_memory_of_a_big_segment_is_given_back_and_each_new_one_reads_as_zeros() {
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    for size in [30_000, 4 << 20] {
        let before = w.backed();
        for _ in 0..3 {
            let segment = s.segment(Key::PRIVATE, size, Flags::default().mode(0o600)).unwrap();
            let at = segment.attach().unwrap();
            // SAFETY: attached, that long, and nobody else's.
            let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), size as usize) };
            assert!(bytes.iter().all(|b| *b == 0));
            bytes.fill(0xff);
            segment.remove().unwrap();
        }
        assert!(w.backed() < before + (1 << 20), "{before} bytes before, {} now", w.backed());
    }
}

#[test]
fn when_all_lanes_are_taken_the_call_says_so() {
    let _w = watchdog();
    // A region for two tasks has six lanes: one is the endpoint's, one this thread's.
    let w = world(Manner::Good, 2);
    let s = Session::attach_to(&w.socket()).unwrap();
    let set = s.semaphores(Key::PRIVATE, 1, Flags::default().mode(0o600)).unwrap();
    let called = std::sync::Barrier::new(5);
    std::thread::scope(|scope| {
        let call = || {
            let value = set.value(0).map_err(|e| (e.errno(), e.to_string()));
            // Nobody gives its lane back before all have called.
            called.wait();
            value
        };
        let others: Vec<_> = (0..5).map(|_| scope.spawn(call)).collect();
        let refused: Vec<_> = others.into_iter().filter_map(|t| t.join().unwrap().err()).collect();
        let [(errno, text)] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!(*errno, libc::ENOMEM);
        assert!(text.starts_with("all 6 lanes of the region are taken"), "{text}");
    });
}

#[test]
fn endpoints_that_misbehave_are_errors_that_name_them() {
    let _w = watchdog();
    let attach = |manner| {
        let w = world(manner, 0);
        let e = Session::attach_to(&w.socket()).unwrap_err();
        let text = e.to_string();
        assert!(text.contains(w.socket().to_str().unwrap()), "{text}");
        e
    };
    let e = attach(Manner::Refuses);
    assert!(
        matches!(&e, Error::Refused { text, .. } if text == "not you") && e.errno() == libc::EACCES
    );
    assert!(matches!(attach(Manner::Garbage), Error::Protocol { .. }));
    assert!(matches!(attach(Manner::NoDescriptors), Error::NoEndpoint { .. }));
    assert!(matches!(attach(Manner::HangsUp), Error::NoEndpoint { .. }));
    assert!(matches!(attach(Manner::TooLong), Error::Map { .. }));
    assert!(matches!(attach(Manner::NoRegion), Error::Region { .. }));
    let nobody = Session::attach_to("/nowhere/at/all".as_ref()).unwrap_err();
    assert_eq!(nobody.errno(), libc::ENOSYS);
    assert!(nobody.to_string().contains("/nowhere/at/all"));
}

#[test]
fn an_endpoint_that_restarts_just_then_is_asked_again() {
    let _w = watchdog();
    let w = world(Manner::Restarts, 0);
    let session = Session::attach_to(&w.socket()).unwrap();
    assert_eq!(w.attached.load(std::sync::atomic::Ordering::Relaxed), 4);
    session.call(|r, _, _| Ok(r.tasks()?)).unwrap();
}

#[test]
fn extents_outside_the_region_are_corruption_not_a_mapping() {
    use vshmem_core::layout::{extents, seg};
    use vshmem_core::region::Kind;
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let segment = s.segment(Key::PRIVATE, 4096, Flags::default().mode(0o600)).unwrap();
    let object = w.region.object(Kind::Seg, (segment.id() & 0x7fff).cast_unsigned()).unwrap();
    let list = w.region.block(w.region.peek(object.plus(seg::EXTENTS)).unwrap()).unwrap();
    for bad in [u32::MAX, 0x00ff_ffff] {
        w.region.init(list.plus(extents::FIRST), bad).unwrap();
        assert_eq!(errno(segment.attach()), libc::EIO);
    }
    let _ = shm::info(s.region().unwrap()).unwrap();
}

/// A word on which two processes sleep in turn.
#[test]
fn processes_sleep_on_words_of_segments_and_wake_each_other() {
    let (_w, _turn) = (watchdog(), FORKS.lock().unwrap());
    let w = world(Manner::Good, 0);
    let s = Session::attach_to(&w.socket()).unwrap();
    let segment = s.segment(Key::PRIVATE, 3 << 20, Flags::CREATE.mode(0o600)).unwrap();
    let (a, b) = (segment.attach().unwrap(), segment.attach().unwrap());
    const AT: usize = (2 << 20) + 20;
    assert!(a.wait_on(AT, 1, None).unwrap(), "another value is no reason to sleep");
    let limit = Duration::from_millis(20);
    let begin = Instant::now();
    while a.wait_on(AT, 0, Some(limit.saturating_sub(begin.elapsed()))).unwrap() {}
    assert!(begin.elapsed() >= limit);
    assert_eq!(a.wake(AT, 9).unwrap(), 0);
    let turns = 2000;
    let child = in_child(|| {
        // Through the other attachment: it is the same place.
        for turn in 0..turns {
            while b.word(AT).load(Ordering::Acquire) != 2 * turn + 1 {
                b.wait_on(AT, 2 * turn, None).unwrap();
            }
            b.word(AT).store(2 * turn + 2, Ordering::Release);
            b.wake(AT, 1).unwrap();
        }
        true
    });
    for turn in 0..turns {
        a.word(AT).store(2 * turn + 1, Ordering::Release);
        a.wake(AT, 1).unwrap();
        while a.word(AT).load(Ordering::Acquire) != 2 * turn + 2 {
            a.wait_on(AT, 2 * turn + 1, None).unwrap();
        }
    }
    left_well(child);
}
