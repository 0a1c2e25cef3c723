//! Manifests in, specs out.

use k8s_openapi::api::core::v1::Pod;
use oci_spec::image::ImageConfiguration;

use super::*;
use crate::runtime::selinux::Labels;
use crate::sys::device::{Access, Kind, Rule};

fn pod(container: &str, pod_context: &str) -> Pod {
    let json = format!(
        r#"{{"metadata":{{"name":"p"}},"spec":{{"securityContext":{pod_context},"containers":[{{"name":"c","image":"i",{container}}}]}}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn image() -> ImageConfiguration {
    let json = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{
        "Entrypoint":["/entry"],"Cmd":["one","two"],"Env":["PATH=/image","LANG=C"],"WorkingDir":"/srv","User":"app:app"}}"#;
    serde_json::from_str(json).unwrap()
}

fn labels() -> Labels {
    Labels { process: Some("a:b:c:s0".to_owned()), file: "a:d:e:s0".to_owned() }
}

fn built(container: &str, pod_context: &str) -> Result<ContainerSpec, Error> {
    let pod = pod(container, pod_context);
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let env = [("LANG".to_owned(), "en".to_owned()), ("EXTRA".to_owned(), "x".to_owned())];
    build(&SpecInput {
        pod: &pod,
        container,
        image: &image(),
        env: &env,
        command: container.command.as_deref().unwrap_or_default(),
        args: container.args.as_deref().unwrap_or_default(),
        host_name: "p",
        node_memory: 16 << 30,
        localhost_seccomp: None,
        default_app_armor: Some("ours"),
        selinux: Some(&labels()),
    })
}

fn spec(container: &str) -> ContainerSpec {
    built(container, "{}").unwrap()
}

fn args(container: &str) -> Vec<String> {
    spec(container).oci.process().as_ref().unwrap().args().clone().unwrap()
}

fn names(spec: &ContainerSpec) -> Vec<String> {
    let process = spec.oci.process().as_ref().unwrap();
    let set = process.capabilities().as_ref().unwrap().effective().clone().unwrap();
    let mut names: Vec<String> = set.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn a_container_is_slowed_down_between_its_request_and_its_limit() {
    let high = |resources: serde_json::Value| {
        let container = serde_json::from_value(serde_json::json!({"name": "a", "resources": resources})).unwrap();
        super::memory_high(&container, 900).unwrap()
    };
    assert_eq!(high(serde_json::json!({"requests": {"memory": "20Mi"}, "limits": {"memory": "40Mi"}})), 38 << 20);
    assert_eq!(high(serde_json::json!({"requests": {"memory": "1"}, "limits": {"memory": "1Mi"}})), 942_080);
    for none in [
        serde_json::json!({"limits": {"memory": "40Mi"}}),
        serde_json::json!({"requests": {"memory": "20Mi"}}),
        serde_json::json!({}),
    ] {
        assert_eq!(high(none), u64::MAX);
    }
}

#[test]
fn command_and_args_replace_what_kubernetes_says_they_replace() {
    assert_eq!(args(r#""tty":false"#), ["/entry", "one", "two"]);
    assert_eq!(args(r#""args":["a"]"#), ["/entry", "a"]);
    assert_eq!(args(r#""command":["c"]"#), ["c"]);
    assert_eq!(args(r#""command":["c"],"args":["a"]"#), ["c", "a"]);
}

#[test]
fn the_manifests_variables_come_after_the_images() {
    let process = spec(r#""tty":true"#).oci.process().clone().unwrap();
    assert_eq!(process.env().clone().unwrap(), ["PATH=/image", "HOSTNAME=p", "TERM=xterm", "LANG=en", "EXTRA=x"]);
    assert_eq!(process.cwd().to_str(), Some("/srv"));
    assert_eq!(process.terminal(), Some(true));
    let process = spec(r#""workingDir":"rel/ative""#).oci.process().clone().unwrap();
    assert_eq!(process.cwd().to_str(), Some("/rel/ative"));
}

#[test]
fn capabilities_are_containerds_with_the_manifests_changes() {
    assert_eq!(names(&spec(r#""tty":false"#)).len(), 14);
    let some = spec(r#""securityContext":{"capabilities":{"drop":["ALL"],"add":["NET_ADMIN","CAP_SYS_TIME"]}}"#);
    assert_eq!(names(&some), ["NET_ADMIN", "SYS_TIME"]);
    let all = spec(r#""securityContext":{"capabilities":{"add":["all"],"drop":["sys_admin"]}}"#);
    assert_eq!(names(&all).len(), 40);
    assert!(!names(&all).contains(&"SYS_ADMIN".to_owned()));
    let bad = built(r#""securityContext":{"capabilities":{"add":["FLY"]}}"#, "{}");
    assert!(matches!(bad, Err(Error::Capability { .. })));
}

#[test]
fn a_plain_container_is_confined_and_a_privileged_one_is_not() {
    let plain = spec(r#""tty":false"#);
    let linux = plain.oci.linux().clone().unwrap();
    assert!(linux.seccomp().is_some() && linux.masked_paths().as_ref().unwrap().len() == 11);
    assert!(has_namespace(&plain.oci, LinuxNamespaceType::Cgroup));
    let rules = device_rules(&plain.oci).unwrap().unwrap();
    assert!(rules.contains(&Rule::char(1, 3)));
    assert!(rules.iter().all(|rule| rule.kind == Kind::Char || rule.access == Access::MAKE));

    let privileged = spec(r#""securityContext":{"privileged":true}"#);
    let linux = privileged.oci.linux().clone().unwrap();
    assert!(linux.seccomp().is_none() && linux.masked_paths().as_ref().unwrap().is_empty());
    assert_eq!(device_rules(&privileged.oci).unwrap(), None);
    assert_eq!(names(&privileged).len(), 41);
    let sys = privileged.oci.mounts().iter().flatten().find(|m| m.destination().ends_with("sys")).unwrap();
    assert!(!sys.options().as_ref().unwrap().contains(&"ro".to_owned()));
}

#[test]
fn profiles_are_the_containers_before_the_pods() {
    let seccomp = |container: &str, pod: &str| {
        built(container, pod).map(|spec| spec.oci.linux().as_ref().unwrap().seccomp().is_some())
    };
    let of = |kind: &str| format!(r#"{{"seccompProfile":{{"type":"{kind}"}}}}"#);
    assert!(!seccomp(r#""tty":false"#, &of("Unconfined")).unwrap());
    let own = format!(r#""securityContext":{}"#, of("RuntimeDefault"));
    assert!(seccomp(&own, &of("Unconfined")).unwrap());
    assert!(matches!(seccomp(r#""tty":false"#, &of("Odd")), Err(Error::SeccompProfile { .. })));
    assert!(matches!(seccomp(r#""tty":false"#, &of("Localhost")), Err(Error::LocalhostProfile)));
    let app_armor = |container: &str, pod: &str| {
        let process = built(container, pod).unwrap().oci.process().clone().unwrap();
        process.apparmor_profile().clone()
    };
    let of = |kind: &str| format!(r#"{{"appArmorProfile":{{"type":"{kind}","localhostProfile":"mine"}}}}"#);
    assert_eq!(app_armor(r#""tty":false"#, "{}"), None);
    assert_eq!(app_armor(r#""tty":false"#, &of("RuntimeDefault")).as_deref(), Some("ours"));
    let own = format!(r#""securityContext":{}"#, of("Localhost"));
    assert_eq!(app_armor(&own, &of("RuntimeDefault")).as_deref(), Some("mine"));
    assert_eq!(app_armor(r#""securityContext":{"privileged":true}"#, &of("RuntimeDefault")), None);
    let oci = spec(r#""tty":false"#).oci;
    assert_eq!(oci.process().as_ref().unwrap().selinux_label(), &labels().process);
    assert_eq!(oci.linux().as_ref().unwrap().mount_label().as_ref(), Some(&labels().file));
}

#[test]
fn the_user_is_the_containers_before_the_pods_before_the_images() {
    let user = built(
        r#""securityContext":{"runAsUser":7}"#,
        r#"{"runAsUser":5,"runAsGroup":6,"fsGroup":8,"supplementalGroups":[9],"runAsNonRoot":true}"#,
    )
    .unwrap()
    .user;
    let expected = UserRequest {
        uid: Some(7),
        gid: Some(6),
        image_user: "app:app".into(),
        groups: vec![8, 9],
        strict_groups: false,
        non_root: true,
    };
    assert_eq!(user, expected);
}

#[test]
fn resources_become_cgroup_values_as_kubernetes_computes_them() {
    let limits = |resources: &str| {
        let pod = pod(&format!(r#""resources":{resources}"#), "{}");
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        (qos(&pod).unwrap(), container_limits(&pod, &container).unwrap(), pod_limits(&pod, 8192).unwrap())
    };
    let (class, own, whole) = limits("{}");
    assert_eq!((class, own.cpu_shares, own.memory_max, own.cpu_quota), (Qos::BestEffort, Some(2), None, None));
    assert_eq!(whole.memory_max, None);

    let (class, own, whole) = limits(r#"{"limits":{"cpu":"500m","memory":"64Mi"}}"#);
    assert_eq!(class, Qos::Guaranteed);
    assert_eq!((own.cpu_shares, own.cpu_quota, own.cpu_period), (Some(512), Some(50_000), Some(100_000)));
    assert_eq!((own.memory_max, own.memory_min, own.swap_max), (Some(64 << 20), Some(64 << 20), Some(0)));
    assert_eq!((whole.memory_max, whole.cpu_quota, whole.pids_max), (None, None, Some(8192)));
    assert_eq!((whole.cpu_shares, whole.memory_min), (own.cpu_shares, own.memory_min));

    let (class, own, _) = limits(r#"{"requests":{"memory":"1Gi"},"limits":{"cpu":"1m"}}"#);
    assert_eq!((class, own.memory_low, own.cpu_quota), (Qos::Burstable, Some(1 << 30), Some(1000)));
}

#[test]
fn what_a_pod_says_as_a_whole_comes_before_what_its_containers_say() {
    let of = |whole: &str, container: &str| {
        let text = format!(
            r#"{{"spec":{{"resources":{whole},"containers":[{{"name":"c","image":"x","resources":{container}}}]}}}}"#
        );
        let pod: Pod = serde_json::from_str(&text).unwrap();
        (qos(&pod).unwrap(), pod_limits(&pod, 9).unwrap())
    };
    let (class, limits) = of(r#"{"limits":{"cpu":"1","memory":"64Mi"}}"#, "{}");
    assert_eq!(class, Qos::Guaranteed);
    assert_eq!((limits.memory_max, limits.memory_min, limits.swap_max), (Some(64 << 20), Some(64 << 20), Some(0)));
    assert_eq!((limits.cpu_quota, limits.cpu_shares, limits.pids_max), (Some(100_000), Some(1024), Some(9)));

    let (class, limits) = of(r#"{"limits":{"memory":"64Mi"}}"#, r#"{"requests":{"cpu":"500m","memory":"16Mi"}}"#);
    assert_eq!(class, Qos::Burstable);
    assert_eq!((limits.memory_max, limits.memory_low, limits.cpu_shares), (Some(64 << 20), Some(64 << 20), Some(512)));

    let (class, limits) = of(r#"{"requests":{}}"#, r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#);
    assert_eq!((class, limits.memory_max), (Qos::Guaranteed, None));
}

#[test]
fn a_pod_asks_for_what_its_init_containers_and_sidecars_need_at_once() {
    let container = |memory: &str, more: &str| {
        format!(r#"{{"name":"c","image":"x","resources":{{"requests":{{"memory":"{memory}"}}}}{more}}}"#)
    };
    let sidecar = r#","restartPolicy":"Always""#;
    let low = |inits: &[String]| {
        let text = format!(
            r#"{{"spec":{{"initContainers":[{}],"containers":[{},{}]}}}}"#,
            inits.join(","),
            container("10Mi", ""),
            container("20Mi", "")
        );
        pod_limits(&serde_json::from_str(&text).unwrap(), 1).unwrap().memory_low.unwrap() >> 20
    };
    assert_eq!(low(&[]), 30);
    assert_eq!(low(&[container("20Mi", ""), container("25Mi", "")]), 30);
    assert_eq!(low(&[container("50Mi", "")]), 50);
    assert_eq!(low(&[container("5Mi", sidecar), container("50Mi", "")]), 55);
    assert_eq!(low(&[container("50Mi", ""), container("5Mi", sidecar)]), 50);
    assert_eq!(low(&[container("25Mi", sidecar)]), 55);
}

#[test]
fn who_is_killed_first_goes_by_class() {
    let score = |resources: &str| {
        let spec = spec(&format!(r#""resources":{resources}"#));
        spec.oci.process().as_ref().unwrap().oom_score_adj()
    };
    assert_eq!(score("{}"), Some(1000));
    assert_eq!(score(r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#), Some(-997));
    assert_eq!(score(r#"{"requests":{"memory":"4Gi"}}"#), Some(750));
    assert_eq!(score(r#"{"requests":{"cpu":"1"}}"#), Some(999));
    assert_eq!(score(r#"{"requests":{"memory":"64Gi"}}"#), Some(3));
}

#[test]
fn a_spec_survives_its_way_to_the_shim() {
    let spec = spec(r#""securityContext":{"allowPrivilegeEscalation":false}"#);
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ContainerSpec>(&text).unwrap(), spec);
    let process = spec.process(vec!["sh".into()], true);
    assert!(process.seccomp.is_some());
    assert_eq!(process.process.no_new_privileges(), Some(true));
    assert_eq!(process.process.args().clone().unwrap(), ["sh"]);
}
