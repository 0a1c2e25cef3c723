//! Manifests and indexes that are well-formed, and those that must be refused (reliability row R7).

use super::*;
use crate::oci::media_type::{
    DOCKER_CONFIG, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP,
};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn blob(media_type: &str, digest: &str, size: u64) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn manifest(layers: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, blob(OCI_CONFIG, DIGEST, 2), layers.join(","))
}

fn entry(platform: Option<(&str, &str, &str)>, media_type: &str) -> String {
    let platform = platform.map_or_else(String::new, |(os, arch, variant)| {
        format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#)
    });
    format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":7{platform}}}"#)
}

fn index(entries: &[String]) -> Index {
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    match Document::parse(text.as_bytes(), None).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("not an index"),
    }
}

const IMAGE: &str = crate::oci::media_type::OCI_MANIFEST;

#[test]
fn a_docker_manifest_is_read_like_an_oci_one() {
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{}]}}"#,
        blob(DOCKER_CONFIG, DIGEST, 2),
        blob(DOCKER_LAYER_GZIP, DIGEST, 3)
    );
    let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else { panic!() };
    assert_eq!(manifest.layer_bytes(), 3);
}

#[test]
fn a_document_that_is_both_kinds_is_refused() {
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"layers":[]}}"#);
    assert!(matches!(Document::parse(text.as_bytes(), None), Err(DocumentError::Ambiguous(_))));
    assert!(matches!(Document::parse(b"{}", None), Err(DocumentError::Ambiguous(_))));
}

#[test]
fn schema_1_is_refused_by_name() {
    let text = br#"{"schemaVersion":1,"fsLayers":[]}"#;
    assert!(matches!(Document::parse(text, None), Err(DocumentError::Schema1)));
}

#[test]
fn an_unknown_media_type_is_refused_wherever_it_stands() {
    let text = r#"{"schemaVersion":2,"mediaType":"text/html","layers":[]}"#;
    assert!(matches!(Document::parse(text.as_bytes(), None), Err(DocumentError::MediaType { .. })));
    let layer = manifest(&[blob("application/x-iso9660-image", DIGEST, 1)]);
    assert!(matches!(Document::parse(layer.as_bytes(), None), Err(DocumentError::MediaType { .. })));
}

#[test]
fn a_path_as_digest_is_refused() {
    let text = manifest(&[blob(OCI_LAYER_GZIP, "sha256:../../x", 1)]);
    assert!(Document::parse(text.as_bytes(), None).is_err());
}

#[test]
fn layers_are_counted_and_weighed() {
    let one = blob(OCI_LAYER_GZIP, DIGEST, 1);
    assert!(Document::parse(manifest(&vec![one.clone(); MAX_LAYERS]).as_bytes(), None).is_ok());
    let many = manifest(&vec![one; MAX_LAYERS + 1]);
    assert!(matches!(Document::parse(many.as_bytes(), None), Err(DocumentError::TooMany { .. })));
    assert!(Document::parse(manifest(&[blob(OCI_LAYER_GZIP, DIGEST, MAX_LAYER_BYTES)]).as_bytes(), None).is_ok());
    let big = manifest(&[blob(OCI_LAYER_GZIP, DIGEST, MAX_LAYER_BYTES + 1)]);
    assert!(matches!(Document::parse(big.as_bytes(), None), Err(DocumentError::TooBig { .. })));
}

#[test]
fn a_manifest_one_byte_over_the_limit_is_refused() {
    let mut bytes = manifest(&[]).into_bytes();
    bytes.resize(usize::try_from(MAX_MANIFEST_BYTES).unwrap(), b' ');
    assert!(Document::parse(&bytes, None).is_ok());
    bytes.push(b' ');
    assert!(matches!(Document::parse(&bytes, None), Err(DocumentError::TooLarge { .. })));
}

#[test]
fn deep_json_is_refused_and_not_recursed_into() {
    let text = format!("{}{}", r#"{"layers":"#, "[".repeat(1_000_000));
    assert!(matches!(Document::parse(text.as_bytes(), None), Err(DocumentError::Json { .. })));
}

#[test]
fn the_best_platform_of_an_index_is_chosen() {
    let index = index(&[
        entry(Some(("unknown", "unknown", "")), IMAGE),
        entry(Some(("linux", "arm", "v5")), IMAGE),
        entry(Some(("linux", "arm", "v6")), IMAGE),
        entry(Some(("linux", "amd64", "")), IMAGE),
    ]);
    let chosen = |p: &str| index.choose(&p.parse().unwrap()).map(|e| e.platform.clone().unwrap().to_string());
    assert_eq!(chosen("linux/arm/v7").unwrap(), "linux/arm/v6");
    assert_eq!(chosen("linux/amd64").unwrap(), "linux/amd64");
    let error = chosen("linux/s390x").unwrap_err().to_string();
    assert!(error.contains("linux/arm/v5") && !error.contains("unknown"), "{error}");
}

#[test]
fn an_entry_without_a_platform_is_the_last_resort() {
    let index = index(&[entry(None, IMAGE)]);
    assert!(index.choose(&"linux/amd64".parse().unwrap()).unwrap().platform.is_none());
}

#[test]
fn a_nested_index_is_refused() {
    let index = index(&[entry(Some(("linux", "amd64", "")), OCI_INDEX)]);
    let error = index.choose(&"linux/amd64".parse().unwrap()).unwrap_err();
    assert!(matches!(error, DocumentError::NestedIndex { .. }));
}
