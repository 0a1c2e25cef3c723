//! Writing limits, in the words of v2 and of v1.

use std::path::{Path, PathBuf};

use super::hierarchies::Controller;
use super::{Cgroup, Error, Limits, Warning};

/// Where a controller's files of one group are, and which words they use.
enum Place {
    V1(PathBuf),
    V2(PathBuf),
}

impl Cgroup {
    /// The directory of a controller for this group, if the machine has that controller.
    fn place(&self, controller: Controller, v2_name: &'static str) -> Option<Place> {
        if let Some(root) = self.hierarchies.v1.get(&controller) {
            return Some(Place::V1(self.below(root)));
        }
        let unified = self.hierarchies.unified.as_deref()?;
        self.hierarchies.unified_controllers.contains(&v2_name).then(|| Place::V2(self.below(unified)))
    }

    pub(super) fn write_limits(&self, limits: &Limits) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut note = |result: Result<(), Error>| {
            if let Err(e) = result {
                warnings.push(Warning(format!("{e}: {}", e.source)));
            }
        };
        let missing = |what: &str| {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "this machine has no such controller");
            Err(Error { action: "limit", path: what.into(), source })
        };
        let wants_memory = limits.memory_max.is_some()
            || limits.memory_min.is_some()
            || limits.memory_low.is_some()
            || limits.memory_high.is_some()
            || limits.swap_max.is_some();
        if wants_memory {
            match self.place(Controller::Memory, "memory") {
                Some(Place::V1(dir)) => memory_v1(&dir, limits, &mut note),
                Some(Place::V2(dir)) => memory_v2(&dir, limits, &mut note),
                None => note(missing("memory")),
            }
        }
        if limits.oom_group
            && let Some(Place::V2(dir)) = self.place(Controller::Memory, "memory")
        {
            note(write(&dir, "memory.oom.group", "1"));
        }
        if limits.cpu_shares.is_some() || limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            match self.place(Controller::Cpu, "cpu") {
                Some(Place::V1(dir)) => cpu_v1(&dir, limits, &mut note),
                Some(Place::V2(dir)) => cpu_v2(&dir, limits, &mut note),
                None => note(missing("cpu")),
            }
        }
        if let Some(most) = limits.pids_max {
            match self.place(Controller::Pids, "pids") {
                Some(Place::V1(dir) | Place::V2(dir)) => note(write(&dir, "pids.max", &maximum(most))),
                None => note(missing("pids")),
            }
        }
        for (size, limit) in limits.huge_pages.each() {
            let (size, limit) = (page_size(size), limit.to_string());
            match self.place(Controller::HugeTlb, "hugetlb") {
                Some(Place::V1(dir)) => note(write(&dir, &format!("hugetlb.{size}.limit_in_bytes"), &limit)),
                Some(Place::V2(dir)) => note(write(&dir, &format!("hugetlb.{size}.max"), &limit)),
                None => note(missing("huge pages")),
            }
        }
        warnings
    }
}

/// A size as the kernel names its files.
fn page_size(bytes: u64) -> String {
    match bytes {
        n if n >= 1 << 30 => format!("{}GB", n >> 30),
        n if n >= 1 << 20 => format!("{}MB", n >> 20),
        n => format!("{}KB", n >> 10),
    }
}

/// Writes one file of a group.
pub(super) fn write(dir: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = dir.join(file);
    let result = std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    result.map_err(|source| Error { action: "write", path, source })
}

fn maximum(n: i64) -> String {
    if n < 0 { "max".to_owned() } else { n.to_string() }
}

fn memory_v2(dir: &Path, limits: &Limits, note: &mut impl FnMut(Result<(), Error>)) {
    let files = [
        ("memory.min", limits.memory_min),
        ("memory.low", limits.memory_low),
        ("memory.high", limits.memory_high),
        ("memory.max", limits.memory_max),
        ("memory.swap.max", limits.swap_max),
    ];
    for (file, value) in files {
        if let Some(value) = value {
            // Without swap in the kernel there is nothing to forbid.
            if file == "memory.swap.max" && !dir.join(file).exists() {
                continue;
            }
            let value = if value == u64::MAX { "max".to_owned() } else { value.to_string() };
            note(write(dir, file, &value));
        }
    }
}

fn memory_v1(dir: &Path, limits: &Limits, note: &mut impl FnMut(Result<(), Error>)) {
    const BOTH: &str = "memory.memsw.limit_in_bytes";
    const MEMORY: &str = "memory.limit_in_bytes";
    // v1 counts memory and swap together.
    let both = match (limits.memory_max, limits.swap_max) {
        (Some(memory), Some(swap)) if dir.join(BOTH).exists() => Some(memory.saturating_add(swap)),
        _ => None,
    };
    if let Some(memory) = limits.memory_max {
        // Neither may pass the other on the way: raise the sum first, lower it last.
        let result = write(dir, MEMORY, &memory.to_string());
        match (result, both) {
            (Err(_), Some(both)) => {
                note(write(dir, BOTH, &both.to_string()));
                note(write(dir, MEMORY, &memory.to_string()));
            }
            (Ok(()), Some(both)) => note(write(dir, BOTH, &both.to_string())),
            (result, None) => note(result),
        }
    }
    if let Some(low) = limits.memory_low {
        note(write(dir, "memory.soft_limit_in_bytes", &low.to_string()));
    }
}

fn cpu_v1(dir: &Path, limits: &Limits, note: &mut impl FnMut(Result<(), Error>)) {
    if let Some(shares) = limits.cpu_shares {
        note(write(dir, "cpu.shares", &shares.to_string()));
    }
    if let Some(period) = limits.cpu_period {
        note(write(dir, "cpu.cfs_period_us", &period.to_string()));
    }
    if let Some(quota) = limits.cpu_quota {
        note(write(dir, "cpu.cfs_quota_us", &quota.max(-1).to_string()));
    }
}

fn cpu_v2(dir: &Path, limits: &Limits, note: &mut impl FnMut(Result<(), Error>)) {
    if let Some(shares) = limits.cpu_shares {
        note(write(dir, "cpu.weight", &weight(shares).to_string()));
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits.cpu_quota.map_or_else(|| "max".to_owned(), maximum);
        let value = limits.cpu_period.map_or_else(|| quota.clone(), |period| format!("{quota} {period}"));
        note(write(dir, "cpu.max", &value));
    }
}

/// v1's shares (2 to 262144, 1024 by default) as v2's weight (1 to 10000), by Kubernetes' formula.
fn weight(shares: u64) -> u64 {
    1 + shares.clamp(2, 262_144).saturating_sub(2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_by_their_size() {
        assert_eq!([64 << 10, 2 << 20, 32 << 20, 1 << 30].map(page_size), ["64KB", "2MB", "32MB", "1GB"]);
    }

    #[test]
    fn shares_become_weights_as_kubernetes_computes_them() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight), [1, 1, 39, 10_000, 10_000]);
    }
}
