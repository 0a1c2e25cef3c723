//! The agent as a client sees it: HTTP/1.1 and JSON over its socket, and framed streams after an upgrade.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::rt::TokioIo;
use lamina::server::problem::Problem;
use lamina::server::{socket, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::UnixStream;

use crate::failure::{Failure, Status};
use crate::remote::Remote;

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;
type Body = Either<Full<Bytes>, Upload>;

/// The longest answer that is read as one value; far above a list of everything on a full node.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Both halves of a framed stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What the agent sends.
    pub(crate) reader: stream::Reader<ReadHalf<Upgraded>>,
    /// What it is sent.
    pub(crate) writer: stream::Writer<WriteHalf<Upgraded>>,
}

/// One agent. A connection is made for each request: a socket on the same machine costs microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Client(Place);

/// Where an agent is.
#[derive(Debug, Clone)]
enum Place {
    /// On this machine, by its socket.
    Socket(PathBuf),
    /// On a node of a cluster.
    Node(Remote),
}

/// A path with a query, put together so that no value can end it early.
#[derive(Debug, Clone)]
pub(crate) struct Route(String);

impl Route {
    /// A route without a query.
    pub(crate) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Adds a segment to the path.
    pub(crate) fn segment(mut self, text: &str) -> Self {
        self.0.push('/');
        escape(text, &mut self.0);
        self
    }

    /// Adds `key=value`.
    pub(crate) fn with(mut self, key: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(key);
        self.0.push('=');
        escape(value.as_ref(), &mut self.0);
        self
    }

    /// Adds `key=value` where there is one.
    pub(crate) fn with_some(self, key: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds `key=true` where it is.
    pub(crate) fn flag(self, key: &str, on: bool) -> Self {
        if on { self.with(key, "true") } else { self }
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from_digit(nibble.into(), 16).unwrap_or('0').to_ascii_uppercase());
            }
        }
    }
}

impl Client {
    /// The agent whose run directory is `run`.
    pub(crate) fn new(run: &Path) -> Self {
        Self(Place::Socket(run.join(socket::FILE_NAME)))
    }

    /// The agent of a node.
    pub(crate) fn remote(remote: Remote) -> Self {
        Self(Place::Node(remote))
    }

    async fn connect(socket: &Path) -> Result<UnixStream, Failure> {
        UnixStream::connect(socket).await.map_err(|source| {
            let path = socket.display();
            match source.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    Failure::new(Status::Agent, format!("the agent is not running (nobody listens on {path})"))
                        .hint("start it with `lamina agent`; an agent elsewhere is named by --run DIR or LAMINA_RUN")
                }
                std::io::ErrorKind::PermissionDenied => {
                    Failure::new(Status::Failed, format!("cannot talk to the agent on {path}"))
                        .source(source)
                        .hint("the socket is for root alone: use sudo")
                }
                _ => Failure::new(Status::Agent, format!("cannot talk to the agent on {path}")).source(source),
            }
        })
    }

    async fn send(&self, mut request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        let response = match &self.0 {
            Place::Socket(socket) => over(Self::connect(socket).await?, request).await?,
            Place::Node(remote) => {
                request.headers_mut().insert(AUTHORIZATION, remote.authorization().clone());
                over(remote.connect().await?, request).await?
            }
        };
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let status = response.status();
        let body = collect(response).await?;
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Failure::from_problem(problem).into(),
            // An agent of another version may not know the route.
            Err(_) => Failure::new(
                Status::Failed,
                format!("the agent answered {status}: {}", String::from_utf8_lossy(&body).trim()),
            )
            .into(),
        })
    }

    fn request(method: Method, route: &Route) -> http::request::Builder {
        Request::builder().method(method).uri(&route.0).header(HOST, "lamina")
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &Route,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = Self::request(method, route)
            .header(CONTENT_TYPE, "application/json")
            .body(Either::Left(Full::new(bytes.into())))?;
        let answer = collect(self.send(request).await?).await?;
        serde_json::from_slice(&answer).context("the agent's answer cannot be read")
    }

    /// Reads a value.
    pub(crate) async fn get<T: DeserializeOwned>(&self, route: &Route) -> anyhow::Result<T> {
        self.call(Method::GET, route, None::<&()>).await
    }

    /// Has something done.
    pub(crate) async fn post<T: DeserializeOwned>(&self, route: &Route, body: &impl Serialize) -> anyhow::Result<T> {
        self.call(Method::POST, route, Some(body)).await
    }

    /// Has something removed.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, route: &Route) -> anyhow::Result<T> {
        self.call(Method::DELETE, route, None::<&()>).await
    }

    /// Reads an answer as it comes.
    pub(crate) async fn download(&self, route: &Route) -> anyhow::Result<Download> {
        self.follow(Method::GET, route).await
    }

    /// Has something done, and reads as it comes how it gets on.
    pub(crate) async fn follow(&self, method: Method, route: &Route) -> anyhow::Result<Download> {
        let request = Self::request(method, route).body(Either::Left(Full::default()))?;
        let (head, body) = self.send(request).await?.into_parts();
        Ok(Download { headers: head.headers, body, rest: Vec::new() })
    }

    /// Sends a body as it is read.
    pub(crate) async fn upload<T: DeserializeOwned>(
        &self,
        route: &Route,
        chunks: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
    ) -> anyhow::Result<T> {
        let request = Self::request(Method::POST, route).body(Either::Right(Upload(chunks)))?;
        let answer = collect(self.send(request).await?).await?;
        serde_json::from_slice(&answer).context("the agent's answer cannot be read")
    }

    /// Starts a framed stream.
    pub(crate) async fn stream(&self, route: &Route, body: &impl Serialize) -> anyhow::Result<Stream> {
        let request = Self::request(Method::POST, route)
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, stream::PROTOCOL)
            .body(Either::Left(Full::new(serde_json::to_vec(body)?.into())))?;
        let response = self.send(request).await?;
        let upgraded = hyper::upgrade::on(response).await.context("the agent does not stream")?;
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        Ok(Stream { reader: stream::Reader::new(read), writer: stream::Writer::new(write) })
    }
}

/// Sends a request over a connection of its own.
async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("cannot talk to the agent")?;
    // Ends by itself when the answer's body, or the stream after an upgrade, is dropped.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.context("the agent gave no answer")
}

async fn collect(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    match body.collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) => Err(anyhow::anyhow!(error).context("the agent's answer broke off")),
    }
}

/// An answer that is read as it comes.
#[derive(Debug)]
pub(crate) struct Download {
    headers: http::HeaderMap,
    body: Incoming,
    rest: Vec<u8>,
}

impl Download {
    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    /// The next piece.
    pub(crate) async fn chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.context("the agent's answer broke off")?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The next line, as a value.
    pub(crate) async fn line<T: DeserializeOwned>(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).context("the agent's answer cannot be read");
            }
            match self.chunk().await? {
                Some(data) => self.rest.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

/// What a reading thread sends, as a request's body.
#[derive(Debug)]
struct Upload(tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>);

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|next| next.map(|chunk| chunk.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_ends_a_query_early() {
        let route = Route::new("/v1/images").segment("a/../b").with("name", "x&y=1#z ä").flag("all", true);
        assert_eq!(route.0, "/v1/images/a%2F..%2Fb?name=x%26y%3D1%23z%20%C3%A4&all=true");
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_status_3_with_a_hint() {
        let dir = std::env::temp_dir().join("lamina-no-such-run-directory");
        let error = Client::new(&dir).get::<()>(&Route::new("/v1/info")).await.unwrap_err();
        let mut text = Vec::new();
        assert_eq!(crate::failure::report(Err(error), &mut text), std::process::ExitCode::from(3));
        assert!(String::from_utf8(text).unwrap().contains("\nhint: "));
    }
}
