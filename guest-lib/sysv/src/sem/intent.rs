//! SEM_UNDO without a transaction: a semaphore's word and an adjustment change in one step.
//!
//! The operation is written down in the caller's lane, and *happens* with the compare-and-swap of the
//! semaphore's word, which from then on is [`sem::PENDING`] and names the lane in place of the last
//! writer. The adjustment follows. Whoever changes such a word carries it over first, if the lane
//! still says this word; so nobody can tell that it was two steps.
//!
//! 1. intent ← none; then semaphore, adjustment, its old and new word, and writer; then the word
//!    that the semaphore will hold;
//! 2. **the semaphore's word: old → new with `PENDING` and the lane**, the step that decides;
//! 3. the adjustment: old → new, by the owner or by whoever changes the semaphore's word next.
//!
//! A death before 2 leaves an intent for a word that never was; after 2, the next comer or the reaper
//! does 3. An intent is written over when its 3 is done, and before one of another semaphore or
//! writer the word no longer names the lane ([`release`]): so the lane of a pending word tells who
//! wrote it. A late 3 does nothing, since an adjustment's tag does not come back.

use super::{Word, undo};
use crate::{Caller, Result};
use vshmem_core::layout::{lane, sem};
use vshmem_core::mem::Ordering;
use vshmem_core::task::Identity;
use vshmem_core::txn::next_cell;
use vshmem_core::{Corrupt, LaneId, Offset, Platform, Region};

/// The intent of a lane, for one operation.
pub(super) struct Intent {
    /// The adjustment, as it is and as it will be.
    at: Offset,
    old: u64,
    new: u64,
}

impl Intent {
    /// Step 1 for adding `by` to the semaphore at `sem`, which held `old`, and the word that it is
    /// to hold. `None` where the adjustment is no plain number to be changed: the slow way knows.
    pub fn write<P: Platform>(
        r: &Region<P>,
        id: LaneId,
        c: &Caller,
        (sem, num): (Offset, u16),
        record: Offset,
        (old, value, by): (Word, i32, i16),
    ) -> Result<Option<(Self, Word)>> {
        let at = undo::adjustment_at(record, num);
        let adjustment = r.mem().load(at, Ordering::Acquire)?;
        let epoch = r.peek(sem.plus(sem::EPOCH))?;
        let sum = (adjustment as u32 as i32).saturating_sub(by.into());
        if r.peek(at.plus(8))? != epoch || !undo::in_range(sum) {
            return Ok(None);
        }
        let slot = r.lane(id)?;
        let mem = r.mem();
        let is_another = mem.load(slot.plus(lane::INTENT_SEM), Ordering::Relaxed)? != sem.0
            || mem.load(slot.plus(lane::INTENT_WHO), Ordering::Relaxed)? != c.who.0.into();
        if is_another {
            release(r, id)?;
        }
        let new = next_cell(adjustment, sum as u32);
        let word = old.pending(value, id);
        // Release, each: who sees one of them sees that the intent before is no more.
        mem.store(slot.plus(lane::INTENT), 0, Ordering::Release)?;
        let said = [sem.0, at.0, adjustment, new, c.who.0.into()];
        mem.store_words(slot.plus(lane::INTENT_SEM), &said)?;
        // Release: who sees the word sees all of it; pairs with the first load in `settle`.
        mem.store(slot.plus(lane::INTENT), word.0, Ordering::Release)?;
        Ok(Some((Self { at, old: adjustment, new }, word)))
    }

    /// Step 3, after the swap.
    pub fn apply<P: Platform>(&self, r: &Region<P>) -> Result<()> {
        // A failure means that somebody was faster.
        r.mem().cas(self.at, self.old, self.new)?;
        Ok(())
    }
}

/// Step 3 for a semaphore that was just found to hold `word`.
pub(super) fn settle<P: Platform>(r: &Region<P>, word: Word) -> Result<()> {
    let Some(id) = word.lane() else { return Ok(()) };
    // No peer names a lane that does not exist. Then there is nothing to do but to write the word.
    let (Ok(slot), mem) = (r.lane(id), r.mem()) else { return Ok(()) };
    let still = || mem.load(slot.plus(lane::INTENT), Ordering::Acquire);
    if still()? != word.0 {
        return Ok(()); // Done by its owner, who has gone on.
    }
    // Acquire, each: so that the last look comes after them.
    let [at, old, new] = [lane::INTENT_AT, lane::INTENT_OLD, lane::INTENT_NEW]
        .map(|o| mem.load(slot.plus(o), Ordering::Acquire));
    let (at, old, new) = (Offset(at?), old?, new?);
    // What is wrong is the lane, and not the place it names.
    let wild = |_| Corrupt::new(slot.plus(lane::INTENT_AT), "intent for a word outside the region");
    if still()? == word.0 && mem.load(at, Ordering::Acquire).map_err(wild)? == old {
        mem.cas(at, old, new).map_err(wild)?;
    }
    Ok(())
}

/// The last writer of a semaphore that holds `word`, as the lane has it that the word names.
pub(super) fn writer<P: Platform>(r: &Region<P>, word: Word) -> Result<Identity> {
    let Some(id) = word.lane() else { return Ok(word.who()) };
    let Ok(slot) = r.lane(id) else { return Ok(Identity(0)) };
    let who = r.mem().load(slot.plus(lane::INTENT_WHO), Ordering::Acquire)? as u32;
    Ok(Identity(who & sem::WHO))
}

/// Takes the name of lane `id` out of the semaphore of its intent, if it is still in there: for its
/// owner before the lane gets an intent of another kind or is given back, and for its reaper.
pub(crate) fn release<P: Platform>(r: &Region<P>, id: LaneId) -> Result<()> {
    let said = r.lane(id)?.plus(lane::INTENT_SEM);
    let at = Offset(r.mem().load(said, Ordering::Acquire)?);
    if at.0 == 0 {
        return Ok(()); // It never had one.
    }
    // Acquire: pairs with the swap, after which the lane says what there is to settle.
    let wild = |_| Corrupt::new(said, "intent for a semaphore outside the region");
    let word = Word(r.mem().load(at, Ordering::Acquire).map_err(wild)?);
    if word.lane() == Some(id) {
        settle(r, word)?;
        let told = word.told(writer(r, word)?, false);
        // A failure means that somebody has changed it since.
        r.mem().cas(at, word.0, told.0)?;
    }
    Ok(())
}
