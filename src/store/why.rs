//! Why something is still here: the chains that keep a layer or an image, from the thing up to its roots.

use super::Store;
use super::index::{Index, covered};
use super::key::{ImageId, LayerKey};
use super::refs::RefKind;
use crate::oci::{Digest, Reference};

/// One root that keeps a thing, and through which image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// The image between; `None` where a pull holds the layer itself, before its image is stored.
    pub image: Option<ImageId>,
    /// What sort of holder it is.
    pub kind: RefKind,
    /// The holder: a pod's uid, a tag's reference, and so on.
    pub owner: String,
}

/// Why a layer or an image is still here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Why {
    /// The layer, where one was asked about; with an image, `None`.
    pub layer: Option<LayerKey>,
    /// The images in question, with every tag that names them.
    pub images: Vec<(ImageId, Vec<Reference>)>,
    /// What keeps it. Empty: nothing does; it goes at the next pass, or when its grace or age is over.
    pub chains: Vec<Chain>,
}

impl Store {
    /// What keeps a layer; `None` if it is not here.
    pub fn why_layer(&self, key: &LayerKey) -> Option<Why> {
        let index = self.index();
        index.layers.get(key)?;
        let mut why = explain(&index, &index.images_of(key));
        why.layer = Some(key.clone());
        let direct = index.refs.iter().filter(|(_, holding)| holding.keys.binary_search(key).is_ok());
        why.chains.extend(direct.map(|((kind, owner), _)| Chain { image: None, kind: *kind, owner: owner.clone() }));
        why.chains.sort_unstable();
        Some(why)
    }

    /// What keeps the image of this index or manifest digest; `None` if it is not here.
    pub fn why_image(&self, digest: &Digest) -> Option<Why> {
        let index = self.index();
        let record = &index.image(digest)?.record;
        let mut why = explain(&index, std::slice::from_ref(&record.id));
        let pulls = index.refs.iter().filter(|(_, holding)| covered(record, &holding.keys.iter().collect()));
        why.chains.extend(pulls.map(|((kind, owner), _)| Chain { image: None, kind: *kind, owner: owner.clone() }));
        Some(why)
    }

    /// The layers whose key's digest begins with `prefix` (hexadecimal digits, or a whole key).
    pub fn layers_by_prefix(&self, prefix: &str) -> Vec<LayerKey> {
        let matches = |key: &&LayerKey| key.digest().hex().starts_with(prefix) || key.to_string().starts_with(prefix);
        let index = self.index();
        let mut keys: Vec<LayerKey> = index.layers.keys().filter(matches).cloned().collect();
        keys.sort_unstable();
        keys
    }
}

fn explain(index: &Index, ids: &[ImageId]) -> Why {
    let tags_of = |id: &ImageId| {
        let tags = index.tags.values().filter(|tag| tag.image == *id);
        (id.clone(), tags.map(|tag| tag.reference.clone()).collect())
    };
    let mut chains = Vec::new();
    for root in index.roots() {
        let through = ids.iter().filter(|id| root.held.manifests.contains(&id.manifest));
        chains.extend(through.map(|id| Chain { image: Some(id.clone()), kind: root.kind, owner: root.owner.clone() }));
    }
    chains.sort_unstable();
    Why { layer: None, images: ids.iter().map(tags_of).collect(), chains }
}
