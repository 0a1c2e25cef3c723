//! Requests and limits as cgroup values, and who is killed first, all by Kubernetes' formulas.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::Error;
use crate::api::ids::page_size;
use crate::api::quantity::Quantity;
use crate::sys::cgroup::{HugePages, Limits};

/// The period over which CPU quota is counted, in µs.
const PERIOD: u64 = 100_000;

/// The smallest quota that the kernel takes, in µs.
const LEAST_QUOTA: u64 = 1000;

/// The least weight, of a container that asks for no CPU.
const LEAST_SHARES: u64 = 2;

impl Qos {
    /// As a pod's status has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

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

/// Each of some containers.
fn each<'a>(containers: impl Iterator<Item = &'a Container>) -> Result<Vec<Resources>, Error> {
    containers.map(|container| Resources::of(container.resources.as_ref())).collect()
}

/// Each container of a pod, also those that come before the main ones.
fn all(pod: &Pod) -> Result<Vec<Resources>, Error> {
    each(pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers)))
}

/// What a pod asks for at any one time, of one resource: what its main containers and sidecars ask for together, or more
/// where an init container and the sidecars that run by then ask for more.
fn effective(pod: &Pod, of: fn(&Resources) -> Option<u64>) -> Result<Option<u64>, Error> {
    let spec = pod.spec.as_ref();
    let add = |sum: Option<u64>, n: Option<u64>| match (sum, n) {
        (Some(sum), Some(n)) => Some(sum.saturating_add(n)),
        (sum, n) => sum.or(n),
    };
    let (mut sidecars, mut most) = (None, None);
    for container in spec.iter().flat_map(|s| s.init_containers.iter().flatten()) {
        let asked = of(&Resources::of(container.resources.as_ref())?);
        let running = add(sidecars, asked);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = running;
        }
        most = most.max(running);
    }
    let mains = each(spec.iter().flat_map(|s| &s.containers))?;
    Ok(most.max(mains.iter().map(of).fold(sidecars, add)))
}

/// What the pod as a whole asks for and may use, where it says so itself.
fn whole(pod: &Pod) -> Result<Option<Resources>, Error> {
    let own = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let says =
        own.is_some_and(|r| [&r.requests, &r.limits].iter().any(|map| map.as_ref().is_some_and(|m| !m.is_empty())));
    if says { Resources::of(own).map(Some) } else { Ok(None) }
}

/// The pod's class. What the pod says of itself as a whole counts before what its containers say.
///
/// # Errors
/// If a quantity cannot be read.
pub fn qos(pod: &Pod) -> Result<Qos, Error> {
    let all = whole(pod)?.map_or_else(|| all(pod), |whole| Ok(vec![whole]))?;
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
    let huge_pages = huge_pages(container)?;
    // As a kubelet has it: a container is killed as a whole rather than left without one of its processes.
    Ok(Limits { oom_group: true, huge_pages, ..limits })
}

/// The limits of a container's huge pages.
fn huge_pages(container: &Container) -> Result<HugePages, Error> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let mut pages = HugePages::default();
    for (name, text) in limits.into_iter().flatten() {
        let Some(size) = page_size(name) else { continue };
        let limit = Quantity::of(text).map_err(|source| Error::Quantity {
            resource: "huge pages",
            text: text.0.clone(),
            source,
        })?;
        pages = pages.with(size, limit.units());
    }
    Ok(pages)
}

/// The limits of a pod's cgroup: its weight against other pods, what is kept for it, and how many tasks it may have.
/// What may be used at most is what the pod says of itself as a whole, beside each container's own limit, which can be
/// changed while the pod runs.
///
/// # Errors
/// If a quantity cannot be read.
pub fn pod_limits(pod: &Pod, tasks: u32) -> Result<Limits, Error> {
    let whole = whole(pod)?.unwrap_or_default();
    let total = Resources {
        cpu_request: whole.cpu_request.map_or_else(|| effective(pod, |r| r.cpu_request), |n| Ok(Some(n)))?,
        memory_request: whole.memory_request.map_or_else(|| effective(pod, |r| r.memory_request), |n| Ok(Some(n)))?,
        cpu_limit: whole.cpu_limit,
        memory_limit: whole.memory_limit,
    };
    Ok(Limits { pids_max: Some(tasks.into()), ..total.limits(qos(pod)?) })
}

/// Above how much memory a container is slowed down, by the formula of a kubelet's MemoryQoS: its request, and of what
/// lies between that and its limit so many thousandths. No such mark for one whose limit is its request, or that has none.
///
/// # Errors
/// If a quantity cannot be read.
pub fn memory_high(container: &Container, thousandths: u64) -> Result<u64, Error> {
    const PAGE: u64 = 4096;
    let own = Resources::of(container.resources.as_ref())?;
    let Some(limit) = own.memory_limit.filter(|limit| *limit > 0) else { return Ok(u64::MAX) };
    let request = own.memory_request.unwrap_or(0);
    let between = u128::from(limit.saturating_sub(request)) * u128::from(thousandths) / 1000;
    let high = request.saturating_add(u64::try_from(between).unwrap_or(u64::MAX)) / PAGE * PAGE;
    Ok(if high > request && high < limit { high } else { u64::MAX })
}

/// How much memory a pod asks for; what cannot be read is nothing.
pub fn memory_request(pod: &Pod) -> u64 {
    let own = whole(pod).ok().flatten().and_then(|whole| whole.memory_request);
    own.or_else(|| effective(pod, |r| r.memory_request).ok().flatten()).unwrap_or(0)
}

/// The same of one of its containers.
pub fn container_memory_request(container: &Container) -> u64 {
    Resources::of(container.resources.as_ref()).ok().and_then(|r| r.memory_request).unwrap_or(0)
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
            let own = Resources::of(container.resources.as_ref())?.memory_request.unwrap_or(0);
            // What the pod asks for beyond its containers is theirs in equal parts.
            let rest = whole(pod)?.and_then(|whole| whole.memory_request).unwrap_or(0);
            let asked = effective(pod, |r| r.memory_request)?.unwrap_or(0);
            let count = all(pod)?.len().max(1) as u64;
            let request = own.saturating_add(rest.saturating_sub(asked) / count);
            let share = u128::from(request) * 1000 / u128::from(node_memory.max(1));
            i32::try_from(1000_u128.saturating_sub(share)).unwrap_or(999).clamp(3, 999)
        }
    })
}
