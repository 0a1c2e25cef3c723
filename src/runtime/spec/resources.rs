//! Requests and limits as cgroup values, and who is killed first, all by Kubernetes' formulas.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::Error;
use crate::api::quantity::Quantity;
use crate::sys::cgroup::Limits;

/// The period over which CPU quota is counted, in µs.
const PERIOD: u64 = 100_000;

/// The smallest quota that the kernel takes, in µs.
const LEAST_QUOTA: u64 = 1000;

/// The least weight, of a container that asks for no CPU.
const LEAST_SHARES: u64 = 2;

/// The quality of service class of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container's limits equal its requests, for CPU and memory.
    Guaranteed,
    /// Anything between.
    Burstable,
    /// No container asks for anything.
    BestEffort,
}

/// A quantity of one resource, as a request or a limit.
fn quantity(map: Option<&BTreeMap<String, Text>>, name: &'static str) -> Result<Option<Quantity>, Error> {
    let Some(text) = map.and_then(|map| map.get(name)) else { return Ok(None) };
    Quantity::of(text).map(Some).map_err(|source| Error::Quantity { resource: name, text: text.0.clone(), source })
}

/// What one container asks for and may use.
#[derive(Debug, Clone, Copy, Default)]
struct Resources {
    cpu_request: Option<u64>,
    cpu_limit: Option<u64>,
    memory_request: Option<u64>,
    memory_limit: Option<u64>,
}

impl Resources {
    fn of(requirements: Option<&ResourceRequirements>) -> Result<Self, Error> {
        let Some(requirements) = requirements else { return Ok(Self::default()) };
        let (requests, limits) = (requirements.requests.as_ref(), requirements.limits.as_ref());
        let cpu_limit = quantity(limits, "cpu")?.map(Quantity::milli_units);
        let memory_limit = quantity(limits, "memory")?.map(Quantity::units);
        Ok(Self {
            // A limit alone is the request too.
            cpu_request: quantity(requests, "cpu")?.map(Quantity::milli_units).or(cpu_limit),
            cpu_limit,
            memory_request: quantity(requests, "memory")?.map(Quantity::units).or(memory_limit),
            memory_limit,
        })
    }

    fn limits(self, qos: Qos) -> Limits {
        let request = self.memory_request.filter(|n| *n > 0);
        let limit = self.memory_limit.filter(|n| *n > 0);
        Limits {
            memory_max: limit,
            memory_min: request.filter(|_| qos == Qos::Guaranteed),
            memory_low: request.filter(|_| qos == Qos::Burstable),
            // A container may not escape its limit into swap.
            swap_max: limit.map(|_| 0),
            cpu_shares: Some((self.cpu_request.unwrap_or(0) * 1024 / 1000).max(LEAST_SHARES)),
            cpu_quota: self.cpu_limit.filter(|n| *n > 0).map(|milli| {
                let quota = (milli.saturating_mul(PERIOD) / 1000).max(LEAST_QUOTA);
                i64::try_from(quota).unwrap_or(-1)
            }),
            cpu_period: self.cpu_limit.filter(|n| *n > 0).map(|_| PERIOD),
            ..Limits::default()
        }
    }
}

/// Each container of a pod.
fn all(pod: &Pod) -> Result<Vec<Resources>, Error> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.map(|container| Resources::of(container.resources.as_ref())).collect()
}

/// The pod's class.
///
/// # Errors
/// If a quantity cannot be read.
pub fn qos(pod: &Pod) -> Result<Qos, Error> {
    let all = all(pod)?;
    let asks = |r: &Resources| r.cpu_request.or(r.memory_request).is_some_and(|n| n > 0);
    let fixed = |request: Option<u64>, limit: Option<u64>| limit.is_some_and(|n| n > 0) && request == limit;
    if all.iter().all(|r| !asks(r)) {
        return Ok(Qos::BestEffort);
    }
    let guaranteed = all.iter().all(|r| fixed(r.cpu_request, r.cpu_limit) && fixed(r.memory_request, r.memory_limit));
    Ok(if guaranteed { Qos::Guaranteed } else { Qos::Burstable })
}

/// The limits of one container's cgroup.
///
/// # Errors
/// If a quantity cannot be read.
pub fn container_limits(pod: &Pod, container: &Container) -> Result<Limits, Error> {
    let limits = Resources::of(container.resources.as_ref())?.limits(qos(pod)?);
    // As a kubelet has it: a container is killed as a whole rather than left without one of its processes.
    Ok(Limits { oom_group: true, ..limits })
}

/// The limits of a pod's cgroup: its weight against other pods, what is kept for it, and how many tasks it may have.
/// What may be used at most is each container's own limit, which can be changed while the pod runs.
///
/// # Errors
/// If a quantity cannot be read.
pub fn pod_limits(pod: &Pod, tasks: u32) -> Result<Limits, Error> {
    let all = all(pod)?;
    let sum = |of: fn(&Resources) -> Option<u64>| {
        all.iter().filter_map(of).fold(None, |sum: Option<u64>, n| Some(sum.unwrap_or(0).saturating_add(n)))
    };
    let total = Resources {
        cpu_request: sum(|r| r.cpu_request),
        memory_request: sum(|r| r.memory_request),
        ..Resources::default()
    };
    Ok(Limits { pids_max: Some(tasks.into()), ..total.limits(qos(pod)?) })
}

/// How likely the kernel kills a container when memory runs out: -997 (last) to 1000 (first).
///
/// # Errors
/// If a quantity cannot be read.
pub(super) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: u64) -> Result<i32, Error> {
    Ok(match qos(pod)? {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = Resources::of(container.resources.as_ref())?.memory_request.unwrap_or(0);
            let share = u128::from(request) * 1000 / u128::from(node_memory.max(1));
            i32::try_from(1000_u128.saturating_sub(share)).unwrap_or(999).clamp(3, 999)
        }
    })
}
