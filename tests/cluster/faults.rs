//! Whatever happens between an agent and the API server, what runs goes on, and what was missed is caught up on.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::api_server::Cluster;
use crate::proxy::{Fault, Proxy};
use crate::source::{assign, workload};
use crate::support::node::Node;
use crate::support::wait;

const SLEEP: &str = "echo $GREETING; exec sleep 1000";

fn prepared() -> (Cluster, Proxy, Node, String) {
    let cluster = Cluster::start().with_nodes(&["node-1"]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    cluster
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: words, namespace: arena }\ndata: { hello: moin }\n");
    let proxy = Proxy::start(&cluster);
    let config = cluster.admin_at(proxy.url());
    let node = Node::start_with(&["--kubernetes", "--kubeconfig", config.to_str().unwrap(), "--node-name", "node-1"]);
    let (_, image) = node.busybox();
    (cluster, proxy, node, image)
}

#[test]
fn no_fault_is_read_as_no_pods_wanted_and_each_is_caught_up_on() {
    let (cluster, proxy, node, image) = prepared();
    cluster.apply(&workload("game", &image, SLEEP));
    assign(&cluster, "node-1", &["game"]);
    node.running("arena/game");
    let pid = node.pid("arena/game", "app");
    for (round, fault) in [
        Fault::Status(410),
        Fault::GoneInStream,
        Fault::GoneInPage,
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Cut,
        Fault::Stall,
    ]
    .into_iter()
    .enumerate()
    {
        let other = format!("other-{round}");
        let before = proxy.requests();
        proxy.set(fault);
        cluster.apply(&workload(&other, &image, SLEEP));
        assign(&cluster, "node-1", &["game", &other]);
        if !matches!(fault, Fault::Cut | Fault::Stall | Fault::GoneInPage) {
            // The fault has been met more than once.
            wait("the agent asks", || (proxy.requests() > before + 3).then_some(()));
        }
        assert_eq!(node.pid("arena/game", "app"), pid, "{fault:?}");
        proxy.set(Fault::None);
        node.running(&format!("arena/{other}"));
        assert_eq!(node.pid("arena/game", "app"), pid, "{fault:?}");
        assert!(node.ok(&["info"]).contains("connected"), "{fault:?}");
        assign(&cluster, "node-1", &["game"]);
        node.gone(&format!("arena/{other}"));
        cluster.ok(&["delete", "nwl", &other, "-n", "arena"]);
    }
    assign(&cluster, "node-1", &[]);
    node.gone("arena/game");
    node.finish();
}

#[test]
fn a_thousand_changes_a_second_are_taken_together_and_the_last_counts() {
    let (cluster, proxy, node, image) = prepared();
    cluster.apply(&workload("game", &image, SLEEP));
    assign(&cluster, "node-1", &["game"]);
    node.running("arena/game");
    let pid = node.pid("arena/game", "app");
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = memory();
    // More than an API server here takes, so the proxy makes them up: the agent cannot tell.
    proxy.set(Fault::Flood);
    let patch = |round: &str| {
        let patch = json!({ "metadata": { "annotations": { "round": round } }, "spec": { "minReadySeconds": 7 } });
        cluster.ok(&["patch", "nwl", "game", "-n", "arena", "--type", "merge", "-p", &patch.to_string()]);
    };
    let begun = Instant::now();
    wait("the flood", || {
        patch(&format!("{:?}", begun.elapsed()));
        (proxy.flooded() > 0).then_some(())
    });
    let begun = Instant::now();
    while proxy.flooded() < 10_000 {
        assert!(begun.elapsed() < Duration::from_mins(5), "{} changes were taken", proxy.flooded());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{} changes in {:.1} s", proxy.flooded(), begun.elapsed().as_secs_f64());
    proxy.set(Fault::None);
    cluster.apply(&workload("last", &image, SLEEP));
    assign(&cluster, "node-1", &["game", "last"]);
    node.running("arena/last");
    assert_eq!(node.pid("arena/game", "app"), pid, "no change of it concerned the pod");
    let after = memory();
    assert!(after < before + 16 * 1024, "{before} KiB became {after}");
    assign(&cluster, "node-1", &[]);
    node.gone("arena/game");
    node.gone("arena/last");
    node.finish();
}

#[test]
fn a_node_that_nothing_happens_on_asks_for_little() {
    let (cluster, proxy, node, image) = prepared();
    cluster.apply(&workload("game", &image, SLEEP));
    assign(&cluster, "node-1", &["game"]);
    node.running("arena/game");
    // Everything has been told.
    wait("the report is written", || {
        let report = cluster.find(&["nrep", "node-1"])?;
        report["status"]["pods"][0]["ready"].as_bool().filter(|ready| *ready).map(drop)
    });
    std::thread::sleep(Duration::from_secs(12));
    let before = proxy.counts();
    std::thread::sleep(Duration::from_mins(1));
    let after = proxy.counts();
    let asked: Vec<(String, usize)> = after
        .into_iter()
        .map(|(key, n)| {
            let was = before.get(&key).copied().unwrap_or(0);
            (key, n - was)
        })
        .filter(|(_, n)| *n > 0)
        .collect();
    println!("in a minute: {asked:?}");
    assert!(asked.iter().map(|(_, n)| n).sum::<usize>() <= 4, "{asked:?}");
    assign(&cluster, "node-1", &[]);
    node.gone("arena/game");
    node.finish();
}
