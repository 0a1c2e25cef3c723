//! Whole manifests, good and bad, and what is said of them.

use super::*;

fn problems(text: &str) -> Vec<String> {
    parse("web.yaml", text.as_bytes()).problems.iter().map(ToString::to_string).collect()
}

const GOOD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: app
    image: web:1
    env: [{name: A, value: \"1\"}]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    configMap: {name: c, defaultMode: 0644}
";

#[test]
fn a_good_pod_is_read() {
    let parsed = parse("web.yaml", GOOD.as_bytes());
    assert_eq!(parsed.problems, []);
    let Object::Pod(pod) = &parsed.documents[0].object else { panic!() };
    let mode = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].config_map.as_ref().unwrap().default_mode;
    assert_eq!(mode, Some(0o644));
    assert_eq!(parsed.documents[0].object.key().to_string(), "Pod default/web");
}

#[test]
fn a_problem_names_file_object_path_and_reason() {
    let text = GOOD.replace("image: web:1", "image: web:1\n    volumeDevices: [{name: x, devicePath: /dev/x}]");
    assert_eq!(
        problems(&text),
        ["web.yaml: Pod default/web: spec.containers[0].volumeDevices: raw block devices are not supported"]
    );
    assert_eq!(
        problems(&GOOD.replace("image:", "imagee:")),
        ["web.yaml: Pod default/web: spec.containers[0].imagee: is not a known field",]
    );
    assert_eq!(
        problems(&GOOD.replace("value: \"1\"", "value: 1")),
        ["web.yaml: Pod default/web: spec.containers[0].env[0].value: must be a string, not a whole number"]
    );
}

#[test]
fn one_bad_document_does_not_hurt_the_others() {
    let text = format!(
        "{GOOD}\n---\nkind: Pod\n---\napiVersion: v1\nkind: Widget\nmetadata: {{name: w}}\n---\n- 1\n---\na: 1\na: 2\n---\n{}",
        GOOD.replace("name: web", "name: two")
    );
    let parsed = parse("web.yaml", text.as_bytes());
    let names: Vec<_> = parsed.documents.iter().map(|d| (d.index, d.object.key().name)).collect();
    assert_eq!(names, [(1, "web".to_owned()), (6, "two".to_owned())]);
    let problems: Vec<_> = parsed.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "web.yaml: document 2: apiVersion: must be given",
            "web.yaml: Widget default/w: the kind v1 Widget is not supported",
            "web.yaml: document 4: must be a map with apiVersion and kind",
            "web.yaml: document 5: has the key \"a\" twice (line 25)",
        ]
    );
}

#[test]
fn a_text_that_breaks_off_gives_nothing() {
    let text = format!("{GOOD}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: two");
    let parsed = parse("web.yaml", text.as_bytes());
    assert!(parsed.documents.is_empty());
    assert_eq!(parsed.problems.len(), 1);
}

#[test]
fn lists_are_read_as_their_parts_and_json_too() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}},
        {"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}, "data": {"k": "aGk="}, "stringData": {"l": "x"}}
        ]},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "svc"}}
    ]}"#;
    let parsed = parse("l.json", text.as_bytes());
    let keys: Vec<_> = parsed.documents.iter().map(|d| d.object.key().to_string()).collect();
    assert_eq!(keys, ["ConfigMap default/a", "Secret default/b", "Ignored default/Namespace/ns"]);
    let Object::Secret(secret) = &parsed.documents[1].object else { panic!() };
    let data = secret.data.as_ref().unwrap();
    assert_eq!((data["k"].0.as_slice(), data["l"].0.as_slice()), (&b"hi"[..], &b"x"[..]));
    assert_eq!(parsed.problems[0].to_string(), "l.json: Service default/svc: spec: must be given");
}

#[test]
fn a_kind_of_another_version_is_named() {
    assert_eq!(
        problems("apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: d}\n"),
        ["web.yaml: Deployment default/d: apiVersion: must be apps/v1 for a Deployment"]
    );
}

#[test]
fn the_first_of_two_documents_of_one_object_counts() {
    let parsed = parse("web.yaml", format!("{GOOD}\n---\n{}", GOOD.replace("web:1", "web:2")).as_bytes());
    assert_eq!(parsed.documents.len(), 1);
    assert_eq!(
        parsed.problems[0].to_string(),
        "web.yaml: Pod default/web: is in this file twice; document 1 counts, document 2 does not"
    );
}

#[test]
fn no_problem_repeats_a_secret() {
    for text in [
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: CANARY!}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: CANARY\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: [CANARY]}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: !x CANARY}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: \"CANARY}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: CANARY: x}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nimmutable: CANARY\n",
    ] {
        let said = problems(text);
        assert!(!said.is_empty() && !said.iter().any(|s| s.contains("CANARY")), "{text}: {said:?}");
    }
}

#[test]
fn a_nul_in_a_pod_is_refused() {
    let said = problems(&GOOD.replace("value: \"1\"", "value: \"a\\0b\""));
    assert_eq!(said, ["web.yaml: Pod default/web: spec.containers[0].env[0].value: must not contain a NUL character"]);
}

#[test]
fn kinds_are_read_as_people_write_them() {
    assert_eq!("deploy".parse(), Ok(Kind::Deployment));
    assert_eq!("Pods".parse(), Ok(Kind::Pod));
    assert!("widget".parse::<Kind>().is_err());
}

#[test]
fn a_claim_is_read_and_what_is_wrong_with_it_is_named_by_path() {
    let parsed = parse(
        "c.yaml",
        b"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec:\n  storageClassName: fast\n  \
          accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n",
    );
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    assert_eq!(parsed.documents[0].ignored, ["spec.storageClassName"]);
    let Object::PersistentVolumeClaim(claim) = &parsed.documents[0].object else { panic!() };
    assert_eq!(crate::api::claim::capacity(claim), Some(1 << 30));

    let parsed = parse(
        "c.yaml",
        br#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "annotations": {"lamina.dev/reclaim-policy": "Recycle"}},
            "spec": {"accessModes": ["ReadWriteOncePod", "Write"], "volumeMode": "Block", "volumeName": "x",
                "resources": {"requests": {"storage": "0", "cpu": "1"}}}}"#,
    );
    let said: Vec<String> = parsed.problems.iter().map(|p| format!("{}: {}", p.path, p.reason)).collect();
    assert_eq!(
        said,
        [
            "spec.volumeMode: raw block devices are not supported",
            "spec.volumeName: not supported: each claim has a volume of its own, and there are no others to choose from",
            "metadata.annotations[\"lamina.dev/reclaim-policy\"]: must be one of Delete, Retain",
            "spec.accessModes[1]: must be one of ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod",
            "spec.accessModes: ReadWriteOncePod must be the only one",
            "spec.resources.requests.storage: must be greater than 0",
            "spec.resources.requests[\"cpu\"]: only storage can be asked for",
        ]
    );
}
