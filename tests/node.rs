//! The node as a library: real pods on this machine, without the command line. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what went wrong by failing")]

#[path = "support/image.rs"]
#[expect(dead_code, reason = "one plain image is enough here")]
mod support;

use std::io::Read as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use lamina::api::{Kind, ObjectKey};
use lamina::metrics::Registry;
use lamina::node::{Attach, ContainerRef, DeleteOptions, ExecRequest, Node, RunRequest, Settings, Streams};

/// Two images of busybox; the second has one small layer more.
fn images() -> &'static [String; 2] {
    static IMAGES: OnceLock<[String; 2]> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let mut layout = support::Layout::create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-images"));
        let more = support::Layer::new().file("more", b"more", 0o644);
        [
            layout.add("busybox", &[support::Layer::busybox()], support::Config::default()),
            layout.add("second", &[support::Layer::busybox(), more], support::Config::default()),
        ]
    })
}

fn image() -> String {
    images()[0].clone()
}

fn settings(dir: &Path) -> Settings {
    Settings {
        root: dir.join("state"),
        run: dir.join("run"),
        log_dir: dir.join("log"),
        manifests: vec![dir.join("manifests")],
        images: Vec::new(),
        registry_config: dir.join("registries.yaml"),
        shim: Some(env!("CARGO_BIN_EXE_lamina").into()),
        // The machine may be shorter of something than a node would like.
        eviction_hard: "none".parse().unwrap(),
        ..Settings::default()
    }
}

fn pod(name: &str, command: &[&str]) -> Pod {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": image(), "command": command}],
        },
    }))
    .unwrap()
}

async fn run(node: &Node, name: &str, command: &[&str]) -> (String, i32) {
    let attach = Attach { stdout: true, stderr: true, ..Attach::default() };
    let mut session = node.run(RunRequest { pod: pod(name, command), attach, remove: true }).unwrap();
    let Some(Streams::Pipes { stdout: Some(out), .. }) = session.streams.take() else { panic!("no output") };
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::fs::File::from(out).read_to_string(&mut text).unwrap();
        text
    });
    let exit = session.wait().await.unwrap();
    (text.await.unwrap(), exit.code)
}

fn service(name: &str) -> Pod {
    let mut pod = pod(name, &["sleep", "1000"]);
    pod.spec.as_mut().unwrap().restart_policy = Some("Always".to_owned());
    pod
}

/// The pid of a pod's first container once it runs.
async fn pid(node: &Node, name: &str) -> u32 {
    let mut views = node.pods();
    let running = |views: &lamina::node::Views| {
        views.iter().find(|v| v.key().name == name).and_then(|v| v.lamina.containers.first()?.pid)
    };
    let views = tokio::time::timeout(Duration::from_secs(20), views.wait_for(|v| running(v).is_some())).await;
    running(&views.expect("it runs").unwrap()).unwrap()
}

async fn empty(node: &Node) {
    let mut views = node.pods();
    tokio::time::timeout(Duration::from_secs(20), views.wait_for(|v| v.is_empty())).await.unwrap().unwrap();
}

fn detached(node: &Node, pod: Pod) {
    node.run(RunRequest { pod, attach: Attach::default(), remove: false }).unwrap();
}

fn target(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, namespace: "default".into(), name: name.into() }
}

async fn start(dir: &Path) -> Node {
    let _ = std::fs::create_dir(dir.join("manifests"));
    let begin = Instant::now();
    loop {
        match Node::start(settings(dir), Registry::default()).await {
            // A child that another test forks at this moment has the lock's descriptor until it executes.
            Err(lamina::node::Error::Locked { .. }) if begin.elapsed() < Duration::from_secs(5) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_adopts_what_runs_and_a_killed_container_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    detached(&node, service("web"));
    let before = pid(&node, "web").await;
    node.shutdown().await;
    drop(node);

    let node = start(dir.path()).await;
    assert_eq!(pid(&node, "web").await, before, "the container did not notice");
    let target_ref = ContainerRef { namespace: "default".into(), pod: "web".into(), container: None };
    let attach = Attach { stdout: true, ..Attach::default() };
    let command = vec!["sh".to_owned(), "-c".to_owned(), "echo in; exit 7".to_owned()];
    let mut session = node.exec(ExecRequest { target: target_ref, command, attach }).await.unwrap();
    assert_eq!(session.wait().await.unwrap().code, 7);

    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(before).unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let mut views = node.pods();
    let again = |v: &lamina::node::Views| {
        v.iter().any(|v| v.lamina.containers.first().is_some_and(|c| c.attempt == 1 && c.pid.is_some()))
    };
    tokio::time::timeout(Duration::from_secs(10), views.wait_for(again)).await.unwrap().unwrap();
    node.delete(&target("web"), DeleteOptions { grace: None, wait: true }).await.unwrap();
    empty(&node).await;
    node.shutdown().await;
    for left in ["state/pods", "run/pods", "log"] {
        assert_eq!(std::fs::read_dir(dir.path().join(left)).unwrap().count(), 0, "{left} is empty");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_pod_runs_and_leaves_nothing() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter("debug,hyper=warn,reqwest=warn")
        .with_writer(std::io::stderr)
        .try_init();
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let (text, code) = run(&node, "hello", &["sh", "-c", "echo hello; exit 3"]).await;
    assert_eq!((text.as_str(), code), ("hello\n", 3));
    for n in 0..5 {
        let begin = Instant::now();
        let (_, code) = run(&node, &format!("true-{n}"), &["true"]).await;
        assert_eq!(code, 0);
        eprintln!("run took {:?}", begin.elapsed());
    }
    let mut views = node.pods();
    tokio::time::timeout(Duration::from_secs(10), views.wait_for(|v| v.is_empty())).await.unwrap().unwrap();
    node.shutdown().await;
}

fn manifest(dir: &Path, images: [&str; 2]) {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: pair}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {{name: a, image: '{}', command: [sleep, '1000']}}\n  - {{name: b, image: '{}', command: [sleep, '1000']}}\n",
        images[0], images[1]
    );
    let path = dir.join("manifests");
    std::fs::write(path.join("pair.tmp"), text).unwrap();
    std::fs::rename(path.join("pair.tmp"), path.join("pair.yaml")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest_replaces_only_its_container_and_a_removed_one_frees_its_layers() {
    let other = images()[1].clone();
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    manifest(dir.path(), [&image(), &image()]);
    let mut views = node.pods();
    let pids = |views: &lamina::node::Views| {
        let all = views.iter().flat_map(|v| v.lamina.containers.iter());
        all.filter_map(|c| Some((c.attempt, c.pid?))).collect::<Vec<_>>()
    };
    let both = |views: &lamina::node::Views| pids(views).len() == 2;
    let limit = Duration::from_mins(1);
    let before = pids(&tokio::time::timeout(limit, views.wait_for(both)).await.unwrap().unwrap());
    manifest(dir.path(), [&other, &image()]);
    let replaced = |views: &lamina::node::Views| both(views) && pids(views)[0].0 == 1;
    let after = pids(&tokio::time::timeout(limit, views.wait_for(replaced)).await.unwrap().unwrap());
    assert_eq!(before[1], after[1], "the other container did not notice");
    assert_ne!(before[0].1, after[0].1);
    std::fs::remove_file(dir.path().join("manifests/pair.yaml")).unwrap();
    tokio::time::timeout(limit, views.wait_for(|v| v.is_empty())).await.unwrap().unwrap();
    let begin = Instant::now();
    while !node.store().layers().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10), "layers are freed at once: {:?}", node.store().refs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.shutdown().await;
}
