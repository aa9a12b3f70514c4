//! The few questions to the kernel that no safe crate asks for us.
//!
//! A pid that is invisible here reads as 0, which a `NonZero` pid type cannot hold: so credentials
//! are fetched into `libc`'s own structures.

use rustix::fs::fstat;
use rustix::io::Errno;
use std::fs;
use std::io::{BufRead, BufReader};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const SO_PEERPIDFD: libc::c_int = 77;

/// Who is at the other end, in the endpoint's own namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Process; 0 where it is invisible from here.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<libc::ucred> for Credentials {
    fn from(c: libc::ucred) -> Self {
        Self { pid: u32::try_from(c.pid).unwrap_or(0), uid: c.uid, gid: c.gid }
    }
}

fn get_option<T: Copy>(fd: BorrowedFd<'_>, name: libc::c_int, value: T) -> Result<T, Errno> {
    let mut value = value;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` writable bytes of a plain type for which any bytes are valid (the
    // callers pass `ucred` and integers), alive during the call.
    let rc = unsafe {
        let to = (&raw mut value).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, to, &raw mut len)
    };
    if rc == 0 { Ok(value) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Who connected `socket`, as of then: the effective ids.
pub fn connector(socket: impl AsFd) -> Result<Credentials, Errno> {
    let none = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    get_option(socket.as_fd(), libc::SO_PEERCRED, none).map(Credentials::from)
}

/// The supplementary groups of who connected `socket`; none where the kernel does not tell.
pub fn connector_groups(socket: impl AsFd) -> Vec<u32> {
    let mut groups = vec![0_u32; 256];
    for _ in 0..2 {
        let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: `groups` is `len` writable bytes, alive during the call.
        let rc = unsafe {
            let fd = socket.as_fd().as_raw_fd();
            let to = groups.as_mut_ptr().cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, to, &raw mut len)
        };
        let n = len as usize / size_of::<u32>();
        if rc == 0 {
            groups.truncate(n);
            return groups;
        }
        if last_errno() != Errno::RANGE || n > 1 << 16 {
            break;
        }
        groups.resize(n, 0);
    }
    Vec::new()
}

/// A pidfd of who connected `socket`; `None` before Linux 6.5.
pub fn connector_pidfd(socket: impl AsFd) -> Result<Option<OwnedFd>, Errno> {
    match get_option(socket.as_fd(), SO_PEERPIDFD, -1 as libc::c_int) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) if fd >= 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Ok(_) | Err(Errno::NOPROTOOPT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// One packet and what came with it.
#[derive(Debug, Default)]
pub struct Packet {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Descriptors, close-on-exec; the receiver closes what it does not take.
    pub fds: Vec<OwnedFd>,
    /// Who sent it, told by the kernel.
    pub sender: Option<Credentials>,
}

/// Descriptors a packet may bring: the kernel's own limit. It would close what exceeds the room
/// right here, and a close may wait, see [`crate::foreign`].
const MAX_FDS: usize = 253;

/// Control messages need the alignment of `cmsghdr`.
#[repr(C, align(8))]
struct Control([u8; 1088]);

/// Takes one packet without waiting; `None` at the end of the connection.
///
/// A packet longer than `room` comes back with `room + 1` bytes: too long, whatever it says.
pub fn receive(socket: impl AsFd, room: usize) -> Result<Option<Packet>, Errno> {
    let mut bytes = vec![0; room + 1];
    let mut control = Control([0; 1088]);
    // SAFETY: all zeros is a valid empty `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    // SAFETY: a pure function of its argument.
    let space = unsafe {
        libc::CMSG_SPACE((MAX_FDS * size_of::<libc::c_int>()) as u32)
            + libc::CMSG_SPACE(size_of::<libc::ucred>() as u32)
    };
    header.msg_controllen = space as usize;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to `part`, which points to `bytes`, and to `control`, which is
    // larger than `space`; all live during the call.
    let n = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    let n = usize::try_from(n).map_err(|_| last_errno())?;
    let mut packet = Packet::default();
    // SAFETY: `header` was filled in by the kernel; the macros stay inside `control`.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return aligned headers inside `control`.
        let head = unsafe { at.read() };
        // SAFETY: as above; the data follows its header.
        let data = unsafe { libc::CMSG_DATA(at) };
        // SAFETY: a pure function of its argument.
        let empty = unsafe { libc::CMSG_LEN(0) } as usize;
        let len = head.cmsg_len.saturating_sub(empty);
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for i in 0..len / size_of::<libc::c_int>() {
                // SAFETY: `i` is below the number of descriptors the kernel wrote.
                let fd = unsafe { data.cast::<libc::c_int>().add(i).read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us.
                packet.fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        } else if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
            && len >= size_of::<libc::ucred>()
        {
            // SAFETY: the kernel wrote a whole `ucred`, of integers only.
            let sender = unsafe { data.cast::<libc::ucred>().read_unaligned() };
            packet.sender = Some(sender.into());
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    // An empty packet still brings its sender; the end brings nothing.
    if n == 0 && packet.fds.is_empty() && packet.sender.is_none() {
        return Ok(None);
    }
    bytes.truncate(n);
    packet.bytes = bytes;
    Ok(Some(packet))
}

/// Whether the other side has closed, or shut down for sending, and everything it sent was received.
pub fn is_at_end(socket: impl AsFd) -> bool {
    let mut byte = 0_u8;
    // Room for no control message, so that any is seen by its being cut. Descriptors stay in the
    // queue, since this only looks.
    let mut control = Control([0; 1088]);
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all zeros is a valid empty `msghdr`.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    // SAFETY: a pure function of its argument.
    header.msg_controllen = unsafe { libc::CMSG_LEN(0) } as usize;
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to `part`, which points to `byte`, and to `control`, which is
    // larger than it says; all live during the call.
    let n = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags) };
    // An empty packet still brings its sender, on a socket that asks for that.
    n == 0 && header.msg_flags & libc::MSG_CTRUNC == 0
}

/// When process `pid` began, in clock ticks since boot; `None` if there is none.
pub fn start_time(pid: u32) -> Option<u64> {
    stat_field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 22)?.parse().ok()
}

/// Field `n` (3 or more) of a `/proc/PID/stat` line. The second is a command name that may hold
/// anything, so counting begins after its last parenthesis.
fn stat_field(line: &str, n: usize) -> Option<&str> {
    line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace().nth(n - 3)
}

/// The process a pidfd stands for, in this process's own pid namespace; `None` of what is none.
pub fn pid_of(pidfd: impl AsFd) -> Option<u32> {
    // First, since others may have a very long description.
    let link = format!("/proc/self/fd/{}", pidfd.as_fd().as_raw_fd());
    let link = fs::read_link(link).ok()?;
    // The kernel's own names: those of files begin with a slash.
    let link = link.to_string_lossy();
    if link != "anon_inode:[pidfd]" && !link.starts_with("pidfd:") {
        return None;
    }
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).ok()?;
    // -1 of one that has ended, 0 of one that is invisible from here.
    text.lines().find_map(|l| l.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// The real, effective and saved user of process `pid`.
pub fn uids(pid: u32) -> Option<[u32; 3]> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    let mut uids = line.split_ascii_whitespace().map(|n| n.parse().ok());
    Some([uids.next()??, uids.next()??, uids.next()??])
}

/// The command name of process `pid`.
pub fn command(pid: u32) -> String {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.trim_end_matches('\n').to_owned()
}

/// Whether process `pid` maps the file `(device, inode)`; `None` if that cannot be seen, or takes
/// too long to find out.
pub fn maps(pid: u32, file: FileId) -> Option<bool> {
    let main = maps_of(&format!("/proc/{pid}/maps"), file);
    if main != Some(Maps::Nothing) {
        return main.map(|m| m == Maps::File);
    }
    // That thread has ended, and shows nothing any more; others may go on without it.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let maps = thread.path().join("maps");
        match maps.to_str().and_then(|path| maps_of(path, file)) {
            Some(Maps::Nothing) => {}
            other => return other.map(|m| m == Maps::File),
        }
    }
    Some(false)
}

/// What a thread shows of its memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maps {
    Nothing,
    Others,
    File,
}

fn maps_of(path: &str, file: FileId) -> Option<Maps> {
    // ESRCH, here or below: it has just died.
    let dead = |e: std::io::Error| (e.raw_os_error() == Some(libc::ESRCH)).then_some(Maps::Nothing);
    let maps = match fs::File::open(path) {
        Ok(maps) => maps,
        Err(e) => return dead(e),
    };
    let mut lines = BufReader::new(maps);
    let mut line = Vec::new();
    let mut found = Maps::Nothing;
    for _ in 0..MAPPINGS {
        line.clear();
        // A path may hold any bytes.
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return Some(found),
            Ok(_) => found = Maps::Others,
            Err(e) => return dead(e),
        }
        if mapped_file(&String::from_utf8_lossy(&line)) == Some(file) {
            return Some(Maps::File);
        }
    }
    None
}

/// Mappings of a process that are looked at. The kernel allows 16 times as many by default; to
/// read about those takes longer than others should wait.
const MAPPINGS: usize = 4096;

/// A file as `/proc/PID/maps` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    major: u32,
    minor: u32,
    inode: u64,
}

impl FileId {
    /// The file behind `fd`.
    pub fn of(fd: impl AsFd) -> Result<Self, Errno> {
        let stat = fstat(fd)?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        Ok(Self { major, minor, inode: stat.st_ino })
    }
}

/// The file of one line `from-to perms offset major:minor inode path`.
fn mapped_file(line: &str) -> Option<FileId> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    Some(FileId {
        major: u32::from_str_radix(major, 16).ok()?,
        minor: u32::from_str_radix(minor, 16).ok()?,
        inode: fields.next()?.parse().ok()?,
    })
}

/// This kernel's boot id.
///
/// # Errors
/// `/proc` is not mounted, or holds something else.
pub fn boot_id() -> std::io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .map(u128::to_be_bytes)
        .map_err(|_| std::io::Error::other("/proc/sys/kernel/random/boot_id holds no boot id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_full_of_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 1";
        assert_eq!(stat_field(line, 3), Some("S"));
        assert_eq!(stat_field(line, 22), Some("98765"));
        assert_eq!(stat_field("42 nonsense", 22), None);
        assert_eq!(start_time(std::process::id()), start_time(std::process::id()));
        assert!(start_time(std::process::id()).is_some());
    }

    #[test]
    fn a_map_line_names_its_file() {
        let line = "7f00-7f01 rw-s 00200000 00:01 4100 /memfd:vshmem:x (deleted)\n";
        assert_eq!(mapped_file(line), Some(FileId { major: 0, minor: 1, inode: 4100 }));
        assert_eq!(mapped_file("garbage"), None);
    }

    #[test]
    fn this_program_maps_its_own_file_and_no_other() {
        let exe = fs::File::open("/proc/self/exe").unwrap();
        let exe = FileId::of(&exe).unwrap();
        assert_eq!(maps(std::process::id(), exe), Some(true));
        assert_eq!(maps(std::process::id(), FileId { inode: u64::MAX, ..exe }), Some(false));
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_maps_what_it_maps() {
        let file = fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let file = FileId::of(&file).unwrap();
        // SAFETY: the child runs what is below, and takes no locks that other threads may hold but
        // the allocator's, which the C library keeps whole over a fork.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)));
            // SAFETY: ends this thread alone.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        }
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat_field(&stat, 3).map(str::to_owned)
        };
        let begun = std::time::Instant::now();
        while state().as_deref() != Some("Z") {
            assert!(begun.elapsed().as_secs() < 20);
            std::thread::yield_now();
        }
        let seen = maps(pid as u32, file);
        // SAFETY: no pointers; the child made above.
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        assert_eq!(seen, Some(true));
        assert_eq!(maps(pid as u32, file), None, "it is gone");
    }
}
