//! Random histories of a store against a model of a few lines: what is held is whole, what is not goes with a sweep,
//! and a restart changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use proptest::prelude::*;

use super::support::{Bed, reference};
use crate::store::{Image, ImageId, LayerKey, RefKind, Tag, TagOrigin, Usage};

/// The images of the model: each a stack of named layers.
const IMAGES: [&[&str]; 5] = [&["base"], &["base", "run"], &["base", "run", "one"], &["base", "run", "two"], &["own"]];
const OWNERS: [&str; 3] = ["p", "q", "r"];
const KINDS: [RefKind; 3] = [RefKind::Pod, RefKind::Pin, RefKind::Build];
const TAGS: [&str; 2] = ["x:1", "r.example:5000/y:2"];

#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Hold(usize, usize),
    HoldOnly(usize, usize),
    Release(usize),
    Tag(usize, usize, TagOrigin),
    Untag(usize),
    Sweep,
    Reopen,
}

fn steps() -> impl Strategy<Value = Step> {
    let (image, owner, tag) = (0..IMAGES.len(), 0..OWNERS.len(), 0..TAGS.len());
    let origin = prop_oneof![Just(TagOrigin::Person), Just(TagOrigin::Resolved)];
    prop_oneof![
        4 => image.clone().prop_map(Step::Put),
        4 => (owner.clone(), image.clone()).prop_map(|(owner, image)| Step::Hold(owner, image)),
        1 => (owner.clone(), image.clone()).prop_map(|(owner, image)| Step::HoldOnly(owner, image)),
        3 => owner.prop_map(Step::Release),
        3 => (tag.clone(), image, origin).prop_map(|(tag, image, origin)| Step::Tag(tag, image, origin)),
        2 => tag.prop_map(Step::Untag),
        3 => Just(Step::Sweep),
        2 => Just(Step::Reopen),
    ]
}

/// What should be so.
#[derive(Debug, Default)]
struct Model {
    /// Images that were put and not swept since.
    there: BTreeSet<usize>,
    holds: BTreeMap<usize, BTreeSet<usize>>,
    tags: BTreeMap<usize, (usize, TagOrigin)>,
}

impl Model {
    fn held(&self) -> BTreeSet<usize> {
        let tags = self.tags.values().filter(|(_, origin)| *origin == TagOrigin::Person).map(|(image, _)| *image);
        self.holds.values().flatten().copied().chain(tags).collect()
    }
}

/// The images as the store knows them, made once.
fn known() -> Vec<Image> {
    let bed = Bed::in_memory();
    IMAGES.iter().map(|layers| bed.image(layers)).collect()
}

/// Everything that a restart must not change.
fn state(bed: &Bed) -> (Usage, Vec<Tag>, Vec<(RefKind, String)>) {
    let refs = bed.store.refs().into_iter().map(|root| (root.kind, root.owner)).collect();
    (bed.store.usage(), bed.store.tags(), refs)
}

fn apply(bed: Bed, model: &mut Model, images: &[Image], step: &Step) -> Bed {
    let store = &bed.store;
    let slot = |owner: usize| (KINDS[owner], OWNERS[owner]);
    match *step {
        Step::Put(image) => {
            bed.image(IMAGES[image]);
            model.there.insert(image);
        }
        Step::Hold(owner, image) => {
            let (kind, name) = slot(owner);
            store.hold(kind, name, &images[image].manifest).unwrap();
            model.holds.entry(owner).or_default().insert(image);
        }
        Step::HoldOnly(owner, image) => {
            let (kind, name) = slot(owner);
            store.hold_only(kind, name, std::slice::from_ref(&images[image].manifest)).unwrap();
            model.holds.insert(owner, [image].into());
        }
        Step::Release(owner) => {
            let (kind, name) = slot(owner);
            store.release(kind, name).unwrap();
            model.holds.remove(&owner);
        }
        Step::Tag(tag, image, origin) => {
            let result = store.set_tag(&reference(TAGS[tag]), &images[image].id(), origin);
            assert_eq!(result.is_ok(), model.there.contains(&image));
            if result.is_ok() {
                let person = model.tags.get(&tag).is_some_and(|(_, before)| *before == TagOrigin::Person);
                model.tags.insert(tag, (image, if person { TagOrigin::Person } else { origin }));
            }
        }
        Step::Untag(tag) => {
            let removed = store.remove_tag(&reference(TAGS[tag])).unwrap();
            assert_eq!(removed.is_some(), model.tags.remove(&tag).is_some());
        }
        Step::Sweep => {
            let planned = store.usage().reclaimable();
            assert_eq!(bed.sweep().freed_bytes, planned);
            let held = model.held();
            model.there.retain(|image| held.contains(image));
            let there = &model.there;
            model.tags.retain(|_, (image, _)| there.contains(image));
        }
        Step::Reopen => {
            let before = state(&bed);
            let bed = bed.reopen(|_| {});
            bed.store.empty_staging_and_trash().unwrap();
            assert_eq!(state(&bed), before);
            return bed;
        }
    }
    bed
}

fn agrees(bed: &Bed, model: &Model, images: &[Image]) {
    let there: BTreeSet<ImageId> = bed.store.images().iter().map(|record| record.id.clone()).collect();
    let want: BTreeSet<ImageId> = model.there.iter().map(|&image| images[image].id()).collect();
    assert_eq!(there, want);
    let names: BTreeSet<String> = bed.names("layers").into_iter().collect();
    for &image in &model.there {
        let layers: &[LayerKey] = &images[image].layers;
        assert!(layers.iter().all(|key| names.contains(&key.to_string()) && bed.store.layer(key).is_ok()));
        let held = model.held().contains(&image);
        assert_eq!(!bed.store.why_image(&images[image].top).unwrap().chains.is_empty(), held);
    }
    assert_eq!(bed.store.tags().len(), model.tags.len());
    assert!(bed.names("staging").is_empty() && bed.names("trash").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_what_is_held_and_frees_the_rest(history in prop::collection::vec(steps(), 1..40)) {
        static KNOWN: OnceLock<Vec<Image>> = OnceLock::new();
        let images = KNOWN.get_or_init(known);
        let (mut bed, mut model) = (Bed::in_memory(), Model::default());
        for step in &history {
            bed = apply(bed, &mut model, images, step);
            agrees(&bed, &model, images);
        }
        for owner in 0..OWNERS.len() {
            bed = apply(bed, &mut model, images, &Step::Release(owner));
        }
        for tag in 0..TAGS.len() {
            bed = apply(bed, &mut model, images, &Step::Untag(tag));
        }
        bed.sweep();
        prop_assert!(bed.names("layers").is_empty());
        prop_assert_eq!(bed.names("images"), ["tags"]);
        prop_assert!(bed.names("images/tags").is_empty());
    }
}
