//! Real shims of the built binary, with containers whose image is one static busybox: what they run, how they end, what
//! survives the agent, and that nothing is left over. Needs root and this kernel; fails without.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test says what is wrong by panicking")]

mod agentless;
mod containers;
mod lifecycle;
mod pod;
mod streams;
mod volumes;
