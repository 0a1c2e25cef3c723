//! End to end on this kernel: the binary as a user starts it, real processes, real mounts. Needs root.
//!
//! Every test ends with `Node::finish`, which checks that nothing is left over.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what is wrong by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod errors;
mod hostile;
mod lifecycle;
mod limits;
mod observe;
mod registry;
mod sharing;
