//! Kernel settings that a pod may ask for: those that belong to a namespace of its own, and which of them are safe.

/// The longest name that Kubernetes takes.
const LONGEST: usize = 253;

/// Always allowed: they belong to a namespace of the pod and cannot harm others. The list is Kubernetes' own.
const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Which namespace a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// The network's.
    Net,
    /// System V IPC and message queues.
    Ipc,
}

/// The name with dots between its parts; `None` if it is no name of a setting. Both `net.ipv4.tcp_rmem` and
/// `net/ipv4/tcp_rmem` are read, and `net/ipv4/conf/eth0.1/forwarding` keeps the dot of the interface as a slash.
pub fn normalize(name: &str) -> Option<String> {
    let good = |part: &str| {
        let bytes = part.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    if name.len() > LONGEST || !name.split(['.', '/']).all(good) {
        return None;
    }
    let slashes = name.find(['.', '/']).is_some_and(|at| name.as_bytes().get(at) == Some(&b'/'));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    Some(if slashes { name.chars().map(swap).collect() } else { name.to_owned() })
}

/// Where a setting lies below `/proc/sys`.
pub fn path(normal: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    normal.chars().map(swap).collect()
}

/// The namespace that a setting (by its normal name) belongs to; `None`: it is the whole machine's.
pub fn namespace(normal: &str) -> Option<Namespace> {
    if normal.starts_with("net.") {
        return Some(Namespace::Net);
    }
    let ipc = normal.starts_with("kernel.shm")
        || normal.starts_with("kernel.msg")
        || normal == "kernel.sem"
        || normal.starts_with("fs.mqueue.");
    ipc.then_some(Namespace::Ipc)
}

/// Whether every pod may set it.
pub fn is_safe(normal: &str) -> bool {
    SAFE.contains(&normal)
}

/// Whether one of `patterns` (names, or beginnings that end in `*`) covers it.
pub fn is_allowed(normal: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => normal.starts_with(beginning),
        None => normalize(pattern).as_deref() == Some(normal),
    })
}

/// Checks what an administrator allows: only settings of a namespace can be.
///
/// # Errors
/// Says what is wrong with the pattern.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let name = pattern.strip_suffix('*').unwrap_or(pattern).trim_end_matches(['.', '/']);
    let normal = normalize(name).ok_or_else(|| format!("{pattern:?} is not a sysctl, nor one with * at its end"))?;
    // `net.*` names the whole namespace.
    if namespace(&normal).is_some() || namespace(&format!("{normal}.")).is_some() {
        Ok(())
    } else {
        Err(format!("{pattern:?} is not a sysctl of a namespace: it would change the whole machine"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_name_are_one() {
        for (name, normal) in [
            ("net.ipv4.tcp_rmem", "net.ipv4.tcp_rmem"),
            ("net/ipv4/tcp_rmem", "net.ipv4.tcp_rmem"),
            ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ] {
            assert_eq!(normalize(name).as_deref(), Some(normal), "{name}");
        }
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        for bad in ["", "foo-", ".a", "a..b", "a/../b", "A.b", "kernel.shm max", &"a".repeat(254)] {
            assert_eq!(normalize(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_settings_of_a_namespace_can_be_allowed() {
        assert_eq!(namespace("vm.swappiness"), None);
        assert_eq!(namespace("kernel.shmmax"), Some(Namespace::Ipc));
        assert!(SAFE.iter().all(|name| namespace(name).is_some() && is_safe(name)));
        for good in ["net.*", "net.core.somaxconn", "kernel.shm*", "kernel.sem"] {
            check_pattern(good).unwrap();
        }
        for bad in ["*", "vm.*", "kernel.*", "kernel.hostname", "a b"] {
            check_pattern(bad).unwrap_err();
        }
        let allowed = ["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()];
        assert!(is_allowed("kernel.msgmax", &allowed) && is_allowed("net.core.somaxconn", &allowed));
        assert!(!is_allowed("kernel.shmmax", &allowed));
    }
}
