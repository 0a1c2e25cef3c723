//! A container's spec from what its pod says, what its image says, and what it refers to.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

use super::Policy;
use crate::api::env::{self, Lookup, NodeFacts};
use crate::api::problem::chain;
use crate::network;
use crate::pod::desired::{Config, Desired};
use crate::pod::engine::StepError;
use crate::pod::state::{Record, Retry};
use crate::runtime::selinux::Labels;
use crate::runtime::spec::{self, ContainerSpec, SpecInput, VolumeBind, container_limits, memory_high};
use crate::store;
use crate::sys::cgroup::Limits;

/// What a spec is built from.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) record: &'a Record,
    pub(super) desired: &'a Desired,
    pub(super) container: &'a Container,
    pub(super) image: &'a store::Image,
    pub(super) node: &'a str,
    /// The domain of services.
    pub(super) domain: &'a str,
    /// The pod's addresses, and the node's.
    pub(super) addresses: (Vec<String>, Vec<String>),
    /// Variables that lead to services.
    pub(super) services: Vec<(String, String)>,
    /// The machine's memory in bytes, and its cores in thousandths.
    pub(super) capacity: (u64, u64),
    pub(super) policy: &'a Policy,
    /// The AppArmor profile that is meant by `RuntimeDefault`.
    pub(super) default_app_armor: Option<&'a str>,
    /// The SELinux labels that the container asks for.
    pub(super) selinux: Option<&'a Labels>,
    pub(super) files: &'a EnvFiles,
}

/// A spec, and the limits that go with it.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) container: ContainerSpec,
    pub(super) limits: Limits,
    /// What its devices need beside its volumes.
    pub(super) binds: Vec<VolumeBind>,
    /// What the manifest's environment came to.
    pub(super) env: Vec<(String, String)>,
}

struct Named<'a>(&'a Config, &'a EnvFiles);

/// The files of variables that a container's environment refers to, by volume and path.
pub(super) type EnvFiles = BTreeMap<(String, String), Result<Option<String>, String>>;

impl Lookup for Named<'_> {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.0.config_maps.get(name).map(AsRef::as_ref)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.secrets.get(name).map(AsRef::as_ref)
    }

    fn file(&self, volume: &str, path: &str) -> Result<Option<&str>, String> {
        match self.1.get(&(volume.to_owned(), path.to_owned())) {
            Some(Ok(text)) => Ok(text.as_deref()),
            Some(Err(reason)) => Err(reason.clone()),
            None => Ok(None),
        }
    }
}

pub(super) fn build(input: &Input<'_>) -> Result<Built, StepError> {
    let mut pod = Pod::clone(&input.record.pod);
    pod.metadata.uid = Some(input.record.uid.to_string());
    let (memory, _) = input.capacity;
    let (pod_ips, host_ips) = input.addresses.clone();
    let facts = NodeFacts { host_ips, pod_ips, services: input.services.clone(), ..facts(input.node, input.capacity) };
    let config_error = |message| StepError::on_change("CreateContainerConfigError", message);
    let env = env::resolve(&pod, input.container, &Named(&input.desired.config, input.files), &facts).map_err(|e| {
        let error = config_error(format!("container {}: {}", input.container.name, chain(&e)));
        // Another container may write the file yet, and nobody tells of that.
        let retry = if matches!(e, env::EnvError::File { .. }) { Retry::Backoff } else { error.retry };
        StepError { retry, ..error }
    })?;
    let command = env::expand_all(input.container.command.as_deref().unwrap_or_default(), &env);
    let args = env::expand_all(input.container.args.as_deref().unwrap_or_default(), &env);
    let localhost = input
        .policy
        .localhost_seccomp(&pod, input.container)
        // Whoever sees to the file wants the container to start then.
        .map_err(|e| StepError::backoff("CreateContainerConfigError", &e))?;
    let mut container = spec::build(&SpecInput {
        pod: &pod,
        container: input.container,
        image: &input.image.config,
        env: &env,
        command: &command,
        args: &args,
        host_name: &network::hostname(&pod, input.node, input.domain),
        node_memory: memory,
        localhost_seccomp: localhost.as_ref(),
        default_app_armor: input.default_app_armor,
        selinux: input.selinux,
    })
    .map_err(|e| StepError {
        retry: Retry::Never,
        reason: "CreateContainerConfigError",
        message: format!("container {}: {}", input.container.name, chain(&e)),
    })?;
    let mut binds = Vec::new();
    input
        .policy
        .devices(input.container, &mut container, &mut binds)
        .map_err(|e| StepError::backoff("CreateContainerConfigError", &e))?;
    Ok(Built { container, limits: limits(input.policy, &pod, input.container)?, binds, env })
}

/// What fields and resources of a pod mean on this node: its name, its memory in bytes, its cores in thousandths.
pub(super) fn facts(node: &str, (memory, cpu_milli): (u64, u64)) -> NodeFacts {
    NodeFacts { name: node.to_owned(), cpu_milli, memory, ..NodeFacts::default() }
}

/// The limits of a container's cgroup.
pub(super) fn limits(policy: &Policy, pod: &Pod, container: &Container) -> Result<Limits, StepError> {
    let refused = |e: spec::Error| StepError {
        retry: Retry::Never,
        reason: "CreateContainerConfigError",
        message: format!("container {}: {}", container.name, chain(&e)),
    };
    let limits = container_limits(pod, container).map_err(refused)?;
    let high = policy.memory_throttling.map(|thousandths| memory_high(container, thousandths)).transpose();
    Ok(Limits { memory_high: high.map_err(refused)?, ..limits })
}
