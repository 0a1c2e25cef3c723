//! The agent's image, made as the Dockerfile says, and the agent run from it as the DaemonSet runs it: by an agent, whose
//! pods have the mounts, namespaces and privileges of `manifests/base/daemonset.yaml`. Needs root, the release binary in
//! `LAMINA_BINARY`, and what `tests/cluster` needs.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by panicking")]

#[path = "../cluster/api_server.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod api_server;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

mod build;
mod daemonset;
