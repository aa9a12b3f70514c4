//! The region as this process maps it, and how its threads sleep and wake one another.

use crate::error::{Error, Result};
use crate::fd::{self, FileId};
use crate::interrupt;
use crate::link::{Link, Way};
use crate::lock::Lock;
use crate::module;
use crate::spin::Spin;
use crate::sys;
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering as Atomic};
use std::sync::{Arc, OnceLock};
use vshmem_core::format::Geometry;
use vshmem_core::layout::{REGION_BASE, Table, lane, peer};
use vshmem_core::mapped::MappedMem;
use vshmem_core::mem::{Mem, Ordering, Park, Woken};
use vshmem_core::{Corrupt, LaneId, Offset};

/// How often, at most, the processors and peers are counted again.
const RECOUNT: u64 = 100_000_000;
/// The longest single sleep. A futex wait without a deadline would be restarted by the kernel after
/// a handler with `SA_RESTART`; one with a deadline gives EINTR, as System V calls must.
const LONG: u64 = 3600 * 1_000_000_000;

/// The mapped bytes of a region; unmapped with the last user.
#[derive(Debug)]
pub(crate) struct Span {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; who uses them is `MappedMem`'s business.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    /// Maps the `len` bytes of region behind `fd`.
    pub fn map(fd: RawFd, len: u64, socket: &Path) -> Result<Self> {
        let failed = |cause| Error::Map { socket: socket.to_owned(), len, cause };
        let invalid = || failed(io::Error::from_raw_os_error(libc::EINVAL));
        let bytes = usize::try_from(len).ok().filter(|n| *n > 0 && n.is_multiple_of(4096));
        let bytes = bytes.filter(|n| *n <= isize::MAX as usize).ok_or_else(invalid)?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping where the kernel chooses disturbs nothing.
        let at = unsafe { sys::mmap(0, bytes, prot, flags, fd, REGION_BASE) }.map_err(failed)?;
        // A core dump of one program must not carry everybody's data.
        // SAFETY: changes nothing else about the mapping made above.
        unsafe { sys::madvise(at, bytes, libc::MADV_DONTDUMP) };
        let base = NonNull::new(at).ok_or_else(invalid)?;
        Ok(Self { base, len: bytes })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len as u64
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; the last user is gone.
        unsafe { sys::munmap(self.base.as_ptr(), self.len) };
    }
}

/// Refuses a memfd shorter than its region: touching what is missing would be SIGBUS.
pub(crate) fn check_length(fd: RawFd, len: u64, socket: &Path) -> Result<()> {
    let failed = |cause| Error::Map { socket: socket.to_owned(), len, cause };
    let stat = sys::fstat(fd).map_err(failed)?;
    let have = u64::try_from(stat.st_size).unwrap_or(0);
    if stat.st_mode & libc::S_IFMT == libc::S_IFREG && have.saturating_sub(REGION_BASE) < len {
        return Err(failed(io::Error::other(format!("the file has only {have} bytes"))));
    }
    Ok(())
}

/// A region mapped into this process: [`Mem`] over its bytes, [`Park`] over futexes (on the host)
/// or the module's ioctls (in a guest).
#[derive(Debug)]
pub struct Mapping {
    mem: MappedMem,
    span: Arc<Span>,
    link: Arc<Lock<Link>>,
    module: bool,
    /// The descriptor used last, and which file that is; -1 for none.
    device: AtomicI32,
    file: FileId,
    me: u32,
    tables: OnceLock<Geometry>,
    spin: Spin,
    counted: AtomicU64,
}

impl Mapping {
    /// A view of `span` for a task of peer `me`, which spins for at most `spin` nanoseconds.
    pub(crate) fn new(
        span: Arc<Span>,
        link: Arc<Lock<Link>>,
        module: bool,
        file: FileId,
        me: u32,
        spin: u64,
    ) -> Self {
        // SAFETY: M1: `span` is kept beside it. M2: page-aligned, checked in `Span::map`. M3: the
        // address is given to nobody else.
        let mem = unsafe { MappedMem::new(span.base, span.len as u64) };
        let (tables, device) = (OnceLock::new(), AtomicI32::new(-1));
        let (spin, counted) = (Spin::new(spin), AtomicU64::new(0));
        // Asked now, so that no signal handler has to.
        spin.allow(processors(), false);
        Self { mem, span, link, module, device, file, me, tables, spin, counted }
    }

    /// The same bytes for a task of this process's child.
    pub(crate) fn inherited(&self) -> Self {
        {
            let (span, link) = (self.span.clone(), self.link.clone());
            Self::new(span, link, self.module, self.file, self.me, self.spin.cap())
        }
    }

    /// The address of `len` bytes, for copies that [`crate::user`] makes.
    pub(crate) fn bytes(
        &self,
        at: Offset,
        len: usize,
    ) -> std::result::Result<NonNull<u8>, Corrupt> {
        self.mem.bytes(at, len as u64)
    }

    /// Makes the mapping this process's alone: what the region `fd` holds, as far as it can be had
    /// that way, changed by nobody's leave. `false` if it is as before.
    pub(crate) fn keep_to_itself(&self, fd: Option<RawFd>) -> bool {
        let at = self.span.base.as_ptr().addr();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fixed = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let map = |flags, fd, from| {
            // SAFETY: readable and writable as before, in the place of the mapping that this value
            // owns; what is there was hostile input before.
            unsafe { sys::mmap(at, self.span.len, protection, fixed | flags, fd, from) }.is_ok()
        };
        fd.is_some_and(|fd| map(0, fd, REGION_BASE)) || map(libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Tells where the tables are, once they were checked.
    pub(crate) fn enter(&self, tables: &Geometry) {
        let _ = self.tables.set(tables.clone());
    }

    /// The module's device. Asked before every sleep and wake, so the link, whose lock blocks all
    /// signals, is asked only when the number kept here leads elsewhere. The lock is open again when
    /// this returns: nobody sleeps in it.
    fn device(&self) -> Option<RawFd> {
        // Relaxed: a number, which is checked.
        let kept = self.device.load(Atomic::Relaxed);
        if fd::leads_to(kept, self.file) {
            return Some(kept);
        }
        let fd = self.link.lock().region(Way::ReadWrite).ok()?;
        self.device.store(fd, Atomic::Relaxed);
        Some(fd)
    }

    /// Leaves a wake for `id` in the bitmap of peer `to`, and rings there.
    fn wake_there(&self, id: u32, to: u32) -> Result<()> {
        let Some(geometry) = self.tables.get() else { return Ok(()) };
        geometry.post_wake(&self.mem, to, LaneId(id))?;
        let peers = geometry.tables[Table::Peers as usize];
        let there = peers.at.index(to.into(), peers.stride);
        let state = self.mem.load(there.plus(peer::STATE), Ordering::Acquire)? as u32;
        if self.module {
            let Some(fd) = self.device() else { return Ok(()) };
            module::ring(fd, state >> 8 & 0xffff, peer::WAKE_VECTOR);
            return Ok(());
        }
        let incarnation = self.mem.load(there.plus(peer::INCARNATION), Ordering::Acquire)?;
        self.link.lock().ring(to, incarnation as u32)
    }

    /// Sleeps while the word at `at` is `expected`, until `until`; the errno of what ended it, 0 for
    /// a wake.
    fn doze(&self, at: Offset, expected: u32, until: u64) -> i32 {
        let Ok(word) = self.mem.futex_word(at) else { return libc::EFAULT };
        if self.module {
            let _cancel = interrupt::in_message().then(interrupt::Cancel::sleep);
            return match self.device() {
                Some(fd) => module::wait(fd, at, expected, until),
                None => libc::ENODEV,
            };
        }
        let until = timespec(until);
        let ends = interrupt::in_semop().then(interrupt::Ends::sleep);
        if let Some(ended) = ends.as_ref().and_then(|e| e.wait(word, expected, &until)) {
            return ended;
        }
        let _cancel = interrupt::in_message().then(interrupt::Cancel::sleep);
        let args = [
            word.as_ptr().expose_provenance(),
            libc::FUTEX_WAIT_BITSET as usize,
            expected as usize,
            (&raw const until).expose_provenance(),
            0,
            libc::FUTEX_BITSET_MATCH_ANY as u32 as usize,
        ];
        // SAFETY: the futex word is mapped and aligned; the kernel only reads it and `until`.
        unsafe { interrupt::sleep(libc::SYS_futex, args) }
    }

    /// Another kernel has tasks here: it may run while this one's only processor spins.
    fn foreigners(&self) -> bool {
        let Some(geometry) = self.tables.get() else { return false };
        let peers = geometry.tables[Table::Peers as usize];
        (0..peers.count).filter(|i| *i != u64::from(self.me)).any(|i| {
            let at = peers.at.index(i, peers.stride).plus(peer::STATE);
            // Relaxed: only a hint.
            self.mem.load(at, Ordering::Relaxed).is_ok_and(|w| w as u32 & 0xff == peer::LIVE)
        })
    }

    /// Whether an EINTR is not for the call: the module gives it also when the process was stopped
    /// and continued, or traced; a futex then goes on by itself, but for our own handler.
    fn goes_on(&self) -> bool {
        let unheard = interrupt::unheard();
        !interrupt::interrupted()
            && !interrupt::uncounted()
            && (self.module || unheard)
            && !interrupt::in_semop()
    }

    /// Counts processors and peers again, if it is time; tells the time.
    fn recount(&self) -> u64 {
        let now = self.now();
        if now.wrapping_sub(self.counted.load(Atomic::Relaxed)) >= RECOUNT {
            self.counted.store(now, Atomic::Relaxed);
            self.spin.allow(processors(), self.foreigners());
        }
        now
    }
}

/// Processors there are, asked once. Not those this thread may use: its partner may use others.
fn processors() -> u32 {
    static ONLINE: OnceLock<u32> = OnceLock::new();
    *ONLINE.get_or_init(|| {
        // SAFETY: reads a number.
        u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1)
    })
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    }
}

impl Park for Mapping {
    fn sleep(&self, at: Offset, expected: u32, deadline: Option<u64>) -> Woken {
        let now = self.recount();
        let until = deadline.unwrap_or_else(|| now.saturating_add(LONG));
        let timed = deadline.is_some();
        match self.doze(at, expected, until) {
            0 | libc::EAGAIN => Woken::Maybe,
            libc::ETIMEDOUT if timed => Woken::TimedOut,
            libc::ETIMEDOUT => Woken::Maybe,
            libc::EINTR if self.goes_on() => Woken::Maybe,
            // Anything else (the device is gone) must not become an endless loop.
            _ => Woken::Interrupted,
        }
    }

    fn wake(&self, lane: u32, at: Offset, peer: u32) {
        self.spin.woke(peer == self.me);
        if peer != self.me {
            // A hint: the sleeper's own endpoint looks at its slots every second anyway.
            let _ = self.wake_there(lane, peer);
        } else if self.module {
            if let Some(fd) = self.device() {
                module::wake(fd, at);
            }
        } else if let Ok(word) = self.mem.futex_word(at) {
            // SAFETY: the futex word is mapped; waking does not touch it.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
        }
    }

    fn now(&self) -> u64 {
        let t = clock(libc::CLOCK_MONOTONIC);
        (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
    }

    #[inline]
    fn seconds(&self) -> u32 {
        let own = clock(libc::CLOCK_REALTIME_COARSE);
        match self.tables.get() {
            Some(tables) if self.me != 0 => {
                vshmem_core::clock::seconds(&self.mem, tables, self.me, own.tv_sec, own.tv_nsec)
            }
            // The host's clock is the region's.
            _ => own.tv_sec as u32,
        }
    }

    fn spin(&self) -> u64 {
        if self.counted.load(Atomic::Relaxed) == 0 {
            self.recount();
        }
        self.spin.budget()
    }

    fn interrupted(&self) -> bool {
        interrupt::interrupted()
    }

    fn waited(&self, took: u64, slept: bool) {
        self.spin.learn(took, slept);
    }
}

#[inline]
fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the result; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(id, &raw mut t) };
    t
}

impl Mem for Mapping {
    #[inline]
    fn len(&self) -> u64 {
        self.mem.len()
    }
    #[inline]
    fn load(&self, at: Offset, order: Ordering) -> std::result::Result<u64, Corrupt> {
        self.mem.load(at, order)
    }
    #[inline]
    fn store(&self, at: Offset, value: u64, order: Ordering) -> std::result::Result<(), Corrupt> {
        self.mem.store(at, value, order)
    }
    #[inline]
    fn store_words(&self, at: Offset, words: &[u64]) -> std::result::Result<(), Corrupt> {
        self.mem.store_words(at, words)
    }
    #[inline]
    fn cas(&self, at: Offset, old: u64, new: u64) -> std::result::Result<bool, Corrupt> {
        self.mem.cas(at, old, new)
    }
    #[inline]
    fn fetch_or(&self, at: Offset, bits: u64) -> std::result::Result<u64, Corrupt> {
        self.mem.fetch_or(at, bits)
    }
    #[inline]
    fn swap(&self, at: Offset, value: u64) -> std::result::Result<u64, Corrupt> {
        self.mem.swap(at, value)
    }
    fn read_bytes(&self, at: Offset, to: &mut [u8]) -> std::result::Result<(), Corrupt> {
        self.mem.read_bytes(at, to)
    }
    fn write_bytes(&self, at: Offset, from: &[u8]) -> std::result::Result<(), Corrupt> {
        self.mem.write_bytes(at, from)
    }
    fn zero(&self, at: Offset, len: u64) -> std::result::Result<(), Corrupt> {
        self.mem.zero(at, len)
    }
    fn discard(&self, at: Offset, len: u64) -> bool {
        let Ok(start) = self.mem.bytes(at, len) else { return false };
        // Only the host's files can; a guest's device refuses.
        // SAFETY: inside the region's mapping, whose bytes others may change at any time as well.
        unsafe { sys::madvise(start.as_ptr().cast(), len as usize, libc::MADV_REMOVE) }
    }
    fn relax(&self, i: u32) {
        self.mem.relax(i);
    }
}

const _: () = assert!(lane::STATUS.is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::{Call, Waiting};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    const LEN: u64 = 1 << 20;

    fn memfd(size: u64) -> OwnedFd {
        // SAFETY: a name with its end.
        let raw = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: just made.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::ftruncate(raw, size as libc::off_t) }, 0);
        fd
    }

    fn mapping() -> Mapping {
        let fd = memfd(REGION_BASE + LEN);
        let span = Span::map(fd.as_raw_fd(), LEN, Path::new("test")).unwrap();
        let link = Arc::new(Lock::new(Link::new(Path::new("/nowhere"))));
        Mapping::new(Arc::new(span), link, false, (0, 0, 0), 0, u64::MAX)
    }

    #[test]
    fn offsets_outside_and_misaligned_are_refused() {
        let m = mapping();
        assert_eq!(m.len(), LEN);
        m.store(Offset(LEN - 8), 7, Ordering::Relaxed).unwrap();
        assert_eq!(m.load(Offset(LEN - 8), Ordering::Relaxed), Ok(7));
        for at in [LEN, LEN - 4, 3, u64::MAX, u64::MAX - 7] {
            assert!(m.load(Offset(at), Ordering::Relaxed).is_err(), "{at}");
            assert!(m.swap(Offset(at), 1).is_err(), "{at}");
        }
        assert!(m.write_bytes(Offset(LEN - 1), b"ab").is_err());
        assert_eq!(m.sleep(Offset(LEN), 0, None), Woken::Interrupted, "no endless loop");
        m.wake(0, Offset(LEN), 0);
        m.wake(0, Offset(0), 9);
    }

    #[test]
    fn files_shorter_than_their_region_and_odd_lengths_are_refused() {
        let fd = memfd(REGION_BASE + LEN);
        let path = Path::new("test");
        assert!(check_length(fd.as_raw_fd(), LEN, path).is_ok());
        let short = check_length(fd.as_raw_fd(), LEN + 1, path).unwrap_err();
        assert!(short.to_string().contains("the file has only 3145728 bytes"), "{short}");
        for len in [0, 100, u64::MAX, 1 << 63] {
            assert!(Span::map(fd.as_raw_fd(), len, path).is_err(), "{len}");
        }
    }

    #[test]
    fn a_sleep_ends_by_value_by_time_and_by_wake() {
        let m = mapping();
        assert_eq!(m.sleep(Offset(0), 1, None), Woken::Maybe);
        let (begin, limit) = (Instant::now(), 20_000_000);
        assert_eq!(m.sleep(Offset(0), 0, Some(m.now() + limit)), Woken::TimedOut);
        assert!(begin.elapsed() >= Duration::from_nanos(limit));
        std::thread::scope(|s| {
            let sleeper = s.spawn(|| {
                while m.load(Offset(0), Ordering::Acquire).unwrap() == 0 {
                    m.sleep(Offset(0), 0, None);
                }
            });
            m.store(Offset(0), 1, Ordering::Release).unwrap();
            while !sleeper.is_finished() {
                m.wake(0, Offset(0), 0);
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_handler_ends_a_sleep_although_it_asks_for_a_restart() {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: zeros are valid; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
        }
        let m = mapping();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            let sleeper = s.spawn(|| {
                // SAFETY: cannot fail.
                tell.send(unsafe { libc::pthread_self() }).unwrap();
                m.sleep(Offset(0), 0, None)
            });
            let thread = told.recv().unwrap();
            while !sleeper.is_finished() {
                // SAFETY: not joined yet.
                unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
                std::thread::yield_now();
            }
            assert_eq!(sleeper.join().unwrap(), Woken::Interrupted);
        });
    }

    /// Every handler that runs after a call has begun ends its sleep: during a spin, just before
    /// the system call, in it.
    #[test]
    fn no_handler_goes_unnoticed() {
        extern "C" fn nothing(_: libc::c_int) {}
        const ROUNDS: u64 = 20_000;
        let _watchdog = Watchdog::of(100);
        // SAFETY: zeros are valid; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        }
        let m = mapping();
        let (begun, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        let (tell, told) = std::sync::mpsc::channel();
        let pause = |ns: u64| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_nanos(ns) {}
        };
        std::thread::scope(|s| {
            s.spawn(|| {
                // SAFETY: cannot fail.
                tell.send(unsafe { libc::pthread_self() }).unwrap();
                for round in 1..=ROUNDS {
                    let call = if round % 2 == 0 { Call::Semop } else { Call::Message };
                    let waiting = Waiting::begin(call, std::process::id());
                    begun.store(round, Atomic::SeqCst);
                    pause(round * 7 % 6_100);
                    while m.sleep(Offset(0), 0, None) != Woken::Interrupted {}
                    drop(waiting);
                    ended.store(round, Atomic::SeqCst);
                }
            });
            let thread = told.recv().unwrap();
            for round in 1..=ROUNDS {
                while begun.load(Atomic::SeqCst) != round {
                    std::thread::yield_now();
                }
                pause(round * 5 % 8_900);
                // SAFETY: it does not end before this round does.
                unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                while ended.load(Atomic::SeqCst) != round {
                    std::thread::yield_now();
                }
            }
        });
    }

    /// Ends the test's process if it hangs.
    struct Watchdog(#[allow(dead_code, reason = "closed by dropping")] std::sync::mpsc::Sender<()>);

    impl Watchdog {
        fn of(seconds: u64) -> Self {
            let (alive, end) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let late = std::sync::mpsc::RecvTimeoutError::Timeout;
                if end.recv_timeout(Duration::from_secs(seconds)) == Err(late) {
                    eprintln!("watchdog: the test hangs");
                    std::process::abort();
                }
            });
            Self(alive)
        }
    }

    #[test]
    fn a_stop_and_continuation_end_the_sleep_of_semop_only() {
        // In a child, whose stopping does not stop the test.
        // SAFETY: the child uses this crate and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let m = mapping();
            let soon = m.now() + 20_000_000_000;
            let _in = Waiting::begin(Call::Semop, std::process::id());
            let good = m.sleep(Offset(0), 0, Some(soon)) == Woken::Interrupted;
            // SAFETY: only asks: zeros are valid.
            let mut after: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: as above.
            unsafe { libc::sigaction(libc::SIGCONT, std::ptr::null(), &raw mut after) };
            let restored = after.sa_sigaction == libc::SIG_DFL;
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!(good && restored))) };
        }
        let mut status = 0;
        loop {
            // SAFETY: the child, not yet waited for.
            unsafe { libc::kill(child, libc::SIGSTOP) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &raw mut status, libc::WUNTRACED) };
            if !libc::WIFSTOPPED(status) {
                break;
            }
            // SAFETY: as above.
            unsafe { libc::kill(child, libc::SIGCONT) };
            std::thread::yield_now();
        }
        assert_eq!(status, 0);
    }
}
