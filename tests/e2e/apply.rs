//! Applying: what it would come to, and what an earlier apply of the same set leaves to remove.

use serde_json::Value;

use crate::support::node::Node;
use crate::support::registry::Registry;

/// A deployment of two pods, and a pod beside it.
fn web(image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: web }}\nspec:\n  replicas: 2\n  selector: {{ matchLabels: {{ a: b }} }}\n  \
         template:\n    metadata: {{ labels: {{ a: b }} }}\n    spec:\n      terminationGracePeriodSeconds: 0\n      {more}\n      containers:\n      \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
    )
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, \"1000\"] }}\n"
    )
}

/// Everything of a plan that is about pods.
fn moves(plan: &Value) -> String {
    let rows = |key: &str| plan[key].as_array().unwrap().clone();
    let names = |key: &str| rows(key).iter().map(|n| n.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ");
    let replaced = |key: &str| {
        let of = |r: &Value| {
            let fields = r["fields"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect::<Vec<_>>();
            format!("{} {} ({})", r["pod"].as_str().unwrap(), r["containers"], fields.join(","))
        };
        rows(key).iter().map(of).collect::<Vec<_>>().join(" ")
    };
    format!(
        "start[{}] replace[{}] change[{}] stop[{}]",
        names("start"),
        replaced("replace"),
        replaced("change"),
        names("stop")
    )
}

#[test]
fn a_plan_says_what_an_apply_then_does_and_changes_nothing() {
    let node = Node::start();
    let registry = Registry::start();
    let (mut layout, _) = node.busybox();
    let names = registry.versions(&mut layout, "web");
    let file = node.path("set.yaml");
    let path = file.to_str().unwrap().to_owned();
    let plan = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut line = vec!["apply", "-f", path.as_str(), "--dry-run"];
        line.extend(more);
        node.json(&line)
    };
    let first = format!("{}---\n{}", web(&names[0], ""), pod("lone", &names[0]));

    let before = plan(&first, &[]);
    assert_eq!(
        (before["kind"].as_str(), before["objects"][0]["action"].as_str()),
        (Some("ApplyPlan"), Some("created"))
    );
    assert_eq!(moves(&before), "start[default/lone default/web-0 default/web-1] replace[] change[] stop[]");
    assert_eq!((&before["fetch"][0]["layers"], &before["fetch"][0]["missing"]), (&3.into(), &3.into()), "{before}");
    assert!(before["fetchBytes"].as_u64().unwrap() > 100_000, "{before}");
    assert!(node.layers().is_empty() && node.json(&["get", "pods"])["items"].as_array().unwrap().is_empty());

    node.ok(&["apply", "-f", &path, "--wait"]);
    assert_eq!(moves(&plan(&first, &[])), "start[] replace[] change[] stop[]");
    // Another image: both pods of the deployment, one layer to fetch, nothing to free while another pod runs the old one.
    let second = format!("{}---\n{}", web(&names[1], ""), pod("lone", &names[0]));
    let next = plan(&second, &[]);
    let by = "[\"app\"] (spec.containers{app}.image)";
    assert_eq!(moves(&next), format!("start[] replace[default/web-0 {by} default/web-1 {by}] change[] stop[]"));
    assert_eq!((&next["fetch"][0]["missing"], &next["free"]["layers"]), (&1.into(), &0.into()), "{next}");
    // The pod goes, too: its own layer goes with it, those that both images share stay.
    let pruned = plan(&web(&names[1], ""), &["--prune"]);
    assert_eq!(pruned["stop"][0], "default/lone");
    assert_eq!(
        (&pruned["objects"][1]["action"], &pruned["free"]["layers"]),
        (&"deleted".into(), &1.into()),
        "{pruned}"
    );
    assert_eq!(pruned["free"]["images"][0], names[0].as_str());
    // What a container cannot take on replaces the pod; what it can, does not.
    let host = plan(&web(&names[0], "hostNetwork: true"), &[]);
    assert_eq!(host["replace"][0]["fields"][0], "spec.hostNetwork", "{host}");
    assert_eq!(host["replace"][0]["containers"], Value::Array(Vec::new()));
    let label = plan(&pod("lone", &names[0]).replace("name: lone", "name: lone, labels: { tier: front }"), &[]);
    assert_eq!(moves(&label), "start[] replace[] change[default/lone [] (metadata.labels)] stop[]");
    // A registry that does not answer makes it less exact, and fails nothing.
    let unknown = plan(&pod("other", "127.0.0.1:1/none:1"), &[]);
    assert!(unknown["fetch"][0]["problem"].as_str().unwrap().contains("127.0.0.1:1"), "{unknown}");
    // A person reads the same.
    std::fs::write(&file, web(&names[1], "")).unwrap();
    let text = node.ok(&["apply", "-f", &path, "--dry-run", "--prune"]);
    for line in [
        "pod/lone would be pruned",
        "1 of 3 layers",
        "container app: spec.containers{app}.image",
        "nothing was changed",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(node.pod("lone").is_some() && node.layers().len() == 3);

    node.ok(&["apply", "-f", &path, "--prune", "--wait"]);
    node.gone("lone");
    node.ok(&["rollout", "status", "deployment/web"]);
    assert_eq!(moves(&plan(&web(&names[1], ""), &[])), "start[] replace[] change[] stop[]");
    node.ok(&["delete", "deployment/web"]);
    node.finish();
}

#[test]
fn prune_removes_what_the_same_set_had_and_nothing_else() {
    let node = Node::start();
    let (_, image) = node.busybox();
    let file = node.path("set.yaml");
    let path = file.to_str().unwrap().to_owned();
    let apply = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let mut line = vec!["apply", "-f", path.as_str()];
        line.extend(more);
        node.ok(&line)
    };
    apply(&pod("of-the-file", &image), &[]);
    apply(&format!("{}---\n{}", pod("one", &image), pod("two", &image)), &["--applyset", "mine"]);
    node.manifest("other.yaml", &pod("declared", &image));
    node.running("declared");
    let said = apply(&pod("two", &image), &["--applyset", "mine", "--prune"]);
    assert_eq!(said, "pod/two unchanged\npod/one deleted\n");
    node.gone("one");
    for stays in ["of-the-file", "two", "declared"] {
        assert!(node.pod(stays).is_some(), "{stays}");
    }
    // Standard input alone is no name.
    let refused = node.lamina(&["apply", "-f", "-", "--prune"]);
    assert_eq!((refused.status, refused.err.contains("--applyset")), (2, true), "{}", refused.err);
    // What a directory declares is not changed by a file of the same name, and the plan says so.
    std::fs::write(&file, pod("declared", "other:1")).unwrap();
    let text = node.ok(&["apply", "-f", &path, "--dry-run"]);
    assert!(text.contains("other.yaml declares it, and comes first") && text.contains("no pod would change"), "{text}");
    node.ok(&["delete", "pod/of-the-file", "pod/two"]);
    node.finish();
}
