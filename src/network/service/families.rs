//! Which families of addresses a service has, as it asks for them and the machine allows.

use k8s_openapi::api::core::v1::Service;
use std::net::IpAddr;

/// A family of addresses, in the order in which it is preferred where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::network) enum Family {
    /// IPv4.
    Four,
    /// IPv6.
    Six,
}

impl Family {
    /// Both.
    pub(in crate::network) const ALL: [Self; 2] = [Self::Four, Self::Six];

    /// That of an address.
    pub(in crate::network) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Four } else { Self::Six }
    }
}

/// The addresses that a service asks for by name.
pub(super) fn asked(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let one = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    let mut all: Vec<IpAddr> = one.filter_map(|text| text.parse().ok()).collect();
    all.dedup();
    all
}

/// The families of a service, the one of its first address first. `six`: whether the machine has IPv6.
///
/// # Errors
/// If it must have what the machine has not.
pub(in crate::network) fn families(service: &Service, six: bool) -> Result<Vec<Family>, String> {
    let spec = service.spec.clone().unwrap_or_default();
    let family = |text: &String| if text == "IPv6" { Family::Six } else { Family::Four };
    let mut listed: Vec<Family> = spec.ip_families.iter().flatten().map(family).collect();
    for address in asked(service) {
        if !listed.contains(&Family::of(address)) {
            listed.push(Family::of(address));
        }
    }
    let both = listed.len() > 1;
    if listed.is_empty() {
        listed.push(Family::Four);
    }
    // Two of something say that both are meant.
    let policy = spec.ip_family_policy.as_deref().filter(|p| !p.is_empty());
    match policy.unwrap_or(if both { "RequireDualStack" } else { "SingleStack" }) {
        "SingleStack" => listed.truncate(1),
        policy => {
            listed.extend(Family::ALL.into_iter().find(|f| !listed.contains(f)));
            if policy == "PreferDualStack" && !six {
                listed = vec![Family::Four];
            }
        }
    }
    if listed.contains(&Family::Six) && !six {
        let field = if policy == Some("RequireDualStack") { "ipFamilyPolicy" } else { "ipFamilies" };
        return Err(format!("spec.{field}: asks for IPv6, which this machine does not have"));
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value, six: bool) -> Result<Vec<Family>, String> {
        families(&serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap(), six)
    }

    #[test]
    fn families_are_those_asked_for_where_the_machine_has_them() {
        use Family::{Four, Six};
        for (spec, with, without) in [
            (json!({}), vec![Four], Some(vec![Four])),
            (json!({"ipFamilies": ["IPv6"]}), vec![Six], None),
            (json!({"clusterIP": "fd00::1"}), vec![Six], None),
            (json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}), vec![Four], Some(vec![Four])),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), vec![Four, Six], Some(vec![Four])),
            (json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), vec![Six, Four], Some(vec![Four])),
            (json!({"ipFamilyPolicy": "RequireDualStack"}), vec![Four, Six], None),
            (json!({"ipFamilies": ["IPv6", "IPv4"]}), vec![Six, Four], None),
            (json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"]}), vec![Four, Six], None),
        ] {
            assert_eq!(of(spec.clone(), true), Ok(with), "{spec}");
            assert_eq!(of(spec.clone(), false).ok(), without, "{spec}");
        }
        assert!(of(json!({"ipFamilyPolicy": "RequireDualStack"}), false).unwrap_err().contains("spec.ipFamilyPolicy"));
    }
}
