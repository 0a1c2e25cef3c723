//! Mirrors: asked first, trusted with nothing that is not theirs.

use super::fixtures::{Pack, layer};
use super::*;

fn mirrored(name: &str, mirrors: &[&TestRegistry], more: &str) -> String {
    let urls: Vec<_> = mirrors.iter().map(|m| format!("'http://{}'", m.addr)).collect();
    format!("registries: {{'{name}': {{mirrors: [{}]{more}}}}}", urls.join(","))
}

#[tokio::test]
async fn a_mirror_serves_and_the_registry_is_not_asked() {
    let (mirror, registry) = (TestRegistry::start().await, TestRegistry::start().await);
    mirror.publish("a/b", "1", &Made::small("f"));
    let node = Node::configured(&mirrored(&registry.addr.to_string(), &[&mirror], ""));
    node.pull(&registry.name("a/b:1")).await.unwrap();
    assert!(registry.seen().is_empty());
    assert!(mirror.seen().iter().all(|s| s.query.starts_with("ns=127.0.0.1")));
}

#[tokio::test]
async fn what_a_mirror_does_not_have_comes_from_the_next_and_at_last_from_the_registry() {
    let [dead, empty, registry] =
        [TestRegistry::start().await, TestRegistry::start().await, TestRegistry::start().await];
    registry.publish("a/b", "1", &Made::small("f"));
    let text = mirrored(&registry.addr.to_string(), &[&dead, &empty], "");
    drop(dead);
    Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap();
    assert!(!empty.seen().is_empty());
}

#[tokio::test]
async fn without_fallback_the_registry_is_never_asked() {
    let (mirror, registry) = (TestRegistry::start().await, TestRegistry::start().await);
    registry.publish("a/b", "1", &Made::small("f"));
    let node = Node::configured(&mirrored(&registry.addr.to_string(), &[&mirror], ", fallback: false"));
    assert!(node.pull(&registry.name("a/b:1")).await.is_err());
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_layer_that_breaks_at_the_mirror_goes_on_at_the_registry() {
    let (mirror, registry) = (TestRegistry::start().await, TestRegistry::start().await);
    let made = Made::of(vec![layer("f", 200_000, Pack::Gzip)]);
    mirror.publish("a/b", "1", &made);
    registry.publish("a/b", "1", &made);
    let big = made.layers[0].digest().to_string();
    mirror.hook(move |seen| match seen.path.ends_with(&big) {
        true if seen.range().is_none() => Reply::Cut(50_000),
        true => Reply::status(500),
        false => Reply::Normal,
    });
    let node = Node::configured(&mirrored(&registry.addr.to_string(), &[&mirror], ""));
    node.pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(registry.seen().iter().filter_map(registry::Seen::range).collect::<Vec<_>>(), [50_000]);
}

#[tokio::test]
async fn a_mirror_gets_neither_the_registrys_nor_the_pods_credentials() {
    let (mirror, registry) = (TestRegistry::at("127.0.0.3:0", None).await, TestRegistry::start().await);
    registry.publish("a/b", "1", &Made::small("f"));
    for one in [&mirror, &registry] {
        one.hook(|seen| match seen.authorization() {
            Some(_) => Reply::Normal,
            None => Reply::header(401, "www-authenticate", "Basic realm=\"r\""),
        });
    }
    let host = registry.addr.to_string();
    let text = mirrored(&host, &[&mirror], ", username: me, password: pw");
    let node = Node::configured(&text);
    node.pod(&registry.name("a/b:1"), PullPolicy::Always, vec![secret(&host, "pod", "pw")]).await.unwrap();
    assert!(!mirror.seen().is_empty() && mirror.seen().iter().all(|s| s.authorization().is_none()));
}

#[tokio::test]
async fn a_mirror_with_a_path_has_it_before_the_repository() {
    let (mirror, registry) = (TestRegistry::start().await, TestRegistry::start().await);
    mirror.publish("proxy/hub/a/b", "1", &Made::small("f"));
    let text = format!(
        "registries: {{'{}': {{mirrors: ['http://{}/proxy/hub/'], fallback: false}}}}",
        registry.addr, mirror.addr
    );
    Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap();
}
