//! Deployments and DaemonSets: so many pods, rolled one after another when the template changes.
//!
//! A pod of an older template is replaced only while every other pod is available, so at most one is away at a time; one
//! that is not ready anyway may be replaced at once, since that takes nothing away.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::change::{PodChange, change};
use super::super::document::Kind;
use super::{Expansion, Observed, Owner, Phase, Wanted, after, earlier, instantiate};

/// What Deployment and DaemonSet have in common.
pub(super) struct Rolling<'o> {
    pub(super) kind: Kind,
    pub(super) meta: &'o ObjectMeta,
    pub(super) template: &'o PodTemplateSpec,
    pub(super) replicas: u32,
    pub(super) min_ready: SignedDuration,
    /// A new template waits; the number of pods is kept.
    pub(super) paused: bool,
    /// All old pods go before a new one comes (`Recreate`).
    pub(super) at_once: bool,
}

pub(super) fn expand(w: &Rolling<'_>, observed: &[Observed], now: Timestamp) -> Expansion {
    let mut out = Expansion::default();
    let find = |ordinal: u32| observed.iter().find(|o| o.ordinal == ordinal);
    let outdated = |o: &Observed| {
        let new = instantiate(w.meta, w.template, o.ordinal);
        matches!(change(&o.pod, &new), PodChange::Containers(_) | PodChange::Replace(_))
    };
    let available = |o: &Observed| {
        o.phase == Phase::Running
            && o.ready_since.is_some_and(|since| {
                // Ready since a time to come: the clock was set back, and says nothing.
                since > now || after(since, w.min_ready) <= now
            })
    };

    // How many of the wanted pods are away, for whatever reason: while one is, no available pod may be taken away.
    let mut away = (0..w.replicas).filter(|n| !find(*n).is_some_and(&available)).count();
    for ordinal in 0..w.replicas {
        let new = instantiate(w.meta, w.template, ordinal);
        let pod = match find(ordinal) {
            Some(o) if outdated(o) => {
                let may = !w.paused && (w.at_once || !available(o) || away == 0);
                if may {
                    if available(o) {
                        away += 1;
                    }
                    new
                } else {
                    o.pod.clone()
                }
            }
            _ => new,
        };
        out.pods.push(Wanted { owner: owner(w, ordinal), pod });
    }

    let status = &mut out.status;
    status.desired = w.replicas;
    for o in observed.iter().filter(|o| o.ordinal < w.replicas) {
        status.current += 1;
        status.updated += u32::from(!outdated(o));
        if let Some(since) = o.ready_since.filter(|_| o.phase == Phase::Running) {
            status.ready += 1;
            if available(o) {
                status.available += 1;
            } else {
                out.wake = earlier(out.wake, Some(after(since, w.min_ready)));
            }
        }
    }
    out
}

fn owner(w: &Rolling<'_>, ordinal: u32) -> Owner {
    Owner { kind: w.kind, name: w.meta.name.clone().unwrap_or_default(), ordinal }
}
