//! `get -w`: the list, then a line for each change. What the node publishes is waited for; what only the store knows is
//! looked at once a second while somebody watches.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};

use super::State;
use super::objects::{self, Filter, Kind};

/// How often the store is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What changed between two lists, in the words of a Kubernetes watch.
fn difference(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<(&'static str, Value)> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key)).map(|(_, o)| ("DELETED", o.clone()));
    let come = after.iter().filter_map(|(key, object)| match before.get(key) {
        None => Some(("ADDED", object.clone())),
        Some(old) if old != object => Some(("MODIFIED", object.clone())),
        Some(_) => None,
    });
    gone.chain(come).collect()
}

/// Lines of changes, until the client goes away or the agent stops.
pub(super) fn changes(state: Arc<State>, kind: Kind, filter: Filter) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let pods = state.node.pods();
    let start = (state, pods, BTreeMap::new(), VecDeque::new(), true);
    futures_util::stream::unfold(start, move |(state, mut pods, mut seen, mut lines, mut first)| {
        let filter = filter.clone();
        async move {
            loop {
                if let Some(line) = lines.pop_front() {
                    return Some((Ok(line), (state, pods, seen, lines, first)));
                }
                if !first {
                    tokio::select! {
                        () = state.stop.cancelled() => return None,
                        changed = pods.changed(), if kind.follows_pods() => changed.ok()?,
                        () = tokio::time::sleep(LOOK), if !kind.follows_pods() => {}
                    }
                }
                first = false;
                pods.mark_unchanged();
                let list = objects::list(&state, kind, &filter).ok()?;
                let now: BTreeMap<_, _> = list.into_iter().map(|object| (objects::identity(&object), object)).collect();
                for (what, object) in difference(&seen, &now) {
                    lines.push_back(Bytes::from(format!("{}\n", json!({"type": what, "object": object}))));
                }
                seen = now;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_added_modified_or_deleted() {
        let list = |pairs: &[(&str, i32)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let (before, after) = (list(&[("a", 1), ("b", 1), ("c", 1)]), list(&[("b", 2), ("c", 1), ("d", 1)]));
        let said: Vec<_> = difference(&before, &after).into_iter().map(|(what, o)| format!("{what} {o}")).collect();
        assert_eq!(said, ["DELETED 1", "MODIFIED 2", "ADDED 1"]);
    }
}
