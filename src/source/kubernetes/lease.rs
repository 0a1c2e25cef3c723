//! The node's sign of life: a Lease named after the node, good for 60 s and renewed every 25 s.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::report::{MANAGER, owner};
use crate::api::problem::chain;

/// For how long, in seconds, the node counts as alive.
pub const DURATION: i32 = 60;
/// How often it says that it is.
const RENEW: Duration = Duration::from_secs(25);
/// How soon again after a renewal that failed.
const RETRY: Duration = Duration::from_secs(5);
/// How long a renewal may take: one that hangs must not cost the next.
const ANSWER: Duration = Duration::from_secs(10);

/// Renews the Lease for good.
pub(super) async fn renew(client: Client, namespace: String, node: String) {
    let api = Api::<Lease>::namespaced(client.clone(), &namespace);
    let mut owned = None;
    loop {
        let renewed = async {
            if owned.is_none() {
                owned = Some(owner(&client, &node).await?);
            }
            let document = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": { "name": node, "namespace": namespace, "ownerReferences": [owned] },
                "spec": {
                    "holderIdentity": node,
                    "leaseDurationSeconds": DURATION,
                    "renewTime": format!("{:.6}", Timestamp::now()),
                },
            });
            api.patch(&node, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&document)).await
        };
        let wait = match tokio::time::timeout(ANSWER, renewed).await {
            Ok(Ok(_)) => RENEW,
            Ok(Err(error)) => {
                tracing::debug!(node, error = chain(&error), "the node's lease cannot be renewed");
                RETRY
            }
            Err(_) => RETRY,
        };
        tokio::time::sleep(wait).await;
    }
}
