//! What a registry may send (reliability row R7), and that nothing else is stored.

use super::fixtures::{Pack, descriptor, index, layer, pack, tar};
use super::*;
use crate::image::{Reason, Retry};
use crate::oci::Digest;
use crate::oci::media_type::{DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// Pulls `made` and gives the error, having checked that nothing stays.
async fn refused(registry: &TestRegistry) -> Error {
    let node = Node::new();
    let error = node.pull(&registry.name("a/b:1")).await.unwrap_err();
    node.settled().await;
    assert!(node.store().layers().is_empty() && node.store().images().is_empty());
    node.images.release_stale(|_| false).unwrap();
    assert_eq!(node.leftovers(), (0, 0));
    error
}

#[tokio::test]
async fn all_kinds_of_layers_are_pulled() {
    let registry = TestRegistry::start().await;
    let made = Made::of([Pack::Plain, Pack::Gzip, Pack::Zstd].map(|p| layer(&format!("d/{p:?}"), 3000, p)).to_vec());
    registry.publish("a/b", "1", &made);
    let node = Node::new();
    let pulled = node.pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 3);
    assert_eq!(pulled.image.manifest, made.digest());
    assert!(pulled.layers.iter().all(|l| !l.reused));
    assert_eq!(node.leftovers(), (0, 0));
    assert_eq!(node.metric("lamina_image_pulls_total{reason=\"\",result=\"pulled\"}"), Some(1.0));
    let bytes = made.layers.iter().map(|l| l.bytes.len()).sum::<usize>();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand bytes")]
    let bytes = bytes as f64;
    assert_eq!(node.metric("lamina_image_pull_bytes_total{kind=\"fetched\"}"), Some(bytes));

    let again = node.pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!((again.fetched_bytes, again.asked), (0, true));
    assert_eq!(node.metric("lamina_image_pull_bytes_total{kind=\"reused\"}"), Some(bytes));
}

#[tokio::test]
async fn a_docker_image_is_pulled() {
    let registry = TestRegistry::start().await;
    let mut made = Made::small("f");
    let layer = made.layers.first().unwrap();
    let parts = (descriptor(DOCKER_CONFIG, &made.config), descriptor(DOCKER_LAYER_GZIP, &layer.bytes));
    made.manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{}]}}"#, parts.0, parts.1)
            .into_bytes();
    registry.publish("a/b", "1", &made);
    registry.manifest("a/b", "1", DOCKER_MANIFEST, &made.manifest);
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn the_image_for_this_machine_is_taken_from_an_index() {
    let registry = TestRegistry::start().await;
    let (mine, other) = (Made::small("mine"), Made::small("other"));
    registry.publish("a/b", "mine", &mine);
    let index = index(&[("s390x", &other), (&fixtures::arch(), &mine)]);
    registry.manifest("a/b", "1", OCI_INDEX, &index);
    let node = Node::new();
    let pulled = node.pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(pulled.image.manifest, mine.digest());
    assert_eq!(pulled.image.top, Digest::sha256_of(&index));
    let by_digest = registry.name(&format!("a/b@{}", pulled.image.top));
    let again = node.pod(&by_digest, PullPolicy::IfNotPresent, Vec::new()).await.unwrap();
    assert_eq!((again.image.manifest, again.asked), (mine.digest(), false));
}

#[tokio::test]
async fn an_index_without_this_machine_is_refused_by_name() {
    let registry = TestRegistry::start().await;
    registry.manifest("a/b", "1", OCI_INDEX, &index(&[("s390x", &Made::small("x"))]));
    let error = refused(&registry).await;
    assert!(chain(&error).contains("linux/s390x"), "{}", chain(&error));
    assert_eq!(error.class(), Retry::Never);
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused() {
    let registry = TestRegistry::start().await;
    let config = br#"{"architecture":"s390x","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#.to_vec();
    registry.publish("a/b", "1", &Made::with_config(Vec::new(), config));
    assert!(chain(&refused(&registry).await).contains("s390x"));
}

#[tokio::test]
async fn a_manifest_of_five_megabytes_is_refused_without_reading_it() {
    let registry = TestRegistry::start().await;
    let mut bytes = Made::small("f").manifest;
    bytes.resize(5 << 20, b' ');
    registry.manifest("a/b", "1", OCI_MANIFEST, &bytes);
    let error = refused(&registry).await;
    assert!(chain(&error).contains("more than"), "{}", chain(&error));
}

#[tokio::test]
async fn a_config_of_a_gigabyte_is_refused_by_its_descriptor() {
    let registry = TestRegistry::start().await;
    let made = Made::small("f");
    let size = format!("\"size\":{}}},\"layers\"", made.config.len());
    let text = String::from_utf8(made.manifest.clone()).unwrap();
    let lied = text.replace(&size, "\"size\":1073741824},\"layers\"");
    assert_ne!(lied, text);
    registry.publish("a/b", "1", &made);
    registry.manifest("a/b", "1", OCI_MANIFEST, lied.as_bytes());
    assert_eq!(refused(&registry).await.reason(), Reason::Unpack);
    assert!(registry.seen().iter().all(|s| !s.is_blob()));
}

#[tokio::test]
async fn documents_that_are_not_what_their_digest_names_are_refused() {
    let registry = TestRegistry::start().await;
    let made = Made::small("f");
    registry.publish("a/b", "1", &made);
    let wrong = Made::small("g");
    let config = Digest::sha256_of(&made.config);
    registry.blob_as(&config, &wrong.config);
    let error = refused(&registry).await;
    assert_eq!(error.reason(), Reason::Digest, "{}", chain(&error));

    let digest = made.digest();
    let manifest = wrong.manifest.clone();
    registry.hook(move |seen| {
        if seen.path.ends_with(digest.hex()) { Reply::With(200, vec![], manifest.clone()) } else { Reply::Normal }
    });
    let error = Node::new().pull(&registry.name(&format!("a/b@{}", made.digest()))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Digest, "{}", chain(&error));
}

#[tokio::test]
async fn layers_that_are_not_what_was_named_are_never_committed() {
    let made = Made::of(vec![layer("f", 9000, Pack::Gzip)]);
    let real = made.layers.first().unwrap();
    let mut flipped = real.bytes.clone();
    flipped[4000] ^= 1;
    let mut longer = real.bytes.clone();
    longer.extend_from_slice(b"junk");
    for (what, bytes) in [("flipped", flipped), ("longer", longer), ("shorter", real.bytes[..8000].to_vec())] {
        let registry = TestRegistry::start().await;
        registry.publish("a/b", "1", &made);
        registry.blob_as(&real.digest(), &bytes);
        let error = refused(&registry).await;
        assert!(matches!(error.reason(), Reason::Digest | Reason::Unpack | Reason::Other), "{what}: {}", chain(&error));
    }
}

#[tokio::test]
async fn a_layer_that_is_not_the_configs_is_refused() {
    let registry = TestRegistry::start().await;
    let (right, wrong) = (Made::small("f"), layer("g", 1000, Pack::Gzip));
    registry.publish("a/b", "1", &Made::with_config(vec![wrong], right.config));
    let error = refused(&registry).await;
    assert_eq!(error.reason(), Reason::Digest, "{}", chain(&error));
}

#[tokio::test]
async fn more_layers_in_the_manifest_than_in_the_config_are_refused() {
    let registry = TestRegistry::start().await;
    let made = Made::small("f");
    let twice = vec![made.layers[0].clone(), made.layers[0].clone()];
    registry.publish("a/b", "1", &Made::with_config(twice, made.config));
    assert_eq!(refused(&registry).await.reason(), Reason::Unpack);
}

#[tokio::test]
async fn the_same_layer_twice_in_one_image_is_fetched_once() {
    let registry = TestRegistry::start().await;
    let one = layer("f", 1000, Pack::Gzip);
    let made = Made::of(vec![one.clone(), one.clone()]);
    registry.publish("a/b", "1", &made);
    let pulled = Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(pulled.layers.len(), 2);
    assert_eq!(registry.blob_requests(&one.digest()), 1);
}

#[tokio::test]
async fn a_layer_that_needs_those_below_waits_for_them() {
    let registry = TestRegistry::start().await;
    let base = pack(&tar(&[("usr/lib/a", b"1")], true), Pack::Gzip);
    // No entry for usr/: it is unpacked over what lies below.
    let upper = pack(&tar(&[("usr/lib/b", b"2")], false), Pack::Gzip);
    let made = Made::of(vec![base.clone(), upper]);
    registry.publish("a/b", "1", &made);
    let slow = base.digest().to_string();
    registry.hook(
        move |seen| {
            if seen.path.ends_with(&slow) { Reply::Slow(64, Duration::from_millis(20)) } else { Reply::Normal }
        },
    );
    let pulled = Node::of(RegistryConfig::empty(), timing(), 1).pull(&registry.name("a/b:1")).await.unwrap();
    assert!(pulled.layers[1].key.to_string().starts_with("chain-"), "{:?}", pulled.layers);
}
