//! Images and their layers: what is stored, found again, refused, replaced.

use super::support::{Bed, diff_id};
use crate::oci::{ChainId, Digest};
use crate::store::{Damage, Error, LayerKey, Proof};

#[test]
fn an_image_is_found_by_its_index_and_by_its_manifest_after_a_restart_too() {
    let bed = Bed::new();
    bed.layer("a", 1);
    bed.layer("b", 1);
    let documents = Bed::with_index(Bed::documents(&["a", "b"]));
    let image = bed.store.put_image(documents.clone()).unwrap();
    assert_ne!(image.top, image.manifest);
    let bed = bed.reopen(|_| {});
    for digest in [&image.top, &image.manifest] {
        let found = bed.store.image(digest).unwrap().unwrap();
        assert_eq!((found.id(), &found.layers), (image.id(), &image.layers));
        assert_eq!(found.config.rootfs().diff_ids().len(), 2);
    }
    let read = bed.store.documents(&image.id()).unwrap();
    assert_eq!((read.index, read.manifest, read.config), (documents.index, documents.manifest, documents.config));
    assert!(bed.store.image(&Digest::sha256_of(b"other")).unwrap().is_none());
    assert!(bed.names("staging").is_empty());
}

#[test]
fn an_image_whose_layers_are_not_here_is_refused() {
    let bed = Bed::new();
    bed.layer("a", 1);
    match bed.store.put_image(Bed::documents(&["a", "b"])) {
        Err(Error::MissingLayer { diff_id: missing }) => assert_eq!(missing, diff_id("b")),
        other => panic!("{other:?}"),
    }
    assert!(bed.store.images().is_empty());
}

#[test]
fn documents_that_do_not_fit_together_are_refused() {
    let bed = Bed::new();
    bed.layer("a", 1);
    let good = Bed::documents(&["a"]);
    let mut config = good.clone();
    config.config.push(b' ');
    assert!(matches!(bed.store.put_image(config), Err(Error::Digest { what: "config", .. })));
    let mut index = Bed::with_index(Bed::documents(&["b"]));
    index.manifest = good.manifest;
    index.config = good.config;
    assert!(matches!(bed.store.put_image(index), Err(Error::Image { what: "index", .. })));
    for text in ["", "null", "[]", "{", "{\"schemaVersion\":2}"] {
        let mut manifest = Bed::documents(&["a"]);
        manifest.manifest = text.as_bytes().to_vec();
        assert!(matches!(bed.store.put_image(manifest), Err(Error::Image { what: "manifest", .. })), "{text}");
    }
    assert_eq!(bed.names("images"), ["tags"]);
}

#[test]
fn a_layer_that_stands_alone_serves_every_base_and_another_only_its_own() {
    let bed = Bed::new();
    let (a, b, c) = (diff_id("a"), diff_id("b"), diff_id("c"));
    let alone = bed.layer("a", 1);
    let chain = ChainId::of(&[a.clone(), b.clone()]).unwrap();
    let bound = bed.plant(LayerKey::Chain(chain), "b", 1);
    let find = |stack: &[_]| bed.store.find_layer(stack);
    assert_eq!(find(&[c.clone(), a.clone()]), Some(alone.clone()));
    assert_eq!(find(&[a.clone(), b.clone()]), Some(bound.clone()));
    assert_eq!(find(&[c.clone(), b.clone()]), None);
    assert_eq!(find(std::slice::from_ref(&b)), None);
    assert_eq!(find(&[]), None);
    assert_eq!(bed.store.find_stack(&[a.clone(), b.clone()]), Some(vec![alone, bound]));
    assert_eq!(bed.store.find_stack(&[c, a]), None);
}

#[test]
fn storing_an_image_again_adds_proofs_and_nothing_else() {
    let bed = Bed::new();
    let first = bed.image(&["a"]);
    let proof = Proof::credential(bed.store.instance(), "r.example", "a", "me", "secret");
    let mut again = Bed::documents(&["a"]);
    again.access.proofs = [proof.clone()].into();
    let second = bed.store.put_image(again).unwrap();
    assert_eq!(second.access.proofs.len(), 2);
    let anonymous = Proof::Anonymous { registry: "r.example".into(), repository: "a".into() };
    bed.store.record_access(&first.id(), anonymous.clone()).unwrap();
    let bed = bed.reopen(|_| {});
    let access = bed.store.image(&first.top).unwrap().unwrap().access;
    assert_eq!(access.proofs, [Proof::Local, proof, anonymous].into());
    assert_eq!(bed.store.images().len(), 1);
}

#[test]
fn one_index_may_have_manifests_for_several_platforms() {
    let bed = Bed::new();
    bed.layer("a", 1);
    bed.layer("b", 1);
    let (mut one, mut two) = (Bed::documents(&["a"]), Bed::documents(&["b"]));
    let entry = |manifest: &[u8]| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::sha256_of(manifest).to_string(),
            "size": manifest.len(),
        })
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "manifests": [entry(&one.manifest), entry(&two.manifest)],
    });
    one.index = Some(index.to_string().into_bytes());
    two.index.clone_from(&one.index);
    let (one, two) = (bed.store.put_image(one).unwrap(), bed.store.put_image(two).unwrap());
    assert_eq!(one.top, two.top);
    for image in [&one, &two] {
        assert_eq!(bed.store.image(&image.manifest).unwrap().unwrap().id(), image.id());
    }
    bed.store.hold(crate::store::RefKind::Pin, "x", &one.manifest).unwrap();
    assert_eq!(bed.sweep().images, [two.id()]);
    assert!(bed.store.documents(&one.id()).unwrap().index.is_some());
    bed.store.release(crate::store::RefKind::Pin, "x").unwrap();
    bed.sweep();
    assert_eq!(bed.names("images"), ["tags"]);
}

#[test]
fn a_damaged_layer_is_not_found_stays_damaged_and_is_replaced_in_one_step() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    let key = image.layers[0].clone();
    bed.store.mark_damaged(&key, "a bit flipped").unwrap();
    let bed = bed.reopen(|_| {});
    assert_eq!(bed.store.find_layer(&[diff_id("a")]), None);
    assert!(matches!(bed.store.layer(&key), Err(Error::Damaged { .. })));
    assert_eq!(bed.store.damaged_layers(), [(key.clone(), "a bit flipped".to_owned())]);
    let report = bed.store.check(false).unwrap();
    assert!(matches!(&report.damage[..], [Damage::Layer { images, .. }] if *images == [image.id()]), "{report:?}");
    let open = std::fs::File::open(bed.path(&format!("layers/{key}/tree/file"))).unwrap();
    bed.layer("a", 10);
    assert!(open.metadata().is_ok());
    assert_eq!(bed.store.find_layer(&[diff_id("a")]), Some(key));
    assert!(bed.names("staging").is_empty());
    assert!(bed.reopen(|_| {}).store.damaged_layers().is_empty());
}

#[test]
fn the_second_of_two_equal_commits_leaves_the_first_in_place() {
    let bed = Bed::new();
    let key = bed.layer("a", 1);
    let before = bed.store.layer(&key).unwrap();
    bed.layer("a", 2);
    assert_eq!(bed.store.layer(&key).unwrap(), before);
    assert!(bed.names("staging").is_empty());
}

#[test]
fn damaged_documents_are_found_and_replaced() {
    for name in ["manifest.json", "config.json", "image.json"] {
        let bed = Bed::new();
        let image = bed.image(&["a"]);
        let path = bed.path(&format!("images/{0}/{0}/{name}", image.top.file_name()));
        let bed = bed.reopen(|_| std::fs::write(&path, b"{}").unwrap());
        // No look at the layers here: those of these tests are planted.
        bed.store.index().layers.clear();
        let damage = bed.store.check(false).unwrap().damage;
        assert!(
            damage.iter().any(|d| matches!(d, Damage::Image { .. } | Damage::Document { .. })),
            "{name}: {damage:?}"
        );
        let bed = bed.reopen(|_| {});
        bed.store.put_image(Bed::documents(&["a"])).unwrap();
        let bed = bed.reopen(|_| {});
        bed.store.index().layers.clear();
        let damage = bed.store.check(false).unwrap().damage;
        assert!(
            !damage.iter().any(|d| matches!(d, Damage::Image { .. } | Damage::Document { .. })),
            "{name}: {damage:?}"
        );
    }
}

#[test]
fn layers_of_an_image_whose_record_cannot_be_read_are_not_collected() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    bed.store.hold(crate::store::RefKind::Pod, "p", &image.manifest).unwrap();
    let path = bed.path(&format!("images/{0}/{0}/image.json", image.top.file_name()));
    let bed = bed.reopen(|_| std::fs::write(&path, b"{").unwrap());
    assert!(bed.store.sweep(&crate::store::SweepOptions::default()).unwrap().is_empty());
    bed.store.discard_document(&path).unwrap();
    assert_eq!(bed.sweep().freed_bytes, 10);
}
