//! What is applied is there after a restart, and nothing else is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn documents(names: &[(&str, &str)]) -> Vec<Document> {
    let text: Vec<_> = names
        .iter()
        .map(|(name, image)| {
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n")
        })
        .collect();
    let parsed = api::parse("-", text.join("---\n").as_bytes());
    assert!(parsed.problems.is_empty());
    parsed.documents
}

fn rows(rows: Vec<(ObjectKey, Applied)>) -> Vec<(String, Applied)> {
    rows.into_iter().map(|(key, applied)| (key.name, applied)).collect()
}

fn names(desired: &Desired) -> Vec<String> {
    desired.subscribe().borrow().objects.iter().map(|o| o.object.key().name).collect()
}

#[test]
fn what_is_applied_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("desired");
    let desired = Desired::open(&dir).unwrap();
    let first = documents(&[("a", "x:1"), ("b", "x:1")]);
    let did = desired.apply(&first, "s", false, false).unwrap();
    assert_eq!(rows(did), [("a".to_owned(), Applied::Created), ("b".to_owned(), Applied::Created)]);
    let second = documents(&[("a", "x:2"), ("b", "x:1")]);
    let did = desired.apply(&second, "s", false, false).unwrap();
    assert_eq!(rows(did), [("a".to_owned(), Applied::Configured), ("b".to_owned(), Applied::Unchanged)]);

    let again = Desired::open(&dir).unwrap();
    assert_eq!(*again.subscribe().borrow(), *desired.subscribe().borrow());
    let key = second[0].object.key();
    assert_eq!(fs::metadata(again.path(&key)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(again.remove(&key).unwrap() && !again.remove(&key).unwrap());
    assert_eq!(names(&again), ["b"]);
    assert_eq!(names(&Desired::open(&dir).unwrap()), ["b"]);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let desired = Desired::open(dir.path()).unwrap();
    let did = desired.apply(&documents(&[("a", "x:1")]), "s", true, true).unwrap();
    assert_eq!(rows(did), [("a".to_owned(), Applied::Created)]);
    assert!(names(&desired).is_empty() && fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn pruning_removes_what_its_own_set_no_longer_names() {
    let dir = tempfile::tempdir().unwrap();
    let desired = Desired::open(dir.path()).unwrap();
    desired.apply(&documents(&[("a", "x:1"), ("b", "x:1")]), "s", false, false).unwrap();
    desired.apply(&documents(&[("c", "x:1")]), "other", true, false).unwrap();
    let did = desired.apply(&documents(&[("a", "x:1")]), "s", true, false).unwrap();
    assert_eq!(rows(did), [("a".to_owned(), Applied::Unchanged), ("b".to_owned(), Applied::Deleted)]);
    assert_eq!(names(&Desired::open(dir.path()).unwrap()), ["a", "c"]);
}

#[test]
fn kinds_that_do_nothing_are_accepted_and_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let desired = Desired::open(dir.path()).unwrap();
    let parsed = api::parse("-", b"apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n");
    let did = desired.apply(&parsed.documents, "s", false, false).unwrap();
    assert_eq!(did[0].1, Applied::Ignored);
    assert!(names(&desired).is_empty());
}

#[test]
fn a_damaged_file_is_a_problem_by_name_and_hurts_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let desired = Desired::open(dir.path()).unwrap();
    let both = documents(&[("a", "x:1"), ("b", "x:1")]);
    desired.apply(&both, "s", false, false).unwrap();
    let file = desired.path(&both[0].object.key());
    fs::write(&file, "{\"version\": 1, \"set\":").unwrap();
    fs::write(file.with_file_name(".tmp-1-1"), "half").unwrap();
    let again = Desired::open(dir.path()).unwrap();
    let set = Arc::clone(&again.subscribe().borrow());
    assert_eq!(names(&again), ["b"]);
    assert!(set.problems[0].to_string().contains("is damaged") && !set.is_gone(&file));
    assert!(!file.with_file_name(".tmp-1-1").exists());
    assert!(again.remove(&both[0].object.key()).unwrap());
    assert!(again.subscribe().borrow().problems.is_empty());
}
