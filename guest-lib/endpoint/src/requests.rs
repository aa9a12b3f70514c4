//! What tasks ask, and what they get.

use crate::door::{Answer, Refusal};
use crate::endpoint::{Connection, Endpoint, Role};
use crate::foreign::Foreign;
use crate::sys::{self, Credentials};
use crate::watch::{Process, Watched};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::os::fd::{AsRawFd, OwnedFd};
use tracing::debug;
use vshmem_core::attach::{Op, Reply, Request, Transport};
use vshmem_core::layout::{Table, peer, task};
use vshmem_core::task::{NewTask, TaskId};
use vshmem_core::{Corrupt, Region};

impl From<Corrupt> for Refusal {
    fn from(corrupt: Corrupt) -> Self {
        if corrupt.is_fenced() {
            let text =
                "this guest was declared dead on the host, and is about to enter anew: try again";
            return Self::new(Errno::AGAIN, text);
        }
        Self::new(Errno::IO, corrupt.to_string())
    }
}

fn gone() -> Refusal {
    Refusal::new(Errno::SRCH, "the calling process has ended")
}

fn system(what: &str) -> impl Fn(Errno) -> Refusal {
    move |e| {
        let remedy = match e {
            Errno::MFILE | Errno::NFILE => NO_DESCRIPTORS,
            _ => "",
        };
        Refusal::new(e, format!("endpoint: cannot {what}: {e}{remedy}"))
    }
}

/// What helps an endpoint that may not open more.
const NO_DESCRIPTORS: &str = "; each task takes two of its descriptors: end some programs, or \
                              start it with more (LimitNOFILE, ulimit -n)";

impl Endpoint {
    pub(crate) fn request(
        &mut self,
        token: u64,
        request: Request,
        sender: Option<Credentials>,
        gifts: Vec<Foreign>,
    ) -> Result<Answer, Refusal> {
        let Some(connection) = self.connections.get(&token) else { return Err(gone()) };
        let sender = sender.ok_or_else(|| {
            Refusal::new(Errno::PERM, "the kernel did not say who sent this request")
        })?;
        let id = TaskId { index: request.a as u32, incarnation: request.b };
        let index = || u32::try_from(request.a).map_err(|_| Refusal::new(Errno::INVAL, "no index"));
        match (request.op, connection.role) {
            (Op::Attach, Role::New | Role::Task(_)) => self.attach(token, sender),
            (Op::Hello, Role::Child(child)) => self.hello(token, child, sender),
            (Op::Fork, Role::Task(parent)) => {
                index()?;
                self.fork(parent, id, gifts)
            }
            (Op::Keep, Role::Task(keeper)) => self.keep(keeper, sender, gifts),
            (Op::Ring, Role::Task(_)) => self.doorbell(index()?),
            (Op::Reap, Role::Task(_)) => {
                index()?;
                self.reap_on_request(id)
            }
            (Op::Fence, _) => self.fence(sender, request),
            (Op::Attach, Role::Child(_)) => Err(Refusal::new(
                Errno::INVAL,
                "this connection is a child's: say hello first, or connect anew",
            )),
            (Op::Hello, _) => {
                Err(Refusal::new(Errno::INVAL, "hello on a connection that no parent announced"))
            }
            (op, _) => Err(Refusal::new(Errno::INVAL, format!("{op:?} before attaching"))),
        }
    }

    fn attach(&mut self, token: u64, sender: Credentials) -> Result<Answer, Refusal> {
        let Some(connection) = self.connections.get_mut(&token) else { return Err(gone()) };
        // Until it is known whose it is now: it must not end with a task that has left.
        connection.role = Role::New;
        let who = connection.who;
        if sender.pid == 0 || who.pid == 0 {
            return Err(Refusal::new(
                Errno::PERM,
                "the calling process is invisible in the endpoint's pid namespace: run the \
                 endpoint in that namespace or in one above it",
            ));
        }
        if sender.pid != who.pid {
            let text = format!("process {} uses a connection of process {}", sender.pid, who.pid);
            return Err(Refusal::new(Errno::PERM, text));
        }
        let mut groups = sys::connector_groups(&connection.socket);
        groups.push(who.gid);
        if !self.policy.admits(who.uid, &groups, self.own_uid) {
            let name = self.region.name().unwrap_or_default();
            let text = format!(
                "uid {} may not attach to region {name}: add it to allow_uids or allow_gids",
                who.uid
            );
            return Err(Refusal::new(Errno::ACCESS, text));
        }
        let pidfd = sys::connector_pidfd(&connection.socket).map_err(|e| match e {
            Errno::SRCH => gone(),
            e => system("find the caller's process")(e),
        })?;
        let process = Process::find(who.pid, pidfd).map_err(system("watch the caller"))?;
        let process = process.ok_or_else(gone)?;
        let task = match self.known(&process) {
            Some(task) => self.attach_again(token, task)?,
            None => self.enter_task(process, who.uid, None)?,
        };
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.role = Role::Task(task);
        }
        self.welcome(task)
    }

    /// The task that `process` already is. One of the same pid but another start time is dead, and
    /// its end has not been seen yet; one whose slot is not its own any more has left by itself.
    fn known(&mut self, process: &Process) -> Option<u64> {
        let token = self.task_of_pid(process.pid)?;
        let task = self.tasks.get(&token)?;
        let slot = self.region.task(task.id.index).ok().flatten();
        let is_in = slot.is_some_and(|t| t.id == task.id && t.state == task::LIVE);
        if is_in && task.process.start == process.start {
            return Some(token);
        }
        self.task_ended(token);
        None
    }

    /// A task attaches again: another library in the same image, or another image after an exec.
    fn attach_again(&mut self, connection: u64, task: u64) -> Result<u64, Refusal> {
        let role = Role::Task(task);
        let others = self.connections.iter().filter(|(t, c)| **t != connection && c.role == role);
        if others.count() >= self.policy.connections_per_task {
            return Err(Refusal::new(Errno::MFILE, "this process has too many connections"));
        }
        let pid = self.tasks.get(&task).map(|t| t.process.pid).ok_or_else(gone)?;
        // Where that cannot be seen: an image that is still there keeps its connections.
        let same = sys::maps(pid, self.file).unwrap_or_else(|| self.hinto_connection(task));
        if !same {
            debug!(pid, "task attaches from another program");
            self.new_image(task);
            if let Some(of) = self.tasks.get(&task) {
                // A name for listings; a region too corrupt for it shows elsewhere.
                let _ = self.region.set_command(of.id, &sys::command(pid));
            }
        }
        Ok(task)
    }

    fn hinto_connection(&self, task: u64) -> bool {
        let open = |c: &Connection| {
            let mut byte = [0_u8; 1];
            let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
            let got = rustix::net::recv(&c.socket, byte.as_mut_slice(), flags);
            c.role == Role::Task(task) && got.map_or_else(|e| e == Errno::AGAIN, |(_, n)| n > 0)
        };
        self.connections.values().any(open)
    }

    fn enter_task(
        &mut self,
        process: Process,
        uid: u32,
        keeper: Option<TaskId>,
    ) -> Result<u64, Refusal> {
        self.check_quota(uid, Errno::DQUOT)?;
        let comm = sys::command(process.pid);
        let new = NewTask {
            peer: self.peer,
            pid: process.pid,
            start: process.start,
            uid,
            comm: &comm,
            state: task::LIVE,
        };
        let id = self.region.claim_task(&mut self.lane, &new)?.ok_or_else(|| {
            let slots = self.region.table(Table::Tasks).count;
            let text = format!(
                "all {slots} task slots of the region are taken: end some programs, or configure \
                 a larger region"
            );
            Refusal::new(Errno::NOSPC, text)
        })?;
        self.watch(Watched { id, process, uid, keeper }).map_err(system("watch the caller"))
    }

    /// A task will make the calls of another process, which is made a task if it is none.
    ///
    /// Whoever could trace that process could as well make it do what it likes: the same rule.
    fn keep(
        &mut self,
        keeper: u64,
        sender: Credentials,
        gifts: Vec<Foreign>,
    ) -> Result<Answer, Refusal> {
        let keeper = self.tasks.get(&keeper).ok_or_else(gone)?;
        if sender.pid != keeper.process.pid {
            let text = format!("process {} uses a connection of another", sender.pid);
            return Err(Refusal::new(Errno::PERM, text));
        }
        let keeper = keeper.id;
        let pidfd = only(gifts)
            .ok_or_else(|| Refusal::new(Errno::INVAL, "one pidfd must come with this request"))?;
        let known = sys::pid_of(&pidfd).and_then(|pid| Some((pid, pidfd.harmless()?)));
        let (pid, pidfd) = known.ok_or_else(|| {
            Refusal::new(Errno::INVAL, "what came is no pidfd of a living process of this kernel")
        })?;
        let process = Process::find(pid, Some(pidfd)).map_err(system("watch the process"))?;
        let process = process.ok_or_else(|| Refusal::new(Errno::SRCH, "it has ended"))?;
        let uids = sys::uids(pid).ok_or_else(|| Refusal::new(Errno::SRCH, "it has ended"))?;
        if sender.uid != 0 && uids != [sender.uid; 3] {
            let text = format!("process {pid} is not of uid {}", sender.uid);
            return Err(Refusal::new(Errno::PERM, text));
        }
        let task = match self.known(&process) {
            Some(token) => {
                let before = self.tasks.get(&token).and_then(|t| t.keeper);
                if before.is_some_and(|k| k != keeper && self.tasks.values().any(|t| t.id == k)) {
                    let text = format!("somebody else makes the calls of process {pid}");
                    return Err(Refusal::new(Errno::BUSY, text));
                }
                if let Some(task) = self.tasks.get_mut(&token) {
                    task.keeper = Some(keeper);
                }
                token
            }
            None => self.enter_task(process, uids[1], Some(keeper))?,
        };
        let id = self.tasks.get(&task).map(|t| t.id).ok_or_else(gone)?;
        self.region.set_keeper(id, keeper)?;
        Ok(self.identity(id).into())
    }

    /// One user cannot take all slots.
    fn check_quota(&self, uid: u32, errno: Errno) -> Result<(), Refusal> {
        if self.policy.exempts(uid, self.own_uid) {
            return Ok(());
        }
        let child = |c: &&Connection| matches!(c.role, Role::Child(_)) && c.who.uid == uid;
        let used = self.tasks.values().filter(|t| t.uid == uid).count()
            + self.connections.values().filter(child).count();
        if used < self.policy.tasks_per_uid {
            return Ok(());
        }
        let text = format!("uid {uid} has {used} tasks, as many as a user may have");
        Err(Refusal::new(errno, text))
    }

    fn welcome(&self, task: u64) -> Result<Answer, Refusal> {
        let task = self.tasks.get(&task).ok_or_else(gone)?;
        let fds = self.fresh(&self.read_write, OFlags::RDWR).and_then(|rw| {
            let ro = self.fresh(&self.read_only, OFlags::RDONLY)?;
            Ok(vec![rw, ro])
        });
        let fds = fds.map_err(system("give the region's descriptors"))?;
        Ok(Answer { reply: self.identity(task.id), fds })
    }

    /// A descriptor to give away. Of a device an open file of the caller's own: the module limits
    /// the doorbells of each, so tasks that shared one would slow each other down.
    fn fresh(&self, fd: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.transport == Transport::Module {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            return rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        }
        rustix::io::fcntl_dupfd_cloexec(fd, 0)
    }

    fn identity(&self, id: TaskId) -> Reply {
        Reply {
            transport: self.transport,
            task: id.index,
            incarnation: id.incarnation,
            peer: self.peer,
            len: self.region.geometry().len,
            ..Reply::done()
        }
    }

    /// A task announces a child whose slot it has claimed.
    fn fork(&mut self, parent: u64, id: TaskId, gifts: Vec<Foreign>) -> Result<Answer, Refusal> {
        let parent = self.tasks.get(&parent).ok_or_else(gone)?;
        let (pid, uid) = (parent.process.pid, parent.uid);
        let claimed = self.region.task(id.index)?.filter(|t| {
            t.id == id && t.state == task::CLAIMED && t.peer == self.peer && t.pid == pid
        });
        if claimed.is_none() || self.is_known(id) {
            let text = format!("task slot {} is not claimed for a child of this process", id.index);
            return Err(Refusal::new(Errno::INVAL, text));
        }
        let announced = self.announce(id, pid, uid, gifts);
        if announced.is_err() {
            // The child will not be a task: nobody else would free its slot.
            self.reap(id);
        }
        announced
    }

    fn announce(
        &mut self,
        id: TaskId,
        pid: u32,
        uid: u32,
        gifts: Vec<Foreign>,
    ) -> Result<Answer, Refusal> {
        self.check_quota(uid, Errno::AGAIN)?;
        let socket = only(gifts)
            .ok_or_else(|| Refusal::new(Errno::INVAL, "one descriptor must come with a fork"))?;
        let good = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&socket) == Ok(SocketType::SEQPACKET)
            && sockopt::socket_acceptconn(&socket) == Ok(false);
        if !good {
            return Err(Refusal::new(
                Errno::INVAL,
                "the child's connection is no SEQPACKET socket",
            ));
        }
        let (socket, who) = (socket.into_connection(), Credentials { pid, uid, gid: u32::MAX });
        if !self.connect(Connection { socket, who, role: Role::Child(id) }) {
            return Err(Refusal::new(Errno::NFILE, "the endpoint cannot watch the child"));
        }
        Ok(Reply::done().into())
    }

    /// An announced child says who it turned out to be.
    fn hello(&mut self, token: u64, id: TaskId, sender: Credentials) -> Result<Answer, Refusal> {
        let parent = self.connections.get(&token).ok_or_else(gone)?.who;
        if sender.pid == 0 || sender.pid == parent.pid {
            return Err(Refusal::new(Errno::PERM, "a child must say hello itself"));
        }
        let process = Process::find(sender.pid, None).map_err(system("watch the child"))?;
        let Some(process) = process else {
            self.reap(id);
            return Err(gone());
        };
        if self.known(&process).is_some() {
            return Err(Refusal::new(Errno::EXIST, "this process is a task already"));
        }
        if !self.region.name_task(id, process.pid, process.start)? {
            return Err(Refusal::new(Errno::SRCH, "the child's slot is no longer its own"));
        }
        let watched = Watched { id, process, uid: parent.uid, keeper: None };
        let task = self.watch(watched).map_err(system("watch the child"))?;
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.role = Role::Task(task);
        }
        Ok(self.identity(id).into())
    }

    fn doorbell(&self, index: u32) -> Result<Answer, Refusal> {
        if self.transport == Transport::Module {
            return Err(Refusal::new(Errno::OPNOTSUPP, "here tasks ring through /dev/vshmem"));
        }
        let there = live_peer(&self.region, index)?;
        let bell = there.and_then(|ivshmem| self.region.mem().events().doorbell(ivshmem));
        let bell = bell
            .ok_or_else(|| Refusal::new(Errno::SRCH, format!("peer {index} is not connected")))?;
        Ok(Answer { reply: Reply::done(), fds: vec![bell] })
    }

    /// A task has seen another one's death (its child's, mostly) and wants it settled now.
    fn reap_on_request(&mut self, id: TaskId) -> Result<Answer, Refusal> {
        let watched = self.tasks.iter().find(|(_, t)| t.id == id);
        if let Some((token, t)) = watched.map(|(token, t)| (*token, t)) {
            if !t.process.has_ended() {
                let text = format!("task {} (pid {}) is alive", id.index, t.process.pid);
                return Err(Refusal::new(Errno::BUSY, text));
            }
            self.task_ended(token);
            if !self.left.iter().any(|(left, _)| *left == id) {
                return Ok(Reply::done().into());
            }
        }
        match self.region.task(id.index)? {
            Some(t) if self.left.iter().any(|(left, _)| *left == t.id) && t.id == id => {
                return Err(Refusal::new(Errno::AGAIN, "its keeper is about to reap it"));
            }
            Some(t) if t.id == id && t.state != task::DYING => {
                let text = format!("task {} is not for this endpoint to reap", id.index);
                return Err(Refusal::new(Errno::PERM, text));
            }
            // Somebody is at it: idempotent, and finished when this returns.
            Some(t) if t.id == id => self.reap(id),
            _ => debug!(slot = id.index, "asked to reap a task that is gone"),
        }
        Ok(Reply::done().into())
    }
}

/// What came, if it is one.
fn only(gifts: Vec<Foreign>) -> Option<Foreign> {
    let mut gifts = gifts.into_iter();
    match (gifts.next(), gifts.next()) {
        (only, None) => only,
        _ => None,
    }
}

/// The ivshmem ID of a live peer.
fn live_peer(region: &Region<crate::Memory>, index: u32) -> Result<Option<u32>, Corrupt> {
    if u64::from(index) >= peer::COUNT {
        return Ok(None);
    }
    let there = region.peer(index)?.filter(|p| p.state == peer::LIVE);
    Ok(there.map(|p| p.ivshmem))
}
