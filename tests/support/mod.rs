//! Support for tests that drive the `lamina` binary as a user does: a node under a temporary directory, images made in
//! place, and a look at what is left over afterwards.

pub(crate) mod image;
pub(crate) mod leftovers;
pub(crate) mod node;
pub(crate) mod registry;

use std::time::{Duration, Instant};

/// Long enough for a machine that is busy with other work; a test waits this long only when it fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until there is an answer; `what` is named when there is none in time.
pub(crate) fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
