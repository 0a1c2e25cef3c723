//! One pod: its worker observes, plans, applies and publishes, until nothing is wanted and nothing is left.
//!
//! | file | what |
//! |---|---|
//! | [`desired`] | what is wanted |
//! | [`state`] | what was accepted, and what is seen |
//! | [`plan`] | what to do next: pure |
//! | [`pressure`] | what the node is short of, and who is not started for it |
//! | [`probe`] | asking containers how they are, and telling them what happens |
//! | [`engine`] | the hands: a trait, real in `real`, simulated in tests |
//! | `worker` | the loop |

pub mod backoff;
pub mod desired;
pub mod engine;
pub mod metrics;
pub mod plan;
pub mod pressure;
pub mod probe;
pub mod real;
mod seen;
pub mod state;
#[cfg(test)]
mod tests;
pub mod view;
pub mod worker;
