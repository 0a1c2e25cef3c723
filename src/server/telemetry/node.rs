//! `node_*`: the whole machine, as the kubelet's resource endpoint names it.

use super::families::{Families, Family, counter, gauge, real};

const CPU: Family =
    counter("node_cpu_usage_seconds_total", "Seconds of cpu time used on the node, all cores together.");
const MEMORY: Family = gauge("node_memory_working_set_bytes", "Bytes in use on the node without what can be dropped.");

/// The families of this module.
pub(super) const FAMILIES: [Family; 2] = [CPU, MEMORY];

/// The node's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counters {
    pub(super) cpu_seconds: f64,
    pub(super) cores: usize,
    pub(super) memory_total: u64,
    pub(super) memory_used: u64,
}

/// Reads them; what cannot be read is 0.
pub(super) fn read() -> Counters {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second();
    parse(&stat, &memory, ticks)
}

fn parse(stat: &str, memory: &str, ticks: u64) -> Counters {
    let cpu = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields: Vec<u64> = cpu.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let busy: u64 = fields.iter().take(8).enumerate().filter(|(n, _)| !matches!(n, 3 | 4)).map(|(_, v)| v).sum();
    let cores = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count();
    let kib = |key: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let total = kib("MemTotal");
    let free = kib("MemFree").saturating_add(kib("Inactive(file)"));
    Counters {
        cpu_seconds: real(busy) / real(ticks.max(1)),
        cores,
        memory_total: total.saturating_mul(1024),
        memory_used: total.saturating_sub(free).saturating_mul(1024),
    }
}

pub(super) fn collect(out: &mut Families) {
    let counters = read();
    out.add(&CPU, &[], Some(counters.cpu_seconds));
    out.add(&MEMORY, &[], Some(real(counters.memory_used)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_use() {
        let stat = "cpu  100 0 50 1000 500 10 20 20 5 0\ncpu0 1 1 1\ncpu1 1 1 1\nintr 1\n";
        let memory = "MemTotal:  1000 kB\nMemFree:  300 kB\nInactive(file):  100 kB\nInactive: 400 kB\n";
        let counters = parse(stat, memory, 100);
        assert_eq!(counters, Counters { cpu_seconds: 2.0, cores: 2, memory_total: 1_024_000, memory_used: 600 * 1024 });
        assert!(read().cores > 0);
    }
}
