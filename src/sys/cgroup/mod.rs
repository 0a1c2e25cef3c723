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
//! needed. On a hybrid machine the v2 tree has no controllers, but still kills. A controller that the
//! machine lacks is reported as a warning, not an error: the container runs without that limit.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::device;

mod hierarchies;
mod limits;
mod stats;
#[cfg(test)]
mod tests;

pub use hierarchies::Hierarchies;
pub use stats::Stats;

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
    /// Memory above which it is slowed down and reclaimed from (v2 only); the largest number is no such mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<u64>,
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
    /// Bytes in huge pages, by the size of a page; a size of 0 says nothing.
    #[serde(skip_serializing_if = "HugePages::is_none")]
    pub huge_pages: HugePages,
    /// Whether all its processes are killed together when one is killed for want of memory (v2 only).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom_group: bool,
}

/// Limits of huge pages: size of a page, and how many bytes of such there may be. No machine has more sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages([(u64, u64); 4]);

impl HugePages {
    /// With one size more; one that is there already gets the new limit.
    #[must_use]
    pub fn with(mut self, size: u64, limit: u64) -> Self {
        let place = self.0.iter().position(|(known, _)| *known == size || *known == 0);
        if let Some(place) = place.and_then(|at| self.0.get_mut(at)) {
            *place = (size, limit);
        }
        self
    }

    /// Each size that is limited, and its limit.
    pub fn each(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.into_iter().filter(|(size, _)| *size > 0)
    }

    fn is_none(&self) -> bool {
        self.each().next().is_none()
    }
}

/// One group, in every hierarchy that is used for it. Dropping it removes nothing: see [`Cgroup::remove`].
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: String,
}

impl Error {
    fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// How often a group's parents are made again when somebody removes them meanwhile.
const CREATION: u32 = 100;

/// How long a removal waits for the kernel to let go of processes that have ended.
const REMOVAL: Duration = Duration::from_millis(500);

/// How long [`Cgroup::kill`] goes on where the kernel cannot kill a whole group at once.
const KILLING: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Makes the group and its parents (an existing one is used), and sets its limits. `path` begins with `/`.
    ///
    /// # Errors
    /// If it cannot be made in some hierarchy; a limit that could not be set is only a warning.
    pub fn create(hierarchies: &Hierarchies, path: &str, limits: &Limits) -> Result<(Self, Vec<Warning>), Error> {
        let cgroup = Self::open(hierarchies, path);
        for root in hierarchies.v1_roots() {
            create_below(root, &cgroup.below(root))?;
        }
        let mut warnings = Vec::new();
        if let Some(root) = hierarchies.unified.as_deref() {
            let dir = cgroup.below(root);
            create_below(root, &dir)?;
            if let Some(parent) = dir.parent() {
                warnings.extend(delegate(root, parent, &hierarchies.unified_controllers));
            }
        }
        warnings.extend(cgroup.write_limits(limits));
        Ok((cgroup, warnings))
    }

    /// The group at `path`, whether it exists or not.
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Self {
        Self { hierarchies: hierarchies.clone(), path: path.to_owned() }
    }

    /// Its path below the root of each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The hierarchies it lies in.
    pub const fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    fn below(&self, root: &Path) -> PathBuf {
        root.join(self.path.trim_start_matches('/'))
    }

    /// Its directory in each hierarchy.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        let unified = self.hierarchies.unified.as_deref();
        self.hierarchies.v1_roots().into_iter().chain(unified).map(|root| self.below(root))
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories().any(|dir| dir.is_dir())
    }

    /// Changes limits; those that could not be set come back as warnings.
    pub fn update(&self, limits: &Limits) -> Vec<Warning> {
        self.write_limits(limits)
    }

    /// Forbids every device that no rule allows. To be called once, before a process enters.
    ///
    /// # Errors
    /// If the kernel refuses: the group must not be used then.
    pub fn restrict_devices(&self, rules: &[device::Rule]) -> Result<(), Error> {
        if let Some(root) = self.hierarchies.v1.get(&hierarchies::Controller::Devices) {
            let dir = self.below(root);
            limits::write(&dir, "devices.deny", "a")?;
            for line in rules.iter().flat_map(device::Rule::lines) {
                limits::write(&dir, "devices.allow", &line)?;
            }
            return Ok(());
        }
        let directory = self.unified_directory()?.ok_or_else(|| Error {
            action: "restrict devices of",
            path: self.path.clone().into(),
            source: io::Error::new(io::ErrorKind::Unsupported, "this machine has neither cgroup v2 nor v1 devices"),
        })?;
        let named = self.hierarchies.unified.as_deref().map(|root| self.below(root)).unwrap_or_default();
        device::restrict(std::os::fd::AsFd::as_fd(&directory), rules).map_err(Error::at("restrict devices of", &named))
    }

    /// Its directory in the v2 tree, for a process to begin in; `None` where there is no v2 tree.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn unified_directory(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(root) = &self.hierarchies.unified else { return Ok(None) };
        let path = self.below(root);
        std::fs::File::open(&path).map(|dir| Some(dir.into())).map_err(Error::at("open", &path))
    }

    /// Moves the calling process, which must have one thread only, into its v1 directories.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn join_v1(&self) -> Result<(), Error> {
        for root in self.hierarchies.v1_roots() {
            // A thread that moves itself needs no lock over all processes: `cgroup.procs` waits for one, some
            // milliseconds for each hierarchy.
            limits::write(&self.below(root), "tasks", "0")?;
        }
        Ok(())
    }

    /// Moves the calling process, which must have one thread only, into it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn join(&self) -> Result<(), Error> {
        self.join_v1()?;
        self.hierarchies.unified.as_deref().map_or(Ok(()), |root| limits::write(&self.below(root), "cgroup.procs", "0"))
    }

    /// Kills every process in it and below. They may take a moment to end.
    ///
    /// # Errors
    /// If the kernel refuses, or processes are made faster than they can be killed one by one.
    pub fn kill(&self) -> Result<(), Error> {
        if let Some(root) = &self.hierarchies.unified {
            match limits::write(&self.below(root), "cgroup.kill", "1") {
                Ok(()) => return Ok(()),
                // Older than 5.14, or gone in this hierarchy.
                Err(e) if e.source.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        // No more forks, then one after another until none is left. Best effort: pids may be missing.
        let _ = self.write_limits(&Limits { pids_max: Some(0), ..Limits::default() });
        let deadline = Instant::now() + KILLING;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
                // It may have ended since it was listed; its number cannot have been reused inside the group.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            if Instant::now() > deadline {
                let source = io::Error::new(io::ErrorKind::TimedOut, format!("{} processes are left", pids.len()));
                return Err(Error { action: "kill all of", path: self.path.clone().into(), source });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The processes in it and below, as the caller's pid namespace numbers them.
    ///
    /// # Errors
    /// If it cannot be read; a group that is not there has none.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        for dir in self.directories() {
            collect_pids(&dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes it with what is below it; it must have no live process (`EBUSY` is retried for a short while, since the
    /// kernel takes a moment after the last exit). A group that is not there is fine.
    ///
    /// # Errors
    /// The first that did not go; the others were tried all the same.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVAL;
        let mut result = Ok(());
        for dir in self.directories() {
            let removed = remove_tree(&dir, deadline);
            result = result.and(removed);
        }
        result
    }

    /// Removes it where it has no other group below it and no process; says where it is still. Waits a short while for
    /// what has just ended.
    pub fn remove_unused(&self) -> Vec<PathBuf> {
        let deadline = Instant::now() + REMOVAL;
        self.directories().filter(|dir| !remove_empty(dir, deadline)).collect()
    }

    /// As [`Cgroup::remove`], and each parent that has become empty.
    ///
    /// # Errors
    /// As [`Cgroup::remove`]; a parent still in use is fine.
    pub fn remove_with_parents(&self) -> Result<(), Error> {
        self.remove()?;
        let deadline = Instant::now() + REMOVAL;
        let roots = self.hierarchies.v1_roots();
        for root in roots.into_iter().chain(self.hierarchies.unified.as_deref()) {
            let dir = self.below(root);
            for parent in dir.ancestors().skip(1).take_while(|dir| *dir != root) {
                if !remove_empty(parent, deadline) {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Makes `dir` and its missing parents below `root`.
fn create_below(root: &Path, dir: &Path) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // Whoever removes the last group below a parent removes that, too, even if it was made just now.
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir != root && tries < CREATION => {
                tries += 1;
                if let Some(parent) = dir.parent() {
                    create_below(root, parent)?;
                }
            }
            result => return result.map_err(Error::at("create", dir)),
        }
    }
}

/// Turns controllers on for the children of `dir`, and for that in its parents.
fn delegate(root: &Path, dir: &Path, controllers: &[&'static str]) -> Vec<Warning> {
    let words = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let on = words("cgroup.subtree_control");
    let missing: Vec<_> = controllers.iter().filter(|c| !on.split_whitespace().any(|word| word == **c)).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let there = words("cgroup.controllers");
    if dir != root
        && missing.iter().any(|c| !there.split_whitespace().any(|word| word == **c))
        && let Some(parent) = dir.parent()
    {
        warnings.extend(delegate(root, parent, controllers));
    }
    for controller in missing {
        if let Err(e) = limits::write(dir, "cgroup.subtree_control", &format!("+{controller}")) {
            warnings.push(Warning(format!("cannot turn on {controller} in {}: {}", dir.display(), e.source)));
        }
    }
    warnings
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) -> Result<(), Error> {
    let path = dir.join("cgroup.procs");
    match std::fs::read_to_string(&path) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // Gone, or a threaded group whose processes its parent lists.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(e) => return Err(Error::at("read", &path)(e)),
    }
    for child in children(dir).map_err(Error::at("list", dir))? {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

/// Removes a group that has no other below it and no process; whether it is gone. One that is gone already, as after an
/// earlier try that did not come to the end, is no reason to leave its parent.
fn remove_empty(dir: &Path, deadline: Instant) -> bool {
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return true,
            Err(_) => {
                let mut pids = Vec::new();
                let used = children(dir).map_or(true, |below| !below.is_empty())
                    || collect_pids(dir, &mut pids).is_err()
                    || !pids.is_empty();
                if used || Instant::now() > deadline {
                    return false;
                }
                // The kernel takes a moment after the last exit.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn remove_tree(dir: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(100);
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                let below = children(dir).map_err(Error::at("list", dir))?;
                for child in &below {
                    remove_tree(child, deadline)?;
                }
                if below.is_empty() {
                    if Instant::now() > deadline {
                        return Err(Error::at("remove", dir)(e));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
            Err(e) => return Err(Error::at("remove", dir)(e)),
        }
    }
}
