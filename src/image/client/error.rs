//! What can go wrong between us and a registry. No message holds a query string: signed URLs carry their signature there.

use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::reach::ResolveError;

/// What a request met below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The host's name has no address.
    Dns,
    /// No connection.
    Connect,
    /// The certificate, or the handshake.
    Tls,
    /// No answer, or no byte of it, in time.
    Stall,
    /// The connection broke, or what came is not HTTP.
    Broken,
}

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing (or not all) came back.
    #[error("cannot {action} {url}")]
    Transport {
        /// `ask`, `read from`.
        action: &'static str,
        /// Scheme, host and path.
        url: String,
        /// What it was.
        fault: Fault,
        /// What the library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing came for too long.
    #[error("{url} sent {what} for {} s", after.as_secs())]
    Stalled {
        /// Scheme, host and path.
        url: String,
        /// `no answer`, `no data`, `next to no data`.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// An answer that is no success.
    #[error("{url} answered {status}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status {
        /// Scheme, host and path.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What the registry said about it, bounded and without control characters.
        message: String,
        /// For how long it asked to be left alone, capped.
        retry_after: Option<Duration>,
    },
    /// The registry wants credentials, others, or none that we have are accepted.
    #[error("{registry} denies access to {repository}: {reason}")]
    Unauthorized {
        /// The registry's host.
        registry: String,
        /// The repository.
        repository: String,
        /// Which credentials were tried and what was said.
        reason: String,
    },
    /// The registry wants its credentials sent to a host that they were not given for.
    #[error("{registry} wants its credentials sent to {realm}; list that host under token-hosts to allow it")]
    ForeignRealm {
        /// The registry's host.
        registry: String,
        /// The host of the token server.
        realm: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {target}: {reason}")]
    Redirect {
        /// Scheme, host and path.
        url: String,
        /// Where to: scheme, host and path.
        target: String,
        /// Why not.
        reason: &'static str,
    },
    /// An answer larger than its kind may be.
    #[error("{url} sent more than {max} bytes")]
    TooLarge {
        /// Scheme, host and path.
        url: String,
        /// The limit.
        max: u64,
    },
    /// An answer that breaks the protocol.
    #[error("{url} sent a bad answer: {reason}")]
    Protocol {
        /// Scheme, host and path.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No client could be made: a CA or client certificate cannot be used.
    #[error("cannot set up TLS for {host}")]
    Setup {
        /// The host.
        host: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An address as it may be shown: no credentials, no query, no fragment, bounded.
pub(super) fn show(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |p| format!(":{p}"));
    let path: String = url.path().chars().take(200).collect();
    format!("{}://{}{port}{path}", url.scheme(), url.host_str().unwrap_or_default())
}

impl ClientError {
    /// From what reqwest says.
    pub(super) fn transport(action: &'static str, url: &Url, error: reqwest::Error) -> Self {
        let fault = fault(&error);
        Self::Transport { action, url: show(url), fault, source: error.without_url().into() }
    }

    /// Whether the same request may well succeed a little later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Transport { fault, .. } => *fault != Fault::Tls,
            Self::Stalled { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            _ => false,
        }
    }

    /// For how long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The status, where there was an answer.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Looks through the chain for what really happened: reqwest's own kinds tell DNS, TLS and refusal not apart.
fn fault(error: &reqwest::Error) -> Fault {
    if error.is_timeout() {
        return Fault::Stall;
    }
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.is::<ResolveError>() {
            return Fault::Dns;
        }
        if cause.is::<rustls::Error>() {
            return Fault::Tls;
        }
        // An io::Error's `source` skips the error that it wraps, which is where rustls travels.
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
        {
            next = Some(inner);
            continue;
        }
        next = cause.source();
    }
    if error.is_connect() { Fault::Connect } else { Fault::Broken }
}
