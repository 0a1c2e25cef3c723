//! What a group used, from whichever files the machine has.

use std::path::Path;

use super::Cgroup;
use super::hierarchies::Controller;

use serde::{Deserialize, Serialize};

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
    /// CPU time in µs that it may have in each period, if that is limited.
    pub cpu_quota_usec: Option<u64>,
    /// The length of a period in µs.
    pub cpu_period_usec: Option<u64>,
    /// Its share of cpu time against others', as v1 counts.
    pub cpu_shares: Option<u64>,
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
    /// How often the limit was reached.
    pub memory_failures: Option<u64>,
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

impl Cgroup {
    /// What it used. Files that are not there, or went away with the group, leave their fields empty.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let v1 = |controller| self.hierarchies.v1.get(&controller).map(|root| self.below(root));
        let unified = self.hierarchies.unified.as_deref().map(|root| self.below(root));
        match (v1(Controller::Cpu), v1(Controller::CpuAccount), &unified) {
            (None, None, Some(dir)) => cpu_v2(dir, &mut stats),
            (cpu, account, _) => cpu_v1(cpu.as_deref(), account.as_deref(), &mut stats),
        }
        match (v1(Controller::Memory), &unified) {
            (Some(dir), _) => memory_v1(&dir, &mut stats),
            (None, Some(dir)) => memory_v2(dir, &mut stats),
            _ => {}
        }
        if let Some(dir) = v1(Controller::Pids).or_else(|| unified.clone()) {
            stats.pids = number(&dir, "pids.current");
            stats.pids_limit = number(&dir, "pids.max");
        }
        match (v1(Controller::Io), &unified) {
            (Some(dir), _) => io_v1(&dir, &mut stats),
            (None, Some(dir)) => io_v2(dir, &mut stats),
            _ => {}
        }
        stats
    }

    /// How many of its processes were killed for want of memory; 0 where the machine does not count that.
    pub fn oom_kills(&self) -> u64 {
        let count = match (self.hierarchies.v1.get(&Controller::Memory), &self.hierarchies.unified) {
            (Some(root), _) => keyed(&self.below(root), "memory.oom_control", "oom_kill"),
            (None, Some(root)) => keyed(&self.below(root), "memory.events", "oom_kill"),
            (None, None) => None,
        };
        count.unwrap_or_default()
    }
}

/// The number in a file of one number; `max` is none.
fn number(dir: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
fn keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    value(&std::fs::read_to_string(dir.join(file)).ok()?, key)
}

fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn cpu_v2(dir: &Path, stats: &mut Stats) {
    stats.cpu_shares = number(dir, "cpu.weight").map(shares);
    if let Ok(text) = std::fs::read_to_string(dir.join("cpu.max")) {
        let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
        (stats.cpu_quota_usec, stats.cpu_period_usec) = (words.next().flatten(), words.next().flatten());
    }
    let Ok(text) = std::fs::read_to_string(dir.join("cpu.stat")) else { return };
    stats.cpu_usage_usec = value(&text, "usage_usec");
    stats.cpu_user_usec = value(&text, "user_usec");
    stats.cpu_system_usec = value(&text, "system_usec");
    stats.cpu_periods = value(&text, "nr_periods");
    stats.cpu_throttled_periods = value(&text, "nr_throttled");
    stats.cpu_throttled_usec = value(&text, "throttled_usec");
}

/// The v1 shares that a v2 weight stands for: 2 to 262144 for 1 to 10000.
const fn shares(weight: u64) -> u64 {
    2 + weight.saturating_sub(1).saturating_mul(262_142) / 9_999
}

fn cpu_v1(cpu: Option<&Path>, account: Option<&Path>, stats: &mut Stats) {
    let microseconds = |n: u64| n / 1000;
    if let Some(dir) = account {
        stats.cpu_usage_usec = number(dir, "cpuacct.usage").map(microseconds);
        stats.cpu_user_usec = number(dir, "cpuacct.usage_user").map(microseconds);
        stats.cpu_system_usec = number(dir, "cpuacct.usage_sys").map(microseconds);
    }
    let Some(dir) = cpu else { return };
    stats.cpu_shares = number(dir, "cpu.shares");
    // No limit is -1, which is no such number.
    stats.cpu_quota_usec = number(dir, "cpu.cfs_quota_us");
    stats.cpu_period_usec = number(dir, "cpu.cfs_period_us");
    let Ok(text) = std::fs::read_to_string(dir.join("cpu.stat")) else { return };
    stats.cpu_periods = value(&text, "nr_periods");
    stats.cpu_throttled_periods = value(&text, "nr_throttled");
    stats.cpu_throttled_usec = value(&text, "throttled_time").map(microseconds);
}

fn memory_v2(dir: &Path, stats: &mut Stats) {
    stats.memory_usage = number(dir, "memory.current");
    stats.memory_peak = number(dir, "memory.peak");
    stats.memory_limit = number(dir, "memory.max");
    stats.memory_swap = number(dir, "memory.swap.current");
    stats.oom_kills = keyed(dir, "memory.events", "oom_kill");
    stats.memory_failures = keyed(dir, "memory.events", "max");
    let Ok(text) = std::fs::read_to_string(dir.join("memory.stat")) else { return };
    stats.memory_rss = value(&text, "anon");
    stats.memory_cache = value(&text, "file");
    stats.major_faults = value(&text, "pgmajfault");
    stats.memory_working_set = working_set(stats.memory_usage, value(&text, "inactive_file"));
}

/// v1 says "no limit" with a number near 2⁶³.
const V1_UNLIMITED: u64 = 1 << 62;

fn memory_v1(dir: &Path, stats: &mut Stats) {
    stats.memory_usage = number(dir, "memory.usage_in_bytes");
    stats.memory_peak = number(dir, "memory.max_usage_in_bytes");
    stats.memory_limit = number(dir, "memory.limit_in_bytes").filter(|n| *n < V1_UNLIMITED);
    stats.oom_kills = keyed(dir, "memory.oom_control", "oom_kill");
    stats.memory_failures = number(dir, "memory.failcnt");
    let Ok(text) = std::fs::read_to_string(dir.join("memory.stat")) else { return };
    stats.memory_rss = value(&text, "total_rss");
    stats.memory_cache = value(&text, "total_cache");
    stats.memory_swap = value(&text, "total_swap");
    stats.major_faults = value(&text, "total_pgmajfault");
    stats.memory_working_set = working_set(stats.memory_usage, value(&text, "total_inactive_file"));
}

fn working_set(usage: Option<u64>, inactive: Option<u64>) -> Option<u64> {
    usage.map(|usage| usage.saturating_sub(inactive.unwrap_or_default()))
}

fn io_v2(dir: &Path, stats: &mut Stats) {
    let Ok(text) = std::fs::read_to_string(dir.join("io.stat")) else { return };
    let sum = |key: &str| {
        text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok()).sum()
    };
    stats.io_read_bytes = Some(sum("rbytes"));
    stats.io_write_bytes = Some(sum("wbytes"));
    stats.io_reads = Some(sum("rios"));
    stats.io_writes = Some(sum("wios"));
}

fn io_v1(dir: &Path, stats: &mut Stats) {
    let sums = |file: &str| {
        let text = std::fs::read_to_string(dir.join(file)).ok()?;
        let sum = |operation: &str| {
            // 254:0 Read 4096
            text.lines()
                .filter_map(|line| {
                    let mut words = line.split(' ').skip(1);
                    (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
                })
                .sum::<u64>()
        };
        Some((sum("Read"), sum("Write")))
    };
    (stats.io_read_bytes, stats.io_write_bytes) = sums("blkio.throttle.io_service_bytes_recursive").unzip();
    (stats.io_reads, stats.io_writes) = sums("blkio.throttle.io_serviced_recursive").unzip();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_and_the_default_of_a_weight_are_those_of_shares() {
        assert_eq!([1, 39, 10_000].map(shares), [2, 998, 262_144]);
    }

    #[test]
    fn a_key_is_matched_whole() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "oom"), None);
    }
}
