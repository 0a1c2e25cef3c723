//! Revisions: a template of a workload, named by what it says.

use sha2::{Digest as _, Sha256};

use super::Template;

/// How many characters of the hash are in a revision's name.
pub const NAME_LENGTH: usize = 10;

/// A template of a workload, as a ControllerRevision holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// The name of the ControllerRevision: the workload's and the hash.
    pub name: String,
    /// The template.
    pub template: Template,
}

/// The revision of a workload's template. The same template has the same name, whatever the order of its fields.
/// `collisions` counts hashes that have met another template before.
pub fn revision(workload: &str, template: &Template, collisions: i32) -> Revision {
    // Maps of serde_json are sorted, so this is one text for one meaning.
    let mut hash = Sha256::new_with_prefix(template.0.to_string());
    if collisions != 0 {
        hash.update(collisions.to_be_bytes());
    }
    // Letters and digits that make no words.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let name = hash.finalize();
    let name: String = name.iter().take(NAME_LENGTH).map(|b| char::from(ALPHABET[usize::from(*b) % 27])).collect();
    Revision { name: format!("{workload}-{name}"), template: template.clone() }
}
