//! Lamina: a node agent that runs pods from Kubernetes YAML on shared, immutable image layers.
//!
//! ```text
//!         what should run       decide           fetch        keep        compose       run
//!  source ──────────────▶ pod ──────▶ image ──────▶ store ──────▶ rootfs ──────▶ runtime ──▶ shim ──▶ container
//!    ▲                     │                                     volume ──┘          │
//!    └────── status ◀──────┴──────────────────── observed state ◀────────────────────┘
//! ```
//!
//! A module uses only modules above it in this file; `tests/architecture.rs` fails otherwise.

pub mod api;
pub mod metrics;
pub mod oci;
pub mod sys;

pub mod network;
pub mod runtime;
pub mod source;
pub mod store;
pub mod volume;

pub mod controller;
pub mod image;
pub mod rootfs;

pub mod pod;

pub mod node;

pub mod server;
