//! `semop`: the fast way, the queued way, and the hand-off.

use super::intent::{self, Intent};
use super::{MAX_VALUE, SemBuf, Word, freeze, sem_at, sems_of, undo};
use crate::object::{self, Object, permit};
use crate::waiters::{List, Patience, UNSETTLED, rounds, sleep};
use crate::{Caller, Errno, Error, Result};
use vshmem_core::layout::{Limit, lane, obj, sem, set, waits};
use vshmem_core::mem::Ordering;
use vshmem_core::region::Kind;
use vshmem_core::task::Identity;
use vshmem_core::{Corrupt, Lane, LaneId, Offset, Platform, Region, Turns, Txn, wait};

/// Journal entries one hand-off of `n` operations may need: words, adjustments, epochs, the list.
const fn one_hand_off(n: usize) -> usize {
    3 * n + 16
}

const _: () = assert!(one_hand_off(lane::MAX_OPS) <= lane::MAX_ENTRIES);
/// Races for a semaphore's word that an operation may lose before it takes the slow way.
const RACES: u32 = 1 << 14;
/// Semaphores of a set, by its limit's limit.
const MOST_SEMS: u32 = 32_767;
/// Operations evaluated without an allocation.
const FEW: usize = 16;

/// Small, and errors apart from it: every uncontended operation returns one.
#[derive(Clone, Copy)]
enum Fast {
    Done,
    /// It would have to wait, and nobody else waits.
    Wait,
    /// Its word is frozen.
    Slow,
    /// Others were faster, too often; or there is more to do than the fast way can.
    Lost,
}

/// One operation without SEM_UNDO, on a set without waiters: no lock, no lane, no system call.
///
/// `None`: it must go through [`op`].
///
/// # If the caller dies
/// The compare-and-swap happened or not; only the time of the last operation may be missing.
pub fn op_fast<P: Platform>(r: &Region<P>, c: &Caller, id: i32, op: SemBuf) -> Option<Result<()>> {
    if op.undo() {
        return None;
    }
    match fast(r, None, c, id, op) {
        Ok(Fast::Done) => Some(Ok(())),
        Ok(Fast::Wait | Fast::Slow | Fast::Lost) => None,
        Err(error) => Some(Err(error)),
    }
}

/// `on` is the lane of an operation with SEM_UNDO. Always inlined: without one there is nothing of it.
#[inline(always)]
fn fast<P: Platform>(
    r: &Region<P>,
    on: Option<LaneId>,
    c: &Caller,
    id: i32,
    op: SemBuf,
) -> Result<Fast> {
    let object = object::find_any(r, Kind::Set, id)?;
    let mut undoing = None;
    if let Some(lane) = on {
        // Before the other checks, as the kernel: the record is there even if they fail.
        let Some(record) = undo::search(r, c, &object)? else { return Ok(Fast::Lost) };
        undoing = Some((lane, record));
    }
    let (sems, at) = fast_sem(r, c, &object, op)?;
    for _ in 0..RACES {
        // Acquire: an operation that lets us in makes its caller's earlier writes visible.
        let word = Word(r.mem().load(at, Ordering::Acquire)?);
        // One look for the two that are rare.
        if word.0 & (sem::FROZEN | sem::PENDING) != 0 {
            if word.frozen() {
                return Ok(Fast::Slow);
            }
            intent::settle(r, word)?;
        }
        let value = word.value() + i32::from(op.op);
        let fails = if value < 0 || (op.op == 0 && word.value() != 0) {
            if !op.nowait() {
                return Ok(Fast::Wait);
            }
            Some(Errno::EAGAIN)
        } else if value > MAX_VALUE {
            Some(Errno::ERANGE)
        } else {
            None
        };
        // The word was the set's only if the set is still there, with this memory: a removal, or a
        // SETALL that gives it other memory, freezes all its words first, and a new set over the same
        // memory goes on with another sequence. So what the compare-and-swap finds unchanged is
        // still this set's. A withdrawal freezes them in the same way.
        if r.peek(object.at.plus(set::SEMS))? != sems {
            return Ok(Fast::Slow);
        }
        if r.peek(object.at.plus(obj::LIFE))? != object.life
            || object::withdrawn(r, object.at, || c.who.peer())?
        {
            return Err(Errno::EINVAL.into());
        }
        // In the same way nothing is changed by a task that was fenced: after that come new words.
        r.check_task(c.task)?;
        if let Some(errno) = fails {
            return Err(errno.into());
        }
        let (intent, next) = match undoing {
            None => (None, word.next(value, c.who, false)),
            Some((lane, record)) => {
                // A transaction that unfroze the word may have the adjustment still to write.
                if !r.is_free(object.at.plus(obj::LOCK))? {
                    return Ok(Fast::Lost);
                }
                let place = (at, op.num);
                match Intent::write(r, lane, c, place, record, (word, value, op.op))? {
                    Some((intent, next)) => (Some(intent), next),
                    None => return Ok(Fast::Lost),
                }
            }
        };
        if r.mem().cas(at, word.0, next.0)? {
            if let Some(intent) = intent {
                intent.apply(r)?;
            }
            // Relaxed: a time stamp for listings; the kernel's is not ordered either.
            r.mem().store(at.plus(sem::OTIME), r.mem().seconds().into(), Ordering::Relaxed)?;
            return Ok(Fast::Done);
        }
    }
    // The slow way stops the others.
    Ok(Fast::Lost)
}

/// Gives every semaphore that fast operations reach another word of the same value, so that those
/// which have read the old one and not looked at their task since come too late.
///
/// # Errors
/// The region is corrupt.
pub(crate) fn renew_words<P: Platform>(r: &Region<P>) -> Result<()> {
    let mut met = Ok(());
    for index in object::indices(r, Kind::Set)? {
        met = met.and(renew_words_of(r, r.object(Kind::Set, index)?));
    }
    met
}

fn renew_words_of<P: Platform>(r: &Region<P>, set: Offset) -> Result<()> {
    let life = r.peek(set.plus(obj::LIFE))?;
    if life & 3 == obj::FREE {
        return Ok(());
    }
    let cell = r.peek(set.plus(set::SEMS))?;
    let sems = r.block(cell)?;
    for num in 0..r.peek(set.plus(set::NSEMS))?.min(MOST_SEMS) {
        let at = sem_at(sems, num);
        let word = Word(r.mem().load(at, Ordering::Acquire)?);
        // As a fast operation: only of a set that is there with this memory, and no frozen word.
        if r.peek(set.plus(set::SEMS))? != cell || r.peek(set.plus(obj::LIFE))? != life {
            break;
        }
        if !word.frozen() {
            intent::settle(r, word)?;
            let who = intent::writer(r, word)?;
            // A failure means that it has another word already.
            r.mem().cas(at, word.0, word.next(word.value(), who, false).0)?;
        }
    }
    Ok(())
}

/// The cell of the set's memory, and where in that the semaphore is.
fn fast_sem<P: Platform>(
    r: &Region<P>,
    c: &Caller,
    object: &Object,
    op: SemBuf,
) -> Result<(u32, Offset)> {
    let nsems = r.peek(object.at.plus(set::NSEMS))?;
    let cell = r.peek(object.at.plus(set::SEMS))?;
    let sems = r.block(cell)?;
    if u32::from(op.num) >= nsems {
        return Err(Errno::EFBIG.into());
    }
    permit(r, c, object.at, if op.op == 0 { 0o444 } else { 0o222 })?;
    Ok((cell, sem_at(sems, op.num.into())))
}

/// `semop` and `semtimedop`: all of `ops`, or none, waiting until `deadline` (nanoseconds of the
/// platform's clock) for the first that cannot go.
///
/// # Errors
/// `EINVAL`, `E2BIG`, `EFBIG`, `EACCES`, `ERANGE`, `EAGAIN`, `EINTR`, `ENOMEM` (undo), `EIDRM`
/// when the set is removed meanwhile.
///
/// # If the caller dies
/// All or none happened; what SEM_UNDO promised is undone by the reaper.
pub fn op<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    ops: &[SemBuf],
    deadline: Option<u64>,
) -> Result<()> {
    if ops.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    if ops.len() as u64 > r.limit(Limit::Semopm)? {
        return Err(Errno::E2BIG.into());
    }
    let mut patience = Patience::new(r, deadline);
    if let [one] = ops
        && spin(r, on, c, id, *one, &mut patience)?
    {
        patience.over(false);
        return Ok(());
    }
    let object = object::find(r, Kind::Set, c, id).map_err(|e| patience.inside(e))?;
    // Before the other checks, as the kernel: the record is there even if they fail.
    let undo =
        if ops.iter().any(|op| op.undo()) { Some(undo::record(r, on, c, &object)?) } else { None };
    let nsems = r.peek(object.at.plus(set::NSEMS))?;
    if ops.iter().any(|op| u32::from(op.num) >= nsems) {
        return Err(Errno::EFBIG.into());
    }
    let alters = ops.iter().any(|op| op.op != 0);
    permit(r, c, object.at, if alters { 0o222 } else { 0o444 })?;
    let slot = r.lane(on.id())?;
    for (i, op) in ops.iter().enumerate() {
        // Relaxed: published by the transaction that queues the lane.
        r.mem().store(slot.plus(lane::OPS).index(i as u64, 8), pack(*op), Ordering::Relaxed)?;
    }
    let request = Request { ops: Ops::Given(ops), who: c.who, undo };
    let mut turns = rounds(r);
    loop {
        match r.transact(on, |txn| attempt(txn, &object, &request, c, deadline))? {
            Attempt::Done => return Ok(()),
            Attempt::DoneMore => {
                // Ours happened; whoever else could go now does so in further steps.
                return settle(r, on, &object, &mut turns);
            }
            Attempt::First => {
                turns.pass(1, object.at, UNSETTLED)?;
                settle(r, on, &object, &mut turns)?;
            }
            Attempt::Queued => {
                sleep(r, on, deadline, |txn| unqueue(txn, object.at, txn.lane(), wait::IDLE))?;
                patience.over(true);
                return Ok(());
            }
        }
    }
}

/// Waits a bounded time for a value that lets `op` go, while nobody is queued.
fn spin<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    c: &Caller,
    id: i32,
    op: SemBuf,
    patience: &mut Patience<'_, P>,
) -> Result<bool> {
    loop {
        let done =
            if op.undo() { fast(r, Some(on.id()), c, id, op) } else { fast(r, None, c, id, op) };
        match done.map_err(|e| patience.inside(e))? {
            Fast::Done => return Ok(true),
            Fast::Wait if patience.turn() => {}
            Fast::Slow
                if thaw(r, on, c, id, op.num).map_err(|e| patience.inside(e))?
                    && patience.turn() => {}
            Fast::Wait | Fast::Slow | Fast::Lost => return Ok(false),
        }
    }
}

/// Lets fast operations pass again where the last waiter has left; `false` where some wait.
fn thaw<P: Platform>(r: &Region<P>, on: &mut Lane, c: &Caller, id: i32, num: u16) -> Result<bool> {
    let object = object::find(r, Kind::Set, c, id)?;
    if r.peek(object.at.plus(set::WAITERS))? != 0 {
        return Ok(false);
    }
    r.transact(on, |txn| {
        object.lock(txn)?;
        if txn.get(object.at.plus(set::WAITERS))? != 0 {
            return Ok(false);
        }
        let at = sem_at(sems_of(txn, &object)?.0, num.into());
        let word = Word(txn.word(at)?);
        if word.frozen() {
            txn.set_word(at, word.next(word.value(), word.who(), false).0)?;
        }
        Ok(true)
    })
}

fn pack(op: SemBuf) -> u64 {
    u64::from(op.num) | u64::from(op.op as u16) << 16 | u64::from(op.flg as u16) << 32
}

/// A sleeper's operation.
pub(crate) fn unpack(word: u64) -> SemBuf {
    SemBuf { num: word as u16, op: (word >> 16) as u16 as i16, flg: (word >> 32) as u16 as i16 }
}

/// Operations, the caller's own or a sleeper's in its lane.
enum Ops<'a> {
    Given(&'a [SemBuf]),
    Slot { at: Offset, n: u32 },
}

impl Ops<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Given(ops) => ops.len(),
            Self::Slot { n, .. } => *n as usize,
        }
    }

    fn get<P: Platform>(&self, r: &Region<P>, i: usize) -> Result<SemBuf> {
        match self {
            Self::Given(ops) => Ok(ops[i]),
            Self::Slot { at, .. } => {
                // Relaxed: published with the queueing, which the lock ordered.
                Ok(unpack(r.mem().load(at.index(i as u64, 8), Ordering::Relaxed)?))
            }
        }
    }
}

impl Ops<'_> {
    /// The semaphore of the only operation.
    fn only<P: Platform>(&self, r: &Region<P>) -> Result<Option<u16>> {
        if self.len() == 1 { Ok(Some(self.get(r, 0)?.num)) } else { Ok(None) }
    }
}

struct Request<'a> {
    ops: Ops<'a>,
    who: Identity,
    undo: Option<Offset>,
}

enum Tried {
    /// What it did to some semaphore.
    Done {
        raised: bool,
        lowered: bool,
        zeroed: bool,
    },
    /// The operation that cannot go now.
    Blocked(SemBuf),
    Failed(Errno),
}

enum Attempt {
    Done,
    DoneMore,
    /// Waiters come first.
    First,
    Queued,
}

fn attempt<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    request: &Request<'_>,
    c: &Caller,
    deadline: Option<u64>,
) -> Result<Attempt> {
    object.lock(txn)?;
    if txn.get(object.at.plus(set::DIRTY))? != 0 {
        return Ok(Attempt::First);
    }
    let waiters = txn.get(object.at.plus(set::WAITERS))?;
    match try_ops(txn, object, request, waiters > 0)? {
        Tried::Failed(errno) => Err(errno.into()),
        Tried::Done { raised, lowered, zeroed } => {
            let lets = |txn: &Txn<'_, P>| {
                Ok::<_, Error>(
                    lowered && is_mixed(txn, object)? && (zeroed || several(txn, object)?),
                )
            };
            let num = request.ops.only(txn.region())?;
            if waiters > 0
                && (raised || lets(txn)?)
                && hand_off(txn, object, Change::Some { zeroed, num })?
            {
                return Ok(Attempt::DoneMore);
            }
            Ok(Attempt::Done)
        }
        Tried::Blocked(op) => {
            if op.nowait() || deadline.is_some_and(|d| d <= txn.region().mem().now()) {
                return Err(Errno::EAGAIN.into());
            }
            let slot = txn.region().lane(txn.lane())?;
            txn.set(slot.plus(lane::WAIT_N), request.ops.len() as u32)?;
            let block = request.undo.map_or(0, vshmem_core::arena::to_cell);
            txn.set(slot.plus(lane::WAIT_BLOCK), block)?;
            let mixed = request.ops.only(txn.region())?.is_none() || op.op == 0;
            if mixed || waiters == 0 {
                txn.set(object.at.plus(set::MIXED), mixed.into())?;
            }
            wait_list(object.at).push(txn, object.index, c)?;
            txn.set(object.at.plus(set::WAITERS), waiters.saturating_add(1))?;
            Ok(Attempt::Queued)
        }
    }
}

/// Performs all operations on running values, or says which one cannot go; writes only if all can.
fn try_ops<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    request: &Request<'_>,
    keep_frozen: bool,
) -> Result<Tried> {
    let (sems, nsems) = sems_of(txn, object)?;
    let n = request.ops.len();
    let mut few = [(0u16, 0i32, 0i32); FEW];
    let mut many = Vec::new();
    let touched: &mut [(u16, i32, i32)] = if n <= FEW {
        &mut few[..n]
    } else {
        many.resize(n, (0, 0, 0));
        &mut many
    };
    let mut used = 0;
    let (mut raised, mut lowered) = (false, false);
    for i in 0..n {
        let op = request.ops.get(txn.region(), i)?;
        if u32::from(op.num) >= nsems {
            return Ok(Tried::Failed(Errno::EFBIG));
        }
        let k = match touched[..used].iter().position(|t| t.0 == op.num) {
            Some(k) => k,
            None => {
                let at = sem_at(sems, op.num.into());
                // A pending write of this transaction is newer than the frozen word.
                freeze(txn.region(), at)?;
                let adjustment = match request.undo {
                    Some(block) => undo::get(txn, sems, block, op.num)?,
                    None => 0,
                };
                touched[used] = (op.num, Word(txn.word(at)?).value(), adjustment);
                used += 1;
                used - 1
            }
        };
        let (_, value, adjustment) = &mut touched[k];
        if op.op == 0 {
            if *value != 0 {
                return Ok(Tried::Blocked(op));
            }
            continue;
        }
        let next = *value + i32::from(op.op);
        if next < 0 {
            return Ok(Tried::Blocked(op));
        }
        if next > MAX_VALUE {
            return Ok(Tried::Failed(Errno::ERANGE));
        }
        if op.undo() {
            let next = adjustment.saturating_sub(op.op.into());
            if !undo::in_range(next) {
                return Ok(Tried::Failed(Errno::ERANGE));
            }
            *adjustment = next;
        }
        raised |= op.op > 0;
        lowered |= op.op < 0;
        *value = next;
    }
    for (num, value, adjustment) in &touched[..used] {
        let at = sem_at(sems, (*num).into());
        let word = Word(txn.word(at)?);
        txn.set_word(at, word.next(*value, request.who, keep_frozen).0)?;
        if let Some(block) = request.undo {
            undo::put(txn, sems, block, *num, *adjustment)?;
        }
    }
    let now = txn.region().mem().seconds();
    txn.set(object.at.plus(set::OTIME), now)?;
    let zeroed = touched[..used].iter().any(|(_, value, _)| *value == 0);
    Ok(Tried::Done { raised, lowered, zeroed })
}

/// The waiters of the set at `at`.
pub(crate) fn wait_list(at: Offset) -> List {
    List { head: at.plus(set::HEAD), tail: at.plus(set::TAIL), kind: waits::SEM }
}

/// What the sleeper in lane `id` asked for.
fn request_of<P: Platform>(txn: &Txn<'_, P>, id: LaneId) -> Result<Request<'static>> {
    let slot = txn.region().lane(id)?;
    let n = txn.get(slot.plus(lane::WAIT_N))?;
    if n as usize > lane::MAX_OPS {
        return Err(Corrupt::new(slot, "sleeper with too many operations").into());
    }
    let undo = match txn.get(slot.plus(lane::WAIT_BLOCK))? {
        0 => None,
        block => Some(txn.region().block(block)?),
    };
    let who = Identity(txn.get(slot.plus(lane::WAIT_WHO))?);
    Ok(Request { ops: Ops::Slot { at: slot.plus(lane::OPS), n }, who, undo })
}

/// What was changed before a hand-off.
#[derive(Clone, Copy)]
pub(super) enum Change {
    /// Who knows.
    All,
    /// The semaphores of one call; whether one of them is zero now, and which it was if only one.
    Some { zeroed: bool, num: Option<u16> },
}

impl Change {
    /// Whether the kernel would look at those that wait for zero.
    fn zeroed<P: Platform>(self, txn: &Txn<'_, P>, object: &Object) -> Result<bool> {
        match self {
            Self::Some { zeroed, .. } => Ok(zeroed),
            Self::All => {
                let (sems, nsems) = sems_of(txn, object)?;
                for num in 0..nsems {
                    if Word(txn.word(sem_at(sems, num))?).value() == 0 {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

/// Whether somebody waits with several operations: a lower value may make one of those fail.
fn several<P: Platform>(txn: &Txn<'_, P>, object: &Object) -> Result<bool> {
    for id in wait_list(object.at).each(txn)? {
        if txn.get(txn.region().lane(id)?.plus(lane::WAIT_N))? > 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether somebody waits with several operations or for zero, or did since the set had no sleepers.
fn is_mixed<P: Platform>(txn: &Txn<'_, P>, object: &Object) -> Result<bool> {
    Ok(txn.get(object.at.plus(set::MIXED))? != 0)
}

/// [`hand_off`] where each waits with one operation that lowers one semaphore: nobody's turn lets an
/// earlier one go, so one round in their order serves all, and it ends when there is nothing left.
fn hand_down<P: Platform>(txn: &mut Txn<'_, P>, object: &Object, change: Change) -> Result<bool> {
    let list = wait_list(object.at);
    let dirty = object.at.plus(set::DIRTY);
    let (sems, _) = sems_of(txn, object)?;
    let num = match change {
        Change::Some { num, .. } => num,
        Change::All => None,
    };
    let mut turns = rounds(txn.region());
    let mut next = list.first(txn)?;
    while let Some(id) = next {
        if let Some(num) = num
            && Word(txn.word(sem_at(sems, num.into()))?).value() == 0
        {
            break;
        }
        turns.pass(1, object.at, UNSETTLED)?;
        next = list.after(txn, id)?;
        let request = request_of(txn, id)?;
        if num.is_some() && request.ops.only(txn.region())? != num {
            continue;
        }
        if txn.room() < one_hand_off(request.ops.len()) {
            txn.set(dirty, 1)?;
            return Ok(true);
        }
        let waiters = txn.get(object.at.plus(set::WAITERS))?;
        let outcome = match try_ops(txn, object, &request, waiters > 1)? {
            Tried::Blocked(op) if !op.nowait() => continue,
            Tried::Blocked(_) => Err(Errno::EAGAIN),
            Tried::Failed(errno) => Err(errno),
            Tried::Done { .. } => Ok(()),
        };
        list.settle(txn, id, outcome)?;
        txn.set(object.at.plus(set::WAITERS), waiters.saturating_sub(1))?;
    }
    txn.set(dirty, 0)?;
    Ok(false)
}

/// Sleepers in the order in which they are served: the kernel keeps a queue for each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Waits for one semaphore to become zero.
    Zero,
    /// Waits for several.
    Zeros,
    /// Changes something.
    Alters,
}

impl Class {
    fn of<P: Platform>(r: &Region<P>, ops: &Ops<'_>) -> Result<Self> {
        for i in 0..ops.len() {
            if ops.get(r, i)?.op != 0 {
                return Ok(Self::Alters);
            }
        }
        Ok(if ops.len() == 1 { Self::Zero } else { Self::Zeros })
    }
}

/// Serves everybody who can go now: waiters for zero first, then in order of arrival, and again
/// from the start after every change that may let an earlier one go (the kernel's `do_smart_update`).
/// `true`: the journal is full and more may be able to go; the set is marked dirty.
pub(super) fn hand_off<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    mut change: Change,
) -> Result<bool> {
    if !is_mixed(txn, object)? {
        return hand_down(txn, object, change);
    }
    let list = wait_list(object.at);
    let dirty = object.at.plus(set::DIRTY);
    'again: loop {
        let waiting = list.each(txn)?;
        for class in [Class::Zero, Class::Zeros, Class::Alters] {
            for id in &waiting {
                let request = request_of(txn, *id)?;
                if Class::of(txn.region(), &request.ops)? != class {
                    continue;
                }
                if txn.room() < one_hand_off(request.ops.len()) {
                    txn.set(dirty, 1)?;
                    return Ok(true);
                }
                let others = txn.get(object.at.plus(set::WAITERS))? > 1;
                let outcome = match try_ops(txn, object, &request, others)? {
                    Tried::Blocked(op) if !op.nowait() => continue,
                    // Where nothing is zero now, the kernel does not look at these.
                    Tried::Blocked(_)
                        if class != Class::Alters && !change.zeroed(txn, object)? =>
                    {
                        continue;
                    }
                    Tried::Blocked(_) => Err(Errno::EAGAIN),
                    Tried::Failed(errno) => Err(errno),
                    Tried::Done { zeroed, .. } => {
                        if class == Class::Alters {
                            change = Change::Some { zeroed, num: None };
                        }
                        Ok(())
                    }
                };
                list.settle(txn, *id, outcome)?;
                let waiters = txn.get(object.at.plus(set::WAITERS))?;
                txn.set(object.at.plus(set::WAITERS), waiters.saturating_sub(1))?;
                if class == Class::Alters && outcome.is_ok() {
                    continue 'again;
                }
            }
            if list.first(txn)?.is_none() {
                break;
            }
        }
        if txn.get(dirty)? != 0 {
            txn.set(dirty, 0)?;
        }
        return Ok(false);
    }
}

/// Finishes the hand-offs that somebody began.
pub(crate) fn settle<P: Platform>(
    r: &Region<P>,
    on: &mut Lane,
    object: &Object,
    turns: &mut Turns,
) -> Result<()> {
    loop {
        turns.pass(1, object.at, UNSETTLED)?;
        let more = r.transact(on, |txn| {
            txn.lock(object.at.plus(obj::LOCK))?;
            let same = txn.get(object.at.plus(obj::LIFE))? == object.life;
            if !same || txn.get(object.at.plus(set::DIRTY))? == 0 {
                return Ok::<_, Error>(false);
            }
            hand_off(txn, object, Change::All)
        })?;
        if !more {
            return Ok(());
        }
    }
}

/// Takes lane `id` out of the list of the set at `at`; `false` if it was no longer in it.
pub(crate) fn unqueue<P: Platform>(
    txn: &mut Txn<'_, P>,
    at: Offset,
    id: LaneId,
    status: u32,
) -> Result<bool> {
    txn.lock(at.plus(obj::LOCK))?;
    let slot = txn.region().lane(id)?;
    if txn.get(slot.plus(lane::STATUS))? != wait::WAITING {
        return Ok(false);
    }
    wait_list(at).remove(txn, id)?;
    txn.set(slot.plus(lane::STATUS), status)?;
    let waiters = txn.get(at.plus(set::WAITERS))?;
    txn.set(at.plus(set::WAITERS), waiters.saturating_sub(1))?;
    Ok(true)
}

/// Which operation of each sleeper blocks it, for GETNCNT and GETZCNT.
pub(super) fn blocking<P: Platform>(
    txn: &mut Txn<'_, P>,
    object: &Object,
    mut f: impl FnMut(SemBuf),
) -> Result<()> {
    for id in wait_list(object.at).each(txn)? {
        let request = request_of(txn, id)?;
        // A sleeper that could go would have gone: the set is settled and locked.
        if let Tried::Blocked(op) = try_ops(txn, object, &request, true)? {
            f(op);
        }
    }
    Ok(())
}
