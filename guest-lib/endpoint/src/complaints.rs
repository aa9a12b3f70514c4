//! What is said again and again is said seldom: a hostile peer must not fill the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a kind of complaint is counted together.
const PERIOD: Duration = Duration::from_secs(60);
/// How many of a kind are said in that time.
const MOST: u64 = 5;

/// How often each kind of complaint was made lately.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    kinds: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl Complaints {
    /// Whether to say one of this kind now: as many as were kept quiet before.
    pub(crate) fn worth(&self, kind: &'static str) -> Option<u64> {
        self.at(kind, Instant::now())
    }

    fn at(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, made) = kinds.entry(kind).or_insert((now, 0));
        let mut quiet = 0;
        if now.saturating_duration_since(*since) >= PERIOD {
            quiet = made.saturating_sub(MOST);
            (*since, *made) = (now, 0);
        }
        *made += 1;
        (*made <= MOST).then_some(quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaints, MOST, PERIOD};
    use std::time::{Duration, Instant};

    #[test]
    fn a_flood_of_complaints_is_said_some_times_a_minute_and_counted() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let said = (0..1000).filter(|_| complaints.at("cannot", start).is_some()).count();
        assert_eq!(said as u64, MOST);
        assert_eq!(complaints.at("another", start), Some(0), "one kind does not silence others");
        let later = start + PERIOD - Duration::from_millis(1);
        assert_eq!(complaints.at("cannot", later), None);
        assert_eq!(complaints.at("cannot", start + PERIOD), Some(1001 - MOST));
        assert_eq!(complaints.at("cannot", start + PERIOD), Some(0));
    }
}
