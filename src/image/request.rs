//! What a pull is asked for, what it tells while it runs, and what it gives.

use tokio::sync::mpsc::UnboundedSender;

use super::credentials::DockerConfigSecret;
use super::name::ImageName;
use crate::oci::{DiffId, Digest, Platform};
use crate::store::{Image, LayerKey, RefKind, TagOrigin};

/// When a registry is asked, as Kubernetes names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time: what the tag means now is what runs. Layers that are here are not fetched again.
    Always,
    /// Only when the image is not here.
    IfNotPresent,
    /// Not at all.
    Never,
}

impl PullPolicy {
    /// Kubernetes' default for a name.
    pub fn default_for(name: &ImageName) -> Self {
        if name.is_latest() { Self::Always } else { Self::IfNotPresent }
    }
}

/// Who keeps the image once it is here.
pub type Holder = (RefKind, String);

/// One pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The image.
    pub image: ImageName,
    /// When to ask a registry.
    pub policy: PullPolicy,
    /// The pod's `imagePullSecrets`. Empty for a person at the command line.
    pub secrets: Vec<DockerConfigSecret>,
    /// Whose ref holds the image from before its first layer arrives; written by the pull, removed by its owner.
    pub holder: Holder,
    /// Whether a person named it (the tag then holds the image until `rmi`) or a pod.
    pub by: TagOrigin,
    /// Where to tell what happens. A receiver that is gone disturbs nothing.
    pub progress: Option<UnboundedSender<Progress>>,
    /// For which platform; this node's if not said.
    pub platform: Option<Platform>,
}

impl PullRequest {
    /// A pull by [`PullPolicy::default_for`], without secrets, for this node's platform.
    pub fn new(image: ImageName, holder: Holder, by: TagOrigin) -> Self {
        let policy = PullPolicy::default_for(&image);
        Self { image, policy, secrets: Vec::new(), holder, by, progress: None, platform: None }
    }
}

/// One layer of an image that is being pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    /// The digest of its uncompressed tar: its name in all later messages.
    pub diff_id: DiffId,
    /// The digest of what travels.
    pub blob: Digest,
    /// How many bytes travel.
    pub size: u64,
    /// Whether it was here already: nothing travels.
    pub present: bool,
}

/// What happens during a pull, in this order: `Resolved`, then for each layer that is not here `Fetched` as its bytes
/// come and `Stored` at its end. Bytes that another pull is fetching are told to both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The name was resolved.
    Resolved {
        /// The digest of the manifest chosen for this node.
        manifest: Digest,
        /// Its layers, lowest first.
        layers: Vec<LayerPlan>,
    },
    /// So many bytes of a layer are here. Grows, but begins anew when a fetch must.
    Fetched {
        /// The layer.
        diff_id: DiffId,
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer is committed.
    Stored {
        /// The layer.
        diff_id: DiffId,
        /// Its size on disk.
        disk_bytes: u64,
    },
}

/// One layer of a pulled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledLayer {
    /// Its key in the store.
    pub key: LayerKey,
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes as they travel.
    pub size: u64,
    /// Whether it was in the store before.
    pub reused: bool,
}

/// A pull that succeeded.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image, held by the request's holder.
    pub image: Image,
    /// Whether a registry (or directory) was asked at all.
    pub asked: bool,
    /// Bytes of layers that travelled for this pull or for one that it waited for.
    pub fetched_bytes: u64,
    /// Bytes of layers that were here already, as they would have travelled.
    pub reused_bytes: u64,
    /// The layers, lowest first.
    pub layers: Vec<PulledLayer>,
}
