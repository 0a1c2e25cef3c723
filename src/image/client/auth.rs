//! How one place is convinced: Basic, or a bearer token made by a token server (distribution-spec, "token").
//!
//! Credentials go to the registry that they were given for. A token server gets them only where it is that very host, a
//! parent domain of it (who owns that decides over the registry's name anyway), Docker Hub's own, or listed by the
//! administrator under `token-hosts`; and never over http when the registry speaks https.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::{Bearer, Challenges};
use super::error::{ClientError, show};
use super::reach::Reach;
use super::repository::{Repository, Site};
use super::transport::{Answer, Request};
use crate::image::config::authority;
use crate::image::credentials::{Credential, Secret};

/// The largest answer of a token server: JSON web tokens with many scopes have some ten KiB.
const MAX_TOKEN_BYTES: u64 = 256 << 10;
/// How long a token lives that does not say (distribution's token specification).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// A token is renewed so long before its end, for the request to arrive.
const MARGIN: Duration = Duration::from_secs(5);

/// What convinced a place last.
#[derive(Debug)]
pub(super) struct Held {
    header: HeaderValue,
    expires: Option<Instant>,
    /// Grows with each renewal, so that of many requests that are refused at once only the first renews.
    pub(super) generation: u64,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

impl Held {
    /// The header to send, while it is good.
    pub(super) fn header(&self, now: Instant) -> Option<HeaderValue> {
        self.expires.is_none_or(|end| now < end).then(|| self.header.clone())
    }
}

impl Repository {
    /// Answers a 401 of `site`: gets what it asks for, unless another request did so since `seen`.
    pub(super) async fn convince(&self, site: &Site, refused: Answer, seen: u64) -> Result<(), ClientError> {
        let mut held = site.held.lock().await;
        if held.as_ref().is_some_and(|h| h.generation > seen && h.header(Instant::now()).is_some()) {
            return Ok(());
        }
        let challenges = Challenges::of(refused.response.headers());
        let reach = Reach::from_server(refused.response.remote_addr());
        let generation = held.as_ref().map_or(0, |h| h.generation) + 1;
        let made = match (&challenges.bearer, &site.credential) {
            (Some(_), Some(Credential::Bearer { token })) => (header("Bearer", token.expose()), None),
            (Some(bearer), _) => self.token(site, bearer, reach).await?,
            (None, Some(Credential::Basic { username, password })) if challenges.basic => {
                (basic(username, password), None)
            }
            (None, None) if challenges.basic => return Err(self.denied(site, "it wants a password and none is known")),
            _ => {
                let said = self.transport.refuse(refused).await;
                return Err(self.denied(site, &format!("it asks for nothing that can be given ({said})")));
            }
        };
        let (Some(header), life) = made else {
            return Err(self.denied(site, "the credential cannot be sent in a header"));
        };
        let expires = life.map(|life| Instant::now() + life.saturating_sub(MARGIN));
        *held = Some(Held { header, expires, generation });
        Ok(())
    }

    /// Gets a token for pulling from a token server.
    async fn token(
        &self,
        site: &Site,
        bearer: &Bearer,
        reach: Reach,
    ) -> Result<(Option<HeaderValue>, Option<Duration>), ClientError> {
        let base = &site.endpoint.base;
        let bad = |reason: &str| ClientError::Protocol { url: show(base), reason: reason.to_owned() };
        let mut url = Url::parse(&bearer.realm).map_err(|_| bad("its token server has no usable address"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !url.username().is_empty() {
            return Err(bad("its token server has no usable address"));
        }
        if base.scheme() == "https" && url.scheme() == "http" {
            return Err(bad("its token server is not asked: that would leave https"));
        }
        let config = &self.transport.config;
        let listed = config.token_hosts(&site.host).iter().any(|h| *h == authority(&url));
        if site.credential.is_some() && !listed && !may_have(base, &url) {
            return Err(ClientError::ForeignRealm { registry: site.host.clone(), realm: authority(&url) });
        }
        let own = url.host_str() == base.host_str();
        let reach = if own || listed || config.names(&authority(&url)) { Reach::Any } else { reach };
        if !reach.allows_host(&url) {
            return Err(bad("its token server is closer to this node than itself; list it under token-hosts"));
        }
        let tls = if own { site.tls.clone() } else { config.tls(&authority(&url)) };

        let scope = bearer.scope.clone().unwrap_or_else(|| format!("repository:{}:pull", site.name));
        let mut parameters = vec![("scope", scope.as_str()), ("client_id", "lamina")];
        parameters.extend(bearer.service.as_deref().map(|s| ("service", s)));
        let mut request = Request { reach, ..Request::get(url.clone(), tls) };
        match &site.credential {
            Some(Credential::Identity { token }) => {
                parameters.extend([("grant_type", "refresh_token"), ("refresh_token", token.expose())]);
                // A form's encoding is a query's.
                let mut form = url.clone();
                form.query_pairs_mut().clear().extend_pairs(&parameters);
                request.form = form.query().map(str::to_owned);
            }
            credential => {
                if let Some(Credential::Basic { username, password }) = credential {
                    parameters.push(("account", username));
                    request.authorization = basic(username, password);
                }
                url.query_pairs_mut().extend_pairs(&parameters);
                request.url = url;
            }
        }
        let answer = self.transport.send(&request).await?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let said = self.transport.refuse(answer).await;
                return Err(self.denied(site, &said.to_string()));
            }
            _ => return Err(self.transport.refuse(answer).await),
        }
        let shown = show(&answer.url);
        let body = self.transport.body(answer, MAX_TOKEN_BYTES).await?;
        let bad = || ClientError::Protocol { url: shown.clone(), reason: "no token in its answer".to_owned() };
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| bad())?;
        let given = |t: Option<Secret>| t.filter(|t| !t.expose().is_empty());
        let token = given(answer.token).or_else(|| given(answer.access_token)).ok_or_else(bad)?;
        let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        Ok((header("Bearer", token.expose()), Some(life.max(DEFAULT_LIFE))))
    }

    /// Access denied, with the credential that was tried.
    pub(super) fn denied(&self, site: &Site, reason: &str) -> ClientError {
        let tried = if site.credential.is_some() { &self.tried } else { "no credentials" };
        ClientError::Unauthorized {
            registry: site.host.clone(),
            repository: site.name.clone(),
            reason: format!("{reason} (with {tried})"),
        }
    }
}

/// Whether a token server may be given the credentials of the registry at `base`.
fn may_have(base: &Url, realm: &Url) -> bool {
    let (Some(registry), Some(server)) = (base.host_str(), realm.host_str()) else { return false };
    if registry == server {
        return true;
    }
    let default_port = realm.port().is_none();
    let parent = server.contains('.') && registry.strip_suffix(server).is_some_and(|sub| sub.ends_with('.'));
    default_port
        && realm.scheme() == "https"
        && (parent && server.parse::<std::net::IpAddr>().is_err()
            || registry == "registry-1.docker.io" && server == "auth.docker.io")
}

/// `Authorization`, marked so that nothing shows it.
fn header(scheme: &str, value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&format!("{scheme} {value}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn basic(username: &str, password: &Secret) -> Option<HeaderValue> {
    header("Basic", &STANDARD.encode(format!("{username}:{}", password.expose())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_server_gets_credentials_only_where_it_belongs_to_the_registry() {
        let may = |base: &str, realm: &str| may_have(&base.parse().unwrap(), &realm.parse().unwrap());
        assert!(may("https://r.example", "https://r.example/token"));
        assert!(may("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"));
        assert!(may("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"));
        assert!(may("https://registry-1.docker.io", "https://auth.docker.io/token"));
        for (base, realm) in [
            ("https://r.example.com", "https://auth.example.com/token"),
            ("https://r.example.com", "https://com/token"),
            ("https://r.example.com", "https://ple.com/token"),
            ("https://example.com", "https://r.example.com/token"),
            ("https://r.example.com", "https://example.com:8443/token"),
            ("https://r.example.com", "https://auth.docker.io/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.2:5000/token"),
            ("http://127.0.0.1:5000", "http://localhost:5000/token"),
        ] {
            assert!(!may(base, realm), "{base} {realm}");
        }
    }

    #[test]
    fn an_authorization_header_is_never_shown() {
        let header = basic("user", &Secret::new("canary")).unwrap();
        assert!(!format!("{header:?}").contains(&STANDARD.encode("user:canary")));
    }
}
