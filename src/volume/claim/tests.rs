//! What becomes of a claim, whatever becomes of its declaration, its pods and the agent.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use serde_json::json;

use super::*;
use crate::api::canonical;

impl Claims {
    /// For tests of what needs none.
    pub(in crate::volume) fn none() -> Self {
        let views = watch::channel(Views::default()).0;
        let root = "/nonexistent-lamina".into();
        Self(Arc::new(Shared {
            root,
            state: Mutex::default(),
            damaged: BTreeMap::new(),
            views,
            sizes: Sizes::default(),
        }))
    }
}

/// A state directory and a directory of manifests.
struct Bed {
    dir: tempfile::TempDir,
    claims: Claims,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let claims = Claims::open(dir.path().join("volumes")).unwrap();
        Self { dir, claims }
    }

    /// As a new agent finds it.
    fn reopen(&mut self) {
        self.claims = Claims::open(self.dir.path().join("volumes")).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("manifests/claim.yaml")
    }

    fn declared(&self, mode: &str, policy: &str) -> Declared {
        let claim = json!({
            "metadata": {"name": "data", "namespace": "n", "annotations": {claim::RECLAIM: policy}},
            "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        });
        let claim = Arc::new(canonical::claim(&serde_json::from_value(claim).unwrap()));
        Declared { claim, origin: Origin::Object { file: self.file() } }
    }

    /// With the set as it is: who is told to go.
    fn settle(&self, declared: Option<&Declared>, gone: bool) -> usize {
        let declared = declared.map(|d| (data(), d.clone())).into_iter().collect();
        self.claims.settle(&declared, &BTreeMap::new(), &|_| gone).len()
    }

    fn phase(&self) -> Option<Phase> {
        self.claims.views().get(&data()).map(|view| view.phase)
    }
}

fn data() -> ObjectKey {
    key("n", "data")
}

#[test]
fn a_claim_keeps_its_data_until_it_is_deleted_and_no_pod_has_it() {
    let mut bed = Bed::new();
    let (one, two) = (PodUid::random(), PodUid::random());
    let declared = bed.declared("ReadWriteOnce", claim::DELETE);
    assert!(matches!(bed.claims.take(&data(), None, (&one, "a")), Err(Error::Missing { .. })));
    assert!(bed.claims.declare(&data(), &declared).unwrap());
    assert!(!bed.claims.declare(&data(), &declared).unwrap(), "it is there");
    let path = bed.claims.take(&data(), Some(&declared), (&one, "a")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o777);
    fs::write(path.join("file"), "x").unwrap();
    bed.reopen();
    bed.claims.adopt(&data(), (&one, "a"));
    assert_eq!(bed.settle(Some(&declared), true), 0, "it is declared");
    assert_eq!(bed.settle(None, false), 0, "it is not known to be gone");
    assert_eq!(bed.settle(None, true), 1);
    assert!(bed.claims.collect().is_empty(), "a pod has it");
    assert!(matches!(bed.claims.take(&data(), None, (&two, "b")), Err(Error::Terminating { .. })));
    bed.reopen();
    assert_eq!(bed.phase(), Some(Phase::Terminating), "a new agent goes on with it");
    bed.claims.release(&one);
    assert!(matches!(bed.claims.collect()[..], [(_, Outcome::Removed)]));
    assert_eq!(bed.phase(), None);
    assert_eq!(fs::read_dir(bed.dir.path().join("volumes/n")).unwrap().count(), 0);
}

#[test]
fn a_claim_that_is_declared_again_before_it_is_gone_keeps_its_data() {
    let bed = Bed::new();
    let pod = PodUid::random();
    let declared = bed.declared("ReadWriteMany", claim::DELETE);
    let path = bed.claims.take(&data(), Some(&declared), (&pod, "a")).unwrap();
    fs::write(path.join("file"), "x").unwrap();
    assert_eq!(bed.settle(None, true), 1);
    assert!(bed.claims.collect().is_empty());
    bed.claims.declare(&data(), &declared).unwrap();
    bed.claims.release(&pod);
    assert!(bed.claims.collect().is_empty());
    assert!(bed.phase() == Some(Phase::Bound) && path.join("file").exists());
}

#[test]
fn what_is_retained_stays_and_is_there_for_the_next_claim_of_its_name() {
    let bed = Bed::new();
    let pod = PodUid::random();
    let declared = bed.declared("ReadWriteOnce", claim::RETAIN);
    bed.claims.declare(&data(), &declared).unwrap();
    fs::write(bed.claims.path(&data()).join("file"), "x").unwrap();
    assert!(bed.claims.delete(&data()).unwrap());
    assert!(matches!(bed.claims.collect()[..], [(_, Outcome::Released)]));
    assert!(!bed.claims.delete(&data()).unwrap(), "a second deletion finds nothing to delete");
    assert!(matches!(bed.claims.take(&data(), None, (&pod, "a")), Err(Error::Missing { .. })));
    let path = bed.claims.take(&data(), Some(&declared), (&pod, "a")).unwrap();
    assert!(bed.phase() == Some(Phase::Bound) && path.join("file").exists());
}

#[test]
fn a_directory_of_manifests_that_is_another_deletes_no_data() {
    let bed = Bed::new();
    bed.claims.declare(&data(), &bed.declared("ReadWriteOnce", claim::DELETE)).unwrap();
    let (manifests, away) = (bed.dir.path().join("manifests"), bed.dir.path().join("away"));
    fs::rename(&manifests, &away).unwrap();
    assert_eq!(bed.settle(None, true), 0, "it is not there");
    fs::create_dir(&manifests).unwrap();
    assert_eq!(bed.settle(None, true), 0, "as an unmount leaves it: readable, empty, and another");
    assert_eq!(bed.phase(), Some(Phase::Bound));
    fs::remove_dir(&manifests).unwrap();
    fs::rename(&away, &manifests).unwrap();
    assert_eq!(bed.settle(None, true), 1);
}

#[test]
fn one_pod_alone_has_a_claim_that_says_so() {
    let bed = Bed::new();
    let (one, two) = (PodUid::random(), PodUid::random());
    let declared = bed.declared(claim::POD_ONLY, claim::DELETE);
    bed.claims.take(&data(), Some(&declared), (&one, "a")).unwrap();
    bed.claims.take(&data(), Some(&declared), (&one, "a")).unwrap();
    let refused = bed.claims.take(&data(), Some(&declared), (&two, "b")).unwrap_err();
    assert!(refused.awaits_change() && refused.to_string().contains("pod a has it"), "{refused}");
    assert!(!bed.claims.has(&data(), &two));
    bed.claims.release(&one);
    bed.claims.take(&data(), Some(&declared), (&two, "b")).unwrap();
}

#[test]
fn claims_of_templates_go_with_their_pod_or_set_if_the_set_says_so() {
    let bed = Bed::new();
    let origin = |ordinal, retention| Origin::Template { file: bed.file(), set: "web".into(), ordinal, retention };
    let make = |name: &str, ordinal, retention| {
        let declared = Declared { origin: origin(ordinal, retention), ..bed.declared("ReadWriteOnce", claim::DELETE) };
        bed.claims.declare(&key("n", name), &declared).unwrap();
    };
    let (keep, scaled) = (Retention::default(), Retention { scaled: true, deleted: false });
    make("data-web-0", 0, keep);
    make("data-web-1", 1, keep);
    let set = |replicas, retention| {
        BTreeMap::from([(("n".to_owned(), "web".to_owned()), Set { ordinals: 0..replicas, retention })])
    };
    let settle = |sets: &BTreeMap<(String, String), Set>| {
        let gone = bed.claims.settle(&BTreeMap::new(), sets, &|_| true);
        gone.into_iter().map(|(key, _)| key.name).collect::<Vec<_>>()
    };
    assert!(settle(&set(1, keep)).is_empty(), "kept when scaled down");
    assert!(settle(&BTreeMap::new()).is_empty(), "kept without the set");
    assert_eq!(settle(&set(1, scaled)), ["data-web-1"]);
    assert!(settle(&set(1, Retention { deleted: true, scaled: false })).is_empty());
    assert_eq!(settle(&BTreeMap::new()), ["data-web-0"]);
}

#[test]
fn what_cannot_be_read_is_left_alone_and_what_was_being_removed_goes() {
    let mut bed = Bed::new();
    bed.claims.declare(&data(), &bed.declared("ReadWriteOnce", claim::DELETE)).unwrap();
    let dir = bed.dir.path().join("volumes/n");
    fs::write(dir.join("data/claim.json"), "{").unwrap();
    fs::create_dir_all(dir.join(".gone-1/data")).unwrap();
    bed.reopen();
    bed.claims.tidy();
    assert!(!dir.join(".gone-1").exists() && dir.join("data/data").exists());
    let refused = bed.claims.declare(&data(), &bed.declared("ReadWriteOnce", claim::DELETE)).unwrap_err();
    assert!(refused.to_string().contains("claim.json is damaged"), "{refused}");
    assert!(bed.claims.collect().is_empty());
}

#[test]
fn a_group_gets_everything_in_a_volume_and_nothing_that_links_lead_to() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    fs::write(outside.path().join("secret"), "x").unwrap();
    fs::set_permissions(outside.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), "x").unwrap();
    fs::set_permissions(dir.path().join("a/b/file"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink(outside.path(), dir.path().join("a/link")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("a/secret")).unwrap();
    group::own(dir.path(), 4321, true).unwrap();
    for (path, wanted) in [("", 0o2770), ("a/b", 0o2770), ("a/b/file", 0o660)] {
        let path = dir.path().join(path);
        assert_eq!(fs::metadata(&path).unwrap().gid(), 4321, "{}", path.display());
        assert_eq!(mode(&path) & wanted, wanted, "{}", path.display());
    }
    assert_eq!(fs::symlink_metadata(dir.path().join("a/link")).unwrap().gid(), 4321);
    assert_ne!(fs::metadata(outside.path()).unwrap().gid(), 4321);
    assert_eq!(
        (mode(&outside.path().join("secret")), fs::metadata(outside.path().join("secret")).unwrap().gid()),
        (0o600, 0)
    );

    fs::write(dir.path().join("new"), "x").unwrap();
    std::os::unix::fs::chown(dir.path().join("new"), None, Some(0)).unwrap();
    group::own(dir.path(), 4321, true).unwrap();
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().gid(), 0, "its top is as it should be");
    group::own(dir.path(), 4321, false).unwrap();
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().gid(), 4321);
}
