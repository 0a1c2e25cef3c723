//! From a request to a framed stream: `101 Switching Protocols`, then frames (see [`super::stream`]).

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{ReadHalf, WriteHalf};

use super::problem::{Problem, Reason};
use super::stream;

/// The longest JSON body of a request.
pub(super) const MAX_BODY: usize = 64 * 1024 * 1024;

type Io = TokioIo<Upgraded>;

/// Both halves of a client's stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) reader: stream::Reader<ReadHalf<Io>>,
    pub(super) writer: stream::Writer<WriteHalf<Io>>,
}

/// A request that wants a stream, and its body read.
#[derive(Debug)]
pub(super) struct Upgrade<T> {
    pub(super) body: T,
    on: OnUpgrade,
}

/// Reads a JSON body.
pub(super) async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let bytes = axum::body::to_bytes(body, MAX_BODY)
        .await
        .map_err(|e| Problem::new(Reason::Invalid, format!("the request cannot be read: {e}")))?;
    let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    serde_json::from_slice(text)
        .map_err(|e| Problem::new(Reason::Invalid, format!("the request's body is not what was expected: {e}")))
}

impl<T: DeserializeOwned> Upgrade<T> {
    /// Takes a request apart; one without the header is told which protocol is spoken here.
    pub(super) async fn take(mut request: Request) -> Result<Self, Problem> {
        if request.headers().get(UPGRADE).is_none_or(|v| v.as_bytes() != stream::PROTOCOL.as_bytes()) {
            return Err(Problem::new(Reason::Invalid, "this is a stream")
                .hint(format!("send `Connection: upgrade` and `Upgrade: {}`", stream::PROTOCOL)));
        }
        let on = hyper::upgrade::on(&mut request);
        Ok(Self { body: json(request.into_body()).await?, on })
    }
}

impl<T> Upgrade<T> {
    /// The answer that switches, and the stream once the client has it.
    pub(super) fn switch(self) -> (Response, impl Future<Output = Option<Stream>> + use<T>) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(stream::PROTOCOL));
        let on = self.on;
        let stream = async move {
            // A client that went away before it had its answer needs no word.
            let (read, write) = tokio::io::split(TokioIo::new(on.await.ok()?));
            Some(Stream { reader: stream::Reader::new(read), writer: stream::Writer::new(write) })
        };
        (response, stream)
    }
}
