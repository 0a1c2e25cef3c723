//! The agent's own resolver: on the bridge's address it answers pods for services and pods, and asks the host's
//! resolvers for the rest.
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | [`serve`] | the bridge's address, questions | answers | it is dropped |

mod answer;
mod names;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub(super) use names::Names;

/// Where the host's resolvers are named.
const HOST: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// Questions that are answered at once; more wait.
const AT_ONCE: usize = 256;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long to wait before an address is tried again that somebody else has.
const AGAIN: Duration = Duration::from_secs(2);

/// What the resolver follows.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    /// The bridge's address, while there is one.
    pub(super) address: watch::Receiver<Option<Ipv4Addr>>,
    /// What it answers.
    pub(super) names: watch::Receiver<Arc<Names>>,
}

/// Answers for as long as it is not dropped.
pub(super) async fn serve(mut followed: Followed) {
    loop {
        let current = *followed.address.borrow_and_update();
        let names = followed.names.clone();
        let serving = async move {
            match current {
                None => std::future::pending().await,
                Some(address) => on(address, names).await,
            }
        };
        tokio::select! {
            // Cancel-safe: a change that is not taken now is seen by the next wait.
            changed = followed.address.changed() => if changed.is_err() { return },
            () = serving => {}
        }
    }
}

/// Serves on one address; comes back only when that cannot be had, after a while.
async fn on(address: Ipv4Addr, names: watch::Receiver<Arc<Names>>) {
    let bound = async {
        Ok::<_, std::io::Error>((UdpSocket::bind((address, PORT)).await?, TcpListener::bind((address, PORT)).await?))
    };
    let (udp, tcp) = match bound.await {
        Ok((udp, tcp)) => (Arc::new(udp), tcp),
        Err(error) => {
            tracing::warn!(%address, %error, "pods cannot ask for names: the resolver's port cannot be had");
            return tokio::time::sleep(AGAIN).await;
        }
    };
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    // They end with this set, which is dropped with this future.
    let mut tasks = JoinSet::new();
    let mut query = vec![0; usize::from(u16::MAX)];
    loop {
        // Both arms are cancel-safe: a datagram or a connection that is not taken stays.
        tokio::select! {
            received = udp.recv_from(&mut query) => {
                let (Ok((length, from)), Ok(permit)) = (received, Arc::clone(&permits).acquire_owned().await) else { continue };
                let (socket, names) = (Arc::clone(&udp), names.borrow().clone());
                let question = query.get(..length).unwrap_or_default().to_vec();
                tasks.spawn(async move {
                    if let Some(reply) = answer::answer(&names, Path::new(HOST), &question, false).await {
                        // Whoever asked may be gone.
                        let _ = socket.send_to(&reply, from).await;
                    }
                    drop(permit);
                });
            }
            accepted = tcp.accept() => {
                let (Ok((stream, _)), Ok(permit)) = (accepted, Arc::clone(&permits).acquire_owned().await) else { continue };
                let names = names.clone();
                tasks.spawn(async move {
                    // A client that is silent or breaks off is no news.
                    let _ = connection(stream, names).await;
                    drop(permit);
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn connection(mut stream: TcpStream, names: watch::Receiver<Arc<Names>>) -> std::io::Result<()> {
    loop {
        let question = tokio::time::timeout(SILENCE, answer::read(&mut stream)).await??;
        let names = names.borrow().clone();
        let Some(reply) = answer::answer(&names, Path::new(HOST), &question, true).await else { return Ok(()) };
        answer::write(&mut stream, &reply).await?;
    }
}
