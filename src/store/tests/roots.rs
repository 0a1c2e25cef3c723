//! Refs and tags: what they hold, that they last, and what is told about them.

use super::support::{Bed, diff_id, reference};
use crate::oci::Digest;
use crate::store::{Damage, Error, RefKind, TagOrigin};

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
fn an_image_that_is_held_but_gone_is_damage_unless_a_pull_is_to_bring_it() {
    let bed = Bed::new();
    let absent = Digest::sha256_of(b"a manifest that is on its way");
    bed.store.hold_pull("pull-1", &absent, &[diff_id("a")]).unwrap();
    bed.store.hold(RefKind::Pod, "uid-1", &absent).unwrap();
    // The same for whoever looks from outside, and after the agent that pulled has died.
    let bed = bed.reopen(|_| {});
    assert!(bed.store.check(false).unwrap().is_sound());
    bed.store.release(RefKind::Pull, "pull-1").unwrap();
    let damage = bed.store.check(false).unwrap().damage;
    assert!(matches!(&damage[..], [Damage::MissingImage { manifest, .. }] if *manifest == absent), "{damage:?}");
}

#[test]
fn whatever_can_leave_something_without_a_holder_wakes_the_collector() {
    use futures_util::FutureExt as _;
    let bed = Bed::new();
    let woken = || bed.store.loosened().now_or_never().is_some();
    let image = bed.image(&["a"]);
    assert!(woken(), "a commit: its pull may have been given up meanwhile");
    bed.store.hold(RefKind::Pod, "uid-1", &image.manifest).unwrap();
    bed.store.set_tag(&reference("theirs:1"), &image.id(), TagOrigin::Resolved).unwrap();
    assert!(!woken(), "what only holds");
    bed.store.release(RefKind::Pod, "uid-1").unwrap();
    assert!(woken(), "a ref that goes");
    bed.store.remove_tag(&reference("theirs:1")).unwrap();
    assert!(woken(), "a tag that goes");
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
fn a_tag_that_has_moved_is_not_moved_back_by_whoever_found_the_old_one() {
    let bed = Bed::new();
    let (old, new) = (bed.image(&["a"]), bed.image(&["b"]));
    let name = reference("x:1");
    assert!(bed.store.confirm_tag(&name, &old.id(), TagOrigin::Resolved).unwrap());
    bed.store.set_tag(&name, &new.id(), TagOrigin::Resolved).unwrap();
    assert!(!bed.store.confirm_tag(&name, &old.id(), TagOrigin::Person).unwrap());
    let tag = bed.store.tag(&name).unwrap();
    assert_eq!((tag.image, tag.origin), (new.id(), TagOrigin::Resolved));
    assert!(bed.store.confirm_tag(&name, &new.id(), TagOrigin::Person).unwrap());
    assert_eq!(bed.store.tag(&name).unwrap().origin, TagOrigin::Person);
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

#[test]
fn what_a_release_would_free_is_known_before() {
    let bed = Bed::new();
    let (old, other, stray) = (bed.image(&["a", "b"]), bed.image(&["a", "c"]), bed.image(&["d"]));
    bed.store.hold(RefKind::Pod, "p", &old.manifest).unwrap();
    bed.store.hold(RefKind::Pod, "q", &other.manifest).unwrap();
    let of = |owner: &str| [(RefKind::Pod, owner.to_owned())].into();
    let names = |swept: crate::store::Swept| {
        let mut names: Vec<_> = swept.layers.iter().map(|l| l.key.to_string()).collect();
        names.sort_unstable();
        (swept.images, names)
    };
    let key = |name: &str| crate::store::LayerKey::Diff(diff_id(name)).to_string();
    // What both share stays, and what goes anyway is not counted.
    assert_eq!(names(bed.store.plan_release(of("p"), [].into(), Vec::new())), (vec![old.id()], vec![key("b")]));
    // What is to run next keeps its layers, and what it is known to hold its image.
    let kept = bed.store.plan_release(of("p"), [].into(), vec![vec![diff_id("a"), diff_id("b")]]);
    assert!(names(kept).1.is_empty());
    assert!(bed.store.plan_release(of("p"), [old.manifest.clone()].into(), Vec::new()).is_empty());
    assert!(bed.store.image(&stray.manifest).unwrap().is_some(), "it was only a look");
}
