//! Descriptors of strangers, and how to be rid of them.
//!
//! The last close of a descriptor may take as long as whoever made it likes: a connected TCP socket
//! lingers for its unsent bytes, a file in somebody's own file system waits for its server's leave.
//! So does the close of a socket in whose queue such descriptors lie. An endpoint that closed them
//! itself would serve nobody meanwhile. Threads do it, a few for each user: whoever keeps them busy
//! keeps those of others free.

use crate::sys;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::error;

/// How long a close takes at most if nobody means harm.
const PROMPT: Duration = Duration::from_millis(200);
/// Threads that close what one user gave.
const THREADS: usize = 4;

/// Closes descriptors that strangers made, without waiting for it. Clones are the same.
///
/// # If the caller dies
/// The kernel closes what is left, and waits for nobody.
#[derive(Clone, Default, Debug)]
pub struct Bin(Arc<Mutex<HashMap<u32, Heap>>>);

/// What one user gave, and nobody has begun to close.
#[derive(Debug)]
struct Heap {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    /// When a close last ended, or the first began.
    moved: Instant,
}

impl Bin {
    fn heaps(&self) -> MutexGuard<'_, HashMap<u32, Heap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `fd`, which user `uid` gave, closed by somebody else.
    fn put(&self, uid: u32, fd: OwnedFd) {
        let mut heaps = self.heaps();
        let new = || Heap { waiting: VecDeque::new(), threads: 0, moved: Instant::now() };
        let heap = heaps.entry(uid).or_insert_with(new);
        heap.waiting.push_back(fd);
        let stuck = heap.threads < THREADS && heap.moved.elapsed() > PROMPT;
        if heap.threads > 0 && !stuck {
            return;
        }
        let bin = self.clone();
        match thread::Builder::new().name("vshmem-close".into()).spawn(move || bin.empty(uid)) {
            Ok(_) => heap.threads += 1,
            // The next one that is put here tries again.
            Err(e) => error!(error = %e, uid, "cannot start a thread that closes descriptors"),
        }
    }

    /// Closes a connection: right here when it has ended, so that nothing can lie in its queue.
    pub fn close(&self, socket: OwnedFd) {
        if sys::is_at_end(&socket) {
            return;
        }
        // What is no connection has no queue.
        if let Ok(who) = sys::connector(&socket) {
            self.put(who.uid, socket);
        }
    }

    /// Closes what `uid` gave until nothing is left.
    fn empty(&self, uid: u32) {
        loop {
            let mut heaps = self.heaps();
            let Some(heap) = heaps.get_mut(&uid) else { return };
            heap.moved = Instant::now();
            let Some(fd) = heap.waiting.pop_front() else {
                heap.threads -= 1;
                if heap.threads == 0 {
                    heaps.remove(&uid);
                }
                return;
            };
            drop(heaps);
            drop(fd);
        }
    }
}

/// A descriptor that a client gave, or the connection to one. Dropped, it goes into the bin.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// `None` only while it is dropped.
    fd: Option<OwnedFd>,
    bin: Bin,
    uid: u32,
    is_connection: bool,
}

impl Foreign {
    /// Something that user `uid` gave.
    pub(crate) fn gift(fd: OwnedFd, uid: u32, bin: &Bin) -> Self {
        Self { fd: Some(fd), bin: bin.clone(), uid, is_connection: false }
    }

    /// The endpoint's end of a UNIX socket that user `uid` connected.
    pub(crate) fn connection(fd: OwnedFd, uid: u32, bin: &Bin) -> Self {
        Self::gift(fd, uid, bin).into_connection()
    }

    /// A gift that turned out to be a UNIX socket.
    pub(crate) fn into_connection(mut self) -> Self {
        self.is_connection = true;
        self
    }

    /// The descriptor itself, from somebody who knows that its close cannot wait.
    pub(crate) fn harmless(mut self) -> Option<OwnedFd> {
        self.fd.take()
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Only what ends `self` takes it away.
        self.fd.as_ref().expect("a descriptor until dropped").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        // Ended, as most are when they are closed.
        if !self.is_connection || !sys::is_at_end(&fd) {
            self.bin.put(self.uid, fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// A socket whose close waits until `reader` is closed.
    fn lingering() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &socket, &[0; 4096]).is_ok() {}
        let hour = Some(Duration::from_secs(3600));
        rustix::net::sockopt::set_socket_linger(&socket, hour).unwrap();
        (socket.into(), reader)
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end, "not within 30 s: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_close_that_waits_holds_up_neither_the_dropper_nor_another_user() {
        let bin = Bin::default();
        let mut readers = Vec::new();
        let threads = || bin.heaps().get(&1).map_or(0, |heap| heap.threads);
        while readers.len() < THREADS + 3 || threads() < THREADS {
            assert!(readers.len() < 100, "only {} threads close", threads());
            let (socket, reader) = lingering();
            readers.push(reader);
            let begun = Instant::now();
            drop(Foreign::gift(socket, 1, &bin));
            assert!(begun.elapsed() < Duration::from_secs(10), "dropping waits");
            thread::sleep(PROMPT * 2); // each thread must be seen to be stuck
        }
        assert_eq!(threads(), THREADS);
        let rest = readers.len() - THREADS;
        drop(Foreign::gift(std::fs::File::open("/dev/null").unwrap().into(), 2, &bin));
        until("another user's is closed", || !bin.heaps().contains_key(&2));
        until("the rest waits", || bin.heaps().get(&1).unwrap().waiting.len() == rest);
        drop(readers);
        until("all are closed", || bin.heaps().is_empty());
    }

    #[test]
    fn a_connection_that_has_ended_needs_no_thread() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let bin = Bin::default();
        drop(far);
        drop(Foreign::connection(near.into(), 1, &bin));
        assert!(bin.heaps().is_empty());
    }
}
