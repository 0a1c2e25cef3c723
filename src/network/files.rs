//! The names that a pod is known by and that it knows: its host name, `/etc/hosts`, `/etc/resolv.conf`, as a kubelet
//! makes them.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::Kind;
use crate::api::ids::DEFAULT_NAMESPACE;

/// What a pod's names depend on beside the pod.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The domain below which services and pods have names.
    pub domain: &'a str,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// Who answers for services and pods; nobody, when it is empty.
    pub resolvers: &'a [IpAddr],
}

/// The longest host name that Linux has.
const MAX_HOSTNAME: usize = 63;

/// The host name of a pod's UTS namespace: as asked for, else the pod's name; on the host's network the node's.
pub fn hostname(pod: &Pod, node: &str, domain: &str) -> String {
    if Kind::of(pod) == Kind::Host {
        return node.to_owned();
    }
    let spec = pod.spec.as_ref();
    let whole = spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    match qualified(pod, domain).filter(|_| whole) {
        Some(name) => name,
        None => short(pod),
    }
}

/// A text that is there and not empty.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|t| !t.is_empty())
}

/// A pod's name among those of its domain.
pub(super) fn short(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let asked = spec.and_then(|s| given(s.hostname_override.as_ref()).or_else(|| given(s.hostname.as_ref())));
    let name = asked.or(pod.metadata.name.as_deref()).unwrap_or_default();
    // Names are ASCII by validation; a cut never leaves a dot or dash at the end.
    name.get(..MAX_HOSTNAME.min(name.len())).unwrap_or(name).trim_end_matches(['.', '-']).to_owned()
}

/// The whole name of a pod that has a subdomain.
pub(super) fn qualified(pod: &Pod, domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if given(spec.hostname_override.as_ref()).is_some() {
        return None;
    }
    let subdomain = given(spec.subdomain.as_ref())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", short(pod)))
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
pub fn files(pod: &Pod, around: &Around<'_>, host: &HostFiles) -> Files {
    let hostname = hostname(pod, around.node, around.domain);
    Files { hosts: hosts(pod, around, host), resolv: resolv(pod, around, host), hostname: format!("{hostname}\n") }
}

fn hosts(pod: &Pod, around: &Around<'_>, host: &HostFiles) -> String {
    let own = Kind::of(pod) == Kind::Own;
    // Programs look for these first lines.
    let mut text = if own {
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned()
    } else {
        format!("# Kubernetes-managed hosts file (host network).\n{}", host.hosts)
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    if own {
        let loopback = [IpAddr::from([127, 0, 0, 1])];
        let addresses = if around.addresses.is_empty() { &loopback } else { around.addresses };
        let names = match qualified(pod, around.domain) {
            Some(whole) => format!("{whole}\t{}", short(pod)),
            None => hostname(pod, around.node, around.domain),
        };
        for address in addresses {
            let _ = writeln!(text, "{address}\t{names}");
        }
    }
    let mut aliases = pod.spec.iter().flat_map(|s| s.host_aliases.iter().flatten()).peekable();
    if aliases.peek().is_some() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        if !names.is_empty() {
            let _ = writeln!(text, "{}\t{}", alias.ip, names.join("\t"));
        }
    }
    text
}

/// What a resolver is told.
#[derive(Debug, Default)]
struct Resolv {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

impl Resolv {
    fn read(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => read.servers.extend(words.next()),
                Some("search" | "domain") => read.searches = words.collect(),
                Some("options") => read.options.extend(words.map(|w| match w.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (w, None),
                })),
                _ => {}
            }
        }
        read
    }

    /// A later option takes the place of an earlier one of its name.
    fn option(&mut self, name: String, value: Option<String>) {
        self.options.retain(|(old, _)| *old != name);
        self.options.push((name, value));
    }

    fn write(self) -> String {
        let mut text = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for server in self.servers.into_iter().filter(|s| seen.insert(s.clone())) {
            let _ = writeln!(text, "nameserver {server}");
        }
        let mut seen = std::collections::BTreeSet::new();
        let searches: Vec<String> = self.searches.into_iter().filter(|s| seen.insert(s.clone())).collect();
        if !searches.is_empty() {
            let _ = writeln!(text, "search {}", searches.join(" "));
        }
        let words: Vec<String> = self
            .options
            .into_iter()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            })
            .collect();
        if !words.is_empty() {
            let _ = writeln!(text, "options {}", words.join(" "));
        }
        text
    }
}

/// Whether a pod asks whoever answers for services and pods.
fn asks_for_services(pod: &Pod) -> bool {
    match pod.spec.as_ref().and_then(|s| s.dns_policy.as_deref()) {
        None | Some("" | "ClusterFirst") => Kind::of(pod) == Kind::Own,
        Some("ClusterFirstWithHostNet") => true,
        Some(_) => false,
    }
}

/// As a kubelet makes it: by policy the host's, our own resolver's, or nothing; then what `dnsConfig` adds.
fn resolv(pod: &Pod, around: &Around<'_>, host: &HostFiles) -> String {
    let spec = pod.spec.as_ref();
    let config = spec.and_then(|s| s.dns_config.as_ref());
    let nothing = spec.and_then(|s| s.dns_policy.as_deref()) == Some("None");
    let services = asks_for_services(pod) && !around.resolvers.is_empty();
    if !nothing && !services && config.is_none() {
        return host.resolv.clone();
    }
    let mut resolv = if nothing { Resolv::default() } else { Resolv::read(&host.resolv) };
    if services {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let domain = around.domain;
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        resolv = Resolv {
            servers: around.resolvers.iter().map(ToString::to_string).collect(),
            searches: own.into_iter().chain(resolv.searches).collect(),
            options: vec![("ndots".to_owned(), Some("5".to_owned()))],
        };
    }
    if let Some(config) = config {
        resolv.servers.extend(config.nameservers.iter().flatten().cloned());
        resolv.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            resolv.option(option.name.clone().unwrap_or_default(), option.value.clone());
        }
    }
    resolv.write()
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

    const AROUND: Around<'static> = Around { node: "node", domain: "cluster.local", addresses: &[], resolvers: &[] };

    #[test]
    fn a_pod_of_its_own_knows_itself_and_its_aliases_only() {
        let pod = pod(serde_json::json!({"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["db", "db.local"]}]}));
        let alone = files(&pod, &AROUND, &host());
        assert!(alone.hosts.contains("127.0.0.1\tweb-0\n"));
        assert!(alone.hosts.starts_with("# Kubernetes-managed hosts file.\n"));
        assert!(alone.hosts.ends_with("\n# Entries added by HostAliases.\n192.0.2.1\tdb\tdb.local\n"));
        assert!(!alone.hosts.contains("10.0.0.1"));
        assert_eq!(alone.hostname, "web-0\n");
        assert_eq!(alone.resolv, host().resolv);
        let addresses = ["10.88.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let placed = files(&pod, &Around { addresses: &addresses, ..AROUND }, &host());
        assert!(placed.hosts.contains("\n10.88.0.2\tweb-0\nfd00::2\tweb-0\n"), "{}", placed.hosts);
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_the_hosts_names() {
        let pod = pod(serde_json::json!({"hostNetwork": true, "hostname": "ignored"}));
        let resolvers = ["10.88.0.1".parse().unwrap()];
        let files = files(&pod, &Around { resolvers: &resolvers, ..AROUND }, &host());
        assert!(files.hosts.starts_with("# Kubernetes-managed hosts file (host network).\n"));
        assert!(files.hosts.contains("10.0.0.1 host\n"));
        assert_eq!(files.hostname, "node\n");
        assert_eq!(files.resolv, host().resolv);
    }

    #[test]
    fn a_subdomain_gives_a_pod_a_whole_name() {
        let addresses = ["10.88.0.2".parse().unwrap()];
        let around = Around { addresses: &addresses, ..AROUND };
        let plain = pod(serde_json::json!({"hostname": "db", "subdomain": "data"}));
        let made = files(&plain, &around, &host());
        assert!(made.hosts.ends_with("10.88.0.2\tdb.data.default.svc.cluster.local\tdb\n"), "{}", made.hosts);
        assert_eq!(made.hostname, "db\n");
        let whole = pod(serde_json::json!({"hostname": "db", "subdomain": "data", "setHostnameAsFQDN": true}));
        assert_eq!(files(&whole, &around, &host()).hostname, "db.data.default.svc.cluster.local\n");
        let without = pod(serde_json::json!({"setHostnameAsFQDN": true}));
        assert_eq!(files(&without, &around, &host()).hostname, "web-0\n");
        let over = pod(serde_json::json!({"hostnameOverride": "over.example", "subdomain": "data"}));
        let made = files(&over, &around, &host());
        assert_eq!(made.hostname, "over.example\n");
        assert!(made.hosts.ends_with("10.88.0.2\tover.example\n"), "{}", made.hosts);
    }

    #[test]
    fn cluster_first_asks_our_resolver_and_searches_the_namespace() {
        let resolvers = ["10.88.0.1".parse().unwrap()];
        let around = Around { resolvers: &resolvers, ..AROUND };
        let wanted = "nameserver 10.88.0.1\nsearch default.svc.cluster.local svc.cluster.local cluster.local a.example\n\
                      options ndots:5\n";
        assert_eq!(files(&pod(serde_json::json!({})), &around, &host()).resolv, wanted);
        let more = pod(serde_json::json!({"dnsPolicy": "ClusterFirst",
            "dnsConfig": {"searches": ["b.example"], "options": [{"name": "ndots", "value": "2"}]}}));
        let text = files(&more, &around, &host()).resolv;
        assert!(text.contains("cluster.local a.example b.example\noptions ndots:2\n"), "{text}");
        let hosts = pod(serde_json::json!({"dnsPolicy": "Default"}));
        assert_eq!(files(&hosts, &around, &host()).resolv, host().resolv);
        let net = pod(serde_json::json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}));
        assert_eq!(files(&net, &around, &host()).resolv, wanted);
    }

    #[test]
    fn dns_config_adds_to_the_hosts_or_stands_alone() {
        let config = serde_json::json!({"nameservers": ["192.0.2.53"], "searches": ["b.example"], "options": [{"name": "ndots", "value": "5"}]});
        let merged = pod(serde_json::json!({"dnsConfig": config}));
        assert_eq!(
            files(&merged, &AROUND, &host()).resolv,
            "nameserver 10.0.0.53\nnameserver 192.0.2.53\nsearch a.example b.example\noptions rotate ndots:5\n"
        );
        let alone = pod(serde_json::json!({"dnsPolicy": "None", "dnsConfig": config}));
        assert_eq!(
            files(&alone, &AROUND, &host()).resolv,
            "nameserver 192.0.2.53\nsearch b.example\noptions ndots:5\n"
        );
    }

    #[test]
    fn a_long_name_is_cut_where_linux_needs_it() {
        let mut pod = pod(serde_json::json!({}));
        pod.metadata.name = Some(format!("{}-tail", "a".repeat(62)));
        assert_eq!(hostname(&pod, "n", "cluster.local"), "a".repeat(62));
    }
}
