//! The CustomResourceDefinitions as kubectl and the API server see them.

use serde_json::json;

use crate::api_server::Cluster;
use crate::support::wait;

fn workload(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: lamina.dev/v1alpha1\nkind: NodeWorkload\nmetadata: {{ name: {name}, namespace: default }}\nspec:\n{spec}"
    )
}

const GOOD: &str = "  template:\n    spec:\n      containers:\n      - { name: app, image: game:1, ports: [{ containerPort: 80 }], resources: { limits: { cpu: 1 } } }\n";

#[test]
fn kubectl_lists_explains_merges_and_is_refused_what_cannot_be() {
    let cluster = Cluster::start().with_nodes(&[]);
    cluster.apply(&workload("game", GOOD));
    for name in ["nwl", "nodeworkloads", "lamina"] {
        let table = cluster.ok(&["get", name]);
        assert!(table.contains("game"), "{table}");
    }
    let table = cluster.ok(&["get", "nwl"]);
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "DESIRED", "UPDATED", "READY", "AVAILABLE", "STATUS", "AGE"]);
    assert!(cluster.ok(&["get", "nwl", "--field-selector", "spec.paused=true"]).is_empty());
    // The API server publishes a definition's schema a while after the definition is established.
    let explained = wait("the schema is published", || {
        let said = cluster.kubectl(&["explain", "nodeworkload.spec"], "");
        (said.status == 0).then_some(said.out)
    });
    for text in ["minReadySeconds", "choose the nodes", "revisionHistoryLimit"] {
        assert!(explained.contains(text), "{explained}");
    }

    // Another owner adds a container: lists are maps by their keys.
    let second = "  template:\n    spec:\n      containers:\n      - { name: helper, image: helper:1 }\n";
    let said =
        cluster.kubectl(&["apply", "--server-side", "--field-manager=other", "-f", "-"], &workload("game", second));
    assert_eq!(said.status, 0, "{}", said.err);
    let containers = &cluster.get(&["nwl", "game"])["spec"]["template"]["spec"]["containers"];
    let names: Vec<_> = containers.as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, [json!("app"), json!("helper")]);
    assert_eq!(containers[0]["ports"][0]["protocol"], "TCP", "the key of a list has its default");

    let pod = |more: &str| format!("  template:\n    spec:\n{more}      containers: [{{ name: a, image: b }}]\n");
    for (name, spec, why) in [
        ("x", "  template: { spec: { containers: [] } }\n".to_owned(), "should have at least 1 items"),
        ("x", pod("      restartPolicy: Never\n"), "must be Always"),
        ("x", pod("      activeDeadlineSeconds: 5\n"), "activeDeadlineSeconds: must not be set"),
        ("x", pod("      nodeName: node-7\n"), "nodeName: must not be set"),
        ("x", pod("      hostNetwork: true\n      hostUsers: false\n"), "must not be false with hostNetwork"),
        ("x", format!("{}  minReadySeconds: -1\n", pod("")), "minReadySeconds"),
        ("x", format!("{}  updateStrategy: {{ rollingUpdate: {{ maxUnavailable: 0 }} }}\n", pod("")), "at least 1"),
        ("x", format!("{}  updateStrategy: {{ rollingUpdate: {{ maxUnavailable: 0% }} }}\n", pod("")), "1% to 100%"),
        ("x", "  template: { spec: { containers: [{ image: b }] } }\n".to_owned(), "name"),
        ("x.y", pod(""), "DNS label"),
        ("a-name-that-is-much-too-long-to-have-a-revision-after-it", pod(""), "no more than 52"),
    ] {
        let said = cluster.kubectl(&["apply", "-f", "-"], &workload(name, &spec));
        assert_ne!(said.status, 0, "{spec} was taken");
        assert!(said.err.contains(why), "{spec}: {}", said.err);
    }
}
