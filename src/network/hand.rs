//! All of it together: pods are attached and detached, and after a restart what is there is found again.

mod offer;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::cni::{self, Plugins};
use super::dns::{self, Names};
use super::lease::{Lease, Leases};
use super::nft::{Table, Tables};
use super::rules::{self, Input};
use super::service::{Grants, Resolved};
use super::{Error, Kind, Mode, Namespace, Settings, bridge, ports, subnet};
use crate::api::{PodKey, PodUid};
use crate::sys::netlink::route::Route;

/// How long the bridge outlives the last pod on it.
const LINGER: Duration = Duration::from_secs(10);

/// The network of a node's pods. Its methods block: for milliseconds, and one after the other.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
    instance: String,
    bridge: String,
    host: Vec<IpAddr>,
    plugins: Plugins,
    state: Mutex<State>,
    /// The bridge's address while there is one, and what is answered there.
    gateway: watch::Sender<Option<Ipv4Addr>>,
    names: watch::Sender<Arc<Names>>,
}

/// What a service was given, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Its cluster addresses, one a family.
    pub addresses: Vec<IpAddr>,
    /// Port, protocol and the node's port for it.
    pub node_ports: Vec<(u16, String, u16)>,
    /// Where its pods answer, as `address:port`.
    pub endpoints: Vec<String>,
}

#[derive(Debug)]
struct State {
    leases: Leases,
    grants: Grants,
    services: Vec<Resolved>,
    /// Variables that lead to the services of a namespace.
    links: BTreeMap<String, Vec<(String, String)>>,
    /// The rules as they are in the kernel, as far as this agent knows.
    rules: Option<Table>,
    tables: Tables,
}

impl Network {
    /// Reads what earlier agents handed out in `dir`; touches nothing yet. `instance` goes into names.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn open(settings: Settings, dir: &Path, instance: &str) -> Result<Self, Error> {
        let leases = Leases::open(dir)?;
        let grants = Grants::open(dir)?;
        let plugins = Plugins::open(&settings.cni, &dir.join("attachments"), instance)?;
        let names = Arc::new(Names::of(&settings.domain, &[]));
        let host = bridge::host_addresses().unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the machine's addresses are not known");
            Vec::new()
        });
        Ok(Self {
            settings,
            instance: instance.to_owned(),
            bridge: bridge::bridge_name(instance),
            host,
            plugins,
            state: Mutex::new(State {
                leases,
                grants,
                services: Vec::new(),
                links: BTreeMap::new(),
                rules: None,
                tables: Tables::default(),
            }),
            gateway: watch::channel(None).0,
            names: watch::channel(names).0,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The domain below which services and pods have names.
    pub fn domain(&self) -> &str {
        &self.settings.domain
    }

    /// Who answers a pod for services and pods; nobody where it is not on the bridge.
    pub fn resolvers(&self, uid: &PodUid) -> Vec<IpAddr> {
        let range =
            self.state().leases.range().filter(|_| self.has_bridge() && self.plugins.is_attached(uid).is_none());
        range.map(|range| range.v4_of(1).into()).into_iter().collect()
    }

    /// What a service was given, and what is behind it; `None` for one that is not known here.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Granted> {
        let state = self.state();
        let found = state.services.iter().find(|s| s.namespace == namespace && s.name == name)?;
        let node_ports = found.ports.iter().filter_map(|p| Some((p.number, p.protocol.to_string(), p.outside?)));
        let endpoints = found.ports.iter().flat_map(|p| &p.endpoints);
        let endpoints = endpoints.map(|(address, port)| std::net::SocketAddr::new(*address, *port).to_string());
        Some(Granted {
            addresses: found.addresses.clone(),
            node_ports: node_ports.collect(),
            endpoints: endpoints.collect(),
        })
    }

    /// What is to be known of the network, as names and values for a person.
    pub fn overview(&self) -> Vec<(&'static str, String)> {
        let state = self.state();
        let by = match self.settings.mode {
            Mode::None => return vec![("pods are connected by", "nothing: they have their loopback alone".to_owned())],
            Mode::Auto => "plugins where they are configured, else the built-in bridge",
            Mode::Bridge => "the built-in bridge",
            Mode::Cni => "plugins",
        };
        let none = || "none yet".to_owned();
        let (v4, v6) = match state.leases.range() {
            Some(range) => (range.v4.to_string(), range.v6.map_or_else(|| "none".to_owned(), |v6| v6.to_string())),
            None => (none(), none()),
        };
        let addresses = state.leases.all().values().filter(|lease| lease.v4.is_some()).count();
        let host: Vec<String> = self.host.iter().map(ToString::to_string).collect();
        vec![
            ("pods are connected by", by.to_owned()),
            ("bridge", self.bridge.clone()),
            ("addresses of pods", v4),
            ("addresses of pods, IPv6", v6),
            ("pods with an address", addresses.to_string()),
            ("addresses of services", state.grants.range().map_or_else(none, |range| range.v4.to_string())),
            ("services", state.services.len().to_string()),
            ("cluster domain", self.settings.domain.clone()),
            ("addresses of the node", host.join(", ")),
        ]
    }

    /// Whether pods may be on the bridge.
    const fn has_bridge(&self) -> bool {
        matches!(self.settings.mode, Mode::Auto | Mode::Bridge)
    }

    /// Answers pods that ask for names, for as long as it is not dropped.
    pub fn resolver(&self) -> impl Future<Output = ()> + Send + use<> {
        dns::serve(dns::Followed { address: self.gateway.subscribe(), names: self.names.subscribe() })
    }

    /// The node's own addresses, one a family.
    pub fn host_addresses(&self) -> &[IpAddr] {
        &self.host
    }

    /// A pod's addresses: its own, on the host's network the node's; none while it has none.
    pub fn addresses(&self, pod: &Pod, uid: &PodUid) -> Vec<IpAddr> {
        match Kind::of(pod) {
            Kind::Host => self.host.clone(),
            Kind::Own => {
                let leased = || self.state().leases.all().get(uid).map(Lease::addresses).unwrap_or_default();
                self.plugins.addresses(uid).unwrap_or_else(leased)
            }
        }
    }

    /// Whether everything is done for a pod that [`Network::attach`] does.
    pub fn is_attached(&self, pod: &Pod, uid: &PodUid) -> bool {
        if Kind::of(pod) == Kind::Host || self.settings.mode == Mode::None {
            return true;
        }
        if let Some(whole) = self.plugins.is_attached(uid) {
            return whole;
        }
        let pair = self.pair(&self.state(), uid);
        pair.is_some_and(|pair| bridge::is_connected(&pair))
    }

    /// Gives a pod its addresses and ports, and connects `namespace`, where it has one of its own. Again for the same
    /// pod it gives the same.
    ///
    /// # Errors
    /// If a port is somebody else's, no address is left, or the kernel refuses; nothing is then held by the pod.
    pub fn attach(&self, pod: &Pod, uid: &PodUid, namespace: Option<&Namespace>) -> Result<(), Error> {
        let network = if namespace.is_some() { self.network_of(uid)? } else { None };
        let plugged = network.zip(namespace);
        let bridged = namespace.filter(|_| plugged.is_none());
        let mut result = self.try_attach(&mut self.state(), pod, uid, bridged);
        if let (Ok(()), Some((network, namespace))) = (&result, plugged) {
            // They take their time: no lock is held meanwhile.
            result = self.plugins.attach(pod, uid, network, &ports::of(pod), namespace).map_err(Into::into);
        }
        // What plugins could not undo keeps its ports, too.
        if result.is_err()
            && self.plugins.is_attached(uid).is_none()
            && let Err(error) = self.give_back(&mut self.state(), uid)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, %uid, "what a pod was given is not free again yet");
        }
        result
    }

    /// The network of plugins that a pod is on, or is to be on; none where that is the bridge, or nothing.
    fn network_of(&self, uid: &PodUid) -> Result<Option<cni::Network>, Error> {
        if let Some(network) = self.plugins.network_of(uid) {
            return Ok(Some(network));
        }
        if self.state().leases.all().get(uid).is_some_and(|lease| lease.v4.is_some()) {
            return Ok(None);
        }
        Ok(match self.settings.mode {
            Mode::Auto => self.plugins.configured()?,
            Mode::Cni => Some(self.plugins.required()?),
            Mode::Bridge | Mode::None => None,
        })
    }

    fn try_attach(
        &self,
        state: &mut State,
        pod: &Pod,
        uid: &PodUid,
        namespace: Option<&Namespace>,
    ) -> Result<(), Error> {
        let name = PodKey::of(&pod.metadata).to_string();
        let wanted = ports::of(pod);
        let bridged = namespace.filter(|_| self.has_bridge());
        if wanted.is_empty() && bridged.is_none() {
            return Ok(());
        }
        let known = state.leases.all().get(uid).cloned();
        let others = state.leases.all().iter().filter(|(other, _)| *other != uid);
        let taken = others.flat_map(|(_, lease)| lease.ports.iter().map(|port| (lease.pod.as_str(), port)));
        // On the host's network it is the pod itself that listens.
        ports::check(&wanted, taken, Kind::of(pod) == Kind::Own && known.is_none())?;
        let mut lease = known.unwrap_or(Lease { pod: name, v4: None, v6: None, ports: Vec::new() });
        lease.ports = wanted.into_iter().map(|(_, port)| port).collect();
        let Some(namespace) = bridged else { return state.leases.grant(uid, lease) };
        let (range, link) = self.bridge(state)?;
        let number = match lease.v4.and_then(|v4| range.number(v4)) {
            Some(number) => number,
            None => state.leases.free(&range)?,
        };
        (lease.v4, lease.v6) = (Some(range.v4_of(number)), range.v6_of(number));
        state.leases.grant(uid, lease.clone())?;
        bridge::connect(&link, &bridge::pair_name(&self.instance, number), &lease, &range, &namespace.fd)?;
        self.rule(state)
    }

    /// The node's range, and its bridge, made where they are missing.
    fn bridge(&self, state: &mut State) -> Result<(subnet::Range, crate::sys::netlink::route::Link), Error> {
        if state.leases.any_address()
            && let Some(range) = state.leases.range()
        {
            return Ok((range, bridge::ensure(&self.bridge, &range, state.grants.range())?));
        }
        // Nobody is on it: where the range is somebody else's by now, another will do.
        let _lock = bridge::lock()?;
        let failed = || Error::kernel("list what addresses are in use");
        let mut route = Route::open().map_err(failed())?;
        let own = route.link(&self.bridge).map_err(failed())?.map(|link| link.index);
        let mut used = route.routes().map_err(failed())?;
        used.extend(route.addresses().map_err(failed())?);
        used.retain(|range| Some(range.link) != own);
        let v6 = bridge::has_v6();
        let kept = state.leases.range().filter(|range| {
            let pool = self.settings.pods;
            pool.contains(&range.v4) && range.v6.is_some() == v6 && subnet::is_free(range.v4, &used)
        });
        let range = if let Some(range) = kept {
            range
        } else {
            let chosen = subnet::choose(self.settings.pods, &self.instance, v6, &used);
            let range = chosen.ok_or(Error::NoRange { pool: self.settings.pods })?;
            bridge::remove(&self.bridge)?;
            state.leases.set_range(range)?;
            range
        };
        // Also if nothing comes of it.
        self.gateway.send_modify(|_| {});
        Ok((range, bridge::ensure(&self.bridge, &range, state.grants.range())?))
    }

    /// Takes back what a pod has; nothing is fine. Its interface goes with it.
    ///
    /// # Errors
    /// If the kernel refuses or the disk does; trying again goes on where this ended.
    pub fn detach(&self, uid: &PodUid) -> Result<(), Error> {
        self.unplug(uid)?;
        // The kernel takes its time with an interface. Nobody has to wait for it: the address is not free yet.
        let pair = self.pair(&self.state(), uid);
        if let Some(pair) = pair {
            bridge::remove(&pair)?;
        }
        self.give_back(&mut self.state(), uid)
    }

    /// The host's end of a pod's pair.
    fn pair(&self, state: &State, uid: &PodUid) -> Option<String> {
        let number = state.leases.range()?.number(state.leases.all().get(uid)?.v4?)?;
        Some(bridge::pair_name(&self.instance, number))
    }

    /// Has plugins undo what they did for a pod, while its namespace is still there.
    ///
    /// # Errors
    /// If a plugin fails; trying again asks all of them again.
    pub fn unplug(&self, uid: &PodUid) -> Result<(), Error> {
        Ok(self.plugins.detach(uid)?)
    }

    fn give_back(&self, state: &mut State, uid: &PodUid) -> Result<(), Error> {
        if let Some(pair) = self.pair(state, uid) {
            bridge::remove(&pair)?;
        }
        state.leases.release(uid)?;
        self.rule(state)
    }

    /// Removes the bridge if no pod is on it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn rest(&self) -> Result<(), Error> {
        let state = self.state();
        if state.leases.any_address() { Ok(()) } else { bridge::remove(&self.bridge) }
    }

    /// Removes the bridge once no pod has needed it for a while, for as long as it is not dropped. One-off pods, one
    /// after another, find it there.
    pub async fn keep(self: Arc<Self>) {
        let mut gateway = self.gateway.subscribe();
        loop {
            if gateway.wait_for(Option::is_none).await.is_err() {
                return;
            }
            if tokio::time::timeout(LINGER, gateway.changed()).await.is_ok() {
                continue;
            }
            let network = Arc::clone(&self);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || network.rest()).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the bridge that nobody needs is still there");
            }
            if gateway.changed().await.is_err() {
                return;
            }
        }
    }

    /// Brings the rules in line with what is handed out.
    fn rule(&self, state: &mut State) -> Result<(), Error> {
        let failed = |error: crate::sys::netlink::Error| {
            if matches!(error, crate::sys::netlink::Error::Socket(_)) || error.is(libc::EOPNOTSUPP) {
                Error::Missing { what: "nftables", source: error }
            } else {
                Error::kernel(format!("set the rules of table {}", self.bridge))(error)
            }
        };
        let range = state.leases.range().filter(|_| state.leases.any_address());
        let gateway = range.map(|range| range.v4_of(1));
        self.gateway.send_if_modified(|old| std::mem::replace(old, gateway) != gateway);
        if !state.leases.any_address() {
            state.rules = None;
            return match state.tables.remove(&self.bridge) {
                // Where there are no tables, none is left.
                Err(error) => match failed(error) {
                    Error::Missing { .. } => Ok(()),
                    error => Err(error),
                },
                Ok(()) => Ok(()),
            };
        }
        let leases: Vec<&Lease> = state.leases.all().values().collect();
        let input = Input {
            table: &self.bridge,
            bridge: &self.bridge,
            range: state.leases.range(),
            leases: &leases,
            services: &state.services,
        };
        let table = rules::table(&input);
        if state.rules.as_ref() != Some(&table) {
            state.tables.replace(&table).map_err(failed)?;
            state.rules = Some(table);
        }
        Ok(())
    }

    /// After a start, once it is known which pods there are: what is not theirs goes, and rules that are missing come
    /// back. Gives what plugins say of pods, by `namespace/name`.
    ///
    /// # Errors
    /// If the kernel or the disk refuses.
    pub fn sync(&self, alive: impl Fn(&PodUid) -> bool) -> Result<Vec<(String, Error)>, Error> {
        for uid in self.plugins.pods().into_iter().filter(|uid| !alive(uid)) {
            tracing::info!(%uid, "a pod that is no more is taken off its network");
            if let Err(error) = self.plugins.detach(&uid) {
                tracing::warn!(error = &error as &dyn std::error::Error, %uid, "a pod that is no more has still something");
            }
        }
        self.restore(alive)?;
        let problems = self.plugins.check().into_iter().map(|(pod, error)| (pod, error.into())).collect();
        if let Err(error) = self.plugins.collect() {
            tracing::warn!(error = &error as &dyn std::error::Error, "what is of no pod is not collected");
        }
        Ok(problems)
    }

    /// The same of the bridge.
    fn restore(&self, alive: impl Fn(&PodUid) -> bool) -> Result<(), Error> {
        let mut state = self.state();
        let gone: Vec<PodUid> = state.leases.all().keys().filter(|uid| !alive(uid)).cloned().collect();
        for uid in gone {
            tracing::info!(%uid, "a pod that is no more gives back its addresses");
            self.give_back(&mut state, &uid)?;
        }
        let numbers = state.leases.all().values().filter_map(|l| state.leases.range()?.number(l.v4?));
        let known: Vec<String> = numbers.map(|n| bridge::pair_name(&self.instance, n)).collect();
        for link in bridge::pairs(&self.instance)? {
            if !known.contains(&link.name) {
                bridge::remove(&link.name)?;
            }
        }
        if state.leases.any_address() {
            if let Some(range) = state.leases.range() {
                bridge::ensure(&self.bridge, &range, state.grants.range())?;
            }
        } else {
            bridge::remove(&self.bridge)?;
        }
        self.rule(&mut state)
    }
}
