//! `grpc`: the health service, version 1. Its two messages have one field each, so they are written by hand.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Outcome, Place, connect};

/// An answer is two bytes in a frame of five.
const MAX_ANSWER: usize = 4 << 10;
/// `SERVING`.
const SERVING: u64 = 1;

/// Asks how a service is.
pub(super) async fn check(place: &Place, port: u16, service: &str, tls: bool) -> Outcome {
    let asked = async {
        let stream = connect::tcp(place, None, port).await?;
        let host = place.address.to_string();
        if tls {
            let stream = connect::tls(stream, &host, &[b"h2"]).await?;
            ask(stream, "https", &host, service).await
        } else {
            ask(stream, "http", &host, service).await
        }
    };
    match asked.await {
        Ok(SERVING) => Outcome::Success,
        Ok(status) => Outcome::Failure(format!("service is not serving: status {status}")),
        Err(why) => Outcome::Failure(why),
    }
}

pub(super) async fn ask<S>(stream: S, scheme: &str, host: &str, service: &str) -> Result<u64, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("lamina-probe/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(question(service)))
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let mut status = response.headers().get("grpc-status").cloned();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        if let Some(trailers) = body.trailers() {
            status = trailers.get("grpc-status").cloned().or(status);
        }
        match status.as_ref().and_then(|s| s.to_str().ok()) {
            None | Some("0") => answer(&body.to_bytes()).ok_or_else(|| "an answer that is none".to_owned()),
            Some("12") => Err("the server does not implement the health service".to_owned()),
            Some("5") => Err(format!("the server does not know the service {service:?}")),
            Some(status) => Err(format!("gRPC status {status}")),
        }
    };
    connect::driven(connection, exchange).await
}

/// `HealthCheckRequest { service }` in a frame: no compression, length, message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or_default());
    frame.put(message);
    frame.freeze()
}

fn varint(to: &mut BytesMut, mut n: usize) {
    while n > 0x7f {
        to.put_u8(u8::try_from(n & 0x7f).unwrap_or_default() | 0x80);
        n >>= 7;
    }
    to.put_u8(u8::try_from(n).unwrap_or_default());
}

/// The status in a framed `HealthCheckResponse`; a field of value 0 is left out.
fn answer(mut frame: &[u8]) -> Option<u64> {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(frame.get_u32()).ok()?;
    match frame.get(..length)? {
        [] => Some(0),
        [0x08, status @ 0..=0x7f, ..] => Some(u64::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::body::{Frame, Incoming};
    use hyper::service::service_fn;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A health server as gRPC libraries make it: the message, then trailers.
    async fn server(listener: TcpListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            let (message, status): (&[u8], &str) = match asked.get(7..) {
                None => (&[0, 0, 0, 0, 2, 8, 1], "0"),
                Some(b"down") => (&[0, 0, 0, 0, 2, 8, 2], "0"),
                Some(_) => (&[], "5"),
            };
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            let frames: [Result<_, std::convert::Infallible>; 2] =
                [Ok(Frame::data(Bytes::copy_from_slice(message))), Ok(Frame::trailers(trailers))];
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
            Ok::<_, std::convert::Infallible>(http::Response::new(BodyExt::boxed(body)))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    #[tokio::test]
    async fn the_health_service_says_how_a_service_is() {
        for (service, expected) in [("", Ok(1)), ("down", Ok(2)), ("other", Err(()))] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let task = tokio::spawn(server(listener));
            let stream = TcpStream::connect(address).await.unwrap();
            let said = ask(stream, "http", "localhost", service).await;
            assert_eq!(said.clone().map_err(|_| ()), expected, "{service}: {said:?}");
            task.abort();
        }
    }

    #[test]
    fn an_answer_that_is_none_is_not_taken_for_one() {
        assert_eq!(answer(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 8, 1], &[0, 0, 0, 0, 1, 7]] {
            assert_eq!(answer(wrong), None, "{wrong:?}");
        }
    }
}
