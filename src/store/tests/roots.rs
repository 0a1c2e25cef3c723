//! Refs and tags: what they hold, that they last, and what is told about them.

use super::support::{Bed, diff_id, reference};
use crate::oci::Digest;
use crate::store::{Error, RefKind, TagOrigin};

#[test]
fn a_ref_lasts_until_it_is_released() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    bed.store.hold(RefKind::Pod, "uid-1", &image.manifest).unwrap();
    let bed = bed.reopen(|_| {});
    assert!(bed.sweep().is_empty());
    let refs = bed.store.refs();
    assert_eq!((refs.len(), refs[0].kind, refs[0].owner.as_str()), (1, RefKind::Pod, "uid-1"));
    bed.store.release(RefKind::Pod, "uid-1").unwrap();
    bed.store.release(RefKind::Pod, "uid-1").unwrap();
    assert_eq!(bed.names("refs/pod"), Vec::<String>::new());
    assert_eq!(bed.sweep().freed_bytes, 10);
}

#[test]
fn an_owner_may_hold_several_images_and_change_them_at_once() {
    let bed = Bed::new();
    let (one, two) = (bed.image(&["a"]), bed.image(&["b"]));
    bed.store.hold(RefKind::Pod, "p", &one.manifest).unwrap();
    bed.store.hold(RefKind::Pod, "p", &two.manifest).unwrap();
    let bed = bed.reopen(|_| {});
    assert!(bed.sweep().is_empty());
    bed.store.hold_only(RefKind::Pod, "p", std::slice::from_ref(&two.manifest)).unwrap();
    assert_eq!(bed.sweep().images, [one.id()]);
    bed.store.hold_only(RefKind::Pod, "p", &[]).unwrap();
    assert_eq!(bed.sweep().images, [two.id()]);
    assert!(bed.store.refs().is_empty());
}

#[test]
fn a_pull_keeps_layers_that_come_before_their_image() {
    let bed = Bed::new();
    let stack = vec![diff_id("a"), diff_id("b")];
    bed.store.hold_layers("pull-1", &[stack]).unwrap();
    let bed = bed.reopen(|_| {});
    let (a, b) = (bed.layer("a", 1), bed.layer("b", 1));
    let stray = bed.layer("c", 1);
    let layers: Vec<_> = bed.sweep().layers.into_iter().map(|layer| layer.key).collect();
    assert_eq!(layers, [stray]);
    let why = bed.store.why_layer(&b).unwrap();
    assert_eq!((why.chains[0].kind, why.chains[0].owner.as_str()), (RefKind::Pull, "pull-1"));
    bed.store.release(RefKind::Pull, "pull-1").unwrap();
    assert_eq!(bed.sweep().layers.len(), 2);
    assert!(bed.store.why_layer(&a).is_none());
}

#[test]
fn a_tag_of_a_person_holds_and_one_that_was_resolved_goes_with_its_image() {
    let bed = Bed::new();
    let (mine, theirs) = (bed.image(&["a"]), bed.image(&["b"]));
    bed.store.set_tag(&reference("mine:1"), &mine.id(), TagOrigin::Person).unwrap();
    bed.store.set_tag(&reference("theirs:1"), &theirs.id(), TagOrigin::Resolved).unwrap();
    let bed = bed.reopen(|_| {});
    let swept = bed.sweep();
    assert_eq!((swept.images, swept.tags), (vec![theirs.id()], vec![reference("theirs:1")]));
    assert_eq!(bed.names("images/tags").len(), 1);
    let why = bed.store.why_image(&mine.top).unwrap();
    assert_eq!((why.chains[0].kind, why.chains[0].owner.as_str()), (RefKind::Tag, "docker.io/library/mine:1"));
    assert!(bed.store.remove_tag(&reference("mine:1")).unwrap().is_some());
    assert!(bed.store.remove_tag(&reference("mine:1")).unwrap().is_none());
    assert_eq!(bed.sweep().images, [mine.id()]);
}

#[test]
fn a_tag_that_moves_lets_go_of_what_it_named() {
    let bed = Bed::new();
    let (old, new) = (bed.image(&["a"]), bed.image(&["b"]));
    let name = reference("x:1");
    bed.store.set_tag(&name, &old.id(), TagOrigin::Person).unwrap();
    bed.store.set_tag(&name, &new.id(), TagOrigin::Resolved).unwrap();
    let tag = bed.store.tag(&name).unwrap();
    assert_eq!((tag.image, tag.origin), (new.id(), TagOrigin::Person));
    assert_eq!(bed.sweep().images, [old.id()]);
}

#[test]
fn a_ref_of_kind_tag_ends_where_the_tag_begins() {
    let bed = Bed::new();
    let (old, new) = (bed.image(&["a"]), bed.image(&["b"]));
    let name = reference("x:1");
    bed.store.hold(RefKind::Tag, &name.to_string(), &old.manifest).unwrap();
    bed.store.set_tag(&name, &old.id(), TagOrigin::Person).unwrap();
    bed.store.hold_only(RefKind::Tag, &name.to_string(), std::slice::from_ref(&old.manifest)).unwrap();
    assert!(bed.names("refs/tag").is_empty());
    bed.store.set_tag(&name, &new.id(), TagOrigin::Resolved).unwrap();
    assert_eq!(bed.sweep().images, [old.id()]);
}

#[test]
fn a_tag_for_an_image_that_is_not_here_is_refused() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    bed.sweep();
    let result = bed.store.set_tag(&reference("x:1"), &image.id(), TagOrigin::Person);
    assert!(matches!(result, Err(Error::UnknownImage { .. })));
    assert!(bed.names("images/tags").is_empty());
}

#[test]
fn a_ref_that_cannot_be_written_is_not_in_force() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    std::fs::write(bed.path("refs/pin"), b"in the way").unwrap();
    assert!(bed.store.hold(RefKind::Pin, "x", &image.manifest).is_err());
    assert!(bed.store.refs().is_empty());
    assert_eq!(bed.sweep().images, [image.id()]);
}

#[test]
fn a_held_manifest_that_is_not_here_is_named_by_check() {
    let bed = Bed::new();
    bed.store.hold(RefKind::Pod, "p", &Digest::sha256_of(b"gone")).unwrap();
    let report = bed.store.check(false).unwrap();
    assert!(matches!(&report.damage[..], [crate::store::Damage::MissingImage { holder, .. }] if holder == "pod/p"));
}
