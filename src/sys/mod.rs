//! The kernel: mounts as file descriptors, namespaces, processes, cgroups, devices, atomic files, locks.
//!
//! The only module that may hold `unsafe`; each site argues why it is sound.

pub mod atomic;
pub mod cgroup;
pub mod loopdev;
pub mod mount;
pub(crate) mod raw;
pub mod writeback;
