//! The CustomResourceDefinitions: made from the types, kept as the files under `manifests/crds`, and those are what the
//! binary has. A test fails where they differ from the types (`LAMINA_UPDATE=1` writes them anew); what makes schemas of
//! types is some megabytes that no node needs.

#[cfg(test)]
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The definitions as YAML, by the plural names of their kinds, in the order in which they are printed.
pub const DEFINITIONS: [(&str, &str); 2] = [
    ("nodereports", include_str!("../../../manifests/crds/nodereports.yaml")),
    ("nodeworkloads", include_str!("../../../manifests/crds/nodeworkloads.yaml")),
];

/// The definitions, from the types.
#[cfg(test)]
pub(super) fn definitions() -> Vec<CustomResourceDefinition> {
    use kube::CustomResourceExt as _;

    let mut definitions = vec![super::NodeReport::crd(), super::NodeWorkload::crd()];
    for definition in &mut definitions {
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app.kubernetes.io/name".to_owned(), "lamina".to_owned());
    }
    definitions
}
