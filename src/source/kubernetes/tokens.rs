//! Tokens of service accounts, asked of the API server for the pods of workloads and renewed in time.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::known::Found;
use super::report::owner;
use super::watch::Told;
use crate::api::cluster::token::{KEY, Token};
use crate::api::problem::chain;

/// The annotation by which a kept Secret says which token it holds.
const ANNOTATION: &str = "lamina.dev/token";
/// How soon one that could not be had is asked for again.
const AGAIN: Duration = Duration::from_secs(10);
/// The shortest time between two of one kind.
const LEAST: Duration = Duration::from_mins(1);

/// The Secret that holds a token, as a manifest.
fn secret(token: &Token, value: &str) -> Value {
    let about = serde_json::to_string(token).unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "namespace": token.namespace, "name": token.secret(), "annotations": { ANNOTATION: about } },
        "stringData": { KEY: value },
    })
}

/// The token that a kept manifest holds.
pub(super) fn of(manifest: &Value) -> Option<Token> {
    serde_json::from_str(manifest.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()?).ok()
}

/// How long to wait before another is asked for: four fifths of what it is good for, as a kubelet does.
fn life(good: Duration) -> Duration {
    (good * 4 / 5).max(LEAST)
}

/// Keeps a token fresh for good. It is bound to the node: when that is deleted, it is worth nothing.
pub(super) async fn keep(client: Client, node: String, token: Token, tell: mpsc::Sender<Told>) {
    loop {
        let wait = match ask(&client, &node, &token).await {
            Ok((value, good)) => {
                let found = Found::There(secret(&token, &value));
                if tell.send(Told::Token { token: token.clone(), found }).await.is_err() {
                    return;
                }
                life(good)
            }
            Err(error) => {
                let why = match error {
                    kube::Error::Api(status) => status.message,
                    error => chain(&error),
                };
                tracing::warn!(
                    namespace = token.namespace,
                    account = token.account,
                    why,
                    "cannot have a token for pods"
                );
                let found = Found::Unreadable(why);
                if tell.send(Told::Token { token: token.clone(), found }).await.is_err() {
                    return;
                }
                AGAIN
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// A fresh one, and for how long it is good.
async fn ask(client: &Client, node: &str, token: &Token) -> kube::Result<(String, Duration)> {
    let node = owner(client, node).await?;
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: token.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(token.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some(node.api_version),
                kind: Some(node.kind),
                name: Some(node.name),
                uid: Some(node.uid),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &token.namespace);
    let given = accounts.create_token_request(&token.account, &PostParams::default(), &request).await?;
    let status = given.status.unwrap_or_default();
    let left = status.expiration_timestamp.map(|end| end.0.duration_since(Timestamp::now()));
    Ok((status.token.unwrap_or_default(), left.and_then(|left| left.try_into().ok()).unwrap_or(LEAST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_says_which_token_it_holds() {
        let token = Token { namespace: "arena".into(), account: "game".into(), audience: None, seconds: 600 };
        let manifest = secret(&token, "value");
        assert_eq!(of(&manifest), Some(token));
        assert_eq!(of(&json!({ "kind": "Secret", "metadata": { "name": "other" } })), None);
    }

    #[test]
    fn one_is_renewed_well_before_its_end_and_never_in_a_hurry() {
        assert_eq!(life(Duration::from_hours(1)), Duration::from_mins(48));
        assert_eq!(life(Duration::ZERO), LEAST);
    }
}
