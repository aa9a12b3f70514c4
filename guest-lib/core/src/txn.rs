//! Transactions: how a region changes.
//!
//! A transaction takes the locks of what it reads and writes, computes its writes privately, and
//! then makes them all visible with one compare-and-swap. The owner of a lock may be killed or
//! stopped at any instruction, so a lock is never waited for without end:
//!
//! * **before the commit** nothing has changed: anyone may *steal* the lock by moving the owner's
//!   journal from `ACTIVE` to `ABORTED`. The owner finds out when its own commit fails, and retries;
//! * **after the commit** the journal says what is to be written: anyone may *help*, that is, write
//!   it and release the locks. The owner, when it comes back, finds it done.
//!
//! This is a software transactional memory with ownership records and a redo log, cut down to what
//! an IPC object needs. Helping follows lock-free locks (Ben-David, Blelloch, Wei, PPoPP 2022), the
//! descriptor with one status word Harris, Fraser and Pratt's multi-word CAS (DISC 2002).
//! `docs/adr/0001` compares it with plain robust locks, with figures.
//!
//! # Steps
//!
//! 1. journal ← {seq + 1, `ACTIVE`};
//! 2. each lock word: 0 → {seq, lane} (compare-and-swap);
//! 3. reads, and writes into a private list;
//! 4. entries and lock list stored in the lane;
//! 5. **journal: `ACTIVE` → `COMMITTED`, the committing step**;
//! 6. each entry applied by compare-and-swap, old → new;
//! 7. each lock word: {seq, lane} → 0;
//! 8. sleepers named by entries woken;
//! 9. journal: `COMMITTED` → `IDLE`, by whoever has seen 6 to 8 through.
//!
//! A death before 5 leaves at most lock words that the next comer overwrites; a death after 5 is
//! finished by the next comer that wants one of the locks, or by the reaper, whichever is first.
//!
//! # Why a late helper does no harm
//!
//! A helper that was stopped inside step 6 and resumes much later still compares with the `old`
//! word. Cells carry a tag that grows with every change, semaphore words a sequence, and memory of
//! the pools never changes its type, so the comparison fails. Entries are only rewritten after the
//! journal left `COMMITTED`, and a helper looks at the journal again after copying each one.
//!
//! # Why an owner that is not dead after all does no harm
//!
//! A task can be reaped while it still runs: a guest that said "rebooting" and takes some
//! milliseconds over it, a peer that was fenced and comes back. Its reaper moves the journals of its
//! lanes on by two sequence numbers ([`Region::fence_lane`]), as every new owner does when it takes
//! a lane, and a handle that finds its journal moved begins no further transaction.

use crate::layout::{Table, lane};
use crate::mem::{Corrupt, Offset, Ordering, Platform};
use crate::region::Region;
use crate::task::Owner;
use crate::turns::Turns;

/// Index of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct LaneId(pub u32);

const IDLE: u64 = 0;
const ACTIVE: u64 = 1;
const COMMITTED: u64 = 2;
const ABORTED: u64 = 3;
/// Bits of a lane's number (plus one) in a lock word.
const LANE_BITS: u32 = 15;
/// Entry flag in the low bits of the offset: the word is a wait slot's status; wake its sleeper.
const WAKE: u64 = 1;
/// Turns of [`crate::mem::Mem::relax`] before an active owner is taken for stopped; doubled with every retry.
const PATIENCE: u32 = if cfg!(loom) { 0 } else { 256 };

/// What is said of a lock that others take whenever it was about to be taken.
const TAKEN: &str = "lock never comes free";
/// What is said of a journal that changes whenever it was looked at.
const RESTLESS: &str = "journal never comes to rest";
/// Turns of waiting in one call after which nobody gets more than [`PATIENCE`], whatever they say
/// they were robbed of.
const LONGEST: u32 = PATIENCE << 9;
/// Attempts at a transaction. Each time the robbers were the more patient, so that many in a row
/// are nobody's bad luck.
const ATTEMPTS: u64 = 250;

const fn journal(seq: u64, state: u64) -> u64 {
    seq << 2 | state
}

const fn lock_word(seq: u64, lane: LaneId) -> u64 {
    seq << LANE_BITS | (lane.0 as u64 + 1)
}

/// Who took a lock that holds `word`: a lane, in its transaction of that number. It may be over.
#[must_use]
pub const fn lock_holder(word: u64) -> Option<(LaneId, u64)> {
    let lane = word & ((1 << LANE_BITS) - 1);
    if lane == 0 { None } else { Some((LaneId(lane as u32 - 1), word >> LANE_BITS)) }
}

/// One cell's next word: the new value under a tag grown by one.
#[must_use]
pub const fn next_cell(old: u64, value: u32) -> u64 {
    ((((old >> 32) as u32).wrapping_add(1) as u64) << 32) | value as u64
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Offset,
    wake: bool,
    old: u64,
    new: u64,
}

/// A lane this process may run transactions on: one at a time.
///
/// A signal handler that interrupts a transaction needs a lane of its own.
#[derive(Debug)]
pub struct Lane {
    id: LaneId,
    /// The sequence of the last transaction begun; none before the first.
    seq: Option<u64>,
    writes: Vec<Entry>,
    locks: Vec<Offset>,
    /// Turns waited for locks in this call.
    waited: u32,
}

impl Lane {
    /// A handle on lane `id`, which the caller's task owns (see [`Region::claim_lane`]).
    #[must_use]
    pub fn new(id: LaneId) -> Self {
        Self {
            id,
            seq: None,
            writes: Vec::with_capacity(lane::MAX_ENTRIES),
            locks: Vec::with_capacity(lane::MAX_LOCKS),
            waited: 0,
        }
    }

    /// As [`Lane::new`], for a lane whose journal was just moved to `seq`.
    pub(crate) fn at(id: LaneId, seq: u64) -> Self {
        Self { seq: Some(seq), ..Self::new(id) }
    }

    /// Its index.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.id
    }
}

/// A transaction in progress. See the [module](self) for what it promises.
///
/// What it reads is consistent only if it commits: after its locks were stolen it may see any
/// mixture, so loops over what it reads must be bounded. An error it returns counts only if the
/// locks were still its own; otherwise the closure runs again.
pub struct Txn<'a, P> {
    region: &'a Region<P>,
    lane: &'a mut Lane,
    seq: u64,
}

impl<P: Platform> Region<P> {
    /// Runs `body` as one atomic step: all its writes happen, or none.
    ///
    /// The closure may run several times; it must have no effect outside the transaction.
    ///
    /// # Errors
    /// What `body` returned while its locks were its own, or corruption met on the way; nothing
    /// was written then. A transaction that is robbed every time is corruption too.
    ///
    /// # If the caller dies
    /// The step happened entirely or not at all; whoever needs its locks next settles which.
    pub fn transact<T, E: From<Corrupt>>(
        &self,
        lane: &mut Lane,
        mut body: impl FnMut(&mut Txn<'_, P>) -> Result<T, E>,
    ) -> Result<T, E> {
        lane.waited = 0;
        for attempt in 0..ATTEMPTS {
            let mut txn = Txn::begin(self, lane, attempt as u32)?;
            match body(&mut txn) {
                Ok(value) => {
                    if txn.commit()? {
                        return Ok(value);
                    }
                }
                Err(error) => {
                    if txn.end()? {
                        return Err(error);
                    }
                }
            }
        }
        let at = self.lane(lane.id)?.plus(lane::JOURNAL);
        Err(Corrupt::new(at, "transaction is robbed without end").into())
    }

    /// Settles what the owner of lane `id` left behind, be it dead, stopped or merely slow: a
    /// committed transaction is completed, an active one aborted if `abort` says so.
    ///
    /// # Errors
    /// The lane's journal is corrupt.
    pub fn settle_lane(&self, id: LaneId, abort: bool) -> Result<(), Corrupt> {
        let at = self.lane(id)?.plus(lane::JOURNAL);
        // Acquire: pairs with the commit; what the entries say is visible.
        let word = self.mem().load(at, Ordering::Acquire)?;
        match word & 3 {
            COMMITTED => self.help(id, word >> 2).map(drop),
            ACTIVE if abort => {
                self.mem().cas(at, word, journal(word >> 2, ABORTED))?;
                // Whoever committed in between is completed; anything else has nothing to complete.
                let now = self.mem().load(at, Ordering::Acquire)?;
                if now == journal(word >> 2, COMMITTED) {
                    self.help(id, word >> 2)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Shuts out the owner of lane `id`, be it dead or not: settles what it left, and moves the
    /// journal on so that a handle of before begins no further transaction. `false`: the lane is
    /// not `owner`'s, or not any more.
    ///
    /// # Errors
    /// The lane's journal is corrupt.
    pub fn fence_lane(&self, id: LaneId, owner: Owner) -> Result<bool, Corrupt> {
        // The owner is looked at after the journal: whoever takes the lane later moves the journal
        // first, and the swap fails.
        Ok(self.move_journal(id, || Ok(self.lane_owner(id)? == Some(owner)))?.is_some())
    }

    /// Moves the journal of lane `id` to rest at a sequence of which no handle knows, and returns
    /// it; `None` if `still` says no.
    pub(crate) fn move_journal(
        &self,
        id: LaneId,
        still: impl Fn() -> Result<bool, Corrupt>,
    ) -> Result<Option<u64>, Corrupt> {
        let at = self.lane(id)?.plus(lane::JOURNAL);
        let mut turns = Turns::new();
        loop {
            turns.pass(1, at, RESTLESS)?;
            // Acquire: pairs with the commit; what the entries say is visible.
            let word = self.mem().load(at, Ordering::Acquire)?;
            if !still()? {
                return Ok(None);
            }
            if word & 3 == COMMITTED {
                turns.pass(self.help(id, word >> 2)?, at, RESTLESS)?;
                continue;
            }
            let seq = (word >> 2) + 2;
            if self.mem().cas(at, word, journal(seq, IDLE))? {
                return Ok(Some(seq));
            }
        }
    }

    /// Whether the handle `on` begins no further transaction: its journal is not as it left it.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn is_taken_away(&self, on: &Lane) -> Result<bool, Corrupt> {
        let word = self.mem().load(self.lane(on.id)?.plus(lane::JOURNAL), Ordering::Acquire)?;
        let seq = word >> 2;
        // One less than begun: a jump out of `begin` itself, before the swap.
        Ok(on.seq.is_some_and(|mine| seq != mine && seq.wrapping_add(1) != mine))
    }

    /// Puts the journal at rest where the handle `on` left it. For a process that has the region's
    /// memory for itself alone, and a handle that others have moved on from.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn rewind_journal(&self, on: &Lane) -> Result<(), Corrupt> {
        let Some(seq) = on.seq else { return Ok(()) };
        let at = self.lane(on.id)?.plus(lane::JOURNAL);
        self.mem().store(at, journal(seq, IDLE), Ordering::Release)
    }

    /// Whether the lane's journal is committed and not yet finished.
    ///
    /// # Errors
    /// The lane does not exist.
    pub fn lane_committed(&self, id: LaneId) -> Result<bool, Corrupt> {
        let word = self.mem().load(self.lane(id)?.plus(lane::JOURNAL), Ordering::Acquire)?;
        Ok(word & 3 == COMMITTED)
    }

    /// Steps 6 to 8 of transaction `seq` of lane `id`, by anyone, any number of times; how many
    /// entries it has.
    fn help(&self, id: LaneId, seq: u64) -> Result<u64, Corrupt> {
        let base = self.lane(id)?;
        let mem = self.mem();
        let status = base.plus(lane::JOURNAL);
        // Acquire: pairs with the owner's rewriting of the entries, which follows its IDLE.
        let still =
            || Ok::<_, Corrupt>(mem.load(status, Ordering::Acquire)? == journal(seq, COMMITTED));
        let entries = mem.load(base.plus(lane::ENTRIES), Ordering::Acquire)?;
        let locks = mem.load(base.plus(lane::LOCKS), Ordering::Acquire)?;
        if !still()? {
            return Ok(0);
        }
        if entries > lane::MAX_ENTRIES as u64 || locks > lane::MAX_LOCKS as u64 {
            return Err(Corrupt::new(base.plus(lane::ENTRIES), "journal longer than its room"));
        }
        let entry = |i: u64| {
            let at = base.plus(lane::JOURNAL_ENTRY).index(i, lane::ENTRY_SIZE);
            Ok::<_, Corrupt>([
                mem.load(at, Ordering::Acquire)?,
                mem.load(at.plus(8), Ordering::Acquire)?,
                mem.load(at.plus(16), Ordering::Acquire)?,
            ])
        };
        for i in 0..entries {
            let [at, old, new] = entry(i)?;
            if !still()? {
                return Ok(i);
            }
            // What is wrong is the journal, and not the place it names.
            let of = base.plus(lane::JOURNAL_ENTRY).index(i, lane::ENTRY_SIZE);
            let wild = |_| Corrupt::new(of, "journal names a word outside the region");
            mem.cas(Offset(at & !7), old, new).map_err(wild)?;
        }
        for i in 0..locks {
            let of = base.plus(lane::LOCK).index(i, 8);
            let at = Offset(mem.load(of, Ordering::Acquire)?);
            if !still()? {
                return Ok(i);
            }
            let wild = |_| Corrupt::new(of, "journal names a lock outside the region");
            mem.cas(at, lock_word(seq, id), 0).map_err(wild)?;
        }
        for i in 0..entries {
            let [at, ..] = entry(i)?;
            if !still()? {
                return Ok(i);
            }
            if at & WAKE != 0 {
                let of = base.plus(lane::JOURNAL_ENTRY).index(i, lane::ENTRY_SIZE);
                self.wake_status(Offset(at & !7)).map_err(|c| Corrupt::new(of, c.what))?;
            }
        }
        // Seen through, here at least.
        mem.cas(status, journal(seq, COMMITTED), journal(seq, IDLE))?;
        Ok(entries)
    }

    /// Wakes the sleeper whose status word is at `at`.
    pub(crate) fn wake_status(&self, at: Offset) -> Result<(), Corrupt> {
        let lanes = self.table(Table::Lanes);
        let i = at.0.wrapping_sub(lanes.at.0) / lane::STRIDE;
        if i >= lanes.count || lanes.at.index(i, lane::STRIDE).plus(lane::STATUS) != at {
            return Err(Corrupt::new(at, "wake of something that is no wait slot"));
        }
        let peer = self
            .mem()
            .load(lanes.at.index(i, lane::STRIDE).plus(lane::WAIT_PEER), Ordering::Acquire)?;
        self.mem().wake(i as u32, at, peer as u32);
        Ok(())
    }
}

impl<'a, P: Platform> Txn<'a, P> {
    fn begin(region: &'a Region<P>, lane: &'a mut Lane, attempt: u32) -> Result<Self, Corrupt> {
        lane.writes.clear();
        lane.locks.clear();
        let at = region.lane(lane.id)?.plus(lane::JOURNAL);
        let mut turns = Turns::new();
        let seq = loop {
            // Acquire: an abort by another, or our own past.
            let word = region.mem().load(at, Ordering::Acquire)?;
            let seq = word >> 2;
            // As in `is_taken_away`.
            if lane.seq.is_some_and(|mine| seq != mine && seq + 1 != mine) {
                return Err(Corrupt::fenced(at));
            }
            turns.pass(1, at, RESTLESS)?;
            if word & 3 == COMMITTED {
                // The last call of this lane was left by a jump after its commit.
                turns.pass(region.help(lane.id, seq)?, at, RESTLESS)?;
                continue;
            }
            lane.seq = Some(seq + 1);
            // Acquire-release: the entries of the last transaction are not rewritten before this is
            // seen. It fails when somebody aborted, helped or fenced at this moment.
            if region.mem().cas(at, word, journal(seq + 1, ACTIVE))? {
                break seq + 1;
            }
        };
        let robbed = at.plus(lane::ROBBED - lane::JOURNAL);
        // Relaxed: a hint.
        if region.mem().load(robbed, Ordering::Relaxed)? != u64::from(attempt) {
            region.mem().store(robbed, attempt.into(), Ordering::Relaxed)?;
        }
        Ok(Self { region, lane, seq })
    }

    /// The region it runs on.
    #[must_use]
    pub fn region(&self) -> &'a Region<P> {
        self.region
    }

    /// The lane it runs on.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane.id
    }

    fn journal_at(&self) -> Result<Offset, Corrupt> {
        Ok(self.region.lane(self.lane.id)?.plus(lane::JOURNAL))
    }

    /// Takes the lock word at `at`. Locks are taken in the order directory, object, task, arena.
    ///
    /// Waits for no one: an owner that committed is helped, one that does not within a short
    /// patience is robbed.
    ///
    /// # Errors
    /// More than [`lane::MAX_LOCKS`] locks, a lock word that names no lane, or one that changes for
    /// ever.
    pub fn lock(&mut self, at: Offset) -> Result<(), Corrupt> {
        if self.lane.locks.contains(&at) {
            return Ok(());
        }
        if self.lane.locks.len() == lane::MAX_LOCKS {
            return Err(Corrupt::new(at, "transaction needs too many locks"));
        }
        let mem = self.region.mem();
        let mine = lock_word(self.seq, self.lane.id);
        let mut waited = 0;
        let mut turns = Turns::new();
        loop {
            // Acquire: pairs with the release of the last owner, or with its taking.
            let word = mem.load(at, Ordering::Acquire)?;
            if word == 0 {
                if mem.cas(at, 0, mine)? {
                    break;
                }
                turns.pass(1, at, TAKEN)?;
                continue;
            }
            let owner = LaneId((word & ((1 << LANE_BITS) - 1)) as u32);
            let owner = LaneId(owner.0.wrapping_sub(1));
            let seq = word >> LANE_BITS;
            let status = self
                .region
                .lane(owner)
                .map_err(|_| Corrupt::new(at, "lock held by a lane that does not exist"))?
                .plus(lane::JOURNAL);
            let state = mem.load(status, Ordering::Acquire)?;
            if state == journal(seq, ACTIVE) {
                // Relaxed: a hint. One that was robbed before gets the longer to finish.
                let robbed =
                    mem.load(status.plus(lane::ROBBED - lane::JOURNAL), Ordering::Relaxed)?;
                let short = self.lane.waited >= LONGEST;
                if waited < if short { PATIENCE } else { PATIENCE << robbed.min(8) } {
                    mem.relax(waited);
                    waited += 1;
                    self.lane.waited += 1;
                } else {
                    turns.pass(1, at, TAKEN)?;
                    mem.cas(status, state, journal(seq, ABORTED))?;
                }
            } else if state == journal(seq, COMMITTED) {
                turns.pass(1 + self.region.help(owner, seq)?, at, TAKEN)?;
                // Helped and still held, by a journal that never held it.
                if mem.load(at, Ordering::Acquire)? == word
                    && mem.load(status, Ordering::Acquire)? == state
                {
                    return Err(Corrupt::new(
                        at,
                        "lock held by a transaction that does not list it",
                    ));
                }
            } else {
                turns.pass(1, at, TAKEN)?;
                // That transaction is over, and was aborted: an owner that commits lets go first.
                if mem.cas(at, word, mine)? {
                    break;
                }
            }
        }
        self.lane.locks.push(at);
        Ok(())
    }

    /// Fails if the locks were stolen: what was read under them until now may be a mixture. Call it
    /// between reading where something is and touching that outside the transaction.
    ///
    /// # Errors
    /// They were stolen; let it through, and the closure runs again.
    pub fn valid(&self) -> Result<(), Corrupt> {
        let at = self.journal_at()?;
        // Acquire: after the reads before (which are acquire loads).
        if self.region.mem().load(at, Ordering::Acquire)? == journal(self.seq, ACTIVE) {
            Ok(())
        } else {
            Err(Corrupt::new(at, "transaction was robbed"))
        }
    }

    /// The word at `at` as this transaction sees it.
    ///
    /// # Errors
    /// `at` is outside the region.
    pub fn word(&self, at: Offset) -> Result<u64, Corrupt> {
        match self.lane.writes.iter().rev().find(|e| e.at == at) {
            Some(entry) => Ok(entry.new),
            // Acquire: pairs with the application of the step that wrote it.
            None => self.region.mem().load(at, Ordering::Acquire),
        }
    }

    /// The value of the cell at `at` as this transaction sees it.
    ///
    /// # Errors
    /// `at` is outside the region.
    pub fn get(&self, at: Offset) -> Result<u32, Corrupt> {
        Ok(self.word(at)? as u32)
    }

    /// Will write `new` over the whole word at `at`, which must differ from every earlier content
    /// (a sequence, a tag).
    ///
    /// # Errors
    /// The journal is full, or `at` is outside.
    pub fn set_word(&mut self, at: Offset, new: u64) -> Result<(), Corrupt> {
        self.write(at, |_| new, false)
    }

    /// Will write `value` into the cell at `at`; nothing if it holds it already, which the lock
    /// keeps true until the commit.
    ///
    /// # Errors
    /// The journal is full, or `at` is outside.
    pub fn set(&mut self, at: Offset, value: u32) -> Result<(), Corrupt> {
        if let Some(entry) = self.lane.writes.iter_mut().rev().find(|e| e.at == at) {
            entry.new = next_cell(entry.old, value);
            return Ok(());
        }
        let old = self.region.mem().load(at, Ordering::Acquire)?;
        if old as u32 == value {
            return Ok(());
        }
        self.push(Entry { at, wake: false, old, new: next_cell(old, value) })
    }

    /// Will write `value` into the wait-slot status of `lane` and wake its sleeper.
    ///
    /// # Errors
    /// The journal is full, or there is no such lane.
    pub fn set_status(&mut self, lane: LaneId, value: u32) -> Result<(), Corrupt> {
        let at = self.region.lane(lane)?.plus(lane::STATUS);
        self.write(at, |old| next_cell(old, value), true)
    }

    fn write(&mut self, at: Offset, new: impl Fn(u64) -> u64, wake: bool) -> Result<(), Corrupt> {
        if let Some(entry) = self.lane.writes.iter_mut().rev().find(|e| e.at == at) {
            entry.new = new(entry.old);
            entry.wake |= wake;
            return Ok(());
        }
        let old = self.region.mem().load(at, Ordering::Acquire)?;
        self.push(Entry { at, wake, old, new: new(old) })
    }

    fn push(&mut self, entry: Entry) -> Result<(), Corrupt> {
        if self.lane.writes.len() == lane::MAX_ENTRIES {
            return Err(Corrupt::new(entry.at, "transaction writes too much"));
        }
        self.lane.writes.push(entry);
        Ok(())
    }

    /// Entries still free in the journal.
    #[must_use]
    pub fn room(&self) -> usize {
        lane::MAX_ENTRIES - self.lane.writes.len()
    }

    /// Steps 4 to 9. `false`: the locks were stolen; nothing happened.
    fn commit(mut self) -> Result<bool, Corrupt> {
        if self.lane.writes.is_empty() {
            return self.end();
        }
        let mem = self.region.mem();
        let base = self.region.lane(self.lane.id)?;
        let status = self.journal_at()?;
        if mem.load(status, Ordering::Acquire)? != journal(self.seq, ACTIVE) {
            // Robbed already; or reaped, and then the room for entries is another's.
            self.release()?;
            return Ok(false);
        }
        for (i, entry) in self.lane.writes.iter().enumerate() {
            let at = base.plus(lane::JOURNAL_ENTRY).index(i as u64, lane::ENTRY_SIZE);
            // Release: a late helper of our last transaction that meets one of these sees `ACTIVE` too.
            mem.store(at, entry.at.0 | u64::from(entry.wake), Ordering::Release)?;
            mem.store(at.plus(8), entry.old, Ordering::Release)?;
            mem.store(at.plus(16), entry.new, Ordering::Release)?;
        }
        for (i, at) in self.lane.locks.iter().enumerate() {
            mem.store(base.plus(lane::LOCK).index(i as u64, 8), at.0, Ordering::Release)?;
        }
        mem.store(base.plus(lane::ENTRIES), self.lane.writes.len() as u64, Ordering::Release)?;
        mem.store(base.plus(lane::LOCKS), self.lane.locks.len() as u64, Ordering::Release)?;
        if !mem.cas(status, journal(self.seq, ACTIVE), journal(self.seq, COMMITTED))? {
            self.release()?;
            return Ok(false);
        }
        for entry in &self.lane.writes {
            // A failure means that a helper was here.
            mem.cas(entry.at, entry.old, entry.new)?;
        }
        self.release()?;
        for entry in self.lane.writes.iter().filter(|e| e.wake) {
            self.region.wake_status(entry.at)?;
        }
        // Over, before the entries can be rewritten. A swap: the journal may not be ours any more.
        mem.cas(status, journal(self.seq, COMMITTED), journal(self.seq, IDLE))?;
        Ok(true)
    }

    /// Ends a transaction that writes nothing; `true` if what it read was consistent.
    fn end(mut self) -> Result<bool, Corrupt> {
        let status = self.journal_at()?;
        let whole =
            self.region.mem().cas(status, journal(self.seq, ACTIVE), journal(self.seq, IDLE))?;
        self.release()?;
        Ok(whole)
    }

    fn release(&mut self) -> Result<(), Corrupt> {
        let mine = lock_word(self.seq, self.lane.id);
        for at in self.lane.locks.iter().rev() {
            // A failure means that a helper or a thief was here.
            self.region.mem().cas(*at, mine, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
