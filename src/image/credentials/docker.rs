//! Docker's `config.json`: the home directory's, and the same shape in Kubernetes' image pull secrets.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;

use super::{Credential, Secret};
use crate::image::config::HostPattern;

/// The largest `config.json`: a Kubernetes Secret holds at most 1 MiB.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Why an image pull secret cannot be used. Never quotes its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is longer than a Secret may be.
    #[error("image pull secret {name} is larger than 1 MiB")]
    TooLarge {
        /// `namespace/name`.
        name: String,
    },
    /// It is not the JSON that Docker writes.
    #[error("image pull secret {name} is not a docker config.json (line {line}, column {column})")]
    Shape {
        /// `namespace/name`.
        name: String,
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
}

/// The parts of `config.json` that are about credentials.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerConfig {
    pub(super) auths: BTreeMap<String, Auth>,
    pub(super) cred_helpers: BTreeMap<String, String>,
    pub(super) creds_store: Option<String>,
}

/// One entry of `auths`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Auth {
    #[serde(rename = "auth")]
    encoded: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
    registrytoken: Option<Secret>,
}

impl Auth {
    /// The credential of an entry; `None` for the empty ones that stand for "see the credential store".
    fn credential(&self) -> Option<Credential> {
        let given = |s: &Option<Secret>| s.clone().filter(|s| !s.expose().is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Some(Credential::Bearer { token });
        }
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credential::Identity { token });
        }
        if let Some(auth) = given(&self.encoded) {
            // Docker pads it with NULs at times.
            let bytes = base64::engine::general_purpose::STANDARD.decode(auth.expose().trim()).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let (username, password) = text.trim_end_matches('\0').split_once(':')?;
            return Some(Credential::Basic { username: username.to_owned(), password: Secret::new(password) });
        }
        let username = self.username.clone().filter(|u| !u.is_empty())?;
        Some(Credential::Basic { username, password: given(&self.password)? })
    }
}

/// For which images a credential was given: a host (`*` within labels) and, where it says so, the start of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    host: HostPattern,
    path: Vec<String>,
}

impl Scope {
    /// Parses the key of an entry: `registry.example.com`, `https://index.docker.io/v1/`, `registry.example.com/team`.
    fn parse(key: &str) -> Option<Self> {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let mut path: Vec<_> = path.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect();
        // What `docker login` writes after the host names the API, not a repository.
        if matches!(path.first().map(String::as_str), Some("v1" | "v2")) && path.len() == 1 {
            path.clear();
        }
        let host = if is_docker_hub(host) { "docker.io" } else { host };
        Some(Self { host: HostPattern::parse(host)?, path })
    }

    /// Whether `repository` of `registry` is meant: whole path components, never a part of one.
    fn covers(&self, registry: &str, repository: &str) -> bool {
        let mut parts = repository.split('/');
        self.host.matches(registry) && self.path.iter().all(|want| parts.next() == Some(want))
    }

    /// Larger for what should be tried first.
    fn exactness(&self) -> (usize, (usize, usize)) {
        (self.path.len(), self.host.exactness())
    }
}

/// The names that `docker login` and others use for Docker Hub.
pub(super) fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com")
}

impl DockerConfig {
    /// The credentials of `auths` for `repository` of `registry`, the most exact first.
    pub(super) fn matching(&self, registry: &str, repository: &str) -> Vec<Credential> {
        let mut found: Vec<_> = self
            .auths
            .iter()
            .filter_map(|(key, auth)| Some((Scope::parse(key)?, auth)))
            .filter(|(scope, _)| scope.covers(registry, repository))
            .filter_map(|(scope, auth)| Some((scope.exactness(), auth.credential()?)))
            .collect();
        found.sort_by_key(|(exactness, _)| std::cmp::Reverse(*exactness));
        found.into_iter().map(|(_, credential)| credential).collect()
    }
}

/// One of a pod's `imagePullSecrets`, parsed.
#[derive(Clone)]
pub struct DockerConfigSecret {
    name: String,
    pub(super) config: std::sync::Arc<DockerConfig>,
}

impl DockerConfigSecret {
    /// Parses the value of `.dockerconfigjson`; `name` is the Secret's `namespace/name`, for messages.
    ///
    /// # Errors
    /// If it is not of that shape.
    pub fn from_config_json(name: &str, json: &[u8]) -> Result<Self, SecretError> {
        Self::parse(name, json)
    }

    /// Parses the value of `.dockercfg`, the older shape: the `auths` alone.
    ///
    /// # Errors
    /// If it is not of that shape.
    pub fn from_dockercfg(name: &str, json: &[u8]) -> Result<Self, SecretError> {
        let auths = Self::json(name, json)?;
        Ok(Self { name: name.to_owned(), config: DockerConfig { auths, ..DockerConfig::default() }.into() })
    }

    fn parse(name: &str, json: &[u8]) -> Result<Self, SecretError> {
        let config: DockerConfig = Self::json(name, json)?;
        Ok(Self { name: name.to_owned(), config: config.into() })
    }

    fn json<T: for<'a> Deserialize<'a>>(name: &str, json: &[u8]) -> Result<T, SecretError> {
        if u64::try_from(json.len()).map_or(true, |len| len > MAX_BYTES) {
            return Err(SecretError::TooLarge { name: name.to_owned() });
        }
        // serde_json's message may quote a value: only the place is told.
        serde_json::from_slice(json).map_err(|e| SecretError::Shape {
            name: name.to_owned(),
            line: e.line(),
            column: e.column(),
        })
    }

    /// The Secret's `namespace/name`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for DockerConfigSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfigSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(json: &str, registry: &str, repository: &str) -> Vec<String> {
        let secret = DockerConfigSecret::from_config_json("n/s", json.as_bytes()).unwrap();
        let found = secret.config.matching(registry, repository);
        found.iter().map(|c| c.parts().0.to_owned()).collect()
    }

    fn auth(user: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, base64::engine::general_purpose::STANDARD.encode(format!("{user}:p:w")))
    }

    #[test]
    fn the_most_exact_entry_comes_first_and_others_of_the_host_after_it() {
        let json = format!(
            r#"{{"auths":{{"r.example":{},"https://r.example/team/app":{},"*.example":{}}}}}"#,
            auth("host"),
            auth("path"),
            auth("any")
        );
        assert_eq!(users(&json, "r.example", "team/app"), ["path", "host", "any"]);
        assert_eq!(users(&json, "r.example", "team/application"), ["host", "any"]);
        assert_eq!(users(&json, "r.example:5000", "team/app"), [] as [&str; 0]);
        assert_eq!(users(&json, "example", "team/app"), [] as [&str; 0]);
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"] {
            let json = format!(r#"{{"auths":{{"{key}":{}}}}}"#, auth("u"));
            assert_eq!(users(&json, "docker.io", "library/busybox"), ["u"], "{key}");
        }
    }

    #[test]
    fn a_password_may_hold_a_colon_and_an_empty_entry_is_none() {
        let json = format!(r#"{{"auths":{{"a":{},"b":{{}}}}}}"#, auth("u"));
        let secret = DockerConfigSecret::from_config_json("n/s", json.as_bytes()).unwrap();
        assert_eq!(secret.config.matching("a", "x").first().unwrap().parts(), ("u", "p:w"));
        assert!(secret.config.matching("b", "x").is_empty());
    }

    #[test]
    fn the_older_shape_is_read_too() {
        let secret = DockerConfigSecret::from_dockercfg("n/s", format!(r#"{{"a":{}}}"#, auth("u")).as_bytes()).unwrap();
        assert_eq!(secret.config.matching("a", "x").len(), 1);
    }

    #[test]
    fn a_broken_secret_is_not_quoted() {
        let error = DockerConfigSecret::from_config_json("n/s", br#"{"auths":"canary"}"#).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        let secret = DockerConfigSecret::from_config_json("n/s", br#"{"auths":{"a":{"registrytoken":"canary"}}}"#);
        assert!(!format!("{secret:?}").contains("canary"));
    }
}
