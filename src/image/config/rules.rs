//! How names of hosts in the configuration are matched and turned into addresses to ask.

use std::net::IpAddr;

use super::ConfigError;

/// A host as the configuration names it: exact, or `*.` for one label in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct HostPattern {
    labels: Vec<String>,
    port: Option<String>,
}

impl HostPattern {
    /// Parses `host`, `host:port` or either with `*` as labels (as Kubernetes has them in image pull secrets).
    pub(in crate::image) fn parse(text: &str) -> Option<Self> {
        let (host, port) = split_port(text);
        if host.is_empty() || host.contains(['/', '@', ' ']) || port.is_some_and(|p| p.parse::<u16>().is_err()) {
            return None;
        }
        Some(Self {
            labels: host.to_ascii_lowercase().split('.').map(str::to_owned).collect(),
            port: port.map(str::to_owned),
        })
    }

    /// Whether `host` (with its port where it has one) is meant. A `*` within a label matches any run of characters.
    pub(in crate::image) fn matches(&self, host: &str) -> bool {
        let (host, port) = split_port(host);
        let host = host.to_ascii_lowercase();
        let labels: Vec<_> = host.split('.').collect();
        self.port.as_deref() == port
            && labels.len() == self.labels.len()
            && self.labels.iter().zip(labels).all(|(pattern, label)| label_matches(pattern, label))
    }

    /// Larger for a pattern that should be asked first.
    pub(in crate::image) fn exactness(&self) -> (usize, usize) {
        (self.labels.iter().filter(|l| !l.contains('*')).count(), usize::from(self.port.is_some()))
    }
}

/// One label against one with `*` for any run of characters.
fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == label };
    let Some(mut left) = label.strip_prefix(head) else { return false };
    let mut parts: Vec<_> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    left.ends_with(tail)
}

/// Splits `host:port`; an IPv6 address stands in brackets.
pub(in crate::image) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Whether a registry's name is an address of this machine, or `localhost`.
pub(in crate::image) fn is_loopback(registry: &str) -> bool {
    let (host, _) = split_port(registry);
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Host and, where it is not the scheme's own, port: as registries are named.
pub(in crate::image) fn authority(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// An address to ask, checked: http or https, a host, no credentials, query or fragment; no slash at its end.
pub(super) fn base(registry: &str, text: &str) -> Result<reqwest::Url, ConfigError> {
    let bad = |reason: String| ConfigError::Entry { registry: registry.to_owned(), reason };
    let mut url = reqwest::Url::parse(text).map_err(|e| bad(format!("an endpoint is not a URL: {e}")))?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !plain {
        return Err(bad("an endpoint is http://host[:port][/path] or https://…, without credentials".to_owned()));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}
