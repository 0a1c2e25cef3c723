//! From what a person types to a layer or an image: a name, a digest, or the first digits of one.

use crate::image::ImageName;
use crate::oci::Digest;
use crate::server::problem::{Problem, Reason};
use crate::store::{ImageId, LayerKey, Store};

/// The fewest digits that are taken for the beginning of a digest.
const MIN_DIGITS: usize = 4;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A layer.
    Layer(LayerKey),
    /// An image.
    Image(ImageId),
}

fn digits(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let good = (MIN_DIGITS..=64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(hex)
}

fn ambiguous(text: &str, found: impl Iterator<Item = String>) -> Problem {
    let found: Vec<_> = found.collect();
    Problem::new(Reason::Invalid, format!("{text} is the beginning of {}", found.join(" and of ")))
        .hint("give more digits")
}

/// Finds an image by name, by digest, or by the first digits of one.
///
/// # Errors
/// If there is none, or more than one.
pub fn find_image(store: &Store, text: &str) -> Result<ImageId, Problem> {
    let missing = || Problem::not_found("image", text).hint("lamina get images");
    // A layout's image is tagged under a name of its own, and can be asked for as it was pulled.
    if let Some(reference) = text.parse::<ImageName>().ok().and_then(|name| name.reference()) {
        if let Some(tag) = store.tag(&reference) {
            return Ok(tag.image);
        }
        // A name with a digest means that image, whatever its tags; the repository is where it may come from.
        if let Some(digest) = reference.digest() {
            return by_digest(store, digest).ok_or_else(missing);
        }
    }
    if let Ok(digest) = text.parse::<Digest>() {
        return by_digest(store, &digest).ok_or_else(missing);
    }
    let Some(hex) = digits(text) else { return Err(missing()) };
    let begins = |digest: &Digest| digest.hex().starts_with(hex);
    let mut found: Vec<ImageId> =
        store.images().iter().map(|i| i.id.clone()).filter(|id| begins(&id.top) || begins(&id.manifest)).collect();
    match found.len() {
        0 => Err(missing()),
        1 => Ok(found.remove(0)),
        _ => Err(ambiguous(text, found.iter().map(|id| id.top.to_string()))),
    }
}

fn by_digest(store: &Store, digest: &Digest) -> Option<ImageId> {
    store.images().iter().map(|i| &i.id).find(|id| id.top == *digest || id.manifest == *digest).cloned()
}

/// Finds a layer or an image.
///
/// # Errors
/// If there is none, or more than one.
pub fn find(store: &Store, text: &str) -> Result<Subject, Problem> {
    let prefix = text.strip_prefix("layer/").unwrap_or(text);
    let whole_key = prefix.starts_with("sha256-") || prefix.starts_with("chain-");
    if whole_key || digits(prefix).is_some() {
        let mut layers = store.layers_by_prefix(prefix.strip_prefix("sha256:").unwrap_or(prefix));
        match layers.len() {
            0 => {}
            1 => return Ok(Subject::Layer(layers.remove(0))),
            _ => return Err(ambiguous(prefix, layers.iter().map(ToString::to_string))),
        }
    }
    let name = text.strip_prefix("image/").unwrap_or(text);
    find_image(store, name).map(Subject::Image).map_err(|problem| match problem.reason {
        Reason::NotFound => Problem::not_found("layer or image", text).hint("lamina get layers, lamina get images"),
        _ => problem,
    })
}
