//! Who may use an image that is already here: only somebody who could have pulled it.
//!
//! Each successful fetch leaves a proof. A pod that asks for the image by the same repository, with a credential that
//! was proved (or none where none was needed), may use it without asking the registry; any other asks first.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// One way in which an image was got.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Proof {
    /// From this machine: loaded from a file, built, committed. Anyone here may use it.
    Local,
    /// The registry gave it to anybody.
    Anonymous {
        /// The registry's host.
        registry: String,
        /// The repository's path.
        repository: String,
    },
    /// The registry gave it to whoever has this credential.
    Credential {
        /// The registry's host.
        registry: String,
        /// The repository's path.
        repository: String,
        /// [`Proof::credential`]'s digest of it; never the credential.
        credential: Digest,
    },
}

impl Proof {
    /// The proof that `user` with `secret` could pull `repository` of `registry`. `instance` is the store's own
    /// ([`super::Store::instance`]), so that the same credential looks different on every node.
    pub fn credential(instance: &str, registry: &str, repository: &str, user: &str, secret: &str) -> Self {
        let mut text = Vec::new();
        for part in [instance, registry, user, secret] {
            // A length before each part: no two lists of parts give the same text.
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        Self::Credential {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            credential: Digest::sha256_of(&text),
        }
    }
}

/// All the proofs of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Access {
    /// Each way in which it was got.
    pub proofs: BTreeSet<Proof>,
}

impl Access {
    /// One proof.
    pub fn by(proof: Proof) -> Self {
        Self { proofs: BTreeSet::from([proof]) }
    }

    /// Whether anyone on this machine may use it, for it came from this machine.
    pub fn is_local(&self) -> bool {
        self.proofs.contains(&Proof::Local)
    }

    /// Whether someone who can prove one of `proofs` may use it.
    pub fn allows<'a>(&self, proofs: impl IntoIterator<Item = &'a Proof>) -> bool {
        self.is_local() || proofs.into_iter().any(|proof| self.proofs.contains(proof))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_image_is_not_for_a_pod_without_its_secret() {
        let proof = |secret| Proof::credential("node", "r.example", "a/b", "me", secret);
        let anonymous = Proof::Anonymous { registry: "r.example".into(), repository: "a/b".into() };
        let access = Access::by(proof("right"));
        assert!(access.allows([&proof("right")]));
        assert!(!access.allows([&proof("wrong"), &anonymous]));
        assert!(!access.allows([]));
    }

    #[test]
    fn a_credential_for_one_repository_opens_no_other() {
        let proof = |repository| Proof::credential("node", "r.example", repository, "me", "s");
        assert!(!Access::by(proof("a")).allows([&proof("b")]));
    }

    #[test]
    fn a_loaded_image_is_for_all() {
        assert!(Access::by(Proof::Local).allows([]));
    }

    #[test]
    fn parts_of_a_credential_cannot_be_shifted() {
        let of = |user, secret| Proof::credential("n", "r", "p", user, secret);
        assert_ne!(of("ab", "c"), of("a", "bc"));
    }
}
