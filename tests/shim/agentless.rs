//! What the shim does by itself: signals that it gets, disks that are full, memory that it does not use.

use lamina::runtime::client::Client;
use lamina::runtime::protocol::Exit;
use lamina::runtime::shim::Network;

use crate::pod::{Pod, binary, target, until};

#[tokio::test]
async fn real_time_signals_and_signals_to_all_reach_the_container() {
    let mut pod = Pod::new().await;
    pod.start(pod.sh("a", 0, "trap 'echo caught; exit 3' 37; echo ready; while :; do sleep 0.05; done")).await;
    pod.says("a", 0, "ready").await;
    pod.client.signal(target("a", 0), 37, false).await.unwrap();
    assert_eq!(pod.exit("a", 0).await.code, 3);

    pod.start(pod.sh(
        "a",
        1,
        "(trap 'echo child; exit 0' USR1; echo up; while :; do sleep 0.05; done) & trap '' USR1; wait; exit 6",
    ))
    .await;
    pod.says("a", 1, "up").await;
    pod.client.signal(target("a", 1), 10, true).await.unwrap();
    assert_eq!(pod.exit("a", 1).await.code, 6);
    assert!(pod.log("a", 1).contains("child"));

    assert!(pod.client.signal(target("a", 1), 15, false).await.is_err(), "it has ended");
    assert!(pod.client.signal(target("a", 7), 15, false).await.is_err(), "there is none");
    pod.start(pod.command("a", 2, &["/bin/sleep", "1000"])).await;
    assert!(pod.client.signal(target("a", 2), 0, false).await.is_err());
    assert!(pod.client.signal(target("a", 2), 65, false).await.is_err());
    pod.end().await;
}

#[tokio::test]
async fn an_exit_that_cannot_be_written_is_told_and_written_later() {
    let mut pod = Pod::new().await;
    let state = pod.state("a", 0);
    let aside = state.with_file_name("aside");
    pod.start(pod.sh("a", 0, "sleep 0.3; exit 8")).await;
    std::fs::rename(&state, &aside).unwrap();
    assert_eq!(pod.exit("a", 0).await.code, 8);
    assert_eq!(Exit::read(&state), None);
    std::fs::rename(&aside, &state).unwrap();
    until("the exit to be written", || Exit::read(&state).is_some_and(|e| e.code == 8)).await;
    pod.end().await;
}

#[tokio::test]
async fn a_shim_that_is_told_to_end_stays_until_its_containers_have() {
    let mut pod = Pod::new().await;
    pod.start(pod.sh("a", 0, "sleep 0.5; exit 2")).await;
    let shim = rustix::process::Pid::from_raw(pod.client.hello().pid.try_into().unwrap()).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::HUP, rustix::process::Signal::INT] {
        rustix::process::kill_process(shim, signal).unwrap();
    }
    assert_eq!(pod.exit("a", 0).await.code, 2);
    assert_eq!(pod.events.next().await, None);
    assert_eq!(Exit::read(&pod.state("a", 0)).map(|e| e.code), Some(2));
    pod.end_lost().await;
}

#[tokio::test]
async fn a_pod_on_the_host_s_network_is_there() {
    let mut pod = Pod::new().await;
    pod.client.shutdown().await.unwrap();
    pod.config.network = Network::Host;
    pod.config.hostname = None;
    let (client, events) = Client::spawn(binary(), &pod.config).await.unwrap();
    (pod.client, pod.events) = (client, events);
    let shim = pod.client.hello().pid;
    let namespace = |process: &str, kind: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
    for (kind, shared) in [("net", true), ("uts", true), ("ipc", false), ("mnt", false)] {
        assert_eq!(namespace(&shim.to_string(), kind) == namespace("self", kind), shared, "{kind}");
    }
    pod.end().await;
}

#[tokio::test]
async fn an_idle_shim_keeps_little_memory_of_its_own() {
    let mut pod = Pod::new().await;
    assert_eq!(pod.run(pod.sh("a", 0, "seq 20000")).await.code, 0);
    pod.start(pod.command("a", 1, &["/bin/sleep", "1000"])).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", pod.client.hello().pid)).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let anonymous: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    // A debug build, dynamically linked: relocations alone are some 2 MiB. What this guards against is an arena
    // allocator, a runtime or a buffer that grows.
    assert!(anonymous < 6 << 10, "{anonymous} KiB");
    pod.end().await;
}
