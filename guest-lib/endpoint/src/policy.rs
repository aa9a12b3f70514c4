//! Who may attach, and how often.

/// Who may attach to a region through this endpoint.
///
/// User and group numbers are those of the endpoint's own user namespace: the root of a container
/// with a namespace of its own is whatever it is mapped to.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Users that may attach; `None`: everyone whom `gids` does not exclude.
    pub uids: Option<Vec<u32>>,
    /// Groups that may attach besides `uids`.
    pub gids: Option<Vec<u32>>,
    /// Tasks one user may have at a time; root and the endpoint's own user are exempt.
    pub tasks_per_uid: usize,
    /// Connections one user may hold that are not attached (yet): the oldest makes way.
    pub waiting_per_uid: usize,
    /// The same for all users together.
    pub waiting: usize,
    /// Connections one task may hold.
    pub connections_per_task: usize,
}

impl Policy {
    /// Everyone who reaches the socket, with at most `tasks_per_uid` tasks each.
    #[must_use]
    pub const fn open(tasks_per_uid: usize) -> Self {
        Self {
            uids: None,
            gids: None,
            tasks_per_uid,
            waiting_per_uid: 64,
            waiting: 512,
            connections_per_task: 8,
        }
    }

    /// Whether a process of user `uid` in `groups` may attach. Root and the endpoint's own user
    /// `own` always may.
    #[must_use]
    pub fn admits(&self, uid: u32, groups: &[u32], own: u32) -> bool {
        if self.exempts(uid, own) || (self.uids.is_none() && self.gids.is_none()) {
            return true;
        }
        let user = self.uids.as_ref().is_some_and(|uids| uids.contains(&uid));
        let group = self.gids.as_ref().is_some_and(|gids| groups.iter().any(|g| gids.contains(g)));
        user || group
    }

    /// Whether the quota does not apply to `uid`.
    #[must_use]
    pub const fn exempts(&self, uid: u32, own: u32) -> bool {
        uid == 0 || uid == own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_either_kind_closes_the_door_to_the_rest() {
        let policy = |uids: Option<&[u32]>, gids: Option<&[u32]>| Policy {
            uids: uids.map(<[_]>::to_vec),
            gids: gids.map(<[_]>::to_vec),
            ..Policy::open(1)
        };
        assert!(policy(None, None).admits(1000, &[1000], 7));
        assert!(policy(Some(&[1000]), None).admits(1000, &[], 7));
        assert!(!policy(Some(&[1000]), None).admits(1001, &[1000], 7));
        assert!(policy(Some(&[1000]), Some(&[44])).admits(1001, &[9, 44], 7));
        assert!(!policy(None, Some(&[44])).admits(1001, &[9], 7));
        assert!(policy(Some(&[]), Some(&[])).admits(0, &[], 7));
        assert!(policy(Some(&[]), Some(&[])).admits(7, &[], 7));
    }
}
