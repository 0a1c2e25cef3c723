//! Services from the node's side: what is wanted, and which pods are ready, told to the network at each change.
//!
//! | task | in | out | ends |
//! |---|---|---|---|
//! | [`follow`] | the desired set, every pod's view | rules and names, events of what cannot be had | its sources end |

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use tokio::sync::watch;

use super::Events;
use super::audience::{Board, Views};
use crate::api::problem::chain;
use crate::api::{Event, Kind, Object, ObjectKey, Reason};
use crate::network::Backend;
use crate::pod::real::Machine;
use crate::source::DesiredSet;

/// How long changes are gathered: many pods that start at once are one change.
const GATHER: std::time::Duration = std::time::Duration::from_millis(50);
/// When what the kernel refused is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Follows the set and the pods until their senders are gone.
pub(super) async fn follow(
    machine: Arc<Machine>,
    board: Board,
    mut sets: watch::Receiver<Arc<DesiredSet>>,
    events: Events,
) {
    let mut views = board.subscribe();
    let mut known = None;
    let mut told = BTreeSet::new();
    loop {
        let (set, pods) = (sets.borrow_and_update().clone(), views.borrow_and_update().clone());
        let services = of(&set);
        let backends = if services.is_empty() { Vec::new() } else { backends(&pods) };
        let current = (services, backends, is_all(&set));
        let mut again = None;
        if known.as_ref() != Some(&current) {
            let (machine, work) = (Arc::clone(&machine), current.clone());
            let done = tokio::task::spawn_blocking(move || {
                let services: Vec<&Service> = work.0.iter().collect();
                machine.network.set_services(&services, work.2, &work.1)
            });
            match done.await {
                Ok(Ok(problems)) => {
                    known = Some(current);
                    for (service, problem) in &problems {
                        if !told.contains(&(service.clone(), problem.clone())) {
                            tell(&events, service, problem);
                        }
                    }
                    told = problems.into_iter().collect();
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "services are not as they should be");
                    again = Some(AGAIN);
                }
                Err(error) => tracing::error!(%error, "services are not as they should be"),
            }
        }
        let retry = async {
            match again {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: watches keep the newest value.
        tokio::select! {
            changed = sets.changed() => if changed.is_err() { return },
            changed = views.changed() => if changed.is_err() { return },
            () = retry => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// The services that a set wants.
pub(super) fn of(set: &DesiredSet) -> Vec<Service> {
    let service =
        |object: &Object| if let Object::Service(service) = object { Some((**service).clone()) } else { None };
    set.objects.iter().filter_map(|s| service(&s.object)).collect()
}

/// Whether those are all that are wanted.
pub(super) fn is_all(set: &DesiredSet) -> bool {
    set.synced && set.uncertain.is_empty()
}

fn backends(pods: &Views) -> Vec<Backend> {
    pods.iter().filter_map(|view| Backend::of(&view.pod)).collect()
}

fn tell(events: &Events, service: &str, problem: &str) {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let object = ObjectKey { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() };
    tracing::warn!(%object, "{problem}");
    events.tell(Event::new(object, Reason::Failed, problem.to_owned(), Timestamp::now()));
}
