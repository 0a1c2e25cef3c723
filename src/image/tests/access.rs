//! Who may use what is here, and when the registry is asked (pods.md, `imagePullSecrets`; rows R9 and S5).

use super::*;
use crate::image::{Reason, Retry};

/// A registry that wants `me`'s password for everything.
async fn private() -> TestRegistry {
    use base64::Engine as _;
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let want = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("me:pw"));
    registry.hook(move |seen| {
        if seen.authorization() == Some(&want) {
            Reply::Normal
        } else {
            Reply::header(401, "www-authenticate", "Basic realm=\"r\"")
        }
    });
    registry
}

#[tokio::test]
async fn a_cached_private_image_is_not_for_a_pod_without_its_secret() {
    let registry = private().await;
    let (node, name, host) = (Node::new(), registry.name("a/b:1"), registry.addr.to_string());
    let right = || vec![secret(&host, "me", "pw")];
    node.pod(&name, PullPolicy::IfNotPresent, right()).await.unwrap();

    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let error = node.pod(&name, policy, Vec::new()).await.unwrap_err();
        assert!(matches!(error, Error::NotYours { .. }), "{policy:?}: {}", chain(&error));
        assert_eq!(error.reason(), Reason::Auth);
    }
    let wrong = vec![secret(&host, "me", "wrong")];
    assert!(node.pod(&name, PullPolicy::IfNotPresent, wrong).await.is_err());

    registry.clear();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert!(!node.pod(&name, policy, right()).await.unwrap().asked);
    }
    assert!(registry.seen().is_empty(), "who proved it once is not asked again");
}

#[tokio::test]
async fn a_pod_that_can_prove_access_anew_gets_the_cached_image() {
    let registry = private().await;
    let (node, name, host) = (Node::new(), registry.name("a/b:1"), registry.addr.to_string());
    node.pod(&name, PullPolicy::IfNotPresent, vec![secret(&host, "me", "pw")]).await.unwrap();
    // The registry opens itself: another pod may now have it, by asking.
    registry.hook(|_| Reply::Normal);
    let pulled = node.pod(&name, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
    assert!(pulled.asked && pulled.fetched_bytes == 0);
    let again = node.pod(&name, PullPolicy::Never, Vec::new()).await.unwrap();
    assert!(!again.asked);
}

#[tokio::test]
async fn a_public_image_is_for_all_and_a_person_may_use_any() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let (node, name) = (Node::new(), registry.name("a/b:1"));
    node.pull(&name).await.unwrap();
    drop(registry);
    assert!(!node.pod(&name, PullPolicy::IfNotPresent, Vec::new()).await.unwrap().asked);
    assert_eq!(node.metric("lamina_image_pulls_total{reason=\"\",result=\"present\"}"), Some(1.0));

    let registry = private().await;
    let (name, host) = (registry.name("a/b:1"), registry.addr.to_string());
    node.pod(&name, PullPolicy::IfNotPresent, vec![secret(&host, "me", "pw")]).await.unwrap();
    let mut asked = request(&name, PullPolicy::IfNotPresent);
    asked.by = TagOrigin::Person;
    assert!(!node.images.pull(asked).await.unwrap().asked);
}

#[tokio::test]
async fn the_registry_may_be_down_when_the_image_is_here_unless_it_must_be_asked() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let (node, name) = (Node::new(), registry.name("a/b:1"));
    node.pull(&name).await.unwrap();
    drop(registry);
    node.pod(&name, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
    let error = node.pod(&name, PullPolicy::Always, Vec::new()).await.unwrap_err();
    assert_eq!(error.class(), Retry::Backoff);
}

#[tokio::test]
async fn an_image_that_is_not_here_and_must_not_be_fetched_is_named() {
    let registry = TestRegistry::start().await;
    let error = Node::new().pod(&registry.name("a/b:1"), PullPolicy::Never, Vec::new()).await.unwrap_err();
    assert!(matches!(error, Error::NotPresent { .. }) && error.class() == Retry::OnChange);
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_tag_that_moved_is_followed_only_when_asked_for() {
    let registry = TestRegistry::start().await;
    let (old, new) = (Made::small("old"), Made::small("new"));
    registry.publish("a/b", "1", &old);
    let (node, name) = (Node::new(), registry.name("a/b:1"));
    node.pull(&name).await.unwrap();
    registry.publish("a/b", "1", &new);
    let kept = node.pod(&name, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
    assert_eq!(kept.image.manifest, old.digest());
    let moved = node.pod(&name, PullPolicy::Always, Vec::new()).await.unwrap();
    assert_eq!(moved.image.manifest, new.digest());
    let held = node.store().refs().into_iter().find(|r| r.kind == RefKind::Pod).unwrap().held.manifests;
    assert_eq!(held.len(), 2, "the pod's ref is its owner's to make smaller");
}

#[tokio::test]
async fn a_damaged_layer_is_fetched_again() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let (node, name) = (Node::new(), registry.name("a/b:1"));
    let pulled = node.pull(&name).await.unwrap();
    node.store().mark_damaged(&pulled.layers[0].key, "on purpose").unwrap();
    let again = node.pod(&name, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
    assert!(again.asked && again.fetched_bytes > 0);
    assert!(node.store().layer(&pulled.layers[0].key).is_ok());
}
