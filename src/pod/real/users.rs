//! Ids of the host that pods in a user namespace of their own have: a range each, written down in the pod's record, and
//! no two pods of a node ever have one in common.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Mutex;

use super::locked;
use crate::api::view::OWN_USERS;

/// The first id that is given. From here on no distribution has users, and systemd leaves the ids to nobody else.
const FIRST: u32 = 0x7000_0000;
/// The end: above lie ids that systemd gives to other purposes.
const END: u32 = 2_147_352_576;
/// How many pods there can be.
const SLOTS: u32 = (END - FIRST) / OWN_USERS;

/// Which ranges are taken.
#[derive(Debug)]
pub struct UserIds {
    /// Where the search begins: several agents on a machine begin at different places.
    begin: u32,
    taken: Mutex<BTreeSet<u32>>,
}

impl UserIds {
    /// None is taken yet. `instance` tells this agent from others of the machine.
    pub fn new(instance: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        instance.hash(&mut hasher);
        let begin = u32::try_from(hasher.finish() % u64::from(SLOTS)).unwrap_or_default();
        Self { begin, taken: Mutex::default() }
    }

    /// Takes a range: its first id. `None` if all are taken.
    pub(super) fn take(&self) -> Option<u32> {
        let mut taken = locked(&self.taken);
        let free = (0..SLOTS).map(|n| FIRST + (self.begin + n) % SLOTS * OWN_USERS).find(|id| !taken.contains(id))?;
        taken.insert(free);
        Some(free)
    }

    /// Notes what an earlier agent gave.
    pub fn keep(&self, first: u32) {
        locked(&self.taken).insert(first);
    }

    /// Gives a range back.
    pub(super) fn release(&self, first: u32) {
        locked(&self.taken).remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_an_id_in_common() {
        let ids = UserIds::new("a");
        let all: BTreeSet<u32> = (0..SLOTS).map(|_| ids.take().unwrap()).collect();
        assert_eq!(all.len(), SLOTS as usize);
        assert!(
            all.iter()
                .all(|first| *first >= FIRST && first + OWN_USERS <= END && (first - FIRST).is_multiple_of(OWN_USERS))
        );
        assert_eq!(ids.take(), None);
        let one = *all.first().unwrap();
        ids.release(one);
        assert_eq!(ids.take(), Some(one));
    }

    #[test]
    fn what_an_earlier_agent_gave_is_not_given_again() {
        let first = UserIds::new("a").take().unwrap();
        let ids = UserIds::new("a");
        ids.keep(first);
        assert_ne!(ids.take(), Some(first));
    }
}
