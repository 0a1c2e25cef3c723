//! What this node allows, and what of a pod it therefore refuses: such a pod is accepted, and over at once.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::LinuxSeccomp;

use crate::api::PodUid;
use crate::api::ids::{is_device, page_size};
use crate::api::quantity::Quantity;
use crate::api::sysctl;
use crate::api::view::has_own_users;
use crate::pod::state::Ended;
use crate::runtime::spec::{ContainerSpec, VolumeBind};
use crate::runtime::{cdi, selinux};

/// The longest seccomp profile that is read; Docker's default has 20 KiB.
const LONGEST_PROFILE: u64 = 1 << 20;

/// Why a seccomp profile of the node cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("container {container}: cannot read the seccomp profile {}", path.display())]
    Read { container: String, path: PathBuf, source: std::io::Error },
    #[error("container {container}: the seccomp profile {} is longer than {LONGEST_PROFILE} bytes", path.display())]
    Long { container: String, path: PathBuf },
    #[error("container {container}: {} is not a seccomp profile in the form of the OCI runtime specification", path.display())]
    Form { container: String, path: PathBuf, source: serde_json::Error },
}

/// What the administrator of a node allows, and where things lie that manifests name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Sysctls that are not safe and may be set all the same: names, or beginnings that end in `*`.
    pub unsafe_sysctls: Vec<String>,
    /// Whether the kernel runs AppArmor.
    pub app_armor: bool,
    /// What SELinux labels are made of, where the kernel runs it.
    pub selinux: Option<selinux::Defaults>,
    /// In thousandths, where between its request and its limit a container is slowed down; nowhere unless that is given.
    pub memory_throttling: Option<u64>,
    /// Whether pods can have user namespaces of their own.
    pub user_namespaces: bool,
    /// Where files describe devices (CDI); the later directory wins.
    pub cdi: Vec<PathBuf>,
    /// Where the profiles of `seccompProfile.localhostProfile` lie.
    pub seccomp: PathBuf,
}

impl Policy {
    /// Why a pod cannot run on this node; `None`: it can.
    pub(super) fn refuses(&self, pod: &Pod) -> Option<Ended> {
        self.users(pod)
            .or_else(|| self.sysctls(pod))
            .or_else(|| huge_pages(pod))
            .or_else(|| self.app_armor(pod))
            .or_else(|| self.selinux(pod))
    }

    fn users(&self, pod: &Pod) -> Option<Ended> {
        (has_own_users(pod) && !self.user_namespaces).then(|| {
            let message =
                "spec.hostUsers: false needs Linux 6.15 or later with user namespaces, and this node has none";
            Ended::new("UserNamespacesNotSupported", message)
        })
    }

    fn app_armor(&self, pod: &Pod) -> Option<Ended> {
        let spec = pod.spec.as_ref()?;
        let pods = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let wanted = all
            .filter_map(|c| c.security_context.as_ref()?.app_armor_profile.as_ref())
            .chain(pods)
            .any(|profile| profile.type_ != "Unconfined");
        (wanted && !self.app_armor)
            .then(|| Ended::new("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on this node"))
    }

    fn selinux(&self, pod: &Pod) -> Option<Ended> {
        let spec = pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        (self.selinux.is_none() && all.any(|container| selinux::wish(pod, container).is_some()))
            .then(|| Ended::new("SELinux", "Cannot give SELinux labels: SELinux is not enabled on this node"))
    }

    /// The SELinux labels that a container asks for.
    pub(super) fn labels(&self, pod: &Pod, container: &Container, uid: &PodUid) -> Option<selinux::Labels> {
        let options = selinux::wish(pod, container)?;
        let privileged = container.security_context.as_ref().and_then(|c| c.privileged) == Some(true);
        Some(self.selinux.as_ref()?.labels(options, uid, privileged))
    }

    /// The profile that a container's `localhostProfile` names, if it names one.
    pub(super) fn localhost_seccomp(
        &self,
        pod: &Pod,
        container: &Container,
    ) -> Result<Option<LinuxSeccomp>, ProfileError> {
        let own = container.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
        let pods = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.seccomp_profile.as_ref());
        let Some(profile) = own.or(pods).filter(|p| p.type_ == "Localhost") else { return Ok(None) };
        let path = self.seccomp.join(profile.localhost_profile.as_deref().unwrap_or_default());
        let name = || container.name.clone();
        let mut text = Vec::new();
        let read = std::fs::metadata(&path).and_then(|found| {
            if !found.is_file() {
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file"));
            }
            std::fs::File::open(&path)?.take(LONGEST_PROFILE + 1).read_to_end(&mut text)
        });
        let read = read.map_err(|source| ProfileError::Read { container: name(), path: path.clone(), source })?;
        if u64::try_from(read).is_ok_and(|read| read > LONGEST_PROFILE) {
            return Err(ProfileError::Long { container: name(), path });
        }
        serde_json::from_slice(&text).map(Some).map_err(|source| ProfileError::Form { container: name(), path, source })
    }

    /// Gives a container the devices of the node that its limits name.
    pub(super) fn devices(
        &self,
        container: &Container,
        spec: &mut ContainerSpec,
        binds: &mut Vec<VolumeBind>,
    ) -> Result<(), cdi::Error> {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let names: Vec<&str> =
            limits.into_iter().flat_map(|l| l.keys()).map(String::as_str).filter(|n| is_device(n)).collect();
        if names.is_empty() { Ok(()) } else { cdi::apply(&self.cdi, &names, spec, binds) }
    }

    fn sysctls(&self, pod: &Pod) -> Option<Ended> {
        let forbidden = normal(pod)
            .find(|(_, name, _)| !sysctl::is_safe(name) && !sysctl::is_allowed(name, &self.unsafe_sysctls))?;
        let message = format!(
            "spec.securityContext.sysctls[{}].name: {} is not safe, and not among those that this node allows",
            forbidden.0, forbidden.1
        );
        Some(Ended::new("SysctlForbidden", message))
    }
}

/// The huge pages that a pod wants and the node has not, of whichever size.
fn huge_pages(pod: &Pod) -> Option<Ended> {
    let spec = pod.spec.as_ref()?;
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for container in &spec.containers {
        for (name, text) in container.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            if page_size(name).is_some() {
                let limit = Quantity::of(text).map_or(0, Quantity::units);
                let sum = wanted.entry(name.as_str()).or_default();
                *sum = sum.saturating_add(limit);
            }
        }
    }
    let (name, requested, capacity) = wanted.into_iter().find_map(|(name, requested)| {
        let size = page_size(name)?;
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", size >> 10);
        let pages = std::fs::read_to_string(path).ok().and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        let capacity = pages.saturating_mul(size);
        (requested > capacity).then_some((name, requested, capacity))
    })?;
    let message = format!(
        "Node didn't have enough resource: {name}, requested: {requested}, capacity: {capacity} (vm.nr_hugepages makes more)"
    );
    Some(Ended::new(&format!("OutOf{name}"), message))
}

/// The sysctls of a pod: index, normal name, value.
fn normal(pod: &Pod) -> impl Iterator<Item = (usize, String, &str)> {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let all = context.and_then(|c| c.sysctls.as_deref()).unwrap_or_default();
    all.iter().enumerate().filter_map(|(i, s)| Some((i, sysctl::normalize(&s.name)?, s.value.as_str())))
}

/// The sysctls of a pod by their place below `/proc/sys`.
pub(super) fn sysctls(pod: &Pod) -> Vec<(String, String)> {
    normal(pod).map(|(_, name, value)| (sysctl::path(&name), value.to_owned())).collect()
}
