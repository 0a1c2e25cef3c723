//! Which credentials one pull may try, in their order, and who gave each.

use std::path::Path;

use super::docker::{DockerConfig, MAX_BYTES, is_docker_hub};
use super::{Credential, DockerConfigSecret, helper};
use crate::image::config::{ConfigError, RegistryConfig};

/// Who gave a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) enum Origin {
    /// One of the pod's secrets: it speaks for that pod alone.
    Pod {
        /// `namespace/name`.
        secret: String,
    },
    /// The node's configuration: it speaks for whatever runs here.
    Node,
}

/// One credential that may be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Candidate {
    pub(in crate::image) credential: Credential,
    pub(in crate::image) origin: Origin,
}

/// The node's credentials, looked up for each pull anew, so that a `docker login` needs no restart.
#[derive(Debug, Clone, Copy)]
pub(in crate::image) struct Keychain<'a> {
    pub(in crate::image) config: &'a RegistryConfig,
    pub(in crate::image) secrets: &'a [DockerConfigSecret],
}

impl Keychain<'_> {
    /// The pod's own credentials for `repository` of `registry`, the most exact first.
    pub(in crate::image) fn of_pod(&self, registry: &str, repository: &str) -> Vec<Candidate> {
        let of = |secret: &DockerConfigSecret| {
            let origin = Origin::Pod { secret: secret.name().to_owned() };
            let found = secret.config.matching(registry, repository).into_iter();
            found.map(move |credential| Candidate { credential, origin: origin.clone() })
        };
        self.secrets.iter().flat_map(of).collect()
    }

    /// The node's credential for `repository` of `registry`, from the first source that has one.
    pub(in crate::image) async fn of_node(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Candidate>, ConfigError> {
        let node = |credential| Candidate { credential, origin: Origin::Node };
        if let Some(credential) = self.config.credential(registry)? {
            return Ok(Some(node(credential)));
        }
        let server = server_name(registry);
        if let Some(name) = self.config.helper(registry)
            && let Some(credential) = ask(name, server).await
        {
            return Ok(Some(node(credential)));
        }
        let Some(path) = self.config.docker_config() else { return Ok(None) };
        let Some(docker) = read(path)? else { return Ok(None) };
        let own_helper = docker.cred_helpers.iter().find(|(key, _)| same_server(key, registry));
        if let Some((_, name)) = own_helper
            && let Some(credential) = ask(name, server).await
        {
            return Ok(Some(node(credential)));
        }
        if let Some(credential) = docker.matching(registry, repository).into_iter().next() {
            return Ok(Some(node(credential)));
        }
        match docker.creds_store.as_deref() {
            Some(name) if own_helper.is_none() && !name.is_empty() => Ok(ask(name, server).await.map(node)),
            _ => Ok(None),
        }
    }

    /// All that a pull may try, in order.
    pub(in crate::image) async fn candidates(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Vec<Candidate>, ConfigError> {
        let mut all = self.of_pod(registry, repository);
        if let Some(candidate) = self.of_node(registry, repository).await?
            && !all.iter().any(|c| c.credential == candidate.credential)
        {
            all.push(candidate);
        }
        Ok(all)
    }
}

/// Asks a helper. One that fails is as one that knows nothing: `config.json` files name helpers of desktops that servers
/// do not have, and a public image needs none of them. A private one will be refused, and the log says why.
async fn ask(name: &str, server: &str) -> Option<Credential> {
    match helper::ask(name, server).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "going on without a credential helper");
            None
        }
    }
}

/// The name by which helpers know a registry.
fn server_name(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

/// Whether a key of `credHelpers` means `registry`.
fn same_server(key: &str, registry: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = bare.split('/').next().unwrap_or(bare);
    host == registry || (registry == "docker.io" && is_docker_hub(host))
}

/// Reads the home directory's `config.json`; one that is not there is no credential.
fn read(path: &Path) -> Result<Option<DockerConfig>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let shape = |reason: String| ConfigError::Shape { path: path.to_owned(), reason };
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_BYTES => return Err(shape("larger than 1 MiB".to_owned())),
        Ok(meta) if !meta.is_file() => return Err(shape("not a regular file".to_owned())),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let parsed = serde_json::from_slice(&bytes)
        .map_err(|e| shape(format!("not a docker config.json (line {}, column {})", e.line(), e.column())))?;
    Ok(Some(parsed))
}

#[cfg(test)]
mod tests;
