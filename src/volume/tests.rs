//! Volumes as a container sees them.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::LazyLock;

use super::*;

fn volume(json: serde_json::Value) -> Volume {
    serde_json::from_value(json).unwrap()
}

fn config_map(json: serde_json::Value) -> BTreeMap<String, Arc<ConfigMap>> {
    let map: ConfigMap = serde_json::from_value(json).unwrap();
    BTreeMap::from([(map.metadata.name.clone().unwrap(), Arc::new(map))])
}

fn context<'a>(
    directory: &'a Path,
    config_maps: &'a BTreeMap<String, Arc<ConfigMap>>,
    secrets: &'a BTreeMap<String, Arc<Secret>>,
) -> Context<'a> {
    static POD: LazyLock<Pod> = LazyLock::new(|| {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "say \"hi\"\n"}},
            "spec": {"containers": [
                {"name": "app", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "free"}
            ]}
        }))
        .unwrap()
    });
    static NODE: LazyLock<NodeFacts> =
        LazyLock::new(|| NodeFacts { cpu_milli: 4000, memory: 8 << 30, ..NodeFacts::default() });
    static UID: LazyLock<PodUid> = LazyLock::new(PodUid::random);
    static CLAIMS: LazyLock<claim::Claims> = LazyLock::new(claim::Claims::none);
    static DECLARED: BTreeMap<String, claim::Declared> = BTreeMap::new();
    Context {
        directory,
        config_maps,
        secrets,
        claims: &CLAIMS,
        declared: &DECLARED,
        pod: &POD,
        uid: &UID,
        node: &NODE,
        fs_group: None,
        group_on_mismatch: false,
    }
}

#[test]
fn a_config_map_volume_changes_by_one_rename_and_keeps_the_data_layout() {
    let dir = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let volume = volume(serde_json::json!({"name": "v", "configMap": {"name": "c", "defaultMode": 0o640}}));
    let old = config_map(serde_json::json!({"metadata": {"name": "c"}, "data": {"a": "1", "gone": "x"}}));
    let Source::Mount(mount) = prepare(&volume, &context(dir.path(), &old, &none)).unwrap() else { panic!() };
    let root = mount.proc_path();
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "1");
    assert_eq!(std::fs::read_link(root.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(std::fs::metadata(root.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
    let before = std::fs::read_link(root.join("..data")).unwrap();

    assert!(
        !refresh(&volume, &mount, &context(dir.path(), &old, &none)).unwrap(),
        "the same content is not written again"
    );
    assert_eq!(std::fs::read_link(root.join("..data")).unwrap(), before);

    let new = config_map(serde_json::json!({"metadata": {"name": "c"}, "data": {"a": "2", "b": "3"}}));
    assert!(refresh(&volume, &mount, &context(dir.path(), &new, &none)).unwrap());
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "2");
    let mut names: Vec<_> = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 4, "one data directory, its link, a and b: {names:?}");
}

#[test]
fn items_choose_keys_paths_and_modes_and_cannot_leave_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let maps = config_map(serde_json::json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}}));
    let with = |items: serde_json::Value| {
        let volume = volume(serde_json::json!({"name": "v", "configMap": {"name": "c", "items": items}}));
        projection::files(&volume, &context(dir.path(), &maps, &none))
    };
    let chosen = with(serde_json::json!([{"key": "b", "path": "x/y", "mode": 0o600}])).unwrap().unwrap();
    assert_eq!(chosen.keys().collect::<Vec<_>>(), ["x/y"]);
    assert_eq!(chosen["x/y"].mode, 0o600);
    assert!(matches!(with(serde_json::json!([{"key": "c", "path": "x"}])), Err(Error::MissingKey { .. })));
    for bad in ["../x", "/x", "a/../../x", "..data", ""] {
        assert!(matches!(with(serde_json::json!([{"key": "a", "path": bad}])), Err(Error::Path { .. })), "{bad}");
    }
}

#[test]
fn a_missing_secret_is_named_unless_it_is_optional() {
    let dir = tempfile::tempdir().unwrap();
    let (maps, secrets) = (BTreeMap::new(), BTreeMap::new());
    let context = context(dir.path(), &maps, &secrets);
    let error =
        prepare(&volume(serde_json::json!({"name": "v", "secret": {"secretName": "s"}})), &context).unwrap_err();
    assert!(error.awaits_change());
    assert_eq!(error.to_string(), "volume v: Secret \"s\" not found");
    let optional = volume(serde_json::json!({"name": "v", "secret": {"secretName": "s", "optional": true}}));
    assert!(matches!(prepare(&optional, &context), Ok(Source::Mount(_))));
}

#[test]
fn an_empty_dir_is_for_everyone_and_keeps_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let (maps, secrets) = (BTreeMap::new(), BTreeMap::new());
    let mut context = context(dir.path(), &maps, &secrets);
    context.fs_group = Some(1234);
    let volume = volume(serde_json::json!({"name": "v", "emptyDir": {}}));
    let Source::Directory(path) = prepare(&volume, &context).unwrap() else { panic!() };
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o7777, metadata.gid()), (0o2777, 1234));
    std::fs::write(path.join("kept"), "").unwrap();
    prepare(&volume, &context).unwrap();
    assert!(path.join("kept").exists());
}

#[test]
fn an_empty_dir_in_memory_has_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let (maps, secrets) = (BTreeMap::new(), BTreeMap::new());
    let volume = volume(serde_json::json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "64Ki"}}));
    let Source::Mount(mount) = prepare(&volume, &context(dir.path(), &maps, &secrets)).unwrap() else { panic!() };
    assert!(std::fs::write(mount.proc_path().join("f"), vec![0; 1 << 15]).is_ok());
    assert!(std::fs::write(mount.proc_path().join("g"), vec![0; 1 << 16]).is_err());
}

#[test]
fn a_downward_volume_shows_labels_as_quoted_lines_and_resources_divided_and_rounded_up() {
    let dir = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let secrets = BTreeMap::new();
    let field = |path: &str, field: &str| serde_json::json!({"path": path, "fieldRef": {"fieldPath": field}});
    let of = |path: &str, container: &str, resource: &str, divisor: &str| {
        let r = serde_json::json!({"containerName": container, "resource": resource, "divisor": divisor});
        serde_json::json!({"path": path, "resourceFieldRef": r})
    };
    let volume = volume(serde_json::json!({"name": "v", "downwardAPI": {"items": [
        field("labels", "metadata.labels"), field("one", "metadata.labels['b']"), field("none", "metadata.annotations"),
        field("d/name", "metadata.name"), field("uid", "metadata.uid"), field("namespace", "metadata.namespace"),
        of("cpu", "app", "limits.cpu", ""), of("milli", "app", "requests.cpu", "1m"),
        of("memory", "app", "limits.memory", "1Mi"), of("all", "free", "limits.memory", "1Gi"),
        of("cores", "free", "limits.cpu", "1"),
    ]}}));
    let files = projection::files(&volume, &context(dir.path(), &none, &secrets)).unwrap().unwrap();
    let shown: Vec<(&str, &str)> =
        files.iter().map(|(path, f)| (path.as_str(), std::str::from_utf8(&f.content).unwrap())).collect();
    assert_eq!(
        shown,
        [
            ("all", "8"),
            ("cores", "4"),
            ("cpu", "2"),
            ("d/name", "p"),
            ("labels", "a=\"say \\\"hi\\\"\\n\"\nb=\"2\""),
            ("memory", "64"),
            ("milli", "250"),
            ("namespace", "n"),
            ("none", ""),
            ("one", "2"),
            ("uid", "u"),
        ]
    );
}

#[test]
fn a_projected_volume_joins_its_sources_and_the_later_one_has_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let maps = config_map(serde_json::json!({"metadata": {"name": "c"}, "data": {"a": "map", "b": "map"}}));
    let secret: Secret = serde_json::from_value(serde_json::json!({"data": {"a": "c2VjcmV0"}})).unwrap();
    let secrets = BTreeMap::from([("s".to_owned(), Arc::new(secret))]);
    let volume = volume(
        serde_json::json!({"name": "v", "projected": {"defaultMode": 0o400, "defaultUser": 7, "sources": [
            {"configMap": {"name": "c"}},
            {"secret": {"name": "s"}},
            {"secret": {"name": "not-there", "optional": true}},
            {"downwardAPI": {"items": [{"path": "b/name", "mode": 0o444, "user": 9, "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}}),
    );
    let Source::Mount(mount) = prepare(&volume, &context(dir.path(), &maps, &secrets)).unwrap() else { panic!() };
    let at = |path: &str| mount.proc_path().join(path);
    assert_eq!(std::fs::read_to_string(at("a")).unwrap(), "secret");
    assert_eq!(std::fs::read_to_string(at("b/name")).unwrap(), "p");
    let seen = |path: &str| std::fs::metadata(at(path)).map(|m| (m.permissions().mode() & 0o777, m.uid())).unwrap();
    assert_eq!((seen("a"), seen("b/name")), ((0o400, 7), (0o444, 9)));
}

#[test]
fn a_directory_made_for_a_sub_path_outlives_a_refresh() {
    let dir = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let volume = volume(serde_json::json!({"name": "v", "configMap": {"name": "c"}}));
    let map = |value: &str| config_map(serde_json::json!({"metadata": {"name": "c"}, "data": {"a": value}}));
    let Source::Mount(mount) = prepare(&volume, &context(dir.path(), &map("1"), &none)).unwrap() else { panic!() };
    std::fs::create_dir(mount.proc_path().join("made")).unwrap();
    assert!(refresh(&volume, &mount, &context(dir.path(), &map("2"), &none)).unwrap());
    assert!(mount.proc_path().join("made").is_dir());
}
