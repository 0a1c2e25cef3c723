//! Asking a container how it is, and telling it what happens: probes and hooks.
//!
//! ```text
//!   plan ─ Step::Probe ─▶ runner: one task a container ─ check ─▶ exec │ http │ tcp │ grpc
//!   plan ◀─ Push::Probed ─ only when something changes ┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`action`] | what is done: read from a manifest, and done |
//! | `connect` | connections inside the pod's network namespace, with TLS where asked for |
//! | `exec`, `http`, `grpc` | the protocols |
//! | [`runner`] | when, how often, and what it comes to |
//!
//! Nothing here writes anything or decides anything: a task ends when its handle is dropped.

pub mod action;
mod connect;
mod exec;
mod grpc;
mod http;
pub mod runner;

pub use action::{Action, Outcome, Place};
