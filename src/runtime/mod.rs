//! A container as an OCI runtime spec, run under its pod's shim.
//!
//! ```text
//!  agent                                   host: one process a pod, outside the agent's cgroup
//!  ┌──────────────┐  socket, 0600   ┌─────────────────────────────────────────────────┐
//!  │ client       │◀───────────────▶│ shim: layer fds, pipes, log files, exit codes   │
//!  │  spawn/adopt │   protocol      │   └─ launch: fork ─▶ container (own namespaces) │
//!  └──────────────┘                 └─────────────────────────────────────────────────┘
//! ```
//!
//! [`spec`] says what a container is and [`launch`] starts one; [`protocol`] is what agent and shim say, [`client`] the
//! agent's side, [`shim`] the other; [`logs`] writes and reads the log files. The runtime receives mounts as values and never sees the store.

pub mod apparmor;
pub mod cdi;
pub mod client;
pub mod launch;
pub mod logs;
pub mod protocol;
pub mod selinux;
pub mod shim;
pub mod spec;

pub use client::Client;
