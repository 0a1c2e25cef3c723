//! What a probe or a hook does, and where.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{connect, exec, grpc, http};
use crate::runtime::client::{Client, Told};
use crate::sys::sockets::Sockets;

/// One thing that can be done to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run a command in it.
    Exec(Vec<String>),
    /// Ask for a page.
    Http(http::Page),
    /// Connect.
    Tcp {
        /// To another host than the pod itself.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// Ask the health service.
    Grpc {
        /// The port.
        port: u16,
        /// Of which service; empty for the server as a whole.
        service: String,
        /// Through TLS, whoever the other side is.
        tls: bool,
    },
    /// Wait.
    Sleep(Duration),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It went well.
    Success,
    /// It did not, and why.
    Failure(String),
    /// It could not be found out, and why; counts for nothing.
    Unknown(String),
}

/// Where a container is, for whoever wants to reach it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Makes sockets in namespaces.
    pub sockets: Sockets,
    /// The pod's network namespace.
    pub network: Arc<OwnedFd>,
    /// The pod's address, as seen from inside.
    pub address: IpAddr,
    /// Its shim.
    pub client: Client,
    /// What the shim tells.
    pub told: Told,
    /// The container's name.
    pub container: String,
    /// Which start of it.
    pub attempt: u32,
    /// The file with its spec.
    pub spec: PathBuf,
}

impl Place {
    /// The pod's own address where nothing else is given.
    pub(super) async fn resolve(&self, host: Option<&str>, port: u16) -> Result<SocketAddr, String> {
        let Some(host) = host else { return Ok(SocketAddr::new(self.address, port)) };
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        if host == "localhost" {
            return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        let mut found =
            tokio::net::lookup_host((host, port)).await.map_err(|e| format!("cannot resolve {host}: {e}"))?;
        found.next().ok_or_else(|| format!("{host} has no address"))
    }
}

impl Action {
    /// What a probe does; `None` if its port has a name that no port of the container has.
    pub fn of_probe(probe: &Probe, container: &Container) -> Option<Self> {
        if let Some(grpc) = &probe.grpc {
            return Some(Self::Grpc {
                port: u16::try_from(grpc.port).ok()?,
                service: grpc.service.clone().unwrap_or_default(),
                tls: grpc.mode.as_deref() == Some("TLS"),
            });
        }
        let exec = probe.exec.as_ref().map(|e| e.command.clone().unwrap_or_default());
        Self::of(exec, probe.http_get.as_ref(), probe.tcp_socket.as_ref(), container)
    }

    /// What a hook does; as [`Action::of_probe`].
    pub fn of_hook(hook: &LifecycleHandler, container: &Container) -> Option<Self> {
        if let Some(sleep) = &hook.sleep {
            return Some(Self::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())));
        }
        let exec = hook.exec.as_ref().map(|e| e.command.clone().unwrap_or_default());
        Self::of(exec, hook.http_get.as_ref(), hook.tcp_socket.as_ref(), container)
    }

    fn of(
        exec: Option<Vec<String>>,
        page: Option<&HTTPGetAction>,
        tcp: Option<&TCPSocketAction>,
        container: &Container,
    ) -> Option<Self> {
        if let Some(command) = exec {
            return Some(Self::Exec(command));
        }
        if let Some(page) = page {
            return Some(Self::Http(http::Page::of(page, port(&page.port, container)?)));
        }
        let tcp = tcp?;
        let host = tcp.host.clone().filter(|h| !h.is_empty());
        Some(Self::Tcp { host, port: port(&tcp.port, container)? })
    }

    /// Does it. A failure to be done in time is one.
    pub async fn act(&self, place: &Place, timeout: Duration) -> Outcome {
        let seconds = timeout.as_secs();
        match self {
            Self::Exec(command) => exec::run(command, place, timeout).await,
            Self::Sleep(time) => {
                tokio::time::sleep(*time).await;
                Outcome::Success
            }
            _ => match tokio::time::timeout(timeout, self.ask(place)).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Failure(format!("no answer within {seconds} s")),
            },
        }
    }

    async fn ask(&self, place: &Place) -> Outcome {
        match self {
            Self::Http(page) => http::get(page, place).await,
            Self::Grpc { port, service, tls } => grpc::check(place, *port, service, *tls).await,
            Self::Tcp { host, port } => match connect::tcp(place, host.as_deref(), *port).await {
                Ok(_) => Outcome::Success,
                Err(why) => Outcome::Failure(why),
            },
            Self::Exec(_) | Self::Sleep(_) => Outcome::Success,
        }
    }
}

/// A port by number, or by the name that the container gives it.
pub fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            if let Ok(number) = name.parse() {
                number
            } else {
                let named = |p: &&k8s_openapi::api::core::v1::ContainerPort| p.name.as_deref() == Some(name.as_str());
                container.ports.iter().flatten().find(named)?.container_port
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0)
}
