//! A container as an OCI runtime spec, run under its pod's shim.

pub mod launch;
pub mod spec;
