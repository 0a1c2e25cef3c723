//! Tidying up after a shim that is no more.

use std::path::PathBuf;
use std::time::Duration;

use crate::runtime::shim::config;
use crate::sys::cgroup::{Cgroup, Error, Hierarchies};

/// How long killed processes may take to be gone; one that hangs in the kernel may take longer, and keeps its cgroup.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Ends what a shim left behind when it was lost: kills every process of the pod's cgroup, removes the cgroup and the
/// files in `run`. To be called when `Client::connect` finds nobody, or `Events` has ended; the exits that the shim
/// had no time to record stay unknown.
///
/// # Errors
/// If a process cannot be killed, or a cgroup cannot be removed.
pub async fn kill_lost_pod(run: PathBuf, cgroup: PathBuf) -> Result<(), Error> {
    let action = move || {
        let group = Cgroup::open(&Hierarchies::probe()?, &cgroup.to_string_lossy());
        group.kill()?;
        let deadline = std::time::Instant::now() + KILL_TIMEOUT;
        while !group.pids()?.is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        group.remove_with_parents()?;
        config::remove_files(&run);
        Ok(())
    };
    tokio::task::spawn_blocking(action).await.unwrap_or(Ok(()))
}
