//! `registries.yaml`: where registries really are, how they are spoken to, and with which credentials.
//!
//! ```yaml
//! registries:
//!   docker.io:                        # as in image names; "*.example.com" matches one label, a port must match exactly
//!     mirrors:                        # asked first, in this order; each with the settings of its own entry here
//!       - https://mirror.example.com
//!       - http://127.0.0.1:5001/hub   # a path goes in front of the repository
//!     fallback: true                  # whether the registry itself is asked when no mirror has it
//!   registry.example.com:5000:
//!     endpoint: https://10.0.0.7:5000 # where it really is; default: https://<name>, http://<name> on loopback
//!     plain-http: false               # true: http:// (credentials travel readable)
//!     ca: /etc/lamina/example-ca.pem  # trusted besides the system's
//!     client-cert: /etc/lamina/client.pem
//!     client-key: /etc/lamina/client.key
//!     skip-verify: false              # true: any certificate will do
//!     username: ci
//!     password-file: /etc/lamina/password   # or password: …, or identity-token: …
//!     helper: pass                    # or ask docker-credential-pass
//!     token-hosts: [auth.example.com] # other hosts that may be given these credentials to make a token
//! docker-config: true                 # whether ~/.docker/config.json is read too
//! ```
//!
//! Unknown keys are refused: a misspelt `skip-verify` or `fallback` must not go unnoticed.

mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub(super) use rules::{HostPattern, authority, is_loopback};

use super::credentials::{Credential, Secret};
use crate::oci::Reference;

/// The largest configuration file. Real ones are below 10 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Where Docker Hub really answers.
const DOCKER_ENDPOINT: &str = "https://registry-1.docker.io";

/// Why the registry configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that it is made of cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not YAML of the expected shape.
    #[error("{}: not a registry configuration: {reason}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there, bounded; never a value.
        reason: String,
    },
    /// One entry makes no sense.
    #[error("registry {registry:?}: {reason}")]
    Entry {
        /// The entry's name.
        registry: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    registries: BTreeMap<String, Entry>,
    #[serde(default = "yes")]
    docker_config: bool,
}

const fn yes() -> bool {
    true
}

/// One entry as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default = "yes")]
    fallback: bool,
    endpoint: Option<String>,
    plain_http: Option<bool>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    #[serde(default)]
    skip_verify: bool,
    username: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    identity_token: Option<Secret>,
    helper: Option<String>,
    #[serde(default)]
    token_hosts: Vec<String>,
}

/// How TLS is done with one host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Tls {
    pub(super) ca: Option<PathBuf>,
    pub(super) client: Option<(PathBuf, PathBuf)>,
    pub(super) skip_verify: bool,
}

/// One place that may serve a registry's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme, host, port and path prefix, without a slash at its end.
    pub(super) base: reqwest::Url,
    /// The registry that it mirrors; `None` for the registry itself.
    pub(super) mirror_of: Option<String>,
}

/// Everything about registries that the node's administrator decides. Immutable; made once at start.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    entries: Vec<(HostPattern, Entry)>,
    docker_config: Option<PathBuf>,
}

impl Default for RegistryConfig {
    /// No mirrors, no credentials but those of `~/.docker/config.json`.
    fn default() -> Self {
        Self { entries: Vec::new(), docker_config: default_docker_config() }
    }
}

/// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
fn default_docker_config() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
    Some(dir.join("config.json"))
}

impl RegistryConfig {
    /// Nothing from any file: for tests, and for agents that must not read the home directory.
    pub const fn empty() -> Self {
        Self { entries: Vec::new(), docker_config: None }
    }

    /// Reads `path`; a file that is not there is the default configuration.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        match std::fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_FILE_BYTES => {
                return Err(ConfigError::Shape { path: path.to_owned(), reason: "larger than 1 MiB".to_owned() });
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(read(e)),
        }
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Parses the text of a `registries.yaml`; `path` is for messages.
    ///
    /// # Errors
    /// If it is not of the shape above.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = if text.trim().is_empty() {
            File { registries: BTreeMap::new(), docker_config: true }
        } else {
            serde_yaml::from_str(text).map_err(|e| ConfigError::Shape {
                path: path.to_owned(),
                // The first line only: further ones quote the text, which may hold a password.
                reason: e.to_string().lines().next().unwrap_or_default().chars().take(200).collect(),
            })?
        };
        let mut entries = Vec::with_capacity(file.registries.len());
        for (name, entry) in file.registries {
            entry.check(&name)?;
            let pattern = HostPattern::parse(&name).ok_or_else(|| ConfigError::Entry {
                registry: name.clone(),
                reason: "not a host, host:port or *.domain".to_owned(),
            })?;
            entries.push((pattern, entry));
        }
        // The more exact entry wins.
        entries.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.exactness()));
        Ok(Self { entries, docker_config: file.docker_config.then(default_docker_config).flatten() })
    }

    /// Reads credentials from this `config.json` instead of the home directory's.
    pub fn with_docker_config(mut self, path: Option<PathBuf>) -> Self {
        self.docker_config = path;
        self
    }

    pub(super) fn docker_config(&self) -> Option<&Path> {
        self.docker_config.as_deref()
    }

    /// The entry for a host with its port where it is not the scheme's own.
    fn entry(&self, host: &str) -> Option<&Entry> {
        self.entries.iter().find(|(pattern, _)| pattern.matches(host)).map(|(_, entry)| entry)
    }

    /// Whether the administrator named `host` at all: such a host may lie at any address.
    pub(super) fn names(&self, host: &str) -> bool {
        self.entry(host).is_some()
    }

    /// How TLS is done with `host`.
    pub(super) fn tls(&self, host: &str) -> Tls {
        self.entry(host).map_or_else(Tls::default, |e| Tls {
            ca: e.ca.clone(),
            client: e.client_cert.clone().zip(e.client_key.clone()),
            skip_verify: e.skip_verify,
        })
    }

    /// Other hosts that may be given `host`'s credentials to make a token of them.
    pub(super) fn token_hosts(&self, host: &str) -> &[String] {
        self.entry(host).map_or(&[], |e| &e.token_hosts)
    }

    /// The credential helper for `host`.
    pub(super) fn helper(&self, host: &str) -> Option<&str> {
        self.entry(host)?.helper.as_deref()
    }

    /// The credential that the file itself gives for `host`; reads a password file.
    pub(super) fn credential(&self, host: &str) -> Result<Option<Credential>, ConfigError> {
        let Some(entry) = self.entry(host) else { return Ok(None) };
        if let Some(token) = &entry.identity_token {
            return Ok(Some(Credential::Identity { token: token.clone() }));
        }
        let Some(username) = entry.username.clone() else { return Ok(None) };
        let password = match (&entry.password, &entry.password_file) {
            (Some(password), _) => password.clone(),
            (None, Some(path)) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                Secret::new(text.trim_end_matches(['\r', '\n']))
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(Credential::Basic { username, password }))
    }

    /// Where `reference`'s repository may be had, in the order to ask.
    pub(super) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, ConfigError> {
        let registry = reference.registry();
        let entry = self.entry(registry);
        let mut endpoints = Vec::new();
        for mirror in entry.map_or(&[][..], |e| &e.mirrors) {
            endpoints.push(Endpoint { base: rules::base(registry, mirror)?, mirror_of: Some(registry.to_owned()) });
        }
        if entry.is_none_or(|e| e.fallback || e.mirrors.is_empty()) {
            let base = match entry.and_then(|e| e.endpoint.as_deref()) {
                Some(endpoint) => endpoint.to_owned(),
                None if registry == "docker.io" => DOCKER_ENDPOINT.to_owned(),
                None => {
                    let plain = entry.and_then(|e| e.plain_http).unwrap_or_else(|| is_loopback(registry));
                    format!("{}://{registry}", if plain { "http" } else { "https" })
                }
            };
            endpoints.push(Endpoint { base: rules::base(registry, &base)?, mirror_of: None });
        }
        Ok(endpoints)
    }
}

impl RegistryConfig {
    /// The hosts of `reference`'s mirrors, as the configuration names them.
    pub(super) fn mirror_hosts(&self, reference: &Reference) -> Result<Vec<String>, ConfigError> {
        let endpoints = self.endpoints(reference)?;
        Ok(endpoints.iter().filter(|e| e.mirror_of.is_some()).map(|e| rules::authority(&e.base)).collect())
    }
}

impl Entry {
    /// Refuses what contradicts itself.
    fn check(&self, registry: &str) -> Result<(), ConfigError> {
        let bad = |reason: &str| Err(ConfigError::Entry { registry: registry.to_owned(), reason: reason.to_owned() });
        for url in self.mirrors.iter().chain(&self.endpoint) {
            rules::base(registry, url)?;
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            return bad("client-cert and client-key go together");
        }
        if self.password.is_some() && self.password_file.is_some() {
            return bad("either password or password-file");
        }
        if self.username.is_none() && (self.password.is_some() || self.password_file.is_some()) {
            return bad("a password needs a username");
        }
        if self.username.is_some() && self.password.is_none() && self.password_file.is_none() {
            return bad("a username needs a password or password-file");
        }
        if self.helper.as_deref().is_some_and(|h| !super::credentials::helper_name_ok(h)) {
            return bad("helper is the part after docker-credential-, without a path");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
