//! The node's own NodeReport: written by server-side apply on its status, when something has changed and at most every
//! 10 s. While the API server is away only the newest state is kept, and written on return.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::cluster::{GROUP, NodePod, NodeReport, NodeReportSpec, NodeReportStatus, VERSION};
use crate::api::problem::chain;

/// Who writes, as server-side apply has it.
pub const MANAGER: &str = "lamina-agent";
/// The shortest time between two writes.
const EVERY: Duration = Duration::from_secs(10);
/// The longest wait after a write that failed.
const LONGEST: Duration = Duration::from_mins(1);
/// How long a write may take.
const ANSWER: Duration = Duration::from_secs(15);
/// The reason by which the controller says that the agent is silent; an agent that sees it says otherwise.
pub const SILENT: &str = "AgentSilent";
/// The largest status that is written, in bytes of JSON.
pub const MAX_STATUS: usize = 16 * 1024;

/// Writes what `state` says, for good; once more when another has written over it. `None` is a state that is not known
/// yet.
pub(super) async fn write(
    client: Client,
    node: String,
    mut state: watch::Receiver<Option<NodeReportStatus>>,
    mut overwritten: watch::Receiver<u64>,
) {
    let api = Api::<NodeReport>::all(client.clone());
    let mut written: Option<NodeReportStatus> = None;
    let mut wait = Duration::ZERO;
    loop {
        tokio::time::sleep(wait).await;
        let Some(next) = state.borrow_and_update().clone().map(fit) else {
            wait = Duration::ZERO;
            if state.changed().await.is_err() {
                return;
            }
            continue;
        };
        if overwritten.has_changed().unwrap_or(false) {
            overwritten.mark_unchanged();
            written = None;
        }
        if written.as_ref() == Some(&next) {
            wait = Duration::ZERO;
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                changed = overwritten.changed() => match changed {
                    Ok(()) => written = None,
                    Err(_) => return,
                },
            }
            continue;
        }
        let begun = Instant::now();
        let said = tokio::time::timeout(ANSWER, once(&client, &api, &node, &next)).await;
        match said {
            Ok(Ok(())) => {
                written = Some(next);
                wait = EVERY.saturating_sub(begun.elapsed());
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => chain(&error),
                    _ => format!("no answer within {} s", ANSWER.as_secs()),
                };
                tracing::debug!(node, why, "the node's report cannot be written");
                // Up to a fifth more, so that a thousand nodes do not come back at one moment.
                let longer = (wait * 2).clamp(Duration::from_secs(2), LONGEST);
                wait = longer.mul_f64(1.0 + rand::random::<f64>() / 5.0);
            }
        }
    }
}

async fn once(client: &Client, api: &Api<NodeReport>, node: &str, status: &NodeReportStatus) -> kube::Result<()> {
    let document = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "NodeReport",
        "metadata": { "name": node },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(node, &params, &Patch::Apply(&document)).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {
            let mut report = NodeReport::new(node, NodeReportSpec::default());
            report.metadata = ObjectMeta {
                name: Some(node.to_owned()),
                owner_references: Some(vec![owner(client, node).await?]),
                ..ObjectMeta::default()
            };
            match api.create(&PostParams::default(), &report).await {
                // The controller was quicker.
                Err(kube::Error::Api(answer)) if answer.code == 409 => {}
                made => drop(made?),
            }
            api.patch_status(node, &params, &Patch::Apply(&document)).await.map(drop)
        }
        said => said.map(drop),
    }
}

/// The Node, as the owner of what goes with it.
pub(super) async fn owner(client: &Client, node: &str) -> kube::Result<OwnerReference> {
    Ok(owned_by(&Api::<Node>::all(client.clone()).get_metadata(node).await?.metadata))
}

/// The Node with this metadata, as an owner.
pub fn owned_by(node: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name.clone().unwrap_or_default(),
        uid: node.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

/// The status at a size that etcd and every controller bear: messages go first, then how long the pods that have been
/// ready the longest are, then pods; `podCount` counts those too.
pub fn fit(mut status: NodeReportStatus) -> NodeReportStatus {
    let size = |status: &NodeReportStatus| serde_json::to_vec(status).map_or(usize::MAX, |bytes| bytes.len());
    let steps: [fn(&mut NodePod); 2] = [
        |pod| pod.message = None,
        |pod| {
            if pod.ready {
                pod.since = None;
            }
        },
    ];
    // The pods that are not ready say most: they come first, and lose last.
    let mut order: Vec<usize> = (0..status.pods.len()).collect();
    order.sort_by_key(|n| (!status.pods[*n].ready, status.pods[*n].since.as_ref().map(|since| since.0)));
    for step in steps {
        let mut left = size(&status);
        for n in &order {
            if left <= MAX_STATUS {
                return status;
            }
            let Some(pod) = status.pods.get_mut(*n) else { continue };
            let before = serde_json::to_vec(pod).map_or(0, |bytes| bytes.len());
            step(pod);
            left -= before - serde_json::to_vec(pod).map_or(0, |bytes| bytes.len());
        }
    }
    while size(&status) > MAX_STATUS && !status.pods.is_empty() {
        let at = status.pods.iter().rposition(|pod| pod.ready).unwrap_or(status.pods.len() - 1);
        status.pods.remove(at);
    }
    status
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn pod(n: usize, ready: bool, name: &str) -> NodePod {
        NodePod {
            uid: format!("00000000-0000-4000-8000-{n:012}"),
            namespace: "arena".to_owned(),
            workload: format!("{name}{n}"),
            revision: format!("{name}{n}-bcdfghjklm"),
            ready,
            since: Some(Time("2026-01-31T12:00:00Z".parse().unwrap())),
            restarts: 3,
            reason: (!ready).then(|| "CrashLoopBackOff".to_owned()),
            message: (!ready).then(|| "x".repeat(120)),
        }
    }

    fn status(pods: Vec<NodePod>) -> NodeReportStatus {
        NodeReportStatus { pod_count: i32::try_from(pods.len()).unwrap(), pods, ..NodeReportStatus::default() }
    }

    fn size(status: &NodeReportStatus) -> usize {
        serde_json::to_vec(status).unwrap().len()
    }

    #[test]
    fn what_fits_is_written_as_it_is() {
        let small = status((0..20).map(|n| pod(n, n % 2 == 0, "game")).collect());
        assert_eq!(fit(small.clone()), small);
    }

    #[test]
    fn a_full_node_fits_and_keeps_what_is_wrong_the_longest() {
        let full = fit(status((0..110).map(|n| pod(n, n >= 10, "game")).collect()));
        assert!(size(&full) <= MAX_STATUS);
        assert_eq!(full.pod_count, 110);
        assert!(full.pods.iter().filter(|p| !p.ready).count() == 10, "those that are not ready are all there");
        assert!(full.pods.iter().filter(|p| !p.ready).all(|p| p.reason.is_some()));
        assert!(full.pods.len() > 90, "{} are left", full.pods.len());
        // The longest names there are, and everything broken.
        let worst = fit(status((0..110).map(|n| pod(n, false, &"w".repeat(49))).collect()));
        assert!(size(&worst) <= MAX_STATUS && worst.pods.len() > 40, "{}", worst.pods.len());
        assert_eq!(worst.pod_count, 110);
    }
}
