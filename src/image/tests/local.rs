//! Images from this node's disk: layouts and docker archives, as directories and as tars.

use std::path::PathBuf;

use super::fixtures::{Pack, descriptor, layer, tar};
use super::*;
use crate::image::{Retry, pull};
use crate::oci::media_type::OCI_MANIFEST;

/// Writes files below a directory.
fn write(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", crate::oci::Digest::sha256_of(bytes).hex()), bytes.to_vec())
}

/// The files of an OCI layout with one image named `tag`.
fn layout(made: &Made, tag: &str) -> Vec<(String, Vec<u8>)> {
    let entry = descriptor(OCI_MANIFEST, &made.manifest);
    let entry = entry.trim_end_matches('}');
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{entry},"annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}]}}"#
    );
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    files.push(("index.json".to_owned(), index.into_bytes()));
    files.extend([blob(&made.manifest), blob(&made.config)]);
    files.extend(made.layers.iter().map(|l| blob(&l.bytes)));
    files
}

/// The files of what `docker save` of an older docker writes.
fn docker(made: &Made, names: &str) -> Vec<(String, Vec<u8>)> {
    let layers: Vec<_> = (0..made.layers.len()).map(|i| format!("\"l{i}/layer.tar\"")).collect();
    let list = format!(r#"[{{"Config":"c.json","RepoTags":{names},"Layers":[{}]}}]"#, layers.join(","));
    let mut files: Vec<_> =
        made.layers.iter().enumerate().map(|(i, l)| (format!("l{i}/layer.tar"), l.bytes.clone())).collect();
    files.extend([("c.json".to_owned(), made.config.clone()), ("manifest.json".to_owned(), list.into_bytes())]);
    files
}

fn tar_of(dir: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let entries: Vec<_> = files.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let path = dir.join("Game 1.tar");
    std::fs::write(&path, tar(&entries, true)).unwrap();
    path
}

fn three() -> Made {
    Made::of([Pack::Plain, Pack::Gzip, Pack::Zstd].map(|p| layer(&format!("d/{p:?}"), 3000, p)).to_vec())
}

#[tokio::test]
async fn an_image_of_a_layout_directory_is_pulled_by_tag_digest_or_alone() {
    let (dir, made, node) = (tempfile::tempdir().unwrap(), three(), Node::new());
    write(dir.path(), &layout(&made, "1.0"));
    let path = dir.path().display();
    for name in [format!("oci:{path}:1.0"), format!("oci:{path}"), format!("oci:{path}@{}", made.digest())] {
        let pulled = node.pull(&name).await.unwrap();
        assert_eq!(pulled.image.manifest, made.digest(), "{name}");
    }
    let error = node.pull(&format!("oci:{path}:2.0")).await.unwrap_err();
    assert!(chain(&error).contains("1.0"), "{}", chain(&error));
    assert_eq!(error.class(), Retry::Never);
}

#[tokio::test]
async fn archives_are_loaded_from_directories_and_tars() {
    for as_tar in [false, true] {
        for (files, name) in [
            (layout(&three(), "1.0"), if as_tar { "localhost/game-1:1.0" } else { "localhost/img:1.0" }),
            (docker(&three(), r#"["game:1","r.example/x/game:2"]"#), "docker.io/library/game:1"),
            (docker(&three(), "null"), ""),
        ] {
            let (dir, node) = (tempfile::tempdir().unwrap(), Node::new());
            let path = if as_tar {
                tar_of(dir.path(), &files)
            } else {
                let path = dir.path().join("img");
                write(&path, &files);
                path
            };
            let loaded = node.images.load(&path, None, None).await.unwrap();
            assert_eq!(loaded.len(), 1);
            let one = loaded.first().unwrap();
            let first = one.references.first().unwrap();
            if !name.is_empty() {
                assert_eq!(first.to_string(), name);
            }
            for reference in &one.references {
                assert_eq!(node.store().tag(reference).unwrap().origin, TagOrigin::Person);
            }
            assert_eq!(one.pulled.layers.len(), 3);
            // Anyone here may use it, and it is not asked for anywhere.
            let used = node.pod(&first.to_string(), PullPolicy::Never, Vec::new()).await.unwrap();
            assert_eq!(used.image.manifest, one.pulled.image.manifest);
        }
    }
}

#[tokio::test]
async fn an_archive_may_be_compressed_as_a_whole() {
    for pack in [Pack::Gzip, Pack::Zstd] {
        let (dir, node) = (tempfile::tempdir().unwrap(), Node::new());
        let path = tar_of(dir.path(), &docker(&three(), r#"["game:1"]"#));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, fixtures::pack(&bytes, pack).bytes).unwrap();
        let loaded = node.images.load(&path, None, None).await.unwrap();
        assert_eq!(loaded[0].references[0].to_string(), "docker.io/library/game:1");
        assert_eq!(loaded[0].pulled.layers.len(), 3);
        assert_eq!(node.leftovers(), (0, 0));
        // Cut off, it is refused, and nothing of it stays.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = node.images.load(&path, None, None).await.unwrap_err();
        assert!(chain(&error).contains("ends too early"), "{}", chain(&error));
        assert_eq!(node.leftovers(), (0, 0));
    }
}

#[tokio::test]
async fn an_archive_never_leads_out_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "canary").unwrap();
    let made = three();
    for layer in ["../secret", "/etc/passwd", "link"] {
        let path = dir.path().join("img");
        let _ = std::fs::remove_dir_all(&path);
        let list = format!(r#"[{{"Config":"c.json","RepoTags":["a:1"],"Layers":["{layer}","{layer}","{layer}"]}}]"#);
        write(&path, &[("c.json".to_owned(), made.config.clone()), ("manifest.json".to_owned(), list.into_bytes())]);
        std::os::unix::fs::symlink("../secret", path.join("link")).unwrap();
        let node = Node::new();
        let error = node.images.load(&path, None, None).await.unwrap_err();
        assert!(!chain(&error).contains("canary"), "{layer}: {}", chain(&error));
        assert!(node.store().layers().is_empty());
    }
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let junk = dir.path().join("junk");
    std::fs::write(&junk, [1; 5000]).unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for path in [fifo, junk, empty, dir.path().join("gone")] {
        assert!(Node::new().images.load(&path, None, None).await.is_err(), "{}", path.display());
    }
}

#[tokio::test]
async fn a_blob_that_is_not_its_digests_is_refused() {
    let (dir, made, node) = (tempfile::tempdir().unwrap(), three(), Node::new());
    let mut files = layout(&made, "1");
    files.last_mut().unwrap().1[100] ^= 1;
    write(dir.path(), &files);
    let error = node.pull(&format!("oci:{}:1", dir.path().display())).await.unwrap_err();
    assert_eq!(error.reason(), crate::image::Reason::Digest, "{}", chain(&error));
}

#[tokio::test]
async fn a_name_that_comes_to_mean_another_image_while_the_old_one_is_taken_keeps_the_new_one() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Node::new());
    let mut images = Vec::new();
    for name in ["old", "new"] {
        let at = dir.path().join(name);
        let made = Made::of(vec![layer(&format!("d/{name}"), 3000, Pack::Plain)]);
        write(&at, &layout(&made, "1.0"));
        images.push(node.pull(&format!("oci:{}:1.0", at.display())).await.unwrap().image.id());
    }
    let mut wanted = request("game.example/game:1", PullPolicy::IfNotPresent);
    wanted.holder.1 = "uid-2".to_owned();
    let name = wanted.image.reference().unwrap();
    node.store().set_tag(&name, &images[0], TagOrigin::Resolved).unwrap();
    // It was found under the name; an archive with another of that name is loaded before it is taken.
    node.store().set_tag(&name, &images[1], TagOrigin::Resolved).unwrap();
    let taken = pull::take(&node.images.0, &wanted, &images[0], pull::Name::Found).await.unwrap();
    assert!(taken.is_none());
    assert_eq!(node.store().tag(&name).unwrap().image, images[1]);
    assert!(!node.store().refs().iter().any(|r| r.owner == "uid-2"), "nothing is held for it");
    // Looked for again, it is the new one.
    assert_eq!(node.images.pull(wanted).await.unwrap().image.id(), images[1]);
}
