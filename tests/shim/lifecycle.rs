//! The agent goes and comes back; the shim goes.

use std::io::{Read as _, Seek as _, Write as _};

use lamina::runtime::client::{Client, Error};
use lamina::runtime::protocol::{Exit, Stdio};

use crate::pod::{Pod, binary, exec, processes, target, until};

#[tokio::test]
async fn a_client_that_comes_back_finds_the_container_and_the_mounts() {
    let mut pod = Pod::new().await;
    let status = pod.start(pod.sh("a", 0, "while :; do sleep 0.1; test -e /tmp/stop && exit 7; done")).await;
    let mut marked = tempfile::tempfile().unwrap();
    marked.write_all(b"marked").unwrap();
    pod.client.keep(vec![("volume".into(), marked.into())]).await.unwrap();

    // The agent dies: its socket closes, and nothing else happens.
    let config = pod.config.clone();
    let (client, events) = Client::connect(&config.run, &config.pod, &config.boot).await.unwrap();
    (pod.client, pod.events) = (client, events);

    let seen = pod.client.status().await.unwrap();
    assert_eq!(seen.kept, ["layer", "volume"]);
    assert_eq!(seen.containers, std::slice::from_ref(&status));
    assert!(std::path::Path::new(&format!("/proc/{}", status.pid)).exists());
    let mut given = pod.client.give(&["volume".into()]).await.unwrap();
    let mut file = std::fs::File::from(given.pop().unwrap());
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "marked");
    assert!(pod.client.give(&["unknown".into()]).await.is_err());

    pod.client.exec(exec("a", 0, &["/bin/touch", "/tmp/stop"], Stdio::default()), vec![]).await.unwrap();
    assert_eq!(pod.exit("a", 0).await.code, 7);
    pod.end().await;
}

#[tokio::test]
async fn an_end_while_nobody_listened_is_found_in_the_status_and_on_disk() {
    let mut pod = Pod::new().await;
    pod.start(pod.sh("a", 0, "sleep 0.2; exit 4")).await;
    let config = pod.config.clone();
    // No client at all while it ends.
    let (spare, _) = Client::connect(&config.run, &config.pod, &config.boot).await.unwrap();
    drop(std::mem::replace(&mut pod.client, spare.clone()));
    drop(spare);
    until("the exit to be on disk", || Exit::read(&pod.state("a", 0)).is_some()).await;
    let (client, events) = Client::connect(&config.run, &config.pod, &config.boot).await.unwrap();
    (pod.client, pod.events) = (client, events);
    let status = pod.client.status().await.unwrap();
    let exit = status.containers.first().and_then(|c| c.exit.clone()).unwrap();
    assert_eq!(exit.code, 4);
    assert_eq!(Exit::read(&pod.state("a", 0)), Some(exit));
    pod.end().await;
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_its_pod_can_be_ended_and_started_anew() {
    let mut pod = Pod::new().await;
    let status = pod.start(pod.sh("a", 0, "sleep 1000 & sleep 1000")).await;
    let shim = pod.client.hello().pid;
    kill(shim, rustix::process::Signal::KILL);
    assert_eq!(pod.events.next().await, None);
    assert!(pod.client.status().await.is_err_and(|e| e.is_lost()));
    // Its container lives on without it.
    assert!(std::path::Path::new(&format!("/proc/{}", status.pid)).exists());
    let again = Client::connect(&pod.config.run, &pod.config.pod, &pod.config.boot).await;
    assert!(again.is_err_and(|e| e.is_lost()));

    lamina::runtime::client::kill_lost_pod(pod.config.run.clone(), pod.config.cgroup.clone()).await.unwrap();
    until("the container to end", || processes(&pod.config.pod).is_empty()).await;
    let (client, events) = Client::spawn(binary(), &pod.config).await.unwrap();
    (pod.client, pod.events) = (client, events);
    assert!(pod.client.status().await.unwrap().containers.is_empty());
    pod.end().await;
}

#[tokio::test]
async fn a_lost_pod_leaves_nothing_once_it_is_ended() {
    let pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    kill(pod.client.hello().pid, rustix::process::Signal::KILL);
    pod.end_lost().await;
}

#[tokio::test]
async fn a_stopped_shim_does_not_hold_up_whoever_connects() {
    let pod = Pod::new().await;
    let shim = pod.client.hello().pid;
    kill(shim, rustix::process::Signal::STOP);
    let config = &pod.config;
    match Client::connect(&config.run, &config.pod, &config.boot).await {
        Err(Error::Unresponsive { .. }) => {}
        other => panic!("{other:?}"),
    }
    kill(shim, rustix::process::Signal::CONT);
    Client::connect(&config.run, &config.pod, &config.boot).await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn one_pod_has_one_shim_and_a_shim_serves_its_own_pod_only() {
    let pod = Pod::new().await;
    match Client::spawn(binary(), &pod.config).await {
        Err(Error::Setup { message, .. }) => assert!(message.contains("another shim"), "{message}"),
        other => panic!("{other:?}"),
    }
    for (uid, boot) in [("other", pod.config.boot.as_str()), (pod.config.pod.as_str(), "another boot")] {
        assert!(matches!(Client::connect(&pod.config.run, uid, boot).await, Err(Error::Foreign { .. })));
    }
    pod.client.status().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn a_shim_that_cannot_be_set_up_says_why_and_leaves_nothing() {
    let pod = Pod::new().await;
    let mut config = pod.config.clone();
    config.run = pod.dir.path().join("nowhere");
    match Client::spawn(binary(), &config).await {
        Err(Error::Setup { message, .. }) => assert!(message.contains("nowhere"), "{message}"),
        other => panic!("{other:?}"),
    }
    pod.end().await;
}

#[tokio::test]
async fn many_clients_come_and_go_and_leave_no_trace() {
    let pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    let shim = pod.client.hello().pid;
    let open = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let before = open();
    for _ in 0..200 {
        let (client, _) = Client::connect(&pod.config.run, &pod.config.pod, &pod.config.boot).await.unwrap();
        let layers = client.give(&["layer".into()]).await.unwrap();
        assert_eq!(layers.len(), 1);
    }
    until("the shim to let go of them", || open() == before).await;
    pod.client.signal(target("a", 0), 9, true).await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn the_shim_is_in_nobody_s_session_and_its_binary_cannot_be_written() {
    let pod = Pod::new().await;
    let shim = pod.client.hello().pid;
    let binary = std::fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    assert!(rustix::fs::fstatvfs(&binary).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert!(std::fs::OpenOptions::new().write(true).open(format!("/proc/{shim}/exe")).is_err());
    assert_eq!(rustix::process::getsid(pid(shim)).unwrap(), pid(shim).unwrap());
    let environment = std::fs::read(format!("/proc/{shim}/environ")).unwrap();
    assert!(environment.is_empty());
    assert_eq!(std::fs::read_to_string(format!("/proc/{shim}/status")).unwrap().matches("Threads:\t1").count(), 1);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(pod.config.socket()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    pod.end().await;
}

fn pid(pid: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(pid.try_into().unwrap())
}

fn kill(process: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid(process).unwrap(), signal).unwrap();
}
