//! Services against made-up pods.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::super::subnet::Range;
use super::*;

fn service(name: &str, spec: serde_json::Value) -> Service {
    serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn backend(name: &str, last: u8, ready: bool) -> Backend {
    Backend {
        pod: PodKey { namespace: "default".into(), name: name.into() },
        labels: BTreeMap::from([("app".into(), "web".into())]),
        ready,
        addresses: vec![Ipv4Addr::new(10, 88, 0, last).into(), format!("fd00::{last}").parse().unwrap()],
        ports: vec![("http".into(), Protocol::Tcp, 8000 + u16::from(last))],
        hostname: Some(name.into()),
        subdomain: Some("web".into()),
    }
}

fn grants() -> (tempfile::TempDir, Grants) {
    let dir = tempfile::tempdir().unwrap();
    let grants = Grants::open(dir.path()).unwrap();
    (dir, grants)
}

fn range() -> Range {
    Range { v4: "10.96.7.0/29".parse().unwrap(), v6: Some("fd96::/64".parse().unwrap()) }
}

#[test]
fn endpoints_are_the_ready_pods_with_each_ones_own_port() {
    let spec = serde_json::json!({"selector": {"app": "web"}, "ports": [
        {"name": "http", "port": 80, "targetPort": "http"}, {"name": "other", "port": 81, "targetPort": 8081}, {"name": "same", "port": 82}
    ]});
    let backends = [backend("b", 3, true), backend("a", 2, true), backend("c", 4, false)];
    let resolved = resolve(&service("web", spec.clone()), &grants::Grant::default(), &[Family::Four], &backends);
    let address = |last| IpAddr::from(Ipv4Addr::new(10, 88, 0, last));
    assert_eq!(resolved.ports[0].endpoints, [(address(2), 8002), (address(3), 8003)]);
    assert_eq!(resolved.ports[1].endpoints, [(address(2), 8081), (address(3), 8081)]);
    assert_eq!(resolved.ports[2].endpoints, [(address(2), 82), (address(3), 82)]);
    assert_eq!(resolved.pods, [("a".into(), address(2)), ("b".into(), address(3))]);
    let both = resolve(&service("web", spec.clone()), &grants::Grant::default(), &Family::ALL, &backends[1..2]);
    assert_eq!(both.ports[2].endpoints, [(address(2), 82), ("fd00::2".parse().unwrap(), 82)]);
    let mut other = spec.clone();
    other["publishNotReadyAddresses"] = true.into();
    assert_eq!(resolve(&service("web", other), &grants::Grant::default(), &[Family::Four], &backends).pods.len(), 3);
    let mut none = spec;
    none["selector"] = serde_json::json!({"app": "db"});
    assert!(
        resolve(&service("web", none), &grants::Grant::default(), &[Family::Four], &backends).ports[0]
            .endpoints
            .is_empty()
    );
}

#[test]
fn addresses_are_kept_and_never_handed_out_twice() {
    let (dir, mut grants) = grants();
    let ports = serde_json::json!([{"port": 80}]);
    let plain = |name: &str| service(name, serde_json::json!({"ports": ports}));
    let fixed = service("fixed", serde_json::json!({"ports": ports, "clusterIP": "10.96.7.1"}));
    let headless = service("headless", serde_json::json!({"ports": ports, "clusterIP": "None"}));
    let (a, b) = (plain("a"), plain("b"));
    let none = BTreeSet::new();
    assert_eq!(grants.update(&[&a, &b, &fixed, &headless], true, range(), &none).unwrap(), []);
    let address = |grants: &Grants, name: &str| grants.of(&format!("default/{name}")).address.map(|a| a.to_string());
    assert_eq!(address(&grants, "fixed").as_deref(), Some("10.96.7.1"));
    assert_eq!(address(&grants, "a").as_deref(), Some("10.96.7.2"));
    assert_eq!(address(&grants, "headless"), None);
    let mut later = Grants::open(dir.path()).unwrap();
    assert_eq!(address(&later, "b").as_deref(), Some("10.96.7.3"));
    let thief = service("thief", serde_json::json!({"ports": ports, "clusterIP": "10.96.7.3"}));
    let told = later.update(&[&b, &thief], false, range(), &none).unwrap();
    assert!(address(&later, "b") != address(&later, "thief"), "{told:?}");
    later.update(&[&b], true, range(), &none).unwrap();
    assert_eq!(address(&later, "a"), None);
}

#[test]
fn addresses_are_of_the_families_that_are_asked_for() {
    let (_dir, mut grants) = grants();
    let of = |name: &str, spec: serde_json::Value| {
        let mut spec = spec;
        spec["ports"] = serde_json::json!([{"port": 80}]);
        service(name, spec)
    };
    let both = of("both", serde_json::json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}));
    let six = of("six", serde_json::json!({"clusterIP": "fd96::7"}));
    let none = BTreeSet::new();
    assert_eq!(grants.update(&[&both, &six], true, range(), &none).unwrap(), []);
    let addresses = |grants: &Grants, s: &Service| {
        let all = grants.of(&key(s)).addresses(&families(s, true).unwrap());
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&grants, &both), ["fd96::1", "10.96.7.1"]);
    assert_eq!(addresses(&grants, &six), ["fd96::7"]);
    // As long as it is asked for it stays; then it is free again.
    let one = of("both", serde_json::json!({}));
    grants.update(&[&one, &six], true, range(), &none).unwrap();
    assert_eq!(addresses(&grants, &one), ["10.96.7.1"]);
    assert_eq!(grants.of("default/both").v6, None);
    let without = Range { v6: None, ..range() };
    let told = grants.update(&[&both], true, without, &none).unwrap();
    assert!(told[0].1.contains("spec.ipFamilyPolicy: asks for IPv6"), "{told:?}");
}

#[test]
fn node_ports_are_as_asked_or_free() {
    let (_dir, mut grants) = grants();
    let asked = service("asked", serde_json::json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}));
    let any = service("any", serde_json::json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}]}));
    let clash = service("clash", serde_json::json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}));
    let taken = BTreeSet::from([(Protocol::Tcp, 30000)]);
    grants.update(&[&asked], true, range(), &taken).unwrap();
    let told = grants.update(&[&asked, &any, &clash], true, range(), &taken).unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("spec.ports[0].nodePort"), "{told:?}");
    let any: Vec<u16> = grants.of("default/any").node_ports.into_values().collect();
    assert_eq!(any, [30002, 30003]);
}

#[test]
fn variables_are_named_as_programs_look_for_them() {
    let spec = serde_json::json!({"ports": [
        {"name": "p-1", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9}
    ]});
    let made = |address: &str| variables(&service("my-service", spec.clone()), address.parse().unwrap());
    let expected = [
        ("MY_SERVICE_SERVICE_HOST", "1.2.3.4"),
        ("MY_SERVICE_SERVICE_PORT", "8080"),
        ("MY_SERVICE_PORT", "tcp://1.2.3.4:8080"),
        ("MY_SERVICE_SERVICE_PORT_P_1", "8080"),
        ("MY_SERVICE_PORT_8080_TCP", "tcp://1.2.3.4:8080"),
        ("MY_SERVICE_PORT_8080_TCP_PROTO", "tcp"),
        ("MY_SERVICE_PORT_8080_TCP_PORT", "8080"),
        ("MY_SERVICE_PORT_8080_TCP_ADDR", "1.2.3.4"),
        ("MY_SERVICE_SERVICE_PORT_DNS", "53"),
        ("MY_SERVICE_PORT_53_UDP", "udp://1.2.3.4:53"),
        ("MY_SERVICE_PORT_53_UDP_PROTO", "udp"),
        ("MY_SERVICE_PORT_53_UDP_PORT", "53"),
        ("MY_SERVICE_PORT_53_UDP_ADDR", "1.2.3.4"),
        ("MY_SERVICE_PORT_9_TCP", "tcp://1.2.3.4:9"),
        ("MY_SERVICE_PORT_9_TCP_PROTO", "tcp"),
        ("MY_SERVICE_PORT_9_TCP_PORT", "9"),
        ("MY_SERVICE_PORT_9_TCP_ADDR", "1.2.3.4"),
    ];
    assert_eq!(made("1.2.3.4"), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(made("fd00::1")[2].1, "tcp://[fd00::1]:8080");
    assert_eq!(made("fd00::1")[0].1, "fd00::1");
}
