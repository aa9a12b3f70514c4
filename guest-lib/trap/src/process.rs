//! The processes whose calls are made here, and their threads.

use crate::maps::Key;
use crate::status::Status;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use vshmem::sysv::Caller;
use vshmem_core::LaneId;
use vshmem_core::task::TaskId;

/// A process.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pub task: TaskId,
    pidfd: OwnedFd,
    /// It has ended: no call of it is begun any more.
    pub dead: AtomicBool,
    /// Lanes on which calls of it are under way.
    busy: Mutex<Vec<LaneId>>,
    /// What it has attached, as counted in the region: how often by segment.
    pub attached: Mutex<HashMap<Key, u32>>,
    /// When its threads were last looked at, how many there were, and whether one had stopped.
    stops: Mutex<Option<(Instant, usize, bool)>>,
    /// What a person was told about it.
    told: Mutex<Vec<String>>,
}

/// A call under way, while it lives.
pub struct Busy<'a> {
    process: &'a Process,
    lane: LaneId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut busy = lock(&self.process.busy);
        if let Some(at) = busy.iter().position(|l| *l == self.lane) {
            busy.swap_remove(at);
        }
    }
}

/// A panic elsewhere leaves what is still whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    pub fn new(pid: u32, task: TaskId, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            task,
            pidfd,
            dead: AtomicBool::default(),
            stops: Mutex::default(),
            busy: Mutex::default(),
            attached: Mutex::default(),
            told: Mutex::default(),
        }
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Begins a call on `lane`; `None` once the process has ended.
    pub fn begin(&self, lane: LaneId) -> Option<Busy<'_>> {
        let mut busy = lock(&self.busy);
        // Under the lock, as the setting: either the one who sets it finds the lane, or this fails.
        if self.dead.load(Ordering::Acquire) {
            return None;
        }
        busy.push(lane);
        Some(Busy { process: self, lane })
    }

    /// Lets no further call begin; the lanes of those under way.
    pub fn end(&self) -> Vec<LaneId> {
        let busy = lock(&self.busy);
        self.dead.store(true, Ordering::Release);
        busy.clone()
    }

    /// Whether any of its threads has stopped: then all are to. Looks at them from time to time,
    /// less often the more there are.
    pub fn stops(&self) -> bool {
        let mut last = lock(&self.stops);
        if let Some((when, threads, stops)) = *last
            && when.elapsed() < Duration::from_millis(4 + threads as u64 / 4)
        {
            return stops;
        }
        let (mut threads, mut stops) = (0, false);
        let list = std::fs::read_dir(format!("/proc/{}/task", self.pid));
        for thread in list.into_iter().flatten().flatten() {
            threads += 1;
            let stat = std::fs::read(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which may hold anything, in parentheses.
            let end = stat.iter().rposition(|b| *b == b')').unwrap_or(0);
            if stat.get(end + 2) == Some(&b'T') {
                stops = true;
                break;
            }
        }
        *last = Some((Instant::now(), threads, stops));
        stops
    }

    /// Tells whoever reads the program's standard error, once, and a few different things at most.
    pub fn tell(&self, text: &str) {
        const MOST: usize = 8;
        let mut told = lock(&self.told);
        if told.len() == MOST || told.iter().any(|t| t == text) {
            return;
        }
        told.push(text.to_owned());
        // The supervisor has none of its own: it must not keep a pipe open that others wait for.
        // SAFETY: no pointers.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), 2, 0) };
        let Ok(raw @ 0..) = i32::try_from(raw) else { return };
        // SAFETY: made just now, for us.
        let mut out = File::from(unsafe { OwnedFd::from_raw_fd(raw) });
        let _ = io::Write::write_all(&mut out, format!("vshmem: {text}\n").as_bytes());
    }
}

/// A thread that has called.
#[derive(Debug)]
pub struct Thread {
    pub process: Arc<Process>,
    /// Its `/proc/TID/status`.
    pub status: Arc<File>,
    /// The program it ran when it was asked who it is: it reads as empty once there is another.
    image: File,
    /// Who it is.
    pub caller: Caller,
}

impl Thread {
    pub fn new(
        tid: i32,
        process: Arc<Process>,
        status: Arc<File>,
        caller: Caller,
    ) -> io::Result<Self> {
        let image = File::open(format!("/proc/{tid}/mem"))?;
        Ok(Self { process, status, image, caller })
    }

    /// Whether thread `tid`, which stands at `ip`, is still this one, in the same program.
    fn is_current(&self, tid: i32, ip: u64) -> bool {
        // SAFETY: no pointers; signal 0 only asks.
        let there = unsafe { libc::syscall(libc::SYS_tgkill, self.process.pid, tid, 0) } == 0;
        there && self.image.read_at(&mut [0], ip).is_ok_and(|n| n == 1)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Processes {
    by_pid: HashMap<u32, Arc<Process>>,
    threads: HashMap<i32, Arc<Thread>>,
}

/// Threads remembered: each has two descriptors, and processes need some.
fn most_threads() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: room for the answer; without one there is little room.
        unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
        usize::try_from(limit.rlim_cur / 8).unwrap_or(usize::MAX).clamp(16, 4096)
    })
}

impl Processes {
    pub fn thread(&self, tid: i32, ip: u64) -> Option<Arc<Thread>> {
        let thread = self.threads.get(&tid)?;
        thread.is_current(tid, ip).then(|| thread.clone())
    }

    /// Remembers a thread.
    pub fn know(&mut self, tid: i32, thread: Thread) -> Arc<Thread> {
        if self.threads.len() >= most_threads() {
            // They ask to be known again when they call again.
            self.threads.clear();
        }
        let thread = Arc::new(thread);
        self.threads.insert(tid, thread.clone());
        thread
    }

    /// The thread is about to become somebody else.
    pub fn forget_thread(&mut self, tid: i32) {
        self.threads.remove(&tid);
    }

    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.by_pid.get(&pid).cloned()
    }

    pub fn add(&mut self, process: Arc<Process>) {
        self.by_pid.insert(process.pid, process);
    }

    pub fn all(&self) -> Vec<Arc<Process>> {
        self.by_pid.values().cloned().collect()
    }

    /// Forgets a process with its threads.
    pub fn remove(&mut self, process: &Arc<Process>) {
        self.threads.retain(|_, t| !Arc::ptr_eq(&t.process, process));
        if self.by_pid.get(&process.pid).is_some_and(|p| Arc::ptr_eq(p, process)) {
            self.by_pid.remove(&process.pid);
        }
    }
}

/// Opens the status of thread `tid`, and looks at it.
pub fn status_of(tid: i32) -> io::Result<(Arc<File>, Status)> {
    let file = File::open(format!("/proc/{tid}/status"))?;
    let status = Status::read(&file)?;
    Ok((Arc::new(file), status))
}

/// Whether the thread is in another user namespace than this process: its capabilities say nothing
/// then.
pub fn is_foreign(tid: i32) -> bool {
    let link = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user"));
    match (link(&tid.to_string()), link("self")) {
        (Ok(its), Ok(ours)) => its != ours,
        _ => true,
    }
}

/// A descriptor of process `pid`.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made just now, for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}
