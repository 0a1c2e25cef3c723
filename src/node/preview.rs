//! What applying manifests would come to: worked out by the rules that a real apply follows, and nothing is changed.
//!
//! ```text
//!   documents ─▶ rows (created, configured, …) ─▶ pods as they would be ─▶ moves against the pods that are
//!                                                      │                      │
//!                                                      └─▶ images, asked for  └─▶ refs that go ─▶ layers that would be free
//! ```
//!
//! A workload is followed to the end of its rollout, as if every pod became ready at once. Registries are asked where a
//! pull would ask them; one that does not answer makes the plan less exact, and fails nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::manager::Configs;
use super::workloads::owner;
use super::{Error, Node};
use crate::api::problem::chain;
use crate::api::workload::{self, Settled, owner_key};
use crate::api::{Document, Kind, Object, ObjectKey, PodChange, PodKey, PodView, change};
use crate::image::{DockerConfigSecret, ImageName, Preview, PullPolicy};
use crate::oci::{DiffId, Digest};
use crate::pod::plan::everyone;
use crate::pod::real::{pull_policy, secrets, uid_of_owner};
use crate::source::desired::Applied;
use crate::source::{DesiredSet, SourceKind, Sourced};
use crate::store::RefKind;
use crate::volume::claim;

/// How long a registry has to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many are asked at a time.
const AT_ONCE: usize = 4;

/// What applying would come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApplyPlan {
    /// The objects, in the order of the documents, then those that would be pruned.
    pub objects: Vec<ObjectPlan>,
    /// The images of what would be started.
    pub fetch: Vec<Fetch>,
    /// Bytes that would travel, a layer that several images miss counted once; as far as it is known.
    pub fetch_bytes: u64,
    /// Pods that would be started, as `namespace/name`.
    pub start: Vec<String>,
    /// Pods that would be replaced, or some of their containers.
    pub replace: Vec<Replace>,
    /// Pods that would be changed while they run.
    pub change: Vec<Replace>,
    /// Pods that would be stopped.
    pub stop: Vec<String>,
    /// What would be free then.
    pub free: Free,
}

/// What would become of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPlan {
    /// Which object.
    #[serde(flatten)]
    pub key: ObjectKey,
    /// What would be done.
    pub action: Applied,
    /// Why that does nothing, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// An image that would be needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fetch {
    /// Its name.
    pub image: String,
    /// How many layers it has; nothing: it is not known.
    pub layers: Option<usize>,
    /// How many of them would be fetched.
    pub missing: Option<usize>,
    /// How many bytes that is.
    pub bytes: Option<u64>,
    /// Why nothing is known of it.
    pub problem: Option<String>,
}

/// A pod that would not stay as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Replace {
    /// As `namespace/name`.
    pub pod: String,
    /// The containers that would be started anew; none: the pod as a whole, or nothing of it where it is only changed.
    pub containers: Vec<String>,
    /// The fields that ask for it.
    pub fields: Vec<String>,
}

/// What would be freed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Free {
    /// How many layers.
    pub layers: usize,
    /// How many bytes.
    pub bytes: u64,
    /// Images that would be gone.
    pub images: Vec<String>,
    /// How long they are kept all the same, in seconds.
    pub kept_seconds: u64,
}

/// A pod as it is and as it would be.
struct Move {
    key: PodKey,
    old: Option<Arc<PodView>>,
    new: Option<Pod>,
}

/// What can be said without asking a registry.
struct Outline {
    objects: Vec<ObjectPlan>,
    moves: Vec<Move>,
    /// Refs that would go, and manifests that would be held all the same.
    released: BTreeSet<(RefKind, String)>,
    held: BTreeSet<Digest>,
    configs: Configs,
}

/// An image that would be pulled, and how.
type Wanted = (PullPolicy, Vec<DockerConfigSecret>);

impl Node {
    /// What applying these documents would come to.
    ///
    /// # Errors
    /// If it cannot be worked out at all.
    pub async fn preview(&self, set: &str, documents: Vec<Document>, prune: bool) -> Result<ApplyPlan, Error> {
        let (node, set) = (self.clone(), set.to_owned());
        // A rollout of many pods is many comparisons.
        let outline = tokio::task::spawn_blocking(move || node.outline(&set, &documents, prune))
            .await
            .map_err(Error::failed("work out a plan"))??;
        let mut plan = ApplyPlan { objects: outline.objects, ..ApplyPlan::default() };
        let mut wanted = BTreeMap::new();
        let mut released = outline.released;
        for one in &outline.moves {
            enter(one, &mut plan);
            let (needs, goes) = effects(one);
            if let Some(pod) = &one.new {
                let secrets = secrets(pod, &outline.configs.named(&one.key, pod, &BTreeMap::new()));
                images(pod, needs.as_ref(), &secrets, &mut wanted);
            }
            if let Some(view) = &one.old {
                released.extend(self.refs_of(view, goes.as_ref()));
            }
        }
        let previews: Vec<(String, Result<Preview, String>)> =
            stream::iter(wanted).map(|(image, wanted)| self.ask(image, wanted)).buffered(AT_ONCE).collect().await;
        let mut missing = BTreeMap::new();
        let (mut manifests, mut stacks) = (outline.held, Vec::new());
        for (image, preview) in previews {
            plan.fetch.push(fetch(image, &preview, &mut missing));
            if let Ok(preview) = preview {
                stacks.push(preview.layers.into_iter().map(|layer| layer.diff_id).collect());
                manifests.insert(preview.manifest);
            }
        }
        plan.fetch_bytes = missing.values().sum();
        plan.free = self.freed(released, manifests, stacks);
        Ok(plan)
    }

    fn outline(&self, set: &str, documents: &[Document], prune: bool) -> Result<Outline, Error> {
        let refused = self.inner.desired.refusals(set, documents);
        if !refused.is_empty() {
            return Err(Error::Invalid { problems: refused.iter().map(ToString::to_string).collect() });
        }
        let rows =
            self.inner.desired.apply(documents, set, prune, true).map_err(Error::failed("look at what was applied"))?;
        let before = self.inner.sets.borrow().clone();
        let mut after = DesiredSet::clone(&before);
        let mut outline = Outline {
            objects: Vec::new(),
            moves: Vec::new(),
            released: BTreeSet::new(),
            held: BTreeSet::new(),
            configs: Configs::of(&before, claim::Views::default()),
        };
        let mut affected = Vec::new();
        for (key, action) in rows {
            let winner = before.objects.iter().find(|s| s.object.key() == key && s.source == SourceKind::Manifests);
            let note = winner.map(|w| format!("{} declares it, and comes first", w.file.display()));
            if note.is_none() && !matches!(action, Applied::Unchanged | Applied::Ignored) {
                after.objects.retain(|s| s.object.key() != key);
                let document = documents.iter().rev().find(|d| d.object.key() == key);
                let new = document.filter(|_| action != Applied::Deleted).map(|d| Arc::new(d.object.clone()));
                after.objects.extend(new.clone().map(|object| Sourced {
                    object,
                    source: SourceKind::Desired,
                    file: self.inner.desired.path(&key),
                    document: 1,
                    ignored: Vec::new(),
                }));
                affected.retain(|(other, _)| *other != key);
                affected.push((key.clone(), new));
            }
            outline.objects.push(ObjectPlan { key, action, note });
        }
        outline.configs = Configs::of(&after, claim::Views::default());
        for (key, object) in affected {
            self.follow(&key, object.as_deref(), &mut outline);
        }
        outline.moves.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(outline)
    }

    /// The pods of one object as they are, and as they would be.
    fn follow(&self, key: &ObjectKey, object: Option<&Object>, outline: &mut Outline) {
        let mut old: BTreeMap<PodKey, Arc<PodView>> =
            self.all_of(key).into_iter().map(|view| (view.key(), view)).collect();
        let mut enter = |key: PodKey, new: Option<Pod>, old: Option<Arc<PodView>>| {
            outline.moves.push(Move { key, old, new });
        };
        match object {
            Some(Object::Pod(pod)) => {
                let key = PodKey::of(&pod.metadata);
                let there = old.remove(&key);
                enter(key, Some((**pod).clone()), there);
            }
            // What it made goes on; what it will make is for its schedule to say.
            Some(Object::CronJob(_)) => return,
            Some(object) => {
                let (observed, memory) = (self.inner.board.of_workload(key), self.memory(key));
                let Settled { pods, holds } = workload::settled(object, &observed, &memory, Timestamp::now());
                for wanted in pods {
                    let key = PodKey::of(&wanted.pod.metadata);
                    let there = old.remove(&key);
                    enter(key, Some(Arc::unwrap_or_clone(wanted.pod)), there);
                }
                outline.held.extend(holds.iter().filter_map(|digest| digest.parse().ok()));
            }
            None => {}
        }
        for (key, view) in old {
            outline.moves.push(Move { key, old: Some(view), new: None });
        }
        outline.released.insert((RefKind::Workload, owner(key)));
    }

    /// The pods that there are because of an object, those of a cron job's jobs among them.
    fn all_of(&self, target: &ObjectKey) -> Vec<Arc<PodView>> {
        let workloads = self.inner.board.workloads();
        let is_of = |view: &PodView| {
            let key = view.key();
            let itself = target.kind == Kind::Pod && key.namespace == target.namespace && key.name == target.name;
            let owner = view.lamina.owner.as_ref().map(|owner| owner_key(owner, &key.namespace));
            let above = owner.as_ref().and_then(|o| workloads.get(o)).and_then(|w| w.controller.as_ref());
            itself || owner.as_ref() == Some(target) || above == Some(target)
        };
        let views = self.inner.board.subscribe().borrow().clone();
        views.iter().filter(|view| is_of(view)).cloned().collect()
    }

    /// The refs that a pod, or these containers of it, hold.
    fn refs_of(&self, view: &PodView, containers: Option<&BTreeSet<String>>) -> Vec<(RefKind, String)> {
        let refs = self.store().refs().into_iter().filter(|r| r.kind == RefKind::Pod);
        let ours = refs.filter(|r| uid_of_owner(&r.owner).is_some_and(|uid| uid == view.lamina.uid));
        let of = |owner: &str| owner.split('.').nth(1).is_some_and(|c| containers.is_none_or(|all| all.contains(c)));
        ours.filter(|r| of(&r.owner)).map(|r| (r.kind, r.owner)).collect()
    }

    async fn ask(&self, image: String, (policy, secrets): Wanted) -> (String, Result<Preview, String>) {
        let name: ImageName = match image.parse() {
            Ok(name) => name,
            Err(error) => return (image, Err(chain(&error))),
        };
        let asked = tokio::time::timeout(PATIENCE, self.images().preview(&name, policy, &secrets)).await;
        let preview = match asked {
            Ok(Ok(preview)) => Ok(preview),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the registry did not answer in time".to_owned()),
        };
        (image, preview)
    }

    fn freed(
        &self,
        released: BTreeSet<(RefKind, String)>,
        manifests: BTreeSet<Digest>,
        stacks: Vec<Vec<DiffId>>,
    ) -> Free {
        let store = self.store();
        let swept = store.plan_release(released, manifests, stacks);
        let tags = store.tags();
        let called = |id: &crate::store::ImageId| {
            let tag = tags.iter().find(|tag| tag.image == *id);
            tag.map_or_else(|| id.top.to_string(), |tag| tag.reference.to_string())
        };
        let settings = self.settings();
        Free {
            layers: swept.layers.len(),
            bytes: swept.freed_bytes,
            images: swept.images.iter().map(called).collect(),
            kept_seconds: settings.gc_grace.max(settings.gc_image_age).as_secs(),
        }
    }
}

/// Which containers of the new pod would be started (none said: all), and whose refs of the old one go.
fn effects(one: &Move) -> (Option<BTreeSet<String>>, Option<BTreeSet<String>>) {
    let nothing = || Some(BTreeSet::new());
    let (Some(old), Some(new)) = (&one.old, &one.new) else { return (None, None) };
    match verdict(old, new) {
        PodChange::Nothing | PodChange::InPlace => (nothing(), nothing()),
        PodChange::Containers(names) => (Some(names.clone()), Some(names)),
        PodChange::Replace(_) => (None, None),
    }
}

/// What becomes of a pod that is there.
fn verdict(old: &PodView, new: &Pod) -> PodChange {
    match old.lamina.source.as_str() {
        "run" => PodChange::Replace("it was made by `lamina run`".to_owned()),
        _ => change(&old.pod, new),
    }
}

/// Enters what becomes of a pod.
fn enter(one: &Move, plan: &mut ApplyPlan) {
    let pod = one.key.to_string();
    match (&one.old, &one.new) {
        (None, Some(_)) => plan.start.push(pod),
        (Some(_), None) => plan.stop.push(pod),
        (Some(old), Some(new)) => {
            let fields = || crate::api::change::differences(&old.pod, new);
            match verdict(old, new) {
                PodChange::Nothing => {}
                PodChange::InPlace => plan.change.push(Replace { pod, containers: Vec::new(), fields: fields() }),
                PodChange::Containers(names) => {
                    let containers = names.into_iter().collect();
                    plan.replace.push(Replace { pod, containers, fields: fields() });
                }
                PodChange::Replace(field) => {
                    let mut fields = fields();
                    // The one that alone asks for it comes first.
                    fields.retain(|f| *f != field);
                    fields.insert(0, field);
                    plan.replace.push(Replace { pod, containers: Vec::new(), fields });
                }
            }
        }
        (None, None) => {}
    }
}

/// The images of a pod's containers that would be started.
fn images(
    pod: &Pod,
    which: Option<&BTreeSet<String>>,
    secrets: &[DockerConfigSecret],
    wanted: &mut BTreeMap<String, Wanted>,
) {
    let starts = everyone(pod).map(|(_, c)| c).filter(|c| which.is_none_or(|all| all.contains(&c.name)));
    let starts = starts.map(|container| (container.image.clone(), container.image_pull_policy.clone()));
    // Volumes are made with the pod.
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| v.image.as_ref());
    let volumes = volumes.filter(|_| which.is_none()).map(|image| (image.reference.clone(), image.pull_policy.clone()));
    for (image, policy) in starts.chain(volumes) {
        let image = image.unwrap_or_default();
        let Ok(name) = image.parse::<ImageName>() else {
            wanted.entry(image).or_insert((PullPolicy::Never, Vec::new()));
            continue;
        };
        let policy = pull_policy(policy.as_deref(), &name);
        let entry = wanted.entry(image).or_insert_with(|| (policy, secrets.to_vec()));
        if policy == PullPolicy::Always {
            *entry = (policy, secrets.to_vec());
        }
    }
}

/// What is to be said of an image; the layers that it misses are entered.
fn fetch(image: String, preview: &Result<Preview, String>, missing: &mut BTreeMap<String, u64>) -> Fetch {
    match preview {
        Err(problem) => Fetch { image, problem: Some(problem.clone()), ..Fetch::default() },
        Ok(preview) => {
            let lacks: Vec<_> = preview.layers.iter().filter(|layer| !layer.present).collect();
            missing.extend(lacks.iter().map(|layer| (layer.diff_id.0.to_string(), layer.size)));
            Fetch {
                image,
                layers: Some(preview.layers.len()),
                missing: Some(lacks.len()),
                bytes: Some(lacks.iter().map(|layer| layer.size).sum()),
                problem: None,
            }
        }
    }
}
