//! Where a registry may send us, and what goes along (reliability rows R5 and R6).

use super::*;
use crate::image::Reason;

/// A registry with a password, whose blobs lie elsewhere.
async fn split(elsewhere: String) -> (TestRegistry, String) {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    registry.hook(move |seen| {
        if seen.authorization().is_none() {
            Reply::header(401, "www-authenticate", "Basic realm=\"r\"")
        } else if seen.is_blob() {
            Reply::header(307, "location", format!("{elsewhere}{}?signature=canary", seen.path))
        } else {
            Reply::Normal
        }
    });
    let text = format!("registries: {{'{}': {{username: me, password: pw}}}}", registry.addr);
    (registry, text)
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let storage = TestRegistry::start().await;
    storage.publish("a/b", "1", &Made::small("f"));
    let (registry, text) = split(format!("http://{}", storage.addr)).await;
    Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap();
    let seen = storage.seen();
    assert!(!seen.is_empty() && seen.iter().all(|s| s.authorization().is_none()), "{seen:?}");
    assert!(seen.iter().all(|s| s.query.contains("signature=canary")));
}

#[tokio::test]
async fn credentials_follow_a_redirect_within_the_registry() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    registry.hook(|seen| {
        if seen.authorization().is_none() {
            Reply::header(401, "www-authenticate", "Basic realm=\"r\"")
        } else if seen.is_blob() && seen.query.is_empty() {
            Reply::header(302, "location", format!("{}?here", seen.path))
        } else {
            Reply::Normal
        }
    });
    let text = format!("registries: {{'{}': {{username: me, password: pw}}}}", registry.addr);
    Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn a_challenge_from_where_a_redirect_led_is_not_answered() {
    let thief = TestRegistry::start().await;
    thief.hook(|_| Reply::header(401, "www-authenticate", "Basic realm=\"r\""));
    let (registry, text) = split(format!("http://{}", thief.addr)).await;
    let error = Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap_err();
    assert!(thief.seen().iter().all(|s| s.authorization().is_none()));
    assert!(!chain(&error).contains("canary"), "a signed address is shown: {}", chain(&error));
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let registry = TestRegistry::start().await;
    registry.hook(|seen| Reply::header(301, "location", seen.path.clone()));
    let error = Node::new().pull(&registry.name("a/b:1")).await.unwrap_err();
    assert!(chain(&error).contains("more than 10 redirects"), "{}", chain(&error));
    assert_eq!(registry.seen().len(), 11);
}

#[tokio::test]
async fn a_redirect_to_the_clouds_metadata_is_not_followed() {
    for target in ["http://169.254.169.254/latest", "http://[fe80::1]/", "http://[::ffff:169.254.169.254]/"] {
        let registry = TestRegistry::start().await;
        registry.hook(move |_| Reply::header(302, "location", target));
        let error = Node::new().pull(&registry.name("a/b:1")).await.unwrap_err();
        assert!(chain(&error).contains("closer to this node"), "{target}: {}", chain(&error));
        assert_eq!(error.reason(), Reason::Other);
        assert_eq!(registry.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_refused() {
    for target in ["file:///etc/shadow", "ftp://x/", "http://", ""] {
        let registry = TestRegistry::start().await;
        registry.hook(
            move |_| {
                if target.is_empty() { Reply::status(302) } else { Reply::header(302, "location", target) }
            },
        );
        assert!(Node::new().pull(&registry.name("a/b:1")).await.is_err());
        assert_eq!(registry.seen().len(), 1, "{target}");
    }
}
