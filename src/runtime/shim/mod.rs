//! The process that holds a pod: one a pod, single-threaded, outlives the agent.

pub(super) mod config;

pub use config::{Config, Network, SOCKET};

/// What a shim writes to its standard output, before it closes it, when it listens; anything else is a complaint.
pub(crate) const READY: &str = "ready";
