//! Tokens of service accounts that templates ask for (`projected` volumes with `serviceAccountToken`). The cluster gives
//! each to the agent, which keeps it as a Secret of the node's own: a file of it is then a file of a Secret, and changes
//! while the pod runs when the token is renewed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How long a token is good where a template does not say, in seconds; the least that a cluster gives is 600.
const EXPIRATION: i64 = 3600;
/// The key of the Secret that holds it.
pub const KEY: &str = "token";

/// A token, as one or more files of a namespace's pods want it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    /// Of the pod, and of its account.
    pub namespace: String,
    /// The service account's name.
    pub account: String,
    /// Whom it is for; the API server when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// For how many seconds it should be good.
    pub seconds: i64,
}

impl Token {
    /// The name of the Secret that holds it on the node.
    pub fn secret(&self) -> String {
        let text =
            format!("{}/{}/{}/{}", self.namespace, self.account, self.audience.as_deref().unwrap_or(""), self.seconds);
        let digest: [u8; 32] = Sha256::digest(text).into();
        let hash = digest.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
        format!("lamina-token.{hash:016x}")
    }

    fn of(namespace: &str, account: &str, source: &Value) -> Self {
        Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            audience: source.get("audience").and_then(Value::as_str).filter(|a| !a.is_empty()).map(str::to_owned),
            seconds: source.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(EXPIRATION),
        }
    }
}

/// Puts Secrets in the places of a template's tokens; gives the tokens. What is not as it should be stays as it is, and
/// is refused where fields are read.
pub fn replace(namespace: &str, template: &mut Value) -> BTreeSet<Token> {
    let mut found = BTreeSet::new();
    let account = template.pointer("/spec/serviceAccountName").and_then(Value::as_str).filter(|name| !name.is_empty());
    let account = account.unwrap_or("default").to_owned();
    let volumes = template.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten() {
        let sources = volume.pointer_mut("/projected/sources").and_then(Value::as_array_mut);
        for source in sources.into_iter().flatten() {
            let Some(wanted) = source.get("serviceAccountToken") else { continue };
            let known = |field: &str| matches!(field, "path" | "audience" | "expirationSeconds");
            let whole = wanted.as_object().is_some_and(|map| map.keys().all(|field| known(field)));
            let alone = source.as_object().is_some_and(|map| map.len() == 1);
            let Some(path) = wanted.get("path").and_then(Value::as_str).filter(|_| whole && alone) else { continue };
            let token = Token::of(namespace, &account, wanted);
            *source = json!({ "secret": { "name": token.secret(), "items": [{ "key": KEY, "path": path }] } });
            found.insert(token);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_becomes_a_file_of_a_secret_and_the_same_wish_the_same_secret() {
        let source =
            json!({ "serviceAccountToken": { "path": "vault", "audience": "vault", "expirationSeconds": 900 } });
        let mut template = json!({ "spec": {
            "serviceAccountName": "game",
            "volumes": [
                { "name": "a", "projected": { "sources": [source, { "configMap": { "name": "c" } }] } },
                { "name": "b", "projected": { "sources": [source, { "serviceAccountToken": { "path": "api" } }] } },
            ],
        } });
        let tokens = replace("arena", &mut template);
        let vault =
            Token { namespace: "arena".into(), account: "game".into(), audience: Some("vault".into()), seconds: 900 };
        let api = Token { audience: None, seconds: 3600, ..vault.clone() };
        assert_eq!(tokens, [api.clone(), vault.clone()].into());
        let at = |pointer: &str| template.pointer(pointer).unwrap().clone();
        let file = json!({ "secret": { "name": vault.secret(), "items": [{ "key": "token", "path": "vault" }] } });
        assert_eq!(at("/spec/volumes/0/projected/sources/0"), file);
        assert_eq!(at("/spec/volumes/1/projected/sources/0"), file);
        assert_eq!(at("/spec/volumes/1/projected/sources/1/secret/name"), api.secret());
        assert_eq!(at("/spec/volumes/0/projected/sources/1"), json!({ "configMap": { "name": "c" } }));
        assert_ne!(vault.secret(), Token { namespace: "other".into(), ..vault.clone() }.secret());
        crate::api::ids::check_subdomain(&vault.secret()).unwrap();
    }

    #[test]
    fn one_that_is_not_as_it_should_be_is_left_to_whoever_reads_fields() {
        for wrong in [
            json!({ "serviceAccountToken": { "audience": "vault" } }),
            json!({ "serviceAccountToken": { "path": "a", "expires": 1 } }),
            json!({ "serviceAccountToken": "a" }),
        ] {
            let mut template = json!({ "spec": { "volumes": [{ "name": "a", "projected": { "sources": [wrong] } }] } });
            let before = template.clone();
            assert!(replace("arena", &mut template).is_empty());
            assert_eq!(template, before);
        }
    }
}
