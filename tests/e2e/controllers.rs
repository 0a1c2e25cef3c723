//! Workloads: rollouts and the way back, sets, jobs and schedules, on a real agent.

use serde_json::Value;

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::wait;

/// A workload's manifest; `more` goes into its spec.
fn workload(kind: &str, name: &str, image: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec:\n  selector: {{ matchLabels: {{ app: {name} }} }}\n  \
         {more}\n  template:\n    metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
         containers:\n      - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sh, -c, \"{command}\"] }}\n"
    )
}

fn job(name: &str, image: &str, command: &str, more: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: {name} }}\nspec:\n  {more}\n  template:\n    spec:\n      \
         restartPolicy: Never\n      terminationGracePeriodSeconds: 0\n      containers:\n      \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sh, -c, \"{command}\"] }}\n"
    )
}

fn apply(node: &Node, name: &str, text: &str) {
    let file = node.path(name);
    std::fs::write(&file, text).unwrap();
    node.ok(&["apply", "-f", file.to_str().unwrap()]);
}

fn uids(node: &Node, prefix: &str) -> Vec<String> {
    let pods = node.json(&["get", "pods"]);
    let mine = pods["items"].as_array().unwrap().iter().filter(|p| {
        p["metadata"]["name"].as_str().unwrap().starts_with(prefix) && p["metadata"]["deletionTimestamp"].is_null()
    });
    mine.map(|p| p["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

fn names(node: &Node) -> Vec<String> {
    let pods = node.json(&["get", "pods"]);
    pods["items"].as_array().unwrap().iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn condition(object: &Value, kind: &str) -> String {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == kind);
    found.map(|c| format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap())).unwrap_or_default()
}

#[test]
fn a_rollout_that_goes_wrong_is_undone_without_a_network_and_outlasts_the_agent() {
    let mut node = Node::start();
    let (mut layout, first) = node.busybox();
    let bad = layout.add("bad", &[Layer::busybox(), Layer::new().file("bad", b"1", 0o644)], Config::default());
    let more = "replicas: 2\n  minReadySeconds: 1\n  progressDeadlineSeconds: 600";
    apply(&node, "web.yaml", &workload("Deployment", "web", &first, "sleep 1000", more));
    assert!(node.ok(&["rollout", "status", "deployment/web"]).contains("revision 1 is rolled out"));
    let web = node.json(&["get", "deployments", "web"]);
    assert_eq!((web["status"]["availableReplicas"].as_u64(), web["lamina"]["revision"].as_u64()), (Some(2), Some(1)));
    assert_eq!(condition(&web, "Available"), "True MinimumReplicasAvailable");

    // The new template crashes: one pod is taken, the other goes on.
    apply(&node, "web.yaml", &workload("Deployment", "web", &bad, "exit 1", more));
    wait("the first pod has crashed", || {
        let pod = node.pod("web-0")?;
        (pod["status"]["containerStatuses"][0]["restartCount"].as_u64()? >= 1).then_some(())
    });
    node.kill_agent();
    node.start_agent();
    node.running("web-1");
    let image = |name: &str| node.pod(name).unwrap()["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    assert_eq!((image("web-0"), image("web-1")), (bad, first.clone()), "{}", node.agent_log());
    let history = node.ok(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("2 (current)"), "{history}");

    // Whatever the images came from is gone; the old one is still here.
    std::fs::remove_dir_all(node.path("images")).unwrap();
    node.ok(&["rollout", "undo", "deployment/web"]);
    node.ok(&["rollout", "status", "deployment/web"]);
    assert_eq!((image("web-0"), image("web-1")), (first.clone(), first));
    // What was rolled back from is held no more.
    wait("one layer is left", || (node.layers().len() == 1).then_some(()));
    node.ok(&["delete", "deployment/web"]);
    wait("the store is empty", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn a_workload_is_scaled_and_restarted_but_not_changed_behind_its_manifest() {
    let node = Node::start();
    let (_, image) = node.busybox();
    apply(&node, "web.yaml", &workload("Deployment", "web", &image, "sleep 1000", "replicas: 1"));
    node.ok(&["scale", "deployment/web", "--replicas", "3"]);
    node.ok(&["wait", "deployment/web", "--timeout", "60s"]);
    assert_eq!(uids(&node, "web-").len(), 3);
    let before = uids(&node, "web-");
    node.ok(&["restart", "deployment/web"]);
    wait("all pods are new", || {
        let now = uids(&node, "web-");
        (now.len() == 3 && now.iter().all(|uid| !before.contains(uid))).then_some(())
    });
    node.ok(&["wait", "deployment/web", "--timeout", "60s"]);
    // One pod alone.
    let before = uids(&node, "web-1");
    node.ok(&["restart", "web-1"]);
    wait("the pod is new", || (uids(&node, "web-1").len() == 1 && uids(&node, "web-1") != before).then_some(()));

    node.manifest("log.yaml", &workload("StatefulSet", "log", &image, "sleep 1000", "replicas: 1\n  serviceName: log"));
    node.running("log-0");
    let said = node.lamina(&["scale", "statefulset/log", "--replicas", "2"]);
    assert!(said.status == 1 && said.err.contains("log.yaml"), "{}", said.err);
    let before = uids(&node, "log-0");
    node.ok(&["restart", "statefulset/log"]);
    wait("the pod is new", || (uids(&node, "log-0").len() == 1 && uids(&node, "log-0") != before).then_some(()));
    assert_eq!(node.lamina(&["restart", "deployment/none"]).status, 4);
    node.ok(&["delete", "deployment/web"]);
    node.finish();
}

#[test]
fn a_stateful_set_keeps_names_and_order() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let set = |command: &str, replicas: u32| {
        workload("StatefulSet", "db", &image, command, &format!("replicas: {replicas}\n  serviceName: db"))
    };
    apply(&node, "db.yaml", &set("sleep 1000", 3));
    node.ok(&["wait", "statefulset/db", "--timeout", "60s"]);
    assert_eq!(names(&node), ["db-0", "db-1", "db-2"]);
    let started = |name: &str| {
        let pod = node.pod(name).unwrap();
        pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].as_str().unwrap().to_owned()
    };
    assert!(started("db-0") <= started("db-1") && started("db-1") <= started("db-2"));
    assert_eq!(node.ok(&["exec", "db-1", "--", "hostname"]), "db-1\n");
    apply(&node, "db.yaml", &set("sleep 2000", 3));
    node.ok(&["rollout", "status", "statefulset/db"]);
    assert!(started("db-2") <= started("db-1") && started("db-1") <= started("db-0"), "updated from the last one down");
    node.ok(&["scale", "statefulset/db", "--replicas", "1"]);
    wait("one pod is left", || (names(&node) == ["db-0"]).then_some(()));
    node.ok(&["delete", "statefulset/db"]);
    node.finish();
}

#[test]
fn jobs_end_as_their_fields_say() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let indexed = "completionMode: Indexed\n  completions: 3\n  parallelism: 3\n  backoffLimitPerIndex: 0";
    apply(
        &node,
        "index.yaml",
        &job("index", &image, "echo $JOB_COMPLETION_INDEX; test $JOB_COMPLETION_INDEX != 1", indexed),
    );
    apply(&node, "slow.yaml", &job("slow", &image, "sleep 1000", "activeDeadlineSeconds: 2"));
    apply(&node, "brief.yaml", &job("brief", &image, "exit 0", "ttlSecondsAfterFinished: 0"));
    let ended = |name: &str| {
        wait("the job has ended", || {
            let job = node.json(&["get", "jobs", name]);
            let failed = condition(&job, "Failed");
            (!failed.is_empty()).then_some((failed, job))
        })
    };
    let (why, job_of) = ended("index");
    assert_eq!((why.as_str(), &job_of["status"]["completedIndexes"]), ("True FailedIndexes", &Value::from("0,2")));
    assert_eq!(node.ok(&["logs", "index-2-2"]), "2\n");
    assert_eq!(ended("slow").0, "True DeadlineExceeded");
    let said = node.lamina(&["wait", "job/slow", "--for", "succeeded", "--timeout", "60s"]);
    assert!(said.status == 1 && said.err.contains("DeadlineExceeded"), "{}", said.err);
    wait("the job is gone by its time to live", || (node.lamina(&["get", "jobs", "brief"]).status == 4).then_some(()));
    // What has ended does not begin anew.
    node.kill_agent();
    node.start_agent();
    assert_eq!(condition(&node.json(&["get", "jobs", "slow"]), "Failed"), "True DeadlineExceeded");
    assert!(!names(&node).iter().any(|n| n.starts_with("slow-")));
    for name in ["index", "slow"] {
        node.ok(&["delete", &format!("job/{name}")]);
    }
    node.finish();
}

#[test]
fn a_cron_job_runs_once_for_each_time_whatever_happens_to_the_agent() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let template =
        job("x", &image, "exit 0", "completions: 1").split_once("spec:\n").unwrap().1.replace('\n', "\n    ");
    apply(
        &node,
        "tick.yaml",
        &format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{ name: tick }}\nspec:\n  schedule: \"* * * * *\"\n  timeZone: UTC\n  \
         jobTemplate:\n    spec:\n    {template}\n"
        ),
    );
    let jobs = |node: &Node| {
        let all = node.json(&["get", "jobs"]);
        let all = all["items"].as_array().unwrap().iter().map(|j| j["metadata"]["name"].as_str().unwrap().to_owned());
        all.collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(75);
    while jobs(&node).is_empty() {
        assert!(std::time::Instant::now() < deadline, "no job came within a minute: {}", node.agent_log());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let first = jobs(&node)[0].clone();
    node.ok(&["wait", &format!("pod/{first}-0"), "--for", "succeeded", "--timeout", "60s"]);
    node.kill_agent();
    node.start_agent();
    let tick = wait("the cron job knows what it did", || {
        let tick = node.json(&["get", "cronjobs", "tick"]);
        tick["status"]["lastSuccessfulTime"].is_string().then_some(tick)
    });
    assert!(tick["status"]["lastScheduleTime"].is_string());
    // Between its runs the image stays, so that the next needs no network.
    std::fs::remove_dir_all(node.path("images")).unwrap();
    let why = node.ok(&["why", &image]);
    assert!(why.contains("cronjob default/tick") && !why.contains("pod "), "{why}");
    let pods: Vec<String> = names(&node).into_iter().filter(|n| n.starts_with(&first)).collect();
    assert_eq!(pods, [format!("{first}-0")], "it ran once");
    assert_eq!(jobs(&node).iter().filter(|n| **n == first).count(), 1);
    node.ok(&["delete", "cronjob/tick"]);
    wait("the store is empty", || node.layers().is_empty().then_some(()));
    node.finish();
}
