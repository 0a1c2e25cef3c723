//! On the machine's own trees, below names that no other test uses. Needs root.

use std::process::{Child, Command};

use super::*;

/// A group that is gone at the end of its test, whatever happens.
struct Temporary(Cgroup);

impl Temporary {
    fn new(name: &str, limits: &Limits) -> Self {
        let hierarchies = Hierarchies::probe().unwrap();
        let path = format!("/lamina-test-{}-{name}/pod/app-1", std::process::id());
        let (cgroup, warnings) = Cgroup::create(&hierarchies, &path, limits).unwrap();
        assert_eq!(warnings, []);
        Self(cgroup)
    }

    /// A process that sleeps inside.
    fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        for dir in self.0.directories() {
            limits::write(&dir, "cgroup.procs", &child.id().to_string()).unwrap();
        }
        child
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.remove_with_parents().unwrap();
        assert!(!self.0.exists());
        let parents = self.0.directories().collect::<Vec<_>>();
        assert!(parents.iter().all(|dir| !dir.parent().unwrap().parent().unwrap().exists()));
    }
}

#[test]
fn a_group_is_made_limited_read_and_removed_with_its_parents() {
    let limits = Limits {
        memory_max: Some(64 << 20),
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        pids_max: Some(50),
        ..Limits::default()
    };
    let group = Temporary::new("limits", &limits);
    let mut child = group.sleeper();
    let stats = group.0.stats();
    assert_eq!(stats.memory_limit, Some(64 << 20));
    assert_eq!(stats.pids_limit, Some(50));
    assert_eq!(stats.pids, Some(1));
    assert_eq!(stats.oom_kills, Some(0));
    assert!(stats.cpu_usage_usec.is_some() && stats.memory_usage.is_some() && stats.io_read_bytes.is_some());
    assert_eq!(group.0.pids().unwrap(), [i32::try_from(child.id()).unwrap()]);
    assert_eq!(group.0.update(&Limits { pids_max: Some(-1), memory_max: Some(96 << 20), ..Limits::default() }), []);
    assert_eq!(group.0.stats().pids_limit, None);
    group.0.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_group_in_use_stays_and_says_so() {
    let group = Temporary::new("busy", &Limits::default());
    let mut child = group.sleeper();
    let error = group.0.remove().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EBUSY));
    group.0.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn groups_made_inside_are_removed_too() {
    let group = Temporary::new("nested", &Limits::default());
    for dir in group.0.directories() {
        std::fs::create_dir_all(dir.join("inner/most")).unwrap();
    }
    group.0.remove().unwrap();
    assert!(!group.0.exists());
}

#[test]
fn a_parent_that_an_earlier_try_removed_does_not_keep_the_one_above_it() {
    let group = Temporary::new("parents", &Limits::default());
    for dir in group.0.directories() {
        std::fs::remove_dir(&dir).unwrap();
        std::fs::remove_dir(dir.parent().unwrap()).unwrap();
    }
    group.0.remove_with_parents().unwrap();
    assert!(group.0.directories().all(|dir| !dir.ancestors().nth(2).unwrap().exists()));
}

#[test]
fn a_group_is_removed_only_where_nothing_is_in_it() {
    let group = Temporary::new("unused", &Limits::default());
    let dirs: Vec<_> = group.0.directories().collect();
    std::fs::create_dir(dirs[0].join("below")).unwrap();
    assert_eq!(group.0.remove_unused(), [dirs[0].clone()]);
    std::fs::remove_dir(dirs[0].join("below")).unwrap();
    assert_eq!(group.0.remove_unused(), Vec::<std::path::PathBuf>::new());
    assert!(!group.0.exists());
}

#[test]
fn removing_what_is_not_there_is_fine() {
    let group = Cgroup::open(&Hierarchies::probe().unwrap(), "/lamina-test-nothing/here");
    group.remove().unwrap();
    assert_eq!(group.pids().unwrap(), Vec::<i32>::new());
    assert_eq!(group.stats(), Stats::default());
}

#[test]
fn device_rules_are_taken_by_both_kinds_of_hierarchy() {
    let rules = [device::Rule::char(1, 3), device::Rule::char(5, 2)];
    let group = Temporary::new("devices", &Limits::default());
    group.0.restrict_devices(&rules).unwrap();
    // And the v2 way, whichever of them the machine uses.
    let directory = group.0.unified_directory().unwrap().unwrap();
    device::restrict(std::os::fd::AsFd::as_fd(&directory), &rules).unwrap();
    let mut child = Command::new("sh");
    child.args(["-c", "read x; (: </dev/null) && ! (: </dev/zero) 2>/dev/null"]).stdin(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    limits::write(
        &group.0.below(group.0.hierarchies.unified.as_deref().unwrap()),
        "cgroup.procs",
        &child.id().to_string(),
    )
    .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
    assert!(child.wait().unwrap().success(), "/dev/null opens and /dev/zero does not");
}
