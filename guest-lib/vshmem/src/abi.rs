//! The structures of `<sys/ipc.h>`, `<sys/shm.h>`, `<sys/sem.h>` and `<sys/msg.h>`, as 64-bit glibc
//! and the kernel have them: for whoever serves calls that C programs make.
//!
//! What the fields mean, the manual pages say.
#![allow(missing_docs, reason = "named as in <sys/ipc.h> and its relatives, without the prefix")]

use vshmem_sysv as sysv;

/// `struct ipc_perm`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct IpcPerm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pad: [u16; 3],
    reserved: [u64; 2],
}

/// `struct shmid_ds`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct ShmidDs {
    pub perm: IpcPerm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
    reserved: [u64; 2],
}

/// `struct semid_ds`: x86 keeps the gaps that once made room for the upper half of the times.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct SemidDs {
    pub perm: IpcPerm,
    pub otime: i64,
    #[cfg(target_arch = "x86_64")]
    gap1: u64,
    pub ctime: i64,
    #[cfg(target_arch = "x86_64")]
    gap2: u64,
    pub nsems: u64,
    reserved: [u64; 2],
}

/// `struct msqid_ds`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct MsqidDs {
    pub perm: IpcPerm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
    reserved: [u64; 2],
}

/// `struct seminfo`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct SemInfo {
    pub semmap: i32,
    pub semmni: i32,
    pub semmns: i32,
    pub semmnu: i32,
    pub semmsl: i32,
    pub semopm: i32,
    pub semume: i32,
    pub semusz: i32,
    pub semvmx: i32,
    pub semaem: i32,
}

/// `struct shminfo`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct ShmLimits {
    pub shmmax: u64,
    pub shmmin: u64,
    pub shmmni: u64,
    pub shmseg: u64,
    pub shmall: u64,
    pub reserved: [u64; 4],
}

/// `struct shm_info`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct ShmUsage {
    pub used_ids: i32,
    pub pad: i32,
    pub shm_tot: u64,
    pub shm_rss: u64,
    pub shm_swp: u64,
    pub swap_attempts: u64,
    pub swap_successes: u64,
}

/// `struct msginfo`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct MsgInfo {
    pub msgpool: i32,
    pub msgmap: i32,
    pub msgmax: i32,
    pub msgmnb: i32,
    pub msgmni: i32,
    pub msgssz: i32,
    pub msgtql: i32,
    pub msgseg: u16,
    pub pad: u16,
}

/// `struct sembuf`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Sembuf {
    pub num: u16,
    pub op: i16,
    pub flg: i16,
}

impl From<Sembuf> for sysv::sem::SemBuf {
    fn from(s: Sembuf) -> Self {
        Self { num: s.num, op: s.op, flg: s.flg }
    }
}

impl From<sysv::Perm> for IpcPerm {
    fn from(p: sysv::Perm) -> Self {
        Self {
            key: p.key,
            uid: p.uid,
            gid: p.gid,
            cuid: p.cuid,
            cgid: p.cgid,
            mode: p.mode,
            seq: p.seq as u16,
            ..Self::default()
        }
    }
}

impl From<sysv::shm::SegStat> for ShmidDs {
    fn from(s: sysv::shm::SegStat) -> Self {
        Self {
            perm: s.perm.into(),
            segsz: s.size,
            atime: s.atime.cast_signed(),
            dtime: s.dtime.cast_signed(),
            ctime: s.ctime.cast_signed(),
            cpid: s.cpid,
            lpid: s.lpid,
            nattch: s.nattch,
            ..Self::default()
        }
    }
}

impl From<sysv::sem::SetStat> for SemidDs {
    fn from(s: sysv::sem::SetStat) -> Self {
        Self {
            perm: s.perm.into(),
            otime: s.otime.cast_signed(),
            ctime: s.ctime.cast_signed(),
            nsems: s.nsems.into(),
            ..Self::default()
        }
    }
}

impl From<sysv::msg::QueueStat> for MsqidDs {
    fn from(s: sysv::msg::QueueStat) -> Self {
        Self {
            perm: s.perm.into(),
            stime: s.stime.cast_signed(),
            rtime: s.rtime.cast_signed(),
            ctime: s.ctime.cast_signed(),
            cbytes: s.cbytes,
            qnum: s.qnum,
            qbytes: s.qbytes,
            lspid: s.lspid,
            lrpid: s.lrpid,
            ..Self::default()
        }
    }
}

/// The commands of `shmctl`, `semctl` and `msgctl`.
pub mod cmd {
    pub const IPC_RMID: i32 = 0;
    pub const IPC_SET: i32 = 1;
    pub const IPC_STAT: i32 = 2;
    pub const IPC_INFO: i32 = 3;
    pub const SHM_LOCK: i32 = 11;
    pub const SHM_UNLOCK: i32 = 12;
    pub const SHM_STAT: i32 = 13;
    pub const SHM_INFO: i32 = 14;
    pub const SHM_STAT_ANY: i32 = 15;
    pub const GETPID: i32 = 11;
    pub const GETVAL: i32 = 12;
    pub const GETALL: i32 = 13;
    pub const GETNCNT: i32 = 14;
    pub const GETZCNT: i32 = 15;
    pub const SETVAL: i32 = 16;
    pub const SETALL: i32 = 17;
    pub const SEM_STAT: i32 = 18;
    pub const SEM_INFO: i32 = 19;
    pub const SEM_STAT_ANY: i32 = 20;
    pub const MSG_STAT: i32 = 11;
    pub const MSG_INFO: i32 = 12;
    pub const MSG_STAT_ANY: i32 = 13;
}

const _: () = {
    assert!(size_of::<IpcPerm>() == size_of::<libc::ipc_perm>() && size_of::<IpcPerm>() == 48);
    assert!(size_of::<ShmidDs>() == size_of::<libc::shmid_ds>());
    assert!(size_of::<SemidDs>() == size_of::<libc::semid_ds>());
    assert!(size_of::<MsqidDs>() == size_of::<libc::msqid_ds>());
    assert!(size_of::<MsgInfo>() == size_of::<libc::msginfo>());
    assert!(size_of::<SemInfo>() == size_of::<libc::seminfo>());
    assert!(size_of::<Sembuf>() == size_of::<libc::sembuf>());
    assert!(size_of::<sysv::sem::SemBuf>() == size_of::<Sembuf>());
    assert!(size_of::<ShmLimits>() == 72 && size_of::<ShmUsage>() == 48);
    assert!(std::mem::offset_of!(ShmidDs, nattch) == 88);
    assert!(std::mem::offset_of!(MsqidDs, lspid) == 96);
};
