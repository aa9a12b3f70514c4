//! What `/proc/sysvipc/*` and `/proc/sys/kernel/*` say of a region, and what writing there does:
//! the kernel's text, byte for byte, and its way of reading numbers.

mod numbers;

use crate::object::indices;
use crate::{Caller, Errno, Error, Result, msg, sem, shm};
use std::fmt::Write;
use vshmem_core::layout::{Limit, PAGE};
use vshmem_core::region::Kind;
use vshmem_core::{Lane, Platform, Region};

/// A file of `/proc` that speaks of System V IPC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum File {
    /// A listing.
    Sysvipc(Listing),
    /// One number: a limit.
    Limit(Limit),
    /// `sem`: `semmsl`, `semmns`, `semopm` and `semmni`.
    Sem,
    /// `auto_msgmni`: without effect, as in every kernel since 3.19.
    AutoMsgmni,
    /// `*_next_id`: a wish for the next id, which a region does not fulfil.
    NextId(Listing),
}

/// A kind of object, in the order of `ipcs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listing {
    /// Segments.
    Shm,
    /// Sets.
    Sem,
    /// Queues.
    Msg,
}

/// All of them, without `/proc/`.
const FILES: [(&str, File); 15] = [
    ("sysvipc/shm", File::Sysvipc(Listing::Shm)),
    ("sysvipc/sem", File::Sysvipc(Listing::Sem)),
    ("sysvipc/msg", File::Sysvipc(Listing::Msg)),
    ("sys/kernel/shmmax", File::Limit(Limit::Shmmax)),
    ("sys/kernel/shmall", File::Limit(Limit::Shmall)),
    ("sys/kernel/shmmni", File::Limit(Limit::Shmmni)),
    ("sys/kernel/shm_rmid_forced", File::Limit(Limit::ShmRmidForced)),
    ("sys/kernel/msgmax", File::Limit(Limit::Msgmax)),
    ("sys/kernel/msgmnb", File::Limit(Limit::Msgmnb)),
    ("sys/kernel/msgmni", File::Limit(Limit::Msgmni)),
    ("sys/kernel/sem", File::Sem),
    ("sys/kernel/auto_msgmni", File::AutoMsgmni),
    ("sys/kernel/shm_next_id", File::NextId(Listing::Shm)),
    ("sys/kernel/sem_next_id", File::NextId(Listing::Sem)),
    ("sys/kernel/msg_next_id", File::NextId(Listing::Msg)),
];

/// The limits of `sem`, in its order.
const SEM: [Limit; 4] = [Limit::Semmsl, Limit::Semmns, Limit::Semopm, Limit::Semmni];

const SHM_HEAD: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  \
                        cuid  cgid      atime      dtime      ctime                   rss          \
                                \x20       swap\n";
const SEM_HEAD: &str =
    "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
const MSG_HEAD: &str = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  \
                        cuid  cgid      stime      rtime      ctime\n";

impl File {
    /// The file at `path`, which begins behind `/proc/` and has no detours.
    #[must_use]
    pub fn at(path: &[u8]) -> Option<Self> {
        FILES.iter().find(|(name, _)| name.as_bytes() == path).map(|(_, file)| *file)
    }

    /// The kind of object it speaks of.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Sysvipc(Listing::Shm)
            | Self::NextId(Listing::Shm)
            | Self::Limit(Limit::Shmmni | Limit::Shmall | Limit::Shmmax | Limit::ShmRmidForced) => {
                Kind::Seg
            }
            Self::Sysvipc(Listing::Msg)
            | Self::NextId(Listing::Msg)
            | Self::Limit(Limit::Msgmax | Limit::Msgmnb | Limit::Msgmni)
            | Self::AutoMsgmni => Kind::Queue,
            Self::Sysvipc(Listing::Sem)
            | Self::NextId(Listing::Sem)
            | Self::Limit(Limit::Semmsl | Limit::Semmns | Limit::Semopm | Limit::Semmni)
            | Self::Sem => Kind::Set,
        }
    }

    /// Its path behind `/proc/`.
    #[must_use]
    pub fn path(self) -> &'static str {
        FILES.iter().find(|(_, file)| *file == self).map_or("", |(path, _)| *path)
    }

    /// Whether some file has this last component.
    #[must_use]
    pub fn is_name(name: &[u8]) -> bool {
        let last = |path: &str| path.rsplit('/').next().map(str::as_bytes) == Some(name);
        FILES.iter().any(|(path, _)| last(path))
    }

    /// Whether `c` may write to it: as in the kernel root alone, and whom the region belongs to.
    ///
    /// # Errors
    /// `EACCES`, as opening it gives.
    pub fn writable<P: Platform>(self, r: &Region<P>, c: &Caller) -> Result<()> {
        let fixed = matches!(self, Self::Sysvipc(_) | Self::NextId(_));
        if fixed || (c.uid != 0 && c.uid != r.owner()?) {
            return Err(Errno::EACCES.into());
        }
        Ok(())
    }

    /// Its text.
    ///
    /// # Errors
    /// The region is corrupt.
    pub fn show<P: Platform>(self, r: &Region<P>, on: &mut Lane, c: &Caller) -> Result<String> {
        match self {
            Self::Sysvipc(Listing::Shm) => segments(r, on, c),
            Self::Sysvipc(Listing::Sem) => sets(r, on, c),
            Self::Sysvipc(Listing::Msg) => queues(r, on, c),
            Self::Limit(limit) => Ok(format!("{}\n", r.limit(limit)?)),
            Self::Sem => {
                let [a, b, c, d] = SEM.map(|limit| r.limit(limit));
                Ok(format!("{}\t{}\t{}\t{}\n", a?, b?, c?, d?))
            }
            Self::AutoMsgmni => Ok("0\n".to_owned()),
            Self::NextId(_) => Ok("-1\n".to_owned()),
        }
    }

    /// Does what writing `text` at its beginning does; how many bytes were taken.
    ///
    /// # Errors
    /// `EACCES`; `EINVAL`: no number, a number out of range, or more than the region has room for;
    /// `ERANGE`: `semmni` is. Of several numbers those before the wrong one count, as in the kernel.
    pub fn store<P: Platform>(
        self,
        r: &Region<P>,
        on: &mut Lane,
        c: &Caller,
        text: &[u8],
    ) -> Result<usize> {
        self.writable(r, c)?;
        match self {
            Self::Limit(limit @ (Limit::Shmmax | Limit::Shmall)) => {
                numbers::longs(text, 1, |_, n| set(r, limit, n))
            }
            Self::Limit(limit) => {
                let done = numbers::ints(text, 1, |_, n| set(r, limit, positive(n)?))?;
                if limit == Limit::ShmRmidForced && r.limit(limit)? == 1 {
                    shm::destroy_orphans(r, on)?;
                }
                Ok(done)
            }
            Self::Sem => {
                let mut last = None;
                let done = numbers::ints(text, 4, |i, n| match SEM[i] {
                    Limit::Semmni => {
                        last = Some(n);
                        Ok(())
                    }
                    limit => set(r, limit, positive(n)?),
                })?;
                if let Some(n) = last {
                    let n = u64::try_from(n).ok().filter(|n| *n <= IPCMNI).ok_or(Errno::ERANGE)?;
                    set(r, Limit::Semmni, n)?;
                }
                Ok(done)
            }
            Self::AutoMsgmni => numbers::ints(text, 1, |_, n| match n {
                0 | 1 => Ok(()),
                _ => Err(Errno::EINVAL.into()),
            }),
            Self::Sysvipc(_) | Self::NextId(_) => Err(Errno::EACCES.into()),
        }
    }
}

/// Objects of a kind that the kernel lets there be.
const IPCMNI: u64 = 32_768;

fn positive(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| Errno::EINVAL.into())
}

fn set<P: Platform>(r: &Region<P>, limit: Limit, n: u64) -> Result<()> {
    if r.set_limit(limit, n)? { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

/// What is there of a kind, by index; what goes meanwhile is left out.
fn each<P: Platform, T>(
    r: &Region<P>,
    kind: Kind,
    mut stat: impl FnMut(i32) -> Result<T>,
    mut line: impl FnMut(T),
) -> Result<()> {
    for index in indices(r, kind)? {
        match stat(index as i32) {
            Ok(object) => line(object),
            Err(Error::Errno(_)) => {}
            Err(corrupt) => return Err(corrupt),
        }
    }
    Ok(())
}

fn segments<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller) -> Result<String> {
    let mut text = SHM_HEAD.to_owned();
    let stat = |i| shm::stat_index(r, on, c, i, true);
    each(r, Kind::Seg, stat, |(id, s)| {
        let p = s.perm;
        // All of a segment is in memory from the first.
        let rss = s.size.next_multiple_of(PAGE);
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} \
             {rss:21} {:21}",
            p.key,
            p.mode,
            s.size,
            s.cpid,
            s.lpid,
            s.nattch,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.atime,
            s.dtime,
            s.ctime,
            0
        );
    })?;
    Ok(text)
}

fn sets<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller) -> Result<String> {
    let mut text = SEM_HEAD.to_owned();
    let stat = |i| sem::stat_index(r, on, c, i, true);
    each(r, Kind::Set, stat, |(id, s)| {
        let p = s.perm;
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            p.key, p.mode, s.nsems, p.uid, p.gid, p.cuid, p.cgid, s.otime, s.ctime
        );
    })?;
    Ok(text)
}

fn queues<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller) -> Result<String> {
    let mut text = MSG_HEAD.to_owned();
    let stat = |i| msg::stat_index(r, on, c, i, true);
    each(r, Kind::Queue, stat, |(id, s)| {
        let p = s.perm;
        let _ = writeln!(
            text,
            "{:10} {id:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            p.key,
            p.mode,
            s.cbytes,
            s.qnum,
            s.lspid,
            s.lrpid,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.stime,
            s.rtime,
            s.ctime
        );
    })?;
    Ok(text)
}
