//! How a registry is convinced, and who gets credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;

use super::*;
use crate::image::Reason;

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// Makes a registry ask for a password.
fn wants_basic(registry: &TestRegistry, user: &str, password: &str) {
    let want = basic(user, password);
    registry.hook(move |seen| {
        if seen.authorization() == Some(&want) {
            Reply::Normal
        } else {
            Reply::header(401, "www-authenticate", "Basic realm=\"r\"")
        }
    });
}

/// Makes a registry ask for a token of `realm`; `tokens` are good.
fn wants_bearer(registry: &TestRegistry, realm: String, tokens: &'static [&'static str]) {
    registry.hook(move |seen| {
        if seen.authorization().and_then(|a| a.strip_prefix("Bearer ")).is_some_and(|t| tokens.contains(&t)) {
            return Reply::Normal;
        }
        let scope = "repository:a/b:pull";
        Reply::header(401, "www-authenticate", format!("Bearer realm=\"{realm}\",service=\"svc\",scope=\"{scope}\""))
    });
}

fn token(text: &str, seconds: u64) -> Reply {
    Reply::With(200, vec![], format!(r#"{{"token":"{text}","expires_in":{seconds}}}"#).into_bytes())
}

#[tokio::test]
async fn a_password_from_the_configuration_opens_a_registry_and_another_does_not() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    wants_basic(&registry, "me", "right");
    let host = registry.addr;
    let node = Node::configured(&format!("registries: {{'{host}': {{username: me, password: right}}}}"));
    node.pull(&registry.name("a/b:1")).await.unwrap();
    assert!(registry.seen().first().unwrap().authorization().is_none(), "credentials before they were asked for");

    let node = Node::configured(&format!("registries: {{'{host}': {{username: me, password: canary}}}}"));
    let error = node.pull(&registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Auth);
    let text = format!("{} {error:?}", chain(&error));
    assert!(text.contains("the node's credentials") && !text.contains("canary"), "{text}");
    assert!(!text.contains(&base64::engine::general_purpose::STANDARD.encode("me:canary")), "{text}");
}

#[tokio::test]
async fn a_password_that_was_not_given_is_asked_for_once() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    wants_basic(&registry, "me", "right");
    let error = Node::new().pull(&registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Auth);
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn one_anonymous_token_serves_a_whole_pull() {
    let registry = TestRegistry::start().await;
    let auth = TestRegistry::start().await;
    let made = Made::of((0..4).map(|i| fixtures::layer(&format!("f{i}"), 5000, fixtures::Pack::Gzip)).collect());
    registry.publish("a/b", "1", &made);
    wants_bearer(&registry, format!("http://{}/token", auth.addr), &["t1"]);
    auth.hook(|_| token("t1", 300));
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    let asked = auth.seen();
    assert_eq!(asked.len(), 1);
    let asked = asked.first().unwrap();
    assert!(asked.authorization().is_none());
    assert!(
        asked.query.contains("service=svc") && asked.query.contains("scope=repository%3Aa%2Fb%3Apull"),
        "{}",
        asked.query
    );
}

#[tokio::test]
async fn a_token_that_expires_in_mid_pull_is_renewed_once() {
    let registry = TestRegistry::start().await;
    let auth = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let realm = format!("http://{}/token", auth.addr);
    // The first token is good for one request.
    let uses = AtomicUsize::new(0);
    registry.hook(move |seen| match seen.authorization() {
        Some("Bearer t0") if uses.fetch_add(1, Ordering::SeqCst) == 0 => Reply::Normal,
        Some("Bearer t1") => Reply::Normal,
        _ => Reply::header(401, "www-authenticate", format!("Bearer realm=\"{realm}\"")),
    });
    let given = AtomicUsize::new(0);
    auth.hook(move |_| token(&format!("t{}", given.fetch_add(1, Ordering::SeqCst)), 300));
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(auth.seen().len(), 2);
}

#[tokio::test]
async fn a_registry_that_takes_no_token_is_not_asked_for_ever() {
    let registry = TestRegistry::start().await;
    let auth = TestRegistry::start().await;
    wants_bearer(&registry, format!("http://{}/token", auth.addr), &[]);
    auth.hook(|_| token("never", 300));
    let error = Node::new().pull(&registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Auth);
    assert_eq!((registry.seen().len(), auth.seen().len()), (2, 1));
}

#[tokio::test]
async fn a_password_is_sent_to_the_token_server_and_never_to_the_registry_that_wants_a_token() {
    let registry = TestRegistry::start().await;
    let auth = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    wants_bearer(&registry, format!("http://{}/token", auth.addr), &["t"]);
    let want = basic("me", "pw");
    auth.hook(move |seen| if seen.authorization() == Some(&want) { token("t", 300) } else { Reply::status(401) });
    let node = Node::new();
    let secret = secret(&registry.addr.to_string(), "me", "pw");
    node.pod(&registry.name("a/b:1"), PullPolicy::Always, vec![secret]).await.unwrap();
    assert!(registry.seen().iter().all(|s| s.authorization().is_none_or(|a| !a.starts_with("Basic"))));
}

#[tokio::test]
async fn a_token_server_on_a_foreign_host_gets_no_credentials_unless_it_is_listed() {
    let registry = TestRegistry::start().await;
    let thief = TestRegistry::at("127.0.0.2:0", None).await;
    registry.publish("a/b", "1", &Made::small("f"));
    wants_bearer(&registry, format!("http://{}/token", thief.addr), &["t"]);
    thief.hook(|_| token("t", 300));
    let host = registry.addr;
    let entry = "username: me, password: canary";
    let node = Node::configured(&format!("registries: {{'{host}': {{{entry}}}}}"));
    let error = node.pull(&registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Auth);
    assert!(chain(&error).contains("token-hosts"), "{}", chain(&error));
    assert!(thief.seen().is_empty());

    let listed = format!("registries: {{'{host}': {{{entry}, token-hosts: ['{}']}}}}", thief.addr);
    Node::configured(&listed).pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(thief.seen().len(), 1);

    // Without credentials there is nothing to steal.
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let registry = TestRegistry::start().await;
    let auth = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    wants_bearer(&registry, format!("http://{}/token", auth.addr), &["access"]);
    auth.hook(|seen| {
        let good = seen.method == "POST" && seen.body.contains("grant_type=refresh_token");
        if good && seen.body.contains("refresh_token=id%2F1") { token("access", 300) } else { Reply::status(400) }
    });
    let text = format!("registries: {{'{}': {{identity-token: id/1}}}}", registry.addr);
    Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap();
    assert!(auth.seen().iter().all(|s| !s.query.contains("id%2F1")));
}

#[tokio::test]
async fn the_next_credential_is_tried_where_one_is_refused() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    wants_basic(&registry, "second", "pw");
    let host = registry.addr.to_string();
    let secrets = vec![secret(&host, "first", "pw"), secret("other.example", "x", "y"), secret(&host, "second", "pw")];
    Node::new().pod(&registry.name("a/b:1"), PullPolicy::Always, secrets).await.unwrap();
}

#[tokio::test]
async fn a_helper_is_asked_and_a_broken_one_stops_no_public_pull() {
    let registry = TestRegistry::start().await;
    registry.publish("a/b", "1", &Made::small("f"));
    let text = format!("registries: {{'{}': {{helper: lamina-test-no-such-helper}}}}", registry.addr);
    Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn many_layers_that_are_refused_at_once_renew_one_token_together() {
    let registry = TestRegistry::start().await;
    let auth = TestRegistry::start().await;
    let made = Made::of((0..8).map(|i| fixtures::layer(&format!("f{i}"), 5000, fixtures::Pack::Gzip)).collect());
    registry.publish("a/b", "1", &made);
    let realm = format!("http://{}/token", auth.addr);
    // The manifest's token is no good for blobs.
    registry.hook(move |seen| match seen.authorization() {
        Some("Bearer t0") if !seen.is_blob() => Reply::Normal,
        Some("Bearer t1") => Reply::Normal,
        _ => Reply::header(401, "www-authenticate", format!("Bearer realm=\"{realm}\"")),
    });
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    auth.hook(move |_| token(&format!("t{}", counted.fetch_add(1, Ordering::SeqCst).min(1)), 300));
    Node::new().pull(&registry.name("a/b:1")).await.unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 2);
}
