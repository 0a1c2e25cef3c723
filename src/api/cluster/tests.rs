//! Types and definitions of the custom resources.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::definition::definitions;
use super::*;

fn spec(value: Value) -> NodeWorkloadSpec {
    serde_json::from_value(value).unwrap()
}

fn definition(kind: &str) -> Value {
    let found = definitions().into_iter().find(|d| d.spec.names.kind == kind).unwrap();
    serde_json::to_value(found).unwrap()
}

fn schema(kind: &str) -> Value {
    definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn percentages_of_nodes_are_rounded_up_and_one_may_always_go() {
    let limit = |value: Value| {
        spec(json!({ "template": {}, "updateStrategy": { "rollingUpdate": { "maxUnavailable": value } } }))
    };
    assert_eq!(max_unavailable(&spec(json!({ "template": {} })), 40), 1);
    for (value, nodes, most) in [
        (json!(3), 40, 3),
        (json!("10%"), 40, 4),
        (json!("10%"), 41, 5),
        (json!("1%"), 3, 1),
        (json!("100%"), 3, 3),
        (json!(0), 3, 1),
        (json!("0%"), 0, 1),
    ] {
        assert_eq!(max_unavailable(&limit(value.clone()), nodes), most, "{value} of {nodes}");
    }
}

#[test]
fn a_template_becomes_a_pod_or_says_what_is_wrong_by_its_path() {
    let template = Template(json!({
        "metadata": { "labels": { "app": "game" }, "creationTimestamp": null },
        "spec": { "containers": [{ "name": "app", "image": "game:1", "resources": { "limits": { "cpu": 1 } } }] },
    }));
    let (pod, _) = template.pod("arena", "game").unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("game"));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("arena"));
    let limits = pod.spec.unwrap().containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!(limits["cpu"].0, "1", "a number is a quantity");

    for (template, path) in [
        (
            json!({ "spec": { "containers": [{ "name": "a", "image": "x", "bogus": 1 }] } }),
            "spec.template.spec.containers[0].bogus",
        ),
        (json!({ "spec": { "containers": [] } }), "spec.template.spec.containers"),
        (json!({ "status": {} }), "spec.template.status"),
        (json!("x"), "spec.template"),
        (json!({ "metadata": [], "spec": {} }), "spec.template.metadata"),
    ] {
        let problems = Template(template.clone()).pod("arena", "game").unwrap_err();
        assert_eq!(problems[0].path, path, "{template}: {problems:?}");
        assert_eq!(problems[0].object.as_deref(), Some("NodeWorkload arena/game"));
    }
}

#[test]
fn the_files_are_what_the_types_say() {
    for (definition, (plural, kept)) in definitions().into_iter().zip(DEFINITIONS) {
        assert_eq!(definition.spec.names.plural, plural);
        let made = format!("---\n{}", serde_yaml::to_string(&serde_json::to_value(&definition).unwrap()).unwrap());
        if std::env::var_os("LAMINA_UPDATE").is_some() {
            let file = format!("{}/manifests/crds/{plural}.yaml", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(file, &made).unwrap();
        } else {
            assert!(
                made == kept,
                "manifests/crds/{plural}.yaml is not what the types say; LAMINA_UPDATE=1 writes it anew"
            );
        }
    }
}

#[test]
fn definitions_are_small_enough_for_kubectl_apply_and_say_nothing_of_cores_fields() {
    for definition in definitions() {
        let text = serde_json::to_string(&definition).unwrap();
        assert!(text.len() < 200_000, "{} has {} bytes", definition.spec.names.kind, text.len());
    }
    let schema = schema("NodeWorkload");
    let template = &schema["properties"]["spec"]["properties"]["template"];
    assert!(template["description"].is_string(), "the template itself is described");
    assert!(!template["properties"].to_string().contains("\"description\""));
}

#[test]
fn lists_of_a_template_are_maps_by_their_keys() {
    let schema = schema("NodeWorkload");
    let pod = &schema["properties"]["spec"]["properties"]["template"]["properties"]["spec"]["properties"];
    for (list, keys) in [("containers", json!(["name"])), ("volumes", json!(["name"])), ("hostAliases", json!(["ip"]))]
    {
        assert_eq!(pod[list]["x-kubernetes-list-type"], "map", "{list}");
        assert_eq!(pod[list]["x-kubernetes-list-map-keys"], keys, "{list}");
    }
    let container = &pod["containers"]["items"]["properties"];
    assert_eq!(container["ports"]["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(container["ports"]["items"]["properties"]["protocol"]["default"], "TCP");
    assert_eq!(container["command"]["x-kubernetes-list-type"], "atomic");
    assert_eq!(
        container["resources"]["properties"]["limits"]["additionalProperties"]["x-kubernetes-int-or-string"],
        true
    );
    assert_eq!(pod["containers"]["minItems"], 1);
}

#[test]
fn kinds_have_what_kubectl_needs() {
    let workload = definition("NodeWorkload");
    assert_eq!(workload["spec"]["names"]["shortNames"], json!(["nwl"]));
    assert_eq!(workload["spec"]["names"]["categories"], json!(["lamina"]));
    assert_eq!(workload["spec"]["scope"], "Namespaced");
    assert!(workload["spec"]["versions"][0]["subresources"]["status"].is_object());
    assert!(workload["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap().len() >= 6);
    assert_eq!(workload["spec"]["versions"][0]["selectableFields"][0]["jsonPath"], ".spec.paused");
    let report = definition("NodeReport");
    assert_eq!(report["spec"]["scope"], "Cluster");
    assert_eq!(report["spec"]["names"]["shortNames"], json!(["nrep"]));
    let status = &report["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    assert_eq!(status["pods"]["x-kubernetes-list-map-keys"], json!(["uid"]));
}

proptest! {
    #[test]
    fn a_revision_is_named_by_what_the_template_says(image in "[a-z]{1,9}", other in "[a-z]{1,9}") {
        let template = |image: &str| Template(json!({ "spec": { "containers": [{ "name": "a", "image": image }] } }));
        let turned = Template(serde_json::from_str(&format!(
            r#"{{"spec":{{"containers":[{{"image":"{image}","name":"a"}}]}}}}"#
        )).unwrap());
        let first = revision("game", &template(&image), 0);
        prop_assert_eq!(&first.name, &revision("game", &turned, 0).name);
        prop_assert!(first.name.starts_with("game-") && first.name.len() == "game-".len() + NAME_LENGTH);
        prop_assert_ne!(&first.name, &revision("game", &template(&image), 1).name);
        if image != other {
            prop_assert_ne!(first.name, revision("game", &template(&other), 0).name);
        }
    }
}
