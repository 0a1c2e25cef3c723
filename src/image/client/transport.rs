//! One request on the wire: the right TLS, redirects by rule, bounded waits. What it means is decided elsewhere.
//!
//! Redirects are followed here and not by the library, for each hop has to be judged: at most [`MAX_REDIRECTS`], never
//! from https to http, never closer to this node than the server that redirects (see [`super::reach`]), and the
//! `Authorization` header stays behind as soon as scheme, host or port differ.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Client, StatusCode, Url};

use super::error::{ClientError, show};
use super::reach::{Reach, Resolver};
use super::retry::Timing;
use crate::image::config::{RegistryConfig, Tls, authority, is_loopback};
use crate::image::metrics::Metrics;

/// As many as browsers and other registry clients follow.
const MAX_REDIRECTS: usize = 10;
/// How much of an error's body is read: registries answer with a few hundred bytes of JSON.
const MAX_ERROR_BYTES: u64 = 16 << 10;
/// How much of a registry's own words goes into a message.
const MAX_MESSAGE_CHARS: usize = 300;
/// Idle connections kept for the next layer.
const IDLE_CONNECTIONS: usize = 8;

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) url: Url,
    /// TLS for the first host; others have their own entries in the configuration.
    pub(super) tls: Tls,
    /// How far it may go.
    pub(super) reach: Reach,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) accept: Option<&'static str>,
    /// The first byte that is wanted, where it is not the first of all.
    pub(super) from: u64,
    /// A form to be posted; such a request follows no redirect.
    pub(super) form: Option<String>,
}

impl Request {
    /// A plain GET to where the configuration says.
    pub(super) fn get(url: Url, tls: Tls) -> Self {
        Self { url, tls, reach: Reach::Any, authorization: None, accept: None, from: 0, form: None }
    }
}

/// The head of an answer, its body still to be read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: reqwest::Response,
    /// Who answered, after redirects.
    pub(super) url: Url,
    /// Whether that was another origin than the one asked: its challenges are none of ours.
    pub(super) foreign: bool,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }
}

/// What decides which connections may be shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    tls: Option<Tls>,
    reach: Reach,
    direct: bool,
}

/// All connections of the node to registries.
#[derive(Debug)]
pub(in crate::image) struct Transport {
    pub(super) config: Arc<RegistryConfig>,
    pub(super) timing: Timing,
    metrics: Metrics,
    clients: Mutex<HashMap<ClientKey, Client>>,
    /// Hosts that asked to be left alone, until when, and with which status.
    gates: Mutex<HashMap<String, (Instant, StatusCode)>>,
}

impl Transport {
    pub(in crate::image) fn new(config: Arc<RegistryConfig>, timing: Timing, metrics: Metrics) -> Self {
        // Someone else in this process may have chosen a provider already: then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { config, timing, metrics, clients: Mutex::default(), gates: Mutex::default() }
    }

    fn client(&self, url: &Url, tls: &Tls, reach: Reach) -> Result<Client, ClientError> {
        let secure = url.scheme() == "https";
        let key = ClientKey { tls: secure.then(|| tls.clone()), reach, direct: is_loopback(&authority(url)) };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let made = self.build(&key).map_err(|source| ClientError::Setup { host: authority(url), source })?;
        clients.insert(key, made.clone());
        Ok(made)
    }

    fn build(&self, key: &ClientKey) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
        let mut builder = Client::builder()
            .user_agent(concat!("lamina/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(self.timing.connect)
            .pool_idle_timeout(self.timing.idle)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .dns_resolver(Resolver::shared(key.reach));
        if key.direct {
            builder = builder.no_proxy();
        }
        builder = match &key.tls {
            // Nothing is verified on plain connections: don't load the system's certificates.
            None => builder.tls_certs_only([]),
            Some(tls) => {
                if let Some(ca) = &tls.ca {
                    let pem = std::fs::read(ca).map_err(|e| format!("cannot read {}: {e}", ca.display()))?;
                    builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
                }
                if let Some((cert, key)) = &tls.client {
                    let mut pem = std::fs::read(cert).map_err(|e| format!("cannot read {}: {e}", cert.display()))?;
                    pem.extend(std::fs::read(key).map_err(|e| format!("cannot read {}: {e}", key.display()))?);
                    builder = builder.identity(reqwest::Identity::from_pem(&pem)?);
                }
                builder.tls_danger_accept_invalid_certs(tls.skip_verify)
            }
        };
        Ok(builder.build()?)
    }

    /// Sends one request and follows its redirects. Any answer is a success here.
    pub(super) async fn send(&self, request: &Request) -> Result<Answer, ClientError> {
        let mut url = request.url.clone();
        let mut reach = request.reach;
        let mut foreign = false;
        for _ in 0..=MAX_REDIRECTS {
            let own = same_origin(&url, &request.url);
            let tls = if own { request.tls.clone() } else { self.config.tls(&authority(&url)) };
            let response = self.once(request, &url, &tls, reach, !foreign).await?;
            let Some(target) = target(&response, &url)? else { return Ok(Answer { response, url, foreign }) };
            let refuse = |reason| ClientError::Redirect { url: show(&url), target: show(&target), reason };
            if request.form.is_some() {
                return Err(refuse("a token is not asked for elsewhere"));
            }
            if !matches!(target.scheme(), "http" | "https") || !target.has_host() {
                return Err(refuse("not an http address"));
            }
            if url.scheme() == "https" && target.scheme() == "http" {
                return Err(refuse("it leaves https"));
            }
            if !same_origin(&target, &url) {
                reach = if self.config.names(&authority(&target)) {
                    Reach::Any
                } else {
                    Reach::from_server(response.remote_addr())
                };
                foreign = true;
            }
            if !reach.allows_host(&target) {
                return Err(refuse("that address is closer to this node than the server; name it in registries.yaml"));
            }
            url = target;
        }
        Err(ClientError::Redirect { url: show(&request.url), target: show(&url), reason: "more than 10 redirects" })
    }

    async fn once(
        &self,
        request: &Request,
        url: &Url,
        tls: &Tls,
        reach: Reach,
        authorized: bool,
    ) -> Result<reqwest::Response, ClientError> {
        let client = self.client(url, tls, reach)?;
        let mut builder = match &request.form {
            Some(form) => {
                client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
            }
            None => client.get(url.clone()),
        };
        // What travels is what was hashed: nobody between us may recode it.
        builder = builder.header(ACCEPT_ENCODING, "identity");
        if let Some(accept) = request.accept {
            builder = builder.header(ACCEPT, accept);
        }
        if request.from > 0 {
            builder = builder.header(RANGE, format!("bytes={}-", request.from));
        }
        if let Some(authorization) = request.authorization.as_ref().filter(|_| authorized) {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let sent = match tokio::time::timeout(self.timing.answer, builder.send()).await {
            Ok(sent) => sent.map_err(|e| ClientError::transport("ask", url, e)),
            Err(_) => Err(ClientError::Stalled { url: show(url), what: "no answer", after: self.timing.answer }),
        };
        self.metrics.request(sent.as_ref().ok().map(reqwest::Response::status));
        sent
    }

    /// Makes an error of an answer that is no success: reads what the registry says about it, and heeds its wish to be
    /// left alone.
    pub(super) async fn refuse(&self, answer: Answer) -> ClientError {
        let (status, url) = (answer.status(), answer.url.clone());
        let retry_after = self.timing.retry_after(answer.response.headers(), SystemTime::now());
        if let Some(wait) = retry_after
            && matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            gates.retain(|_, (until, _)| *until > now);
            gates.insert(authority(&url), (now + wait, status));
        }
        let body = self.body(answer, MAX_ERROR_BYTES).await.unwrap_or_default();
        ClientError::Status { url: show(&url), status, message: message(&body), retry_after }
    }

    /// Waits until a host that asked to be left alone may be asked again; fails where that is too long.
    pub(super) async fn gate(&self, url: &Url) -> Result<(), ClientError> {
        let until = self.gates.lock().unwrap_or_else(PoisonError::into_inner).get(&authority(url)).copied();
        let Some((until, status)) = until else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        if left > self.timing.patience {
            let message = "not asked again yet, as it wished".to_owned();
            return Err(ClientError::Status { url: show(url), status, message, retry_after: Some(left) });
        }
        tokio::time::sleep(left).await;
        Ok(())
    }

    /// Reads a whole body of at most `max` bytes.
    pub(super) async fn body(&self, mut answer: Answer, max: u64) -> Result<Bytes, ClientError> {
        let too_large = || ClientError::TooLarge { url: show(&answer.url), max };
        if answer.response.content_length().is_some_and(|length| length > max) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        let deadline = tokio::time::Instant::now() + self.timing.answer;
        while let Some(chunk) = self.chunk(&mut answer, deadline).await? {
            if u64::try_from(body.len() + chunk.len()).map_or(true, |length| length > max) {
                return Err(ClientError::TooLarge { url: show(&answer.url), max });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The next piece of a body, as large as it came; `None` at its end. Waits no longer than the idle time, nor beyond
    /// `deadline`.
    pub(super) async fn chunk(
        &self,
        answer: &mut Answer,
        deadline: tokio::time::Instant,
    ) -> Result<Option<Bytes>, ClientError> {
        let idle = tokio::time::Instant::now() + self.timing.idle;
        let Ok(read) = tokio::time::timeout_at(idle.min(deadline), answer.response.chunk()).await else {
            let after = self.timing.idle;
            return Err(ClientError::Stalled { url: show(&answer.url), what: "no data", after });
        };
        read.map_err(|e| ClientError::transport("read from", &answer.url, e))
    }
}

pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Where an answer redirects to.
fn target(response: &reqwest::Response, url: &Url) -> Result<Option<Url>, ClientError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let bad = || ClientError::Protocol { url: show(url), reason: "a redirect without a usable address".to_owned() };
    let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).ok_or_else(bad)?;
    let mut target = url.join(location).map_err(|_| bad())?;
    // Credentials in an address are of the server's making; the library would send them.
    if target.set_username("").is_err() || target.set_password(None).is_err() {
        return Err(bad());
    }
    target.set_fragment(None);
    Ok(Some(target))
}

/// What a registry says about an error (distribution-spec, "Error codes"), or the start of any other text.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct One {
        code: String,
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let one = |e: &One| [e.code.as_str(), e.message.as_str()].join(" ").trim().to_owned();
            errors.iter().take(3).map(one).collect::<Vec<_>>().join("; ")
        }
        Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect()
}
