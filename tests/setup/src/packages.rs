//! Debian packages, by set; only what is missing is installed, and no service is started by it.

use std::path::Path;
use std::process::Command;

use crate::{Result, run, say};

/// What each set is for and holds.
const SETS: [(&str, &str, &[&str]); 5] = [
    (
        "build",
        "to build the static binary",
        &["gcc", "libc6-dev", "musl-tools", "make", "nasm", "autoconf", "automake", "libtool"],
    ),
    ("cluster", "to start an API server", &["etcd-server"]),
    ("demo", "to make images and serve them on loopback", &["docker-registry", "skopeo"]),
    (
        "test",
        "for the tests",
        &[
            "docker-registry",
            "skopeo",
            "buildah",
            "umoci",
            "busybox-static",
            "erofs-utils",
            "prometheus",
            "attr",
            "acl",
            "curl",
            "apache2-utils",
            "nftables",
            "containernetworking-plugins",
            "util-linux",
            "rpm",
            // `podman kube play` as a peer, with a network that has names.
            "podman",
            "runc",
            "conmon",
            "catatonit",
            "netavark",
            "aardvark-dns",
            "iptables",
        ],
    ),
    (
        "guest",
        "to boot older kernels",
        &["qemu-system-x86", "kmod", "cpio", "xz-utils", "e2fsprogs", "busybox-static", "debootstrap", "secilc"],
    ),
];

/// Installs the packages of `sets` that are missing.
pub fn install(sets: &[&str]) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    for name in sets {
        let (_, purpose, packages) = SETS
            .iter()
            .find(|(set, ..)| set == name)
            .ok_or_else(|| format!("no package set {name}; there are build, cluster, demo, test and guest"))?;
        let absent: Vec<&str> = packages.iter().copied().filter(|p| !installed(p)).collect();
        if !absent.is_empty() {
            say(&format!("installing with apt-get, {purpose}: {}", absent.join(" ")));
            missing.extend(absent);
        }
    }
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("this is not Debian; install by hand: {}", missing.join(" ")));
    }
    let _policy = NoServices::declare();
    if apt(&missing).is_err() {
        run(Command::new("apt-get").args(["-q", "update"]))?;
        apt(&missing)?;
    }
    Ok(())
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|out| out.stdout == b"installed")
}

fn apt(packages: &[&str]) -> Result<()> {
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=600", "install", "--no-install-recommends"])
        .args(packages))
}

/// Keeps packages from starting their services while they are installed; an administrator's own policy stays.
struct NoServices(bool);

impl NoServices {
    const FILE: &'static str = "/usr/sbin/policy-rc.d";

    fn declare() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let ours = !Path::new(Self::FILE).exists()
            && std::fs::write(Self::FILE, "#!/bin/sh\nexit 101\n").is_ok()
            && std::fs::set_permissions(Self::FILE, std::fs::Permissions::from_mode(0o755)).is_ok();
        Self(ours)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            // Nothing is lost if it was removed meanwhile.
            let _ = std::fs::remove_file(Self::FILE);
        }
    }
}
