//! The kernel: mounts as file descriptors, namespaces, processes, cgroups, devices, atomic files, locks; and what else
//! is not Rust.
//!
//! The only module that may hold `unsafe`; each site argues why it is sound.

pub mod atomic;
pub mod capability;
pub mod cgroup;
pub mod device;
pub mod erofs;
pub mod host;
pub(crate) mod igzip;
pub mod inside;
pub mod label;
pub mod lease;
pub mod loopdev;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod owner;
pub mod process;
pub mod quota;
pub(crate) mod raw;
pub mod removal;
pub mod seccomp;
pub mod signal;
pub mod sockets;
pub mod tree;
pub mod writeback;
