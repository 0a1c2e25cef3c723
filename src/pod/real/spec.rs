//! A container's spec from what its pod says, what its image says, and what it refers to.

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

use crate::api::env::{self, Lookup, NodeFacts};
use crate::network;
use crate::pod::desired::{Config, Desired};
use crate::pod::engine::{StepError, chain};
use crate::pod::state::{Record, Retry};
use crate::runtime::spec::{self, ContainerSpec, SpecInput, container_limits};
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
    /// The machine's memory in bytes, and its cores in thousandths.
    pub(super) capacity: (u64, u64),
}

/// A spec, and the limits that go with it.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) container: ContainerSpec,
    pub(super) limits: Limits,
}

struct Named<'a>(&'a Config);

impl Lookup for Named<'_> {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.0.config_maps.get(name).map(AsRef::as_ref)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.secrets.get(name).map(AsRef::as_ref)
    }
}

pub(super) fn build(input: &Input<'_>) -> Result<Built, StepError> {
    let mut pod = input.record.pod.clone();
    pod.metadata.uid = Some(input.record.uid.to_string());
    let (memory, cpu_milli) = input.capacity;
    let facts = NodeFacts { name: input.node.to_owned(), host_ips: Vec::new(), pod_ips: Vec::new(), cpu_milli, memory };
    let config_error = |message| StepError::on_change("CreateContainerConfigError", message);
    let env = env::resolve(&pod, input.container, &Named(&input.desired.config), &facts)
        .map_err(|e| config_error(format!("container {}: {}", input.container.name, chain(&e))))?;
    let command = env::expand_all(input.container.command.as_deref().unwrap_or_default(), &env);
    let args = env::expand_all(input.container.args.as_deref().unwrap_or_default(), &env);
    let container = spec::build(&SpecInput {
        pod: &pod,
        container: input.container,
        image: &input.image.config,
        env: &env,
        command: &command,
        args: &args,
        host_name: &network::hostname(&pod, input.node),
        node_memory: memory,
        localhost_seccomp: None,
    })
    .map_err(|e| StepError {
        retry: Retry::Never,
        reason: "CreateContainerConfigError",
        message: format!("container {}: {}", input.container.name, chain(&e)),
    })?;
    Ok(Built { container, limits: limits(&pod, input.container)? })
}

/// The limits of a container's cgroup.
pub(super) fn limits(pod: &Pod, container: &Container) -> Result<Limits, StepError> {
    container_limits(pod, container).map_err(|e| StepError {
        retry: Retry::Never,
        reason: "CreateContainerConfigError",
        message: format!("container {}: {}", container.name, chain(&e)),
    })
}
