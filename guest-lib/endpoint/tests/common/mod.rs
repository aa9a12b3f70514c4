//! A region, its endpoint and real processes that attach to it.
//!
//! Nothing runs in the background: the test pumps the endpoint while it waits for something, so
//! the order of events is the test's. Every wait has a limit.
#![allow(dead_code, missing_docs)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, fchmod, ftruncate, memfd_create, open};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use vshmem_core::attach::{Op, REPLY, Reply, Request, Transport};
use vshmem_core::format::Spec;
use vshmem_core::layout::task;
use vshmem_core::task::{Identity, NewTask, Owner, TaskId};
use vshmem_core::{Lane, LaneId, Region};
use vshmem_endpoint::{Endpoint, HostEvents, Memory, Policy, Setup};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, flag, sem, shm};

pub const SIZE: u64 = 16 << 20;
const LIMIT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn readable(fds: &[BorrowedFd<'_>], limit: Timespec) -> Vec<bool> {
    let mut polled: Vec<_> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    poll(&mut polled, Some(&limit)).unwrap();
    polled.iter().map(|p| !p.revents().is_empty()).collect()
}

/// Maps the region as a task would.
pub fn map(memory: impl AsFd) -> Region<Memory> {
    let len = Spec::for_file("test", SIZE).unwrap().len;
    let mapped = Memory::map(memory, len, Arc::new(HostEvents::new())).unwrap();
    Region::open(mapped).unwrap()
}

pub struct World {
    dir: tempfile::TempDir,
    memory: OwnedFd,
    listener: OwnedFd,
    pub policy: Policy,
    pub events: Arc<HostEvents>,
    pub endpoint: Option<Endpoint>,
    /// The test's own view.
    pub region: Region<Memory>,
    pub lane: Lane,
}

impl World {
    pub fn new() -> Self {
        Self::with(Policy::open(1000), 0)
    }

    pub fn with(policy: Policy, tasks: u64) -> Self {
        let memory = memfd_create("vshmem:test", MemfdFlags::CLOEXEC).unwrap();
        fchmod(&memory, Mode::RUSR | Mode::WUSR).unwrap();
        ftruncate(&memory, SIZE).unwrap();
        let spec = Spec { tasks, sparse: true, ..Spec::for_file("test", SIZE).unwrap() };
        let mapped = Memory::map(&memory, spec.len, Arc::new(HostEvents::new())).unwrap();
        let region = Region::format(mapped, &spec).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let flags = SocketFlags::CLOEXEC;
        let listener =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(dir.path().join("s")).unwrap()).unwrap();
        listen(&listener, 128).unwrap();
        let events = Arc::new(HostEvents::new());
        let lane = Lane::new(LaneId(u32::MAX));
        let mut world =
            Self { dir, memory, listener, policy, events, endpoint: None, region, lane };
        world.start();
        // A second one of the endpoint's: each endpoint takes the first.
        let owner = Owner::Endpoint { peer: 0, incarnation: 0 };
        world.lane = world.region.claim_lane(owner).unwrap().unwrap();
        world
    }

    pub fn start(&mut self) {
        let len = self.region.geometry().len;
        let mapped = Memory::map(&self.memory, len, self.events.clone()).unwrap();
        let path = format!("/proc/self/fd/{}", self.memory.as_raw_fd());
        let setup = Setup {
            region: Region::open(mapped).unwrap(),
            peer: 0,
            read_write: self.memory.try_clone().unwrap(),
            read_only: open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap(),
            transport: Transport::Memfd,
            listener: self.listener.try_clone().unwrap(),
            policy: self.policy.clone(),
        };
        self.endpoint = Some(Endpoint::open(setup).unwrap());
    }

    /// As if the endpoint's process had died.
    pub fn stop(&mut self) {
        self.endpoint = None;
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    pub fn endpoint(&mut self) -> &mut Endpoint {
        self.endpoint.as_mut().unwrap()
    }

    /// Lets the endpoint handle everything that has happened so far.
    pub fn settle(&mut self) {
        let Some(endpoint) = &mut self.endpoint else { return };
        for _ in 0..10_000 {
            if !readable(&[endpoint.epoll_fd()], NOW)[0] {
                return;
            }
            endpoint.dispatch();
        }
        panic!("the endpoint never comes to rest");
    }

    /// Runs the endpoint until `fd` is readable.
    pub fn until(&mut self, fd: BorrowedFd<'_>) {
        loop {
            let ready = match &mut self.endpoint {
                Some(endpoint) => {
                    let ready = readable(&[fd, endpoint.epoll_fd()], LIMIT);
                    assert!(ready.contains(&true), "nothing happens");
                    if ready[1] {
                        endpoint.dispatch();
                    }
                    ready[0]
                }
                None => {
                    assert!(readable(&[fd], LIMIT)[0], "nothing happens");
                    true
                }
            };
            if ready {
                return;
            }
        }
    }

    pub fn helper(&mut self) -> Helper {
        self.helper_with(|c| c)
    }

    pub fn helper_with(&mut self, change: impl FnOnce(&mut Command) -> &mut Command) -> Helper {
        let mut command = helper_command();
        command.env("HELPER_SOCKET", self.socket());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = change(&mut command).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut helper = Helper { child, stdin, stdout, heard: Vec::new() };
        assert_eq!(self.hear(&mut helper), "ready");
        helper
    }

    /// Tells a helper what to do and returns what it answers.
    pub fn ask(&mut self, helper: &mut Helper, what: &str) -> String {
        writeln!(helper.stdin, "{what}").unwrap();
        self.hear(helper)
    }

    /// As `ask`; the answer must be `ok` or begin with it.
    pub fn tell(&mut self, helper: &mut Helper, what: &str) -> String {
        let answer = self.ask(helper, what);
        assert!(answer.starts_with("ok"), "{what}: {answer}");
        answer
    }

    pub fn hear(&mut self, helper: &mut Helper) -> String {
        loop {
            while let Some(end) = helper.heard.iter().position(|b| *b == b'\n') {
                let line: Vec<_> = helper.heard.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap();
                // The test harness writes there as well, without a line end before our text.
                if let Some(at) = line.find("@@ ") {
                    return line[at + 3..].trim_end().to_owned();
                }
            }
            self.until(helper.stdout.as_fd());
            let mut bytes = [0; 1024];
            let n = helper.stdout.read(&mut bytes).unwrap();
            assert!(n > 0, "the helper has ended");
            helper.heard.extend(&bytes[..n]);
        }
    }

    /// Kills a helper and lets the endpoint see it.
    pub fn kill(&mut self, helper: &mut Helper) {
        helper.child.kill().unwrap();
        helper.child.wait().unwrap();
        self.settle();
    }

    pub fn caller(&self) -> Caller {
        caller(TaskId { index: 0, incarnation: 0 }, std::process::id())
    }

    pub fn new_set(&mut self, value: i32) -> i32 {
        let c = self.caller();
        let flags = flag::IPC_CREAT | 0o600;
        let id = sem::get(&self.region, &mut self.lane, &c, flag::IPC_PRIVATE, 1, flags).unwrap();
        sem::setval(&self.region, &mut self.lane, &c, id, 0, value).unwrap();
        id
    }

    pub fn value(&mut self, set: i32) -> i32 {
        let c = self.caller();
        sem::getval(&self.region, &mut self.lane, &c, set, 0).unwrap()
    }

    pub fn new_segment(&mut self) -> i32 {
        let c = self.caller();
        let flags = flag::IPC_CREAT | 0o600;
        shm::get(&self.region, &mut self.lane, &c, flag::IPC_PRIVATE, 4096, flags).unwrap()
    }

    pub fn nattch(&mut self, segment: i32) -> u64 {
        let c = self.caller();
        shm::stat(&self.region, &mut self.lane, &c, segment).unwrap().nattch
    }

    pub fn lanes_of(&self, helper: &Helper) -> usize {
        let id = self.task_of(helper).expect("it is a task");
        self.region.lanes_of(Owner::Task(id)).unwrap().len()
    }

    pub fn task_of(&self, helper: &Helper) -> Option<TaskId> {
        self.task_of_pid(helper.child.id())
    }

    pub fn task_of_pid(&self, pid: u32) -> Option<TaskId> {
        let tasks = self.region.tasks().unwrap();
        tasks.iter().find(|t| t.pid == pid && t.state == task::LIVE).map(|t| t.id)
    }

    pub fn slots(&self) -> usize {
        self.region.tasks().unwrap().len()
    }
}

pub fn caller(task: TaskId, pid: u32) -> Caller {
    Caller {
        task,
        who: Identity::new(0, pid),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        ipc_owner: true,
        sys_admin: true,
        ipc_lock: true,
        sys_resource: true,
    }
}

pub struct Helper {
    pub child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    heard: Vec<u8>,
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This test program, doing what [`helper_main`] does.
pub fn helper_command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper", "--nocapture", "--test-threads=1"]);
    command.env("HELPER", "1");
    command
}

/// A connection of this process.
pub fn dial(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Sends a request, with descriptors.
pub fn request(socket: impl AsFd, op: Op, id: TaskId, fds: &[BorrowedFd<'_>]) {
    let bytes = Request { op, a: id.index.into(), b: id.incarnation }.encode();
    send_raw(socket, &bytes, fds);
}

pub fn send_raw(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// Waits for a reply; `None` at the end of the connection.
pub fn reply(socket: impl AsFd) -> Option<(Reply, Vec<OwnedFd>)> {
    assert!(readable(&[socket.as_fd()], LIMIT)[0], "no reply");
    let mut bytes = [0; REPLY];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    (got.bytes > 0).then(|| (Reply::decode(&bytes[..got.bytes]).unwrap(), fds))
}

const NO_ID: TaskId = TaskId { index: 0, incarnation: 0 };

/// What a helper has.
#[derive(Default)]
struct Me {
    connection: Option<OwnedFd>,
    fds: Vec<OwnedFd>,
    mapping: Option<(Region<Memory>, Lane)>,
    task: Option<TaskId>,
    child: Option<Child>,
    /// Whose calls it makes: task and pid.
    kept: Option<(TaskId, u32)>,
}

impl Me {
    fn take(&mut self, answer: Option<(Reply, Vec<OwnedFd>)>) -> String {
        let Some((reply, fds)) = answer else { return "closed".to_owned() };
        if reply.status != 0 {
            return format!("refused {} {}", reply.status, reply.text);
        }
        let id = TaskId { index: reply.task, incarnation: reply.incarnation };
        self.task = Some(id);
        if let [memory, ..] = &fds[..] {
            let region = map(memory);
            let lane = region.claim_lane(Owner::Task(id)).unwrap().unwrap();
            self.mapping = Some((region, lane));
            self.fds = fds;
        }
        format!("ok {} {}", id.index, id.incarnation)
    }

    fn at(&mut self) -> (&Region<Memory>, &mut Lane, Caller) {
        let id = self.task.unwrap();
        let (region, lane) = self.mapping.as_mut().unwrap();
        (region, lane, caller(id, std::process::id()))
    }

    fn obey(&mut self, words: &[&str]) -> String {
        let number = |i: usize| words[i].parse::<i32>().unwrap();
        match words[0] {
            "attach" => {
                let socket = dial(std::env::var_os("HELPER_SOCKET").unwrap().as_ref());
                request(&socket, Op::Attach, NO_ID, &[]);
                let answer = self.take(reply(&socket));
                self.connection = Some(socket);
                answer
            }
            "down" => {
                let (region, lane, c) = self.at();
                let op = SemBuf { num: 0, op: -1, flg: flag::SEM_UNDO as i16 };
                sem::op(region, lane, &c, number(1), &[op], None).unwrap();
                "ok".to_owned()
            }
            "shmat" => {
                let (region, lane, c) = self.at();
                shm::attach(region, lane, &c, number(1), 0o6).unwrap();
                "ok".to_owned()
            }
            "keep" => {
                let pid = rustix::process::Pid::from_raw(number(1)).unwrap();
                let flags = rustix::process::PidfdFlags::empty();
                let pidfd = rustix::process::pidfd_open(pid, flags).unwrap();
                let socket = self.connection.as_ref().unwrap();
                request(socket, Op::Keep, NO_ID, &[pidfd.as_fd()]);
                let Some((r, _)) = reply(socket) else { return "closed".to_owned() };
                if r.status != 0 {
                    return format!("refused {} {}", r.status, r.text);
                }
                let id = TaskId { index: r.task, incarnation: r.incarnation };
                self.kept = Some((id, number(1) as u32));
                "ok".to_owned()
            }
            "down-for" => {
                let (id, pid) = self.kept.unwrap();
                let (region, lane, _) = self.at();
                let op = SemBuf { num: 0, op: -1, flg: flag::SEM_UNDO as i16 };
                sem::op(region, lane, &caller(id, pid), number(1), &[op], None).unwrap();
                "ok".to_owned()
            }
            "reap-kept" => {
                let (id, _) = self.kept.unwrap();
                let (region, lane, _) = self.at();
                vshmem_sysv::reap::task(region, lane, id).unwrap();
                "ok".to_owned()
            }
            "fence" => {
                let id = TaskId { index: number(1) as u32, incarnation: number(2) as u64 };
                request(self.connection.as_ref().unwrap(), Op::Fence, id, &[]);
                match reply(self.connection.as_ref().unwrap()) {
                    Some((r, _)) => format!("{} {}", r.status, r.text),
                    None => "closed".to_owned(),
                }
            }
            "leave" => {
                let (region, lane, c) = self.at();
                vshmem_sysv::reap::task(region, lane, c.task).unwrap();
                region.release_lane(lane.id(), Owner::Task(c.task)).unwrap();
                "ok".to_owned()
            }
            "close" => {
                self.connection = None;
                self.fds.clear();
                "ok".to_owned()
            }
            "exec" => {
                let error = helper_command().exec();
                format!("cannot exec: {error}")
            }
            "try-readonly" => {
                let path = format!("/proc/self/fd/{}", self.fds[1].as_raw_fd());
                let opened = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                format!("{opened:?}")
            }
            "fork" => self.fork(words.get(1) == Some(&"mute")),
            "reap-child" => {
                let mut child = self.child.take().unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
                let id = TaskId { index: number(1) as u32, incarnation: number(2) as u64 };
                self.call(Op::Reap, id)
            }
            "reap" => {
                let id = TaskId { index: number(1) as u32, incarnation: number(2) as u64 };
                self.call(Op::Reap, id)
            }
            other => format!("no such command: {other}"),
        }
    }

    fn call(&self, op: Op, id: TaskId) -> String {
        let socket = self.connection.as_ref().unwrap();
        request(socket, op, id, &[]);
        match reply(socket) {
            Some((r, _)) if r.status == 0 => "ok".to_owned(),
            Some((r, _)) => format!("refused {} {}", r.status, r.text),
            None => "closed".to_owned(),
        }
    }

    /// Announces a child and makes it; a mute one ends without a word.
    fn fork(&mut self, mute: bool) -> String {
        let (region, lane, c) = self.at();
        let new = NewTask {
            peer: 0,
            pid: std::process::id(),
            start: 0,
            uid: 0,
            comm: "child",
            state: task::CLAIMED,
        };
        let child = region.claim_task(lane, &new).unwrap().unwrap();
        shm::inherit(region, lane, c.task, child, |_, _| 0).unwrap();
        let (near, far) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let socket = self.connection.as_ref().unwrap();
        request(socket, Op::Fork, child, &[far.as_fd()]);
        drop(far);
        match reply(socket) {
            Some((r, _)) if r.status == 0 => {}
            Some((r, _)) => return format!("refused {} {}", r.status, r.text),
            None => return "closed".to_owned(),
        }
        if mute {
            return "ok".to_owned();
        }
        let mut command = helper_command();
        command.env("HELPER", "child").stdin(near).stdout(Stdio::inherit());
        let process = command.spawn().unwrap();
        drop(command);
        let pid = process.id();
        self.child = Some(process);
        format!("announced {} {} {pid}", child.index, child.incarnation)
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@@ {text}").unwrap();
    out.flush().unwrap();
}

/// The body of the test called `helper`: nothing, unless a test runs this program as a helper.
pub fn helper_main() {
    match std::env::var("HELPER").as_deref() {
        Ok("child") => {
            // Its standard input is its connection.
            let stdin = std::io::stdin();
            request(&stdin, Op::Hello, NO_ID, &[]);
            let mut me = Me::default();
            say(&format!("hello {}", me.take(reply(&stdin))));
            // Until killed, or until the endpoint closes.
            let _ = reply(&stdin);
        }
        Ok(_) => {
            say("ready");
            let mut me = Me::default();
            for line in std::io::stdin().lines() {
                let line = line.unwrap();
                let words: Vec<_> = line.split_whitespace().collect();
                say(&me.obey(&words));
            }
        }
        Err(_) => {}
    }
    // A child's reply may take as long as a test likes.
}
