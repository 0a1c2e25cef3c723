//! The agent's local API on a Unix socket, and metrics and health over HTTP.
//!
//! ```text
//! lamina <verb> ──HTTP/1.1+JSON──▶ agent.sock (0600) ──▶ routes ──▶ node::Node
//!                ◀─frames after an upgrade (stream)──
//! prometheus ──▶ 127.0.0.1:9640 ──▶ health: /metrics /healthz /readyz   (reads snapshots and cgroup files only)
//! ```

pub mod problem;
pub mod socket;
pub mod stream;
