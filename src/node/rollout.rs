//! What a person may ask of a workload or a pod beside declaring it: restart, scale, undo.
//!
//! What comes from a manifests directory is changed in its file alone: the next look at the directory would undo anything
//! else. A restart changes no manifest, and works on both.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::manager::Command;
use super::{Error, Node};
use crate::api::workload::{Memory, Revision};
use crate::api::{Kind, Object, ObjectKey, PodKey};
use crate::source::{SourceKind, Sourced};

/// The most pods that a workload may be scaled to, as in its manifest.
const MAX_REPLICAS: u32 = 1000;

/// A template that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undone {
    /// The revision whose template it is.
    pub to: u64,
}

impl Node {
    /// Ends a pod, or the pods of a workload one after another, and makes them anew.
    ///
    /// # Errors
    /// If it is not there, or nothing would bring it back.
    pub fn restart(&self, target: &ObjectKey) -> Result<(), Error> {
        let refused =
            |reason: &str| Error::Refused { action: "restart", name: target.to_string(), reason: reason.to_owned() };
        match target.kind {
            Kind::Pod => {
                let key = PodKey { namespace: target.namespace.clone(), name: target.name.clone() };
                let view = self.inner.board.view(&key).ok_or_else(|| missing(target))?;
                if view.lamina.source == "run" {
                    return Err(refused("it was made by `lamina run`, and nothing would bring it back; run it again"));
                }
                if view.lamina.owner.as_ref().is_some_and(|o| o.kind == Kind::Job) {
                    return Err(refused("a job decides by itself when it tries again"));
                }
                // The receiver lives as long as the node.
                let _ = self.inner.commands.send(Command::Restart { key, uid: view.lamina.uid.to_string() });
                Ok(())
            }
            Kind::Deployment | Kind::DaemonSet | Kind::StatefulSet => {
                self.declared(target)?;
                let mut memory = self.memory(target).as_ref().clone();
                memory.restarted = Some(Timestamp::now());
                self.inner.memories.set(target, memory);
                self.inner.board.poke();
                Ok(())
            }
            _ => Err(refused("only pods, deployments, statefulsets and daemonsets can be")),
        }
    }

    /// Changes how many pods a workload has. Blocks on the disk.
    ///
    /// # Errors
    /// If it is not there, has no number, or comes from a manifests directory.
    pub fn scale(&self, target: &ObjectKey, replicas: u32) -> Result<(), Error> {
        let sourced = self.declared(target)?;
        let number = i32::try_from(replicas)
            .ok()
            .filter(|_| replicas <= MAX_REPLICAS)
            .ok_or_else(|| Error::Invalid { problems: vec![format!("replicas must be from 0 to {MAX_REPLICAS}")] })?;
        let mut object = sourced.object.as_ref().clone();
        match &mut object {
            Object::Deployment(d) => d.spec.replicas = Some(number),
            Object::StatefulSet(s) => s.spec.replicas = Some(number),
            _ => {
                return Err(Error::Refused {
                    action: "scale",
                    name: target.to_string(),
                    reason: "only deployments and statefulsets have a number of pods".to_owned(),
                });
            }
        }
        self.rewrite("scale", &sourced, object, "set spec.replicas there")
    }

    /// Rolls back to the template before, or to a revision by its number. Blocks on the disk.
    ///
    /// # Errors
    /// If it is not there, has no such revision, or comes from a manifests directory.
    pub fn undo(&self, target: &ObjectKey, revision: Option<u64>) -> Result<Undone, Error> {
        let sourced = self.declared(target)?;
        let memory = self.memory(target);
        let refused = |reason: String| Error::Refused { action: "roll back", name: target.to_string(), reason };
        let old: &Revision = if let Some(number) = revision {
            let missing = || Error::NotFound { kind: "revision", name: format!("{number} of {target}") };
            memory.revision_of(number).ok_or_else(missing)?
        } else {
            let before = memory.revisions.len().checked_sub(2).and_then(|i| memory.revisions.get(i));
            before.ok_or_else(|| refused("it had no other template".to_owned()))?
        };
        let mut object = sourced.object.as_ref().clone();
        *template(&mut object).ok_or_else(|| refused("it has no rollout".to_owned()))? = old.template.clone();
        self.rewrite(
            "roll back",
            &sourced,
            object,
            &format!(
                "the template of revision {} is shown by \
             `lamina rollout history {}/{} --revision {}`",
                old.number,
                target.kind.as_str().to_lowercase(),
                target.name,
                old.number
            ),
        )?;
        Ok(Undone { to: old.number })
    }

    /// What is remembered of a workload.
    pub fn memory(&self, key: &ObjectKey) -> Arc<Memory> {
        self.inner.memories.get(key).unwrap_or_default()
    }

    /// The declared object of this name.
    fn declared(&self, target: &ObjectKey) -> Result<Sourced, Error> {
        let set = self.inner.sets.borrow().clone();
        set.objects.iter().find(|s| s.object.key() == *target).cloned().ok_or_else(|| missing(target))
    }

    fn rewrite(&self, action: &'static str, sourced: &Sourced, object: Object, way: &str) -> Result<(), Error> {
        if sourced.source == SourceKind::Manifests {
            return Err(Error::Refused {
                action,
                name: object.key().to_string(),
                reason: format!("it is declared in {}; {way}", sourced.file.display()),
            });
        }
        self.inner.desired.replace(object).map_err(Error::failed("keep the change"))
    }
}

/// The template of a workload that rolls out.
fn template(object: &mut Object) -> Option<&mut PodTemplateSpec> {
    match object {
        Object::Deployment(d) => Some(&mut d.spec.template),
        Object::DaemonSet(d) => Some(&mut d.spec.template),
        Object::StatefulSet(s) => Some(&mut s.spec.template),
        _ => None,
    }
}

fn missing(target: &ObjectKey) -> Error {
    let name = format!("{}/{}", target.namespace, target.name);
    Error::NotFound { kind: target.kind.as_str(), name }
}
