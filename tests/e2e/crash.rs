//! The agent dies, is upgraded, comes back; its pods do not notice, and the node reaches its desired state again.

use std::time::Duration;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::wait;

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sh, -c, \"while true; do echo tick; sleep 0.2; done\"] }}\n"
    )
}

/// The start time of a process, in clock ticks since boot: a pid with the same one is the same process.
fn started(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().to_owned()
}

#[test]
fn containers_keep_their_pids_when_the_agent_is_killed_and_when_it_is_upgraded() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image));
    let before = node.running("web");
    let pid = node.pid("web", "app");
    let birth = started(pid);
    for upgrade in [false, true, true] {
        node.kill_agent();
        if upgrade {
            node.upgrade();
        }
        node.start_agent();
        let after = node.running("web");
        assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
        assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
        assert_eq!((node.pid("web", "app"), started(pid)), (pid, birth.clone()));
        assert_eq!(node.ok(&["exec", "web", "--", "echo", "adopted"]), "adopted\n");
    }
    // What happens while the agent is away is seen when it is back.
    node.kill_agent();
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    node.remove_manifest("web.yaml");
    node.start_agent();
    node.gone("web");
    wait("layers are freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn sigterm_ends_the_agent_and_leaves_the_pods() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image));
    node.running("web");
    let pid = node.pid("web", "app");
    let birth = started(pid);
    node.stop_agent();
    assert_eq!(started(pid), birth);
    node.start_agent();
    assert_eq!(node.pid("web", "app"), pid);
    node.finish();
}

#[test]
fn a_killed_shim_is_noticed_and_its_pod_starts_anew() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &pod("web", &image));
    node.manifest("other.yaml", &pod("other", &image));
    node.running("web");
    node.running("other");
    let (first, other) = (node.pid("web", "app"), node.pid("other", "app"));
    let uid = node.pod("web").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let shim = crate::support::leftovers::pids(&uid, "shim");
    let shim = shim.first().copied().unwrap_or_else(|| {
        // The shim's own cgroup has no attempt in its name: ask the container's parent.
        let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap()
    });
    assert!(std::process::Command::new("kill").args(["-9", &shim.to_string()]).status().unwrap().success());
    wait("a new process in the same pod name", || {
        let pod = node.pod("web")?;
        let uid = pod["metadata"]["uid"].as_str()?;
        let pids = crate::support::leftovers::pids(uid, "app");
        pids.first().filter(|pid| **pid != first).copied()
    });
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "the old process lives on");
    assert_eq!(node.pid("other", "app"), other, "another pod was disturbed");
    node.finish();
}

/// A small generator of our own, so that a failing run can be repeated from the seed it prints.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

#[test]
fn a_hundred_kills_disturb_no_running_pod() {
    let seed = std::env::var("LAMINA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x5eed_1a31_7a00_0007);
    println!("LAMINA_SEED={seed}");
    let mut random = Random(seed);
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let names = ["a", "b", "c"];
    for name in names {
        node.manifest(&format!("{name}.yaml"), &pod(name, &image));
        node.running(name);
    }
    let lives = |node: &Node| names.map(|name| node.pid(name, "app")).map(|pid| (pid, started(pid)));
    let before = lives(&node);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_micros(random.next(100_000)));
        node.kill_agent();
        node.start_agent();
        // Ready means that what was there is known again.
        let known = node.json(&["get", "pods"]);
        assert_eq!(known["items"].as_array().unwrap().len(), names.len(), "{known}");
    }
    for name in names {
        let pod = node.running(name);
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    assert_eq!(lives(&node), before, "a pod was disturbed");
    node.ok(&["check", "--full"]);
    assert_eq!(node.layers().len(), 1);
    node.finish();
}

#[test]
fn a_hundred_kills_under_load_converge_each_time() {
    let seed = std::env::var("LAMINA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x1a31_7a5e_ed00_0001);
    println!("LAMINA_SEED={seed}");
    let mut random = Random(seed);
    let mut node = Node::start();
    let (mut layout, _) = node.busybox();
    let images: Vec<String> = (0..4)
        .map(|n| {
            let own = Layer::new().file("own", n.to_string().repeat(3_000_000).as_bytes(), 0o644);
            layout.add(&format!("load-{n}"), &[Layer::busybox(), own], Config::default())
        })
        .collect();
    // One pod stays all the time and must never be disturbed.
    node.manifest("steady.yaml", &pod("steady", &images[0]));
    node.running("steady");
    let steady = node.pid("steady", "app");
    let birth = started(steady);
    for round in 0..100 {
        let mut wanted = Vec::new();
        for name in ["a", "b", "c"] {
            let file = format!("{name}.yaml");
            match random.next(4) {
                0 => {
                    let _ = std::fs::remove_file(node.path("manifests").join(&file));
                }
                n => {
                    let image = &images[usize::try_from(n).unwrap()];
                    node.manifest(&file, &pod(name, image));
                    wanted.push((name, image.clone()));
                }
            }
        }
        std::thread::sleep(Duration::from_micros(random.next(250_000)));
        node.kill_agent();
        node.start_agent();
        assert_eq!(started(steady), birth, "round {round}: the steady pod was disturbed");
        if round % 10 == 9 {
            for name in ["a", "b", "c"] {
                match wanted.iter().find(|(n, _)| n == &name) {
                    Some((_, image)) => {
                        node.until(name, "as desired", |p| {
                            p["spec"]["containers"][0]["image"] == image.as_str()
                                && p["status"]["containerStatuses"][0]["state"]["running"].is_object()
                        });
                    }
                    None => node.gone(name),
                }
            }
            node.ok(&["check", "--full"]);
            let mut in_use: Vec<&String> = wanted.iter().map(|(_, image)| image).chain([&images[0]]).collect();
            in_use.sort();
            in_use.dedup();
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while node.layers().len() != 1 + in_use.len() {
                let whys = || node.layers().iter().map(|l| node.lamina(&["why", l]).out).collect::<String>();
                assert!(std::time::Instant::now() < deadline, "round {round}, in use {in_use:?}:\n{}", whys());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    node.finish();
}
