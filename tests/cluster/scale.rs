//! The controller with many nodes. They are simulated: each has a Node, a Lease that is renewed, and a NodeReport whose
//! status follows what is assigned, written as an agent writes it. The rollouts must come to their end; `tests/bench/cluster`
//! measures them with as many nodes as a large cluster has.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use lamina::api::cluster::{NodeReport, NodeReportSpec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api_server::Cluster;
use crate::support::node::LAMINA;
use crate::support::registry;

/// How many nodes there are where nothing is measured.
const FEW: usize = 60;
/// How many requests the simulation has under way.
const AT_ONCE: usize = 24;
/// How often each Lease is renewed. Agents do it each 25 s; it is good for 60 s, and here one machine writes them all.
const RENEW: Duration = Duration::from_secs(50);

/// The controller, and what it has taken.
struct Controller {
    child: Child,
    metrics: String,
}

impl Controller {
    fn start(cluster: &Cluster) -> Self {
        let config = cluster.account("lamina-system", "lamina-controller", None);
        let metrics = format!("127.0.0.1:{}", registry::free_port());
        let binary = std::env::var_os("LAMINA_BINARY").unwrap_or_else(|| LAMINA.into());
        let child = Command::new(binary)
            .args(["controller", "--kubeconfig", config.to_str().unwrap(), "--metrics", &metrics])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, metrics }
    }

    /// Seconds of CPU, and MB of memory: now, and at most.
    fn taken(&self) -> (f64, u64, u64) {
        let proc = format!("/proc/{}", self.child.id());
        let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |n: usize| fields[n].parse::<f64>().unwrap() / 100.0;
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        let megabytes = |key: &str| -> u64 {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
            line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() / 1024
        };
        (ticks(11) + ticks(12), megabytes("VmRSS:"), megabytes("VmHWM:"))
    }

    /// What it has written.
    fn writes(&self) -> f64 {
        let out = Command::new("curl").args(["-s", "-m", "5", &format!("http://{}/metrics", self.metrics)]).output();
        let text = String::from_utf8(out.unwrap().stdout).unwrap();
        let all = text.lines().filter(|l| l.starts_with("lamina_controller_writes_total"));
        all.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn name(n: usize) -> String {
    format!("node-{n:04}")
}

/// Makes one of these for each node.
async fn make<K>(api: &Api<K>, nodes: usize, one: impl Fn(usize) -> Value)
where
    K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let all: Vec<K> = (0..nodes).map(|n| serde_json::from_value(one(n)).unwrap()).collect();
    let post = PostParams::default();
    let writes = futures_util::stream::iter(all.iter().map(|object| api.create(&post, object)));
    writes.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await.unwrap();
}

/// The status that an agent writes, with its one pod if it has one.
fn status(node: &str, revision: Option<&str>) -> Value {
    let now = format!("{:.0}", jiff::Timestamp::now());
    let pods: Vec<Value> = revision
        .map(|revision| {
            json!({ "uid": format!("0f0e0d0c-0b0a-4908-8706-{:0>12}", node.trim_start_matches("node-")),
                "namespace": "arena", "workload": "game", "revision": revision, "ready": true, "since": now, "restarts": 0 })
        })
        .into_iter()
        .collect();
    json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": node },
        "status": {
            "agentVersion": "0.1.0", "kernelTier": "detached", "kernelVersion": "6.18.0", "podCount": pods.len(), "pods": pods,
            "store": { "layers": 40, "bytes": 4_000_000_000_i64, "size": "3.7Gi", "sharedBytesSaved": 1, "reclaimableBytes": 0 },
            "conditions": [{ "type": "Ready", "status": "True", "reason": "AgentReady", "message": "", "lastTransitionTime": now }],
        },
    })
}

async fn write_status(api: &Api<NodeReport>, node: &str, revision: Option<&str>) {
    let params = PatchParams::apply("lamina-agent").force();
    api.patch_status(node, &params, &Patch::Apply(&status(node, revision))).await.unwrap();
}

/// Does as agents do: what is assigned runs a moment later, and is told.
async fn follow(api: Api<NodeReport>, running: Arc<Mutex<BTreeMap<String, String>>>) {
    let turn = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut events = Box::pin(watcher(api.clone(), watcher::Config::default()));
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(report) | Event::InitApply(report)) = event else { continue };
        let Some(wanted) = report.spec.assignments.first().map(|a| a.revision.clone()) else { continue };
        let node = report.metadata.name.unwrap();
        if running.lock().unwrap().insert(node.clone(), wanted.clone()).as_ref() == Some(&wanted) {
            continue;
        }
        let (api, turn) = (api.clone(), Arc::clone(&turn));
        tokio::spawn(async move {
            let _turn = turn.acquire().await.unwrap();
            write_status(&api, &node, Some(&wanted)).await;
        });
    }
}

async fn renew(api: Api<Lease>, nodes: usize) {
    let pause = RENEW / u32::try_from(nodes).unwrap();
    let mut tick = tokio::time::interval(pause);
    for n in (0..nodes).cycle() {
        tick.tick().await;
        let api = api.clone();
        tokio::spawn(async move {
            let now = json!({ "spec": { "renewTime": format!("{:.6}", jiff::Timestamp::now()) } });
            // The next is as good.
            let _ = api.patch(&name(n), &PatchParams::default(), &Patch::Merge(&now)).await;
        });
    }
}

fn workload(version: &str) -> String {
    json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeWorkload", "metadata": { "name": "game", "namespace": "arena" },
        "spec": {
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "10%" } },
            "template": { "spec": { "containers": [{ "name": "app", "image": format!("game:{version}") }] } },
        },
    })
    .to_string()
}

/// Waits until the workload is done everywhere; says what that took.
fn phase(what: &str, cluster: &Cluster, controller: &Controller, nodes: usize, change: impl FnOnce()) -> String {
    let (begun, cpu, writes) = (Instant::now(), controller.taken().0, controller.writes());
    change();
    let deadline = Instant::now() + Duration::from_mins(20);
    loop {
        let status = &cluster.get(&["nwl", "game", "-n", "arena"])["status"];
        let count = |field: &str| status[field].as_u64().unwrap_or(0);
        let total = u64::try_from(nodes).unwrap();
        let generation = cluster.get(&["nwl", "game", "-n", "arena"])["metadata"]["generation"].clone();
        if status["observedGeneration"] == generation
            && status["currentRevision"] == status["updateRevision"]
            && count("availableNodes") == total
        {
            break;
        }
        assert!(Instant::now() < deadline, "{what} does not end: {status:#}");
        std::thread::sleep(Duration::from_secs(1));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (now, resident, peak) = controller.taken();
    let written = controller.writes() - writes;
    figures(what, (seconds, now - cpu), (resident, peak), written / seconds, cluster.etcd_bytes())
}

/// A line of the table.
fn figures(what: &str, (seconds, cpu): (f64, f64), (resident, peak): (u64, u64), writes: f64, etcd: u64) -> String {
    let etcd = etcd / 1_000_000;
    format!(
        "{what:<34} {seconds:>6.1} s  {cpu:>6.1} CPU-s  {resident:>4} MB (at most {peak})  {writes:>6.1} writes/s  etcd {etcd:>4} MB"
    )
}

#[test]
fn one_controller_rolls_a_workload_over_many_nodes() {
    let nodes: usize = std::env::var("LAMINA_SCALE_NODES").map_or(FEW, |n| n.parse().unwrap());
    let cluster = Cluster::start().with_nodes(&[]);
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: arena }\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Kubeconfig::read_from(cluster.admin()).unwrap();
    let config = runtime.block_on(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())).unwrap();
    let client = {
        let _runtime = runtime.enter();
        Client::try_from(config).unwrap()
    };
    let (reports, leases) =
        (Api::<NodeReport>::all(client.clone()), Api::<Lease>::namespaced(client.clone(), "lamina-system"));
    let begun = Instant::now();
    runtime.block_on(async {
        let labels = |n: usize| json!({ "kubernetes.io/hostname": name(n) });
        make(
            &Api::<Node>::all(client.clone()),
            nodes,
            |n| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name(n), "labels": labels(n) } }),
        )
        .await;
        make(&leases, nodes, |n| {
            json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name(n) },
                "spec": { "holderIdentity": name(n), "leaseDurationSeconds": 60 } })
        })
        .await;
        make(&reports, nodes, |n| serde_json::to_value(NodeReport::new(&name(n), NodeReportSpec::default())).unwrap())
            .await;
        let first = (0..nodes).map(name).collect::<Vec<_>>();
        let writes = first.iter().map(|node| write_status(&reports, node, None));
        futures_util::stream::iter(writes).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    });
    println!(
        "{nodes} nodes, made in {:.0} s; etcd {} MB",
        begun.elapsed().as_secs_f64(),
        cluster.etcd_bytes() / 1_000_000
    );
    runtime.spawn(follow(reports, Arc::default()));
    runtime.spawn(renew(leases, nodes));
    let controller = Controller::start(&cluster);
    for (what, version) in [("the first revision, everywhere", "1"), ("the next, a tenth at a time", "2")] {
        println!("{}", phase(what, &cluster, &controller, nodes, || cluster.apply(&workload(version))));
    }
    let (cpu, writes, begun) = (controller.taken().0, controller.writes(), Instant::now());
    std::thread::sleep(Duration::from_secs(if nodes > FEW { 30 } else { 5 }));
    let seconds = begun.elapsed().as_secs_f64();
    let (now, resident, peak) = controller.taken();
    let written = (controller.writes() - writes) / seconds;
    let what = "at rest, Leases being renewed";
    println!("{}", figures(what, (seconds, now - cpu), (resident, peak), written, cluster.etcd_bytes()));
    runtime.shutdown_background();
}
