//! Waiting for a claim: ready when it has a volume, deleted when it has none, or one that is only kept.

use super::{Answer, Goal};
use crate::volume::claim::{ClaimView, Phase};

/// How a claim stands.
pub(super) fn judge(goal: Goal, claim: Option<&ClaimView>) -> Answer {
    let phase = claim.map(|claim| claim.phase);
    let reached = match goal {
        Goal::Ready => phase == Some(Phase::Bound),
        Goal::Succeeded => false,
        Goal::Deleted => matches!(phase, None | Some(Phase::Released)),
    };
    let mut state = phase.map_or("it is not there", Phase::as_str).to_owned();
    let pods: Vec<&str> = claim.iter().flat_map(|claim| claim.users.values()).map(String::as_str).collect();
    if !pods.is_empty() {
        state = format!("{state}; pods that have it: {}", pods.join(", "));
    }
    Answer { reached, over: goal == Goal::Succeeded, state }
}
