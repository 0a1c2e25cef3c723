//! What containers run as, see, and end with.

use lamina::runtime::client::Error;
use lamina::runtime::protocol::{Exit, FailureKind};

use crate::pod::{Pod, target};

#[tokio::test]
async fn exit_statuses_and_signals_are_told_as_they_are() {
    let mut pod = Pod::new().await;
    assert_eq!(pod.run(pod.sh("a", 0, "exit 0")).await.code, 0);
    let exit = pod.run(pod.sh("a", 1, "exit 42")).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (42, None, false));
    assert!(exit.started_at <= exit.finished_at);

    pod.start(pod.command("a", 2, &["/bin/sleep", "1000"])).await;
    pod.client.signal(target("a", 2), libc_sigkill(), false).await.unwrap();
    let exit = pod.exit("a", 2).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    pod.end().await;
}

fn libc_sigkill() -> i32 {
    9
}

#[tokio::test]
async fn an_exit_is_on_disk_before_it_is_told() {
    let mut pod = Pod::new().await;
    let exit = pod.run(pod.sh("a", 0, "exit 3")).await;
    assert_eq!(Exit::read(&pod.state("a", 0)), Some(exit));
    pod.end().await;
}

#[tokio::test]
async fn a_command_that_is_not_there_and_one_that_cannot_run_are_told_apart() {
    let pod = Pod::new().await;
    for (attempt, command, kind, code) in [
        (0, "/bin/nowhere", FailureKind::CommandNotFound, 127),
        (1, "/bin/not-executable", FailureKind::CommandNotExecutable, 126),
    ] {
        let start = pod.command("a", attempt, &[command]);
        match pod.client.start(start.request, vec![]).await {
            Err(Error::Refused(failure)) => assert_eq!((failure.kind, failure.kind.exit_code()), (kind, code)),
            other => panic!("{other:?}"),
        }
    }
    assert!(pod.client.status().await.unwrap().containers.is_empty());
    pod.end().await;
}

#[tokio::test]
async fn a_container_over_its_memory_limit_ends_as_killed_for_want_of_memory() {
    let mut pod = Pod::new().await;
    let hog = pod.sh("a", 0, "x=; while :; do x=$x$(seq 20000); done").memory(16 << 20);
    let exit = pod.run(hog).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.signal, Some(9));
    pod.end().await;
}

#[tokio::test]
async fn a_container_sees_its_pod_and_nothing_else() {
    let mut pod = Pod::new().await;
    let script = "hostname; echo $$; ip -o link | wc -l; ip addr show lo | head -1; ls /proc/self/fd | wc -l; id -u";
    let exit = pod.run(pod.sh("a", 0, script)).await;
    let log = pod.log("a", 0);
    assert_eq!(exit.code, 0, "{log}");
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.first(), Some(&"in-a-test"));
    assert_eq!(lines.get(1), Some(&"1"), "first in its pid namespace");
    assert_eq!(lines.get(2), Some(&"1"), "loopback alone");
    assert!(lines.get(3).is_some_and(|l| l.contains("UP")), "{log}");
    // 0, 1, 2, and the directory that ls reads.
    assert_eq!(lines.get(4), Some(&"4"), "no inherited descriptor");
    pod.end().await;
}

#[tokio::test]
async fn containers_of_one_pod_share_its_namespaces_and_not_their_files() {
    let mut pod = Pod::new().await;
    assert_eq!(pod.run(pod.sh("a", 0, "echo a > /tmp/file; touch /dev/shm/x")).await.code, 0);
    assert_eq!(pod.run(pod.sh("b", 0, "! test -e /tmp/file")).await.code, 0);
    assert_eq!(std::fs::read_to_string(pod.state("a", 0).join("upper/tmp/file")).unwrap(), "a\n");
    pod.end().await;
}

#[tokio::test]
async fn a_disk_node_can_be_made_and_not_opened() {
    let mut pod = Pod::new().await;
    let exit =
        pod.run(pod.sh("a", 0, "mknod /tmp/disk b 8 0 && ! head -c1 /tmp/disk && head -c1 /dev/zero | wc -c")).await;
    let log = pod.log("a", 0);
    assert_eq!(exit.code, 0, "{log}");
    assert!(log.contains("not permitted") || log.contains("denied"), "{log}");
    pod.end().await;
}

#[tokio::test]
async fn an_attempt_is_started_once_and_a_container_runs_once() {
    let pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    for attempt in [0, 1] {
        let again = pod.command("a", attempt, &["/bin/true"]);
        match pod.client.start(again.request, vec![]).await {
            Err(Error::Refused(failure)) => assert_eq!(failure.kind, FailureKind::Exists),
            other => panic!("{other:?}"),
        }
    }
    for name in ["", "../a", "A", "a/b", "a-"] {
        let mut odd = pod.command("odd", 0, &["/bin/true"]).request;
        odd.name = name.into();
        match pod.client.start(odd, vec![]).await {
            Err(Error::Refused(failure)) => assert_eq!(failure.kind, FailureKind::Invalid, "{name}"),
            other => panic!("{other:?}"),
        }
    }
    pod.end().await;
}

#[tokio::test]
async fn deleting_a_running_container_ends_it_with_all_its_processes() {
    let pod = Pod::new().await;
    let status = pod.start(pod.sh("a", 0, "sleep 1000 & sleep 1000 & wait")).await;
    pod.client.delete(target("a", 0)).await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{}", status.pid)).exists());
    assert!(pod.client.status().await.unwrap().containers.is_empty());
    assert!(pod.client.delete(target("a", 0)).await.is_err());
    pod.end().await;
}

#[tokio::test]
async fn many_containers_start_and_end_and_the_shim_stays_as_it_was() {
    let mut pod = Pod::new().await;
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let shim = pod.client.hello().pid;
    let before = open(shim);
    for attempt in 0..20 {
        assert_eq!(pod.run(pod.command("a", attempt, &["/bin/true"])).await.code, 0);
        let broken = pod.command("b", attempt, &["/bin/nowhere"]);
        assert!(pod.client.start(broken.request, vec![]).await.is_err());
        pod.client.delete(target("a", attempt)).await.unwrap();
    }
    assert_eq!(open(shim), before);
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children, "");
    pod.end().await;
}
