//! A registry in this process (distribution-spec, "Pull"), with a hook that may answer any request otherwise, and a
//! record of what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap, RANGE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::fixtures::Made;
use crate::oci::Digest;
use crate::oci::media_type::OCI_MANIFEST;

/// A request as it came.
#[derive(Debug, Clone)]
pub(in crate::image) struct Seen {
    pub(in crate::image) method: String,
    pub(in crate::image) path: String,
    pub(in crate::image) query: String,
    pub(in crate::image) body: String,
    pub(in crate::image) headers: HeaderMap,
}

impl Seen {
    pub(in crate::image) fn authorization(&self) -> Option<&str> {
        self.headers.get(AUTHORIZATION)?.to_str().ok()
    }

    pub(in crate::image) fn range(&self) -> Option<u64> {
        let text = self.headers.get(RANGE)?.to_str().ok()?;
        text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    pub(in crate::image) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// What the hook answers.
#[derive(Debug, Clone)]
pub(in crate::image) enum Reply {
    /// As a registry does.
    Normal,
    /// As it does, but the body breaks off after so many bytes.
    Cut(usize),
    /// As it does, but after so many bytes nothing more comes.
    Stall(usize),
    /// As it does, but a byte at a time with this wait between.
    Drip(Duration),
    /// As it does, each chunk of this size after this wait.
    Slow(usize, Duration),
    /// As it does, but ranges are ignored.
    Whole,
    /// Something else.
    With(u16, Vec<(&'static str, String)>, Vec<u8>),
}

impl Reply {
    pub(in crate::image) fn status(status: u16) -> Self {
        Self::With(status, Vec::new(), Vec::new())
    }

    pub(in crate::image) fn header(status: u16, name: &'static str, value: impl Into<String>) -> Self {
        Self::With(status, vec![(name, value.into())], Vec::new())
    }
}

type Hook = Box<dyn FnMut(&Seen) -> Reply + Send>;

#[derive(Default)]
struct State {
    /// By `repository reference`: media type and bytes.
    manifests: HashMap<String, (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    seen: Vec<Seen>,
    hook: Option<Hook>,
    open: usize,
    most_open: usize,
}

/// A running registry. Ends when it is dropped.
pub(in crate::image) struct TestRegistry {
    pub(in crate::image) addr: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestRegistry {
    pub(in crate::image) async fn start() -> Self {
        Self::at("127.0.0.1:0", None).await
    }

    /// At an address, with TLS if an acceptor is given.
    pub(in crate::image) async fn at(addr: &str, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(TokioIo::new(stream), state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(TokioIo::new(stream), state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, state, task }
    }

    /// `127.0.0.1:port/path`.
    pub(in crate::image) fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.addr)
    }

    pub(in crate::image) fn publish(&self, repository: &str, tag: &str, made: &Made) {
        self.manifest(repository, tag, OCI_MANIFEST, &made.manifest);
        self.blob(&made.config);
        for layer in &made.layers {
            self.blob(&layer.bytes);
        }
    }

    /// A document by tag and by digest.
    pub(in crate::image) fn manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        for reference in [tag.to_owned(), Digest::sha256_of(bytes).to_string()] {
            let kept = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
            state.manifests.insert(format!("{repository} {reference}"), kept);
        }
    }

    pub(in crate::image) fn blob(&self, bytes: &[u8]) {
        self.blob_as(&Digest::sha256_of(bytes), bytes);
    }

    /// A blob under a digest that may be another one's.
    pub(in crate::image) fn blob_as(&self, digest: &Digest, bytes: &[u8]) {
        self.state.lock().unwrap().blobs.insert(digest.to_string(), Bytes::copy_from_slice(bytes));
    }

    /// Decides each answer from now on.
    pub(in crate::image) fn hook(&self, hook: impl FnMut(&Seen) -> Reply + Send + 'static) {
        self.state.lock().unwrap().hook = Some(Box::new(hook));
    }

    pub(in crate::image) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    pub(in crate::image) fn clear(&self) {
        self.state.lock().unwrap().seen.clear();
    }

    /// How many requests for layers and configs there were.
    pub(in crate::image) fn blob_requests(&self, digest: &Digest) -> usize {
        let end = format!("/blobs/{digest}");
        self.seen().iter().filter(|s| s.path.ends_with(&end)).count()
    }

    /// The most blobs that were being sent at once.
    pub(in crate::image) fn most_open(&self) -> usize {
        self.state.lock().unwrap().most_open
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn serve<I>(io: I, state: Arc<Mutex<State>>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&state)));
    // A client that goes away, and a body that breaks off on purpose, end the connection with an error.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(&body).into_owned(),
        headers: parts.headers,
    };
    let mut locked = state.lock().unwrap();
    locked.seen.push(seen.clone());
    let reply = match locked.hook.as_mut() {
        Some(hook) => hook(&seen),
        None => Reply::Normal,
    };
    if let Reply::With(status, headers, body) = reply {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        return Ok(response.body(full(body)).unwrap());
    }
    let found = find(&locked, &seen.path);
    drop(locked);
    let Some((media_type, bytes)) = found else {
        let text = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"not known"}]}"#;
        return Ok(Response::builder().status(404).body(full(text.as_bytes().to_vec())).unwrap());
    };
    let mut response = Response::builder().header("content-type", media_type);
    let mut part = bytes.clone();
    if let Some(from) = seen.range().filter(|_| !matches!(reply, Reply::Whole)) {
        let from = usize::try_from(from).unwrap();
        if from >= bytes.len() {
            return Ok(Response::builder().status(416).body(full(Vec::new())).unwrap());
        }
        part = bytes.slice(from..);
        let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
    }
    let guard = seen.is_blob().then(|| Open::enter(&state));
    Ok(response.header("content-length", part.len()).body(send(part, reply, guard)).unwrap())
}

/// Counts blobs that are being sent.
struct Open(Arc<Mutex<State>>);

impl Open {
    fn enter(state: &Arc<Mutex<State>>) -> Self {
        let mut locked = state.lock().unwrap();
        locked.open += 1;
        locked.most_open = locked.most_open.max(locked.open);
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap().open -= 1;
    }
}

fn find(state: &State, path: &str) -> Option<(String, Bytes)> {
    let rest = path.strip_prefix("/v2/")?;
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        return state.manifests.get(&format!("{repository} {reference}")).cloned();
    }
    let (_, digest) = rest.split_once("/blobs/")?;
    Some(("application/octet-stream".to_owned(), state.blobs.get(digest)?.clone()))
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

/// A body in pieces, with what goes wrong on its way.
fn send(bytes: Bytes, reply: Reply, guard: Option<Open>) -> Body {
    let (whole, wait, piece) = match reply {
        Reply::Cut(at) | Reply::Stall(at) => (at.min(bytes.len()), Duration::ZERO, usize::MAX),
        Reply::Drip(wait) => (bytes.len(), wait, 1),
        Reply::Slow(piece, wait) => (bytes.len(), wait, piece),
        Reply::Normal | Reply::Whole | Reply::With(..) => (bytes.len(), Duration::ZERO, usize::MAX),
    };
    let stream = futures_util::stream::unfold((0, Some(guard)), move |(at, guard)| {
        let (bytes, reply) = (bytes.clone(), reply.clone());
        async move {
            let guard = guard?;
            if at < whole {
                tokio::time::sleep(wait).await;
                let end = at.saturating_add(piece).min(whole);
                return Some((Ok(Frame::data(bytes.slice(at..end))), (end, Some(guard))));
            }
            match reply {
                Reply::Cut(_) if whole < bytes.len() => {
                    // What was sent before goes out first.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Some((Err(io::Error::other("cut on purpose")), (at, None)))
                }
                Reply::Stall(_) => std::future::pending().await,
                _ => None,
            }
        }
    });
    BodyExt::boxed(StreamBody::new(stream.boxed_sync_like()))
}

/// `BoxBody` wants `Sync`, which a future that sleeps is not by itself.
trait BoxedSync: futures_util::Stream + Sized {
    fn boxed_sync_like(self) -> SyncStream<Self> {
        SyncStream(Mutex::new(Box::pin(self)))
    }
}

impl<S: futures_util::Stream> BoxedSync for S {}

struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures_util::Stream> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.lock().unwrap().poll_next_unpin(context)
    }
}
