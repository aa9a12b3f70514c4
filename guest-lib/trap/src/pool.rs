//! Threads for what may take long.

use crate::proxy::Proxy;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use vshmem::Session;
use vshmem_core::task::{Owner, TaskId};
use vshmem_core::{Lane, Region};

use crate::process::lock;

/// What a thread of the supervisor works with.
pub struct Hands {
    /// The region, as this thread sleeps in it.
    pub region: Region<Proxy>,
    /// Its lane, which is the supervisor's.
    pub lane: Lane,
    owner: Owner,
}

impl Hands {
    /// Takes a lane.
    ///
    /// # Errors
    /// The region cannot be used, or all lanes are taken.
    pub fn new(session: &'static Session, me: TaskId) -> vshmem::Result<Self> {
        let region = session.region()?;
        let owner = Owner::Task(me);
        let lane = region.claim_lane(owner)?.ok_or_else(|| {
            vshmem::Error::Lanes(region.table(vshmem_core::layout::Table::Lanes).count)
        })?;
        if let Err(shut_out) = region.check_task(me) {
            region.release_lane(lane.id(), owner)?;
            return Err(shut_out.into());
        }
        let region = Region::with_geometry(Proxy::new(region.mem()), region.geometry().clone());
        Ok(Self { region, lane, owner })
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        // Unwound out of the middle of a call, it stays the supervisor's until that ends.
        if !std::thread::panicking() {
            let _ = vshmem::sysv::release(&self.region, &mut self.lane, self.owner);
        }
    }
}

/// Something to do.
pub type Job = Box<dyn FnOnce(Option<&mut Hands>) + Send>;

/// See the module.
pub struct Pool {
    session: &'static Session,
    me: TaskId,
    idle: Mutex<Vec<(u64, Sender<Job>)>>,
    next: Mutex<u64>,
}

/// How long a thread without work stays.
const PATIENCE: Duration = Duration::from_secs(10);
const STACK: usize = 256 << 10;

impl Pool {
    pub fn new(session: &'static Session, me: TaskId) -> Self {
        Self { session, me, idle: Mutex::default(), next: Mutex::new(0) }
    }

    /// Has a job done by an idle thread, or a new one. A job gets no hands where no lane is left.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn run(&'static self, job: Job) -> io::Result<()> {
        let mut job = job;
        while let Some((_, to)) = { lock(&self.idle).pop() } {
            match to.send(job) {
                Ok(()) => return Ok(()),
                Err(back) => job = back.0,
            }
        }
        let number = {
            let mut next = lock(&self.next);
            *next += 1;
            *next
        };
        let builder = std::thread::Builder::new().stack_size(STACK);
        builder.spawn(move || self.work(number, job)).map(drop)
    }

    fn work(&self, number: u64, first: Job) {
        let mut hands = Hands::new(self.session, self.me).ok();
        first(hands.as_mut());
        let (to, from) = channel();
        while hands.is_some() {
            lock(&self.idle).push((number, to.clone()));
            match self.wait(number, &from) {
                Some(job) => job(hands.as_mut()),
                None => return,
            }
        }
    }

    fn wait(&self, number: u64, from: &Receiver<Job>) -> Option<Job> {
        match from.recv_timeout(PATIENCE) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let mut idle = lock(&self.idle);
        if let Some(at) = idle.iter().position(|(n, _)| *n == number) {
            idle.swap_remove(at);
            return None;
        }
        drop(idle);
        // Somebody has taken it for a job, which comes.
        from.recv_timeout(PATIENCE).ok()
    }
}
