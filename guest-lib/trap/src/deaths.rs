//! Who has ended.

use crate::listener::Listener;
use crate::pool::Hands;
use crate::process::{Process, lock};
use crate::supervisor::Supervisor;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The watched processes; readable are those that have ended, until they are buried.
#[derive(Debug)]
pub struct Deaths {
    epoll: OwnedFd,
    watched: Mutex<(u64, HashMap<u64, Arc<Process>>)>,
    /// Held while the dead are buried: whoever comes second finds it done.
    burying: Mutex<()>,
}

/// How long the ends of the last callers are waited for.
const LAST: Duration = Duration::from_secs(10);
/// The token of the listener, which hangs up when nobody is left to call.
const LISTENER: u64 = 0;

impl Deaths {
    pub fn new(listener: &Listener) -> io::Result<Self> {
        // SAFETY: no pointers.
        let raw = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made just now, for us.
        let epoll = unsafe { OwnedFd::from_raw_fd(raw) };
        let deaths = Self { epoll, watched: Mutex::default(), burying: Mutex::default() };
        deaths.add(listener.raw(), LISTENER, 0)?;
        Ok(deaths)
    }

    fn add(&self, fd: i32, token: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: the kernel reads an event.
        match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Watches a process.
    pub fn watch(&self, process: &Arc<Process>) -> io::Result<()> {
        let token = {
            let mut watched = lock(&self.watched);
            watched.0 += 1;
            let token = watched.0;
            watched.1.insert(token, process.clone());
            token
        };
        let added = self.add(process.pidfd().as_raw_fd(), token, libc::EPOLLIN);
        if added.is_err() {
            lock(&self.watched).1.remove(&token);
        }
        added
    }

    fn wait(&self, timeout: i32) -> Vec<u64> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: room for as many events as are asked for.
        let n = unsafe {
            let (at, most) = (events.as_mut_ptr(), events.len() as i32);
            libc::epoll_wait(self.epoll.as_raw_fd(), at, most, timeout)
        };
        events[..usize::try_from(n).unwrap_or(0)].iter().map(|e| e.u64).collect()
    }

    /// Whether anybody has ended who is not buried.
    pub fn any(&self) -> bool {
        !self.wait(0).is_empty()
    }

    fn drop_listener(&self, listener: &Listener) {
        self.delete(listener.raw());
    }

    fn delete(&self, fd: i32) {
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: without an event, which this needs none of.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    fn unwatch(&self, token: u64) -> Option<Arc<Process>> {
        let process = lock(&self.watched).1.remove(&token)?;
        self.delete(process.pidfd().as_raw_fd());
        Some(process)
    }
}

impl Supervisor {
    /// Waits for deaths; ends this process with the last one.
    pub fn watch_deaths(&self, mut hands: Hands) {
        loop {
            // While anything is attached, what programs do to their memory is looked for.
            let look = if self.attached.is_empty() { 10_000 } else { 1000 };
            let events = self.deaths.wait(look);
            if events.is_empty() {
                self.count_all(&mut hands);
            }
            if events.contains(&LISTENER) {
                self.deaths.drop_listener(self.listener);
                break;
            }
            self.reap_dead(&mut hands);
        }
        // Nobody is left who could call: they all are about to end, or have.
        let end = Instant::now() + LAST;
        loop {
            self.reap_dead(&mut hands);
            if lock(&self.processes).all().is_empty() || Instant::now() >= end {
                // Whoever is left is the endpoint's to bury, as after any end of this process.
                std::process::exit(0);
            }
            self.deaths.wait(100);
        }
    }

    /// Buries who has ended; when this returns it is done, whoever did it.
    pub fn reap_dead(&self, hands: &mut Hands) {
        let _burying = lock(&self.deaths.burying);
        for token in self.deaths.wait(0) {
            let watched = lock(&self.deaths.watched).1.get(&token).cloned();
            if let Some(process) = watched {
                self.bury(hands, &process);
                self.deaths.unwatch(token);
            }
        }
    }
}
