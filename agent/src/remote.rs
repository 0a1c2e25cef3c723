//! An agent on another machine: HTTP over TLS to the address that its node's report names, with the caller's own token.
//! The certificate is known by its digest, which only that agent may write into the report; names and authorities do not
//! matter then (as with SSH's host keys, but for the first use that nobody need trust).

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use lamina::api::cluster::Endpoint;
use lamina::oci::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::failure::{Failure, Status};

/// How long a node has to take a connection and to greet.
const CONNECT: Duration = Duration::from_secs(10);

/// One agent, and who asks it.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    node: String,
    address: String,
    tls: Arc<ClientConfig>,
    authorization: HeaderValue,
}

impl Remote {
    /// The agent of `node`, asked as whoever `authorization` says.
    pub(crate) fn new(node: &str, endpoint: &Endpoint, authorization: HeaderValue) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let known = Known { digest: endpoint.certificate.to_ascii_lowercase(), provider: Arc::clone(&provider) };
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(known))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { node: node.to_owned(), address: endpoint.address.clone(), tls: Arc::new(tls), authorization })
    }

    /// What each request carries.
    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.authorization
    }

    /// Connects.
    ///
    /// # Errors
    /// If nobody answers there in time, or who answers is not the agent.
    pub(crate) async fn connect(&self) -> Result<TlsStream<TcpStream>, Failure> {
        let attempt = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(std::io::Error::other)?;
            TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
        };
        let said = tokio::time::timeout(CONNECT, attempt).await;
        let error = match said {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => {
                std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT.as_secs()))
            }
        };
        let what = format!("cannot talk to the agent of node {} at {}", self.node, self.address);
        Err(Failure::new(Status::Agent, what)
            .source(error)
            .hint("is its NodeReport ready (`kubectl get nodereports`), and is that address to be reached from here?"))
    }
}

/// Takes the one certificate that has the digest.
#[derive(Debug)]
struct Known {
    digest: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Digest::sha256_of(certificate).hex() == self.digest {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("its certificate is not the one that the node's report names".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server that says hello to whoever gets through; its address and certificate.
    async fn server() -> (String, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(vec!["elsewhere.example".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"hello").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        (address, certificate)
    }

    fn remote(address: String, certificate: String) -> Remote {
        let endpoint = Endpoint { address, certificate };
        Remote::new("node-1", &endpoint, HeaderValue::from_static("Bearer x")).unwrap()
    }

    #[tokio::test]
    async fn the_certificate_of_the_report_is_taken_whatever_its_name() {
        let (address, certificate) = server().await;
        let mut stream = remote(address, Digest::sha256_of(&certificate).hex().to_uppercase()).connect().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    async fn another_certificate_is_refused_and_nothing_is_sent() {
        let (address, _) = server().await;
        let error = remote(address, "0".repeat(64)).connect().await.unwrap_err();
        assert_eq!(error.status(), Status::Agent);
        assert!(lamina::api::problem::chain(&error).contains("not the one that the node's report names"), "{error:?}");
    }

    #[tokio::test]
    async fn nobody_at_the_address_is_status_3() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = remote(address.to_string(), "0".repeat(64)).connect().await.unwrap_err();
        assert_eq!(error.status(), Status::Agent);
        assert!(error.to_string().contains("node-1"));
    }
}
