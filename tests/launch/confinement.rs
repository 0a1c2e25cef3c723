//! What a container may not see or do.

use lamina::runtime::launch::{Error, Stage};
use lamina::sys::cgroup::Limits;

use crate::Test;
use crate::host::{Host, bind, built, container};

pub(crate) const TESTS: &[Test] = &[
    ("privileges_are_containerds", privileges_are_containerds),
    ("a_user_other_than_root_has_no_capability", a_user_other_than_root_has_no_capability),
    ("forbidden_calls_fail", forbidden_calls_fail),
    ("the_hosts_disk_cannot_be_opened", the_hosts_disk_cannot_be_opened),
    ("masked_paths_are_empty_and_read_only_ones_stay", masked_paths_are_empty_and_read_only_ones_stay),
    ("nothing_of_the_host_is_mounted_or_running", nothing_of_the_host_is_mounted_or_running),
    ("a_read_only_root_is_read_only", a_read_only_root_is_read_only),
    ("a_fork_bomb_meets_its_limit", a_fork_bomb_meets_its_limit),
    ("odd_users_are_refused", odd_users_are_refused),
    ("a_privileged_container_has_the_hosts_devices", a_privileged_container_has_the_hosts_devices),
    ("streams_may_be_opened_again_by_any_user", streams_may_be_opened_again_by_any_user),
];

fn status(fields: &str, pod_context: &str) -> Vec<String> {
    let script = "/bin/busybox grep -E '^(Cap|NoNew|Seccomp:|Groups|Uid|Umask)' /proc/self/status";
    let (code, said) = Host::new().run(&container(script, fields, pod_context), &[]).unwrap();
    assert_eq!(code, 0, "{said}");
    said.lines().map(|line| line.replace('\t', " ")).collect()
}

fn has(lines: &[String], wanted: &str) {
    assert!(lines.iter().any(|line| line.trim_end() == wanted), "{wanted}: {lines:#?}");
}

fn privileges_are_containerds() {
    let lines = status("", "{}");
    for wanted in [
        "CapInh: 0000000000000000",
        "CapPrm: 00000000a80425fb",
        "CapEff: 00000000a80425fb",
        "CapBnd: 00000000a80425fb",
        "CapAmb: 0000000000000000",
        "NoNewPrivs: 0",
        "Seccomp: 2",
        "Umask: 0022",
    ] {
        has(&lines, wanted);
    }
    let strict = r#","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}"#;
    let lines = status(strict, "{}");
    for wanted in ["NoNewPrivs: 1", "Seccomp: 2", "CapEff: 0000000000000000", "CapBnd: 0000000000000000"] {
        has(&lines, wanted);
    }
    has(&status(r#","securityContext":{"seccompProfile":{"type":"Unconfined"}}"#, "{}"), "Seccomp: 0");
}

fn a_user_other_than_root_has_no_capability() {
    let lines = status("", r#"{"runAsUser":1000,"fsGroup":77}"#);
    for wanted in
        ["Uid: 1000 1000 1000 1000", "CapEff: 0000000000000000", "CapPrm: 0000000000000000", "Groups: 77 1001 1002"]
    {
        has(&lines, wanted);
    }
}

fn forbidden_calls_fail() {
    let script = "/bin/busybox unshare -n true; mount -t tmpfs x /tmp; /bin/busybox chroot / /bin/true && echo chroot";
    let (_, said) = Host::new().run(&container(script, "", "{}"), &[]).unwrap();
    assert_eq!(
        said.matches("Operation not permitted").count() + said.matches("permission denied").count(),
        2,
        "{said}"
    );
    assert!(said.contains("chroot"), "a capability brings its call: {said}");
}

fn the_hosts_disk_cannot_be_opened() {
    let script = "mknod /disk b 254 0 && mknod /kmsg c 1 11 && mknod /zero c 1 5 || exit 1
        (: </disk) 2>&1; (: </kmsg) 2>&1; (: </zero) && echo zero";
    let (code, said) = Host::new().run(&container(script, "", "{}"), &[]).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("Operation not permitted").count(), 2, "{said}");
    assert!(said.ends_with("zero\n"), "{said}");
}

fn masked_paths_are_empty_and_read_only_ones_stay() {
    let script = "cat /proc/keys /proc/timer_list | /bin/busybox wc -c; ls -A /sys/firmware | /bin/busybox wc -l
        for f in /proc/sys/kernel/domainname /proc/fs/x /sys/kernel/x; do (echo x >$f) 2>&1; done";
    let (_, said) = Host::new().run(&container(script, "", "{}"), &[]).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.get(..2).unwrap(), ["0", "0"], "{said}");
    assert_eq!(lines.iter().filter(|line| line.contains("Read-only") || line.contains("create")).count(), 3, "{said}");
}

fn nothing_of_the_host_is_mounted_or_running() {
    let script = "/bin/busybox awk '{print $5}' /proc/mounts /proc/self/mountinfo | /bin/busybox grep -v '^[0-9]' | /bin/busybox sort -u
        echo; ls -d /proc/[0-9]* | /bin/busybox wc -l; ls /sys/class/net; cat /proc/self/oom_score_adj; /bin/busybox hostname";
    let (_, said) = Host::new().run(&container(script, "", "{}"), &[]).unwrap();
    let (mounts, rest) = said.split_once("\n\n").unwrap();
    for mount in mounts.lines() {
        let known =
            ["/", "/dev", "/proc", "/sys"].iter().any(|top| mount == *top || mount.starts_with(&format!("{top}/")));
        assert!(known, "{mount} of {said}");
        assert!(!mount.contains("lamina") && !mount.contains("/tmp"), "{said}");
    }
    let rest: Vec<&str> = rest.lines().collect();
    assert!(rest.first().unwrap().trim().parse::<u32>().unwrap() <= 3, "{said}");
    assert_eq!(rest.get(1..).unwrap(), ["lo", "1000", "lamina-test"], "{said}");
}

fn a_read_only_root_is_read_only() {
    let host = Host::new();
    let volume = host.path("volume");
    std::fs::create_dir(&volume).unwrap();
    let fields = r#","securityContext":{"readOnlyRootFilesystem":true},"workingDir":"/made/for/it""#;
    let script = "pwd; touch /new 2>&1; touch /dev/ok /data/ok && echo fine";
    let (_, said) = host.run(&container(script, fields, "{}"), &[bind(&volume, "/data")]).unwrap();
    assert_eq!(said, "/made/for/it\ntouch: /new: Read-only file system\nfine\n");
}

fn a_fork_bomb_meets_its_limit() {
    let host = Host::with(&Limits { pids_max: Some(16), ..Limits::default() }, |_, _| {});
    let (code, said) = host.script("i=0; while [ $i -lt 64 ]; do sleep 5 & i=$((i+1)); done 2>&1");
    assert!(code != 0 && said.contains("fork"), "{code} {said}");
}

fn odd_users_are_refused() {
    for user in ["4294967296", "-1", "0x0", "unknown", "+0", "app:nobody"] {
        let error = Host::new().run(&built(r#""command":["/bin/true"]"#, "{}", user), &[]).unwrap_err();
        assert!(matches!(error, Error::Step { stage: Stage::User, .. }), "{user}: {error}");
    }
    let error = Host::new().run(&built(r#""command":["/bin/true"]"#, r#"{"runAsNonRoot":true}"#, ""), &[]).unwrap_err();
    assert!(error.to_string().contains("runAsNonRoot"), "{error}");
    let (code, said) = Host::new().run(&built(r#""command":["id"]"#, "{}", "app:extra"), &[]).unwrap();
    assert_eq!((code, said.as_str()), (0, "uid=1000(app) gid=1002(extra) groups=1002(extra)\n"));
}

fn a_privileged_container_has_the_hosts_devices() {
    let host = Host::new();
    let script = "[ -c /dev/kmsg ] && : </dev/kmsg && mount -t tmpfs x /tmp && echo yes";
    let fields = r#","securityContext":{"privileged":true}"#;
    let (_, said) = host.run(&container(script, fields, "{}"), &[]).unwrap();
    assert_eq!(said, "yes\n");
}

fn streams_may_be_opened_again_by_any_user() {
    let script = "echo again >/dev/stdout; echo more >/proc/self/fd/2";
    let (_, said) = Host::new().run(&container(script, "", r#"{"runAsUser":1000}"#), &[]).unwrap();
    assert_eq!(said, "again\nmore\n");
}
