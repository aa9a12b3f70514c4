//! The books: what the workers say they did against what is there in the end.
//!
//! A thread is killed inside at most one call, and only about that one it is open whether it
//! happened. So of messages: each that was sent arrived once; one whose sender died in `msgsnd`
//! arrived once or not at all; and one may be missing for each receiver that died in a `msgrcv` that
//! would have been given it, since it may have had it and not lived to say so. Nothing else.

use std::collections::HashMap;

use super::audit::Audit;
use super::log::{Entry, Wanted};
use crate::storms::Report;

#[derive(Debug)]
struct Sent {
    queue: u32,
    kind: i64,
    sure: bool,
    received: u32,
}

/// Of an object of a worker's own: made and removed, and removals in which somebody died.
#[derive(Debug, Default)]
struct Own {
    made: i64,
    gone: i64,
    open: i64,
}

/// What happened since they were opened.
#[derive(Debug, Default)]
pub struct Accounts {
    sent: HashMap<u64, Sent>,
    received: Vec<(u32, i64, u64)>,
    /// Receivers that died in the call.
    open: Vec<(u32, Wanted)>,
    own: HashMap<(u32, i32), Own>,
    /// By kind: those who died making one.
    unborn: [u64; 3],
    posts: [u64; 2],
    waits: [u64; 2],
    /// pid of a dead owner, when the wait began, when the token came.
    pub inherited: Vec<(u32, u64, u64)>,
    broken: Vec<String>,
    /// Calls that failed with ENOSYS: of trapped workers whose supervisor was killed.
    unmade: u64,
    pub entries: u64,
}

const ENOSYS: i32 = rustix::io::Errno::NOSYS.raw_os_error();

/// The figures of all audits.
#[derive(Debug, Default)]
pub struct Totals {
    pub sent: u64,
    pub open_sends: u64,
    pub open_receives: u64,
    pub in_hand: u64,
    pub left: u64,
    pub objects: u64,
    pub entries: u64,
    pub unmade: u64,
}

impl Accounts {
    /// One thread's story, to its end.
    pub fn absorb(&mut self, strand: &[Entry]) {
        self.entries += strand.len() as u64;
        let mut sending = None;
        let mut receiving = None;
        for (i, entry) in strand.iter().enumerate() {
            let last = i + 1 == strand.len();
            match *entry {
                Entry::SendTry { queue, kind, serial } => {
                    sending = Some(serial);
                    let new = Sent { queue, kind, sure: false, received: 0 };
                    if self.sent.insert(serial, new).is_some() {
                        self.broken.push(format!("the test sent {serial:x} twice"));
                    }
                }
                Entry::SendOk => {
                    if let Some(sent) = sending.take().and_then(|s| self.sent.get_mut(&s)) {
                        sent.sure = true;
                    }
                }
                // Whoever makes a trapped call died in the middle of it: it is open.
                Entry::SendNo { errno: ENOSYS } => sending = None,
                Entry::SendNo { .. } => {
                    sending.take().and_then(|s| self.sent.remove(&s));
                }
                Entry::RecvTry { queue, wanted } => {
                    receiving = Some((queue, wanted));
                    if last {
                        self.open.push((queue, wanted));
                    }
                }
                Entry::RecvGot { kind, serial } => {
                    self.received.push((receiving.map_or(u32::MAX, |r| r.0), kind, serial));
                }
                Entry::RecvNo { errno: ENOSYS } => self.open.extend(receiving),
                Entry::RecvNo { .. } | Entry::WaitNo | Entry::End => {}
                Entry::Inherit { owner, since, at } => self.inherited.push((owner, since, at)),
                // Until it is said that it was done.
                Entry::MakeTry { kind } => self.unborn[kind as usize % 3] += 1,
                Entry::Made { kind, id } => {
                    self.unborn[kind as usize % 3] -= 1;
                    self.own.entry((kind, id)).or_default().made += 1;
                }
                Entry::GoneTry { kind, id } => self.own.entry((kind, id)).or_default().open += 1,
                Entry::Gone { kind, id } => {
                    let own = self.own.entry((kind, id)).or_default();
                    own.open -= 1;
                    own.gone += 1;
                }
                Entry::PostTry => self.posts[1] += u64::from(last),
                Entry::PostOk => self.posts[0] += 1,
                Entry::WaitTry => self.waits[1] += u64::from(last),
                Entry::WaitOk => self.waits[0] += 1,
                Entry::Broken { errno: ENOSYS, .. } => self.unmade += 1,
                Entry::Broken { errno, text } => {
                    let text = String::from_utf8_lossy(&text).replace('\0', "");
                    self.broken.push(format!("a worker: {text} (errno {errno})"));
                }
            }
        }
    }

    /// Closes the books over what an audit found. `unmade`: whether calls may have failed since
    /// nobody was there to make them.
    pub fn close(
        self,
        found: &Audit,
        place: &str,
        unmade: bool,
        report: &mut Report,
        totals: &mut Totals,
    ) {
        report.promise(unmade || self.unmade == 0, || format!("{} calls: ENOSYS", self.unmade));
        totals.unmade += self.unmade;
        for broken in &self.broken {
            report.promise(false, || format!("{place}: {broken}"));
        }
        self.tokens(found, report);
        self.objects(found, report, totals);
        totals.entries += self.entries;
        self.messages(found, report, totals);
    }

    fn tokens(&self, found: &Audit, report: &mut Report) {
        let v = &found.values;
        let sound =
            v.len() == 10 && v[..4] == [3; 4] && v[4] + v[5] == 1000 && v[6..] == [100, 100, 0, 1];
        report.promise(sound, || format!("tokens are lost or more, undone wrongly: {v:?}"));
        let waits = found.waiting.iter().all(|n| *n == 0);
        report.promise(waits, || format!("the dead wait: {:?}", found.waiting));
        report.promise(found.attached == 0, || format!("{} dead are attached", found.attached));
        report.promise(found.records, || "a record under a lock is torn".into());
        let least = 40 + self.posts[0] as i64 - (self.waits[0] + self.waits[1]) as i64;
        let most = least + (self.posts[1] + self.waits[1]) as i64;
        let slots = found.slots;
        report.promise((least..=most).contains(&slots), || {
            format!("a sem_t has {slots}, not {least} to {most}")
        });
    }

    fn objects(&self, found: &Audit, report: &mut Report, totals: &mut Totals) {
        totals.objects += self.own.values().map(|o| o.made as u64).sum::<u64>();
        let mut unsaid = [0; 3];
        for (kind, id) in &found.objects {
            match self.own.get(&(*kind, *id)) {
                Some(own) if own.made - own.gone == 1 => {}
                _ => unsaid[*kind as usize] += 1,
            }
        }
        let within = (0..3).all(|k| unsaid[k] <= self.unborn[k]);
        report.promise(within, || {
            let unborn = self.unborn;
            format!("objects nobody has: {unsaid:?}, {unborn:?} died making one; {found:?}")
        });
        for (which, own) in &self.own {
            let left = own.made - own.gone;
            let there = found.objects.contains(which);
            report.promise(there || left - own.open <= 0, || {
                format!("object {which:?} has gone by itself: {own:?}")
            });
        }
    }

    fn messages(mut self, found: &Audit, report: &mut Report, totals: &mut Totals) {
        totals.sent += self.sent.values().filter(|s| s.sure).count() as u64;
        totals.open_sends += self.sent.values().filter(|s| !s.sure).count() as u64;
        totals.open_receives += self.open.len() as u64;
        totals.left += found.messages.len() as u64;
        report.promise(found.queues_empty, || "an emptied queue counts messages or bytes".into());
        for (queue, kind, serial) in self.received.iter().chain(&found.messages) {
            let Some(sent) = self.sent.get_mut(serial) else {
                report.promise(false, || format!("message {serial:x} was never sent"));
                continue;
            };
            sent.received += 1;
            let same = (sent.queue, sent.kind) == (*queue, *kind) && sent.received == 1;
            report.promise(same, || format!("message {serial:x} in queue {queue}: {sent:?}"));
        }
        let missing: Vec<_> = self.sent.values().filter(|s| s.sure && s.received == 0).collect();
        totals.in_hand += missing.len() as u64;
        let unmatched = missing.len() - matching(&missing, &self.open);
        report.promise(unmatched == 0, || {
            let open = self.open.len();
            format!(
                "{unmatched} of {} missing messages were in no dead receiver's hand ({open} died \
                 receiving): {missing:?}",
                missing.len()
            )
        });
    }
}

/// How many of the missing messages dead receivers can have had, one each: a largest matching.
fn matching(missing: &[&Sent], open: &[(u32, Wanted)]) -> usize {
    fn augment(
        of: usize,
        missing: &[&Sent],
        open: &[(u32, Wanted)],
        taken: &mut [Option<usize>],
        seen: &mut [bool],
    ) -> bool {
        for (i, (queue, wanted)) in open.iter().enumerate() {
            if seen[i] || *queue != missing[of].queue || !wanted.takes(missing[of].kind) {
                continue;
            }
            seen[i] = true;
            if taken[i].is_none_or(|other| augment(other, missing, open, taken, seen)) {
                taken[i] = Some(of);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; open.len()];
    let found = |of: &usize| augment(*of, missing, open, &mut taken, &mut vec![false; open.len()]);
    (0..missing.len()).filter(found).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit() -> Audit {
        Audit {
            values: vec![3, 3, 3, 3, 900, 100, 100, 100, 0, 1],
            records: true,
            slots: 40,
            queues_empty: true,
            ..Audit::default()
        }
    }

    fn broken(strands: &[&[Entry]], found: &Audit) -> Vec<String> {
        let mut accounts = Accounts::default();
        strands.iter().for_each(|s| accounts.absorb(s));
        let mut report = Report::default();
        accounts.close(found, "here", false, &mut report, &mut Totals::default());
        report.broken().to_vec()
    }

    const SEND: Entry = Entry::SendTry { queue: 1, kind: 2, serial: 7 };
    const GOT: Entry = Entry::RecvGot { kind: 2, serial: 7 };
    const ANY: Wanted = Wanted { kind: 0, except: false };
    const ASK: Entry = Entry::RecvTry { queue: 1, wanted: ANY };

    #[test]
    fn a_message_arrives_once_and_may_be_in_one_dead_hand() {
        let sound: [&[&[Entry]]; 4] = [
            &[&[SEND, Entry::SendOk], &[ASK, GOT]],
            &[&[SEND], &[ASK, GOT]],
            &[&[SEND]],
            &[&[SEND, Entry::SendOk], &[ASK]],
        ];
        for strands in sound {
            assert_eq!(broken(strands, &audit()), [] as [String; 0]);
        }
        let other = Entry::RecvTry { queue: 1, wanted: Wanted { kind: 3, except: false } };
        let wrong: [&[&[Entry]]; 5] = [
            &[&[SEND, Entry::SendOk]],
            &[&[SEND, Entry::SendOk], &[other]],
            &[&[SEND, Entry::SendOk], &[ASK, GOT, ASK, GOT]],
            &[&[SEND, Entry::SendNo { errno: 11 }], &[ASK, GOT]],
            &[&[ASK, GOT]],
        ];
        for strands in wrong {
            assert!(!broken(strands, &audit()).is_empty(), "{strands:?}");
        }
    }

    #[test]
    fn two_missing_messages_need_two_hands_that_fit() {
        let second = Entry::SendTry { queue: 1, kind: 3, serial: 8 };
        let sent = [SEND, Entry::SendOk, second, Entry::SendOk];
        let only = |kind| [Entry::RecvTry { queue: 1, wanted: Wanted { kind, except: false } }];
        assert_eq!(broken(&[&sent, &[ASK], &only(2)], &audit()), [] as [String; 0]);
        assert_eq!(broken(&[&sent, &only(2), &[ASK]], &audit()), [] as [String; 0]);
        assert_eq!(broken(&[&sent, &[ASK]], &audit()).len(), 1);
        assert_eq!(broken(&[&sent, &only(2), &only(2)], &audit()).len(), 1);
    }

    #[test]
    fn lost_tokens_and_objects_are_found() {
        let mut found = audit();
        found.values[9] = 0;
        assert_eq!(broken(&[], &found).len(), 1);
        let made = Entry::Made { kind: 1, id: 5 };
        assert_eq!(broken(&[&[Entry::MakeTry { kind: 1 }, made]], &audit()).len(), 1);
        let found = Audit { objects: vec![(1, 5)], ..audit() };
        assert_eq!(broken(&[&[Entry::MakeTry { kind: 1 }, made]], &found), [] as [String; 0]);
        assert_eq!(broken(&[&[Entry::MakeTry { kind: 1 }]], &found), [] as [String; 0]);
        assert_eq!(broken(&[], &found).len(), 1);
    }
}
