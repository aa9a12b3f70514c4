//! What others do with a transaction: complete it, abort it, shut its owner out.

use super::{
    ABORTED, ACTIVE, COMMITTED, FINISHED, IDLE, Lane, LaneId, RESTLESS, Stage, WAKE, journal,
    lock_holder, lock_word,
};
use crate::layout::{Table, lane};
use crate::mem::{Corrupt, Offset, Ordering, Platform};
use crate::region::Region;
use crate::task::Owner;
use crate::turns::Turns;

impl<P: Platform> Region<P> {
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
            // Which looks whether it is over.
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
            let seq = word >> 2;
            if self.stage(at, word, seq)? == Stage::Committed {
                turns.pass(self.help(id, seq)?, at, RESTLESS)?;
                continue;
            }
            let seq = seq + 2;
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

    /// Whether the lane's last transaction is committed and not yet over.
    ///
    /// # Errors
    /// The lane does not exist.
    pub fn lane_committed(&self, id: LaneId) -> Result<bool, Corrupt> {
        Ok(self.lane_stage(id)?.1 == Stage::Committed)
    }

    /// The number of the lane's last transaction, and what has become of that.
    ///
    /// # Errors
    /// The lane does not exist.
    pub fn lane_stage(&self, id: LaneId) -> Result<(u64, Stage), Corrupt> {
        let at = self.lane(id)?.plus(lane::JOURNAL);
        // Acquire: pairs with the commit, as below.
        let word = self.mem().load(at, Ordering::Acquire)?;
        Ok((word >> 2, self.stage(at, word, word >> 2)?))
    }

    /// Whether nobody holds the lock at `at`. Its word may still name who had it last.
    ///
    /// # Errors
    /// There is no word there, or it names no lane.
    pub fn is_free(&self, at: Offset) -> Result<bool, Corrupt> {
        // Acquire: pairs with the taking of it.
        let word = self.mem().load(at, Ordering::Acquire)?;
        let Some((id, seq)) = lock_holder(word) else { return Ok(word == 0) };
        let journal = self.lane(id)?.plus(lane::JOURNAL);
        let word = self.mem().load(journal, Ordering::Acquire)?;
        Ok(self.stage(journal, word, seq)? == Stage::Over)
    }

    /// What has become of transaction `seq` of the lane whose journal at `at` was just found `word`.
    #[inline]
    pub(super) fn stage(&self, at: Offset, word: u64, seq: u64) -> Result<Stage, Corrupt> {
        let stage = match word & 3 {
            ACTIVE => Stage::Active,
            COMMITTED => Stage::Committed,
            _ => return Ok(Stage::Over),
        };
        // Acquire: pairs with step 8; what the step wrote is visible to who takes its locks.
        let over =
            word >> 2 != seq || self.mem().load(at.plus(FINISHED), Ordering::Acquire)? == seq;
        Ok(if over { Stage::Over } else { stage })
    }

    /// Steps 6 and 7 of transaction `seq` of lane `id`, by anyone, any number of times; how many
    /// entries it has.
    pub(super) fn help(&self, id: LaneId, seq: u64) -> Result<u64, Corrupt> {
        let base = self.lane(id)?;
        let mem = self.mem();
        let status = base.plus(lane::JOURNAL);
        // Acquire: pairs with the owner's rewriting of the entries, which follows its next `ACTIVE`.
        let still = || {
            let word = mem.load(status, Ordering::Acquire)?;
            Ok::<_, Corrupt>(self.stage(status, word, seq)? == Stage::Committed)
        };
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
        // Seen through, here at least. A failure means that the owner or another was here.
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
