//! Connections to a pod, made inside its network namespace.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Place;

/// Connects to a port of the pod, or of `host` as seen from the pod.
pub(super) async fn tcp(place: &Place, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
    let address = place.resolve(host, port).await?;
    let (tell, made) = tokio::sync::oneshot::channel();
    place.sockets.tcp(
        &place.network,
        address,
        Box::new(move |socket| {
            // Whoever asked may have given up.
            let _ = tell.send(socket);
        }),
    );
    let socket = match made.await {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => return Err(format!("cannot enter the pod's network: {e}")),
        Err(_) => return Err("nobody makes sockets".to_owned()),
    };
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.connect(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))
}

/// Drives a connection for as long as an exchange over it takes: it ends with that, and needs no task of its own.
pub(super) async fn driven<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    exchange: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Err(e) => Err(e.to_string()),
            Ok(()) => exchange.await,
        },
    }
}

/// TLS on a connection, whoever the other side is: a probe asks whether somebody answers, not who.
pub(super) async fn tls(stream: TcpStream, name: &str, protocols: &[&[u8]]) -> Result<TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(schemes)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).map_err(|e| format!("{name}: {e}"))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| format!("no TLS: {e}"))
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
