//! Which pod goes first when the node is short of something. Pure.

use crate::api::{PodKey, PodUid};

/// A pod that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) key: PodKey,
    pub(super) uid: PodUid,
    pub(super) priority: i32,
    /// Of what the node is short of.
    pub(super) used: u64,
    /// How much of it the pod has asked for; nothing where nobody can ask for it.
    pub(super) asked: Option<u64>,
}

/// The one that goes: of those that use more than they asked for, before the others, that of the lowest priority, and of
/// these the one that uses most beyond what it asked for.
pub(super) fn first(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().max_by_key(|c| {
        let over = c.asked.is_some_and(|asked| c.used > asked);
        let beyond = i128::from(c.used) - i128::from(c.asked.unwrap_or(0));
        (over, std::cmp::Reverse(c.priority), beyond, std::cmp::Reverse(c.key.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32, used: u64, asked: u64) -> Candidate {
        let key = PodKey { namespace: "default".into(), name: name.into() };
        Candidate { key, uid: PodUid::from_bytes([0; 16]), priority, used, asked: Some(asked) }
    }

    fn order(mut left: Vec<Candidate>) -> Vec<String> {
        let mut order = Vec::new();
        while let Some(next) = first(left.clone()) {
            left.retain(|c| c.key != next.key);
            order.push(next.key.name);
        }
        order
    }

    #[test]
    fn those_over_their_request_go_first_then_by_priority_then_by_how_much_they_use() {
        let pods = vec![
            pod("modest", -10, 90, 100),
            pod("best-effort", 0, 50, 0),
            pod("greedy", 0, 500, 100),
            pod("important", 100, 900, 0),
            pod("guaranteed", 0, 80, 100),
        ];
        assert_eq!(order(pods), ["greedy", "best-effort", "important", "modest", "guaranteed"]);
    }

    #[test]
    fn where_nobody_can_ask_priority_and_use_decide() {
        let mut pods = vec![pod("few", 0, 5, 0), pod("many", 0, 50, 0), pod("most", 1, 500, 0)];
        for pod in &mut pods {
            pod.asked = None;
        }
        assert_eq!(order(pods), ["many", "few", "most"]);
    }
}
