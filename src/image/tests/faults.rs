//! What breaks on the way, and how a pull goes on (reliability rows R1 to R4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fixtures::{Pack, layer};
use super::*;
use crate::image::{Reason, Retry};
use crate::oci::Digest;

/// An image of one large layer, and that layer's digest.
fn large(len: usize) -> (Made, Digest) {
    let made = Made::of(vec![layer("big", len, Pack::Gzip)]);
    let digest = made.layers.first().unwrap().digest();
    (made, digest)
}

/// Runs `reply` on the first `times` requests for blob `digest`, and lets the others through.
fn first(registry: &TestRegistry, digest: &Digest, times: usize, reply: Reply) {
    let end = digest.to_string();
    let count = AtomicUsize::new(0);
    registry.hook(move |seen| {
        if seen.path.ends_with(&end) && count.fetch_add(1, Ordering::SeqCst) < times {
            reply.clone()
        } else {
            Reply::Normal
        }
    });
}

#[tokio::test]
async fn a_body_that_is_cut_is_resumed_where_it_broke() {
    let registry = TestRegistry::start().await;
    let (made, digest) = large(300_000);
    registry.publish("a/b", "1", &made);
    first(&registry, &digest, 2, Reply::Cut(100_000));
    let pulled = Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    let ranges: Vec<_> =
        registry.seen().iter().filter(|s| s.path.ends_with(digest.hex())).map(registry::Seen::range).collect();
    assert_eq!(ranges, [None, Some(100_000), Some(200_000)]);
    assert_eq!(pulled.fetched_bytes, made.layers.first().unwrap().bytes.len() as u64);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_and_what_is_here_is_dropped() {
    let registry = TestRegistry::start().await;
    let (made, digest) = large(300_000);
    registry.publish("a/b", "1", &made);
    let end = digest.to_string();
    let count = AtomicUsize::new(0);
    registry.hook(move |seen| match seen.path.ends_with(&end).then(|| count.fetch_add(1, Ordering::SeqCst)) {
        Some(0) => Reply::Cut(70_000),
        Some(_) => Reply::Whole,
        None => Reply::Normal,
    });
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn a_body_that_always_breaks_ends_after_a_bounded_number_of_attempts() {
    let registry = TestRegistry::start().await;
    let (made, digest) = large(100_000);
    registry.publish("a/b", "1", &made);
    first(&registry, &digest, usize::MAX, Reply::Cut(10));
    let node = Node::new();
    let error = node.pull(&registry.name("a/b:1")).await.unwrap_err();
    assert_eq!((error.reason(), error.class()), (Reason::Connect, Retry::Backoff), "{}", chain(&error));
    assert_eq!(registry.blob_requests(&digest), 5);
    node.settled().await;
    assert!(node.store().layers().is_empty());
}

#[tokio::test]
async fn progress_earns_new_attempts() {
    let registry = TestRegistry::start().await;
    let (made, digest) = large(12 << 20);
    registry.publish("a/b", "1", &made);
    // Breaks every 1.25 MiB: more often than one place is asked without progress.
    first(&registry, &digest, usize::MAX, Reply::Cut((1 << 20) + (1 << 18)));
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    assert!(registry.blob_requests(&digest) > 8);
}

#[tokio::test]
async fn a_stalled_body_times_out_and_is_resumed() {
    let registry = TestRegistry::start().await;
    let (made, digest) = large(200_000);
    registry.publish("a/b", "1", &made);
    first(&registry, &digest, 1, Reply::Stall(50_000));
    let node = Node::with("", Timing { idle: Duration::from_millis(300), ..timing() });
    node.pull(&registry.name("a/b:1")).await.unwrap();
    assert!(registry.seen().iter().any(|s| s.range() == Some(50_000)));
}

#[tokio::test]
async fn a_body_of_a_byte_now_and_then_counts_as_stalled() {
    let registry = TestRegistry::start().await;
    let (made, digest) = large(200_000);
    registry.publish("a/b", "1", &made);
    first(&registry, &digest, usize::MAX, Reply::Drip(Duration::from_millis(10)));
    let slow_window = Duration::from_millis(200);
    let node = Node::with("", Timing { slow_window, slow_bytes: 1000, ..timing() });
    let error = node.pull(&registry.name("a/b:1")).await.unwrap_err();
    assert!(chain(&error).contains("next to no data"), "{}", chain(&error));
}

#[tokio::test]
async fn passing_errors_are_tried_again_and_lasting_ones_are_not() {
    for (status, attempts) in [(500, 5), (502, 5), (503, 5), (429, 5), (408, 5), (400, 1), (404, 1), (403, 1), (501, 1)]
    {
        let registry = TestRegistry::start().await;
        registry.hook(move |_| Reply::status(status));
        let error = Node::new().pull(&registry.name("a/b:1")).await.unwrap_err();
        assert_eq!(registry.seen().len(), attempts, "{status}: {}", chain(&error));
        let reason = match status {
            403 => Reason::Auth,
            404 => Reason::NotFound,
            429 => Reason::RateLimited,
            _ => Reason::Other,
        };
        assert_eq!(error.reason(), reason, "{status}");
    }
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let count = AtomicUsize::new(0);
    registry.hook(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::header(429, "retry-after", "1"),
        _ => Reply::Normal,
    });
    let began = Instant::now();
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_long_retry_after_is_handed_on_and_the_host_is_left_alone() {
    let registry = TestRegistry::start().await;
    registry.hook(|_| Reply::header(429, "retry-after", "99999999"));
    let node = Node::new();
    let name = registry.name("a/b:1");
    let error = node.pull(&name).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_mins(10)));
    assert_eq!(registry.seen().len(), 1);
    let error = node.pull(&registry.name("c/d:1")).await.unwrap_err();
    assert_eq!((error.reason(), registry.seen().len()), (Reason::RateLimited, 1));
    assert!(error.retry_after().is_some_and(|left| left > Duration::from_mins(9)));
}

#[tokio::test]
async fn a_registry_that_is_down_is_a_passing_error() {
    let node = Node::new();
    let error = node.pull("127.0.0.1:1/a/b:1").await.unwrap_err();
    assert_eq!((error.reason(), error.class()), (Reason::Connect, Retry::Backoff));
    let error = node.pull("no-such-host.invalid/a/b:1").await.unwrap_err();
    assert_eq!(error.reason(), Reason::Dns, "{}", chain(&error));
    assert_eq!(node.metric("lamina_image_pulls_total{reason=\"dns\",result=\"failed\"}"), Some(1.0));
}

#[tokio::test]
async fn what_was_fetched_before_a_failure_is_not_fetched_again() {
    let registry = TestRegistry::start().await;
    let made = Made::of(vec![layer("a", 1000, Pack::Gzip), layer("b", 1000, Pack::Gzip)]);
    registry.publish("a/b", "1", &made);
    let [a, b] = [0, 1].map(|i| made.layers[i].digest());
    let end = b.to_string();
    registry.hook(move |seen| if seen.path.ends_with(&end) { Reply::status(404) } else { Reply::Normal });
    let node = Node::new();
    assert!(node.pull(&registry.name("a/b:1")).await.is_err());
    assert_eq!(node.leftovers().0, 1, "the pod's layers are held for its next attempt");
    // The fetch of the other layer may have been given up with the pull: let it in.
    registry.hook(|_| Reply::Normal);
    node.pull(&registry.name("a/b:1")).await.unwrap();
    assert!(registry.blob_requests(&a) <= 2 && node.leftovers().0 == 0);

    assert!(node.pull(&registry.name("a/b:2")).await.is_err());
    node.images.release_stale(|_| false).unwrap();
    assert_eq!(node.leftovers(), (0, 0));
}
