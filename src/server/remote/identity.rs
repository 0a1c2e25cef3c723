//! What the agent proves itself by: a certificate and its key, from files or made at each start.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::oci::Digest;

/// Why there is nothing to prove it by.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or is something else.
    #[error("cannot use {} as {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("there is no certificate in {}", .0.display())]
    Empty(PathBuf),
    /// Key and certificate do not belong together, or are of a kind that is not known.
    #[error("the certificate and its key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// None can be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

/// A certificate with its key, ready for use.
#[derive(Debug, Clone)]
pub struct Identity {
    config: Arc<ServerConfig>,
    digest: String,
}

impl Identity {
    /// From files in PEM format; the certificate's may hold its chain, itself first.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let wrong = |path: &Path, what| {
            let path = path.to_owned();
            move |source| Error::File { path, what, source }
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(wrong(certificate, "a certificate"))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(wrong(key, "a private key"))?;
        if chain.is_empty() {
            return Err(Error::Empty(certificate.to_owned()));
        }
        Self::new(chain, key)
    }

    /// A fresh one that nobody has signed: in a cluster it is known by its digest in the node's report.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn fresh(node: &str, address: IpAddr) -> Result<Self, Error> {
        // Names that no certificate can have are left out; nobody looks at them.
        let names = [node.to_owned(), address.to_string()];
        let made = rcgen::generate_simple_self_signed(names.to_vec())
            .or_else(|_| rcgen::generate_simple_self_signed(vec![address.to_string()]))?;
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        Self::new(vec![made.cert.der().clone()], key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Error> {
        let digest = chain.first().map(|first| Digest::sha256_of(first).hex().to_owned()).unwrap_or_default();
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        // `exec` takes the connection over, which HTTP/2 has no word for.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), digest })
    }

    /// The SHA-256 of the certificate, in hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_what_is_wrong_with_them_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let made = rcgen::generate_simple_self_signed(vec!["node-1".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let one = Identity::read(&certificate, &key).unwrap();
        assert_eq!(one.digest().len(), 64);
        assert_eq!(one.digest(), Identity::read(&certificate, &key).unwrap().digest());
        let other = rcgen::generate_simple_self_signed(vec!["node-1".to_owned()]).unwrap();
        std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
        assert!(matches!(Identity::read(&certificate, &key), Err(Error::Unusable(_))));
        std::fs::write(&certificate, "").unwrap();
        assert!(matches!(Identity::read(&certificate, &key), Err(Error::Empty(_))));
        assert!(matches!(Identity::read(&certificate, &dir.path().join("none")), Err(Error::File { .. })));
    }

    #[test]
    fn a_fresh_one_is_made_for_any_node() {
        let one = Identity::fresh("node-1.example", [127, 0, 0, 1].into()).unwrap();
        let strange = Identity::fresh("no name\u{e9}", [127, 0, 0, 1].into()).unwrap();
        assert_ne!(one.digest(), strange.digest());
    }
}
