//! SELinux labels of containers: `seLinuxOptions`.
//!
//! A container that asks for a label runs under it, and its root, its volumes but those of the host, and the files that its
//! pod shares have one that goes with it. What it does not ask for comes from the node's policy (`lxc_contexts`, where all
//! container runtimes look), with a pair of categories of the pod's own, so that pods reach nothing of each other. The pair
//! is made from the pod's uid: nothing has to be remembered.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SELinuxOptions};
use sha2::Digest as _;

use crate::api::PodUid;
use crate::sys::{host, label};

/// Where the kernel's part of SELinux is mounted.
const KERNEL: &str = "/sys/fs/selinux";
/// Where the node's policy is named, and lies.
const POLICY: &str = "/etc/selinux";
/// What policies call the label of containers' programs, and of their files, unless they say otherwise.
const PROCESS: &str = "system_u:system_r:container_t:s0";
const FILE: &str = "system_u:object_r:container_file_t:s0";
/// And of files that all containers may read.
const SHARED: &str = "system_u:object_r:container_ro_file_t:s0";
/// How many categories there are to choose from.
const CATEGORIES: u32 = 1024;

/// Why a container cannot have its label.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy does not have it.
    #[error("seLinuxOptions come to the label {label:?}, which the SELinux policy of this node does not have")]
    Unknown {
        /// The label.
        label: String,
    },
    /// Something of the container's cannot be given its label.
    #[error("cannot give what is mounted at {target} the SELinux label {label:?}")]
    Give {
        /// Where that is.
        target: String,
        /// The label.
        label: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A label in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    user: String,
    role: String,
    kind: String,
}

impl Context {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        Some(Self { user: parts.next()?, role: parts.next()?, kind: parts.next()? })
    }

    fn at(&self, level: Option<&str>) -> String {
        let level = level.map_or_else(String::new, |level| format!(":{level}"));
        format!("{}:{}:{}{level}", self.user, self.role, self.kind)
    }
}

/// What containers have unless they ask for something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    process: Context,
    file: Context,
    shared: Option<String>,
    /// Whether labels have a level.
    has_levels: bool,
}

/// The labels of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Its programs'; none for a privileged one, which nothing confines.
    pub process: Option<String>,
    /// Its files'.
    pub file: String,
}

impl Defaults {
    /// What the node's policy says; `None` where the kernel runs none.
    pub fn of_node() -> Option<Self> {
        host::within(|| Self::read(Path::new(KERNEL), Path::new(POLICY))).ok().flatten()
    }

    fn read(kernel: &Path, policy: &Path) -> Option<Self> {
        if !kernel.join("enforce").exists() {
            return None;
        }
        let has_levels = fs::read_to_string(kernel.join("mls")).is_ok_and(|mls| mls.trim() == "1");
        let settings = settings(&policy.join("config"));
        let kind = settings.get("SELINUXTYPE").filter(|kind| !kind.contains('/'));
        let contexts =
            kind.map(|kind| self::settings(&policy.join(kind).join("contexts/lxc_contexts"))).unwrap_or_default();
        let context = |key: &str, otherwise| {
            contexts.get(key).and_then(|text| Context::parse(text)).or_else(|| Context::parse(otherwise))
        };
        let shared = context("ro_file", SHARED)?.at(has_levels.then_some("s0"));
        let shared = Some(shared).filter(|label| is_known(kernel, label));
        Some(Self { process: context("process", PROCESS)?, file: context("file", FILE)?, shared, has_levels })
    }

    /// The label of files that all containers may read, as layers are; `None`: the policy has none.
    pub fn shared(&self) -> Option<String> {
        self.shared.clone()
    }

    /// The labels of a container that asks for `options`.
    pub fn labels(&self, options: &SELinuxOptions, uid: &PodUid, privileged: bool) -> Labels {
        let asked = |own: &Option<String>, default: &str| {
            own.clone().filter(|own| !own.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let process = Context {
            user: asked(&options.user, &self.process.user),
            role: asked(&options.role, &self.process.role),
            kind: asked(&options.type_, &self.process.kind),
        };
        let own = options.level.clone().filter(|level| !level.is_empty());
        let level = own.or_else(|| self.has_levels.then(|| categories(uid)));
        Labels { process: (!privileged).then(|| process.at(level.as_deref())), file: self.file.at(level.as_deref()) }
    }
}

/// `key = "value"` on each line.
fn settings(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().trim_matches('"').to_owned())).collect()
}

/// A pair of categories that hardly another pod has: one of half a million.
fn categories(uid: &PodUid) -> String {
    let hash: [u8; 32] = sha2::Sha256::digest(uid.as_str()).into();
    let number = hash.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    let first = number % CATEGORIES;
    // Any but the first one.
    let second = (first + 1 + number / CATEGORIES % (CATEGORIES - 1)) % CATEGORIES;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

/// What a container's manifest says about SELinux: its own word counts, else its pod's.
pub fn wish<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a SELinuxOptions> {
    let own = container.security_context.as_ref().and_then(|c| c.se_linux_options.as_ref());
    let pods = || pod.spec.as_ref()?.security_context.as_ref()?.se_linux_options.as_ref();
    own.or_else(pods).filter(|options| **options != SELinuxOptions::default())
}

/// Asks the kernel whether the node's policy has the labels. Blocks.
///
/// # Errors
/// If it has not.
pub fn check(labels: &Labels) -> Result<(), Error> {
    for label in labels.process.iter().chain([&labels.file]) {
        if matches!(host::within(|| is_known(Path::new(KERNEL), label)), Ok(false)) {
            return Err(Error::Unknown { label: label.clone() });
        }
    }
    Ok(())
}

/// Whether the policy has a label. Whoever may not ask learns it when something is to have it.
fn is_known(kernel: &Path, label: &str) -> bool {
    let asked =
        OpenOptions::new().write(true).open(kernel.join("context")).and_then(|mut f| f.write_all(label.as_bytes()));
    asked.err().and_then(|e| e.raw_os_error()) != Some(libc::EINVAL)
}

/// Gives what is at `path` and is mounted at `target` a label, as [`label::give`] does. Blocks.
///
/// # Errors
/// If the kernel refuses.
pub fn give(target: &str, path: &Path, label: &str) -> Result<(), Error> {
    let failed = |source| Error::Give { target: target.to_owned(), label: label.to_owned(), source };
    label::give(path, label).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: serde_json::Value) -> SELinuxOptions {
        serde_json::from_value(json).unwrap()
    }

    /// A kernel's files and a policy's, as they lie on a node.
    fn node(mls: Option<&str>, contexts: &str) -> (tempfile::TempDir, Option<Defaults>) {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, policy) = (dir.path().join("kernel"), dir.path().join("policy"));
        fs::create_dir_all(policy.join("targeted/contexts")).unwrap();
        fs::create_dir(&kernel).unwrap();
        if let Some(mls) = mls {
            fs::write(kernel.join("enforce"), "0").unwrap();
            fs::write(kernel.join("mls"), mls).unwrap();
        }
        fs::write(policy.join("config"), "# SELINUXTYPE=other\nSELINUX=enforcing\nSELINUXTYPE=targeted\n").unwrap();
        fs::write(policy.join("targeted/contexts/lxc_contexts"), contexts).unwrap();
        let defaults = Defaults::read(&kernel, &policy);
        (dir, defaults)
    }

    #[test]
    fn what_is_not_asked_for_is_as_the_policy_has_it() {
        let uid = PodUid::from_bytes([7; 16]);
        let contexts = "process = \"sys_u:sys_r:box_t:s0\"\nfile = \"sys_u:object_r:box_file_t:s0\"\n";
        let defaults = node(Some("1"), contexts).1.unwrap();
        let labels = defaults.labels(&options(serde_json::json!({ "level": "s0:c1,c2" })), &uid, false);
        assert_eq!(labels.process.as_deref(), Some("sys_u:sys_r:box_t:s0:c1,c2"));
        assert_eq!(labels.file, "sys_u:object_r:box_file_t:s0:c1,c2");
        assert_eq!(defaults.shared().as_deref(), Some("system_u:object_r:container_ro_file_t:s0"));
        let asked = options(serde_json::json!({ "user": "me_u", "role": "me_r", "type": "me_t", "level": "s1" }));
        assert_eq!(defaults.labels(&asked, &uid, false).process.as_deref(), Some("me_u:me_r:me_t:s1"));
        assert_eq!(defaults.labels(&asked, &uid, true).process, None, "nothing confines a privileged one");

        let other = node(Some("0"), "").1.unwrap().labels(&options(serde_json::json!({ "type": "me_t" })), &uid, false);
        assert_eq!(other.process.as_deref(), Some("system_u:system_r:me_t"), "a policy without levels");
        assert_eq!(other.file, "system_u:object_r:container_file_t");
        assert_eq!(node(None, contexts).1, None, "no policy at all");
    }

    #[test]
    fn each_pod_has_a_pair_of_categories_of_its_own_for_as_long_as_it_lives() {
        let all: std::collections::BTreeSet<String> =
            (0..1000_u128).map(|n| categories(&PodUid::from_bytes(n.to_le_bytes()))).collect();
        assert!(all.len() > 995, "{}", all.len());
        let again = || categories(&PodUid::from_bytes([7; 16]));
        assert_eq!(again(), again());
        for level in all {
            let (first, second) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            let (first, second): (u32, u32) = (first.parse().unwrap(), second.parse().unwrap());
            assert!(first < second && second < CATEGORIES, "{level}");
        }
    }
}
