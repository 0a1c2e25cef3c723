//! The node as a library: real pods on this machine, without the command line. Needs root and a registry or an image
//! layout in `LAMINA_TEST_IMAGE` (busybox or alike).

use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use lamina::metrics::Registry;
use lamina::node::{Attach, Node, RunRequest, Settings, Streams};

fn image() -> String {
    std::env::var("LAMINA_TEST_IMAGE").unwrap_or_else(|_| "127.0.0.1:5000/busybox:1".to_owned())
}

fn settings(dir: &Path) -> Settings {
    Settings {
        root: dir.join("state"),
        run: dir.join("run"),
        log_dir: dir.join("log"),
        manifests: vec![dir.join("manifests")],
        registry_config: dir.join("registries.yaml"),
        shim: Some(env!("CARGO_BIN_EXE_lamina").into()),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_one_off_pod_runs_and_leaves_nothing() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter("debug,hyper=warn,reqwest=warn")
        .with_writer(std::io::stderr)
        .try_init();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("manifests")).unwrap();
    let node = Node::start(settings(dir.path()), Registry::default()).await.unwrap();
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
