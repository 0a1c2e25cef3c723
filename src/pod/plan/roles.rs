//! The containers of a pod by what they are for.

use k8s_openapi::api::core::v1::{Container, Pod};

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: stays while the pod runs, and never holds up its end.
    Sidecar,
    /// What the pod is there for.
    Main,
}

/// A pod's containers, without those that come before them.
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| s.containers.as_slice())
}

/// A pod's init containers and sidecars.
pub fn inits(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
}

/// Everything that runs in a pod, in the order in which it is started.
pub fn everyone(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let first = inits(pod).iter().map(|c| (if is_sidecar(c) { Role::Sidecar } else { Role::Init }, c));
    first.chain(containers(pod).iter().map(|c| (Role::Main, c)))
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The container of that name.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    everyone(pod).map(|(_, c)| c).find(|c| c.name == name)
}
