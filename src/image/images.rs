//! The handle: all that the rest of the agent sees of this module.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::client::{Timing, Transport};
use super::config::RegistryConfig;
use super::error::Error;
use super::flight::Flights;
use super::metrics::{Metrics, Outcome};
use super::pull;
use super::request::{PullRequest, Pulled};
use crate::metrics;
use crate::store::{RefKind, Store};

/// Gets images. Cheap to clone; all clones share connections, fetches in progress and the limit on them.
#[derive(Debug, Clone)]
pub struct Images(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) config: Arc<RegistryConfig>,
    pub(super) transport: Arc<Transport>,
    pub(super) flights: Flights,
    pub(super) metrics: Metrics,
    /// Owners of the pull refs of pulls that run now.
    active: Mutex<HashSet<String>>,
    /// Shared by whatever pulls are writing to the store; a write goes on when its pull is given up.
    pub(super) writes: Arc<tokio::sync::RwLock<()>>,
    /// Whether what lies on this node as archives has been loaded.
    pub(super) local: watch::Sender<bool>,
}

impl Images {
    /// Images of `store`, from registries as `config` says, at most `parallel` layers at once.
    ///
    /// # Errors
    /// If a metric's name is taken in `registry`.
    pub fn new(
        store: Store,
        config: RegistryConfig,
        registry: &metrics::Registry,
        parallel: usize,
    ) -> Result<Self, metrics::Error> {
        Self::with_timing(store, config, registry, parallel, Timing::default())
    }

    /// As [`Images::new`], with other waits.
    pub(super) fn with_timing(
        store: Store,
        config: RegistryConfig,
        registry: &metrics::Registry,
        parallel: usize,
        timing: Timing,
    ) -> Result<Self, metrics::Error> {
        let metrics = Metrics::new(registry)?;
        let config = Arc::new(config);
        let transport = Arc::new(Transport::new(Arc::clone(&config), timing, metrics.clone()));
        let flights = Flights::new(parallel);
        let (active, writes) = (Mutex::default(), Arc::default());
        let local = watch::channel(true).0;
        Ok(Self(Arc::new(Inner { store, config, transport, flights, metrics, active, writes, local })))
    }

    /// The store that the images are in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Gets an image, and holds it for the request's holder. Dropping the future gives the pull up: it hurts no other,
    /// and a fetch that another pull waits for goes on.
    ///
    /// # Errors
    /// [`Error`]; its class says whether to ask again. What a pod's failed pull has fetched stays held for its next
    /// attempt until [`Images::release_stale`].
    pub async fn pull(&self, request: PullRequest) -> Result<Pulled, Error> {
        let began = Instant::now();
        let watch = Cancelled { metrics: &self.0.metrics, began, armed: true };
        let result = pull::pull(&self.0, request).await;
        watch.disarm();
        let outcome = match &result {
            Ok(pulled) if pulled.asked => Outcome::Pulled,
            Ok(_) => Outcome::Present,
            Err(error) => Outcome::Failed(error.reason()),
        };
        self.0.metrics.pull(outcome, began.elapsed());
        if let Ok(pulled) = &result {
            self.0.metrics.reused(pulled.reused_bytes);
        }
        result
    }

    /// From now on pulls of what is not here wait until `true` is sent: archives on this node are being loaded.
    pub fn wait_for_archives(&self) -> watch::Sender<bool> {
        self.0.local.send_replace(false);
        self.0.local.clone()
    }

    /// Waits until nothing is being written any more for pulls that were given up before: from then on no ref or image
    /// of theirs appears in the store.
    pub async fn settled(&self) {
        drop(self.0.writes.write().await);
    }

    /// The holders (see [`PullRequest`]) of pods' pulls that did not finish and are not under way.
    pub fn unfinished(&self) -> Vec<String> {
        let pulls = self.0.store.refs().into_iter().filter(|r| r.kind == RefKind::Pull && !self.0.is_active(&r.owner));
        pulls.filter_map(|r| pull::pod_of(&r.owner).map(str::to_owned)).collect()
    }

    /// Lets go of what unfinished pulls held: those that an earlier agent left, and those of pods that are no more.
    /// `alive` tells whether a pod of that uid may still try again. To be called once every source has synced, and
    /// whenever a pod goes.
    ///
    /// # Errors
    /// If a ref cannot be removed; the others are removed nevertheless.
    pub fn release_stale(&self, alive: impl Fn(&str) -> bool) -> Result<(), Error> {
        let mut result = Ok(());
        for held in self.0.store.refs().into_iter().filter(|r| r.kind == RefKind::Pull) {
            let kept = pull::pod_of(&held.owner).is_some_and(&alive);
            if !kept
                && !self.0.is_active(&held.owner)
                && let Err(source) = self.0.store.release(RefKind::Pull, &held.owner)
            {
                result = Err(Error::Store { what: format!("the end of pull {}", held.owner), source });
            }
        }
        result
    }
}

impl Inner {
    fn active(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_active(&self, owner: &str) -> bool {
        self.active().contains(owner)
    }

    /// Notes that a pull with this ref runs; `false` if one does already.
    pub(super) fn enter(&self, owner: &str) -> bool {
        self.active().insert(owner.to_owned())
    }

    /// The pull with this ref has ended.
    pub(super) fn leave(&self, owner: &str) {
        self.active().remove(owner);
    }
}

/// Counts a pull whose future is dropped.
struct Cancelled<'a> {
    metrics: &'a Metrics,
    began: Instant,
    armed: bool,
}

impl Cancelled<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.metrics.pull(Outcome::Failed(super::error::Reason::Cancelled), self.began.elapsed());
        }
    }
}
