//! `container_*` and `pod_*`, by the names that dashboards made for the kubelet and cAdvisor know.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::families::{Families, Family, count, counter, gauge, real, seconds};
use super::network;
use super::writable::Writable;
use crate::api::PodView;
use crate::api::view::ContainerExtras;
use crate::sys::cgroup::{Cgroup, Hierarchies, Stats};

/// A family and where its value is in what a cgroup used.
type FromStats = (Family, fn(&Stats) -> Option<f64>);

const FROM_STATS: &[FromStats] = &[
    (
        counter("container_cpu_usage_seconds_total", "Seconds of cpu time used. Moves while the container computes."),
        |s| s.cpu_usage_usec.map(seconds),
    ),
    (counter("container_cpu_user_seconds_total", "Seconds of cpu time in user mode."), |s| {
        s.cpu_user_usec.map(seconds)
    }),
    (counter("container_cpu_system_seconds_total", "Seconds of cpu time in the kernel."), |s| {
        s.cpu_system_usec.map(seconds)
    }),
    (counter("container_cpu_cfs_periods_total", "Periods that passed under a cpu limit."), |s| s.cpu_periods.map(real)),
    (counter("container_cpu_cfs_throttled_periods_total", "Periods in which the cpu limit was reached."), |s| {
        s.cpu_throttled_periods.map(real)
    }),
    (counter("container_cpu_cfs_throttled_seconds_total", "Seconds that the cpu limit took away."), |s| {
        s.cpu_throttled_usec.map(seconds)
    }),
    (
        gauge("container_spec_cpu_quota", "Microseconds of cpu time allowed in each period; none without a limit."),
        |s| s.cpu_quota_usec.map(real),
    ),
    (gauge("container_spec_cpu_period", "Microseconds of each period of the cpu limit."), |s| {
        s.cpu_period_usec.map(real)
    }),
    (gauge("container_spec_cpu_shares", "Its share of cpu time against other containers, 1024 for one core."), |s| {
        s.cpu_shares.map(real)
    }),
    (counter("container_memory_failcnt", "How often the memory limit was reached."), |s| s.memory_failures.map(real)),
    (gauge("container_memory_working_set_bytes", "Bytes in use without what the kernel can drop at once."), |s| {
        s.memory_working_set.map(real)
    }),
    (gauge("container_memory_usage_bytes", "Bytes in use, page cache included."), |s| s.memory_usage.map(real)),
    (gauge("container_memory_max_usage_bytes", "The most bytes that were ever in use."), |s| s.memory_peak.map(real)),
    (gauge("container_memory_rss", "Bytes of anonymous memory."), |s| s.memory_rss.map(real)),
    (gauge("container_memory_cache", "Bytes of page cache."), |s| s.memory_cache.map(real)),
    (gauge("container_memory_swap", "Bytes in swap."), |s| s.memory_swap.map(real)),
    (gauge("container_spec_memory_limit_bytes", "The memory limit in bytes, 0 for none."), |s| {
        Some(s.memory_limit.map_or(0.0, real))
    }),
    (counter("container_oom_events_total", "Processes killed for want of memory."), |s| s.oom_kills.map(real)),
    (gauge("container_threads", "Threads that there are, each process's first included."), |s| s.pids.map(real)),
    (counter("container_fs_reads_bytes_total", "Bytes read from disks."), |s| s.io_read_bytes.map(real)),
    (counter("container_fs_writes_bytes_total", "Bytes written to disks."), |s| s.io_write_bytes.map(real)),
    (counter("container_fs_reads_total", "Reads from disks."), |s| s.io_reads.map(real)),
    (counter("container_fs_writes_total", "Writes to disks."), |s| s.io_writes.map(real)),
];

const FAILURES: Family = counter("container_memory_failures_total", "Page faults, by type.");
const PROCESSES: Family = gauge("container_processes", "Processes that there are.");
const DESCRIPTORS: Family = gauge("container_file_descriptors", "File descriptors that its processes have open.");
const START: Family = gauge("container_start_time_seconds", "When the container started, in seconds since 1970.");
const SEEN: Family = gauge("container_last_seen", "When the container was last seen, in seconds since 1970.");
const FS_USAGE: Family = gauge("container_fs_usage_bytes", "Bytes of the container's writable layer on disk.");
const WRITABLE: Family = gauge(
    "lamina_writable_layer_bytes",
    "Bytes of a container's writable layer on disk. Moves up to a minute after what is written.",
)
.by(POD_CONTAINER);
const RESTARTS: Family = counter(
    "lamina_container_restarts_total",
    "How often a container was started again within its pod. Moves with each restart.",
)
.by(POD_CONTAINER);
const TERMINATED: Family = gauge(
    "lamina_container_last_terminated",
    "1 for the reason for which a container ended last. Moves when it ends again.",
)
.by(&["namespace", "pod", "container", "reason"]);
const POD_CPU: Family = counter("pod_cpu_usage_seconds_total", "Seconds of cpu time used by a pod's containers.");
const POD_MEMORY: Family = gauge("pod_memory_working_set_bytes", "Bytes in use by a pod's containers.");

const POD_CONTAINER: &[&str] = &["namespace", "pod", "container"];

/// The families of this module.
pub(super) fn families() -> Vec<Family> {
    let standard = FROM_STATS.iter().map(|(family, _)| *family).chain([START, SEEN, PROCESSES, DESCRIPTORS, FS_USAGE]);
    let pressure = PRESSURE.iter().flat_map(|(_, waiting, stalled)| [*waiting, *stalled]);
    let labelled = |family: Family| family.by(&["container", "pod", "namespace", "image"]);
    let pod = [POD_CPU, POD_MEMORY].map(|family| family.by(&["pod", "namespace"]));
    let standard = standard.chain(pressure).chain([FAILURES]).map(labelled);
    standard.chain([WRITABLE, RESTARTS, TERMINATED]).chain(pod).collect()
}

/// Of how many processes of one container the descriptors are counted: a fork bomb must not make a scrape slow.
const MAX_PROCESSES: usize = 256;

/// The reasons that get a series; any other counts as `Error`, so that their number is bounded.
const REASONS: [&str; 4] = ["Completed", "Error", "OOMKilled", "ContainerCannotRun"];

fn status<'a>(pod: &'a PodView, name: &str) -> Option<&'a ContainerStatus> {
    pod.status_of(name)
}

fn image<'a>(pod: &'a PodView, name: &str) -> &'a str {
    let spec = pod.pod.spec.as_ref();
    let mut all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let container = all.find(|container| container.name == name);
    container.and_then(|container| container.image.as_deref()).unwrap_or_default()
}

pub(super) fn collect(out: &mut Families, pods: &[Arc<PodView>], h: Option<&Hierarchies>, writable: &Writable) {
    let sizes = writable.sizes();
    let now = real(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
    for pod in pods {
        let key = pod.key();
        let (mut cpu, mut memory) = (None, None);
        for container in &pod.lamina.containers {
            let name = container.name.as_str();
            let base = [("container", name), ("pod", key.name.as_str()), ("namespace", key.namespace.as_str())];
            let labels: Vec<(&str, &str)> = base.into_iter().chain([("image", image(pod, name))]).collect();
            lifecycle(out, &base, status(pod, name));
            let size = container.upper.as_ref().and_then(|upper| sizes.get(upper)).copied().map(real);
            out.add(&FS_USAGE, &labels, size);
            out.add(&WRITABLE, &base, size);
            running(out, &labels, container, h, now, status(pod, name), (&mut cpu, &mut memory));
        }
        let labels = [("pod", key.name.as_str()), ("namespace", key.namespace.as_str())];
        out.add(&POD_CPU, &labels, cpu);
        out.add(&POD_MEMORY, &labels, memory);
        if let Some(pid) = network::pid_of(pod) {
            network::collect(out, &labels, pid);
        }
    }
}

/// What its cgroup says of a container that runs.
fn running(
    out: &mut Families,
    labels: &[(&str, &str)],
    container: &ContainerExtras,
    h: Option<&Hierarchies>,
    now: f64,
    status: Option<&ContainerStatus>,
    (cpu, memory): (&mut Option<f64>, &mut Option<f64>),
) {
    let (Some(_), Some(path), Some(h)) = (container.pid, &container.cgroup, h) else { return };
    let group = Cgroup::open(h, path);
    let stats = group.stats();
    for (family, value) in FROM_STATS {
        // The kernel accounts all cores together, which cAdvisor calls `total`.
        let value = value(&stats);
        if family.name == "container_cpu_usage_seconds_total" {
            let with_cpu: Vec<_> = labels.iter().copied().chain([("cpu", "total")]).collect();
            out.add(family, &with_cpu, value);
            add(cpu, value);
        } else {
            out.add(family, labels, value);
        }
    }
    add(memory, stats.memory_working_set.map(real));
    if let Ok(pids) = group.pids() {
        out.add(&PROCESSES, labels, Some(count(pids.len())));
        // A process that is gone by now has none.
        let open = |pid: &i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        out.add(&DESCRIPTORS, labels, Some(count(pids.iter().take(MAX_PROCESSES).map(open).sum())));
    }
    if let Some(faults) = stats.major_faults {
        let with_type: Vec<_> =
            labels.iter().copied().chain([("failure_type", "pgmajfault"), ("scope", "container")]).collect();
        out.add(&FAILURES, &with_type, Some(real(faults)));
    }
    out.add(&SEEN, labels, Some(now));
    let started = status
        .and_then(|s| s.state.as_ref()?.running.as_ref()?.started_at.as_ref())
        .and_then(|time| u64::try_from(time.0.as_second()).ok());
    out.add(&START, labels, started.map(real));
    pressure(out, labels, h, path);
}

fn add(sum: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0.0) + value);
    }
}

fn lifecycle(out: &mut Families, base: &[(&str, &str)], status: Option<&ContainerStatus>) {
    let Some(status) = status else { return };
    out.add(&RESTARTS, base, Some(f64::from(status.restart_count.max(0))));
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.reason.clone().unwrap_or_default())
    };
    let Some(reason) = ended(&status.state).or_else(|| ended(&status.last_state)) else { return };
    let reason = REASONS.into_iter().find(|known| *known == reason).unwrap_or("Error");
    let labels: Vec<_> = base.iter().copied().chain([("reason", reason)]).collect();
    out.add(&TERMINATED, &labels, Some(1.0));
}

const PRESSURE: [(&str, Family, Family); 3] = [
    (
        "cpu.pressure",
        counter("container_pressure_cpu_waiting_seconds_total", "Seconds in which some task waited for cpu."),
        counter("container_pressure_cpu_stalled_seconds_total", "Seconds in which all tasks waited for cpu."),
    ),
    (
        "memory.pressure",
        counter("container_pressure_memory_waiting_seconds_total", "Seconds in which some task waited for memory."),
        counter("container_pressure_memory_stalled_seconds_total", "Seconds in which all tasks waited for memory."),
    ),
    (
        "io.pressure",
        counter("container_pressure_io_waiting_seconds_total", "Seconds in which some task waited for disks."),
        counter("container_pressure_io_stalled_seconds_total", "Seconds in which all tasks waited for disks."),
    ),
];

/// Stalls, on a v2 tree of a kernel that accounts for them.
fn pressure(out: &mut Families, labels: &[(&str, &str)], h: &Hierarchies, path: &str) {
    let Some(root) = h.unified_root() else { return };
    let dir = root.join(path.trim_start_matches('/'));
    for (file, waiting, stalled) in &PRESSURE {
        let Ok(text) = std::fs::read_to_string(dir.join(file)) else { continue };
        let totals = stalls(&text);
        out.add(waiting, labels, totals.get("some").copied().map(seconds));
        out.add(stalled, labels, totals.get("full").copied().map(seconds));
    }
}

/// The totals of a pressure file, in microseconds.
fn stalls(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let total = rest.split(' ').find_map(|field| field.strip_prefix("total="))?;
            Some((kind, total.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_a_pressure_file_are_read() {
        let text =
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(stalls(text), HashMap::from([("some", 1_500_000), ("full", 7)]));
        assert!(stalls("").is_empty());
    }
}
