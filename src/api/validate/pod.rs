//! A pod's spec as a whole.

use k8s_openapi::api::core::v1::PodSpec;

use super::super::ids::{check_label, check_subdomain};
use super::{Findings, container, security, volume};

/// Which restart policies there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// All three.
    Any,
    /// The pods of a workload that never ends.
    Always,
    /// The pods of a job, which must be able to end.
    Ending,
}

pub(super) fn pod(spec: Option<&PodSpec>, at: &str, restart: Restart, found: &mut Findings) {
    let Some(spec) = spec else { return found.add(at, "must be given") };
    let policy = spec.restart_policy.as_deref().filter(|p| !p.is_empty());
    let path = format!("{at}.restartPolicy");
    match restart {
        Restart::Any => found.one_of(path, policy, &["Always", "OnFailure", "Never"]),
        Restart::Always => found.one_of(path, policy, &["Always"]),
        Restart::Ending => found.one_of(path, policy.or(Some("Always")), &["OnFailure", "Never"]),
    }
    let seconds = i64::from(i32::MAX);
    found.range(format_args!("{at}.terminationGracePeriodSeconds"), spec.termination_grace_period_seconds, 0, seconds);
    found.range(format_args!("{at}.activeDeadlineSeconds"), spec.active_deadline_seconds, 1, seconds);
    names(spec, at, found);
    if let Some(os) = &spec.os
        && os.name != "linux"
    {
        found.add(format_args!("{at}.os.name"), "must be linux");
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        found.check(format_args!("{at}.imagePullSecrets[{i}].name"), check_subdomain(&secret.name));
    }
    if let Some(context) = &spec.security_context {
        security::pod(context, spec, &format!("{at}.securityContext"), found);
    }
    security::namespaces(spec, at, found);
    volume::volumes(spec, &format!("{at}.volumes"), found);
    container::inits(spec, at, found);
    container::containers(spec, at, found);
    container::of_pod(spec, at, found);
}

/// The most name servers and search domains that a resolver takes (as Kubernetes has it).
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_TEXT: usize = 2048;
/// The longest host name that Linux has.
const MAX_HOSTNAME: usize = 64;

/// An IP address.
pub(super) fn address(text: &str) -> Result<(), &'static str> {
    text.parse::<std::net::IpAddr>().map(drop).map_err(|_| "must be an IP address")
}

/// What a pod is called, and whom it asks for names.
fn names(spec: &PodSpec, at: &str, found: &mut Findings) {
    let policies = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    found.one_of(format_args!("{at}.dnsPolicy"), spec.dns_policy.as_deref(), policies);
    let config = spec.dns_config.clone().unwrap_or_default();
    let servers = config.nameservers.unwrap_or_default();
    if spec.dns_policy.as_deref() == Some("None") && servers.is_empty() {
        found.add(format_args!("{at}.dnsConfig.nameservers"), "must have one at least when dnsPolicy is None");
    }
    if servers.len() > MAX_SERVERS {
        found.add(format_args!("{at}.dnsConfig.nameservers"), format!("must have no more than {MAX_SERVERS}"));
    }
    for (i, server) in servers.iter().enumerate() {
        found.check(format_args!("{at}.dnsConfig.nameservers[{i}]"), address(server));
    }
    let searches = config.searches.unwrap_or_default();
    if searches.len() > MAX_SEARCHES || searches.join(" ").len() > MAX_SEARCH_TEXT {
        let reason = format!("must have no more than {MAX_SEARCHES}, and {MAX_SEARCH_TEXT} characters");
        found.add(format_args!("{at}.dnsConfig.searches"), reason);
    }
    for (i, search) in searches.iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if search != "." {
            found.check(format_args!("{at}.dnsConfig.searches[{i}]"), check_subdomain(&name));
        }
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !option.name.as_deref().is_some_and(plain) || !option.value.as_deref().is_none_or(plain) {
            found.add(format_args!("{at}.dnsConfig.options[{i}]"), "must have a name, and no spaces");
        }
    }
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    for (field, name) in [("hostname", given(&spec.hostname)), ("subdomain", given(&spec.subdomain))] {
        if let Some(name) = name {
            found.check(format_args!("{at}.{field}"), check_label(&name));
        }
    }
    if let Some(name) = given(&spec.hostname_override) {
        let path = format!("{at}.hostnameOverride");
        found.check(&path, check_subdomain(&name));
        if name.len() > MAX_HOSTNAME {
            found.add(&path, format!("must be no longer than {MAX_HOSTNAME} characters"));
        }
        if spec.host_network == Some(true) || spec.set_hostname_as_fqdn == Some(true) {
            found.add(&path, "must not stand beside hostNetwork or setHostnameAsFQDN");
        }
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        found.check(format_args!("{at}.hostAliases[{i}].ip"), address(&alias.ip));
        for (n, name) in alias.hostnames.iter().flatten().enumerate() {
            found.check(format_args!("{at}.hostAliases[{i}].hostnames[{n}]"), check_subdomain(name));
        }
    }
}
