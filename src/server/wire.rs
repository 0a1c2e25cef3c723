//! The bodies of requests, as both sides of the socket know them; lists and objects are Kubernetes-shaped JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// A manifest, as a person wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// What errors call it.
    pub name: String,
    /// Its text; any number of documents, YAML or JSON.
    pub text: String,
}

/// `POST /v1/apply`, `POST /v1/delete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Manifests {
    /// The files.
    pub files: Vec<File>,
    /// What `prune` is about: objects that an earlier apply of the same set wrote. The client's `-f`, as typed.
    pub set: String,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Remove what an earlier apply wrote and this one does not name.
    pub prune: bool,
}

/// `POST /v1/exec`, upgraded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Exec {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container, where the pod has several.
    pub container: Option<String>,
    /// The command; nothing: connect to the container's own process (`POST /v1/attach`).
    pub command: Vec<String>,
    /// Send to its standard input.
    pub stdin: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// The terminal's size at the start.
    pub size: Option<Size>,
}

/// `POST /v1/port-forward`, upgraded: one connection. Channel 0 leads to the pod, channel 1 back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PortForward {
    /// `pod`, `service`, or a workload's kind.
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// A number or a name; of a service, one of its own ports.
    pub port: String,
}

/// `GET /v1/copy`: whether the body is a `file`'s bytes or a `directory` as a tar.
pub const COPY_KIND: &str = "lamina-kind";
/// `GET /v1/copy`: its permission bits, in decimal.
pub const COPY_MODE: &str = "lamina-mode";
/// `GET /v1/copy`: when its content was last changed, in seconds since 1970.
pub const COPY_MTIME: &str = "lamina-mtime";
/// `GET /v1/copy`: its owner and group, `uid:gid`.
pub const COPY_OWNER: &str = "lamina-owner";

/// `POST /v1/run`, upgraded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Run {
    /// The whole pod, as a manifest has it.
    pub pod: Value,
    /// Send to its standard input.
    pub stdin: bool,
    /// It has a terminal.
    pub tty: bool,
    /// Remove the pod when it ends or the connection does.
    pub remove: bool,
    /// Start it and say its name, nothing more.
    pub detach: bool,
    /// The terminal's size at the start.
    pub size: Option<Size>,
}

/// `POST /v1/images/pull`, upgraded: `progress` frames carry [`Layer`]s, the result of `exit` is [`Pulled`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Pull {
    /// The image's name.
    pub image: String,
    /// Ask the registry even when the image is here.
    pub always: bool,
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Its digest in the manifest.
    pub digest: String,
    /// What happens to it.
    pub state: LayerState,
    /// Bytes that came so far.
    pub fetched: u64,
    /// Bytes in all, where that is known.
    pub total: Option<u64>,
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LayerState {
    /// It waits for its turn.
    Waiting,
    /// It comes.
    Fetching,
    /// It was here already: nothing of it is fetched.
    Present,
    /// It is in the store.
    Done,
}

/// What a pull or a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pulled {
    /// The name under which it is kept.
    pub image: String,
    /// Its top digest.
    pub digest: String,
    /// How many layers it has.
    pub layers: usize,
    /// How many of them were here.
    pub layers_reused: usize,
    /// Bytes that came over the wire.
    pub fetched_bytes: u64,
    /// Bytes of layers that were here.
    pub reused_bytes: u64,
}

/// `POST /v1/images/tag`, `…/remove`, `…/pin`, `…/unpin`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Name {
    /// The image: a name or a digest.
    pub image: String,
    /// Its new name, for `tag`.
    pub target: Option<String>,
}

/// `POST /v1/gc`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Gc {
    /// Say what would go, and remove nothing.
    pub dry_run: bool,
    /// Instead of `--gc-grace`, in milliseconds.
    pub grace_millis: Option<u64>,
}

/// `POST /v1/check`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Check {
    /// Rebuild every layer's tar and compare it with its diffID.
    pub full: bool,
    /// Fetch again what is damaged.
    pub repair: bool,
}

/// Random bytes for a name that a client makes.
pub fn random() -> [u8; 3] {
    rand::random()
}
