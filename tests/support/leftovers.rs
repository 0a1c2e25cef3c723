//! Invariant I3: after things settle nothing is left over. What a test's own node may have made is found by its
//! directory's name and by the process ids that it started.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

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
        found.extend(network(instance));
    }
    found
}

/// Waits until nothing is left; what is, is named when that does not come.
pub(crate) fn none(dir: &Path, instance: Option<&str>) {
    let deadline = Instant::now() + super::PATIENCE;
    loop {
        let left = of(dir, instance);
        if left.is_empty() {
            return;
        }
        // On one line: reports of long runs keep few.
        assert!(Instant::now() < deadline, "left over: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Interfaces and nftables of an instance.
fn network(instance: &str) -> Vec<String> {
    let (bridge, pair) = (format!("lamina-{instance}"), format!("lv{instance}."));
    let links = fs::read_dir("/sys/class/net").unwrap().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut found: Vec<String> =
        links.filter(|n| *n == bridge || n.starts_with(&pair)).map(|n| format!("interface: {n}")).collect();
    let tables = std::process::Command::new("nft").args(["list", "tables"]).output().expect("nft is installed");
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    found.extend(tables.lines().filter(|line| line.ends_with(&bridge)).map(|line| format!("rules: {line}")));
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
pub(crate) fn cgroups(name: &str) -> Vec<String> {
    let mut tops = vec![Path::new("/sys/fs/cgroup").to_path_buf()];
    tops.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path()));
    tops.into_iter().map(|top| top.join(name)).filter(|d| d.is_dir()).map(|d| d.display().to_string()).collect()
}

/// Host process ids in the cgroup of a container, by the pod's uid and the container's name; its first process first,
/// and then in the order of their starts: ids begin anew when they run out.
pub(crate) fn pids(uid: &str, container: &str) -> Vec<u32> {
    let mark = format!("pod{uid}/{container}-");
    let mut pids: Vec<u32> = processes()
        .into_iter()
        .filter(|(pid, _)| {
            fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| cgroups.contains(&mark))
        })
        .map(|(pid, _)| pid)
        .collect();
    let all = pids.clone();
    pids.sort_by_cached_key(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in brackets: state, parent, …, start time as the 20th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
        (field(1).is_none_or(|parent| all.iter().any(|pid| u64::from(*pid) == parent)), field(19), *pid)
    });
    pids
}

/// Ends what a failed test has left of an agent that is gone: its pods' processes, cgroups, interfaces and rules.
pub(crate) fn end(instance: &str) {
    let run = |words: &[&str]| drop(std::process::Command::new(words[0]).args(&words[1..]).output());
    let name = format!("lamina-{instance}");
    // Shims may be in the middle of a start.
    for _ in 0..50 {
        let left = cgroups(&name);
        if left.is_empty() {
            break;
        }
        for dir in left {
            for pid in members(Path::new(&dir)) {
                run(&["kill", "-9", &pid]);
            }
            remove(Path::new(&dir));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for found in network(instance) {
        match found.split_once(": ") {
            Some(("interface", link)) => run(&["ip", "link", "del", link]),
            _ => run(&["nft", "delete", "table", "inet", &name]),
        }
    }
}

fn below(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

/// The processes in a cgroup and below.
fn members(dir: &Path) -> Vec<String> {
    let own = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    own.lines().map(str::to_owned).chain(below(dir).iter().flat_map(|dir| members(dir))).collect()
}

/// Removes a cgroup and what is below it, if nothing runs there.
pub(crate) fn remove(dir: &Path) {
    for dir in below(dir) {
        remove(&dir);
    }
    let _ = fs::remove_dir(dir);
}
