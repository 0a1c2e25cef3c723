//! The sizes of writable layers: measured by a walk, so never within a scrape.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::api::PodView;
use crate::sys::tree;

/// How old a size may be before the next scrape has it measured again.
const FRESH: Duration = Duration::from_secs(30);

/// The last sizes known, by upper directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Writable(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sizes: Arc<HashMap<PathBuf, u64>>,
    measured: Option<Instant>,
    measuring: bool,
}

impl Writable {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub(super) fn sizes(&self) -> Arc<HashMap<PathBuf, u64>> {
        self.state().sizes.clone()
    }

    /// Has the sizes measured on a thread of its own, unless they are fresh or being measured; ends by itself.
    pub(super) fn refresh(&self, pods: &[Arc<PodView>]) {
        let mut state = self.state();
        if state.measuring || state.measured.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        state.measuring = true;
        drop(state);
        let uppers: Vec<PathBuf> =
            pods.iter().flat_map(|p| &p.lamina.containers).filter_map(|c| c.upper.clone()).collect();
        let this = self.clone();
        let spawned = std::thread::Builder::new().name("writable-sizes".into()).spawn(move || {
            let sizes = uppers.into_iter().map(|upper| (tree::usage(&upper, u64::MAX).bytes, upper));
            let sizes = sizes.map(|(bytes, upper)| (upper, bytes)).collect();
            let mut state = this.state();
            *state = State { sizes: Arc::new(sizes), measured: Some(Instant::now()), measuring: false };
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "cannot measure writable layers now");
            self.state().measuring = false;
        }
    }
}
