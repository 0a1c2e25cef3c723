//! `hostUsers: false`: root in the container is nobody on the host, and files keep the owners that they have inside.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::wait;

/// The host's ids of a process: user, group.
fn ids(pid: u32) -> (u32, u32) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |field: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (of("Uid:"), of("Gid:"))
}

fn pod(name: &str, spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["hostUsers"] = json!(false);
    spec["terminationGracePeriodSeconds"] = json!(0);
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec }).to_string()
}

fn sleeper(name: &str, image: &str) -> Value {
    json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"] })
}

fn exec(node: &Node, pod: &str, container: &str, script: &str) -> String {
    let script =
        format!("set -e; not() {{ if \"$@\" 2>/dev/null; then echo \"not expected: $*\"; exit 1; fi; }}; {script}");
    let said = node.lamina(&["exec", pod, "-c", container, "--", "sh", "-c", &script]);
    assert_eq!(said.status, 0, "{script}: {}{}", said.out, said.err);
    said.out
}

#[test]
fn root_in_a_pod_with_users_of_its_own_is_nobody_on_the_host() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let host = node.path("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("old"), "x").unwrap();
    fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    node.manifest(
        "conf.json",
        &json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "conf" }, "data": { "k": "v" } })
            .to_string(),
    );
    let mounts = json!([
        { "name": "disk", "mountPath": "/disk" }, { "name": "memory", "mountPath": "/memory" },
        { "name": "host", "mountPath": "/host" }, { "name": "conf", "mountPath": "/conf" },
    ]);
    let (mut root, mut other) = (sleeper("root", &image), sleeper("other", &image));
    root["volumeMounts"] = mounts.clone();
    other["volumeMounts"] = mounts;
    other["securityContext"] = json!({ "runAsUser": 1000, "runAsGroup": 1000 });
    let spec = json!({
        "securityContext": { "fsGroup": 3000, "sysctls": [
            { "name": "kernel.shm_rmid_forced", "value": "1" }, { "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" } ] },
        "volumes": [
            { "name": "disk", "emptyDir": {} }, { "name": "memory", "emptyDir": { "medium": "Memory" } },
            { "name": "host", "hostPath": { "path": host } }, { "name": "conf", "configMap": { "name": "conf" } },
        ],
        "containers": [root, other],
    });
    node.manifest("one.json", &pod("one", &spec));
    node.manifest("two.json", &pod("two", &json!({ "containers": [sleeper("root", &image)] })));
    node.running("one");
    node.running("two");
    let (first, second) = (node.pid("one", "root"), node.pid("two", "root"));
    let ((one, one_group), (two, _)) = (ids(first), ids(second));
    assert!(one >= 0x7000_0000 && one == one_group && one % 65_536 == 0, "{one}");
    assert!(one.abs_diff(two) >= 65_536, "{one} {two}");
    assert_eq!(ids(node.pid("one", "other")), (one + 1000, one + 1000));
    assert_eq!(
        fs::read_to_string(format!("/proc/{first}/uid_map")).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["0", &one.to_string(), "65536"]
    );

    exec(
        &node,
        "one",
        "root",
        "test $(id -u) = 0; test $(stat -c %u:%g / /bin /etc/passwd /dev /dev/null /dev/shm | sort -u) = 0:0; \
         echo x >/new; mkdir /d; touch /bin/busybox; chmod 700 /etc/passwd; echo x >/dev/null; echo x >/dev/stdout; echo x >/dev/shm/s; \
         for d in /disk /memory /host; do echo x >$d/new; test $(stat -c %u $d/new) = 0; done; test $(stat -c %u /host/old) = 0; \
         test $(cat /conf/k) = v; test $(stat -c %g /disk) = 3000; test $(cat /proc/sys/kernel/shm_rmid_forced) = 1; \
         not mknod /tmp/sda b 8 0; not mount -t tmpfs x /tmp; not kill -0 999999; test $(cat /proc/1/comm) = sh; test -e /sys/class/net/lo; \
         hostname | grep -q one",
    );
    exec(
        &node,
        "one",
        "other",
        "test $(id -u) = 1000; echo x >/disk/mine; test $(stat -c %u:%g /disk/mine) = 1000:3000; not touch /host/x; echo x >/dev/stdout",
    );
    // As Kubernetes has it: volumes hold the ids of the container, the writable layer the host's.
    assert_eq!(fs::metadata(host.join("new")).unwrap().uid(), 0);
    let uid = node.pod("one").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    let dir = node.path("root/pods").join(&uid);
    assert_eq!(fs::metadata(dir.join("volumes/disk/mine")).unwrap().uid(), 1000);
    let upper = dir.join("containers/root/0/upper");
    for name in ["", "new", "d", "bin/busybox"] {
        assert_eq!(fs::symlink_metadata(upper.join(name)).unwrap().uid(), one, "{name}");
    }
    // What is taken out of it has the container's ids, however they are on disk.
    let tar = node.path("one.tar");
    node.ok(&["export", "one/root", "-o", tar.to_str().unwrap()]);
    let list = std::process::Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let of = |name: &str| list.lines().find(|l| l.ends_with(&format!(" {name}"))).unwrap_or_else(|| panic!("{list}"));
    for name in ["new", "d/", "bin/busybox", "etc/group"] {
        assert!(of(name).contains(" 0/0 "), "{}", of(name));
    }
    let changes = node.ok(&["diff", "one/root"]);
    assert!(changes.lines().any(|l| l == "A /new") && !changes.lines().any(|l| l == "C /etc/group"), "{changes}");

    // Whoever gets out is nobody: the host's own files are closed to it.
    let probe = std::process::Command::new("nsenter")
        .args(["-t", &first.to_string(), "-U", "-S", "0", "-G", "0", "cat", "/etc/shadow"])
        .output()
        .unwrap();
    assert!(!probe.status.success(), "{}", String::from_utf8_lossy(&probe.stdout));

    // Through another agent, and another attempt in the same namespace.
    node.kill_agent();
    node.start_agent();
    assert_eq!(ids(node.pid("one", "root")).0, one);
    exec(&node, "one", "root", "kill -TERM 1");
    node.until("one", "restarted", |p| {
        p["status"]["containerStatuses"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["restartCount"] == 1 && c["state"]["running"].is_object())
    });
    assert_eq!(ids(node.pid("one", "root")).0, one);
    assert!(node.ok(&["exec", "one", "-c", "root", "--", "id", "-u"]).starts_with('0'));
    node.finish();
}

#[test]
fn a_pod_with_users_of_its_own_may_be_root_inside_and_unmask_proc() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let mut admin = sleeper("admin", &image);
    admin["securityContext"] =
        json!({ "capabilities": { "add": ["SYS_ADMIN", "NET_ADMIN"] }, "procMount": "Unmasked" });
    let mut read_only = sleeper("read-only", &image);
    read_only["securityContext"] = json!({ "readOnlyRootFilesystem": true, "runAsNonRoot": true, "runAsUser": 7 });
    let spec = json!({ "shareProcessNamespace": true, "containers": [admin, read_only] });
    node.manifest("admin.json", &pod("admin", &spec));
    node.running("admin");
    exec(
        &node,
        "admin",
        "admin",
        "mount -t tmpfs x /data; echo x >/data/f; mount -t proc x /root; ip link set lo down; ip link set lo up; \
         not grep -q ' /proc/[a-z/]* ' /proc/mounts; test $(cat /proc/1/comm) = pause; not cat /dev/kmsg; \
         not sh -c 'echo 1 >/proc/sys/kernel/panic'; not mount -t ext4 /dev/vda /data; hostname inside",
    );
    exec(&node, "admin", "read-only", "test $(id -u) = 7; not touch /new; ps | grep -q sleep");
    assert_eq!(ids(node.pid("admin", "read-only")).0 % 65_536, 7);
    let tty = node.lamina(&["run", "--rm", &image, "--", "true"]);
    assert_eq!(tty.status, 0);
    node.finish();
}

#[test]
fn namespaces_of_the_host_and_large_ids_do_not_go_with_users_of_its_own() {
    let node = Node::start();
    let (_, image) = node.busybox();
    for (field, value) in [
        ("hostNetwork", json!(true)),
        ("hostPID", json!(true)),
        ("hostIPC", json!(true)),
        ("securityContext", json!({ "runAsUser": 70000 })),
    ] {
        let mut spec = json!({ "containers": [sleeper("app", &image)] });
        spec[field] = value;
        node.manifest("bad.json", &pod("bad", &spec));
        wait(&format!("{field} is refused"), || {
            let told = node.lamina(&["get", "events", "-A", "-o", "json"]).out;
            (told.contains("hostUsers")
                && told.contains(if field == "securityContext" { "at most 65535" } else { field }))
            .then_some(())
        });
        assert!(node.pod("bad").is_none(), "{field}");
    }
    node.finish();
}
