//! Which nodes a template chooses, as a DaemonSet's does: node selector, required node affinity, taints it tolerates.

use k8s_openapi::api::core::v1::{Node, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use serde::de::DeserializeOwned;

use super::Template;

/// Taints that a pod which is kept running tolerates without saying so, as with a DaemonSet.
const TOLERATED: [&str; 5] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
];
/// The same; this one says that the node takes no new pods of the scheduler's.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// The same, for pods in the host's network.
const NO_NETWORK: &str = "node.kubernetes.io/network-unavailable";

/// Whether the template chooses the node.
///
/// # Errors
/// Why not, in a few words.
pub fn chosen(template: &Template, node: &Node) -> Result<(), String> {
    let spec = template.0.get("spec");
    let field = |name: &str| spec.and_then(|spec| spec.get(name)).filter(|value| !value.is_null());
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    if let Some(selector) = field("nodeSelector").and_then(|s| s.as_object()) {
        for (key, value) in selector {
            if label(key) != value.as_str() {
                return Err(format!("it lacks the label {key} of the node selector"));
            }
        }
    }
    let affinity = field("affinity").and_then(|affinity| affinity.get("nodeAffinity"));
    if let Some(affinity) = affinity.filter(|a| !a.is_null()) {
        let affinity: NodeAffinity = read(affinity).ok_or("the node affinity cannot be read")?;
        if let Some(required) = affinity.required_during_scheduling_ignored_during_execution
            && !required.node_selector_terms.iter().any(|term| fits(term, node))
        {
            return Err("the required node affinity does not fit it".to_owned());
        }
    }
    let tolerations: Vec<Toleration> = match field("tolerations") {
        Some(tolerations) => read(tolerations).ok_or("the tolerations cannot be read")?,
        None => Vec::new(),
    };
    let host_network = field("hostNetwork").and_then(serde_json::Value::as_bool).unwrap_or(false);
    let of_all = |taint: &Taint| {
        TOLERATED.contains(&taint.key.as_str())
            || (taint.key == UNSCHEDULABLE && taint.effect == "NoSchedule")
            || (taint.key == NO_NETWORK && host_network)
    };
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    for taint in taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")) {
        if !of_all(taint) && !tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
            return Err(format!("it has the taint {}:{}, which is not tolerated", taint.key, taint.effect));
        }
    }
    Ok(())
}

fn read<T: DeserializeOwned>(value: &serde_json::Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

/// A term without requirements fits nothing.
fn fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
    let mut any = false;
    let all = expressions.map(|r| (r, label(&r.key))).chain(fields.map(|r| (r, field(&r.key))));
    for (requirement, value) in all {
        any = true;
        if !holds(requirement, value) {
            return false;
        }
    }
    any
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = || requirement.values.iter().flatten();
    let compared = |is: fn(i64, i64) -> bool| {
        let bound = values().next().and_then(|bound| bound.parse().ok());
        matches!((value.and_then(|v| v.parse().ok()), bound), (Some(value), Some(bound)) if is(value, bound))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values().any(|v| v == value)),
        "NotIn" => value.is_none_or(|value| values().all(|v| v != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.as_deref().unwrap_or_default().to_owned();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => key.is_empty() || key == taint.key,
        "Equal" | "" => key == taint.key && text(&toleration.value) == taint.value.as_deref().unwrap_or_default(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(labels: Value, taints: Value) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": "n1", "labels": labels }, "spec": { "taints": taints } }))
            .unwrap()
    }

    fn is(spec: Value, node: &Node) -> bool {
        chosen(&Template(json!({ "spec": spec })), node).is_ok()
    }

    #[test]
    fn selectors_and_affinity_choose_by_labels_and_name() {
        let n = node(json!({ "disk": "ssd", "cores": "8" }), json!([]));
        assert!(is(json!({}), &n));
        assert!(is(json!({ "nodeSelector": { "disk": "ssd" } }), &n));
        assert!(!is(json!({ "nodeSelector": { "disk": "hdd" } }), &n));
        assert!(!is(json!({ "nodeSelector": { "gpu": "" } }), &n));
        let affinity = |term: Value| {
            json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] }
            } } })
        };
        let expression = |key: &str, operator: &str, values: Value| {
            affinity(json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }))
        };
        for (key, operator, values, fits) in [
            ("disk", "In", json!(["ssd", "nvme"]), true),
            ("disk", "In", json!(["hdd"]), false),
            ("disk", "NotIn", json!(["hdd"]), true),
            ("gpu", "NotIn", json!(["a"]), true),
            ("gpu", "Exists", json!([]), false),
            ("gpu", "DoesNotExist", json!([]), true),
            ("cores", "Gt", json!(["4"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("disk", "Gt", json!(["1"]), false),
            ("disk", "Like", json!(["ssd"]), false),
        ] {
            assert_eq!(is(expression(key, operator, values.clone()), &n), fits, "{key} {operator} {values}");
        }
        let name = |name: &str| {
            affinity(json!({ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }))
        };
        assert!(is(name("n1"), &n) && !is(name("n2"), &n));
        assert!(!is(affinity(json!({})), &n), "a term without requirements fits nothing");
    }

    #[test]
    fn taints_keep_a_pod_away_unless_it_or_its_kind_tolerates_them() {
        let tainted =
            |key: &str, effect: &str| node(json!({}), json!([{ "key": key, "value": "v", "effect": effect }]));
        assert!(!is(json!({}), &tainted("gpu", "NoSchedule")));
        assert!(!is(json!({}), &tainted("gpu", "NoExecute")));
        assert!(is(json!({}), &tainted("gpu", "PreferNoSchedule")));
        for kept in [TOLERATED[0], TOLERATED[4]] {
            assert!(is(json!({}), &tainted(kept, "NoExecute")));
        }
        assert!(is(json!({}), &tainted(UNSCHEDULABLE, "NoSchedule")));
        assert!(!is(json!({}), &tainted(NO_NETWORK, "NoSchedule")));
        assert!(is(json!({ "hostNetwork": true }), &tainted(NO_NETWORK, "NoSchedule")));
        for (toleration, tolerated) in [
            (json!({ "operator": "Exists" }), true),
            (json!({ "key": "gpu", "operator": "Exists" }), true),
            (json!({ "key": "gpu", "value": "v" }), true),
            (json!({ "key": "gpu", "value": "w" }), false),
            (json!({ "key": "gpu", "operator": "Exists", "effect": "NoExecute" }), false),
            (json!({ "key": "other", "operator": "Exists" }), false),
        ] {
            let spec = json!({ "tolerations": [toleration] });
            assert_eq!(is(spec.clone(), &tainted("gpu", "NoSchedule")), tolerated, "{spec}");
        }
    }
}
