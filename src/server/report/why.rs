//! Why a layer or an image is still here, as chains from the thing to its roots.

use serde::{Deserialize, Serialize};

use super::find::{Subject, find};
use super::people::People;
use crate::oci::Reference;
use crate::server::problem::Problem;
use crate::store::{ImageId, RefKind, Store};

/// What keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What was asked about.
    pub subject: String,
    /// Each from the thing to a root; empty: nothing keeps it.
    pub chains: Vec<Vec<String>>,
}

fn image_name(id: &ImageId, tags: &[(ImageId, Vec<Reference>)]) -> String {
    let tag = tags.iter().find(|(image, _)| image == id).and_then(|(_, tags)| tags.first());
    tag.map_or_else(|| format!("image {}", id.top), |tag| format!("image {tag}"))
}

/// A workload that holds images for templates that it may go back to, or needs again: `deployment default/web`.
pub(in crate::server) fn workload(owner: &str) -> String {
    let mut parts = owner.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(kind), Some(namespace), Some(name)) => format!("{} {namespace}/{name}", kind.to_lowercase()),
        _ => owner.to_owned(),
    }
}

/// A pin is a person's, or the drained node's, which needs the image again.
pub(in crate::server) fn pin(owner: &str) -> &'static str {
    if owner == crate::node::drain::PIN { "drain" } else { "pin" }
}

/// What keeps a layer or an image.
///
/// # Errors
/// If there is no such thing, or the text means several.
pub fn why(store: &Store, text: &str, people: &People) -> Result<Why, Problem> {
    let (subject, found) = match find(store, text)? {
        Subject::Layer(key) => (format!("layer {}", key.short()), store.why_layer(&key)),
        Subject::Image(id) => (String::new(), store.why_image(&id.manifest)),
    };
    let found = found.unwrap_or_default();
    let root = |kind: RefKind, owner: &str| match kind {
        RefKind::Pod => format!("pod {}", people.name(owner)),
        RefKind::Pin => pin(owner).to_owned(),
        RefKind::Workload => workload(owner),
        RefKind::Pull | RefKind::Tag | RefKind::Build | RefKind::File => format!("{kind} {owner}"),
    };
    let chains = found.chains.iter().map(|chain| {
        let mut links = Vec::new();
        if !subject.is_empty() {
            links.push(subject.clone());
        }
        links.extend(chain.image.as_ref().map(|id| image_name(id, &found.images)));
        links.push(root(chain.kind, &chain.owner));
        links
    });
    let chains = chains.collect();
    let named = if subject.is_empty() {
        found.images.first().map(|(id, _)| image_name(id, &found.images)).unwrap_or_default()
    } else {
        subject
    };
    Ok(Why { subject: named, chains })
}
