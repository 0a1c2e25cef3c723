//! How much a node has left of what it may run short of: some reads, no walk.

use std::path::Path;

use super::threshold::{Level, Signal};

/// All levels; `None` where it cannot be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Levels {
    memory: Option<Level>,
    disk: Option<Level>,
    inodes: Option<Level>,
    pids: Option<Level>,
}

impl Levels {
    /// Reads them; `root` is on the disk that counts.
    pub(super) fn read(root: &Path) -> Self {
        let disk = rustix::fs::statvfs(root).ok();
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            memory: memory(&text("/proc/meminfo")),
            disk: disk.as_ref().map(|s| Level {
                capacity: s.f_blocks.saturating_mul(s.f_frsize),
                available: s.f_bavail.saturating_mul(s.f_frsize),
            }),
            inodes: disk.map(|s| Level { capacity: s.f_files, available: s.f_favail }),
            pids: pids(
                &text("/proc/sys/kernel/pid_max"),
                &text("/proc/sys/kernel/threads-max"),
                &text("/proc/loadavg"),
            ),
        }
    }

    pub(super) const fn of(&self, signal: Signal) -> Option<Level> {
        match signal {
            Signal::Memory => self.memory,
            Signal::Disk => self.disk,
            Signal::Inodes => self.inodes,
            Signal::Pids => self.pids,
        }
    }
}

/// As a kubelet counts: what is free, and what holds files that nobody used lately.
fn memory(text: &str) -> Option<Level> {
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let available = kib("MemFree")?.saturating_add(kib("Inactive(file)").unwrap_or(0));
    Some(Level { capacity: kib("MemTotal")?.saturating_mul(1024), available: available.saturating_mul(1024) })
}

/// The smaller of two limits, and how many tasks there are: the number behind the slash of the load averages.
fn pids(pid_max: &str, threads_max: &str, loadavg: &str) -> Option<Level> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let capacity = [number(pid_max), number(threads_max)].into_iter().flatten().min()?;
    let tasks = number(loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.1)?;
    Some(Level { capacity, available: capacity.saturating_sub(tasks) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_the_kernel_writes_them() {
        let text = "MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 900 kB\nInactive(file): 100 kB\n";
        assert_eq!(memory(text), Some(Level { capacity: 1000 << 10, available: 400 << 10 }));
        assert_eq!(memory("nonsense"), None);
        let level = Level { capacity: 1000, available: 800 };
        assert_eq!(pids("4194304\n", "1000\n", "7.1 6.5 3.9 7/200 7468\n"), Some(level));
        assert_eq!(pids("", "", "7.1 6.5 3.9 7/200 7468\n"), None);
        let levels = Levels::read(Path::new("/"));
        for signal in [Signal::Memory, Signal::Disk, Signal::Pids] {
            assert!(levels.of(signal).unwrap().capacity > 0, "{signal:?}");
        }
    }
}
