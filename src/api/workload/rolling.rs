//! Deployments and DaemonSets: so many pods, rolled one after another when the template changes.
//!
//! Without `maxSurge` (the default here: a node has each port once) a pod is changed in its place: one of an older
//! template is replaced only while enough others are available; one that is not ready anyway may be replaced at once,
//! since that takes nothing away. With `maxSurge` new pods get ordinals of their own, and old ones go as new ones become
//! available.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::change::{PodChange, change};
use super::super::document::Kind;
use super::{
    Expansion, Memory, Observed, Owner, Phase, Wanted, after, condition, count, earlier, instantiate, is_available,
    part, seconds,
};

/// What Deployment and DaemonSet have in common.
struct Rolling<'o> {
    kind: Kind,
    meta: &'o ObjectMeta,
    template: &'o PodTemplateSpec,
    replicas: u32,
    min_ready: SignedDuration,
    /// A new template waits; the number of pods is kept.
    paused: bool,
    /// All old pods go before a new one comes (`Recreate`).
    at_once: bool,
    /// How many may be away.
    unavailable: u32,
    /// How many more than wanted there may be.
    surge: u32,
    history: Option<i32>,
}

pub(super) fn deployment(d: &Deployment, observed: &[Observed], memory: &Memory, now: Timestamp) -> Expansion {
    let spec = &d.spec;
    let replicas = count(spec.replicas, 1);
    let strategy = spec.strategy.as_ref();
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).map_or(0, |v| part(v, replicas, true));
    let unavailable = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
        Some(value) => part(value, replicas, false),
        None => u32::from(surge == 0),
    };
    let rolling = Rolling {
        kind: Kind::Deployment,
        meta: &d.metadata,
        template: &spec.template,
        replicas,
        min_ready: seconds(spec.min_ready_seconds.map(i64::from)),
        paused: spec.paused == Some(true),
        at_once: strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate"),
        // Parts that come to nothing would never let anything happen.
        unavailable: if surge == 0 { unavailable.max(1) } else { unavailable },
        surge,
        history: spec.revision_history_limit,
    };
    let mut out = expand(&rolling, observed, memory, now);
    let complete = is_complete(&out, replicas);
    let rules = condition::Rules {
        needed: if rolling.at_once { replicas } else { replicas.saturating_sub(rolling.unavailable) },
        deadline: spec.progress_deadline_seconds,
        paused: rolling.paused,
    };
    let wake = condition::judge(&rules, &out.status, complete, &mut out.memory, now);
    out.status.conditions.clone_from(&out.memory.conditions);
    out.wake = earlier(out.wake, wake);
    out
}

pub(super) fn daemon_set(d: &DaemonSet, observed: &[Observed], memory: &Memory, now: Timestamp) -> Expansion {
    let strategy = d.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref());
    let rolling = Rolling {
        kind: Kind::DaemonSet,
        meta: &d.metadata,
        template: &d.spec.template,
        replicas: 1,
        min_ready: seconds(d.spec.min_ready_seconds.map(i64::from)),
        paused: strategy == Some("OnDelete"),
        at_once: false,
        unavailable: 1,
        surge: 0,
        history: d.spec.revision_history_limit,
    };
    expand(&rolling, observed, memory, now)
}

/// Whether every pod is of the newest template and available, and no other is there.
fn is_complete(out: &Expansion, replicas: u32) -> bool {
    out.status.updated == replicas && out.status.available == replicas && out.status.current == replicas
}

/// Whether a pod has to be made anew for a restart that was asked for.
pub(super) fn is_stale(pod: &Observed, memory: &Memory) -> bool {
    memory.restarted.is_some_and(|at| pod.created < at)
}

/// What a pod of an older template, or one to be restarted, becomes in its place: nothing until it is gone, if it must be
/// made anew as a whole.
pub(super) fn renewed(owner: Owner, pod: &Observed, new: Arc<super::Pod>, memory: &Memory) -> Option<Wanted> {
    (!is_stale(pod, memory)).then_some(Wanted { owner, pod: new })
}

fn expand(w: &Rolling<'_>, observed: &[Observed], memory: &Memory, now: Timestamp) -> Expansion {
    let mut out = Expansion { memory: memory.clone(), ..Expansion::default() };
    out.memory.note(w.meta, w.template, w.history, now);
    let pods: Vec<Seen<'_>> = {
        let mut sorted: Vec<&Observed> = observed.iter().collect();
        sorted.sort_by_key(|o| o.ordinal);
        let seen = |o| Seen::of(o, w, &out.memory, now);
        sorted.into_iter().map(seen).collect()
    };
    if w.surge > 0 && !w.at_once {
        surge(w, &pods, &mut out);
    } else {
        in_place(w, &pods, &mut out);
    }

    let status = &mut out.status;
    status.desired = w.replicas;
    let mut images = BTreeSet::new();
    for pod in pods.iter().filter(|p| !p.over) {
        status.current += 1;
        status.updated += u32::from(!pod.outdated);
        if !pod.outdated {
            images.extend(pod.observed.images.iter().cloned());
        }
        if let Some(since) = pod.observed.ready_since.filter(|_| pod.observed.phase == Phase::Running) {
            status.ready += 1;
            if pod.available {
                status.available += 1;
            } else {
                out.wake = earlier(out.wake, Some(after(since, w.min_ready)));
            }
        }
    }
    out.memory.note_images(images);
    if is_complete(&out, w.replicas) {
        out.memory.settled = out.memory.revision();
    }
    out.status.revision = out.memory.revision();
    out.holds = out.memory.holds();
    out
}

/// A pod, and what there is to say of it.
struct Seen<'o> {
    observed: &'o Observed,
    outdated: bool,
    available: bool,
    /// It is not ready at all: to replace it takes nothing away.
    idle: bool,
    /// It ended for good, which such a pod does only when it was evicted: another takes its place once it is gone.
    over: bool,
}

impl<'o> Seen<'o> {
    fn of(observed: &'o Observed, w: &Rolling<'_>, memory: &Memory, now: Timestamp) -> Self {
        let new = instantiate(w.meta, w.template, observed.ordinal);
        let changed = matches!(change(&observed.pod, &new), PodChange::Containers(_) | PodChange::Replace(_));
        Self {
            observed,
            outdated: changed || is_stale(observed, memory),
            available: is_available(observed, w.min_ready, now),
            idle: observed.phase != Phase::Running || observed.ready_since.is_none(),
            over: matches!(observed.phase, Phase::Succeeded | Phase::Failed),
        }
    }
}

/// As many ordinals as wanted: those that are there first, then the lowest that are free.
fn ordinals(pods: &[Seen<'_>], replicas: u32) -> Vec<u32> {
    let wanted = usize::try_from(replicas).unwrap_or(0);
    let taken: BTreeSet<u32> = pods.iter().map(|p| p.observed.ordinal).collect();
    let mut chosen: Vec<u32> = taken.iter().copied().take(wanted).collect();
    let free = (0..).filter(|n| !taken.contains(n));
    let missing = wanted - chosen.len();
    chosen.extend(free.take(missing));
    chosen.sort_unstable();
    chosen
}

/// Every pod changes in its place.
fn in_place(w: &Rolling<'_>, pods: &[Seen<'_>], out: &mut Expansion) {
    let ordinals = ordinals(pods, w.replicas);
    let find = |ordinal: u32| pods.iter().find(|p| p.observed.ordinal == ordinal);
    // How many of the wanted pods are away, for whatever reason.
    let mut away = to_u32(ordinals.iter().filter(|n| !find(**n).is_some_and(|p| p.available)).count());
    for ordinal in ordinals {
        let new = || Arc::new(instantiate(w.meta, w.template, ordinal));
        let wanted = match find(ordinal) {
            Some(pod) if pod.over => None,
            Some(pod) if pod.outdated => {
                let may = !w.paused || is_stale(pod.observed, &out.memory);
                if may && (w.at_once || pod.idle || away < w.unavailable) {
                    away += u32::from(pod.available);
                    renewed(owner(w, ordinal), pod.observed, new(), &out.memory)
                } else {
                    Some(Wanted { owner: owner(w, ordinal), pod: pod.observed.pod.clone() })
                }
            }
            _ => Some(Wanted { owner: owner(w, ordinal), pod: new() }),
        };
        out.pods.extend(wanted);
    }
}

/// New pods come beside the old ones.
fn surge(w: &Rolling<'_>, pods: &[Seen<'_>], out: &mut Expansion) {
    let needed = w.replicas.saturating_sub(w.unavailable);
    let mut available = to_u32(pods.iter().filter(|p| p.available).count());
    let (old, new): (Vec<&Seen<'_>>, Vec<&Seen<'_>>) = pods.iter().filter(|p| !p.over).partition(|p| p.outdated);
    let mut there = to_u32(pods.len());
    let wanted = |ordinal, pod| Wanted { owner: owner(w, ordinal), pod };
    // A paused one keeps what it has; its number is made of either.
    let room = if w.paused { w.replicas.saturating_sub(to_u32(old.len())) } else { w.replicas };
    let keep = usize::try_from(room).unwrap_or(0);
    for (i, pod) in new.iter().enumerate() {
        if i < keep {
            let ordinal = pod.observed.ordinal;
            out.pods.push(wanted(ordinal, Arc::new(instantiate(w.meta, w.template, ordinal))));
        } else {
            available -= u32::from(pod.available);
        }
    }
    let mut kept = to_u32(new.len().min(keep));
    for pod in &old {
        let too_many = w.paused && kept >= w.replicas;
        let goes = too_many || (!w.paused && (pod.idle || (pod.available && available > needed)));
        if goes {
            available -= u32::from(pod.available);
        } else {
            kept += u32::from(w.paused);
            out.pods.push(wanted(pod.observed.ordinal, pod.observed.pod.clone()));
        }
    }
    let taken: BTreeSet<u32> = pods.iter().map(|p| p.observed.ordinal).collect();
    let missing = room.saturating_sub(to_u32(new.len()));
    for ordinal in (0..).filter(|n| !taken.contains(n)).take(usize::try_from(missing).unwrap_or(0)) {
        if there >= w.replicas + w.surge {
            break;
        }
        there += 1;
        out.pods.push(wanted(ordinal, Arc::new(instantiate(w.meta, w.template, ordinal))));
    }
}

fn owner(w: &Rolling<'_>, ordinal: u32) -> Owner {
    Owner { kind: w.kind, name: w.meta.name.clone().unwrap_or_default(), ordinal, index: None }
}

/// Counts are of pods on one node, far below the limit.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
