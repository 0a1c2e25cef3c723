//! One repository and the places that serve it: its mirrors in their order, then the registry itself.
//!
//! A `Repository` lives as long as the pull (or the shared fetches) that it was made for, with one credential; tokens
//! are kept in it and nowhere else, so that no pod is ever served by what another one proved.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{StatusCode, Url};
use tokio::sync::Mutex;

use super::auth::Held;
use super::error::ClientError;
use super::transport::{Answer, Request, Transport};
use crate::image::config::{ConfigError, Endpoint, Tls, authority};
use crate::image::credentials::{Candidate, Credential, Origin};
use crate::oci::media_type::ACCEPT;
use crate::oci::{Digest, MAX_MANIFEST_BYTES, Reference};

/// How often a mirror is asked before the next place is.
const MIRROR_ATTEMPTS: u32 = 2;

/// One place.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) endpoint: Endpoint,
    /// The name by which the configuration knows it: the registry's, or the mirror's host.
    pub(super) host: String,
    /// The repository's path there.
    pub(super) name: String,
    pub(super) tls: Tls,
    pub(super) credential: Option<Credential>,
    pub(super) held: Mutex<Option<Held>>,
    pub(super) attempts: u32,
}

/// A manifest or an index as it came.
#[derive(Debug, Clone)]
pub(in crate::image) struct Fetched {
    pub(in crate::image) bytes: Bytes,
    pub(in crate::image) media_type: Option<String>,
    /// Whether the registry itself asked for the credential. What a mirror of the node gives, it gives to all here.
    pub(in crate::image) private: bool,
}

/// A repository of a registry, with one credential.
#[derive(Debug)]
pub(in crate::image) struct Repository {
    pub(super) transport: Arc<Transport>,
    pub(super) sites: Vec<Site>,
    /// The credential in words, for messages.
    pub(super) tried: String,
}

impl Repository {
    /// The repository of `reference`, asked with `candidate`; mirrors are asked with what `mirror` knows for their host.
    pub(in crate::image) fn new(
        transport: Arc<Transport>,
        reference: &Reference,
        candidate: Option<&Candidate>,
        mirror: impl Fn(&str) -> Option<Credential>,
    ) -> Result<Self, ConfigError> {
        let config = Arc::clone(&transport.config);
        let site = |endpoint: Endpoint| {
            let own = endpoint.mirror_of.is_none();
            let host = if own { reference.registry().to_owned() } else { authority(&endpoint.base) };
            Site {
                tls: config.tls(&host),
                credential: if own { candidate.map(|c| c.credential.clone()) } else { mirror(&host) },
                name: match endpoint.base.path().trim_matches('/') {
                    "" => reference.repository().to_owned(),
                    prefix => format!("{prefix}/{}", reference.repository()),
                },
                held: Mutex::default(),
                attempts: if own { transport.timing.attempts } else { MIRROR_ATTEMPTS },
                endpoint,
                host,
            }
        };
        let sites = config.endpoints(reference)?.into_iter().map(site).collect();
        let tried = match candidate.map(|c| &c.origin) {
            Some(Origin::Pod { secret }) => format!("image pull secret {secret}"),
            Some(Origin::Node) => "the node's credentials".to_owned(),
            None => "no credentials".to_owned(),
        };
        Ok(Self { transport, sites, tried })
    }

    /// Whether `other` asks the same places in the same way.
    pub(in crate::image) fn is_same(&self, other: &Self) -> bool {
        let same =
            |(a, b): (&Site, &Site)| a.endpoint == b.endpoint && a.name == b.name && a.credential == b.credential;
        self.sites.len() == other.sites.len() && self.sites.iter().zip(&other.sites).all(same)
    }

    /// Fetches a manifest or an index by tag or digest; bytes that were asked for by digest are checked against it by
    /// the caller, who knows what else must match.
    pub(in crate::image) async fn manifest(&self, reference: &str) -> Result<Fetched, ClientError> {
        self.first_of(|site| async move {
            let (answer, private) = self.get(site, ["manifests", reference], Some(ACCEPT), 0).await?;
            let media_type =
                answer.response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let bytes = self.transport.body(answer, MAX_MANIFEST_BYTES).await?;
            let private = private && site.endpoint.mirror_of.is_none();
            Ok(Fetched { bytes, media_type, private })
        })
        .await
    }

    /// Fetches a small blob whole; its digest is the caller's to check.
    pub(in crate::image) async fn small_blob(&self, digest: &Digest, max: u64) -> Result<Bytes, ClientError> {
        let digest = &digest.to_string();
        self.first_of(|site| async move {
            let (answer, _) = self.get(site, ["blobs", digest], None, 0).await?;
            self.transport.body(answer, max).await
        })
        .await
    }

    /// Asks each place in turn, each as often as it is worth, until one gives; the last error is the registry's own.
    async fn first_of<'a, T, F>(&'a self, mut ask: impl FnMut(&'a Site) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut last = None;
        for site in &self.sites {
            let mut failures = 0;
            let error = loop {
                let error = match ask(site).await {
                    Ok(got) => return Ok(got),
                    Err(error) => error,
                };
                failures += 1;
                if let Err(error) = self.pause(site, failures, error).await {
                    break error;
                }
            };
            if last.replace(error).is_some() {
                tracing::debug!(host = %site.host, "a mirror did not serve");
            }
        }
        Err(last.unwrap_or_else(|| self.nowhere()))
    }

    /// Waits before a place is asked once more, or gives the error back where it should not be.
    pub(super) async fn pause(&self, site: &Site, failures: u32, error: ClientError) -> Result<(), ClientError> {
        let timing = &self.transport.timing;
        let asked = error.retry_after().unwrap_or_default();
        if !error.is_passing() || failures >= site.attempts || asked > timing.patience {
            return Err(error);
        }
        let wait = timing.wait(failures).max(asked);
        tracing::debug!(host = %site.host, failures, ?wait, %error, "asking again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Sends one GET below the repository to one place, and answers its challenge once. Tells whether a credential was
    /// used.
    pub(super) async fn get(
        &self,
        site: &Site,
        path: [&str; 2],
        accept: Option<&'static str>,
        from: u64,
    ) -> Result<(Answer, bool), ClientError> {
        self.transport.gate(&site.endpoint.base).await?;
        let mut request = Request { accept, from, ..Request::get(site.url(path), site.tls.clone()) };
        let mut renewed = false;
        loop {
            let seen = {
                let held = site.held.lock().await;
                request.authorization = held.as_ref().and_then(|h| h.header(Instant::now()));
                held.as_ref().map_or(0, |h| h.generation)
            };
            let answer = self.transport.send(&request).await?;
            let status = answer.status();
            if status == StatusCode::UNAUTHORIZED && !answer.foreign && !renewed {
                renewed = true;
                self.convince(site, answer, seen).await?;
                continue;
            }
            if status.is_success() {
                return Ok((answer, request.authorization.is_some() && site.credential.is_some()));
            }
            let foreign = answer.foreign;
            let error = self.transport.refuse(answer).await;
            if !foreign && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Err(self.denied(site, &error.to_string()));
            }
            return Err(error);
        }
    }

    /// For the case that cannot be: a configuration always leaves one place to ask.
    pub(super) fn nowhere(&self) -> ClientError {
        ClientError::Protocol { url: self.tried.clone(), reason: "no place serves this repository".to_owned() }
    }
}

impl Site {
    /// The address of something below the repository.
    fn url(&self, [kind, reference]: [&str; 2]) -> Url {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.name));
        // Which registry a mirror of several is asked for, as containerd says it.
        if let Some(registry) = &self.endpoint.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }
}
