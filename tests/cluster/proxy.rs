//! What can go wrong between an agent and the API server, made on purpose: a proxy that speaks plain HTTP on one side, and
//! as `admin` with the API server on the other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api_server::Cluster;

/// What the proxy does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Hands it on.
    None,
    /// Cuts every connection, and takes no other.
    Cut,
    /// Takes requests and says nothing.
    Stall,
    /// Answers with this status instead of the server.
    Status(u16),
    /// Answers a watch with an `ERROR` event of code 410; lists are handed on.
    GoneInStream,
    /// Lists go well, their next pages are answered with 410.
    GoneInPage,
    /// Hands on, and behind a watch's first change of a NodeWorkload tells of a thousand further ones of it a second.
    Flood,
}

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    url: String,
    fault: watch::Sender<Fault>,
    counts: Arc<Mutex<BTreeMap<String, usize>>>,
    flooded: Arc<AtomicU64>,
    _runtime: tokio::runtime::Runtime,
}

impl Proxy {
    /// Starts one before the API server of a cluster.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = cluster.admin();
        let (fault, faults) = watch::channel(Fault::None);
        let counts = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = runtime.block_on(lamina::source::kubernetes::connect(Some(&config))).unwrap();
        let flooded = Arc::<AtomicU64>::default();
        let (counted, told) = (Arc::clone(&counts), Arc::clone(&flooded));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, counts, faults) = (client.clone(), Arc::clone(&counted), faults.clone());
                let told = Arc::clone(&told);
                let mut cut = faults.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        answer(client.clone(), (Arc::clone(&counts), Arc::clone(&told)), faults.clone(), request)
                    });
                    let connection =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        // The other side may go at any time.
                        _ = connection => {}
                        _ = cut.wait_for(|fault| *fault == Fault::Cut) => {}
                    }
                });
            }
        });
        Self { url, fault, counts, flooded, _runtime: runtime }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many requests there were, by method and path.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.counts.lock().unwrap().clone()
    }

    /// How many changes were made up.
    pub(crate) fn flooded(&self) -> u64 {
        self.flooded.load(Ordering::Relaxed)
    }

    /// How many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.counts().values().sum()
    }
}

fn whole(status: u16, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(http::header::CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn failure(code: u16) -> String {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"on purpose","reason":"{reason}","code":{code}}}"#
    )
}

async fn answer(
    client: kube::Client,
    (counts, told): (Arc<Mutex<BTreeMap<String, usize>>>, Arc<AtomicU64>),
    mut faults: watch::Receiver<Fault>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let key = format!("{} {}", request.method(), request.uri().path());
    *counts.lock().unwrap().entry(key).or_default() += 1;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (reads, watches) = (request.method() == Method::GET, query.contains("watch=true") || query.contains("watch=1"));
    let fault = *faults.borrow();
    match fault {
        Fault::Stall => {
            faults.wait_for(|fault| *fault != Fault::Stall).await?;
            return Err("stalled".into());
        }
        Fault::Cut => return Err("cut".into()),
        Fault::Status(code) => {
            let mut response = whole(code, failure(code));
            if code == 429 {
                response.headers_mut().insert(http::header::RETRY_AFTER, "1".parse()?);
            }
            return Ok(response);
        }
        Fault::GoneInStream if reads && watches => {
            return Ok(whole(200, format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", failure(410))));
        }
        Fault::GoneInPage if query.contains("continue=") => return Ok(whole(410, failure(410))),
        _ => {}
    }
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(http::header::HOST);
    parts.headers.remove(http::header::AUTHORIZATION);
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    parts.uri = path.parse()?;
    let body = body.collect().await?.to_bytes().to_vec();
    let response = client.send(Request::from_parts(parts, kube::client::Body::from(body))).await?;
    let (parts, body) = response.into_parts();
    // A watch that is under way ends when the fault begins.
    let body = body.map_err(|error| -> Box<dyn std::error::Error + Send + Sync> { error.into() });
    let body = match (watches, fault) {
        (true, Fault::Flood) => flood(body, faults, told).boxed_unsync(),
        (true, _) => until(body, faults).boxed_unsync(),
        (false, _) => body.boxed_unsync(),
    };
    Ok(Response::from_parts(parts, body))
}

/// The body until a fault begins.
fn until<B>(
    body: B,
    faults: watch::Receiver<Fault>,
) -> impl hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send + 'static
where
    B: hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let state = (Box::pin(body), faults);
    let stream = futures_util::stream::unfold(state, |(mut body, mut faults)| async move {
        loop {
            let stalls = *faults.borrow() == Fault::Stall;
            tokio::select! {
                frame = body.frame(), if !stalls => return frame.map(|frame| (frame, (body, faults))),
                changed = faults.changed() => {
                    let now = *faults.borrow();
                    if changed.is_err() || !matches!(now, Fault::None | Fault::Stall) {
                        return None;
                    }
                }
                () = tokio::time::sleep(Duration::from_hours(1)), if stalls => {}
            }
        }
    });
    http_body_util::StreamBody::new(stream)
}

/// The body, and behind its first change of a NodeWorkload further ones of that, until the flood ends.
fn flood<B>(
    body: B,
    faults: watch::Receiver<Fault>,
    told: Arc<AtomicU64>,
) -> impl hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send + 'static
where
    B: hyper::body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let pace = tokio::time::interval(Duration::from_millis(1));
    let state = (Box::pin(body), faults, pace, None::<Value>, String::new());
    let stream = futures_util::stream::unfold(state, move |(mut body, mut faults, mut pace, mut seen, mut line)| {
        let told = Arc::clone(&told);
        async move {
            tokio::select! {
                frame = body.frame() => {
                    let frame = frame?;
                    if let Some(text) = frame.as_ref().ok().and_then(|frame| frame.data_ref()) {
                        line.push_str(&String::from_utf8_lossy(text));
                    }
                    while let Some((event, rest)) = line.split_once('\n') {
                        let event: Value = serde_json::from_str(event).unwrap();
                        if seen.is_none() && event["type"] == "MODIFIED" && event["object"]["kind"] == "NodeWorkload" {
                            seen = Some(event);
                            pace.reset();
                        }
                        line = rest.to_owned();
                    }
                    Some((frame, (body, faults, pace, seen, line)))
                }
                // Not in the midst of an event.
                _ = pace.tick(), if seen.is_some() && line.is_empty() => {
                    let round = told.fetch_add(1, Ordering::Relaxed);
                    let mut event = seen.clone()?;
                    event["object"]["metadata"]["annotations"]["round"] = json!(round.to_string());
                    event["object"]["spec"]["minReadySeconds"] = json!(round % 1000);
                    let frame = hyper::body::Frame::data(Bytes::from(format!("{event}\n")));
                    Some((Ok(frame), (body, faults, pace, seen, line)))
                }
                () = async { drop(faults.wait_for(|fault| *fault != Fault::Flood).await) } => None,
            }
        }
    });
    http_body_util::StreamBody::new(stream)
}
