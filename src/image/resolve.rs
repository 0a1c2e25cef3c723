//! From a name to the documents of one image, each checked against the digest that names it.

use std::sync::Arc;

use bytes::Bytes;

use super::client::{Blob, ClientError, Fetched, Repository};
use super::credentials::{Candidate, Credential, DockerConfigSecret, Keychain};
use super::error::Error;
use super::images::Inner;
use super::layout::{Layout, LayoutBlob};
use super::name::LayoutTag;
use crate::oci::{
    Descriptor, Digest, Document, DocumentError, ImageConfig, MAX_CONFIG_BYTES, Manifest, Platform, Reference,
};
use crate::store::{ImageId, Proof};

/// Where an image's blobs come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A repository, with the credential that opened it.
    Registry(Arc<Repository>),
    /// A directory or an archive on this node.
    Layout(Arc<Layout>),
}

/// A blob on its way.
#[derive(Debug)]
pub(super) enum Body {
    Registry(Box<Blob>),
    Layout(LayoutBlob),
}

/// An image whose documents are known.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The name in words, for messages.
    pub(super) image: String,
    pub(super) id: ImageId,
    pub(super) index: Option<Bytes>,
    pub(super) manifest_bytes: Bytes,
    pub(super) manifest: Manifest,
    pub(super) config_bytes: Bytes,
    pub(super) config: ImageConfig,
    pub(super) source: Source,
    /// How it was got.
    pub(super) proof: Proof,
}

impl Source {
    /// Begins to read a layer.
    pub(super) fn open(&self, layer: &Descriptor) -> Result<Body, Error> {
        match self {
            Self::Registry(repository) => {
                let blob = Blob::new(Arc::clone(repository), &layer.digest, layer.size);
                Ok(Body::Registry(Box::new(blob)))
            }
            Self::Layout(layout) => layout.blob(&layer.digest, layer.size).map(Body::Layout),
        }
    }

    /// Whether a fetch that failed from `other` would fail from here in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Registry(a), Self::Registry(b)) => a.is_same(b),
            (Self::Layout(a), Self::Layout(b)) => a.path() == b.path(),
            _ => false,
        }
    }

    async fn document(&self, image: &str, reference: &str, digest: Option<&Digest>) -> Result<Fetched, Error> {
        match self {
            Self::Registry(repository) => repository
                .manifest(reference)
                .await
                .map_err(|source| Error::Registry { what: image.to_owned(), source }),
            Self::Layout(layout) => match digest {
                Some(digest) => layout.document(digest, crate::oci::MAX_MANIFEST_BYTES).await,
                None => Err(Error::NotPresent { image: image.to_owned() }),
            },
        }
    }

    async fn config(&self, image: &str, config: &Descriptor) -> Result<Bytes, Error> {
        match self {
            Self::Registry(repository) => repository
                .small_blob(&config.digest, config.size.min(MAX_CONFIG_BYTES))
                .await
                .map_err(|source| Error::Registry { what: format!("the config of {image}"), source }),
            Self::Layout(layout) => Ok(layout.document(&config.digest, MAX_CONFIG_BYTES).await?.bytes),
        }
    }
}

impl Body {
    /// The next bytes; `None` after the last.
    pub(super) async fn next(&mut self, what: impl Fn() -> String) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Registry(blob) => blob.next().await.map_err(|source| Error::Registry { what: what(), source }),
            Self::Layout(blob) => blob.next().await,
        }
    }
}

impl Inner {
    /// Asks the registry of `reference` what it means, with each credential that may open it.
    pub(super) async fn resolve(
        &self,
        reference: &Reference,
        secrets: &[DockerConfigSecret],
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let image = reference.to_string();
        let keychain = Keychain { config: &self.config, secrets };
        let (registry, repository) = (reference.registry(), reference.repository());
        let candidates = keychain
            .candidates(registry, repository)
            .await
            .map_err(|source| Error::Credentials { image: image.clone(), source })?;
        let mirrors = self.mirror_credentials(&keychain, reference).await?;
        let tries: Vec<Option<&Candidate>> =
            if candidates.is_empty() { vec![None] } else { candidates.iter().map(Some).collect() };
        let asked =
            reference.digest().map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), ToString::to_string);
        let mut last = None;
        for candidate in tries {
            let mirror = |host: &str| mirrors.iter().find(|(h, _)| h == host).and_then(|(_, c)| c.clone());
            let made = Repository::new(Arc::clone(&self.transport), reference, candidate, mirror)
                .map_err(|source| Error::Config { image: image.clone(), source })?;
            let source = Source::Registry(Arc::new(made));
            match source.document(&image, &asked, reference.digest()).await {
                Ok(top) => {
                    let proof = self.proof(reference, candidate.filter(|_| top.private));
                    return self.documents(image, source, top, reference.digest(), proof, platform).await;
                }
                Err(error) if may_be_private(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(Error::NotPresent { image }))
    }

    /// Reads what an OCI layout holds under `tag`.
    pub(super) async fn resolve_layout(
        &self,
        layout: Layout,
        tag: &LayoutTag,
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let layout = Arc::new(layout);
        let entry = layout.find(tag)?;
        let image = format!("{}@{}", layout.path().display(), entry.digest);
        let source = Source::Layout(Arc::clone(&layout));
        let top = Fetched {
            media_type: Some(entry.media_type.clone()),
            ..source.document(&image, "", Some(&entry.digest)).await?
        };
        self.documents(image, source, top, Some(&entry.digest), Proof::Local, platform).await
    }

    /// From the top document on: the manifest for `platform`, and its config.
    async fn documents(
        &self,
        image: String,
        source: Source,
        top: Fetched,
        named: Option<&Digest>,
        proof: Proof,
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let refused = |source| Error::Document { image: image.clone(), source };
        let top_digest = checked("manifest", &image, named, &top.bytes)?;
        let (index, manifest_bytes, manifest_digest, manifest) =
            match Document::parse(&top.bytes, top.media_type.as_deref()).map_err(refused)? {
                Document::Manifest(manifest) => (None, top.bytes, top_digest.clone(), manifest),
                Document::Index(index) => {
                    let entry = index.choose(platform).map_err(refused)?.descriptor.clone();
                    let fetched = source.document(&image, &entry.digest.to_string(), Some(&entry.digest)).await?;
                    checked("manifest", &image, Some(&entry.digest), &fetched.bytes)?;
                    match Document::parse(&fetched.bytes, Some(&entry.media_type)).map_err(refused)? {
                        Document::Manifest(manifest) => (Some(top.bytes), fetched.bytes, entry.digest, manifest),
                        Document::Index(_) => {
                            return Err(refused(DocumentError::NestedIndex { platform: platform.clone() }));
                        }
                    }
                }
            };
        let id = ImageId { top: top_digest, manifest: manifest_digest };
        let config_bytes = match self.store.documents(&id) {
            // An image that is here: its config is, too.
            Ok(known) => known.config.into(),
            Err(_) => source.config(&image, &manifest.config).await?,
        };
        checked("config", &image, Some(&manifest.config.digest), &config_bytes)?;
        let config = ImageConfig::parse(&config_bytes).map_err(refused)?;
        config.check_layers(manifest.layers.len()).map_err(refused)?;
        if !config.platform().is_for_machine(platform) {
            let available = config.platform().to_string();
            return Err(refused(DocumentError::NoPlatform { platform: platform.clone(), available }));
        }
        Ok(Resolved { image, id, index, manifest_bytes, manifest, config_bytes, config, source, proof })
    }

    /// What the node has for each mirror of `reference`: pods' credentials never go to a mirror.
    async fn mirror_credentials(
        &self,
        keychain: &Keychain<'_>,
        reference: &Reference,
    ) -> Result<Vec<(String, Option<Credential>)>, Error> {
        let image = || reference.to_string();
        let hosts = self.config.mirror_hosts(reference).map_err(|source| Error::Config { image: image(), source })?;
        let mut found = Vec::with_capacity(hosts.len());
        for host in hosts {
            let candidate = keychain
                .of_node(&host, reference.repository())
                .await
                .map_err(|source| Error::Credentials { image: image(), source })?;
            found.push((host, candidate.map(|c| c.credential)));
        }
        Ok(found)
    }

    /// The proof of access that `candidate` (or nothing) gives.
    pub(super) fn proof(&self, reference: &Reference, candidate: Option<&Candidate>) -> Proof {
        let (registry, repository) = (reference.registry(), reference.repository());
        match candidate {
            None => Proof::Anonymous { registry: registry.to_owned(), repository: repository.to_owned() },
            Some(candidate) => {
                let (user, secret) = candidate.credential.parts();
                Proof::credential(self.store.instance(), registry, repository, user, secret)
            }
        }
    }
}

/// The digest of `bytes`, which must be `named` where one is.
fn checked(what: &'static str, image: &str, named: Option<&Digest>, bytes: &[u8]) -> Result<Digest, Error> {
    let Some(want) = named else { return Ok(Digest::sha256_of(bytes)) };
    let got = Digest::of(want.algorithm(), bytes);
    if got == *want {
        return Ok(got);
    }
    Err(Error::Digest { what, image: image.to_owned(), want: want.clone(), got })
}

/// Whether another credential may open what this one did not. Some registries hide what one may not see.
fn may_be_private(error: &Error) -> bool {
    matches!(error, Error::Registry { source, .. }
        if matches!(source, ClientError::Unauthorized { .. } | ClientError::ForeignRealm { .. })
            || source.status().is_some_and(|s| s == reqwest::StatusCode::NOT_FOUND))
}
