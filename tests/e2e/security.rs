//! Security contexts: who a container runs as, what it may do, and which of the host's namespaces it is in.

use std::fs;

use serde_json::{Value, json};

use crate::support::image::{Config, Layer};
use crate::support::node::Node;
use crate::support::wait;

/// Writes a pod with one container `app` that runs a script; `pod` and `container` are merged over it.
fn write(node: &Node, name: &str, image: &str, script: &str, pod: &Value, container: &Value) {
    let mut app =
        json!({ "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script] });
    merge(&mut app, container);
    let mut spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [app] });
    merge(&mut spec, pod);
    let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
    node.manifest(&format!("{name}.json"), &object.to_string());
}

fn merge(to: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        to[key] = value.clone();
    }
}

fn ended(node: &Node, name: &str) -> Value {
    node.until(name, "ended", |p| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
}

/// `set -e` overlooks what is negated by `!`; `not` does not.
const PRELUDE: &str = "set -e; not() { if \"$@\" 2>/dev/null; then echo \"not expected: $*\"; exit 1; fi; }; ";

/// A script that must succeed in a pod.
struct Case {
    name: &'static str,
    script: String,
    pod: Value,
    container: Value,
}

fn case(name: &'static str, script: &str, pod: Value, container: Value) -> Case {
    Case { name, script: format!("{PRELUDE}{script}"), pod, container }
}

fn all_succeed(node: &Node, image: &str, cases: &[Case]) {
    for c in cases {
        write(node, c.name, image, &c.script, &c.pod, &c.container);
    }
    for c in cases {
        let pod = ended(node, c.name);
        assert_eq!(
            pod["status"]["phase"],
            "Succeeded",
            "{}: {}\n{}",
            c.name,
            node.ok(&["logs", c.name]),
            pod["status"]
        );
    }
}

fn namespace(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_pod_is_in_the_namespaces_of_the_host_that_it_asks_for_and_in_no_other() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let agent = node.agent_pid();
    let (pid, ipc) = (namespace("pid"), namespace("ipc"));
    let canary = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let canary = canary.path().display();
    let is = |kind: &str, id: &str| format!("test $(readlink /proc/self/ns/{kind}) = '{id}'");
    let own = format!(
        "test ! -e {canary}; not {}; not {}; test ! -d /proc/{agent}; test $$$$ = 1",
        is("pid", &pid),
        is("ipc", &ipc)
    );
    let host_pid = format!(
        "test -d /proc/{agent}; test $$$$ != 1; {}; not {}; sleep 1000 & true",
        is("pid", &pid),
        is("ipc", &ipc)
    );
    let host_ipc = format!("test -e {canary}; {}; not {}", is("ipc", &ipc), is("pid", &pid));
    all_succeed(
        &node,
        &image,
        &[
            case("own", &own, json!({}), json!({})),
            // What it leaves behind goes with it, though it was not the first process of a namespace.
            case("host-pid", &host_pid, json!({ "hostPID": true }), json!({})),
            case("host-ipc", &host_ipc, json!({ "hostIPC": true }), json!({})),
        ],
    );
    node.finish();
}

#[test]
fn containers_that_share_a_process_namespace_see_and_reap_each_other() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let container = |name: &str, script: &str, caps: Value| {
        json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
                "securityContext": { "capabilities": caps } })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "shared" },
        "spec": { "shareProcessNamespace": true, "terminationGracePeriodSeconds": 0, "containers": [
            container("one", "sleep 4321", json!({})),
            container("two", "trap '' TERM; (sleep 0.1 &); sleep 8765", json!({ "add": ["SYS_PTRACE"] })),
        ] },
    });
    node.manifest("shared.json", &pod.to_string());
    node.running("shared");
    let exec = |node: &Node, script: &str| node.lamina(&["exec", "shared", "-c", "two", "--", "sh", "-c", script]);
    // The other's process is in sight; the first is nobody, with nothing to take and no way out.
    let said = exec(
        &node,
        "set -e; ps -o pid,args | grep -v grep | grep -q 'sleep 4321'; test $$ != 1; test $(cat /proc/1/comm) = pause; \
         grep -q 'CapPrm:.0000000000000000' /proc/1/status; grep -q 'Uid:.65535.65535.65535' /proc/1/status; \
         test -z \"$(ls -A /proc/1/root/ 2>/dev/null)\"; kill -9 1; sleep 0.2; test -d /proc/1",
    );
    assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    wait("what was left is reaped", || (exec(&node, "grep -q ') Z ' /proc/[0-9]*/stat").status != 0).then_some(()));
    // Through another agent; and one container ends the other, which comes back.
    node.kill_agent();
    node.start_agent();
    node.running("shared");
    // (That one alone: an exec ends with its container.)
    let said = exec(&node, "kill -9 $(ps -o pid,args | grep '[s]leep 4321' | head -1 | cut -c1-6)");
    assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    node.until("shared", "restarted", |p| {
        p["status"]["containerStatuses"].as_array().unwrap().iter().any(|c| c["restartCount"] == 1)
    });
    node.running("shared");
    node.finish();
}

#[test]
fn containers_of_a_pod_share_memory_by_name_and_pods_do_not() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let container = |name: &str, script: &str| json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script] });
    let mount = json!([{ "name": "m", "mountPath": "/dev/shm" }]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "shm" },
        "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [
            container("writer", "echo x >/dev/shm/named; sleep 1"),
            container("reader", "while ! test -s /dev/shm/named; do sleep 0.05; done"),
        ] },
    });
    node.manifest("shm.json", &pod.to_string());
    assert_eq!(ended(&node, "shm")["status"]["phase"], "Succeeded");
    all_succeed(
        &node,
        &image,
        &[
            case(
                "other",
                "test ! -e /dev/shm/named; grep ' /dev/shm ' /proc/mounts | grep -q 'size=65536k'",
                json!({}),
                json!({}),
            ),
            case(
                "larger",
                "grep ' /dev/shm ' /proc/mounts | grep -q 'size=131072k'",
                json!({ "volumes": [{ "name": "m", "emptyDir": { "medium": "Memory", "sizeLimit": "128Mi" } }] }),
                json!({ "volumeMounts": mount }),
            ),
        ],
    );
    node.finish();
}

fn sysctls(names: &[(&str, &str)]) -> Value {
    let all: Vec<Value> = names.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "securityContext": { "sysctls": all } })
}

#[test]
fn safe_sysctls_are_set_for_the_pod_alone_and_others_where_they_are_allowed() {
    let here = || fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    let before = here();
    let node = Node::start_with(&["--allowed-unsafe-sysctls", "kernel.msg*,net.ipv4.conf.*"]);
    let (_, image) = node.busybox();
    all_succeed(
        &node,
        &image,
        &[
            case(
                "safe",
                "test $(cat /proc/sys/kernel/shm_rmid_forced) = 1; \
                 test \"$(cat /proc/sys/net/ipv4/ip_local_port_range)\" = \"$(printf '20000\\t20100')\"",
                sysctls(&[("kernel.shm_rmid_forced", "1"), ("net/ipv4/ip_local_port_range", "20000 20100")]),
                json!({}),
            ),
            case(
                "allowed",
                "test $(cat /proc/sys/kernel/msgmax) = 4444; test $(cat /proc/sys/net/ipv4/conf/lo/forwarding) = 1",
                sysctls(&[("kernel.msgmax", "4444"), ("net.ipv4.conf.lo.forwarding", "1")]),
                json!({}),
            ),
            case("own", "test $(cat /proc/sys/kernel/msgmax) != 4444", json!({}), json!({})),
        ],
    );
    write(&node, "unsafe", &image, "true", &sysctls(&[("kernel.shmmax", "1000")]), &json!({}));
    let pod = ended(&node, "unsafe");
    assert_eq!((&pod["status"]["phase"], &pod["status"]["reason"]), (&"Failed".into(), &"SysctlForbidden".into()));
    assert!(pod["status"]["message"].as_str().unwrap().contains("kernel.shmmax"), "{pod}");
    assert_eq!(here(), before);
    node.finish();
}

#[test]
fn a_seccomp_profile_of_the_node_filters_and_a_missing_one_is_named_and_waited_for() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let dir = node.path("root/seccomp/profiles");
    fs::create_dir_all(&dir).unwrap();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 }],
    });
    fs::write(dir.join("no-mkdir.json"), profile.to_string()).unwrap();
    fs::write(dir.join("bad.json"), "{\"defaultAction\": \"SCMP_ACT_WHAT\"}").unwrap();
    let local = |file: &str| json!({ "type": "Localhost", "localhostProfile": format!("profiles/{file}.json") });
    let context = |profile: &Value| json!({ "securityContext": { "seccompProfile": profile } });
    let denied = "grep -q 'Seccomp:.2' /proc/self/status; if mkdir /tmp/x 2>/tmp/e; then exit 1; fi; grep -q 'Permission denied' /tmp/e";
    all_succeed(
        &node,
        &image,
        &[
            case("of-pod", denied, context(&local("no-mkdir")), json!({})),
            case("of-container", denied, json!({}), context(&local("no-mkdir"))),
            case(
                "unconfined",
                "grep -q 'Seccomp:.0' /proc/self/status; mkdir /tmp/x",
                context(&local("no-mkdir")),
                context(&json!({ "type": "Unconfined" })),
            ),
            case("default", "grep -q 'Seccomp:.2' /proc/self/status; mkdir /tmp/x", json!({}), json!({})),
        ],
    );
    for name in ["missing", "bad"] {
        write(&node, name, &image, "true", &json!({}), &context(&local(name)));
        let pod = node.until(name, "waiting with a reason", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
                .as_str()
                .is_some_and(|m| m.contains("seccomp"))
        });
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        assert_eq!(waiting["reason"], "CreateContainerConfigError");
        let message = waiting["message"].as_str().unwrap();
        assert!(message.contains("container app") && message.contains(&format!("profiles/{name}.json")), "{message}");
    }
    fs::write(dir.join("missing.json"), profile.to_string()).unwrap();
    assert_eq!(ended(&node, "missing")["status"]["phase"], "Succeeded");
    node.finish();
}

#[test]
fn a_container_that_must_not_be_root_starts_only_as_somebody_else() {
    let node = Node::start();
    let (mut layout, _) = node.busybox();
    let non_root = json!({ "securityContext": { "runAsNonRoot": true } });
    for (user, uid, good) in [
        ("", None, false),
        ("root", None, false),
        ("0", None, false),
        ("player", None, true),
        ("1000", None, true),
        ("root", Some(1234), true),
    ] {
        let name = format!("u{user}-{}-{good}", uid.unwrap_or(0)).to_lowercase();
        let image = layout.add(&name, &[Layer::busybox()], Config::default().set("User", json!(user)));
        let mut container = json!({ "securityContext": {} });
        if let Some(uid) = uid {
            container["securityContext"]["runAsUser"] = json!(uid);
        }
        write(&node, &name, &image, "test $(id -u) != 0", &non_root, &container);
        let pod = ended(&node, &name);
        if good {
            assert_eq!(pod["status"]["phase"], "Succeeded", "{user:?}: {}", pod["status"]);
        } else {
            let state = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            assert_eq!(state["reason"], "CreateContainerConfigError", "{user:?}: {pod}");
            assert!(state["message"].as_str().unwrap().contains("runAsNonRoot"), "{pod}");
        }
    }
    node.finish();
}

#[test]
fn users_groups_and_privileges_are_those_of_the_security_context() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let context = |c: Value| json!({ "securityContext": c });
    let volume = |mut pod: Value| {
        pod["volumes"] = json!([{ "name": "v", "emptyDir": {} }, { "name": "m", "emptyDir": { "medium": "Memory" } }]);
        pod
    };
    let mounts = json!({ "volumeMounts": [{ "name": "v", "mountPath": "/v" }, { "name": "m", "mountPath": "/m" }] });
    let status = |field: &str, value: &str| format!("grep -q '{field}:.{value}$' /proc/self/status");
    let all_capabilities = fs::read_to_string("/proc/self/status").unwrap();
    let all_capabilities = all_capabilities.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap().to_owned();
    all_succeed(
        &node,
        &image,
        &[
            case(
                "pod-user",
                "test \"$(id -u):$(id -g)\" = 1001:2002",
                context(json!({ "runAsUser": 1001, "runAsGroup": 2002 })),
                json!({}),
            ),
            case(
                "own-user",
                "test \"$(id -u):$(id -g)\" = 1003:0",
                context(json!({ "runAsUser": 1001 })),
                context(json!({ "runAsUser": 1003 })),
            ),
            case(
                "merged-groups",
                "test \"$(id -G)\" = '1000 29 50000'",
                context(json!({ "runAsUser": 1000, "supplementalGroups": [50000] })),
                json!({}),
            ),
            case(
                "strict-groups",
                "test \"$(id -G)\" = '1000 50000'",
                context(
                    json!({ "runAsUser": 1000, "supplementalGroups": [50000], "supplementalGroupsPolicy": "Strict" }),
                ),
                json!({}),
            ),
            case(
                "fs-group",
                "for d in /v /m; do test \"$(stat -c %g:%a $d)\" = 3003:2777; echo x >$d/f; test $(stat -c %g $d/f) = 3003; done; \
                 id -G | grep -q 3003",
                volume(context(json!({ "runAsUser": 1001, "fsGroup": 3003, "fsGroupChangePolicy": "OnRootMismatch" }))),
                mounts,
            ),
            case("may-escalate", &status("NoNewPrivs", "0"), json!({}), json!({})),
            case(
                "may-not",
                &status("NoNewPrivs", "1"),
                json!({}),
                context(json!({ "allowPrivilegeEscalation": false })),
            ),
            case("read-only", "not touch /new", json!({}), context(json!({ "readOnlyRootFilesystem": true }))),
            case("writable", "touch /new", json!({}), context(json!({ "readOnlyRootFilesystem": false }))),
            case(
                "capabilities",
                &format!("{}; not chmod 777 /proc/sys/kernel", status("CapEff", "0000000000200000")),
                json!({}),
                context(json!({ "capabilities": { "drop": ["ALL"], "add": ["SYS_ADMIN"] } })),
            ),
            case(
                "privileged",
                &format!(
                    "{}; {}; mount -t tmpfs x /data; test -c /dev/kmsg; \
                     not grep -q ' /sys sysfs ro' /proc/mounts",
                    status("CapEff", &all_capabilities),
                    status("Seccomp", "0")
                ),
                json!({}),
                context(json!({ "privileged": true })),
            ),
            case(
                "not-privileged",
                "not mount -t tmpfs x /data; test ! -e /dev/kmsg",
                json!({}),
                context(json!({ "privileged": false })),
            ),
        ],
    );
    node.finish();
}
