//! Networks of CNI plugins: programs that attach a pod's namespace to whatever an administrator has configured, by the
//! specification of the Container Network Interface, version 1.1 and those before it.
//!
//! ```text
//!   list ─ the configuration ─┐
//!                             ├─▶ ADD, one plugin after the other ─▶ attachment, on disk ─▶ DEL in reverse
//!   pod ─ ports, bandwidth ───┘                                     └▶ CHECK, GC after a start of the agent
//! ```
//!
//! | file | what |
//! |---|---|
//! | `list` | configurations, and versions |
//! | `call` | one call of a plugin |
//! | `attachment` | what was attached, on disk |
//! | `claims` | who uses a network |
//! | `error` | why it went wrong |
//!
//! An attachment is written down before the first plugin is run, with the configuration that it is made by, and removed
//! after every plugin has undone its part: a crash, a changed configuration or a plugin that fails leaves nothing that
//! nobody knows of. Pods are attached side by side; no lock is held while a plugin runs but the one that keeps garbage
//! from being collected meanwhile.

mod attachment;
mod call;
mod claims;
mod error;
mod list;

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::{Map, Value, json};

use self::attachment::{Attachment, Attachments};
use self::call::{Caller, Task, Whom};
use self::claims::Claims;
pub use self::error::Error;
pub(super) use self::list::Network;
use self::list::Version;
use super::{HostPort, Namespace};
use crate::api::quantity::Quantity;
use crate::api::{PodKey, PodUid};

/// The argument by which a plugin is told of ports of the host.
const PORTS: &str = "portMappings";
/// The argument by which a plugin is told how fast a pod may be.
const BANDWIDTH: &str = "bandwidth";
/// The annotations that say so, and the parts of the argument.
const RATES: [(&str, &str, &str); 2] = [
    ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
    ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
];
/// A burst that is no limit of its own; what plugins take at most.
const BURST: i32 = i32::MAX;
/// A plugin of a network is not ready.
const NOT_READY: [u32; 2] = [50, 51];

/// Where configurations and plugins are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where configurations lie.
    pub dir: PathBuf,
    /// Where programs lie; the first that has one counts.
    pub programs: Vec<PathBuf>,
    /// How long a plugin may take.
    pub limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: "/etc/lamina/cni/net.d".into(),
            programs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).into(),
            limit: Duration::from_mins(1),
        }
    }
}

/// The plugins of a node, and what they have attached.
#[derive(Debug)]
pub(super) struct Plugins {
    dir: PathBuf,
    caller: Caller,
    claims: Claims,
    instance: String,
    boot: String,
    state: Mutex<Attachments>,
    /// Held by whoever runs plugins for a pod; by the collector of garbage alone.
    running: RwLock<()>,
}

impl Plugins {
    /// Reads in `dir` what earlier agents attached; runs nothing.
    pub(super) fn open(settings: &Settings, dir: &Path, instance: &str) -> Result<Self, Error> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Self {
            dir: settings.dir.clone(),
            caller: Caller::new(settings.programs.clone(), settings.limit),
            claims: Claims::new(instance),
            instance: instance.to_owned(),
            boot: boot.trim().to_owned(),
            state: Mutex::new(Attachments::open(dir)?),
            running: RwLock::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, Attachments> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, uid: &PodUid) -> Option<Attachment> {
        self.state().all.get(uid).cloned()
    }

    /// The network that pods are attached to now, if one is configured.
    pub(super) fn configured(&self) -> Result<Option<Network>, Error> {
        list::first(&self.dir)
    }

    /// As [`Self::configured`], where there must be one.
    pub(super) fn required(&self) -> Result<Network, Error> {
        self.configured()?.ok_or_else(|| Error::NoConfiguration { dir: self.dir.clone() })
    }

    /// The network that a pod is attached to as a whole.
    pub(super) fn network_of(&self, uid: &PodUid) -> Option<Network> {
        self.known(uid).filter(|a| a.result.is_some()).map(|a| a.network)
    }

    /// Whether a pod is attached, in part at least, and whether as a whole.
    pub(super) fn is_attached(&self, uid: &PodUid) -> Option<bool> {
        self.state().all.get(uid).map(|a| a.result.is_some())
    }

    /// The addresses that plugins gave a pod.
    pub(super) fn addresses(&self, uid: &PodUid) -> Option<Vec<IpAddr>> {
        self.state().all.get(uid).map(Attachment::addresses)
    }

    /// The pods that have something here.
    pub(super) fn pods(&self) -> Vec<PodUid> {
        self.state().all.keys().cloned().collect()
    }

    /// Attaches a pod to a network. One that is attached stays as it is; if anything fails, what was done is undone, and
    /// what cannot be undone is remembered.
    pub(super) fn attach(
        &self,
        pod: &Pod,
        uid: &PodUid,
        network: Network,
        ports: &[(String, HostPort)],
        namespace: &Namespace,
    ) -> Result<(), Error> {
        if let Some(known) = self.known(uid) {
            if known.result.is_some() && known.namespace == namespace.id && known.boot == self.boot {
                return Ok(());
            }
            self.detach(uid)?;
        }
        let _running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        let version = self.caller.version(&network)?;
        let key = PodKey::of(&pod.metadata);
        let container = format!("{}{uid}", self.ours());
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}",
            key.namespace, key.name
        );
        let runtime = runtime(pod, &network, ports)?;
        let mut attachment = Attachment {
            pod: key.to_string(),
            network,
            version,
            container,
            interface: super::bridge::INSIDE.to_owned(),
            arguments,
            runtime,
            path: namespace.path.clone(),
            namespace: namespace.id,
            boot: self.boot.clone(),
            result: None,
        };
        self.ready(&attachment)?;
        self.claims.claim(&attachment.network.name)?;
        self.state().put(uid, attachment.clone())?;
        match self.add(&attachment) {
            Ok(result) => {
                attachment.result = Some(result);
                Ok(self.state().put(uid, attachment)?)
            }
            Err(error) => {
                if let Err(left) = self.undo(uid, &attachment) {
                    tracing::warn!(error = &left as &dyn std::error::Error, %uid, "what plugins began is not undone yet");
                }
                Err(error)
            }
        }
    }

    /// How the container ids begin that this agent gives plugins.
    fn ours(&self) -> String {
        format!("lamina-{}-", self.instance)
    }

    /// Runs one plugin for an attachment.
    fn one(
        &self,
        attachment: &Attachment,
        plugin: &Map<String, Value>,
        task: Task,
        previous: Option<&Value>,
    ) -> Result<Option<Value>, Error> {
        let whom = Whom {
            container: &attachment.container,
            namespace: if self.lives(attachment) { &attachment.path } else { "" },
            interface: &attachment.interface,
            arguments: &attachment.arguments,
        };
        let mut input = input(&attachment.network, attachment.version, plugin, previous);
        let takes = |(name, _): &(&String, &Value)| list::takes(plugin, name);
        let runtime: Map<_, _> = attachment.runtime.iter().filter(takes).map(|(n, v)| (n.clone(), v.clone())).collect();
        if !runtime.is_empty() {
            input["runtimeConfig"] = runtime.into();
        }
        self.caller.call(&attachment.network, plugin, task, &whom, &input)
    }

    /// Whether a pod's namespace is still where it was.
    fn lives(&self, attachment: &Attachment) -> bool {
        let now = std::fs::metadata(&attachment.path).map(|m| (m.dev(), m.ino()));
        attachment.boot == self.boot && now.is_ok_and(|id| id == attachment.namespace)
    }

    fn add(&self, attachment: &Attachment) -> Result<Value, Error> {
        let mut previous = None;
        for plugin in &attachment.network.plugins {
            let said = self.one(attachment, plugin, Task::Add, previous.as_ref())?;
            let nothing = || Error::Refused {
                network: attachment.network.name.clone(),
                plugin: list::kind(plugin).to_owned(),
                task: Task::Add.name(),
                code: None,
                reason: "it says nothing of what it did".to_owned(),
            };
            previous = Some(said.filter(Value::is_object).ok_or_else(nothing)?);
        }
        Ok(previous.unwrap_or_default())
    }

    /// Refuses a network of which a plugin says that it is not ready; one that cannot say so may be.
    fn ready(&self, attachment: &Attachment) -> Result<(), Error> {
        if attachment.version < Version::WITH_GC {
            return Ok(());
        }
        for plugin in &attachment.network.plugins {
            let input = input(&attachment.network, attachment.version, plugin, None);
            let said = self.caller.call(&attachment.network, plugin, Task::Status, &Whom::default(), &input);
            match said {
                Err(Error::Refused { code: Some(code), .. }) if !NOT_READY.contains(&code) => {}
                said => drop(said?),
            }
        }
        Ok(())
    }

    /// Takes a pod off its network; nothing is fine.
    pub(super) fn detach(&self, uid: &PodUid) -> Result<(), Error> {
        let _running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        match self.known(uid) {
            Some(attachment) => self.undo(uid, &attachment),
            None => Ok(()),
        }
    }

    /// Every plugin undoes its part, the last first, also after one that fails; then nothing is remembered.
    fn undo(&self, uid: &PodUid, attachment: &Attachment) -> Result<(), Error> {
        let previous = attachment.result.as_ref().filter(|_| attachment.version >= Version::WITH_CHECK);
        let mut failed = None;
        for plugin in attachment.network.plugins.iter().rev() {
            match self.one(attachment, plugin, Task::Del, previous) {
                // It has not done anything then, either.
                Err(Error::NoPlugin { .. }) if attachment.result.is_none() => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
                Ok(_) => {}
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let mut state = self.state();
        state.remove(uid)?;
        let network = &attachment.network.name;
        if !state.all.values().any(|a| a.network.name == *network) {
            self.claims.release(network);
        }
        Ok(())
    }

    /// Asks plugins whether all is still as they made it. Gives the pods for which it is not, and why.
    pub(super) fn check(&self) -> Vec<(String, Error)> {
        let attachments: Vec<Attachment> = self.state().all.values().cloned().collect();
        let mut wrong = Vec::new();
        for a in attachments.iter().filter(|a| self.lives(a) && a.version >= Version::WITH_CHECK) {
            let (Some(result), false) = (&a.result, a.network.disable_check) else { continue };
            let _running = self.running.read().unwrap_or_else(PoisonError::into_inner);
            let all = a.network.plugins.iter();
            if let Some(error) = all.map(|p| self.one(a, p, Task::Check, Some(result))).find_map(Result::err) {
                wrong.push((a.pod.clone(), error));
            }
        }
        wrong
    }

    /// Tells plugins which attachments there are, so that they free what is of none: on the configured network, and only
    /// where nobody else could have attached something.
    pub(super) fn collect(&self) -> Result<(), Error> {
        let Some(network) = self.configured()? else { return Ok(()) };
        if network.disable_gc || !network.versions.iter().any(|v| *v >= Version::WITH_GC) {
            return Ok(());
        }
        let version = self.caller.version(&network)?;
        if version < Version::WITH_GC {
            return Ok(());
        }
        // Nothing comes or goes while plugins compare.
        let _alone = self.running.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = self.claims.others(&network.name, &network.file, &self.ours()) {
            tracing::info!(network = %network.name, why, "garbage of a network is not collected: others use it");
            return Ok(());
        }
        let valid: Vec<Value> = self
            .state()
            .all
            .values()
            .filter(|a| a.network.name == network.name)
            .map(|a| json!({ "containerID": a.container, "ifname": a.interface }))
            .collect();
        let mut failed = None;
        for plugin in &network.plugins {
            let mut input = input(&network, version, plugin, None);
            input["cni.dev/valid-attachments"] = valid.clone().into();
            if let Err(error) = self.caller.call(&network, plugin, Task::Gc, &Whom::default(), &input) {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// What a plugin is told: what is written for it, and what every one is told.
fn input(network: &Network, version: Version, plugin: &Map<String, Value>, previous: Option<&Value>) -> Value {
    let mut input = Value::Object(plugin.clone());
    input["cniVersion"] = version.to_string().into();
    input["name"] = network.name.clone().into();
    if let Some(previous) = previous {
        input["prevResult"] = previous.clone();
    }
    input
}

/// The arguments that a pod has for plugins, by capability.
fn runtime(pod: &Pod, network: &Network, ports: &[(String, HostPort)]) -> Result<Map<String, Value>, Error> {
    let taken = |capability: &str| network.plugins.iter().any(|plugin| list::takes(plugin, capability));
    let mut runtime = Map::new();
    if let Some((path, _)) = ports.first() {
        if !taken(PORTS) {
            return Err(Error::NoPorts { path: path.clone(), network: network.name.clone() });
        }
        let mapping = |(_, port): &(String, HostPort)| {
            let ip = port.ip.map(|ip| ip.to_string()).unwrap_or_default();
            json!({ "hostPort": port.port, "containerPort": port.target,
                    "protocol": port.protocol.to_string().to_lowercase(), "hostIP": ip })
        };
        runtime.insert(PORTS.to_owned(), ports.iter().map(mapping).collect());
    }
    let mut rates = Map::new();
    for (annotation, rate, burst) in RATES {
        let Some(value) = pod.metadata.annotations.as_ref().and_then(|a| a.get(annotation)) else { continue };
        let bits = Quantity::of(&Text(value.clone())).map(Quantity::units).ok().filter(|bits| *bits > 0);
        let bits = bits.ok_or_else(|| Error::Rate { annotation, value: value.clone() })?;
        rates.insert(rate.to_owned(), bits.into());
        rates.insert(burst.to_owned(), BURST.into());
    }
    if !rates.is_empty() && taken(BANDWIDTH) {
        runtime.insert(BANDWIDTH.to_owned(), rates.into());
    }
    Ok(runtime)
}
