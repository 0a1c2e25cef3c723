//! A pod's network: which kind it has, and the files by which its containers know names.
//!
//! In a namespace of its own a pod has its loopback and nothing else; with `hostNetwork` it has the host's. A new kind is
//! an arm of [`Kind`] here and a file beside this one.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;

/// What a pod is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host's own network.
    Host,
    /// A namespace with its loopback and nothing else.
    Loopback,
}

impl Kind {
    /// The kind that a pod asks for.
    pub fn of(pod: &Pod) -> Self {
        let host = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or_default();
        if host { Self::Host } else { Self::Loopback }
    }
}

/// The longest host name that Linux has.
const MAX_HOSTNAME: usize = 63;

/// The host name of a pod's UTS namespace: as asked for, else the pod's name; on the host's network the node's.
pub fn hostname(pod: &Pod, node: &str) -> String {
    if Kind::of(pod) == Kind::Host {
        return node.to_owned();
    }
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|s| s.hostname_override.as_deref().or(s.hostname.as_deref()));
    let name = name.or(pod.metadata.name.as_deref()).unwrap_or_default();
    // Names are ASCII by validation; a cut never leaves a dot or dash at the end.
    name.get(..MAX_HOSTNAME.min(name.len())).unwrap_or(name).trim_end_matches(['.', '-']).to_owned()
}

/// The files of a pod that its containers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `/etc/hosts`
    pub hosts: String,
    /// `/etc/hostname`
    pub hostname: String,
    /// `/etc/resolv.conf`
    pub resolv: String,
}

/// What the host has to say on names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFiles {
    /// `/etc/hosts`
    pub hosts: String,
    /// `/etc/resolv.conf`
    pub resolv: String,
}

impl HostFiles {
    /// Reads them; what is not there is empty.
    pub fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self { hosts: read("/etc/hosts"), resolv: read("/etc/resolv.conf") }
    }
}

/// The files of a pod.
pub fn files(pod: &Pod, node: &str, host: &HostFiles) -> Files {
    let hostname = hostname(pod, node);
    Files { hosts: hosts(pod, &hostname, host), resolv: resolv(pod, host), hostname: format!("{hostname}\n") }
}

fn hosts(pod: &Pod, hostname: &str, host: &HostFiles) -> String {
    let mut text = match Kind::of(pod) {
        Kind::Host => format!("# Lamina: the host's own entries.\n{}", host.hosts),
        Kind::Loopback => {
            "# Lamina: made for this pod.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
                .to_owned()
        }
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if Kind::of(pod) == Kind::Loopback {
        let _ = writeln!(text, "127.0.0.1\t{hostname}");
    }
    for alias in pod.spec.iter().flat_map(|s| s.host_aliases.iter().flatten()) {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        if !names.is_empty() {
            let _ = writeln!(text, "{}\t{}", alias.ip, names.join("\t"));
        }
    }
    text
}

/// As a kubelet makes it: the host's (or with policy `None` nothing), then what `dnsConfig` adds; options of one name
/// are replaced.
fn resolv(pod: &Pod, host: &HostFiles) -> String {
    let spec = pod.spec.as_ref();
    let config = spec.and_then(|s| s.dns_config.as_ref());
    let own = spec.and_then(|s| s.dns_policy.as_deref()) != Some("None");
    if own && config.is_none() {
        return host.resolv.clone();
    }
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::<(String, Option<String>)>::new());
    if own {
        for line in host.resolv.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => servers.extend(words.next()),
                Some("search" | "domain") => searches = words.collect(),
                Some("options") => options.extend(words.map(|w| match w.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (w, None),
                })),
                _ => {}
            }
        }
    }
    if let Some(config) = config {
        servers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|(old, _)| *old != name);
            options.push((name, option.value.clone()));
        }
    }
    let mut text = String::new();
    let mut seen = std::collections::BTreeSet::new();
    for server in servers.into_iter().filter(|s| seen.insert(s.clone())) {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    if !options.is_empty() {
        let words: Vec<String> = options
            .into_iter()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            })
            .collect();
        let _ = writeln!(text, "options {}", words.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = serde_json::json!([]);
        serde_json::from_value(serde_json::json!({"metadata": {"name": "web-0"}, "spec": spec})).unwrap()
    }

    fn host() -> HostFiles {
        HostFiles {
            hosts: "10.0.0.1 host".into(),
            resolv: "nameserver 10.0.0.53\nsearch a.example\noptions ndots:1 rotate\n".into(),
        }
    }

    #[test]
    fn a_pod_of_its_own_knows_itself_and_its_aliases_only() {
        let pod = pod(serde_json::json!({"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["db", "db.local"]}]}));
        let files = files(&pod, "node", &host());
        assert!(files.hosts.contains("127.0.0.1\tweb-0\n"));
        assert!(files.hosts.ends_with("192.0.2.1\tdb\tdb.local\n"));
        assert!(!files.hosts.contains("10.0.0.1"));
        assert_eq!(files.hostname, "web-0\n");
        assert_eq!(files.resolv, host().resolv);
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_the_hosts_names() {
        let pod = pod(serde_json::json!({"hostNetwork": true, "hostname": "ignored"}));
        let files = files(&pod, "node", &host());
        assert!(files.hosts.contains("10.0.0.1 host\n"));
        assert_eq!(files.hostname, "node\n");
    }

    #[test]
    fn dns_config_adds_to_the_hosts_or_stands_alone() {
        let config = serde_json::json!({"nameservers": ["192.0.2.53"], "searches": ["b.example"], "options": [{"name": "ndots", "value": "5"}]});
        let merged = pod(serde_json::json!({"dnsConfig": config}));
        assert_eq!(
            files(&merged, "n", &host()).resolv,
            "nameserver 10.0.0.53\nnameserver 192.0.2.53\nsearch a.example b.example\noptions rotate ndots:5\n"
        );
        let alone = pod(serde_json::json!({"dnsPolicy": "None", "dnsConfig": config}));
        assert_eq!(files(&alone, "n", &host()).resolv, "nameserver 192.0.2.53\nsearch b.example\noptions ndots:5\n");
    }

    #[test]
    fn a_long_name_is_cut_where_linux_needs_it() {
        let mut pod = pod(serde_json::json!({}));
        pod.metadata.name = Some(format!("{}-tail", "a".repeat(62)));
        assert_eq!(hostname(&pod, "n"), "a".repeat(62));
    }
}
