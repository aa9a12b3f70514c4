//! Tasks: who is watched, who died, who changed its image, who was there before us.

use crate::endpoint::{Endpoint, Error, Role};
use crate::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use tracing::{debug, error, info, warn};
use vshmem_core::layout::{Table, task};
use vshmem_core::task::{Owner, Task, TaskId};
use vshmem_sysv::{reap, shm};

/// Ticks for which a child announced to a former endpoint may still turn up.
const GRACE: u32 = 10;

/// A process that is a task.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) id: TaskId,
    pub(crate) process: Process,
    pub(crate) uid: u32,
    /// The task that makes its calls, if that is another.
    pub(crate) keeper: Option<TaskId>,
}

/// A process that cannot turn into another one.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it began, in clock ticks since boot.
    pub(crate) start: u64,
    pub(crate) pidfd: OwnedFd,
}

impl Process {
    /// Process `pid`, by the pidfd the kernel gave or one opened now; `None` if it has ended.
    ///
    /// The start time is read while the pidfd says that the process has not ended, so it is that
    /// process's.
    pub(crate) fn find(pid: u32, pidfd: Option<OwnedFd>) -> Result<Option<Self>, Errno> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let pidfd = match pidfd.map_or_else(|| pidfd_open(raw, PidfdFlags::empty()), Ok) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(start) = sys::start_time(pid) else { return Ok(None) };
        let process = Self { pid, start, pidfd };
        Ok((!process.has_ended()).then_some(process))
    }

    /// Whether all its threads have ended: only then can it do no more harm. (A zombie leader
    /// may have live threads; its pidfd knows.)
    pub(crate) fn has_ended(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }
}

impl Endpoint {
    /// Watches a process as task `id`; its token. On failure the task is reaped.
    pub(crate) fn watch(&mut self, task: Watched) -> Result<u64, Errno> {
        let token = self.token();
        if let Err(e) = self.add(task.process.pidfd.as_fd(), token) {
            self.reap(task.id);
            return Err(e);
        }
        debug!(pid = task.process.pid, slot = task.id.index, "task");
        self.tasks.insert(token, task);
        Ok(token)
    }

    /// The token of the task that process `pid` is.
    pub(crate) fn task_of_pid(&self, pid: u32) -> Option<u64> {
        self.tasks.iter().find(|(_, t)| t.process.pid == pid).map(|(token, _)| *token)
    }

    /// The process of a task has ended: it is reaped after what else is to be done now. (Thousands
    /// may end at one time.)
    pub(crate) fn note_end(&mut self, token: u64) {
        if let Some(task) = self.tasks.get(&token) {
            self.forget(task.process.pidfd.as_fd());
            self.ended.push_back(token);
        }
    }

    /// The process of a task has ended.
    pub(crate) fn task_ended(&mut self, token: u64) {
        let Some(task) = self.tasks.remove(&token) else { return };
        self.forget(task.process.pidfd.as_fd());
        self.settle(task.id, task.keeper, task.process.pid);
        self.reap_unannounced(task.process.pid);
        // What it sent before is of no interest, and a descendant that inherited its connection
        // has no right to it.
        let role = Role::Task(token);
        let its = self.connections.iter().filter(|(_, c)| c.role == role).map(|(t, _)| *t);
        for connection in its.collect::<Vec<_>>() {
            self.close(connection);
        }
    }

    /// Reaps a task whose process has ended, unless somebody else, who lives, makes its calls:
    /// that one may be in the middle of one, and reaps it when it is not.
    fn settle(&mut self, id: TaskId, keeper: Option<TaskId>, pid: u32) {
        let watched = |id| self.tasks.iter().find(|(_, t)| t.id == id);
        match keeper.and_then(watched).map(|(token, t)| (*token, t.process.has_ended())) {
            Some((_, false)) => {
                debug!(pid, slot = id.index, "task ended: left to its keeper");
                self.left.push((id, keeper.unwrap_or(id)));
                return;
            }
            // Its lanes first: they may wait with this task's undo records.
            Some((token, true)) => self.task_ended(token),
            None => {}
        }
        debug!(pid, slot = id.index, "task ended: reaping");
        self.reap(id);
        for (kept, _) in self.left.extract_if(.., |(_, keeper)| *keeper == id).collect::<Vec<_>>() {
            self.reap(kept);
        }
    }

    /// Forgets the dead that their keepers have reaped.
    pub(crate) fn forget_settled(&mut self) {
        let region = &self.region;
        self.left
            .retain(|(id, _)| region.task(id.index).is_ok_and(|t| t.is_some_and(|t| t.id == *id)));
    }

    /// Reaps a task; whoever tries at the same time helps.
    pub(crate) fn reap(&mut self, id: TaskId) {
        self.owes_rescan = true;
        if let Err(e) = reap::one_of_many(&self.region, &mut self.lane, id) {
            self.unreaped = true;
            self.complain("reap", |quiet| {
                error!(slot = id.index, error = %e, quiet, "cannot reap a task");
            });
        }
    }

    /// Reaps some tasks again that could not be reaped when they died: what was corrupt then may have
    /// been repaired since.
    pub(crate) fn reap_again(&mut self) {
        /// In one tick.
        const MOST: usize = 8;
        if !self.unreaped {
            return;
        }
        let slots = self.region.table(Table::Tasks).count as u32;
        let dying = (0..slots).filter_map(|i| match self.region.task_state(i) {
            Ok((task::DYING, _)) => self.region.task(i).ok().flatten(),
            _ => None,
        });
        let again: Vec<_> = dying.filter(|t| t.peer == self.peer).take(MOST).collect();
        self.unreaped = again.len() == MOST;
        for t in again {
            self.reap(t.id);
        }
    }

    pub(crate) fn close(&mut self, token: u64) {
        if let Some(c) = self.connections.remove(&token) {
            self.forget(c.socket.as_fd());
        }
    }

    /// A connection has ended. That says little: the program may have closed all descriptors, or
    /// run another program.
    pub(crate) fn ended(&mut self, token: u64) {
        let Some(connection) = self.connections.remove(&token) else { return };
        self.forget(connection.socket.as_fd());
        match connection.role {
            Role::New => {}
            Role::Child(id) => {
                debug!(slot = id.index, "an announced child was not born");
                self.reap(id);
            }
            Role::Task(task) => self.disconnected(task),
        }
    }

    fn disconnected(&mut self, token: u64) {
        let Some(task) = self.tasks.get(&token) else { return };
        if task.process.has_ended() {
            return self.note_end(token);
        }
        if self.connections.values().any(|c| c.role == Role::Task(token)) {
            return;
        }
        let pid = task.process.pid;
        match sys::maps(pid, self.file) {
            Some(false) => {
                debug!(pid, "task runs another program now");
                self.new_image(token);
            }
            Some(true) => debug!(pid, "task has closed its connection and stays"),
            None => warn!(pid, "cannot see whether a task still maps the region: it stays"),
        }
    }

    /// The task's process has another image: its lanes are nobody's and its attachments are gone;
    /// its adjustments stay, as over the kernel's exec.
    pub(crate) fn new_image(&mut self, token: u64) {
        let Some(task) = self.tasks.get(&token) else { return };
        let id = task.id;
        let done = reap::lanes(&self.region, &mut self.lane, Owner::Task(id))
            .and_then(|()| shm::detach_all(&self.region, &mut self.lane, id));
        if let Err(e) = done {
            self.complain("image", |quiet| {
                error!(slot = id.index, error = %e, quiet, "cannot settle what a former image left");
            });
        }
    }

    /// Takes over the tasks of the endpoint before this one.
    pub(crate) fn adopt(&mut self) -> Result<(), Error> {
        let mut tasks = self.region.tasks()?;
        tasks.retain(|t| t.peer == self.peer);
        // Keepers before those they keep.
        tasks.sort_by_key(|t| t.keeper.is_some());
        for t in tasks {
            if t.state == task::CLAIMED {
                // A child announced to the former endpoint: a moment for it to be born.
                self.orphans.push(t.id);
            } else {
                self.take_over(&t);
            }
        }
        if !self.orphans.is_empty() {
            self.grace = GRACE;
        }
        Ok(())
    }

    /// Looks again at adopted tasks that did not map the region. One executed another program while
    /// nobody watched: its former image is settled. Another had its answer from the endpoint before
    /// this one, and was about to map it: what it has is its own.
    pub(crate) fn settle_unmapped(&mut self) {
        for token in std::mem::take(&mut self.unmapped) {
            let Some(task) = self.tasks.get(&token) else { continue };
            // One that has attached to this endpoint has been looked at then.
            let attached = self.connections.values().any(|c| c.role == Role::Task(token));
            if !attached && sys::maps(task.process.pid, self.file) == Some(false) {
                self.new_image(token);
            }
        }
    }

    /// The grace of children announced to the former endpoint is over.
    pub(crate) fn adopt_orphans(&mut self) {
        for id in std::mem::take(&mut self.orphans) {
            match self.region.task(id.index) {
                Ok(Some(t)) if t.id == id && !self.is_known(id) => self.take_over(&t),
                Ok(_) => {}
                Err(e) => error!(slot = id.index, error = %e, "cannot read a task"),
            }
        }
    }

    pub(crate) fn is_known(&self, id: TaskId) -> bool {
        self.tasks.values().any(|t| t.id == id)
            || self.connections.values().any(|c| c.role == Role::Child(id))
    }

    /// Watches a task of a former endpoint, or reaps it if its process is gone.
    fn take_over(&mut self, t: &Task) {
        let process = match t.state {
            task::LIVE => Process::find(t.pid, None).unwrap_or_default(),
            _ => None,
        };
        let Some(process) = process.filter(|p| p.start == t.start) else {
            info!(pid = t.pid, slot = t.id.index, comm = t.comm, "task is gone");
            return self.settle(t.id, t.keeper, t.pid);
        };
        info!(pid = t.pid, slot = t.id.index, "task adopted");
        match self.watch(Watched { id: t.id, process, uid: t.uid, keeper: t.keeper }) {
            // (What a keeper attaches it accounts for, over an exec too.)
            Ok(token) if t.keeper.is_none() && sys::maps(t.pid, self.file) == Some(false) => {
                self.unmapped.push(token);
            }
            Ok(_) => {}
            Err(e) => error!(pid = t.pid, error = %e, "cannot watch a task"),
        }
    }

    /// Reaps slots that a parent claimed for children and did not live to announce.
    fn reap_unannounced(&mut self, parent: u32) {
        let slots = self.region.table(Table::Tasks).count as u32;
        for index in 0..slots {
            // Few are, and there may be thousands of others.
            if !matches!(self.region.task_state(index), Ok((task::CLAIMED, _))) {
                continue;
            }
            let t = match self.region.task(index) {
                Ok(Some(t)) => t,
                Ok(None) => continue,
                Err(e) => {
                    self.complain("tasks", |quiet| error!(error = %e, quiet, "cannot read a task"));
                    continue;
                }
            };
            let its = t.state == task::CLAIMED && t.peer == self.peer && t.pid == parent;
            if its && !self.is_known(t.id) {
                self.reap(t.id);
            }
        }
    }
}
