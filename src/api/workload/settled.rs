//! Where a workload ends up if all goes well: what its pods will be once a rollout is through.
//!
//! The rules are those of [`expand`], asked again and again by a world in which every pod becomes ready at once.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Memory, Observed, Phase, Wanted, expand};
use crate::api::Object;

/// Rounds without which the slowest rollout of a full node would not be through: one pod a round, twice.
const ROUNDS: usize = 256;

/// What an image that is not known yet is called.
const UNKNOWN: &str = "";

/// The end of a rollout.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settled {
    /// The pods.
    pub pods: Vec<Wanted>,
    /// Images that are held beside theirs: digests of their manifests.
    pub holds: BTreeSet<String>,
}

/// What `object` comes to, from the pods that it has and what is remembered of it.
pub fn settled(object: &Object, observed: &[Observed], memory: &Memory, now: Timestamp) -> Settled {
    let mut seen: Vec<Observed> = observed.iter().cloned().map(ready).collect();
    let mut memory = memory.clone();
    let mut last = Settled::default();
    for _ in 0..ROUNDS {
        let expansion = expand(object, &seen, &memory, now);
        let next = Settled { pods: expansion.pods, holds: expansion.holds };
        let same = next == last && expansion.memory == memory;
        memory = expansion.memory;
        seen = next.pods.iter().map(|wanted| follow(&seen, wanted, now)).collect();
        last = next;
        if same {
            break;
        }
    }
    last.holds.remove(UNKNOWN);
    last
}

/// A pod that is well, unless it has ended.
fn ready(pod: Observed) -> Observed {
    match pod.phase {
        Phase::Pending | Phase::Running => Observed { phase: Phase::Running, ready_since: Some(Timestamp::MIN), ..pod },
        Phase::Succeeded | Phase::Failed => pod,
    }
}

/// What a wanted pod is seen as in the next round.
fn follow(seen: &[Observed], wanted: &Wanted, now: Timestamp) -> Observed {
    let before = seen.iter().find(|o| o.ordinal == wanted.owner.ordinal);
    if let Some(kept) = before.filter(|o| o.pod == wanted.pod) {
        return kept.clone();
    }
    let same = before.filter(|o| images(&o.pod) == images(&wanted.pod));
    Observed {
        ordinal: wanted.owner.ordinal,
        pod: wanted.pod.clone(),
        phase: Phase::Running,
        ready_since: Some(Timestamp::MIN),
        created: now,
        finished: None,
        restarts: 0,
        index: wanted.owner.index,
        exits: Vec::new(),
        conditions: Vec::new(),
        images: same.map_or_else(|| BTreeSet::from([UNKNOWN.to_owned()]), |o| o.images.clone()),
    }
}

fn images(pod: &Pod) -> Vec<Option<&String>> {
    pod.spec.iter().flat_map(|s| &s.containers).map(|c| c.image.as_ref()).collect()
}
