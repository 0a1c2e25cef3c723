//! Which cgroup file systems are mounted, and where each controller lives.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Error;

/// The controllers that are used when they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    /// v1 only; part of `cpu` on v2.
    CpuAccount,
    Pids,
    Io,
    HugeTlb,
    /// v1 only; an eBPF program on v2.
    Devices,
}

impl Controller {
    const ALL: [Self; 7] =
        [Self::Memory, Self::Cpu, Self::CpuAccount, Self::Pids, Self::Io, Self::HugeTlb, Self::Devices];

    /// Its name as a mount option of v1.
    pub(super) const fn v1_name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::CpuAccount => "cpuacct",
            Self::Pids => "pids",
            Self::Io => "blkio",
            Self::HugeTlb => "hugetlb",
            Self::Devices => "devices",
        }
    }

    /// Its name in `cgroup.controllers`.
    const fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Memory => Some("memory"),
            Self::Cpu => Some("cpu"),
            Self::Pids => Some("pids"),
            Self::Io => Some("io"),
            Self::HugeTlb => Some("hugetlb"),
            Self::CpuAccount | Self::Devices => None,
        }
    }
}

/// The cgroup file systems of this machine.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    /// The v2 tree, with or without controllers.
    pub(super) unified: Option<PathBuf>,
    /// The controllers that live there, by their v2 names.
    pub(super) unified_controllers: Vec<&'static str>,
    /// Where v1 controllers live.
    pub(super) v1: BTreeMap<Controller, PathBuf>,
    /// All v1 hierarchies with their options (`cpu,cpuacct`, `name=systemd`), as a container is shown them.
    mounted: Vec<(String, PathBuf)>,
}

impl Hierarchies {
    /// Finds what is mounted, from `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// If it cannot be read, or no cgroup file system is mounted.
    pub fn probe() -> Result<Self, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let failed = |source| Error { action: "read", path: path.to_owned(), source };
        let table = std::fs::read_to_string(path).map_err(failed)?;
        let mut found = Self::parse(&table);
        if found.unified.is_none() && found.v1.is_empty() {
            let source = io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted");
            return Err(Error { action: "use", path: "/sys/fs/cgroup".into(), source });
        }
        if let Some(unified) = &found.unified {
            let path = unified.join("cgroup.controllers");
            let there = std::fs::read_to_string(&path).map_err(|source| Error { action: "read", path, source })?;
            let there: Vec<&str> = there.split_whitespace().collect();
            found.unified_controllers =
                Controller::ALL.iter().filter_map(|c| c.v2_name()).filter(|name| there.contains(name)).collect();
        }
        Ok(found)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found =
            Self { unified: None, unified_controllers: Vec::new(), v1: BTreeMap::new(), mounted: Vec::new() };
        for line in mountinfo.lines() {
            // 36 35 0:30 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
            let Some((mount, super_block)) = line.split_once(" - ") else { continue };
            let mut mount = mount.split(' ').skip(3);
            let (Some(root), Some(place)) = (mount.next(), mount.next()) else { continue };
            let mut super_block = super_block.split(' ');
            let (kind, options) = (super_block.next(), super_block.nth(1).unwrap_or_default());
            // A part of a tree that was mounted into a container is not the tree.
            if root != "/" {
                continue;
            }
            match kind {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(place.into()),
                Some("cgroup") => {
                    let options: Vec<&str> =
                        options.split(',').filter(|o| !["rw", "ro", "xattr", "clone_children"].contains(o)).collect();
                    for controller in Controller::ALL {
                        if options.contains(&controller.v1_name()) {
                            found.v1.entry(controller).or_insert_with(|| place.into());
                        }
                    }
                    let options = options.join(",");
                    if !found.mounted.iter().any(|(known, _)| *known == options) {
                        found.mounted.push((options, place.into()));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where the v2 tree is mounted, with or without controllers.
    pub fn unified_root(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Whether one v2 tree has all controllers.
    pub fn is_unified(&self) -> bool {
        self.unified.is_some() && self.v1.is_empty()
    }

    /// The v1 hierarchies: mount options, and the last part of the path where each is mounted.
    pub fn v1_mounts(&self) -> impl Iterator<Item = (&str, &std::ffi::OsStr)> {
        self.mounted.iter().filter_map(|(options, path)| Some((options.as_str(), path.file_name()?)))
    }

    /// The roots of all v1 hierarchies that are used, each once.
    pub(super) fn v1_roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = self.v1.values().map(PathBuf::as_path).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_has_both() {
        let found = Hierarchies::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             99 31 0:32 /inner /elsewhere rw - cgroup cgroup rw,memory\n",
        );
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.v1[&Controller::CpuAccount], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.v1_roots().len(), 2);
        assert_eq!(found.v1_mounts().count(), 3);
        assert!(!found.is_unified());
    }

    #[test]
    fn a_v2_machine_has_one_tree() {
        let found = Hierarchies::parse("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
        assert!(found.is_unified());
        assert!(found.v1_roots().is_empty());
    }
}
