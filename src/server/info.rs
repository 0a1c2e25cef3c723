//! What the agent says of itself: version, node, what the kernel has and lacks, limits, paths.

use super::State;
use super::report::Info;
use crate::api::condition::Condition;
use crate::api::duration::short;
use crate::store::Store;
use crate::store::driver::{Backing, Driver};
use crate::sys::cgroup::Hierarchies;
use crate::sys::mount::Tier;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn file_systems() -> Vec<(String, String)> {
    let known = read("/proc/filesystems");
    let has = |name: &str| known.lines().any(|line| line.split_ascii_whitespace().next_back() == Some(name));
    let say = |there| if there { "found" } else { "missing" }.to_owned();
    ["overlay", "erofs", "tmpfs", "mqueue"].into_iter().map(|name| (name.to_owned(), say(has(name)))).collect()
}

/// How a layer of this store comes to be a mount.
fn layers_mounted(store: &Store) -> &'static str {
    match (store.driver(), store.backing()) {
        (Some(Driver::Directory), _) => "from directories",
        (_, Some(Backing::File)) => "from files",
        (_, Some(Backing::Loop)) => "from files through loop devices",
        (_, None) => "unknown",
    }
}

/// A condition of the node, and since when it is so.
fn condition(condition: &Condition) -> (String, String) {
    let status = match condition.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    (condition.kind.clone(), format!("{status} ({}) since {:.0}", condition.reason, condition.last_transition_time))
}

/// Whether the API server of a cluster is a source, and heard.
fn cluster(state: &State) -> String {
    match state.node.link() {
        None => "none".to_owned(),
        Some(link) => link.away.map_or_else(
            || "connected".to_owned(),
            |since| format!("not heard for {}: {}", short(since.elapsed()), link.reason),
        ),
    }
}

/// How pods are connected, and whether the kernel hands on what is for them.
fn network(state: &State) -> Vec<(String, String)> {
    let say = |path: &str| match read(path).as_str() {
        "1" | "2" => "on",
        "0" => "off",
        _ => "unknown",
    };
    let forwarding = [
        ("forwarding, IPv4", say("/proc/sys/net/ipv4/ip_forward")),
        ("forwarding, IPv6", say("/proc/sys/net/ipv6/conf/all/forwarding")),
    ];
    let known = state.node.machine().network.overview().into_iter();
    known.chain(forwarding.map(|(name, value)| (name, value.to_owned()))).map(|(n, v)| (n.to_owned(), v)).collect()
}

/// Reads what there is to read.
pub(super) fn info(state: &State) -> Info {
    let settings = state.node.settings();
    let store = state.store();
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let path = |name: &str, path: &std::path::Path| (name.to_owned(), path.display().to_string());
    let tier = match Tier::probe() {
        Ok(Tier::Detached) => "detached: mounts are descriptors, nothing is attached".to_owned(),
        Ok(Tier::Attached) => "attached: each shim attaches its own (kernels before 6.15)".to_owned(),
        Err(error) => format!("none: {}", crate::api::problem::chain(&error)),
    };
    let cgroups = match Hierarchies::probe() {
        Ok(found) if found.is_unified() => "v2".to_owned(),
        Ok(_) => "v1 or hybrid".to_owned(),
        Err(error) => format!("none: {}", crate::api::problem::chain(&error)),
    };
    let mut kernel = vec![
        pair("release", read("/proc/sys/kernel/osrelease")),
        pair("mounts", tier),
        pair("cgroups", cgroups),
        pair(
            "seccomp",
            match read("/proc/sys/kernel/seccomp/actions_avail") {
                actions if actions.is_empty() => "missing".to_owned(),
                actions => actions,
            },
        ),
    ];
    kernel.extend(file_systems());
    let usage = store.usage();
    let node_name = settings.node_name.clone().unwrap_or_else(|| read("/proc/sys/kernel/hostname"));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    Info {
        sections: vec![
            (
                "agent".into(),
                vec![
                    pair("version", env!("CARGO_PKG_VERSION").to_owned()),
                    pair("node", node_name),
                    pair("instance", store.instance().to_owned()),
                    pair("pid", std::process::id().to_string()),
                    pair("cluster", cluster(state)),
                    pair("pods", state.pods().len().to_string()),
                    pair(
                        "drained",
                        state.node.drained().map_or_else(|| "no".to_owned(), |since| format!("since {since:.0}")),
                    ),
                ],
            ),
            ("kernel".into(), kernel),
            (
                "store".into(),
                vec![
                    pair("driver", store.driver().map_or("read-only", |driver| driver.name()).to_owned()),
                    pair("layers are mounted", layers_mounted(store).to_owned()),
                    pair("layers", usage.layers.len().to_string()),
                    pair("images", usage.images.len().to_string()),
                ],
            ),
            ("network".into(), network(state)),
            (
                "limits".into(),
                vec![
                    pair("open files", limit.map_or_else(|| "none".to_owned(), |n| n.to_string())),
                    pair("layers fetched at once", settings.pull_parallel.to_string()),
                    pair("evicted for", settings.eviction_hard.to_string()),
                    pair("layers with a series", settings.metrics_layers.to_string()),
                    pair(
                        "collection",
                        format!(
                            "grace {}, image age {}, disk {} % to {} %",
                            short(settings.gc_grace),
                            short(settings.gc_image_age),
                            settings.gc_high,
                            settings.gc_low
                        ),
                    ),
                ],
            ),
            ("conditions".into(), state.node.conditions().iter().map(condition).collect()),
            (
                "paths".into(),
                std::iter::once(path("root", &settings.root))
                    .chain([path("run", &settings.run), path("logs", &settings.log_dir)])
                    .chain(settings.manifests.iter().map(|dir| path("manifests", dir)))
                    .chain([path("registries", &settings.registry_config)])
                    .collect(),
            ),
        ],
    }
}
