//! Connections to pods for `port-forward`: made inside a pod's network namespace, as a kubelet makes them.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::{TcpSocket, TcpStream};

use super::{Error, Node};
use crate::api::workload::owner_key;
use crate::api::{Kind, Object, ObjectKey, PodKey, PodView};
use crate::pod::view::is_ready;

/// A port of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// The pod.
    pub pod: PodKey,
    /// The port.
    pub port: u16,
}

impl Node {
    /// Which port of which pod is meant: `port` is a number or a name, of the pod or of a service. Of several pods a ready
    /// one is taken.
    ///
    /// # Errors
    /// If there is no such object, no pod of it is there, or it has no such port.
    pub fn forward_target(&self, target: &ObjectKey, port: &str) -> Result<PodPort, Error> {
        let missing =
            || Error::NotFound { kind: target.kind.as_str(), name: format!("{}/{}", target.namespace, target.name) };
        let views = self.inner.board.subscribe().borrow().clone();
        let set = self.inner.sets.borrow().clone();
        let object = set.objects.iter().find(|s| s.object.key() == *target).map(|s| &s.object);
        let (pods, port): (Vec<&Arc<PodView>>, Wanted) = match (target.kind, object.map(AsRef::as_ref)) {
            (Kind::Pod, _) => (views.iter().filter(|v| is_named(v, target)).collect(), Wanted::of(port)),
            (Kind::Service, Some(Object::Service(service))) => {
                let wanted = of_service(service, port).ok_or_else(|| no_port(target, port))?;
                (views.iter().filter(|v| is_selected(v, service)).collect(), wanted)
            }
            (Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet | Kind::Job, _) => {
                let of = |v: &&Arc<PodView>| {
                    v.lamina.owner.as_ref().is_some_and(|owner| owner_key(owner, &v.key().namespace) == *target)
                };
                let known = object.is_some() || self.inner.board.workloads().contains_key(target);
                (if known { views.iter().filter(of).collect() } else { return Err(missing()) }, Wanted::of(port))
            }
            (Kind::Service, _) => return Err(missing()),
            _ => {
                return Err(Error::Refused {
                    action: "forward a port to",
                    name: target.to_string(),
                    reason: "it has no pods".to_owned(),
                });
            }
        };
        let running = |v: &&&Arc<PodView>| self.inner.machine.sandbox(&v.lamina.uid).is_some();
        let ready = pods.iter().filter(running).find(|v| is_ready(v));
        let Some(view) = ready.or_else(|| pods.iter().find(running)) else {
            return match (target.kind, pods.is_empty()) {
                (Kind::Pod, true) => Err(missing()),
                _ => Err(Error::Refused {
                    action: "forward a port to",
                    name: target.to_string(),
                    reason: "none of its pods runs".to_owned(),
                }),
            };
        };
        let number = match &port {
            Wanted::Number(number) => Some(*number),
            Wanted::Name(name) => named(&view.pod, name),
        };
        let port = number.ok_or_else(|| no_port(target, port.text().as_str()))?;
        Ok(PodPort { pod: view.key(), port })
    }

    /// Connects to a port of a pod: on its loopback, else at its address.
    ///
    /// # Errors
    /// If the pod does not run, or nothing listens there.
    pub async fn connect(&self, to: &PodPort) -> Result<TcpStream, Error> {
        let PodPort { pod, port } = to;
        let action = || format!("connect to port {port} of pod {pod}");
        let view = self.inner.board.view(pod);
        let view = view.ok_or_else(|| Error::NotFound { kind: "pod", name: pod.to_string() })?;
        let machine = &self.inner.machine;
        let handle = machine.sandbox(&view.lamina.uid).ok_or_else(|| Error::Refused {
            action: "connect to",
            name: format!("pod {pod}"),
            reason: "it does not run".to_owned(),
        })?;
        let shim = handle.client.hello().pid;
        let network: OwnedFd = File::open(format!("/proc/{shim}/ns/net")).map_err(Error::failed(action()))?.into();
        let network = Arc::new(network);
        let mut places: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        places.extend(machine.addresses(&view.pod, &view.lamina.uid).0.iter().filter_map(|a| a.parse::<IpAddr>().ok()));
        let mut first = None;
        for place in places {
            match self.try_connect(&network, SocketAddr::new(place, *port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(Error::failed(action())(first.unwrap_or_else(|| std::io::ErrorKind::NotConnected.into())))
    }

    async fn try_connect(&self, network: &Arc<OwnedFd>, address: SocketAddr) -> std::io::Result<TcpStream> {
        let (tell, made) = tokio::sync::oneshot::channel();
        let hand_over = Box::new(move |socket| {
            // Whoever asked may have given up.
            let _ = tell.send(socket);
        });
        self.inner.machine.sockets.tcp(network, address, hand_over);
        let socket = made.await.map_err(std::io::Error::other)??;
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    }
}

/// A port as it is asked for.
enum Wanted {
    Number(u16),
    Name(String),
}

impl Wanted {
    fn of(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Number)
    }

    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

fn no_port(target: &ObjectKey, port: &str) -> Error {
    Error::NotFound { kind: "port", name: format!("{port} of {target}") }
}

fn is_named(view: &PodView, target: &ObjectKey) -> bool {
    let key = view.key();
    key.namespace == target.namespace && key.name == target.name
}

/// Whether a pod is behind a service.
fn is_selected(view: &PodView, service: &Service) -> bool {
    let namespace = service.metadata.namespace.as_deref().unwrap_or(crate::api::ids::DEFAULT_NAMESPACE);
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    let labels = view.pod.metadata.labels.as_ref();
    let has = |(key, value): (&String, &String)| labels.and_then(|l| l.get(key)) == Some(value);
    view.key().namespace == namespace && selector.is_some_and(|s| s.iter().all(has))
}

/// Where a port of a service leads.
fn of_service(service: &Service, port: &str) -> Option<Wanted> {
    let is_it = |p: &&ServicePort| p.name.as_deref() == Some(port) || p.port.to_string() == port;
    let found = service.spec.iter().flat_map(|s| s.ports.iter().flatten()).find(is_it)?;
    Some(match &found.target_port {
        None => Wanted::of(&found.port.to_string()),
        Some(IntOrString::Int(number)) => Wanted::of(&number.to_string()),
        Some(IntOrString::String(name)) => Wanted::of(name),
    })
}

/// A port of a pod by its name.
fn named(pod: &Pod, name: &str) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let port = containers.flat_map(|c| c.ports.iter().flatten()).find(|p| p.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}
