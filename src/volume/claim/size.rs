//! How large claims are: measured by walks on a thread of its own, never by whoever asks.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::api::ObjectKey;

/// How old sizes may be before whoever asks has them measured again.
const FRESH: Duration = Duration::from_secs(30);
/// A walk takes at most this part of the time: after one that took a minute, the next comes half an hour later.
const SHARE: u32 = 30;

/// The last sizes known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sizes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    walked: Notify,
}

#[derive(Debug, Default)]
struct State {
    sizes: Arc<HashMap<ObjectKey, u64>>,
    /// When the last walk ended, and how long it took.
    measured: Option<(Instant, Duration)>,
    measuring: bool,
}

impl Sizes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub fn known(&self) -> Arc<HashMap<ObjectKey, u64>> {
        self.state().sizes.clone()
    }

    /// Waits until there is something new to know. Cancel-safe; for one who waits.
    pub async fn measured(&self) {
        self.0.walked.notified().await;
    }

    /// Has these measured on a thread of its own, unless what is known is fresh or being measured; ends by itself.
    pub(super) fn refresh(&self, paths: Vec<(ObjectKey, PathBuf)>) {
        let mut state = self.state();
        let fresh = |(at, took): (Instant, Duration)| at.elapsed() < FRESH.max(took.saturating_mul(SHARE));
        let all_known = paths.iter().all(|(key, _)| state.sizes.contains_key(key));
        if state.measuring || (all_known && state.measured.is_some_and(fresh)) {
            return;
        }
        state.measuring = true;
        drop(state);
        let this = self.clone();
        let spawned = std::thread::Builder::new().name("claim-sizes".into()).spawn(move || {
            let begin = Instant::now();
            let sizes =
                paths.into_iter().map(|(key, path)| (key, crate::sys::tree::usage(&path, u64::MAX).bytes)).collect();
            let mut state = this.state();
            *state =
                State { sizes: Arc::new(sizes), measured: Some((Instant::now(), begin.elapsed())), measuring: false };
            drop(state);
            this.0.walked.notify_one();
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "cannot measure claims now");
            self.state().measuring = false;
        }
    }
}
