//! TLS fails closed (reliability row R6).

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::image::Reason;

/// A certificate authority and its PEM on disk.
struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    /// A registry with a certificate for `name`, which ended long ago or not.
    async fn registry(&self, name: &str, expired: bool) -> TestRegistry {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let registry = TestRegistry::at("127.0.0.1:0", Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await;
        registry.publish("a/b", "1", &Made::small("f"));
        registry
    }

    fn entry(&self, registry: &TestRegistry, more: &str) -> String {
        let ca = self.dir.path().join("ca.pem");
        format!("registries: {{'{}': {{plain-http: false, ca: {}{more}}}}}", registry.addr, ca.display())
    }
}

async fn refused(registry: &TestRegistry, text: &str) {
    let node = Node::configured(text);
    let error = node.pull(&registry.name("a/b:1")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Tls, "{}", chain(&error));
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_registry_with_a_known_authority_is_pulled_from() {
    let authority = Authority::new();
    let registry = authority.registry("127.0.0.1", false).await;
    Node::configured(&authority.entry(&registry, "")).pull(&registry.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn expired_misnamed_and_unknown_certificates_are_refused() {
    let authority = Authority::new();
    let expired = authority.registry("127.0.0.1", true).await;
    refused(&expired, &authority.entry(&expired, "")).await;
    let misnamed = authority.registry("other.example", false).await;
    refused(&misnamed, &authority.entry(&misnamed, "")).await;
    let unknown = authority.registry("127.0.0.1", false).await;
    refused(&unknown, &Authority::new().entry(&unknown, "")).await;
    // Only where the administrator says so.
    Node::configured(&authority.entry(&misnamed, ", skip-verify: true")).pull(&misnamed.name("a/b:1")).await.unwrap();
}

#[tokio::test]
async fn a_redirect_never_leaves_https() {
    let authority = Authority::new();
    let (registry, plain) = (authority.registry("127.0.0.1", false).await, TestRegistry::start().await);
    plain.publish("a/b", "1", &Made::small("f"));
    let to = plain.addr;
    registry.hook(move |seen| Reply::header(302, "location", format!("http://{to}{}", seen.path)));
    let error = Node::configured(&authority.entry(&registry, "")).pull(&registry.name("a/b:1")).await.unwrap_err();
    assert!(chain(&error).contains("leaves https"), "{}", chain(&error));
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn a_token_is_not_asked_for_over_http_by_a_registry_with_https() {
    let authority = Authority::new();
    let (registry, plain) = (authority.registry("127.0.0.1", false).await, TestRegistry::start().await);
    let to = plain.addr;
    registry.hook(move |_| Reply::header(401, "www-authenticate", format!("Bearer realm=\"http://{to}/token\"")));
    let text = authority.entry(&registry, ", username: me, password: pw");
    let error = Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap_err();
    assert!(chain(&error).contains("leave https"), "{}", chain(&error));
    assert!(plain.seen().is_empty());
}

#[tokio::test]
async fn a_registry_that_speaks_no_tls_is_not_spoken_to_in_http() {
    let registry = TestRegistry::start().await;
    let text = format!("registries: {{'{}': {{plain-http: false, skip-verify: true}}}}", registry.addr);
    let error = Node::configured(&text).pull(&registry.name("a/b:1")).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Tls | Reason::Connect), "{}", chain(&error));
    assert!(registry.seen().is_empty());
}
