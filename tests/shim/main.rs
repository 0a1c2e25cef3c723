//! Real shims of the built binary, with containers whose image is one static busybox: what they run, how they end, what
//! survives the agent, and that nothing is left over. Needs root and this kernel; fails without.

mod containers;
mod lifecycle;
mod pod;
mod streams;
