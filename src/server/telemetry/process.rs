//! `process_*`: this agent itself, as client libraries name it.

use super::families::{Families, Family, counter, gauge, real};

const CPU: Family = counter("process_cpu_seconds_total", "Seconds of cpu time that the agent used.");
const RSS: Family = gauge("process_resident_memory_bytes", "Bytes of the agent's memory that are resident.");
const VIRTUAL: Family = gauge("process_virtual_memory_bytes", "Bytes of the agent's address space.");
const OPEN: Family = gauge("process_open_fds", "File descriptors that the agent has open.");
const MAX: Family = gauge("process_max_fds", "File descriptors that the agent may have open.");
const START: Family = gauge("process_start_time_seconds", "When the agent started, in seconds since 1970.");
const THREADS: Family = gauge("process_threads", "Threads of the agent.");

/// The families of this module.
pub(super) const FAMILIES: [Family; 7] = [CPU, RSS, VIRTUAL, OPEN, MAX, START, THREADS];

/// The fields of `/proc/<pid>/stat` after the name, which may hold anything.
fn fields(stat: &str) -> Vec<u64> {
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
}

/// When the machine started, in seconds since 1970.
fn boot_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())
}

pub(super) fn collect(out: &mut Families) {
    let ticks = real(rustix::param::clock_ticks_per_second().max(1));
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // Field 4 of the manual page is the first here.
        let fields = fields(&stat);
        let at = |number: usize| fields.get(number - 4).copied();
        out.add(&CPU, &[], at(14).zip(at(15)).map(|(user, system)| real(user + system) / ticks));
        out.add(&THREADS, &[], at(20).map(real));
        out.add(&START, &[], at(22).zip(boot_time()).map(|(since, boot)| real(boot) + real(since) / ticks));
        out.add(&VIRTUAL, &[], at(23).map(real));
        out.add(&RSS, &[], at(24).map(|pages| real(pages.saturating_mul(page))));
    }
    // The descriptor of the listing itself is not one of ours.
    let open = std::fs::read_dir("/proc/self/fd").map(|all| all.count().saturating_sub(1)).ok();
    out.add(&OPEN, &[], open.and_then(|n| u64::try_from(n).ok()).map(real));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    out.add(&MAX, &[], limit.map(real));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_moves_no_field() {
        assert_eq!(fields("7 (a) b) R 1 2 3\n"), [1, 2, 3]);
    }
}
