//! What is shipped under `manifests`, applied as it is: who may do what, and what is refused.

use serde_json::{Value, json};

use crate::api_server::Cluster;

/// A NodeWorkload of one container, with more in its pod and its container.
fn workload(namespace: &str, pod: &Value, container: &Value) -> String {
    let mut first = json!({ "name": "app", "image": "game:1" });
    let mut spec = json!({});
    for (target, more) in [(&mut first, container), (&mut spec, pod)] {
        target.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    spec["containers"] = json!([first]);
    json!({
        "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeWorkload",
        "metadata": { "name": "game", "namespace": namespace }, "spec": { "template": { "spec": spec } },
    })
    .to_string()
}

#[test]
fn an_agent_writes_of_its_own_node_only_and_the_accounts_may_no_more_than_they_need() {
    let cluster = Cluster::start().with_nodes(&["node-1", "node-2"]);
    let agent = cluster.account("lamina-system", "lamina-agent", Some("node-1"));
    let report = |name: &str| {
        format!("apiVersion: lamina.dev/v1alpha1\nkind: NodeReport\nmetadata: {{ name: {name} }}\nspec: {{}}\n")
    };
    let lease = |name: &str| {
        format!(
            "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{ name: {name}, namespace: lamina-system }}\nspec: {{ holderIdentity: {name} }}\n"
        )
    };
    let create = |document: &str| cluster.kubectl_as(&agent, &["create", "-f", "-"], document);
    let own = create(&report("node-1"));
    assert_eq!(own.status, 0, "{}", own.err);
    assert_eq!(create(&lease("node-1")).status, 0);
    for (document, why) in [
        (report("node-2"), "node node-1 may write only the one of that name"),
        (lease("node-2"), "node node-1 may write only the one of that name"),
        (lease("lamina-controller"), "may write only the one of that name"),
    ] {
        let said = create(&document);
        assert!(said.status != 0 && said.err.contains(why), "{document}: {}", said.err);
    }
    // It reports, and assigns nothing to itself.
    let status = |name: &str| {
        let document = json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": name },
            "status": { "agentVersion": "x" },
        });
        let args = ["apply", "--server-side", "--subresource=status", "--validate=ignore", "-f", "-"];
        cluster.kubectl_as(&agent, &args, &document.to_string())
    };
    cluster.apply(&report("node-2"));
    let said = status("node-1");
    assert_eq!(said.status, 0, "{}", said.err);
    let other = status("node-2");
    assert!(other.err.contains("may write only the one of that name"), "{}", other.err);
    let assigned = r#"{"spec":{"assignments":[{"namespace":"a","name":"b","revision":"c"}]}}"#;
    let said = cluster.kubectl_as(&agent, &["patch", "nrep", "node-1", "--type=merge", "-p", assigned], "");
    assert!(said.err.contains("forbidden"), "{}", said.err);
    let unbound = cluster.account("lamina-system", "lamina-agent", None);
    cluster.ok(&["delete", "nrep", "node-1"]);
    let said = cluster.kubectl_as(&unbound, &["create", "-f", "-"], &report("node-1"));
    assert!(said.err.contains("names no node"), "{}", said.err);

    let controller = cluster.account("lamina-system", "lamina-controller", None);
    for (account, verb, what, namespace, may) in [
        (&agent, "list", "nodeworkloads.lamina.dev", "default", "yes"),
        (&agent, "create", "nodeworkloads.lamina.dev", "default", "no"),
        (&agent, "update", "nodereports.lamina.dev", "", "no"),
        (&agent, "get", "secrets", "default", "no"),
        (&agent, "list", "nodes", "", "no"),
        (&agent, "list", "pods", "default", "no"),
        (&controller, "update", "nodereports.lamina.dev", "", "yes"),
        (&controller, "create", "nodeworkloads.lamina.dev", "default", "no"),
        (&controller, "get", "secrets", "default", "no"),
        (&controller, "get", "configmaps", "default", "no"),
        (&controller, "create", "pods", "default", "no"),
    ] {
        let mut args = vec!["auth", "can-i", verb, what];
        if !namespace.is_empty() {
            args.extend(["-n", namespace]);
        }
        let said = cluster.kubectl_as(account, &args, "");
        assert_eq!(said.out.trim(), may, "{} {verb} {what}: {}", account.display(), said.err);
    }
}

#[test]
fn a_workload_may_do_what_the_pod_security_level_of_its_namespace_lets_it() {
    let cluster = Cluster::start().with_nodes(&[]);
    for level in ["baseline", "restricted"] {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {level}, labels: {{ pod-security.kubernetes.io/enforce: {level} }} }}\n"
        ));
    }
    let dry = |document: &str| cluster.kubectl(&["apply", "--dry-run=server", "-f", "-"], document);
    let context = |context: Value| json!({ "securityContext": context });
    for (pod, container, why) in [
        (json!({ "hostNetwork": true }), json!({}), "hostNetwork, hostPID, hostIPC"),
        (json!({ "hostPID": true }), json!({}), "hostNetwork, hostPID, hostIPC"),
        (json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }] }), json!({}), "hostPath"),
        (json!({}), context(json!({ "privileged": true })), "privileged"),
        (json!({}), context(json!({ "capabilities": { "add": ["SYS_ADMIN"] } })), "capabilities.add"),
        (json!({}), json!({ "ports": [{ "containerPort": 80, "hostPort": 80 }] }), "hostPort"),
        (json!({}), context(json!({ "procMount": "Unmasked" })), "procMount"),
        (json!({}), context(json!({ "seccompProfile": { "type": "Unconfined" } })), "Unconfined"),
        (context(json!({ "seccompProfile": { "type": "Unconfined" } })), json!({}), "Unconfined"),
    ] {
        let said = dry(&workload("baseline", &pod, &container));
        assert!(said.status != 0 && said.err.contains(why), "{pod} {container}: {}{}", said.out, said.err);
        let said = dry(&workload("default", &pod, &container));
        assert_eq!(said.status, 0, "no level is privileged: {pod} {container}: {}", said.err);
    }
    assert_eq!(dry(&workload("baseline", &json!({}), &json!({}))).status, 0);
    let good = json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let said =
        dry(&workload("restricted", &json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }), &context(good.clone())));
    assert_eq!(said.status, 0, "{}", said.err);
    for (field, value, why) in [
        ("runAsNonRoot", json!(null), "runAsNonRoot"),
        ("allowPrivilegeEscalation", json!(true), "allowPrivilegeEscalation"),
        ("capabilities", json!({ "drop": ["KILL"] }), "capabilities.drop"),
        ("capabilities", json!({ "drop": ["ALL"], "add": ["CHOWN"] }), "capabilities.add"),
        ("seccompProfile", json!(null), "seccompProfile"),
    ] {
        let mut bad = good.clone();
        if value.is_null() {
            bad.as_object_mut().unwrap().remove(field);
        } else {
            bad[field] = value;
        }
        let said = dry(&workload("restricted", &json!({}), &context(bad.clone())));
        assert!(said.status != 0 && said.err.contains(why), "{bad}: {}{}", said.out, said.err);
    }
    let nfs = json!({ "volumes": [{ "name": "v", "nfs": { "server": "s", "path": "/" } }] });
    assert!(dry(&workload("restricted", &nfs, &context(good))).err.contains("kinds beyond"));
}

#[test]
fn everything_shipped_is_taken_as_it_is() {
    let cluster = Cluster::start().with_nodes(&[]);
    let all = cluster.ok(&[
        "get",
        "daemonset,deployment,poddisruptionbudget,serviceaccount",
        "-n",
        "lamina-system",
        "-o",
        "name",
    ]);
    for name in ["daemonset.apps/lamina-agent", "deployment.apps/lamina-controller", "serviceaccount/lamina-agent"] {
        assert!(all.contains(name), "{all}");
    }
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples/nodeworkload.yaml");
    cluster.ok(&["apply", "--validate=strict", "-f", example.to_str().unwrap()]);
    // What the controller is, its own level lets it be.
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: strict, labels: { pod-security.kubernetes.io/enforce: restricted } }\n");
    let deployment = cluster.get(&["deployment", "lamina-controller", "-n", "lamina-system"]);
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "controller".into();
    pod["metadata"]["namespace"] = "strict".into();
    pod["spec"]["serviceAccountName"] = "default".into();
    pod["spec"].as_object_mut().unwrap().remove("priorityClassName");
    let said = cluster.kubectl(&["create", "--dry-run=server", "-f", "-"], &pod.to_string());
    assert_eq!(said.status, 0, "{}", said.err);
}
