//! `httpGet`: 2xx and 3xx are good; redirects are followed while they stay on the host.

use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Outcome, Place, connect};

/// How often a redirect is followed.
const MAX_HOPS: u32 = 10;
/// How much of an answer is read: what is shown of a failure, as a kubelet has it.
const MAX_BODY: usize = 10 << 10;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Another host than the pod.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Through TLS, whoever the other side is.
    pub https: bool,
    /// By HTTP/2, without asking whether the other side speaks it.
    pub two: bool,
    /// Besides those that are always sent.
    pub headers: Vec<(String, String)>,
}

impl Page {
    pub(super) fn of(action: &HTTPGetAction, port: u16) -> Self {
        let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        Self {
            host: action.host.clone().filter(|h| !h.is_empty()),
            port,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            https: action.scheme.as_deref() == Some("HTTPS"),
            two: action.protocol.as_deref() == Some("HTTP2"),
            headers: action.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        }
    }

    fn with(&self, to: &Uri) -> Self {
        let path = to.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let Some(host) = to.host() else { return Self { path, ..self.clone() } };
        let https = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if https { 443 } else { 80 });
        Self { host: Some(host.to_owned()), port, path, https, two: self.two && !https, headers: self.headers.clone() }
    }
}

/// Asks for a page.
pub(super) async fn get(page: &Page, place: &Place) -> Outcome {
    let mut page = page.clone();
    for _ in 0..MAX_HOPS {
        let host = page.host.clone().unwrap_or_else(|| place.address.to_string());
        let (status, to, text) = match ask(&page, place, &host).await {
            Ok(answer) => answer,
            Err(why) => return Outcome::Failure(why),
        };
        match (status, to.map(|to| page.with(&to))) {
            (300..=399, Some(next)) => {
                // Elsewhere is not what was asked about; that the host answers is.
                if next.host.as_ref().is_some_and(|h| *h != host) {
                    return Outcome::Success;
                }
                page = next;
            }
            (200..=399, _) => return Outcome::Success,
            _ => return Outcome::Failure(format!("HTTP status {status}{text}")),
        }
    }
    Outcome::Failure(format!("more than {MAX_HOPS} redirects"))
}

type Answer = (u16, Option<Uri>, String);

async fn ask(page: &Page, place: &Place, host: &str) -> Result<Answer, String> {
    let stream = connect::tcp(place, page.host.as_deref(), page.port).await?;
    if page.https {
        let stream = connect::tls(stream, host, &[b"http/1.1"]).await?;
        talk(stream, page, host).await
    } else {
        talk(stream, page, host).await
    }
}

async fn talk<S>(stream: S, page: &Page, host: &str) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(page, host)?;
    let stream = TokioIo::new(stream);
    if page.two {
        let made = http2::handshake(TokioExecutor::new(), stream).await;
        let (mut sender, connection) = made.map_err(|e| e.to_string())?;
        connect::driven(connection, async { read(sender.send_request(request).await).await }).await
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|e| e.to_string())?;
        connect::driven(connection, async { read(sender.send_request(request).await).await }).await
    }
}

async fn read(response: Result<Response<Incoming>, hyper::Error>) -> Result<Answer, String> {
    let response = response.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let to = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    if (200..400).contains(&status) {
        return Ok((status, to, String::new()));
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    Ok((status, to, if text.is_empty() { text } else { format!(": {text}") }))
}

fn request(page: &Page, host: &str) -> Result<Request<Empty<bytes::Bytes>>, String> {
    let invalid = |e: &dyn std::fmt::Display| format!("cannot make a request: {e}");
    let mut request = Request::get(page.path.as_str()).body(Empty::new()).map_err(|e| invalid(&e))?;
    let headers = request.headers_mut();
    let default_port = if page.https { 443 } else { 80 };
    let host = if page.port == default_port { host.to_owned() } else { format!("{host}:{}", page.port) };
    let agent = concat!("lamina-probe/", env!("CARGO_PKG_VERSION"));
    for (name, value) in [(header::HOST, host.as_str()), (header::USER_AGENT, agent), (header::ACCEPT, "*/*")] {
        // One of the manifest's own replaces it; an empty one takes it away.
        let own = page.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_str()));
        if own.is_none() {
            headers.insert(name, HeaderValue::from_str(value).map_err(|e| invalid(&e))?);
        }
    }
    if !page.two {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    for (name, value) in page.headers.iter().filter(|(_, value)| !value.is_empty()) {
        let name: HeaderName = name.parse().map_err(|e| invalid(&e))?;
        headers.append(name, HeaderValue::from_str(value).map_err(|e| invalid(&e))?);
    }
    if page.two {
        // There whom it is for is part of what is asked for.
        let authority = headers.remove(header::HOST).and_then(|v| v.to_str().map(str::to_owned).ok()).unwrap_or(host);
        *request.uri_mut() = format!("http://{authority}{}", page.path).parse().map_err(|e| invalid(&e))?;
    }
    Ok(request)
}
