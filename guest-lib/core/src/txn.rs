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
//! 7. if an entry wakes somebody: each lock word {seq, lane} → 0, then the sleepers woken;
//! 8. finished ← seq, a plain store of the owner's. Now the step is *over*: nobody clears its lock
//!    words, they are free for whoever overwrites them.
//!
//! A death before 5 leaves at most lock words that the next comer overwrites; a death after 5 is
//! finished by the next comer that wants one of the locks, or by the reaper, whichever is first. A
//! helper that has seen 6 and 7 through says so by journal: `COMMITTED` → `IDLE`. A step without
//! writes skips 4 to 7: what it read was whole if the journal is `ACTIVE` before 8.
//!
//! # Why a plain store ends a step
//!
//! Nothing depends on when it is seen: until then a newcomer helps, and finds nothing left to do. Only
//! the owner writes it; one that was shut out (see below) may still do so late, and then a newer step
//! of its lane looks unfinished, of which no entry applies any more and which any helper ends.
//!
//! # Why a late helper does no harm
//!
//! A helper that was stopped inside step 6 and resumes much later still compares with the `old`
//! word. Cells carry a tag that grows with every change, semaphore words a sequence, and memory of
//! the pools never changes its type, so the comparison fails. Entries are only rewritten after the
//! journal left `COMMITTED`, and a helper looks again after copying each one whether there is still
//! something to help.
//!
//! # Why an owner that is not dead after all does no harm
//!
//! A task can be reaped while it still runs: a guest that said "rebooting" and takes some
//! milliseconds over it, a peer that was fenced and comes back. Its reaper moves the journals of its
//! lanes on by two sequence numbers ([`Region::fence_lane`]), as every new owner does when it takes
//! a lane, and a handle that finds its journal moved begins no further transaction.

use crate::layout::lane;
use crate::mem::{Corrupt, Offset, Ordering, Platform};
use crate::region::Region;
use crate::turns::Turns;

mod settle;
#[cfg(test)]
mod tests;
mod writes;

use writes::Writes;

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
/// What is said of a lock word that no peer writes.
const NO_LANE: &str = "lock held by a lane that does not exist";
/// What is said of a journal that changes whenever it was looked at.
const RESTLESS: &str = "journal never comes to rest";
/// From a journal word to what its owner finished last.
const FINISHED: u64 = lane::FINISHED - lane::JOURNAL;
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

/// What has become of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Under way: it may be robbed.
    Active,
    /// It happened, but others may see it in part: it is to be helped.
    Committed,
    /// There is nothing left to do, and it holds no lock.
    Over,
}

/// A lane this process may run transactions on: one at a time.
///
/// A signal handler that interrupts a transaction needs a lane of its own.
#[derive(Debug)]
pub struct Lane {
    id: LaneId,
    /// The sequence of the last transaction begun; none before the first.
    seq: Option<u64>,
    writes: Writes,
    /// The offsets of the locks taken, and their number.
    locks: [u64; lane::MAX_LOCKS],
    held: usize,
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
            writes: Writes::new(),
            locks: [0; lane::MAX_LOCKS],
            held: 0,
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
    /// Where the lane is.
    base: Offset,
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
}

impl<'a, P: Platform> Txn<'a, P> {
    fn begin(region: &'a Region<P>, lane: &'a mut Lane, attempt: u32) -> Result<Self, Corrupt> {
        lane.writes.clear();
        lane.held = 0;
        let base = region.lane(lane.id)?;
        let at = base.plus(lane::JOURNAL);
        let mut turns = Turns::new();
        let seq = loop {
            // Acquire: an abort by another, or our own past.
            let word = region.mem().load(at, Ordering::Acquire)?;
            let seq = word >> 2;
            // As in `is_taken_away`.
            if lane.seq.is_some_and(|mine| seq != mine && seq + 1 != mine) {
                return Err(Corrupt::fenced(at));
            }
            if region.stage(at, word, seq)? == Stage::Committed {
                // The last call of this lane was left by a jump after its commit.
                turns.pass(1 + region.help(lane.id, seq)?, at, RESTLESS)?;
                continue;
            }
            lane.seq = Some(seq + 1);
            // Acquire-release: the entries of the last transaction are not rewritten before this is
            // seen. It fails when somebody aborted, helped or fenced at this moment.
            if region.mem().cas(at, word, journal(seq + 1, ACTIVE))? {
                break seq + 1;
            }
            turns.pass(1, at, RESTLESS)?;
        };
        let robbed = base.plus(lane::ROBBED);
        // Relaxed: a hint.
        if region.mem().load(robbed, Ordering::Relaxed)? != u64::from(attempt) {
            region.mem().store(robbed, attempt.into(), Ordering::Relaxed)?;
        }
        Ok(Self { region, lane, base, seq })
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

    /// Takes the lock word at `at`. Locks are taken in the order directory, object, task, arena.
    ///
    /// Waits for no one: an owner that committed is helped, one that does not within a short
    /// patience is robbed.
    ///
    /// # Errors
    /// More than [`lane::MAX_LOCKS`] locks, a lock word that names no lane, or one that changes for
    /// ever.
    #[inline]
    pub fn lock(&mut self, at: Offset) -> Result<(), Corrupt> {
        if self.lane.locks[..self.lane.held].contains(&at.0) {
            return Ok(());
        }
        if self.lane.held == lane::MAX_LOCKS {
            return Err(Corrupt::new(at, "transaction needs too many locks"));
        }
        let mem = self.region.mem();
        // Acquire: pairs with the taking of it by whoever had it last.
        let word = mem.load(at, Ordering::Acquire)?;
        // An earlier step of this lane is over, or this one would not have begun.
        let ours =
            lock_holder(word).is_some_and(|(lane, seq)| lane == self.lane.id && seq < self.seq);
        let free = word == 0 || ours;
        if !free || !mem.cas(at, word, lock_word(self.seq, self.lane.id))? {
            self.contend(at)?;
        }
        self.lane.locks[self.lane.held] = at.0;
        self.lane.held += 1;
        Ok(())
    }

    /// Takes a lock that somebody has, or had last.
    fn contend(&mut self, at: Offset) -> Result<(), Corrupt> {
        let mem = self.region.mem();
        let mine = lock_word(self.seq, self.lane.id);
        let mut waited = 0;
        let mut turns = Turns::new();
        loop {
            let word = mem.load(at, Ordering::Acquire)?;
            let Some((owner, seq)) = lock_holder(word) else {
                turns.pass(1, at, TAKEN)?;
                if word != 0 {
                    return Err(Corrupt::new(at, NO_LANE));
                }
                if mem.cas(at, 0, mine)? {
                    return Ok(());
                }
                continue;
            };
            let base = self.region.lane(owner).map_err(|_| Corrupt::new(at, NO_LANE))?;
            let status = base.plus(lane::JOURNAL);
            let state = mem.load(status, Ordering::Acquire)?;
            match self.region.stage(status, state, seq)? {
                Stage::Active => {
                    // Relaxed: a hint. One that was robbed before gets the longer to finish.
                    let robbed = mem.load(base.plus(lane::ROBBED), Ordering::Relaxed)?;
                    let short = self.lane.waited >= LONGEST;
                    if waited < if short { PATIENCE } else { PATIENCE << robbed.min(8) } {
                        mem.relax(waited);
                        waited += 1;
                        self.lane.waited += 1;
                    } else {
                        turns.pass(1, at, TAKEN)?;
                        mem.cas(status, state, journal(seq, ABORTED))?;
                    }
                }
                Stage::Committed => turns.pass(1 + self.region.help(owner, seq)?, at, TAKEN)?,
                Stage::Over => {
                    turns.pass(1, at, TAKEN)?;
                    if mem.cas(at, word, mine)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Fails if the locks were stolen: what was read under them until now may be a mixture. Call it
    /// between reading where something is and touching that outside the transaction.
    ///
    /// # Errors
    /// They were stolen; let it through, and the closure runs again.
    #[inline]
    pub fn valid(&self) -> Result<(), Corrupt> {
        let at = self.base.plus(lane::JOURNAL);
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
    #[inline]
    pub fn word(&self, at: Offset) -> Result<u64, Corrupt> {
        match self.lane.writes.find(at) {
            Some(i) => Ok(self.lane.writes.new_word(i)),
            // Acquire: pairs with the application of the step that wrote it.
            None => self.region.mem().load(at, Ordering::Acquire),
        }
    }

    /// The value of the cell at `at` as this transaction sees it.
    ///
    /// # Errors
    /// `at` is outside the region.
    #[inline]
    pub fn get(&self, at: Offset) -> Result<u32, Corrupt> {
        Ok(self.word(at)? as u32)
    }

    /// Will write `new` over the whole word at `at`, which must differ from every earlier content
    /// (a sequence, a tag).
    ///
    /// # Errors
    /// The journal is full, or `at` is outside.
    #[inline]
    pub fn set_word(&mut self, at: Offset, new: u64) -> Result<(), Corrupt> {
        self.write(at, |_| new, false)
    }

    /// Will write `value` into the cell at `at`; nothing if it holds it already, which the lock
    /// keeps true until the commit.
    ///
    /// # Errors
    /// The journal is full, or `at` is outside.
    #[inline]
    pub fn set(&mut self, at: Offset, value: u32) -> Result<(), Corrupt> {
        let writes = &mut self.lane.writes;
        if let Some(i) = writes.find(at) {
            writes.change(i, next_cell(writes.old(i), value), false);
            return Ok(());
        }
        let old = self.region.mem().load(at, Ordering::Acquire)?;
        if old as u32 == value {
            return Ok(());
        }
        writes.push(at, old, next_cell(old, value), false)
    }

    /// Will write `value` into the wait-slot status of `lane` and wake its sleeper.
    ///
    /// # Errors
    /// The journal is full, or there is no such lane.
    pub fn set_status(&mut self, lane: LaneId, value: u32) -> Result<(), Corrupt> {
        let at = self.region.lane(lane)?.plus(lane::STATUS);
        self.write(at, |old| next_cell(old, value), true)
    }

    #[inline]
    fn write(&mut self, at: Offset, new: impl Fn(u64) -> u64, wake: bool) -> Result<(), Corrupt> {
        let writes = &mut self.lane.writes;
        if let Some(i) = writes.find(at) {
            writes.change(i, new(writes.old(i)), wake);
            return Ok(());
        }
        let old = self.region.mem().load(at, Ordering::Acquire)?;
        writes.push(at, old, new(old), wake)
    }

    /// Entries still free in the journal.
    #[must_use]
    pub fn room(&self) -> usize {
        lane::MAX_ENTRIES - self.lane.writes.len()
    }

    /// Steps 4 to 8. `false`: the locks were stolen; nothing happened.
    fn commit(self) -> Result<bool, Corrupt> {
        let writes = &self.lane.writes;
        if writes.len() == 0 {
            return self.end();
        }
        let mem = self.region.mem();
        let status = self.base.plus(lane::JOURNAL);
        if mem.load(status, Ordering::Acquire)? != journal(self.seq, ACTIVE) {
            // Robbed already; or reaped, and then the room for entries is another's.
            return Ok(false);
        }
        // Release: a late helper of our last transaction that meets one of these sees `ACTIVE` too.
        mem.store_words(self.base.plus(lane::JOURNAL_ENTRY), writes.words())?;
        let held = self.lane.held;
        let mut head = [writes.len() as u64, held as u64, 0, 0, 0, 0];
        head[2..2 + held].copy_from_slice(&self.lane.locks[..held]);
        mem.store_words(self.base.plus(lane::ENTRIES), &head[..2 + held])?;
        if !mem.cas(status, journal(self.seq, ACTIVE), journal(self.seq, COMMITTED))? {
            return Ok(false);
        }
        for [at, old, new] in writes.iter() {
            // A failure means that a helper was here.
            mem.cas(Offset(at & !WAKE), *old, *new)?;
        }
        if writes.wakes() {
            self.wake()?;
        }
        self.finish()?;
        Ok(true)
    }

    /// Step 7. The sleepers run at once, and want the locks: they are freed first, by whom they
    /// would otherwise see in the middle of a system call.
    fn wake(&self) -> Result<(), Corrupt> {
        let mine = lock_word(self.seq, self.lane.id);
        for at in self.lane.locks[..self.lane.held].iter().rev() {
            // A failure means that a helper was here.
            self.region.mem().cas(Offset(*at), mine, 0)?;
        }
        for [at, ..] in self.lane.writes.iter().filter(|e| e[0] & WAKE != 0) {
            self.region.wake_status(Offset(at & !WAKE))?;
        }
        Ok(())
    }

    /// Ends a transaction that writes nothing; `true` if what it read was consistent.
    #[inline]
    fn end(self) -> Result<bool, Corrupt> {
        let status = self.base.plus(lane::JOURNAL);
        // Acquire: after the reads before, as in `valid`.
        let whole = self.region.mem().load(status, Ordering::Acquire)? == journal(self.seq, ACTIVE);
        self.finish()?;
        Ok(whole)
    }

    /// Step 8.
    #[inline]
    fn finish(&self) -> Result<(), Corrupt> {
        // Release: who sees it sees what was written; pairs with the load in `Region::stage`.
        self.region.mem().store(self.base.plus(lane::FINISHED), self.seq, Ordering::Release)
    }
}
