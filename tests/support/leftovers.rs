//! Invariant I3: after things settle nothing is left over. What a test's own node may have made is found by its
//! directory's name and by the process ids that it started.

use std::fs;
use std::path::Path;

/// What of a node under `dir` is still on the machine: mounts, processes, cgroups, sockets. Empty when all is well.
pub(crate) fn of(dir: &Path, instance: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    let mark = dir.to_str().unwrap();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        if line.contains(mark) {
            found.push(format!("mount: {line}"));
        }
    }
    for (pid, command) in processes() {
        if command.contains(mark) {
            found.push(format!("process {pid}: {command}"));
        }
    }
    if let Some(instance) = instance {
        for cgroup in cgroups(&format!("lamina-{instance}")) {
            found.push(format!("cgroup: {cgroup}"));
        }
    }
    found
}

/// Every process and its command line.
fn processes() -> Vec<(u32, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        if let Ok(command) = fs::read(entry.path().join("cmdline")) {
            all.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    all
}

/// Cgroup directories of that name at the top of any hierarchy.
fn cgroups(name: &str) -> Vec<String> {
    let mut tops = vec![Path::new("/sys/fs/cgroup").to_path_buf()];
    tops.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path()));
    tops.into_iter().map(|top| top.join(name)).filter(|d| d.is_dir()).map(|d| d.display().to_string()).collect()
}

/// Host process ids in the cgroup of a container, by the pod's uid and the container's name.
pub(crate) fn pids(uid: &str, container: &str) -> Vec<u32> {
    let mark = format!("pod{uid}/{container}-");
    let mut pids: Vec<u32> = processes()
        .into_iter()
        .filter(|(pid, _)| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| cgroups.contains(&mark))
        })
        .map(|(pid, _)| pid)
        .collect();
    pids.sort_unstable();
    pids
}
