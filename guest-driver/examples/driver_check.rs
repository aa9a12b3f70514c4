//! Checks the crate against a real device; run as root in a guest that has one.
//!
//! Prints `ok NAME` per check and panics at the first that fails. Scribbles over the last page
//! of BAR2: for scratch regions.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vshmem_driver::find::{self, Sysfs};
use vshmem_driver::{Access, Bind, Device, Errno, Error, raw};

fn main() {
    watchdog(Duration::from_secs(60));

    find::load_module().expect("the module loads");
    let nodes = Sysfs::default().nodes().expect("a device is found");
    let device = Device::open_first().expect("the first device opens");
    assert_eq!(nodes[0], device.path());
    let info = device.info().expect("INFO");
    println!("ok finds_and_opens {info:?}");

    // Which words there are does not matter here; that a fresh page holds zeros does.
    let off = info.bar2_size - 4096;
    assert_eq!(device.wait(off, 1, None), Err(Errno(libc::EAGAIN)));
    let past = Some((0, 1));
    assert_eq!(device.wait(off, 0, past), Err(Errno(libc::ETIMEDOUT)));
    assert_eq!(device.wait(off, 0, Some((-1, 0))), Err(Errno(libc::EINVAL)));
    assert_eq!(device.wait(info.bar2_size, 0, past), Err(Errno(libc::EINVAL)));
    assert_eq!(device.wake(off, 1), Ok(0));
    println!("ok wait_and_wake_report_their_outcomes");

    let (tell, told) = mpsc::channel();
    let fd = device.fd();
    let sleeper = thread::spawn(move || {
        tell.send(()).expect("the main thread listens");
        raw::wait(fd, off, 0, None)
    });
    told.recv().expect("the sleeper starts");
    while device.wake(off, 1).expect("WAKE") == 0 {
        thread::yield_now();
    }
    assert_eq!(sleeper.join().expect("the sleeper ends"), Ok(()));
    println!("ok wake_reaches_a_sleeper");

    let mut control = device.uio(1).expect("the control vector's UIO device");
    assert_eq!(control.wait_for(Duration::from_millis(20)).expect("poll"), None);
    device.ring(info.ivposition, 1).expect("RING");
    let first = control.wait().expect("an event");
    control.wake_local().expect("a local wake-up");
    assert_eq!(control.wait().expect("an event"), first.wrapping_add(1));
    let error = device.uio(info.vectors).expect_err("there is no such vector");
    assert!(matches!(error, Error::NoVector { .. }), "{error}");
    println!("ok uio_events_arrive");

    let geometry = Bind {
        peer_off: off,
        wake_off: off - (1 << 20),
        lanes_off: off - (8 << 20),
        lane_stride: 4096,
        lane_count: 64,
        status_off: 64,
        summary_words: 8,
        dead_value: 9,
        host_id: 0xfff0,
        host_vector: 1,
        wake_vector: 0,
        pad: [0; 2],
    };
    device.bind(&geometry).expect("BIND");
    assert_eq!(device.info().expect("INFO").bound, 1);
    device.unbind().expect("UNBIND");
    assert_eq!(device.info().expect("INFO").bound, 0);
    let error = device.bind(&Bind { peer_off: u64::MAX - 7, ..geometry }).expect_err("outside");
    println!("ok bind_and_unbind ({error})");

    let reader = device.reopen(Access::ReadOnly).expect("a second, read-only file");
    let error = reader.bind(&geometry).expect_err("read-only");
    assert_eq!(error.errno(), Some(libc::EBADF));
    assert_eq!(reader.ring(info.ivposition, 1), Err(Errno(libc::EBADF)));
    println!("ok read_only_is_read_only ({error})");
}

fn watchdog(limit: Duration) {
    let end = Instant::now() + limit;
    thread::spawn(move || {
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        eprintln!("driver_check: no end after {limit:?}");
        std::process::exit(3);
    });
}
