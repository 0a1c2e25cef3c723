//! Connections over TLS. Each shakes hands in a task of its own, so that who is slow holds up nobody, and there are only
//! so many at once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::identity::Identity;

/// How many connections there may be.
const MOST: usize = 256;
/// How long shaking hands may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait when no connection can be taken: out of descriptors or memory.
const AGAIN: Duration = Duration::from_millis(200);

/// Where connections come from, hands shaken.
#[derive(Debug)]
pub(super) struct Secure {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Secure {
    pub(super) fn new(listener: TcpListener, address: SocketAddr, identity: &Identity) -> Self {
        let (tell, ready) = mpsc::channel(1);
        let acceptor = TlsAcceptor::from(identity.config());
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, acceptor, tell)));
        Self { ready, address, _task: task }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, tell: mpsc::Sender<(Connection, SocketAddr)>) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        tokio::spawn(async move {
            // A small answer must not wait for more.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Nobody takes it when the server is stopping.
                Ok(Ok(stream)) => drop(tell.send((Connection { stream, _place: place }, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection came to nothing"),
                Err(_) => tracing::debug!(%peer, "a connection came to nothing in time"),
            }
        });
    }
}

impl axum::serve::Listener for Secure {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            // The task lives as long as this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// One connection, and its place among those that there may be.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
