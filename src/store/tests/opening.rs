//! Who may open a store, and what opening one does.

use std::os::unix::fs::PermissionsExt as _;

use super::support::{Bed, mode, options};
use crate::store::{Error, RefKind, Store, SweepOptions};

#[test]
fn a_second_agent_is_refused_and_told_who_has_the_store() {
    let bed = Bed::new();
    match Store::open(&options(bed.path(""))) {
        Err(Error::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lock_goes_with_the_last_handle() {
    let bed = Bed::new();
    let clone = bed.store.clone();
    let bed = {
        let root = bed.path("");
        assert!(Store::open(&options(&root)).is_err());
        drop(clone);
        bed.reopen(|_| {})
    };
    assert!(bed.path("lock").exists());
}

#[test]
fn a_store_is_for_its_agent_alone_even_where_directories_were_open() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for name in ["layers", "images/tags", "refs", "staging", "trash"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
    let _store = Store::open(&options(&root)).unwrap();
    for name in ["", "layers", "images", "images/tags", "refs", "staging", "trash"] {
        assert_eq!(mode(&root.join(name)), 0o700, "{name}");
    }
    for name in ["format.json", "lock"] {
        assert_eq!(mode(&root.join(name)), 0o600, "{name}");
    }
}

#[test]
fn the_instance_is_random_and_stays() {
    let (one, two) = (Bed::new(), Bed::new());
    let instance = one.store.instance().to_owned();
    assert_ne!(instance, two.store.instance());
    assert_eq!(one.reopen(|_| {}).store.instance(), instance);
}

#[test]
fn a_store_of_a_newer_release_is_left_alone() {
    for (format, what) in [
        (r#"{"version":2,"instance":"x"}"#, "layout version 2"),
        (r#"{"version":1,"features":["quantum"],"instance":"x"}"#, "feature \"quantum\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("format.json"), format).unwrap();
        let error = Store::open(&options(dir.path())).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(!dir.path().join("layers").exists());
    }
}

#[test]
fn reading_needs_no_lock_and_changes_nothing() {
    let bed = Bed::new();
    let image = bed.image(&["a", "b"]);
    bed.layer("lonely", 7);
    bed.store.hold(RefKind::Pod, "p", &image.manifest).unwrap();
    let reader = Store::open_read_only(&bed.path("")).unwrap();
    assert_eq!(reader.image(&image.top).unwrap().unwrap().layers, image.layers);
    assert_eq!(reader.why_image(&image.top).unwrap().chains.len(), 1);
    let dry = SweepOptions { dry_run: true, ..SweepOptions::default() };
    assert_eq!(reader.sweep(&dry).unwrap().freed_bytes, 7);
    assert!(matches!(reader.sweep(&SweepOptions::default()), Err(Error::ReadOnly { .. })));
    assert!(matches!(reader.release(RefKind::Pod, "p"), Err(Error::ReadOnly { .. })));
    assert!(matches!(reader.empty_staging_and_trash(), Err(Error::ReadOnly { .. })));
    assert_eq!(bed.names("layers").len(), 3);
}

#[test]
fn a_directory_without_a_store_is_not_opened_for_reading() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Store::open_read_only(dir.path()).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn strange_things_in_the_store_stop_nothing_and_are_named() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    bed.store.hold(RefKind::Pod, "p", &image.manifest).unwrap();
    let digest = crate::oci::Digest::sha256_of(b"x").file_name();
    let strange = ["layers/README", "layers/.hidden", "images/notes", "images/sha256-short"];
    let digests = [format!("layers/{digest}"), format!("images/{digest}")];
    let bed = bed.reopen(|root| {
        for name in strange.iter().copied().chain(digests.iter().map(String::as_str)) {
            std::fs::write(root.join(name), b"?").unwrap();
        }
        std::fs::create_dir(root.join("refs/unknown")).unwrap();
        std::fs::write(root.join("layers/..."), b"?").unwrap();
    });
    assert_eq!(bed.store.image(&image.top).unwrap().unwrap().layers, image.layers);
    let swept = bed.sweep();
    assert_eq!(swept.layers.len(), 1);
    assert!(bed.store.layer(&image.layers[0]).is_ok());
}
