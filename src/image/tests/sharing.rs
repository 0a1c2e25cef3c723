//! Many pulls at once: one fetch a layer, and no pull's end is another's (reliability row U4).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fixtures::{Pack, layer};
use super::*;
use crate::image::Progress;

/// An image over a shared base.
fn over(base: &fixtures::Packed, name: &str) -> Made {
    Made::of(vec![base.clone(), layer(name, 2000, Pack::Gzip)])
}

#[tokio::test]
async fn fifty_pulls_of_images_that_share_layers_fetch_each_layer_once() {
    let registry = TestRegistry::start().await;
    let base = layer("base", 200_000, Pack::Gzip);
    for i in 0..5 {
        registry.publish(&format!("app/{i}"), "1", &over(&base, &format!("top{i}")));
    }
    registry.hook(|seen| if seen.is_blob() { Reply::Slow(20_000, Duration::from_millis(3)) } else { Reply::Normal });
    let node = Arc::new(Node::new());
    let pulls: Vec<_> = (0..50)
        .map(|i| {
            let (node, name) = (Arc::clone(&node), registry.name(&format!("app/{}:1", i % 5)));
            tokio::spawn(async move { node.pull(&name).await })
        })
        .collect();
    // One of them is given up at once.
    pulls[7].abort();
    let mut done = 0;
    for pull in pulls {
        if let Ok(result) = pull.await {
            result.unwrap();
            done += 1;
        }
    }
    assert!(done >= 49);
    assert_eq!(registry.blob_requests(&base.digest()), 1);
    assert_eq!(node.store().layers().len(), 6);
    node.settled().await;
    assert_eq!(node.leftovers(), (0, 0));
}

#[tokio::test]
async fn a_fetch_goes_on_when_the_pull_that_began_it_is_given_up() {
    let registry = TestRegistry::start().await;
    let base = layer("base", 100_000, Pack::Gzip);
    registry.publish("a", "1", &over(&base, "x"));
    registry.publish("b", "1", &over(&base, "y"));
    let slow = base.digest().to_string();
    registry.hook(move |seen| {
        if seen.path.ends_with(&slow) { Reply::Slow(5000, Duration::from_millis(20)) } else { Reply::Normal }
    });
    let node = Arc::new(Node::new());
    let start = |name: &str| {
        let (node, name) = (Arc::clone(&node), registry.name(name));
        tokio::spawn(async move { node.pull(&name).await })
    };
    let first = start("a:1");
    while registry.blob_requests(&base.digest()) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let second = start("b:1");
    while !registry.seen().iter().any(|s| s.path.starts_with("/v2/b/blobs/")) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // The second has its documents; let it come to wait for the base.
    tokio::time::sleep(Duration::from_millis(60)).await;
    first.abort();
    let pulled = second.await.unwrap().unwrap();
    assert!(pulled.fetched_bytes >= base.bytes.len() as u64);
    assert_eq!(registry.blob_requests(&base.digest()), 1);
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_ends_and_leaves_nothing() {
    let registry = TestRegistry::start().await;
    let made = Made::of(vec![layer("base", 500_000, Pack::Gzip)]);
    registry.publish("a", "1", &made);
    registry.hook(|seen| if seen.is_blob() { Reply::Slow(10_000, Duration::from_millis(20)) } else { Reply::Normal });
    let node = Arc::new(Node::new());
    let (running, name) = (Arc::clone(&node), registry.name("a:1"));
    let pull = tokio::spawn(async move { running.pull(&name).await });
    while node.leftovers().1 == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    pull.abort();
    node.settled().await;
    assert!(node.store().layers().is_empty());
    assert_eq!(node.metric("lamina_image_pulls_total{reason=\"cancelled\",result=\"failed\"}"), Some(1.0));
}

#[tokio::test]
async fn no_more_layers_than_asked_for_are_fetched_at_once() {
    let registry = TestRegistry::start().await;
    let made = Made::of((0..6).map(|i| layer(&format!("f{i}"), 60_000, Pack::Gzip)).collect());
    registry.publish("a", "1", &made);
    registry.hook(|seen| if seen.is_blob() { Reply::Slow(20_000, Duration::from_millis(10)) } else { Reply::Normal });
    Node::of(RegistryConfig::empty(), timing(), 2).pull(&registry.name("a:1")).await.unwrap();
    // What the server has sent may still be read while the next is asked for.
    assert!(registry.most_open() <= 3, "{}", registry.most_open());
}

#[tokio::test]
async fn a_failure_with_one_source_is_not_the_failure_of_another() {
    let (bad, good) = (TestRegistry::start().await, TestRegistry::start().await);
    let made = Made::of(vec![layer("base", 50_000, Pack::Gzip)]);
    bad.publish("a", "1", &made);
    good.publish("a", "1", &made);
    let digest = made.layers[0].digest();
    let big = digest.to_string();
    bad.hook(move |seen| if seen.path.ends_with(&big) { Reply::Stall(100) } else { Reply::Normal });
    let node = Arc::new(Node::with("", Timing { idle: Duration::from_millis(400), attempts: 1, ..timing() }));
    let (running, name) = (Arc::clone(&node), bad.name("a:1"));
    let first = tokio::spawn(async move { running.pull(&name).await });
    while bad.blob_requests(&digest) == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    node.pull(&good.name("a:1")).await.unwrap();
    // The first may have been saved by the second's layer, or failed; either is its own affair.
    let _ = first.await.unwrap();
}

#[tokio::test]
async fn progress_tells_each_layer_from_plan_to_stored() {
    let registry = TestRegistry::start().await;
    let base = layer("base", 3 << 20, Pack::Gzip);
    registry.publish("a", "1", &over(&base, "x"));
    registry.publish("b", "1", &over(&base, "y"));
    let node = Node::new();
    node.pull(&registry.name("a:1")).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut asked = request(&registry.name("b:1"), PullPolicy::Always);
    asked.progress = Some(tell);
    let pulled = node.images.pull(asked).await.unwrap();
    let mut stored = BTreeSet::new();
    let Some(Progress::Resolved { layers, .. }) = told.recv().await else { panic!("no plan first") };
    assert_eq!(layers.iter().map(|l| l.present).collect::<Vec<_>>(), [true, false]);
    while let Some(next) = told.recv().await {
        if let Progress::Stored { diff_id, .. } = next {
            stored.insert(diff_id);
        }
    }
    assert_eq!(stored.len(), 2);
    assert_eq!(pulled.reused_bytes, base.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_given_up_holds_nothing_once_it_has_settled() {
    let registry = TestRegistry::start().await;
    let base = layer("base", 2000, Pack::Gzip);
    for i in 0..60 {
        registry.publish(&format!("app/{i}"), "1", &over(&base, &format!("top{i}")));
    }
    let node = Arc::new(Node::new());
    for i in 0..60_u64 {
        let (other, name) = (Arc::clone(&node), registry.name(&format!("app/{i}:1")));
        let pull = tokio::spawn(async move { other.pull(&name).await });
        tokio::time::sleep(Duration::from_micros(i * 500)).await;
        pull.abort();
        // Ended, one way or the other.
        let _ = pull.await;
        node.images.settled().await;
        node.store().release(RefKind::Pod, "uid-1").unwrap();
        node.images.release_stale(|_| false).unwrap();
        let refs = node.store().refs();
        assert!(refs.is_empty(), "given up after {i} half milliseconds: {refs:?}");
    }
}
