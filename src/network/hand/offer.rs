//! What of services the network does: their addresses are handed out, and rules, names and variables follow them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use super::{Network, State};
use crate::api::{PodKey, PodUid};
use crate::network::dns::Names;
use crate::network::service::{self, Backend, Resolved};
use crate::network::subnet::Range;
use crate::network::{Error, bridge, subnet};
use crate::sys::netlink::route::Route;

impl Network {
    /// Takes services as they are wanted now, and the pods that there are; with `all`, no other service is wanted. Gives
    /// what cannot be had, by service.
    ///
    /// # Errors
    /// If the kernel or the disk refuses.
    pub fn set_services(
        &self,
        services: &[&Service],
        all: bool,
        backends: &[Backend],
    ) -> Result<Vec<(String, String)>, Error> {
        let mut state = self.state();
        let state = &mut *state;
        if services.is_empty() && state.services.is_empty() && state.grants.range().is_none() {
            return Ok(Vec::new());
        }
        let problems = self.grant(state, services, all)?;
        let six = state.grants.range().is_some_and(|range| range.v6.is_some());
        let resolve = |s: &&Service| {
            // What cannot be had was told when it was granted.
            let families = service::families(s, six).unwrap_or_default();
            service::resolve(s, &state.grants.of(&service::key(s)), &families, backends)
        };
        let mut resolved: Vec<Resolved> = services.iter().map(resolve).collect();
        resolved.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if resolved != state.services {
            let names = Arc::new(Names::of(&self.settings.domain, &resolved));
            self.names.send_if_modified(|old| {
                let changed = *old != names;
                *old = names;
                changed
            });
            state.services = resolved;
        }
        if state.leases.any_address()
            && let Some(pods) = state.leases.range()
        {
            bridge::ensure(&self.bridge, &pods, state.grants.range())?;
        }
        self.rule(state)?;
        Ok(problems)
    }

    /// Hands out what services ask for, so that pods which start now know them; rules and names come with
    /// [`Network::set_services`].
    ///
    /// # Errors
    /// If the kernel or the disk refuses.
    pub fn promise_services(&self, services: &[&Service], all: bool) -> Result<(), Error> {
        let mut state = self.state();
        if services.is_empty() && state.grants.range().is_none() {
            return Ok(());
        }
        self.grant(&mut state, services, all).map(|_| ())
    }

    /// Gives services their addresses and ports; what cannot be had is told, by service.
    fn grant(&self, state: &mut State, services: &[&Service], all: bool) -> Result<Vec<(String, String)>, Error> {
        let range = self.service_range(state)?;
        let ports = state.leases.all().values().flat_map(|l| &l.ports);
        let ports: BTreeSet<_> = ports.map(|p| (p.protocol, p.port)).collect();
        let problems = state.grants.update(services, all, range, &ports)?;
        state.links.clear();
        // Elsewhere their addresses lead nowhere.
        for service in services.iter().filter(|_| self.has_bridge()) {
            let key = service::key(service);
            let families = service::families(service, range.v6.is_some()).unwrap_or_default();
            let addresses = state.grants.of(&key).addresses(&families);
            let Some(address) = addresses.first().copied() else { continue };
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace).to_owned();
            state.links.entry(namespace).or_default().extend(service::variables(service, address));
        }
        Ok(problems)
    }

    /// The variables by which a pod's containers find the services of its namespace, unless it wants none.
    pub fn variables(&self, pod: &Pod, uid: &PodUid) -> Vec<(String, String)> {
        let unwanted = pod.spec.as_ref().and_then(|s| s.enable_service_links) == Some(false);
        // From there services are not reached.
        if unwanted || self.plugins.is_attached(uid).is_some() {
            return Vec::new();
        }
        self.state().links.get(&PodKey::of(&pod.metadata).namespace).cloned().unwrap_or_default()
    }

    /// The range for services, as it is or where nobody else on the machine has one.
    fn service_range(&self, state: &State) -> Result<Range, Error> {
        // Another than that of pods.
        let salt = format!("{} services", self.instance);
        let six = || bridge::has_v6().then(|| subnet::local(&salt)).flatten();
        if let Some(range) = state.grants.range() {
            return Ok(Range { v6: range.v6.or_else(six), ..range });
        }
        let _lock = bridge::lock()?;
        let failed = || Error::kernel("list what addresses are in use");
        let mut route = Route::open().map_err(failed())?;
        let mut used = route.routes().map_err(failed())?;
        used.extend(route.addresses().map_err(failed())?);
        let pool = self.settings.services;
        let chosen = subnet::choose(pool, &self.instance, false, &used).ok_or(Error::NoRange { pool })?;
        Ok(Range { v6: six(), ..chosen })
    }
}
