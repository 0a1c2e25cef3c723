//! Which containers have started, and which are ready.

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::pod::state::Observation;

/// A container's hook for its start.
pub fn post_start(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.post_start.as_ref()
}

/// A container's hook for its end.
pub fn pre_stop(container: &Container) -> Option<&LifecycleHandler> {
    container.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// Whether a running container waits for its hook still, and with it those that come after it.
pub(super) fn awaits_hook(container: &Container, c: &Observation) -> bool {
    post_start(container).is_some() && c.attempt.as_ref().is_some_and(|a| a.exit.is_none() && !a.health.hooked)
}

/// Whether a container has started: it runs, its hook is done, and its startup probe has succeeded.
pub fn started(container: &Container, c: &Observation) -> bool {
    let up = |health: &crate::pod::state::Health| container.startup_probe.is_none() || health.up;
    c.running() && !awaits_hook(container, c) && c.attempt.as_ref().is_some_and(|a| up(&a.health))
}

/// Whether a container is ready: it has started, goes on running, and its readiness probe says so.
pub fn ready(container: &Container, c: &Observation) -> bool {
    let usable = |health: &crate::pod::state::Health| {
        health.condemned.is_none() && (container.readiness_probe.is_none() || health.ready)
    };
    started(container, c) && c.stop.is_none() && c.attempt.as_ref().is_some_and(|a| usable(&a.health))
}
