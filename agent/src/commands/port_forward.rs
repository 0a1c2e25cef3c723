//! `lamina port-forward`: ports of this machine that lead to a pod, made inside its network namespace.
//!
//! One framed stream a connection; which pod is meant is asked anew for each, so that a pod's restart, and a rollout
//! behind a service, are no more than a connection that fails.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use clap::Args;
use lamina::server::stream::bridge::{Broken, Side, bridge};
use lamina::server::wire;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cli::Context;
use crate::client::{Client, Route, Stream};
use crate::failure::{Failure, Status};
use crate::output;

/// Forwards ports of this machine to a pod.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `POD`, or `KIND/NAME` of a service or workload, of which a ready pod is taken
    #[arg(value_name = "POD|KIND/NAME")]
    object: String,
    /// `LOCAL:REMOTE`; `PORT` for the same on both sides; `:REMOTE` takes any that is free. REMOTE may be a port's name
    #[arg(required = true, value_name = "LOCAL:REMOTE")]
    ports: Vec<Pair>,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Where to listen: addresses, or `localhost` for both loopbacks
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost")]
    address: Vec<String>,
}

/// Two ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// 0: any that is free.
    local: u16,
    remote: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        let number = |t: &str| t.parse::<u16>().ok();
        let local = match local {
            "" => Some(0),
            // A name stands on the pod's side only.
            name if name == remote && number(name).is_none() => Some(0),
            port => number(port).filter(|n| *n > 0),
        };
        let is_port = number(remote).map_or_else(|| !remote.is_empty() && !remote.contains(':'), |n| n > 0);
        match local {
            Some(local) if is_port => Ok(Self { local, remote: remote.to_owned() }),
            _ => Err("expected LOCAL:REMOTE, PORT or :REMOTE, ports from 1 to 65535".to_owned()),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Found {
    port: u16,
}

/// Everything that a connection needs.
#[derive(Debug, Clone)]
struct Forward {
    agent: Client,
    to: wire::PortForward,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let (kind, name) = super::object_name(&a.object);
    let mut accepting = JoinSet::new();
    for pair in &a.ports {
        let to = wire::PortForward {
            kind: kind.to_owned(),
            namespace: a.namespace.clone(),
            name: name.to_owned(),
            port: pair.remote.clone(),
        };
        let route = Route::new("/v1/port-forward").segment(kind).segment(&a.namespace).segment(name);
        let Found { port } = context.agent.get(&route.with("port", &pair.remote)).await?;
        for listener in listen(&a.address, pair.local).await? {
            let at = listener.local_addr().context("cannot tell the port")?;
            output::line(format!("Forwarding from {at} -> {port}"))?;
            accepting.spawn(accept(listener, Forward { agent: context.agent.clone(), to: to.clone() }));
        }
    }
    output::flush()?;
    // They go on until somebody ends us.
    while let Some(ended) = accepting.join_next().await {
        ended??;
    }
    Ok(ExitCode::SUCCESS)
}

/// A listener for each address, all on one port.
async fn listen(addresses: &[String], port: u16) -> anyhow::Result<Vec<TcpListener>> {
    let (mut listeners, mut port) = (Vec::new(), port);
    for text in addresses {
        let places: Vec<IpAddr> = match text.as_str() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            text => vec![text.parse().map_err(|_| Failure::usage(format!("{text} is no address of this machine")))?],
        };
        for (n, place) in places.into_iter().enumerate() {
            match TcpListener::bind(SocketAddr::new(place, port)).await {
                Ok(listener) => {
                    port = listener.local_addr().context("cannot tell the port")?.port();
                    listeners.push(listener);
                }
                // A machine without IPv6 has one loopback.
                Err(_) if n > 0 => {}
                Err(source) => {
                    let failure = Failure::new(Status::Failed, format!("cannot listen on {place} port {port}"));
                    return Err(failure.source(source).hint("`:REMOTE` takes any port that is free").into());
                }
            }
        }
    }
    Ok(listeners)
}

async fn accept(listener: TcpListener, forward: Forward) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.context("cannot accept a connection")?;
        let forward = forward.clone();
        connections.spawn(async move {
            if let Err(error) = forward.connection(tcp).await {
                output::note(format!("error: {error:#}"));
            }
        });
        // What has ended is forgotten.
        while connections.try_join_next().is_some() {}
    }
}

impl Forward {
    async fn connection(&self, tcp: TcpStream) -> anyhow::Result<()> {
        let route = Route::new("/v1/port-forward");
        let stream = self.agent.stream(&route, &self.to).await;
        let Stream { mut reader, mut writer } = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Whoever connected learns at once that nobody is there.
                let _ = rustix::net::sockopt::set_socket_linger(&tcp, Some(std::time::Duration::ZERO));
                return Err(error);
            }
        };
        match bridge(Side::Client, &mut reader, &mut writer, tcp).await {
            // The one who connected broke it off, and knows.
            Ok(()) | Err(Broken::Connection(_)) => Ok(()),
            Err(broken) => Err(broken.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_ports_are_read_as_kubectl_reads_them() {
        let pair = |local, remote: &str| Ok(Pair { local, remote: remote.to_owned() });
        for (text, read) in [
            ("8080:80", pair(8080, "80")),
            ("80", pair(80, "80")),
            (":80", pair(0, "80")),
            ("8080:http", pair(8080, "http")),
            ("http", pair(0, "http")),
        ] {
            assert_eq!(text.parse(), read, "{text}");
        }
        for text in ["", ":", "0:80", "80:0", "70000:80", "80:70000x:1", "x:80", "80:"] {
            assert!(text.parse::<Pair>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn both_loopbacks_share_a_port_that_is_free() {
        let listeners = listen(&["localhost".to_owned()], 0).await.unwrap();
        let ports: std::collections::BTreeSet<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports.len(), 1);
        let taken = *ports.first().unwrap();
        let error = listen(&["127.0.0.1".to_owned()], taken).await.unwrap_err();
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        assert!(listen(&["nowhere".to_owned()], 0).await.is_err());
    }
}
