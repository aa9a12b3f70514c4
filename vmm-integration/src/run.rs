use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use crate::{Error, Result, Vm, VmIo, VmSpec};

/// Boots a guest, runs the command in it with this process's streams, and
/// returns its exit code: 128 and the signal's number if a signal ended it.
///
/// SIGINT, SIGTERM and SIGHUP go to the command; a second one, or one before
/// the command has started, ends the guest at once. They are blocked in the
/// calling thread meanwhile: call it before other threads are started.
///
/// # Errors
///
/// Those of [`Vm::spawn`] and [`Vm::wait`].
///
/// # If the caller dies
///
/// The kernel kills QEMU.
pub fn run(spec: &VmSpec) -> Result<i32> {
    let signals = Signals::catch()?;
    let mut vm = Vm::spawn(spec, VmIo::inherit()?)?;
    let control = vm.remote();
    let last = Arc::new(AtomicI32::new(0));
    let (seen, stop) = (Arc::clone(&last), signals.stop.try_clone());
    let stop = stop.map_err(Error::system("dup"))?;
    let source = signals.source.try_clone().map_err(Error::system("dup"))?;
    let watcher = thread::spawn(move || {
        while let Some(number) = next_signal(&source, &stop) {
            // Relaxed: the value alone matters, and joining the thread orders it.
            let before = seen.swap(number, Ordering::Relaxed);
            if before != 0 || !control.is_ready() {
                control.kill();
            } else {
                control.signal(number);
            }
        }
    });
    let code = vm.wait_mut();
    drop(vm);
    signals.end();
    let _ = watcher.join();
    let number = last.load(Ordering::Relaxed);
    match code {
        // The guest was cut off on the user's wish: say by which signal.
        Ok(code) if number != 0 && code == 128 + libc::SIGKILL => Ok(128 + number),
        other => other,
    }
}

/// The signals that end a program, as a descriptor.
struct Signals {
    source: OwnedFd,
    stop: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    fn catch() -> Result<Signals> {
        // SAFETY: a sigset_t is plain bytes; sigemptyset gives it its value.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        let mut before = set;
        // SAFETY: `set` is live and the numbers are valid signals.
        unsafe {
            libc::sigemptyset(&mut set);
        }
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: as above.
            unsafe { libc::sigaddset(&mut set, number) };
        }
        // SAFETY: both sets are live.
        let done = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before) };
        if done != 0 {
            return Err(Error::system("pthread_sigmask")(std::io::Error::from_raw_os_error(done)));
        }
        // SAFETY: a live set; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(Error::system("signalfd")(std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's.
        let source = unsafe { OwnedFd::from_raw_fd(fd) };
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(Error::system("eventfd"))?;
        Ok(Signals { source, stop, before })
    }

    fn end(&self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: `before` is the set that the same call returned.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Waits for a signal; none when told to stop.
fn next_signal(source: &OwnedFd, stop: &OwnedFd) -> Option<i32> {
    loop {
        let mut fds = [PollFd::new(source, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
            Ok(_) if !fds[1].revents().is_empty() => return None,
            Ok(_) => {}
        }
        let mut record = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
        let fd = source.as_raw_fd();
        // SAFETY: the pointer and length describe one live array.
        let n = unsafe { libc::read(fd, record.as_mut_ptr().cast(), record.len()) };
        if usize::try_from(n) == Ok(record.len()) {
            // The record begins with the number.
            return Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]]));
        }
    }
}
