//! Peers, tasks and lanes: who is there, and what they own.

use crate::layout::{Table, lane, peer, task};
use crate::mem::{Corrupt, Offset, Ordering, Platform};
use crate::region::Region;
use crate::txn::{Lane, LaneId, next_cell};

/// A process as the region names it: its peer (6 bits) and its pid there (22 bits).
///
/// 0 is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity(pub u32);

impl Identity {
    const PID_BITS: u32 = 22;

    /// Process `pid` of peer `peer`.
    #[must_use]
    pub const fn new(peer: u32, pid: u32) -> Self {
        Self((peer & 63) << Self::PID_BITS | (pid & ((1 << Self::PID_BITS) - 1)))
    }

    /// Its peer.
    #[must_use]
    pub const fn peer(self) -> u32 {
        self.0 >> Self::PID_BITS & 63
    }

    /// Its pid in its own peer.
    #[must_use]
    pub const fn pid(self) -> u32 {
        self.0 & ((1 << Self::PID_BITS) - 1)
    }

    /// Its pid as a process of peer `of` sees it: 0 for foreign ones, as Linux shows a pid of
    /// another pid namespace.
    #[must_use]
    pub const fn pid_seen_by(self, of: u32) -> u32 {
        if self.peer() == of { self.pid() } else { 0 }
    }
}

/// Index of a task, and which of its successive owners is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TaskId {
    /// Its slot.
    pub index: u32,
    /// Which owner of the slot.
    pub incarnation: u64,
}

/// Who owns a lane: a task, or a peer's endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A task.
    Task(TaskId),
    /// The endpoint of a peer, in an incarnation of that peer.
    Endpoint {
        /// The peer.
        peer: u32,
        /// Its incarnation.
        incarnation: u32,
    },
}

impl Owner {
    const ENDPOINT: u64 = 0x8000;

    fn word(self) -> u64 {
        match self {
            Self::Task(t) => t.incarnation << 16 | (u64::from(t.index) + 1),
            Self::Endpoint { peer, incarnation } => {
                u64::from(incarnation) << 16 | Self::ENDPOINT | u64::from(peer)
            }
        }
    }

    pub(crate) fn from_word(word: u64) -> Option<Self> {
        match word & 0xffff {
            0 => None,
            low if low & Self::ENDPOINT != 0 => Some(Self::Endpoint {
                peer: (low & !Self::ENDPOINT) as u32,
                incarnation: (word >> 16) as u32,
            }),
            low => Some(Self::Task(TaskId { index: low as u32 - 1, incarnation: word >> 16 })),
        }
    }
}

/// State and ivshmem ID in the value of a peer's state cell.
#[must_use]
pub const fn peer_state(state: u32, ivshmem: u32) -> u32 {
    state | (ivshmem & 0xffff) << 8
}

/// A peer as its table entry tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its index; 0 is the host.
    pub index: u32,
    /// [`peer::LIVE`], [`peer::DEAD`] or [`peer::CLAIMED`].
    pub state: u32,
    /// Its ivshmem ID.
    pub ivshmem: u32,
    /// Declared dead while its kernel may come back, see [`peer::FENCED`].
    pub fenced: bool,
    /// Which owner of the index.
    pub incarnation: u32,
    /// The kernel's boot id.
    pub boot: [u8; 16],
    /// Its name.
    pub name: String,
}

/// A task as its slot tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// Its slot and owner.
    pub id: TaskId,
    /// [`task::CLAIMED`], [`task::LIVE`] or [`task::DYING`].
    pub state: u64,
    /// Its peer.
    pub peer: u32,
    /// Its pid there.
    pub pid: u32,
    /// Its start time there, in clock ticks since boot.
    pub start: u64,
    /// Its user.
    pub uid: u32,
    /// Its command name.
    pub comm: String,
    /// The task that makes its calls, if that is another.
    pub keeper: Option<TaskId>,
}

/// What a new task is.
#[derive(Clone, Copy, Debug)]
pub struct NewTask<'a> {
    /// Its peer.
    pub peer: u32,
    /// Its pid; of a child not yet born, its parent's.
    pub pid: u32,
    /// Its start time; 0 for a child not yet born.
    pub start: u64,
    /// Its user.
    pub uid: u32,
    /// Its command name; cut to 15 bytes.
    pub comm: &'a str,
    /// [`task::LIVE`], or [`task::CLAIMED`] for a child not yet born.
    pub state: u64,
}

impl<P: Platform> Region<P> {
    /// Enters a peer: takes the first free slot. `None` when all are taken.
    ///
    /// # Errors
    /// The table is corrupt.
    ///
    /// # If the caller dies
    /// The slot is `CLAIMED` under its ivshmem ID; the host frees it with that VM.
    pub fn claim_peer(
        &self,
        ivshmem: u32,
        boot: [u8; 16],
        vectors: u32,
        name: &str,
    ) -> Result<Option<u32>, Corrupt> {
        for index in 1..peer::COUNT as u32 {
            let at = self.element(Table::Peers, index)?;
            let old = self.mem().load(at.plus(peer::STATE), Ordering::Acquire)?;
            if old as u32 & 0xff != peer::EMPTY {
                continue;
            }
            let claimed = next_cell(old, peer_state(peer::CLAIMED, ivshmem));
            if !self.mem().cas(at.plus(peer::STATE), old, claimed)? {
                continue;
            }
            let incarnation = self.peek(at.plus(peer::INCARNATION))?;
            self.init(at.plus(peer::INCARNATION), incarnation.wrapping_add(1))?;
            self.init(at.plus(peer::VECTORS), vectors)?;
            self.mem().write_bytes(at.plus(peer::BOOT), &boot)?;
            self.put_text(at.plus(peer::NAME), name, 64)?;
            // The committing step: from here on the peer is there.
            let live = next_cell(claimed, peer_state(peer::LIVE, ivshmem));
            self.mem().cas(at.plus(peer::STATE), claimed, live)?;
            return Ok(Some(index));
        }
        Ok(None)
    }

    /// Moves a peer from any other state to `state`; `false` if it was there, or changed meanwhile.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_peer_state(&self, index: u32, state: u32) -> Result<bool, Corrupt> {
        let at = self.element(Table::Peers, index)?.plus(peer::STATE);
        let old = self.mem().load(at, Ordering::Acquire)?;
        let value = (old as u32 & !(0xff | peer::FENCED)) | state;
        if old as u32 == value {
            return Ok(false);
        }
        self.mem().cas(at, old, next_cell(old, value))
    }

    /// Declares a peer dead whose kernel may come back ([`peer::FENCED`]); `false` where it is no
    /// longer that incarnation's, or dead already.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn fence_peer(&self, index: u32, incarnation: u32) -> Result<bool, Corrupt> {
        let at = self.element(Table::Peers, index)?;
        let old = self.mem().load(at.plus(peer::STATE), Ordering::Acquire)?;
        let here = matches!(old as u32 & 0xff, peer::LIVE | peer::CLAIMED);
        if !here || self.peek(at.plus(peer::INCARNATION))? != incarnation {
            return Ok(false);
        }
        let value = (old as u32 & !0xff) | peer::DEAD | peer::FENCED;
        self.mem().cas(at.plus(peer::STATE), old, next_cell(old, value))
    }

    /// Frees the slot of a dead peer; `false` where it is no longer that incarnation's, or not dead.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn free_peer(&self, index: u32, incarnation: u32) -> Result<bool, Corrupt> {
        let at = self.element(Table::Peers, index)?;
        let old = self.mem().load(at.plus(peer::STATE), Ordering::Acquire)?;
        if old as u32 & 0xff != peer::DEAD || self.peek(at.plus(peer::INCARNATION))? != incarnation
        {
            return Ok(false);
        }
        let value = (old as u32 & !(0xff | peer::FENCED)) | peer::EMPTY;
        self.mem().cas(at.plus(peer::STATE), old, next_cell(old, value))
    }

    /// A peer; `None` where the slot is empty.
    ///
    /// # Errors
    /// There is no such index, or its name is not text.
    pub fn peer(&self, index: u32) -> Result<Option<Peer>, Corrupt> {
        Ok(Some(self.last_peer(index)?).filter(|p| p.state != peer::EMPTY))
    }

    /// Who has the slot of a peer, or had it last ([`peer::EMPTY`]; incarnation 0: nobody yet).
    ///
    /// # Errors
    /// There is no such index.
    pub fn last_peer(&self, index: u32) -> Result<Peer, Corrupt> {
        let at = self.element(Table::Peers, index)?;
        let state = self.peek(at.plus(peer::STATE))?;
        let mut boot = [0; 16];
        self.mem().read_bytes(at.plus(peer::BOOT), &mut boot)?;
        Ok(Peer {
            index,
            state: state & 0xff,
            ivshmem: state >> 8 & 0xffff,
            fenced: state & 0xff == peer::DEAD && state & peer::FENCED != 0,
            incarnation: self.peek(at.plus(peer::INCARNATION))?,
            boot,
            name: self.text(at.plus(peer::NAME), 64).unwrap_or_else(|_| "?".to_owned()),
        })
    }

    /// All peers that are there.
    ///
    /// # Errors
    /// The table is corrupt.
    pub fn peers(&self) -> Result<Vec<Peer>, Corrupt> {
        let all = (0..peer::COUNT as u32).map(|i| self.peer(i));
        all.filter_map(Result::transpose).collect()
    }

    /// Enters a task; `None` when all slots are taken.
    ///
    /// # Errors
    /// The table is corrupt.
    ///
    /// # If the caller dies
    /// The slot is whole or untouched.
    pub fn claim_task(&self, on: &mut Lane, new: &NewTask<'_>) -> Result<Option<TaskId>, Corrupt> {
        let slots = self.table(Table::Tasks).count as u32;
        for index in 0..slots {
            let at = self.element(Table::Tasks, index)?;
            // Relaxed: only a hint, checked again under the lock.
            if self.mem().load(at.plus(task::STATE), Ordering::Relaxed)? & 0xff != task::FREE {
                continue;
            }
            let got = self.transact(on, |txn| {
                txn.lock(at.plus(task::LOCK))?;
                let word = txn.word(at.plus(task::STATE))?;
                if word & 0xff != task::FREE {
                    return Ok::<_, Corrupt>(None);
                }
                let incarnation = (word >> 8) + 1;
                txn.set(at.plus(task::PEER), new.peer)?;
                txn.set(at.plus(task::PID), new.pid)?;
                txn.set(at.plus(task::UID), new.uid)?;
                txn.set(at.plus(task::UNDO), 0)?;
                txn.set(at.plus(task::ATTACH), 0)?;
                txn.set(at.plus(task::PIN), 0)?;
                txn.set_word(at.plus(task::STATE), incarnation << 8 | new.state)?;
                Ok(Some(TaskId { index, incarnation }))
            })?;
            if let Some(id) = got {
                // For listings and restarts only, so outside the step.
                self.mem().store(at.plus(task::START), new.start, Ordering::Release)?;
                self.mem().store(at.plus(task::KEEPER), 0, Ordering::Release)?;
                self.put_text(at.plus(task::COMM), new.comm, 16)?;
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Moves a task to `state`; `false` where it is no longer this owner's.
    ///
    /// # Errors
    /// There is no such task.
    pub fn set_task_state(&self, id: TaskId, state: u64) -> Result<bool, Corrupt> {
        let at = self.element(Table::Tasks, id.index)?.plus(task::STATE);
        let word = self.mem().load(at, Ordering::Acquire)?;
        if word >> 8 != id.incarnation || word & 0xff == task::FREE {
            return Ok(false);
        }
        self.mem().cas(at, word, id.incarnation << 8 | state)
    }

    /// Tells who a claimed child turned out to be, and makes it live.
    ///
    /// # Errors
    /// There is no such task.
    pub fn name_task(&self, id: TaskId, pid: u32, start: u64) -> Result<bool, Corrupt> {
        let at = self.element(Table::Tasks, id.index)?;
        self.init(at.plus(task::PID), pid)?;
        self.mem().store(at.plus(task::START), start, Ordering::Release)?;
        self.set_task_state(id, task::LIVE)
    }

    /// Notes who makes the calls of task `id`.
    ///
    /// # Errors
    /// There is no such task.
    pub fn set_keeper(&self, id: TaskId, keeper: TaskId) -> Result<(), Corrupt> {
        let at = self.element(Table::Tasks, id.index)?.plus(task::KEEPER);
        self.mem().store(at, Owner::Task(keeper).word(), Ordering::Release)
    }

    /// Notes what program task `id` runs now, for listings.
    ///
    /// # Errors
    /// There is no such task.
    pub fn set_command(&self, id: TaskId, comm: &str) -> Result<(), Corrupt> {
        self.put_text(self.element(Table::Tasks, id.index)?.plus(task::COMM), comm, 16)
    }

    /// The task in slot `index`; `None` where it is free.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn task(&self, index: u32) -> Result<Option<Task>, Corrupt> {
        let at = self.element(Table::Tasks, index)?;
        let word = self.mem().load(at.plus(task::STATE), Ordering::Acquire)?;
        if word & 0xff == task::FREE {
            return Ok(None);
        }
        Ok(Some(Task {
            id: TaskId { index, incarnation: word >> 8 },
            state: word & 0xff,
            peer: self.peek(at.plus(task::PEER))?,
            pid: self.peek(at.plus(task::PID))?,
            start: self.mem().load(at.plus(task::START), Ordering::Acquire)?,
            uid: self.peek(at.plus(task::UID))?,
            comm: self.text(at.plus(task::COMM), 16).unwrap_or_else(|_| "?".to_owned()),
            keeper: match Owner::from_word(
                self.mem().load(at.plus(task::KEEPER), Ordering::Acquire)?,
            ) {
                Some(Owner::Task(keeper)) => Some(keeper),
                _ => None,
            },
        }))
    }

    /// State and incarnation of the slot `index`.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn task_state(&self, index: u32) -> Result<(u64, u64), Corrupt> {
        let at = self.element(Table::Tasks, index)?;
        let word = self.mem().load(at.plus(task::STATE), Ordering::Acquire)?;
        Ok((word & 0xff, word >> 8))
    }

    /// Refuses a task that was reaped though its process still runs: its peer was fenced.
    ///
    /// # Errors
    /// [`Corrupt::fenced`]; or there is no such slot.
    #[inline]
    pub fn check_task(&self, id: TaskId) -> Result<(), Corrupt> {
        let at = self.element(Table::Tasks, id.index)?.plus(task::STATE);
        // Acquire: after what was read before.
        let word = self.mem().load(at, Ordering::Acquire)?;
        if word >> 8 == id.incarnation && matches!(word & 0xff, task::LIVE | task::CLAIMED) {
            Ok(())
        } else {
            Err(Corrupt::fenced(at))
        }
    }

    /// All tasks that are there.
    ///
    /// # Errors
    /// The table is corrupt.
    pub fn tasks(&self) -> Result<Vec<Task>, Corrupt> {
        let slots = self.table(Table::Tasks).count as u32;
        (0..slots).map(|i| self.task(i)).filter_map(Result::transpose).collect()
    }

    /// Takes a free lane for `owner`; `None` when all are taken.
    ///
    /// # Errors
    /// The table is corrupt.
    ///
    /// # If the caller dies
    /// The owner word names it; its reaper frees the lane.
    pub fn claim_lane(&self, owner: Owner) -> Result<Option<Lane>, Corrupt> {
        let place = self.table(Table::Owners);
        for i in 0..place.count {
            let at = place.at.index(i, place.stride);
            // Relaxed: only a hint, the swap decides.
            if self.mem().load(at, Ordering::Relaxed)? == 0
                && self.mem().cas(at, 0, owner.word())?
            {
                let id = LaneId(i as u32);
                // Handles of earlier owners, and reapers of theirs that were stopped, come too late.
                let seq = self.move_journal(id, || Ok(true))?;
                return Ok(seq.map(|seq| Lane::at(id, seq)));
            }
        }
        Ok(None)
    }

    /// Gives a lane back. It must hold nothing and wait for nothing.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn release_lane(&self, id: LaneId, owner: Owner) -> Result<bool, Corrupt> {
        let at = self.element(Table::Owners, id.0)?;
        self.mem().cas(at, owner.word(), 0)
    }

    /// Who owns a lane.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn lane_owner(&self, id: LaneId) -> Result<Option<Owner>, Corrupt> {
        let at = self.element(Table::Owners, id.0)?;
        Ok(Owner::from_word(self.mem().load(at, Ordering::Acquire)?))
    }

    /// All lanes of `owner`.
    ///
    /// # Errors
    /// The table is corrupt.
    pub fn lanes_of(&self, owner: Owner) -> Result<Vec<LaneId>, Corrupt> {
        let place = self.table(Table::Owners);
        let mut lanes = Vec::new();
        for i in 0..place.count {
            let word = self.mem().load(place.at.index(i, place.stride), Ordering::Acquire)?;
            if word == owner.word() {
                lanes.push(LaneId(i as u32));
            }
        }
        Ok(lanes)
    }

    fn put_text(&self, at: Offset, text: &str, room: usize) -> Result<(), Corrupt> {
        let mut bytes = vec![0; room];
        let mut n = text.len().min(room - 1);
        while !text.is_char_boundary(n) {
            n -= 1;
        }
        bytes[..n].copy_from_slice(&text.as_bytes()[..n]);
        self.mem().write_bytes(at, &bytes)
    }
}

const _: () = assert!(lane::MAX_LOCKS == 4);
const _: () = assert!((lane::LOCK + 8 * lane::MAX_LOCKS as u64) <= lane::HELD);
