//! A region with much going on in it, from which each run starts anew.

use super::calls::{CALLS, Ids, Scope, make};
use super::lies::Liar;
use super::mem::{Died, Endless, Hostile};
use super::rng::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vshmem_core::format::Spec;
use vshmem_core::layout::{queue, task};
use vshmem_core::mem::HeapMem;
use vshmem_core::region::Kind;
use vshmem_core::task::{Identity, NewTask, Owner};
use vshmem_core::{Lane, LaneId, Region};
use vshmem_sysv::park::{Key, Limits};
use vshmem_sysv::sem::SemBuf;
use vshmem_sysv::{Caller, Error, Result, msg, park, sem, shm};

const CREATE: i32 = 0o1666;

/// See the [module](super).
pub struct Scene {
    pub(super) r: Region<Hostile>,
    callers: Vec<(Caller, LaneId)>,
    endpoint: LaneId,
    ids: Ids,
}

/// What came of a call.
pub enum Outcome {
    /// It returned.
    Done(Result<()>),
    /// It would sleep for ever, as it may.
    Died,
    /// It made more accesses than its bound; where it was.
    Endless(String),
    /// It panicked, with these words.
    Panicked(String),
}

fn caught(f: impl FnOnce() -> Result<()>) -> Outcome {
    match super::expecting(|| catch_unwind(AssertUnwindSafe(f))) {
        Ok(result) => Outcome::Done(result),
        Err(why) if why.is::<Died>() => Outcome::Died,
        Err(why) => match why.downcast::<Endless>() {
            Ok(endless) => Outcome::Endless(endless.0.to_string()),
            Err(_) => Outcome::Panicked(super::last_panic()),
        },
    }
}

impl Scene {
    /// A region in which tasks of two peers have objects, sleep, and have died in the middle of
    /// calls, all drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        // Most are small; in some so many sleep that they do not fit one journal.
        let crowd = if seed % 16 == 15 { 300 } else { 0 };
        let mut spec = Spec::new("scene", if crowd == 0 { 3 << 20 } else { 22 << 20 });
        spec.tasks = 16 + crowd;
        let mem = HeapMem::new(spec.len);
        Region::format(mem.clone(), &spec).unwrap();
        let r = Region::open(Hostile::new(mem)).unwrap();
        let mut on = r.claim_lane(Owner::Endpoint { peer: 0, incarnation: 0 }).unwrap().unwrap();
        r.claim_peer(3, [7; 16], 2, "guest").unwrap();
        let mut callers = Vec::new();
        for pid in 10..22 + crowd as u32 {
            let peer = u32::from(pid % 3 == 0);
            let new = NewTask { peer, pid, start: 1, uid: 1000, comm: "test", state: task::LIVE };
            let task = r.claim_task(&mut on, &new).unwrap().unwrap();
            let lane = r.claim_lane(Owner::Task(task)).unwrap().unwrap();
            let c = Caller {
                task,
                who: Identity::new(peer, pid),
                uid: 1000,
                gid: 1000,
                groups: Vec::new(),
                ipc_owner: false,
                ipc_lock: false,
                sys_admin: false,
                sys_resource: false,
            };
            callers.push((c, lane.id()));
        }
        let mut scene = Self { r, callers, endpoint: on.id(), ids: Ids::default() };
        scene.furnish(&mut Rng::new(seed));
        scene.r.mem().keep();
        scene
    }

    fn furnish(&mut self, rng: &mut Rng) {
        let r = &self.r;
        let (c, id) = &self.callers[0];
        let on = &mut Lane::new(*id);
        let ids = &mut self.ids;
        ids.sets = [1, 2, 40].map(|n| sem::get(r, on, c, n, n, CREATE).unwrap()).to_vec();
        ids.queues = [1, 2, 3].map(|k| msg::get(r, on, c, k, CREATE).unwrap()).to_vec();
        ids.segs =
            [4096, 200_000].map(|n| shm::get(r, on, c, n, n as u64, CREATE).unwrap()).to_vec();
        for n in 0..rng.below(6) {
            msg::send(r, on, c, ids.queues[0], 1 + n as i64 % 2, &[7; 90][..], 0, None).unwrap();
        }
        // A busy one, with messages in its ring.
        let busy = r.object(Kind::Queue, ids.queues[2] as u32 & 0x7fff).unwrap();
        r.init(busy.plus(queue::HAD), 16).unwrap();
        for n in 0..1 + rng.below(70) {
            msg::send(r, on, c, ids.queues[2], 1 + n as i64 % 3, &[7; 90][..], 0, None).unwrap();
        }
        assert_ne!(r.peek(busy.plus(queue::RING)).unwrap(), 0);
        for (c, id) in &self.callers[..4] {
            let on = &mut Lane::new(*id);
            shm::attach(r, on, c, ids.segs[rng.below(2)], 6).unwrap();
            for set in &ids.sets[1..] {
                let op = SemBuf { num: 1, op: 1 + rng.below(3) as i16, flg: 0x1000 };
                sem::op(r, on, c, *set, &[op], None).unwrap();
            }
        }
        // Some sleep.
        r.mem().sleeps_on.set(true);
        for (i, (c, id)) in self.callers[4..9].iter().enumerate() {
            let on = &mut Lane::new(*id);
            let down = SemBuf { num: 0, op: -5, flg: 0 };
            let undo = SemBuf { num: 1, op: -90, flg: 0x1000 };
            let (sets, queues) = (&ids.sets, &ids.queues);
            r.mem().begin(u64::MAX, None, false);
            caught(|| match i {
                0 => sem::op(r, on, c, sets[1], &[down], None),
                1 => sem::op(r, on, c, sets[1], &[down, undo], None),
                2 => msg::recv(r, on, c, queues[1], &mut [0; 100], -3, 0, None).map(drop),
                3 => {
                    while msg::send(r, on, c, queues[0], 5, &[1; 8000], 0, None).is_ok() {}
                    Ok(())
                }
                _ => {
                    let key = Key { seg: 0, life: 0, at: 64 };
                    park::wait(r, on, c, key, Limits::default(), || true)
                }
            });
        }
        for (i, (c, id)) in self.callers[12..].iter().enumerate() {
            let on = &mut Lane::new(*id);
            let ops = [SemBuf { num: 1, op: -100, flg: 0 }; 3];
            r.mem().begin(u64::MAX, None, false);
            caught(|| match i % 2 {
                0 => sem::op(r, on, c, ids.sets[2], &ops, None),
                _ => msg::recv(r, on, c, ids.queues[1], &mut [0; 100], 77, 0, None).map(drop),
            });
        }
        r.mem().sleeps_on.set(false);
        // And some have died in the middle of something.
        for i in 9..12 {
            let n = rng.below(CALLS.len() - 10);
            let death = 1 + (1u64 << rng.below(9)) / 2 + rng.below(20) as u64;
            let (c, id) = &self.callers[i];
            self.r.mem().begin(u64::MAX, Some(death), false);
            let _ = self.call(n, rng, c, &mut Lane::new(*id));
        }
    }

    /// Runs `f` as root of the first task, and takes back what it did.
    pub fn visit(&self, f: impl FnOnce(&Region<Hostile>, &mut Lane, &Caller)) {
        let (c, id) = &self.callers[0];
        let root = Caller { uid: 0, ..c.clone() };
        self.r.mem().begin(u64::MAX, None, false);
        f(&self.r, &mut Lane::new(*id), &root);
        self.r.mem().take_back();
    }

    fn call(&self, n: usize, rng: &mut Rng, c: &Caller, on: &mut Lane) -> Outcome {
        let others: Vec<_> = self.callers.iter().map(|(c, _)| c.clone()).collect();
        caught(|| make(n, rng, Scope { r: &self.r, on, c, others: &others, ids: &self.ids }))
    }

    /// Some calls, drawn from `rng`, while a peer tells `lies`; then everything is as before. `tell` hears of each call how
    /// many accesses it made, and what came of it.
    pub fn run(
        &self,
        mut rng: Rng,
        lies: Option<Rng>,
        mut tell: impl FnMut(&'static str, u64, Outcome),
    ) {
        let mem = self.r.mem();
        let liar = lies.map(|rng| Liar::new(rng, self.r.geometry()));
        *mem.liar.borrow_mut() = liar;
        let mut lanes: Vec<_> = self.callers.iter().map(|(_, id)| Lane::new(*id)).collect();
        for _ in 0..1 + rng.below(6) {
            let n = rng.below(CALLS.len());
            // Those who sleep or are dead make no calls.
            let who = rng.below(4);
            let (c, id) = &self.callers[who];
            if rng.percent(20) {
                lanes[who] = Lane::new(*id);
            }
            let signal = rng.percent(10);
            mem.begin(super::BOUND, None, signal);
            // What endpoints do, they do on a lane of theirs.
            let own = (43..46).contains(&n) || n == 49 || n == 52;
            let outcome = if own {
                self.call(n, &mut rng, c, &mut Lane::new(self.endpoint))
            } else {
                self.call(n, &mut rng, c, &mut lanes[who])
            };
            let ill = matches!(outcome, Outcome::Endless(_) | Outcome::Panicked(_));
            tell(CALLS[n], mem.accesses(), outcome);
            if ill {
                break;
            }
        }
        *mem.liar.borrow_mut() = None;
        mem.take_back();
    }
}

/// Whether a failure says what is wrong, and where: at a place in the region, or what would not be
/// one.
pub fn told(error: &Error, len: u64) -> bool {
    match error {
        Error::Corrupt(c) => !c.what.is_empty() && (c.at.0 < len || c.what.contains("outside")),
        Error::Errno(_) => true,
    }
}
