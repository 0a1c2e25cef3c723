//! Sweeps on a real disk: what goes, what a crash at each step leaves, and how they go with everything else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::support::{Bed, diff_id, options, reference};
use crate::store::{Error, LayerKey, RefKind, Store, SweepOptions, TagOrigin, layout};

#[test]
fn a_sweep_takes_exactly_what_its_dry_run_said() {
    let bed = Bed::new();
    let (kept, _gone) = (bed.image(&["base", "a"]), bed.image(&["base", "b"]));
    bed.store.hold(RefKind::Pod, "p", &kept.manifest).unwrap();
    let dry = bed.store.sweep(&SweepOptions { dry_run: true, ..SweepOptions::default() }).unwrap();
    assert_eq!(bed.names("layers").len(), 3);
    let swept = bed.sweep();
    assert_eq!((&dry.images, &dry.layers, dry.freed_bytes), (&swept.images, &swept.layers, 10));
    let names: Vec<_> = kept.layers.iter().map(ToString::to_string).collect();
    let mut there = bed.names("layers");
    there.sort_by_key(|name| names.iter().position(|n| n == name));
    assert_eq!(there, names);
    assert!(bed.names("trash").is_empty());
    assert!(bed.sweep().is_empty());
}

#[test]
fn grace_and_age_keep_what_nothing_holds_for_their_time() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    bed.store.hold(RefKind::Pod, "p", &image.manifest).unwrap();
    bed.store.release(RefKind::Pod, "p").unwrap();
    let at = |seconds, grace, age| SweepOptions {
        grace: Duration::from_secs(grace),
        image_age: Duration::from_secs(age),
        ..Bed::in_future(seconds)
    };
    let waiting = bed.store.sweep(&at(5, 10, 0)).unwrap();
    assert!(waiting.is_empty() && waiting.next_due.unwrap() <= Duration::from_secs(5));
    assert!(bed.store.sweep(&at(50, 10, 60)).unwrap().is_empty());
    let needy = SweepOptions { need: 1, dry_run: true, ..at(0, 10, 60) };
    assert_eq!(bed.store.sweep(&needy).unwrap().freed_bytes, 10);
    assert_eq!(bed.store.sweep(&at(61, 10, 60)).unwrap().freed_bytes, 10);
}

#[test]
fn the_age_of_a_cached_image_outlasts_a_restart() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    let document = format!("images/{0}/{0}/image.json", image.top.file_name());
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
    let bed = bed.reopen(|root| {
        std::fs::File::options().write(true).open(root.join(&document)).unwrap().set_modified(long_ago).unwrap();
    });
    let hour = SweepOptions { image_age: Duration::from_hours(1), ..SweepOptions::default() };
    assert_eq!(bed.store.sweep(&hour).unwrap().images, [image.id()]);
}

#[test]
fn a_clock_that_was_set_back_keeps_a_cached_image_for_no_longer_than_its_age() {
    let bed = Bed::new();
    let image = bed.image(&["a"]);
    let document = format!("images/{0}/{0}/image.json", image.top.file_name());
    let later = std::time::SystemTime::now() + Duration::from_hours(87_600);
    let bed = bed.reopen(|root| {
        std::fs::File::options().write(true).open(root.join(&document)).unwrap().set_modified(later).unwrap();
    });
    let hour = |seconds| SweepOptions { image_age: Duration::from_hours(1), ..Bed::in_future(seconds) };
    assert!(bed.store.sweep(&hour(0)).unwrap().is_empty());
    assert_eq!(bed.store.sweep(&hour(3601)).unwrap().images, [image.id()]);
}

/// What a crash leaves at each step of a sweep and of a commit; a new agent must make the same of all.
#[test]
fn a_crash_at_any_step_leaves_a_store_that_settles() {
    type Step = (&'static str, fn(&std::path::Path, &[String]));
    let steps: [Step; 8] = [
        ("nothing", |_, _| {}),
        ("the tag was removed", |root, _| {
            for name in layout::list(&root.join("images/tags")).unwrap() {
                std::fs::remove_file(root.join("images/tags").join(name)).unwrap();
            }
        }),
        ("the image was moved to trash", |root, names| {
            std::fs::rename(root.join("images").join(&names[2]).join(&names[2]), root.join("trash/old-1")).unwrap();
        }),
        ("the image and its top went", |root, names| {
            std::fs::rename(root.join("images").join(&names[2]), root.join("trash/old-1")).unwrap();
        }),
        ("one layer was moved to trash", |root, names| {
            std::fs::rename(root.join("layers").join(&names[1]), root.join("trash/old-2")).unwrap();
        }),
        ("a layer was deleted in place as far as its document", |root, names| {
            std::fs::remove_file(root.join("layers").join(&names[1]).join("layer.json")).unwrap();
        }),
        ("staging holds half a layer, and half a document", |root, _| {
            std::fs::create_dir_all(root.join("staging/old-3/tree/deep")).unwrap();
            std::fs::write(root.join("staging/old-3/layer.erofs"), b"half").unwrap();
            std::fs::write(root.join("refs/pod/.tmp-1-1"), b"{").unwrap();
            std::fs::write(root.join("images/tags/.tmp-1-2"), b"{").unwrap();
        }),
        ("the top of an image is there, and no manifest yet", |root, _| {
            let top = crate::oci::Digest::sha256_of(b"top");
            std::fs::create_dir(root.join("images").join(top.file_name())).unwrap();
            std::fs::write(root.join("images").join(top.file_name()).join("index.json"), b"{}").unwrap();
        }),
    ];
    for (step, crash) in steps {
        let bed = Bed::new();
        let kept = bed.image(&["base", "kept"]);
        let gone = bed.image(&["base", "gone"]);
        bed.store.hold(RefKind::Pod, "p", &kept.manifest).unwrap();
        bed.store.set_tag(&reference("gone:1"), &gone.id(), TagOrigin::Resolved).unwrap();
        let names = [gone.layers[0].to_string(), gone.layers[1].to_string(), gone.top.file_name()];
        let bed = bed.reopen(|root| crash(root, &names));
        bed.store.empty_staging_and_trash().unwrap();
        bed.sweep();
        let mut want: Vec<_> = kept.layers.iter().map(ToString::to_string).collect();
        want.sort_unstable();
        assert_eq!(bed.names("layers"), want, "{step}");
        assert_eq!(bed.names("images"), [kept.top.file_name(), "tags".to_owned()], "{step}");
        for empty in ["staging", "trash", "images/tags"] {
            assert!(bed.names(empty).is_empty(), "{step}: {empty}");
        }
        assert_eq!(bed.names("refs/pod"), ["p"], "{step}");
        let bed = bed.reopen(|_| {});
        assert_eq!(bed.store.find_stack(&[diff_id("base"), diff_id("kept")]).unwrap(), kept.layers.to_vec(), "{step}");
        assert!(bed.sweep().is_empty(), "{step}");
    }
}

#[test]
fn what_is_under_way_is_left_alone_when_staging_is_emptied() {
    let bed = Bed::new();
    let staging = crate::store::staging::Staging::create(&bed.store).unwrap();
    std::fs::create_dir(bed.path("staging/old-1")).unwrap();
    bed.store.empty_staging_and_trash().unwrap();
    assert!(staging.path().is_dir());
    assert!(!bed.path("staging/old-1").exists());
}

#[test]
fn a_ref_that_cannot_be_read_stops_collection_until_it_is_given_up() {
    let bed = Bed::new();
    bed.image(&["a"]);
    std::fs::create_dir_all(bed.path("refs/pod")).unwrap();
    let bed = bed.reopen(|root| std::fs::write(root.join("refs/pod/p"), b"\0\0\0").unwrap());
    let swept = bed.store.sweep(&SweepOptions::default()).unwrap();
    assert!(swept.is_empty() && matches!(swept.failures[..], [Error::UnknownRoot { .. }]));
    assert_eq!(bed.names("layers").len(), 1);
    bed.store.discard_document(&bed.path("layers")).unwrap();
    assert_eq!(bed.names("layers").len(), 1);
    bed.store.release(RefKind::Pod, "p").unwrap();
    assert_eq!(bed.sweep().freed_bytes, 10);
}

#[test]
fn what_cannot_be_moved_to_trash_is_deleted_where_it_lies() {
    let bed = Bed::new();
    bed.image(&["a"]);
    // Nothing can be renamed into a file.
    std::fs::remove_dir(bed.path("trash")).unwrap();
    std::fs::write(bed.path("trash"), b"").unwrap();
    assert_eq!(bed.sweep().freed_bytes, 10);
    assert!(bed.names("layers").is_empty());
    assert_eq!(bed.names("images"), ["tags"]);
}

#[test]
fn something_that_cannot_be_removed_stops_nothing_else() {
    let bed = Bed::new();
    bed.image(&["a"]);
    bed.image(&["b"]);
    let stuck = bed.path("layers").join(LayerKey::Diff(diff_id("a")).to_string());
    std::fs::remove_dir_all(&stuck).unwrap();
    let swept = bed.store.sweep(&SweepOptions::default()).unwrap();
    assert_eq!(swept.layers.len(), 2);
    assert!(bed.names("layers").is_empty());
}

#[test]
fn pulls_and_sweeps_at_once_never_lose_what_is_held() {
    let bed = Bed::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bed.sweep();
            }
        });
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let bed = &bed;
                scope.spawn(move || {
                    for round in 0..20 {
                        let owner = format!("{worker}-{round}");
                        let names = ["base".to_owned(), format!("own {worker} {}", round % 3)];
                        let stack: Vec<_> = names.iter().map(|name| diff_id(name)).collect();
                        bed.store.hold_layers(&owner, std::slice::from_ref(&stack)).unwrap();
                        for (at, name) in names.iter().enumerate() {
                            if bed.store.find_layer(&stack[..=at]).is_none() {
                                bed.layer(name, 10);
                            }
                        }
                        let names: Vec<&str> = names.iter().map(String::as_str).collect();
                        let image = bed.store.put_image(Bed::documents(&names)).unwrap();
                        bed.store.hold_only(RefKind::Pull, &owner, std::slice::from_ref(&image.manifest)).unwrap();
                        assert!(bed.store.image(&image.top).unwrap().is_some());
                        for key in image.layers.iter() {
                            assert!(bed.store.layer(key).unwrap().dir.join("layer.json").exists());
                        }
                        bed.store.release(RefKind::Pull, &owner).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    bed.sweep();
    for empty in ["layers", "staging", "trash", "refs/pull"] {
        assert!(bed.names(empty).is_empty(), "{empty}");
    }
}

#[test]
fn usage_adds_up_and_says_what_sharing_saves() {
    let bed = Bed::new();
    let (one, two) = (bed.image(&["base", "a"]), bed.image(&["base", "b"]));
    bed.layer("stray", 3);
    bed.store.hold(RefKind::Pod, "p", &one.manifest).unwrap();
    bed.store.set_tag(&reference("x:1"), &one.id(), TagOrigin::Resolved).unwrap();
    let usage = bed.store.usage();
    assert_eq!((usage.total, usage.referenced, usage.cached, usage.unreferenced), (33, 20, 10, 3));
    assert_eq!((usage.saved, usage.reclaimable()), (10, 13));
    let of = |id| usage.images.iter().find(|image| image.image == id).unwrap();
    assert_eq!((of(one.id()).total, of(one.id()).shared, of(one.id()).unique), (20, 10, 10));
    assert_eq!((of(one.id()).tags.len(), of(two.id()).references), (1, 0));
    let base = usage.layers.iter().find(|layer| layer.key == one.layers[0]).unwrap();
    assert_eq!((base.images, base.references), (2, 1));
    assert_eq!(bed.sweep().freed_bytes, usage.reclaimable());
}

#[test]
fn a_large_store_is_planned_over_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&options(dir.path())).unwrap();
    let mut index = store.index();
    let now = Instant::now();
    let keys: Vec<LayerKey> = (0..10_000).map(|n| LayerKey::Diff(diff_id(&n.to_string()))).collect();
    for key in &keys {
        let entry = crate::store::index::LayerEntry { info: None, damage: None, idle_since: now };
        index.layers.insert(key.clone(), entry);
    }
    for n in 0..1000 {
        let digest = crate::oci::Digest::sha256_of(format!("image {n}").as_bytes());
        let id = crate::store::ImageId { top: digest.clone(), manifest: digest.clone() };
        let layers = (0..10).map(|at| keys[n * 10 + at].clone()).collect();
        let record = crate::store::ImageRecord {
            id,
            config_digest: digest.clone(),
            layers,
            access: crate::store::Access::default(),
            stored_at: std::time::SystemTime::now(),
        };
        index.add_image(record.into(), now);
        let held = crate::store::Held { manifests: [digest].into(), ..Default::default() };
        index.refs.insert((RefKind::Pod, n.to_string()), crate::store::index::Holding::new(held));
    }
    drop(index);
    // No figure here (tests run on busy machines): that nothing goes, from memory alone, with the disk empty.
    assert!(store.plan_sweep(&SweepOptions::default()).is_empty());
    store.index().refs.remove(&(RefKind::Pod, "7".to_owned()));
    assert_eq!(store.plan_sweep(&SweepOptions::default()).layers.len(), 10);
}
