//! The kernel: mounts as file descriptors, namespaces, processes, cgroups, devices, atomic files, locks.
//!
//! The only module that may hold `unsafe`; each site argues why it is sound.

pub mod atomic;
pub mod capability;
pub mod cgroup;
pub mod device;
pub mod erofs;
pub mod inside;
pub mod lease;
pub mod loopdev;
pub mod mount;
pub mod namespace;
pub mod process;
pub(crate) mod raw;
pub mod seccomp;
pub mod signal;
pub mod writeback;
