//! An endpoint just big enough to attach to, which can also misbehave. The real one is above this
//! crate; the conformance suite runs against it.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering as Atomic};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use vshmem::Region;
use vshmem::sysv::reap;
use vshmem_core::attach::{Op, REQUEST, Reply, Request, Transport};
use vshmem_core::format::Spec;
use vshmem_core::layout::{REGION_BASE, task};
use vshmem_core::mapped::MappedMem;
use vshmem_core::mem::{Mem, Ordering, Park, Woken};
use vshmem_core::task::{NewTask, Owner, TaskId};
use vshmem_core::{Corrupt, Lane, Offset};

/// Ends the process if a test hangs.
pub struct Watchdog {
    _end: mpsc::Sender<()>,
}

pub fn watchdog() -> Watchdog {
    let (end, wait) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a test hangs");
            std::process::abort();
        }
    });
    Watchdog { _end: end }
}

/// The endpoint's own view: it wakes with futexes and never sleeps.
pub struct Host(MappedMem);

impl Mem for Host {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn load(&self, at: Offset, order: Ordering) -> Result<u64, Corrupt> {
        self.0.load(at, order)
    }
    fn store(&self, at: Offset, value: u64, order: Ordering) -> Result<(), Corrupt> {
        self.0.store(at, value, order)
    }
    fn cas(&self, at: Offset, old: u64, new: u64) -> Result<bool, Corrupt> {
        self.0.cas(at, old, new)
    }
    fn fetch_or(&self, at: Offset, bits: u64) -> Result<u64, Corrupt> {
        self.0.fetch_or(at, bits)
    }
    fn swap(&self, at: Offset, value: u64) -> Result<u64, Corrupt> {
        self.0.swap(at, value)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> Result<(), Corrupt> {
        self.0.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, from: &[u8]) -> Result<(), Corrupt> {
        self.0.write_bytes(at, from)
    }
    fn zero(&self, at: Offset, len: u64) -> Result<(), Corrupt> {
        self.0.zero(at, len)
    }
    fn relax(&self, i: u32) {
        self.0.relax(i);
    }
}

impl Park for Host {
    fn sleep(&self, _: Offset, _: u32, _: Option<u64>) -> Woken {
        Woken::Interrupted
    }
    fn wake(&self, _: u32, at: Offset, _: u32) {
        let word = self.0.futex_word(at).unwrap().as_ptr();
        // SAFETY: a mapped futex word.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
    }
    fn now(&self) -> u64 {
        0
    }
    fn seconds(&self) -> u32 {
        0
    }
    fn spin(&self) -> u64 {
        0
    }
}

/// How an endpoint may misbehave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Good,
    Refuses,
    Garbage,
    NoDescriptors,
    TooLong,
    NoRegion,
    HangsUp,
    /// Hangs up twice, has no time once, and is well then.
    Restarts,
}

pub struct World {
    pub region: Region<Host>,
    lane: Mutex<Lane>,
    rw: OwnedFd,
    ro: OwnedFd,
    len: u64,
    manner: Manner,
    dir: PathBuf,
    /// Connections that said something.
    pub attached: AtomicU32,
}

static NEXT: AtomicU32 = AtomicU32::new(0);
const FILE: u64 = 32 << 20;

fn ok(rc: libc::c_int) -> libc::c_int {
    assert!(rc >= 0, "{}", io::Error::last_os_error());
    rc
}

pub fn world(manner: Manner, tasks: u64) -> Arc<World> {
    // SAFETY: a name with its end; the descriptor is new.
    let rw = unsafe {
        OwnedFd::from_raw_fd(ok(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)))
    };
    // SAFETY: no pointers.
    ok(unsafe { libc::ftruncate(rw.as_raw_fd(), FILE as i64) });
    let again = format!("/proc/self/fd/{}", rw.as_raw_fd());
    let ro = std::fs::File::open(again).unwrap().into();
    let len = FILE - REGION_BASE;
    // SAFETY: a new mapping.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            rw.as_raw_fd(),
            REGION_BASE as i64,
        )
    };
    assert!(at != libc::MAP_FAILED);
    // SAFETY: mapped for the life of the process, page-aligned, used through this only.
    let host = Host(unsafe { MappedMem::new(NonNull::new(at.cast()).unwrap(), len) });
    let region =
        Region::format(host, &Spec { tasks, sparse: true, ..Spec::new("test", len) }).unwrap();
    if manner == Manner::NoRegion {
        region.mem().store(Offset(0), 0, Ordering::Relaxed).unwrap();
    }
    let lane = region.claim_lane(Owner::Endpoint { peer: 0, incarnation: 0 }).unwrap().unwrap();
    let n = NEXT.fetch_add(1, Atomic::Relaxed);
    let dir = std::env::temp_dir().join(format!("vshmem-lib-{}-{n}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let attached = AtomicU32::new(0);
    let world =
        Arc::new(World { region, lane: Mutex::new(lane), rw, ro, len, manner, dir, attached });
    let listener = listen(&world.socket());
    let serving = world.clone();
    std::thread::spawn(move || {
        loop {
            // SAFETY: a listening socket, no pointers to follow.
            let raw = unsafe {
                libc::accept4(
                    listener.as_raw_fd(),
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_CLOEXEC,
                )
            };
            // SAFETY: just made.
            let connection = unsafe { OwnedFd::from_raw_fd(ok(raw)) };
            let serving = serving.clone();
            std::thread::spawn(move || serving.serve(&connection, None));
        }
    });
    world
}

impl World {
    /// Bytes of the region that the system has memory for.
    #[allow(dead_code)]
    pub fn backed(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::File::from(self.rw.try_clone().unwrap());
        file.metadata().unwrap().blocks() * 512
    }
}

fn listen(path: &Path) -> OwnedFd {
    use std::os::unix::ffi::OsStrExt;
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is new.
    let fd = unsafe { OwnedFd::from_raw_fd(ok(libc::socket(libc::AF_UNIX, kind, 0))) };
    // SAFETY: zeros are valid.
    let mut to: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    to.sun_family = libc::AF_UNIX as u16;
    for (to, from) in to.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *to = *from as libc::c_char;
    }
    let len = size_of::<libc::sockaddr_un>() as u32;
    // SAFETY: `to` is `len` bytes.
    ok(unsafe { libc::bind(fd.as_raw_fd(), (&raw const to).cast(), len) });
    // SAFETY: no pointers.
    ok(unsafe { libc::listen(fd.as_raw_fd(), 64) });
    fd
}

#[repr(C, align(8))]
struct Control([u8; 64]);

fn header(part: &mut libc::iovec, control: &mut Control, room: u32) -> libc::msghdr {
    // SAFETY: zeros are valid.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    if room > 0 {
        header.msg_control = (&raw mut control.0).cast();
        // SAFETY: pure.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(room) } as usize;
    }
    header
}

fn send(to: RawFd, bytes: &[u8], fds: &[RawFd]) {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let room = size_of_val(fds) as u32;
    let header = header(&mut part, &mut control, room);
    if room > 0 {
        // SAFETY: room for one header with these descriptors.
        unsafe {
            let at = libc::CMSG_FIRSTHDR(&raw const header);
            (*at).cmsg_level = libc::SOL_SOCKET;
            (*at).cmsg_type = libc::SCM_RIGHTS;
            (*at).cmsg_len = libc::CMSG_LEN(room) as usize;
            libc::CMSG_DATA(at).cast::<RawFd>().copy_from_nonoverlapping(fds.as_ptr(), fds.len());
        }
    }
    // SAFETY: a complete header. A client that has gone needs no answer.
    unsafe { libc::sendmsg(to, &raw const header, libc::MSG_NOSIGNAL) };
}

fn receive(from: RawFd) -> Option<(Request, Option<OwnedFd>)> {
    let mut bytes = [0; REQUEST];
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut header = header(&mut part, &mut control, 4);
    // SAFETY: a complete header.
    let n = unsafe { libc::recvmsg(from, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    if n <= 0 {
        return None;
    }
    // SAFETY: filled by the kernel.
    let fd = unsafe {
        let at = libc::CMSG_FIRSTHDR(&raw const header);
        (!at.is_null()).then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(at).cast::<RawFd>().read()))
    };
    Some((Request::decode(&bytes).unwrap(), fd))
}

impl World {
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    pub fn on<T>(&self, f: impl FnOnce(&Region<Host>, &mut Lane) -> T) -> T {
        f(&self.region, &mut self.lane.lock().unwrap())
    }

    fn pid(connection: RawFd) -> u32 {
        let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as u32;
        let to = (&raw mut who).cast();
        // SAFETY: room for the credentials.
        ok(unsafe {
            libc::getsockopt(connection, libc::SOL_SOCKET, libc::SO_PEERCRED, to, &raw mut len)
        });
        who.pid.cast_unsigned()
    }

    fn task_of(&self, pid: u32) -> TaskId {
        let known = self.region.tasks().unwrap();
        if let Some(task) = known.iter().find(|t| t.pid == pid && t.state == task::LIVE) {
            return task.id;
        }
        let new = NewTask { peer: 0, pid, start: 1, uid: 0, comm: "test", state: task::LIVE };
        self.on(|r, on| r.claim_task(on, &new)).unwrap().expect("a free task")
    }

    fn serve(self: &Arc<Self>, connection: &OwnedFd, mut child: Option<TaskId>) {
        let raw = connection.as_raw_fd();
        while let Some((ask, fd)) = receive(raw) {
            let before = self.attached.fetch_add(1, Atomic::Relaxed);
            let mut fds = Vec::new();
            let mut reply = Reply { transport: Transport::Memfd, len: self.len, ..Reply::done() };
            match (ask.op, self.manner) {
                (_, Manner::HangsUp) => return,
                (_, Manner::Restarts) if before < 2 => return,
                (_, Manner::Restarts) if before == 2 => reply = Reply::refusal(16, "busy"),
                (_, Manner::Refuses) => reply = Reply::refusal(13, "not you"),
                (_, Manner::Garbage) => {
                    send(raw, b"HTTP/1.1 400", &[]);
                    continue;
                }
                (Op::Attach, manner) => {
                    let id = self.task_of(Self::pid(raw));
                    (reply.task, reply.incarnation) = (id.index, id.incarnation);
                    if manner == Manner::TooLong {
                        reply.len = FILE * 2;
                    }
                    if manner != Manner::NoDescriptors {
                        fds = vec![self.rw.as_raw_fd(), self.ro.as_raw_fd()];
                    }
                }
                (Op::Fork, _) => {
                    let id = TaskId { index: ask.a as u32, incarnation: ask.b };
                    let (far, me) = (fd.expect("the child's connection"), self.clone());
                    std::thread::spawn(move || me.serve(&far, Some(id)));
                }
                (Op::Hello, _) => {
                    let id = child.take().expect("announced");
                    (reply.task, reply.incarnation) = (id.index, id.incarnation);
                    // The kernel tells the real endpoint who sent this; here the test does.
                    self.region.name_task(id, CHILD.load(Atomic::SeqCst), 1).unwrap();
                }
                (Op::Reap, _) => {
                    let id = TaskId { index: ask.a as u32, incarnation: ask.b };
                    self.on(|r, on| reap::task(r, on, id)).unwrap();
                }
                (Op::Ring | Op::Keep | Op::Fence, _) => reply = Reply::refusal(22, "no such peer"),
            }
            send(raw, &reply.encode(), &fds);
        }
        // A child that was announced and never born.
        if let Some(id) = child {
            self.on(|r, on| reap::task(r, on, id)).unwrap();
        }
    }
}

/// The pid that the next hello will be taken to come from.
pub static CHILD: AtomicU32 = AtomicU32::new(0);

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
