//! Pods start, fail, come back, change and end as their manifests say.

use std::time::{Duration, Instant};

use crate::support::image::{Config, Layer};
use crate::support::leftovers;
use crate::support::node::Node;
use crate::support::wait;

fn sleeper(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
    )
}

#[test]
fn a_manifest_becomes_a_running_pod_and_its_removal_ends_it() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &sleeper("web", &image));
    let pod = node.running("web");
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(node.ok(&["exec", "web", "--", "echo", "hello"]), "hello\n");
    assert_eq!(node.lamina(&["exec", "web", "--", "sh", "-c", "exit 42"]).status, 42);
    assert_eq!(node.lamina(&["exec", "web", "--", "no-such-program"]).status, 127);
    assert_eq!(node.lamina(&["exec", "web", "--", "/etc/passwd"]).status, 126);
    node.remove_manifest("web.yaml");
    node.gone("web");
    wait("the image's layers are freed", || node.layers().is_empty().then_some(()));
    node.finish();
}

#[test]
fn logs_are_kept_in_cri_format_and_read_back() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let script = "echo out; echo err >&2; printf no-newline";
    node.manifest(
        "job.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: job }}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - {{ name: app, image: \"{image}\", command: [sh, -c, \"{script}\"] }}\n"
        ),
    );
    node.until("job", "succeeded", |p| p["status"]["phase"] == "Succeeded");
    assert_eq!(node.ok(&["logs", "job"]).replace("err\n", ""), "out\nno-newline\n");
    assert!(node.ok(&["logs", "job", "--timestamps"]).contains('T'));
    assert_eq!(node.ok(&["logs", "job", "--tail", "1"]), "no-newline\n");
    let uid = node.pod("job").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let raw = std::fs::read_to_string(node.path(&format!("log/default_job_{uid}/app/0.log"))).unwrap();
    assert!(raw.lines().any(|l| l.ends_with(" stdout F out")), "{raw}");
    assert!(raw.lines().any(|l| l.ends_with(" stderr F err")), "{raw}");
    node.finish();
}

#[test]
fn exit_codes_and_reasons_are_reported() {
    let node = Node::start();
    let (_, image) = node.busybox();
    for (name, command, code, phase) in [
        ("good", "exit 0", 0, "Succeeded"),
        ("bad", "exit 3", 3, "Failed"),
        ("killed", "kill -9 $$$$' ; exit $? #", 137, "Failed"),
    ] {
        node.manifest(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  restartPolicy: Never\n  containers:\n  \
                 - {{ name: app, image: \"{image}\", command: [sh, -c, \"sh -c '{command}'\"] }}\n"
            ),
        );
        let pod = node.until(name, phase, |p| p["status"]["phase"] == phase);
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], code, "{name}");
    }
    node.finish();
}

#[test]
fn a_killed_container_comes_back_with_a_fresh_writable_layer() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &sleeper("web", &image));
    let before = node.running("web");
    node.ok(&["exec", "web", "--", "touch", "/mark"]);
    let pid = node.pid("web", "app");
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let after = node.until("web", "restarted", |p| {
        let status = &p["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    });
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(after["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
    assert_ne!(node.lamina(&["exec", "web", "--", "test", "-e", "/mark"]).status, 0);
    node.finish();
}

#[test]
fn a_changed_manifest_replaces_only_the_container_it_changes() {
    let node = Node::start();
    let (mut layout, image) = node.busybox();
    let second =
        layout.add("second", &[Layer::busybox(), Layer::new().file("version", b"2", 0o644)], Config::default());
    let two = |image_of_b: &str, label: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: two, labels: {{ v: {label} }} }}\nspec:\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  \
             - {{ name: a, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n  \
             - {{ name: b, image: \"{image_of_b}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
        )
    };
    node.manifest("two.yaml", &two(&image, "one"));
    node.running("two");
    let (a, b) = (node.pid("two", "a"), node.pid("two", "b"));

    // Other text, same meaning; then only a label: nothing restarts.
    node.manifest("two.yaml", &format!("# a comment\n{}", two(&image, "other")));
    node.until("two", "relabelled", |p| p["metadata"]["labels"]["v"] == "other");
    assert_eq!((node.pid("two", "a"), node.pid("two", "b")), (a, b));

    node.manifest("two.yaml", &two(&second, "other"));
    wait("the second container is replaced", || {
        let now = node.lamina(&["exec", "two", "-c", "b", "--", "cat", "/version"]);
        (now.status == 0 && now.out == "2").then_some(())
    });
    assert_eq!(node.pid("two", "a"), a, "the first container was disturbed");
    assert_ne!(node.pid("two", "b"), b);
    node.finish();
}

#[test]
fn a_container_that_ignores_sigterm_is_killed_after_its_grace_period() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let stubborn = |name: &str, trap: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 2\n  \
             containers:\n  - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, \
             command: [sh, -c, \"trap '{trap}' TERM; while true; do sleep 0.1; done\"] }}\n"
        )
    };
    node.manifest("stubborn.yaml", &stubborn("stubborn", ""));
    node.manifest("polite.yaml", &stubborn("polite", "exit 0"));
    node.running("stubborn");
    node.running("polite");
    // Both shells have set their traps once they sleep for the second time.
    for name in ["stubborn", "polite"] {
        wait("the trap is set", || {
            let ps = node.ok(&["exec", name, "--", "ps"]);
            ps.contains("sleep").then_some(())
        });
    }
    let start = Instant::now();
    node.remove_manifest("stubborn.yaml");
    node.remove_manifest("polite.yaml");
    node.gone("polite");
    assert!(node.pod("stubborn").is_some(), "the stubborn pod went before its grace period was over");
    node.gone("stubborn");
    assert!(start.elapsed() >= Duration::from_secs(2), "killed after {:?}", start.elapsed());
    node.finish();
}

#[test]
fn restart_policies_hold_and_backoff_grows() {
    let node = Node::start();
    let (_, image) = node.busybox();
    for (name, policy, code) in [("never", "Never", 1), ("onfailure", "OnFailure", 0)] {
        node.manifest(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  restartPolicy: {policy}\n  containers:\n  \
                 - {{ name: app, image: \"{image}\", command: [sh, -c, \"exit {code}\"] }}\n"
            ),
        );
        let pod = node.until(name, "ended", |p| p["status"]["phase"] != "Pending" && p["status"]["phase"] != "Running");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    node.manifest(
        "crash.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: crash }}\nspec:\n  containers:\n  \
             - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [\"false\"] }}\n"
        ),
    );
    // The first restart comes at once, the second after ten seconds: until then the container waits.
    let pod = node.until("crash", "in backoff", |p| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    node.finish();
}

#[test]
fn a_deployment_a_daemonset_and_a_job_run_their_pods() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let template = |restart: &str, command: &str| {
        format!(
            "template:\n    metadata: {{ labels: {{ app: x }} }}\n    spec:\n      {restart}\n      \
             terminationGracePeriodSeconds: 0\n      containers:\n      - {{ name: app, image: \"{image}\", \
             imagePullPolicy: IfNotPresent, command: [sh, -c, \"{command}\"] }}\n"
        )
    };
    let selector = "selector: { matchLabels: { app: x } }";
    node.manifest(
        "all.yaml",
        &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  replicas: 2\n  {selector}\n  {}---\n\
             apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{ name: log }}\nspec:\n  {selector}\n  {}---\n\
             apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: once }}\nspec:\n  completions: 2\n  {}",
            template("restartPolicy: Always", "sleep 1000"),
            template("restartPolicy: Always", "sleep 1000"),
            template("restartPolicy: Never", "exit 0"),
        ),
    );
    wait("two web, one log, two succeeded", || {
        let pods = node.json(&["get", "pods"]);
        let count = |prefix: &str, phase: &str| {
            let pods = pods["items"].as_array().unwrap().iter();
            pods.filter(|p| {
                p["metadata"]["name"].as_str().unwrap().starts_with(prefix) && p["status"]["phase"] == phase
            })
            .count()
        };
        let counts = (count("web-", "Running"), count("log-", "Running"), count("once-", "Succeeded"));
        (counts == (2, 1, 2)).then_some(())
    });
    node.finish();
}

#[test]
fn config_maps_secrets_and_empty_dirs_reach_the_container() {
    let node = Node::start();
    let (_, image) = node.busybox();
    std::fs::create_dir(node.path("host")).unwrap();
    std::fs::write(node.path("host/file"), "from the host").unwrap();
    node.manifest(
        "all.yaml",
        &format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: settings }}\ndata: {{ colour: blue, file.txt: text }}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{ name: token }}\nstringData: {{ password: hunter2 }}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{ name: app }}\nspec:\n  terminationGracePeriodSeconds: 0\n  volumes:\n  \
             - {{ name: settings, configMap: {{ name: settings }} }}\n  \
             - {{ name: token, secret: {{ secretName: token, defaultMode: 0400 }} }}\n  \
             - {{ name: scratch, emptyDir: {{}} }}\n  - {{ name: memory, emptyDir: {{ medium: Memory, sizeLimit: 1Mi }} }}\n  \
             - {{ name: host, hostPath: {{ path: {host}, type: Directory }} }}\n  containers:\n  \
             - name: a\n    image: \"{image}\"\n    imagePullPolicy: IfNotPresent\n    command: [sleep, \"1000\"]\n    env:\n    \
             - {{ name: COLOUR, valueFrom: {{ configMapKeyRef: {{ name: settings, key: colour }} }} }}\n    \
             - {{ name: PASSWORD, valueFrom: {{ secretKeyRef: {{ name: token, key: password }} }} }}\n    \
             - {{ name: BOTH, value: $(COLOUR)-$(PASSWORD) }}\n    volumeMounts:\n    \
             - {{ name: settings, mountPath: /settings }}\n    - {{ name: token, mountPath: /token, readOnly: true }}\n    \
             - {{ name: scratch, mountPath: /scratch }}\n    - {{ name: memory, mountPath: /memory }}\n    \
             - {{ name: host, mountPath: /host, readOnly: true }}\n  \
             - name: b\n    image: \"{image}\"\n    imagePullPolicy: IfNotPresent\n    command: [sleep, \"1000\"]\n    \
             volumeMounts: [{{ name: scratch, mountPath: /scratch }}]\n",
            host = node.path("host").display()
        ),
    );
    node.running("app");
    let sh = |container: &str, script: &str| node.lamina(&["exec", "app", "-c", container, "--", "sh", "-c", script]);
    assert_eq!(sh("a", "echo $BOTH").out, "blue-hunter2\n");
    assert_eq!(sh("a", "cat /settings/file.txt /token/password").out, "texthunter2");
    assert_eq!(sh("a", "stat -L -c %a /token/password").out, "400\n");
    assert_eq!(sh("a", "cat /host/file").out, "from the host");
    assert_ne!(sh("a", "touch /host/new").status, 0, "a read-only hostPath was written");
    assert_ne!(sh("a", "touch /token/new").status, 0, "a read-only secret was written");
    assert_eq!(sh("a", "echo shared >/scratch/x").status, 0);
    assert_eq!(sh("b", "cat /scratch/x").out, "shared\n");
    assert_ne!(sh("a", "head -c 2000000 /dev/zero >/memory/x").status, 0, "the size limit of the memory does not hold");
    let uid = node.pod("app").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    assert!(!leftovers::pids(&uid, "a").is_empty());
    node.finish();
}

#[test]
fn a_one_off_pod_gives_its_output_and_status_and_leaves_nothing() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let said = node.lamina(&["run", "--rm", &image, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.status, said.out.as_str()), (7, "out\n"), "{}", said.err);
    assert!(said.err.contains("err"));
    let mut child = node
        .command(&["run", "--rm", "-i", &image, "--", "cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "through");
    assert!(out.status.success());
    assert_eq!(node.lamina(&["run", "--rm", &image, "--", "no-such-program"]).status, 127);
    assert_eq!(node.lamina(&["run", "--rm", &image, "--", "/etc/passwd"]).status, 126);
    wait("the one-off pods are gone", || {
        let pods = node.json(&["get", "pods", "-A"]);
        pods["items"].as_array().unwrap().is_empty().then_some(())
    });
    node.finish();
}

#[test]
fn exec_and_run_with_a_terminal_see_one() {
    // `script` gives the client a terminal of its own.
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("web.yaml", &sleeper("web", &image));
    node.running("web");
    for arguments in ["exec web -it -- sh -c 'tty; stty size'".to_owned(), format!("run --rm -it {image} -- tty")] {
        let line = format!("{} {arguments}", crate::support::node::LAMINA);
        let out = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("LAMINA_RUN", node.path("run"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("/dev/pts/") || text.contains("/dev/console"), "{arguments}: {text}");
    }
    node.finish();
}
