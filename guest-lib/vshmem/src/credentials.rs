//! Who the calling process is, as permission checks need it.

use crate::keeper::Rights;
use crate::sys;
use std::sync::OnceLock;
use vshmem_core::task::{Identity, TaskId};
use vshmem_sysv::{Caller, Perm};

const CAP_IPC_LOCK: u32 = 14;
const CAP_IPC_OWNER: u32 = 15;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// One line of `/proc/self/uid_map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    inside: u32,
    outside: u32,
    count: u32,
}

/// How the ids of this process's user namespace read outside of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ids {
    users: Vec<Span>,
    groups: Vec<Span>,
}

/// What an id without a name outside reads as.
const OVERFLOW: u32 = 65534;

fn parse(text: &str) -> Vec<Span> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace().map(|f| f.parse().ok());
        let mut next = || fields.next().flatten();
        Some(Span { inside: next()?, outside: next()?, count: next()? })
    };
    text.lines().filter_map(line).collect()
}

fn translate(spans: &[Span], id: u32) -> u32 {
    if spans.is_empty() {
        return id;
    }
    let of = |s: &Span| {
        let n = id.checked_sub(s.inside).filter(|n| *n < s.count)?;
        s.outside.checked_add(n)
    };
    spans.iter().find_map(of).unwrap_or(OVERFLOW)
}

/// The id inside that reads as `id` outside.
fn back(spans: &[Span], id: u32) -> u32 {
    if spans.is_empty() {
        return id;
    }
    let of = |s: &Span| {
        let n = id.checked_sub(s.outside).filter(|n| *n < s.count)?;
        s.inside.checked_add(n)
    };
    spans.iter().find_map(of).unwrap_or(OVERFLOW)
}

/// The id outside of `id`; what names nobody, where there is none.
fn named(spans: &[Span], id: u32) -> u32 {
    let inside = |s: &Span| id.checked_sub(s.inside).is_some_and(|n| n < s.count);
    if spans.is_empty() || spans.iter().any(inside) { translate(spans, id) } else { u32::MAX }
}

/// Of a name space whose ids are not written down yet, and which has no names for anybody.
const UNWRITTEN: Span = Span { inside: 0, outside: 0, count: 0 };

impl Ids {
    /// As [`Ids::read`] for a process that has changed its user name space: nobody has a name there
    /// until somebody says so.
    pub fn of_new() -> Self {
        let Self { mut users, mut groups } = Self::read();
        for spans in [&mut users, &mut groups] {
            if spans.is_empty() {
                spans.push(UNWRITTEN);
            }
        }
        Self { users, groups }
    }

    /// How ids of the region read inside.
    pub fn inside(&self, perm: Perm) -> Perm {
        Perm {
            uid: back(&self.users, perm.uid),
            gid: back(&self.groups, perm.gid),
            cuid: back(&self.users, perm.cuid),
            cgid: back(&self.groups, perm.cgid),
            ..perm
        }
    }

    /// The region's ids of a user and a group; -1 for one that has none, which is refused.
    pub fn outside(&self, uid: u32, gid: u32) -> (u32, u32) {
        (named(&self.users, uid), named(&self.groups, gid))
    }

    /// Read from `/proc`; where that is missing, ids are taken as they are.
    pub fn read() -> Self {
        let read = |path| parse(&String::from_utf8_lossy(&sys::read(path)));
        Self { users: read(c"/proc/self/uid_map"), groups: read(c"/proc/self/gid_map") }
    }

    /// Whether this is the initial namespace, or one that changes nothing: elsewhere root has no
    /// powers over objects that outsiders share.
    pub fn is_identity(&self) -> bool {
        let plain = |spans: &[Span]| spans.iter().all(|s| s.inside == s.outside && s.count > 65536);
        plain(&self.users) && plain(&self.groups)
    }
}

/// The effective capabilities.
fn capabilities() -> u64 {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: version 3 writes two of `Sets`; both structures are the kernel's.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if rc != 0 {
        return 0;
    }
    u64::from(sets[1].effective) << 32 | u64::from(sets[0].effective)
}

/// The caller as it is now.
pub(crate) fn caller(task: TaskId, who: Identity, ids: &Ids) -> Caller {
    let (uid, gid) = sys::effective();
    let rights = Rights { uid, gid, groups: sys::groups(), capabilities: capabilities() };
    translated(task, who, &rights, ids)
}

impl Rights {
    /// The process's own, with its ids as they read outside and without powers.
    pub(crate) fn of_caller(ids: &Ids) -> Self {
        let (uid, gid) = sys::effective();
        let (users, groups) = (&ids.users, &ids.groups);
        Self {
            uid: translate(users, uid),
            gid: translate(groups, gid),
            groups: sys::groups().into_iter().map(|g| translate(groups, g)).collect(),
            capabilities: 0,
        }
    }
}

/// The caller `now` after it has changed its user name space: who it is stays; what it is called
/// inside may only be known later. Its powers are over that name space.
pub(crate) fn moved(now: &Caller, was: &Rights, ids: &Ids) -> Caller {
    let (uid, gid) = sys::effective();
    // An id that has a name is what that says; another is what it was.
    let known = |spans: &[Span], id, was| match named(spans, id) {
        u32::MAX => was,
        id => id,
    };
    Caller {
        uid: known(&ids.users, uid, was.uid),
        gid: known(&ids.groups, gid, was.gid),
        groups: was.groups.clone(),
        ipc_owner: false,
        sys_admin: false,
        sys_resource: false,
        ..now.clone()
    }
}

/// The caller that somebody else is, of whom this process knows the rights.
pub(crate) fn caller_with(task: TaskId, who: Identity, rights: &Rights) -> Caller {
    static HERE: OnceLock<Ids> = OnceLock::new();
    translated(task, who, rights, HERE.get_or_init(Ids::read))
}

fn translated(task: TaskId, who: Identity, rights: &Rights, ids: &Ids) -> Caller {
    let all = if ids.is_identity() { rights.capabilities } else { 0 };
    let can = |cap: u32| all & (1 << cap) != 0;
    Caller {
        task,
        who,
        uid: translate(&ids.users, rights.uid),
        gid: translate(&ids.groups, rights.gid),
        groups: rights.groups.iter().map(|g| translate(&ids.groups, *g)).collect(),
        ipc_owner: can(CAP_IPC_OWNER),
        sys_admin: can(CAP_SYS_ADMIN),
        ipc_lock: can(CAP_IPC_LOCK),
        sys_resource: can(CAP_SYS_RESOURCE),
    }
}

/// Whether two callers have the same rights.
pub(crate) fn same(a: &Caller, b: &Caller) -> bool {
    let powers = |c: &Caller| (c.ipc_lock, c.ipc_owner, c.sys_admin, c.sys_resource);
    (a.uid, a.gid, &a.groups) == (b.uid, b.gid, &b.groups) && powers(a) == powers(b)
}

/// Threads of this process; more than one where it cannot be seen.
pub(crate) fn threads() -> u64 {
    let Ok(stat) = sys::stat(c"/proc/self/task") else { return u64::MAX };
    // A directory links to itself, its parent, and each child.
    #[allow(clippy::useless_conversion, reason = "the width differs between architectures")]
    u64::from(stat.st_nlink).saturating_sub(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_user_namespace_are_translated_and_root_there_has_no_powers() {
        let spans = parse("         0     100000      65536\n     65536  5  1\n");
        assert_eq!(translate(&spans, 0), 100_000);
        assert_eq!(translate(&spans, 65_535), 165_535);
        assert_eq!(translate(&spans, 65_536), 5);
        assert_eq!(translate(&spans, 70_000), OVERFLOW);
        assert!(!Ids { users: spans.clone(), groups: spans.clone() }.is_identity());
        assert_eq!(back(&spans, 100_007), 7);
        assert_eq!(back(&spans, 7), OVERFLOW);
        assert_eq!(named(&spans, 65_536), 5);
        assert_eq!(named(&spans, 70_000), u32::MAX);
        assert_eq!((back(&[UNWRITTEN], 0), named(&[UNWRITTEN], 0)), (OVERFLOW, u32::MAX));
        let plain = parse("         0          0 4294967295\n");
        assert_eq!(translate(&plain, 1000), 1000);
        assert!(Ids { users: plain.clone(), groups: plain }.is_identity());
    }

    #[test]
    fn a_new_thread_is_counted() {
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv().is_err());
        assert!(threads() >= 2);
        drop(tell);
        thread.join().unwrap();
    }
}
