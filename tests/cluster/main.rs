//! In a cluster: agents, the controller and kubectl against a real API server on loopback. Needs root, and the binaries
//! that `tests/run cluster` builds.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by panicking")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod support;

mod access;
mod api_server;
mod controller;
mod credentials;
mod definitions;
mod faults;
mod manifests;
mod proxy;
mod scale;
mod source;
