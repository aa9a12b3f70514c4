//! Every call of the crate, with arguments drawn from a seed.

use super::mem::Hostile;
use super::rng::Rng;
use vshmem_core::layout::{Limit, Table, peer, task};
use vshmem_core::region::Kind;
use vshmem_core::task::{NewTask, Owner};
use vshmem_core::{Lane, LaneId, Region};
use vshmem_sysv::park::{self, Key, Limits};
use vshmem_sysv::proc::{File, Listing};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, Result, msg, object, reap, sem, shm};

type R = Region<Hostile>;

/// Objects that calls are about.
#[derive(Clone, Default, Debug)]
pub struct Ids {
    pub sets: Vec<i32>,
    pub queues: Vec<i32>,
    pub segs: Vec<i32>,
}

/// Who makes a call, and about what.
pub struct Scope<'a> {
    pub r: &'a R,
    pub on: &'a mut Lane,
    pub c: &'a Caller,
    pub others: &'a [Caller],
    pub ids: &'a Ids,
}

/// The calls by name; [`make`] makes one.
pub const CALLS: [&str; 53] = [
    "shmget",
    "shmat",
    "shmat and shmdt",
    "shmat taken back",
    "detach_all",
    "inherit",
    "shmctl IPC_STAT",
    "SHM_STAT",
    "shmctl IPC_SET",
    "SHM_LOCK",
    "shmctl IPC_RMID",
    "SHM_INFO",
    "destroy_orphans",
    "semget",
    "semop",
    "semop",
    "semop",
    "semop fast",
    "GETALL",
    "GETNCNT",
    "GETVAL",
    "SEM_INFO",
    "semctl IPC_RMID",
    "semctl IPC_SET",
    "SETALL",
    "SETVAL",
    "SEM_STAT",
    "msgget",
    "msgsnd",
    "msgsnd",
    "msgrcv",
    "msgrcv",
    "msgctl IPC_STAT",
    "MSG_STAT",
    "msgctl IPC_SET",
    "msgctl IPC_RMID",
    "MSG_INFO",
    "verify",
    "park",
    "unpark",
    "nudge_own",
    "proc text",
    "proc store",
    "reap task",
    "reap peer",
    "rescan",
    "withdraw",
    "abandon",
    "interrupt",
    "attach a task",
    "drain wakes",
    "listings",
    "region check",
];

fn one(rng: &mut Rng, of: &[i32]) -> i32 {
    match rng.below(20) {
        0 => rng.draw() as i32,
        1 => of[0] ^ 1 << rng.below(31),
        _ => of[rng.below(of.len())],
    }
}

fn key(rng: &mut Rng) -> i32 {
    [0, 1, 2, 3, 77, 78, 79][rng.below(7)]
}

fn flags(rng: &mut Rng) -> i32 {
    [0o1600, 0o600, 0o3600, 0o1666, 0][rng.below(5)]
}

fn ops(rng: &mut Rng) -> Vec<SemBuf> {
    let n = [1, 1, 1, 2, 3, 20, 500][rng.below(7)];
    let wide = if rng.percent(80) { 2 } else { 40 };
    let mut op = || SemBuf {
        num: rng.below(wide) as u16,
        op: [1, -1, 0, 2, -3, 32_767, -32_768][rng.below(7)],
        flg: [0, 0x1000, 0o4000, 0x1000 | 0o4000][rng.below(4)],
    };
    (0..n).map(|_| op()).collect()
}

/// Makes call number `n` of [`CALLS`].
pub fn make(n: usize, rng: &mut Rng, scope: Scope<'_>) -> Result<()> {
    let Scope { r, on, c, others, ids } = scope;
    let nowait = if rng.percent(40) { 0o4000 } else { 0 };
    let soon = Some(vshmem_core::mem::Park::now(r.mem()) + 5_000_000);
    let (set, queue, seg) = (one(rng, &ids.sets), one(rng, &ids.queues), one(rng, &ids.segs));
    let other = &others[rng.below(others.len())];
    let size = [0, 1, 60, 100, 300, 4000, 8192][rng.below(7)];
    let index = rng.below(6) as i32;
    let place =
        |rng: &mut Rng| Key { seg: rng.below(4) as u32, life: 0, at: rng.below(3) as u64 * 64 };
    match CALLS[n] {
        "shmget" => {
            let size = [1, 4096, 70_000, 300_000, 4 << 20, u64::MAX][rng.below(6)];
            shm::get(r, on, c, key(rng), size, flags(rng)).map(drop)
        }
        "shmat" => shm::attach(r, on, c, seg, [0, 4, 6][rng.below(3)]).map(drop),
        "shmat and shmdt" => {
            let a = shm::attach(r, on, c, seg, 6)?;
            shm::detach(r, on, c, a.seg, a.life)
        }
        "shmat taken back" => {
            let a = shm::attach(r, on, c, seg, 6)?;
            shm::cancel(r, on, c, a.seg, a.life, a.before)
        }
        "detach_all" => shm::detach_all(r, on, c.task),
        "inherit" => shm::inherit(r, on, c.task, other.task, |_, _| 0),
        "shmctl IPC_STAT" => shm::stat(r, on, c, seg).map(drop),
        "SHM_STAT" => shm::stat_index(r, on, c, index, rng.percent(50)).map(drop),
        "shmctl IPC_SET" => shm::set(r, on, c, seg, 1000, 1000, 0o666),
        "SHM_LOCK" => shm::set_locked(r, on, c, seg, rng.percent(50), 1 << 20),
        "shmctl IPC_RMID" => shm::remove(r, on, c, seg),
        "SHM_INFO" => shm::info(r).map(drop),
        "destroy_orphans" => shm::destroy_orphans(r, on),
        "semget" => {
            let n = [0, 1, 2, 40, 1000, 32_000][rng.below(6)];
            sem::get(r, on, c, key(rng), n, flags(rng)).map(drop)
        }
        "semop" => sem::op(r, on, c, set, &ops(rng), soon),
        "semop fast" => sem::op_fast(r, c, set, ops(rng)[0]).unwrap_or(Ok(())),
        "GETALL" => sem::getall(r, on, c, set).map(drop),
        "GETNCNT" => {
            sem::getncnt(r, on, c, set, index)?;
            sem::getzcnt(r, on, c, set, index).map(drop)
        }
        "GETVAL" => {
            sem::getval(r, on, c, set, index)?;
            sem::getpid(r, on, c, set, index).map(drop)
        }
        "SEM_INFO" => sem::info(r).map(drop),
        "semctl IPC_RMID" => sem::remove(r, on, c, set),
        "semctl IPC_SET" => sem::set(r, on, c, set, 1000, 1000, 0o666),
        "SETALL" => {
            let n = sem::nsems(r, c, set)?;
            assert!(n <= 1 << 15, "SETALL would want {n} values of the program");
            sem::setall(r, on, c, set, &vec![3; n])
        }
        "SETVAL" => sem::setval(r, on, c, set, index, 5),
        "SEM_STAT" => {
            sem::stat(r, on, c, set)?;
            sem::stat_index(r, on, c, index, rng.percent(50)).map(drop)
        }
        "msgget" => msg::get(r, on, c, key(rng), flags(rng)).map(drop),
        "msgsnd" => {
            let mtype = [1, 2, 7, i64::MAX][rng.below(4)];
            msg::send(r, on, c, queue, mtype, &vec![7; size][..], nowait, soon)
        }
        "msgrcv" => {
            let mtype = [0, 0, 1, 2, -3, -i64::MAX, i64::MIN][rng.below(7)];
            let flags = nowait | [0, 0o10_000, 0o20_000, 0o44_000][rng.below(4)];
            msg::recv(r, on, c, queue, &mut vec![0; size][..], mtype, flags, soon).map(drop)
        }
        "msgctl IPC_STAT" => msg::stat(r, on, c, queue).map(drop),
        "MSG_STAT" => msg::stat_index(r, on, c, index, rng.percent(50)).map(drop),
        "msgctl IPC_SET" => {
            msg::set(r, on, c, queue, 1000, 1000, 0o666, [100, 16_384, 1 << 40][rng.below(3)])
        }
        "msgctl IPC_RMID" => msg::remove(r, on, c, queue),
        "MSG_INFO" => msg::info(r).map(drop),
        "verify" => msg::verify(r, on, index as u32),
        "park" => {
            let limits = Limits { deadline: soon, owner: None };
            park::wait(r, on, c, place(rng), limits, || true)
        }
        "unpark" => {
            let key = place(rng);
            if park::anyone(r, key)? {
                park::wake(r, on, key, [1, 2, u32::MAX][rng.below(3)])?;
            }
            Ok(())
        }
        "nudge_own" => park::nudge_own(r, on, c),
        "proc text" => {
            let listing = [Listing::Shm, Listing::Sem, Listing::Msg][rng.below(3)];
            File::Sysvipc(listing).show(r, on, c)?;
            File::Sem.show(r, on, c).map(drop)
        }
        "proc store" => {
            let root = Caller { uid: 0, ..c.clone() };
            let limit = [Limit::ShmRmidForced, Limit::Msgmnb, Limit::Semmns][rng.below(3)];
            let text = [&b"1"[..], b"0", b"32000", b"99999999999"][rng.below(4)];
            File::Limit(limit).store(r, on, &root, text).map(drop)
        }
        "reap task" => reap::task(r, on, other.task),
        "reap peer" => {
            r.set_peer_state(1, peer::DEAD)?;
            reap::peer(r, on, 1)
        }
        "rescan" => reap::rescan(r, on, [0, 1][rng.below(2)]),
        "withdraw" => {
            let (kind, id) =
                [(Kind::Seg, seg), (Kind::Set, set), (Kind::Queue, queue)][rng.below(3)];
            vshmem_sysv::withdraw(r, on, c, kind, id)?;
            vshmem_sysv::withdrawn_to(r, kind, index).map(drop)
        }
        "abandon" => vshmem_sysv::abandon(r, on),
        "interrupt" => {
            let lanes = r.table(Table::Lanes).count as usize;
            vshmem_sysv::interrupt(r, on, LaneId(rng.below(lanes) as u32))
        }
        "attach a task" => {
            let new =
                NewTask { peer: 0, pid: 99, start: 1, uid: 1000, comm: "new", state: task::LIVE };
            let Some(id) = r.claim_task(on, &new)? else { return Ok(()) };
            let Some(lane) = r.claim_lane(Owner::Task(id))? else { return Ok(()) };
            r.name_task(id, 100, 7)?;
            r.set_command(id, "renamed")?;
            r.set_keeper(id, c.task)?;
            r.release_lane(lane.id(), Owner::Task(id))?;
            Ok(())
        }
        "drain wakes" => {
            r.post_wake(1, on.id())?;
            r.drain_wakes(rng.below(2) as u32, |_| ())?;
            Ok(())
        }
        "listings" => {
            r.peers()?;
            r.tasks()?;
            r.name()?;
            r.pages()?;
            reap::objects(r)?;
            for kind in Kind::ALL {
                object::indices(r, kind)?;
            }
            r.claim_peer(7, [3; 16], 2, "late")?;
            Ok(())
        }
        "region check" => {
            // Its bound is the region's size, several times over.
            vshmem_sysv::check::look(r, on).map(drop)
        }
        other => unreachable!("no call {other}"),
    }
}
