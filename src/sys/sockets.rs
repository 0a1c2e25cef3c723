//! Connections that begin inside another network namespace.
//!
//! A socket belongs to the namespace that it was made in, whoever uses it. One thread of its own enters namespaces and
//! makes sockets there; everything after that is ordinary asynchronous work elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

type Made = Box<dyn FnOnce(io::Result<OwnedFd>) + Send>;

/// The thread that makes sockets. It ends with the last clone of this.
#[derive(Debug, Clone)]
pub struct Sockets(mpsc::Sender<Wish>);

struct Wish {
    namespace: Arc<OwnedFd>,
    family: AddressFamily,
    made: Made,
}

impl Sockets {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start() -> io::Result<Self> {
        let (wishes, next) = mpsc::channel::<Wish>();
        std::thread::Builder::new().name("sockets".to_owned()).spawn(move || {
            while let Ok(wish) = next.recv() {
                (wish.made)(make(&wish.namespace, wish.family));
            }
        })?;
        Ok(Self(wishes))
    }

    /// Has a TCP socket for connections to `address` made in a network namespace, and hands it to `made`.
    pub fn tcp(&self, namespace: &Arc<OwnedFd>, address: SocketAddr, made: Made) {
        let family = match address.ip() {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        // The thread is there as long as this is; were it not, `made` is dropped, which says so.
        let _ = self.0.send(Wish { namespace: Arc::clone(namespace), family, made });
    }
}

fn make(namespace: &OwnedFd, family: AddressFamily) -> io::Result<OwnedFd> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}
