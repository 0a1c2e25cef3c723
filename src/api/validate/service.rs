//! Services: their names, ports and addresses.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::ids::{check_label, check_subdomain};
use super::{Findings, meta, unique};

pub(super) fn service(service: &Service, found: &mut Findings) {
    // A part of a name that is looked up.
    let name = service.metadata.name.as_deref().unwrap_or_default();
    if !name.is_empty() && (check_label(name).is_err() || !name.starts_with(|c: char| c.is_ascii_lowercase())) {
        found.add("metadata.name", "must be lower case letters, digits and '-', start with a letter and have no dots");
    }
    let Some(spec) = &service.spec else { return found.add("spec", "must be given") };
    let elsewhere = spec.type_.as_deref() == Some("ExternalName");
    found.one_of("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"]);
    meta::labels(spec.selector.as_ref(), "spec.selector", found);
    let address = spec.cluster_ip.as_deref().filter(|a| !a.is_empty() && *a != "None");
    let good =
        |a: &str| a.parse::<IpAddr>().is_ok_and(|a| !a.is_loopback() && !a.is_unspecified() && !a.is_multicast());
    if address.is_some_and(|a| !good(a)) {
        found.add("spec.clusterIP", "must be an address, None or empty");
    }
    families(spec, address, good, found);
    if elsewhere {
        let name = spec.external_name.as_deref().unwrap_or_default();
        found.check("spec.externalName", check_subdomain(name.strip_suffix('.').unwrap_or(name)));
        if address.is_some() {
            found.add("spec.clusterIP", "must not be given for an ExternalName");
        }
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if headless && spec.type_.as_deref() == Some("NodePort") {
        found.add("spec.clusterIP", "must not be None for a NodePort");
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !elsewhere && !headless {
        found.add("spec.ports", "must have at least one");
    }
    let names = ports.iter().map(|p| p.name.as_deref().unwrap_or_default());
    unique(names.enumerate(), found, |i| format!("spec.ports[{i}].name"));
    let mut seen = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        found.range(format_args!("{at}.port"), Some(port.port), 1, 65535);
        found.range(format_args!("{at}.nodePort"), port.node_port.filter(|n| *n != 0), 1, 65535);
        found.one_of(format_args!("{at}.protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
        match port.name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => found.check(format_args!("{at}.name"), check_label(name)),
            None if ports.len() > 1 => found.add(format_args!("{at}.name"), "must be given where there are several"),
            None => {}
        }
        match &port.target_port {
            Some(IntOrString::Int(n)) => found.range(format_args!("{at}.targetPort"), Some(*n), 1, 65535),
            Some(IntOrString::String(name)) => found.check(format_args!("{at}.targetPort"), check_label(name)),
            None => {}
        }
        if port.node_port.is_some_and(|n| n != 0) && spec.type_.as_deref() != Some("NodePort") {
            found.add(format_args!("{at}.nodePort"), "must not be given for a service that is no NodePort");
        }
        let key = (port.port, port.protocol.as_deref().unwrap_or("TCP"));
        if seen.contains(&key) {
            found.add(format_args!("{at}.port"), format!("{} {} is there twice", key.1, key.0));
        }
        seen.push(key);
    }
}

/// Families, their policy, and the addresses that go with them.
fn families(spec: &ServiceSpec, address: Option<&str>, good: impl Fn(&str) -> bool, found: &mut Findings) {
    let listed = spec.ip_families.as_deref().unwrap_or_default();
    let policy = spec.ip_family_policy.as_deref();
    found.one_of("spec.ipFamilyPolicy", policy, &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    for (i, family) in listed.iter().enumerate() {
        found.one_of(format_args!("spec.ipFamilies[{i}]"), Some(family), &["IPv4", "IPv6"]);
    }
    if listed.len() > 2 || (listed.len() == 2 && listed[0] == listed[1]) {
        found.add("spec.ipFamilies", "must have each family once");
    }
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    for (i, one) in all.iter().enumerate().filter(|(_, one)| *one != "None" && !one.is_empty()) {
        if !good(one) {
            found.add(format_args!("spec.clusterIPs[{i}]"), "must be an address, None or empty");
        }
    }
    if all.first().is_some_and(|first| address.is_some_and(|address| address != first)) {
        found.add("spec.clusterIPs[0]", "must be the same as clusterIP");
    }
    let six = |text: &String| text.parse::<IpAddr>().ok().map(|a| a.is_ipv6());
    if all.len() > 2 || (all.len() == 2 && six(&all[0]) == six(&all[1])) {
        found.add("spec.clusterIPs", "must have one address of each family");
    }
    if listed.len() == 1
        && address.map(str::to_owned).as_ref().and_then(six).is_some_and(|six| six != (listed[0] == "IPv6"))
    {
        found.add("spec.clusterIP", "must be of the family in ipFamilies");
    }
    if policy == Some("SingleStack") && (listed.len() > 1 || all.len() > 1) {
        found.add("spec.ipFamilyPolicy", "must not be SingleStack with two families");
    }
}
