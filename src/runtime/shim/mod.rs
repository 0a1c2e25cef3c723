//! The process that holds a pod: one a pod, single-threaded, small, outlives the agent.
//!
//! ```text
//!            ┌──────────────── epoll ────────────────┐
//!  clients ──┤ listener · connections                │
//!  children ─┤ signals (SIGCHLD, SIGTERM)            ├──▶ Pod: containers, execs, kept mounts
//!  pipes ────┤ outputs → log + viewers · input       │
//!            └───────────────────────────────────────┘
//! ```
//!
//! It owns the pod's namespaces, its containers' pipes and log files, the descriptors of its layers and volumes, and the
//! exit codes, which it writes to disk before it tells them. Nothing here waits for anything but the disk: a client that
//! does not read, a viewer that does not read, a container that floods cost bounded memory and nobody else's time.
//! It is the first thing that `main` does: no runtime, no thread, no parsing of arguments before it.

pub(super) mod config;
mod connection;
mod error;
mod exits;
mod init;
mod input;
mod output;
mod pod;
mod reactor;
mod requests;
mod setup;
mod start;
mod users;
mod volumes;

pub use config::{Config, Network, SOCKET};
pub use error::Error;

use std::io::{Read as _, Write as _};

/// What a shim writes to its standard output, before it closes it, when it listens; anything else is a complaint.
pub(crate) const READY: &str = "ready";

/// The longest configuration that is read.
const MAX_CONFIG: u64 = 1 << 20;

/// Runs a shim: reads its [`Config`] from standard input, sets itself up, says that it is ready, and serves until it is
/// told to shut down. For the first instant of a process that has no thread but this one.
///
/// # Errors
/// If it cannot be set up (said on standard output too), or cannot go on.
pub fn run() -> Result<(), Error> {
    match prepare() {
        Ok(mut pod) => {
            pod.settled();
            if let Err(e) = setup::say_ready() {
                // Nobody waits for it any more.
                pod.end();
                return Err(e);
            }
            pod.serve()
        }
        Err(e) => {
            // To the agent, which waits for this; if it has gone, nobody needs it.
            let _ = std::io::stdout().write_all(crate::api::problem::chain(&e).as_bytes());
            Err(e)
        }
    }
}

fn prepare() -> Result<pod::Pod, Error> {
    let mut text = Vec::new();
    std::io::stdin().take(MAX_CONFIG).read_to_end(&mut text).map_err(|source| Error::Configuration { source })?;
    let config: Config =
        serde_json::from_slice(&text).map_err(|e| Error::Configuration { source: std::io::Error::from(e) })?;
    let place = setup::enter(&config)?;
    pod::Pod::new(config, place)
}

/// A line in the shim's own log, for people who look into a fault; standard error is a small file, or nowhere.
fn note(text: &str) {
    /// The log never holds more than this.
    const MOST: u64 = 256 << 10;
    let stderr = std::io::stderr();
    if rustix::fs::fstat(&stderr).is_ok_and(|s| u64::try_from(s.st_size).is_ok_and(|size| size > MOST)) {
        let _ = rustix::fs::ftruncate(&stderr, 0);
    }
    let _ = writeln!(stderr.lock(), "{:.3} {text}", jiff::Timestamp::now());
}
