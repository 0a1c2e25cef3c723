//! End to end on this kernel: the binary as a user starts it, real processes, real mounts. Needs root.
//!
//! Every test ends with `Node::finish`, which checks that nothing is left over.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod apply;
mod archives;
mod artifacts;
mod claims;
mod conformance_lifecycle;
mod conformance_network;
mod conformance_probes;
mod controllers;
mod copy;
mod crash;
mod devices;
mod disturbed;
mod drain;
mod environment;
mod errors;
mod eviction;
mod faults;
mod forward;
mod hostile;
mod inits;
mod kube_play;
mod lifecycle;
mod limits;
mod messages;
mod network;
mod observe;
mod plugins;
mod probes;
mod programs;
mod registry;
mod resources;
mod save;
mod scarcity;
mod security;
mod services;
mod sharing;
mod shown;
mod storage;
mod users;
mod volumes;
