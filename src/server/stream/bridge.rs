//! A TCP connection on one side, two channels of a framed stream on the other: bytes both ways, and the end of each way
//! by itself.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Channel, Control, Error, Reader, Writer};
use crate::server::problem::Problem;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Which side this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It accepted the connection; the other side made one to the pod.
    Client,
    /// It made the connection to the pod, and says the last word.
    Agent,
}

/// How a bridge ended.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The framed stream failed, or ended before its last frame.
    #[error("the stream is lost")]
    Stream(#[from] Error),
    /// The TCP connection was reset.
    #[error("the connection is lost")]
    Connection(#[source] std::io::Error),
    /// The other side says that it is over.
    #[error("{}", .0.message)]
    Told(Problem),
}

/// What stops both ways.
enum End {
    Over,
    Broken(Broken),
}

impl Side {
    const fn incoming(self) -> Channel {
        match self {
            Self::Client => Channel::Stdout,
            Self::Agent => Channel::Stdin,
        }
    }

    const fn outgoing(self) -> Channel {
        match self {
            Self::Client => Channel::Stdin,
            Self::Agent => Channel::Stdout,
        }
    }
}

/// Connects the two until both ways have ended. A connection that breaks on one side is reset on the other.
///
/// # Errors
/// [`Broken`], if it did not end as it should.
pub async fn bridge<R, W>(
    side: Side,
    reader: &mut Reader<R>,
    writer: &mut Writer<W>,
    tcp: TcpStream,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    // A small question must not wait for more.
    let _ = tcp.set_nodelay(true);
    let (mut from, mut to) = tcp.into_split();
    let inward = inward(side, reader, &mut to);
    let outward = outward(side, writer, &mut from);
    let ended = tokio::try_join!(inward, outward);
    let result = match ended {
        Ok(_) | Err(End::Over) => Ok(()),
        Err(End::Broken(broken)) => Err(broken),
    };
    if side == Side::Agent {
        let last = match &result {
            Ok(()) => Some(Control::Exit { status: 0, result: None }),
            Err(broken @ Broken::Connection(_)) => {
                Some(Control::Failed(Problem::of(crate::server::problem::Reason::Failed, broken)))
            }
            Err(_) => None,
        };
        if let Some(last) = last {
            writer.control(&last).await?;
        }
    }
    if result.is_err()
        && let Ok(tcp) = from.reunite(to)
    {
        // Closing what is broken as if all were well would pass a part of an answer off as the whole.
        let _ = rustix::net::sockopt::set_socket_linger(&tcp, Some(Duration::ZERO));
    }
    result
}

/// Frames to the connection.
async fn inward<R: AsyncRead + Unpin>(
    side: Side,
    reader: &mut Reader<R>,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), End> {
    let mut open = true;
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(End::Broken(Error::Cut.into())),
            Err(error) => return Err(End::Broken(error.into())),
        };
        match frame.channel {
            Channel::Control => match frame.control() {
                Ok(Control::Exit { .. }) => return Err(End::Over),
                Ok(Control::Failed(problem)) => return Err(End::Broken(Broken::Told(problem))),
                Ok(_) | Err(_) => {}
            },
            channel if channel == side.incoming() && open => {
                // Who reads no more may still have something to say.
                open = put(to, &frame.payload).await.map_err(|e| End::Broken(Broken::Connection(e)))?;
                // The agent's last word comes after both ends; the client waits for it here.
                if !open && side == Side::Agent {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
}

/// Writes a payload; an empty one is the end. Says whether more may follow. A reset is told here or by reading, whichever
/// comes first, and once.
async fn put(to: &mut (impl AsyncWrite + Unpin), payload: &Bytes) -> std::io::Result<bool> {
    if payload.is_empty() {
        // Where that fails, reading says why.
        let _ = to.shutdown().await;
        return Ok(false);
    }
    match to.write_all(payload).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(error),
        written => Ok(written.is_ok()),
    }
}

/// The connection to frames.
async fn outward<W: AsyncWrite + Unpin>(
    side: Side,
    writer: &mut Writer<W>,
    from: &mut (impl AsyncRead + Unpin),
) -> Result<(), End> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = from.read(&mut buffer).await.map_err(|e| End::Broken(Broken::Connection(e)))?;
        let piece = buffer.get(..n).unwrap_or_default();
        let sent = if n == 0 { writer.end(side.outgoing()).await } else { writer.send(side.outgoing(), piece).await };
        sent.map_err(|e| End::Broken(e.into()))?;
        if n == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Two ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap());
        let (one, two) = tokio::join!(one, listener.accept());
        (one.unwrap(), two.unwrap().0)
    }

    /// A user's connection and a pod's, with a bridge on either side of a framed stream between.
    async fn bridged() -> (TcpStream, TcpStream, tokio::task::JoinHandle<(Result<(), Broken>, Result<(), Broken>)>) {
        let ((user, accepted), (made, pod)) = (pair().await, pair().await);
        let (client, agent) = tokio::io::duplex(1024);
        let ends = tokio::spawn(async move {
            let (r, w) = tokio::io::split(client);
            let one = async move { bridge(Side::Client, &mut Reader::new(r), &mut Writer::new(w), accepted).await };
            let (r, w) = tokio::io::split(agent);
            let other = async move { bridge(Side::Agent, &mut Reader::new(r), &mut Writer::new(w), made).await };
            tokio::join!(one, other)
        });
        (user, pod, ends)
    }

    #[tokio::test]
    async fn each_way_ends_by_itself() {
        let (mut user, mut pod, ends) = bridged().await;
        let question = vec![7; 300_000];
        let asked = question.clone();
        let ask = async move {
            user.write_all(&asked).await.unwrap();
            user.shutdown().await.unwrap();
            let mut answer = Vec::new();
            user.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let reply = async move {
            let mut heard = Vec::new();
            pod.read_to_end(&mut heard).await.unwrap();
            pod.write_all(b"the answer").await.unwrap();
            heard
        };
        let (answer, heard) = tokio::join!(ask, reply);
        assert_eq!((answer.as_slice(), heard), (b"the answer".as_slice(), question));
        let (client, agent) = ends.await.unwrap();
        assert!(client.is_ok() && agent.is_ok());
    }

    #[tokio::test]
    async fn a_reset_on_either_side_is_one_on_the_other() {
        for user_breaks in [true, false] {
            let (mut user, mut pod, ends) = bridged().await;
            user.write_all(b"x").await.unwrap();
            pod.read_u8().await.unwrap();
            let (breaks, mut other) = if user_breaks { (user, pod) } else { (pod, user) };
            rustix::net::sockopt::set_socket_linger(&breaks, Some(Duration::ZERO)).unwrap();
            drop(breaks);
            let error = other.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{user_breaks}");
            let (client, agent) = ends.await.unwrap();
            assert!(client.is_err() && agent.is_err(), "{user_breaks}");
        }
    }
}
