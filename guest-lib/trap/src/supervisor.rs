//! The process that makes the calls of trapped programs.
//!
//! One thread receives calls and makes those that need not wait; the others get threads of the
//! [`Pool`]. One thread waits for deaths. A call of a process is made with a lane of the
//! supervisor's, but as the process's own task: its pid, its undo records, its attachments. So that
//! nothing waits with the records of a task that is gone, the supervisor reaps its processes
//! itself, after their last call is over; the endpoint leaves them to it.

use crate::attached::Attached;
use crate::calls::{At, Waits, int, msg, sem, shm};
use crate::deaths::Deaths;
use crate::failed::{Failed, Result};
use crate::filter;
use crate::listener::{Answer, Listener, Notification};
use crate::maps::FileId;
use crate::pool::{Hands, Pool};
use crate::process::{self, Process, Processes, Thread, lock};
use crate::proxy::{Watch, Why};
use crate::remote::Remote;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vshmem::abi::cmd;
use vshmem::sysv::ID_BIT;
use vshmem::{Kind, Rights, Rules, Session, Target};
use vshmem_core::mem::Park;

/// Between two calls to threads that are to stop waiting.
const MOMENT: Duration = Duration::from_micros(50);
/// The kernel's own: the call is begun again unless a handler runs, and then ends with EINTR.
const ERESTARTNOHAND: i32 = 514;

/// See the module.
pub struct Supervisor {
    pub session: &'static Session,
    pub listener: &'static Listener,
    pub pool: Pool,
    pub processes: Mutex<Processes>,
    pub deaths: Deaths,
    pub attached: Attached,
    rules: Rules,
    peer: u32,
}

/// What a call comes to at first.
enum First {
    Done(i64),
    /// It may have to wait.
    Waits(Box<dyn Waits>),
}

/// Serves what arrives at `fd` until nobody is left who could call.
///
/// # Errors
/// The endpoint or the kernel refuses what is needed to begin.
pub fn serve(session: Session, rules: Rules, fd: OwnedFd) -> vshmem::Result<()> {
    let session: &'static Session = Box::leak(Box::new(session));
    let listener: &'static Listener = Box::leak(Box::new(Listener::new(fd)));
    let (me, peer) = session.task()?;
    let deaths = Deaths::new(listener).map_err(vshmem::Error::Segment)?;
    let pool = Pool::new(session, me);
    let processes = Mutex::default();
    let region = session.region_descriptor(true)?;
    let attached = Attached::new(FileId::of(region.as_fd()).map_err(vshmem::Error::Segment)?);
    let supervisor =
        Supervisor { session, listener, pool, processes, deaths, attached, rules, peer };
    let supervisor: &'static Supervisor = Box::leak(Box::new(supervisor));
    let mut hands = Hands::new(session, me)?;
    let reaper = Hands::new(session, me)?;
    std::thread::Builder::new()
        .spawn(move || supervisor.watch_deaths(reaper))
        .map_err(vshmem::Error::Segment)?;
    loop {
        match listener.receive() {
            Ok(call) => supervisor.take(&mut hands, call),
            // A caller that died, or a signal.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR))
                    && !listener.is_over() => {}
            // The other thread ends this process, once it has seen to the dead.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Whether the kernel is to make this call: of an object that is its own.
fn is_local(rules: &Rules, call: &Notification) -> bool {
    let by_id = |id: u64| int(id) & ID_BIT == 0;
    let by_key = |kind, key| *rules.target(kind, int(key)) == Target::Local;
    let listed = |kind| *rules.rest(kind) == Target::Local;
    let a = &call.args;
    match call.nr {
        libc::SYS_shmget => by_key(Kind::Seg, a[0]),
        libc::SYS_semget => by_key(Kind::Set, a[0]),
        libc::SYS_msgget => by_key(Kind::Queue, a[0]),
        libc::SYS_semctl if sem_by_index(int(a[2])) => listed(Kind::Set),
        libc::SYS_msgctl if msg_by_index(int(a[1])) => listed(Kind::Queue),
        libc::SYS_shmctl if shm_by_index(int(a[1])) => listed(Kind::Seg),
        libc::SYS_semop
        | libc::SYS_semtimedop
        | libc::SYS_msgsnd
        | libc::SYS_msgrcv
        | libc::SYS_shmat
        | libc::SYS_semctl
        | libc::SYS_msgctl
        | libc::SYS_shmctl => by_id(a[0]),
        _ => false,
    }
}

const fn sem_by_index(command: i32) -> bool {
    matches!(command, cmd::IPC_INFO | cmd::SEM_INFO | cmd::SEM_STAT | cmd::SEM_STAT_ANY)
}

const fn msg_by_index(command: i32) -> bool {
    matches!(command, cmd::IPC_INFO | cmd::MSG_INFO | cmd::MSG_STAT | cmd::MSG_STAT_ANY)
}

const fn shm_by_index(command: i32) -> bool {
    matches!(command, cmd::IPC_INFO | cmd::SHM_INFO | cmd::SHM_STAT | cmd::SHM_STAT_ANY)
}

impl Supervisor {
    /// Makes a call, or has it made.
    fn take(&'static self, hands: &mut Hands, call: Notification) {
        if filter::IDENTITY.contains(&call.nr) {
            // It is somebody else when it calls next.
            lock(&self.processes).forget_thread(call.tid);
            self.listener.answer(call.id, Answer::Continue);
            return;
        }
        if is_local(&self.rules, &call) {
            self.listener.answer(call.id, Answer::Continue);
            return;
        }
        // What the dead held is released before anybody who knows of their death looks.
        self.settle_deaths(hands);
        let thread = match self.thread(hands, &call) {
            Ok(thread) => thread,
            Err(failed) => return self.fail(&call, None, failed),
        };
        if matches!(call.nr, libc::SYS_shmget | libc::SYS_shmat | libc::SYS_shmdt) {
            return self.map_elsewhere(call, thread);
        }
        if call.nr == libc::SYS_shmctl && shm::counts(int(call.args[1])) {
            self.count_all(hands);
        }
        let Some(busy) = thread.process.begin(hands.lane.id()) else {
            // Dead; or, if it waits, somebody whose pid was a dead one's.
            if self.still(&call).is_ok() {
                self.reap_dead(hands);
                self.take(hands, call);
            }
            return;
        };
        let first = self.first(hands, &call, &thread);
        drop(busy);
        match first {
            Ok(First::Done(value)) => drop(self.listener.answer(call.id, Answer::Value(value))),
            Ok(First::Waits(waits)) => self.wait(call, thread, waits),
            Err(failed) => self.fail(&call, Some(&thread.process), failed),
        }
    }

    fn first(
        &'static self,
        hands: &mut Hands,
        call: &Notification,
        thread: &Thread,
    ) -> Result<First> {
        let memory = Remote { tid: call.tid };
        let mut at = At { r: &hands.region, on: &mut hands.lane, c: &thread.caller, memory };
        let at = &mut at;
        let a = call.args;
        let mut waits: Box<dyn Waits> = match call.nr {
            libc::SYS_semget => {
                return sem::get(at, int(a[0]), int(a[1]), int(a[2])).map(First::Done);
            }
            libc::SYS_msgget => return msg::get(at, int(a[0]), int(a[1])).map(First::Done),
            libc::SYS_semctl => {
                self.still(call)?;
                return sem::control(at, int(a[0]), int(a[1]), int(a[2]), a[3]).map(First::Done);
            }
            libc::SYS_msgctl => {
                self.still(call)?;
                return msg::control(at, int(a[0]), int(a[1]), a[2]).map(First::Done);
            }
            libc::SYS_shmctl => {
                self.still(call)?;
                return shm::control(at, int(a[0]), int(a[1]), a[2]).map(First::Done);
            }
            libc::SYS_semop => Box::new(sem::Op::read(at, int(a[0]), a[1], a[2], 0)?),
            libc::SYS_semtimedop => Box::new(sem::Op::read(at, int(a[0]), a[1], a[2], a[3])?),
            libc::SYS_msgsnd => Box::new(msg::Send::read(at, int(a[0]), a[1], a[2], int(a[3]))?),
            libc::SYS_msgrcv => {
                let mtype = a[3].cast_signed();
                Box::new(msg::Receive::read(at, int(a[0]), a[1], a[2], mtype, int(a[4]))?)
            }
            _ => return Err(Failed::Errno(libc::ENOSYS)),
        };
        self.still(call)?;
        Ok(match waits.run(at, false)? {
            Some(value) => First::Done(value),
            None => First::Waits(waits),
        })
    }

    /// What was read was the caller's if it still waits now.
    pub fn still(&self, call: &Notification) -> Result<()> {
        if self.listener.waits(call.id) { Ok(()) } else { Err(Failed::Gone) }
    }

    /// Has a call made by a thread that may sleep.
    fn wait(&'static self, call: Notification, thread: Arc<Thread>, mut waits: Box<dyn Waits>) {
        let process = thread.process.clone();
        let job = move |hands: Option<&mut Hands>| {
            let Some(hands) = hands else {
                let failed = Failed::Errno(libc::ENOMEM);
                return self.fail(&call, Some(&thread.process), failed);
            };
            let Some(_busy) = thread.process.begin(hands.lane.id()) else { return };
            hands.region.mem().set_watch(Some(Watch {
                listener: self.listener,
                id: call.id,
                status: thread.status.clone(),
                process: thread.process.clone(),
            }));
            let memory = Remote { tid: call.tid };
            let mut at = At { r: &hands.region, on: &mut hands.lane, c: &thread.caller, memory };
            let done = waits.run(&mut at, true);
            let why = hands.region.mem().why();
            hands.region.mem().set_watch(None);
            match done {
                Ok(value) => {
                    self.listener.answer(call.id, Answer::Value(value.unwrap_or(0)));
                }
                Err(Failed::Errno(libc::EINTR)) if why == Why::Other && is_message(&call) => {
                    self.listener.answer(call.id, Answer::Errno(ERESTARTNOHAND));
                }
                Err(failed) => self.fail(&call, Some(&thread.process), failed),
            }
        };
        if self.pool.run(Box::new(job)).is_err() {
            self.fail(&call, Some(&process), Failed::Errno(libc::ENOMEM));
        }
    }

    /// `shmget`, which may have much to clear, `shmat` and `shmdt`, which wait for the caller to
    /// stop: by another thread.
    fn map_elsewhere(&'static self, call: Notification, thread: Arc<Thread>) {
        let process = thread.process.clone();
        let job = move |hands: Option<&mut Hands>| {
            let process = &thread.process;
            let Some(hands) = hands else {
                return self.fail(&call, Some(process), Failed::Errno(libc::ENOMEM));
            };
            let Some(_busy) = process.begin(hands.lane.id()) else { return };
            if call.nr == libc::SYS_shmdt {
                self.count_heirs(hands);
            }
            let memory = Remote { tid: call.tid };
            let mut at = At { r: &hands.region, on: &mut hands.lane, c: &thread.caller, memory };
            let [a, b, c, ..] = call.args;
            let done = self.still(&call).and_then(|()| match call.nr {
                libc::SYS_shmget => {
                    shm::get(&mut at, int(a), b, int(c)).map(Answer::Value).map(Some)
                }
                libc::SYS_shmat => self.attach(&mut at, &call, process).map(|()| None),
                _ if self.detach(&mut at, &call, process)? => Ok(None),
                // The kernel's own, if anything.
                _ => Ok(Some(Answer::Continue)),
            });
            match done {
                Ok(Some(answer)) => drop(self.listener.answer(call.id, answer)),
                Ok(None) => {}
                Err(failed) => self.fail(&call, Some(process), failed),
            }
        };
        if self.pool.run(Box::new(job)).is_err() {
            self.fail(&call, Some(&process), Failed::Errno(libc::ENOMEM));
        }
    }

    /// Answers a call that failed; tells a person what only a person can mend.
    pub fn fail(&self, call: &Notification, process: Option<&Process>, failed: Failed) {
        let errno = match failed {
            Failed::Errno(errno) => errno,
            Failed::Corrupt(_) => libc::EIO,
            // Nobody hears it, as a rule; if it is still there, it must not wait for ever.
            Failed::Gone | Failed::NotOurs | Failed::Aloud(_) => libc::ENOSYS,
        };
        let text = match failed {
            Failed::Aloud(text) => Some(text),
            Failed::Corrupt(corrupt) => {
                Some(format!("{corrupt}; `vshmem region check` finds the rest"))
            }
            Failed::NotOurs => Some(
                "this kernel lets nobody look into the program's memory, which its calls need \
                 (kernel.yama.ptrace_scope is not 0, or the program forbids it): run it as root, or \
                 link it dynamically"
                    .to_owned(),
            ),
            _ => None,
        };
        if let (Some(text), Some(process)) = (text, process) {
            process.tell(&format!("{} ({}): {text}", name_of(process.pid), process.pid));
        }
        self.listener.answer(call.id, Answer::Errno(errno));
    }

    /// The calling thread, with who it is now.
    fn thread(&self, hands: &mut Hands, call: &Notification) -> Result<Arc<Thread>> {
        if let Some(known) = lock(&self.processes).thread(call.tid, call.ip) {
            return Ok(known);
        }
        let gone = |_: io::Error| Failed::Gone;
        let (file, status) = process::status_of(call.tid).map_err(gone)?;
        let is_new = lock(&self.processes).process(status.pid).is_none();
        let process = self.process(status.pid, Some(call))?;
        if is_new && !self.attached.is_empty() {
            // A child may have inherited some.
            let _ = self.count(hands, &process);
        }
        let mut rights: Rights = status.rights;
        if process::is_foreign(call.tid) {
            rights.capabilities = 0;
        }
        let caller = self.session.caller_for(process.task, status.pid, &rights);
        let caller = caller.map_err(|e| Failed::Aloud(e.to_string()))?;
        let thread =
            Thread::new(call.tid, process, file, caller).map_err(|e| match e.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => Failed::NotOurs,
                _ => Failed::Gone,
            })?;
        // What was read in /proc was about this thread.
        self.still(call)?;
        Ok(lock(&self.processes).know(call.tid, thread))
    }

    /// Process `pid`, made a task if it is none; of a caller, that it still waits is checked.
    pub fn process(&self, pid: u32, call: Option<&Notification>) -> Result<Arc<Process>> {
        if let Some(known) = lock(&self.processes).process(pid) {
            return Ok(known);
        }
        let pidfd = process::pidfd_open(pid).map_err(|_| Failed::Gone)?;
        call.map_or(Ok(()), |c| self.still(c))?;
        let task = self.session.keep(pidfd.as_fd()).map_err(|e| Failed::Aloud(e.to_string()))?;
        let process = Arc::new(Process::new(pid, task, pidfd));
        self.deaths.watch(&process).map_err(|e| Failed::Aloud(e.to_string()))?;
        lock(&self.processes).add(process.clone());
        Ok(process)
    }

    /// Reaps what has ended, if anything has.
    fn settle_deaths(&self, hands: &mut Hands) {
        if self.deaths.any() {
            self.reap_dead(hands);
        }
    }

    /// Reaps a process that has ended: first its calls end, then what it leaves is settled.
    pub fn bury(&self, hands: &mut Hands, process: &Arc<Process>) {
        use vshmem_core::layout::lane;
        loop {
            let busy = process.end();
            // The thread that buries is not in the middle of anything.
            if busy.is_empty() {
                break;
            }
            for id in busy {
                if let Ok(at) = hands.region.lane(id) {
                    hands.region.mem().wake(id.0, at.plus(lane::STATUS), self.peer);
                }
            }
            std::thread::sleep(MOMENT);
        }
        if !lock(&process.attached).is_empty() {
            self.count_heirs(hands);
        }
        // A corrupt region is the endpoint's to report; it finds the task when this process ends.
        let _ = vshmem::sysv::reap::task(&hands.region, &mut hands.lane, process.task);
        lock(&self.processes).remove(process);
    }
}

fn is_message(call: &Notification) -> bool {
    matches!(call.nr, libc::SYS_msgsnd | libc::SYS_msgrcv)
}

/// The command name of a process.
pub fn name_of(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}
