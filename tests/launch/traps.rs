//! Images that try to reach the host. Each has a canary beside its root, checked when its host is dropped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use lamina::runtime::launch::{Error, Stage};
use lamina::sys::cgroup::Limits;

use crate::Test;
use crate::host::{Host, bind, container, end};

pub(crate) const TESTS: &[Test] = &[
    ("dev_proc_sys_and_etc_as_links_stay_inside", dev_proc_sys_and_etc_as_links_stay_inside),
    ("dev_as_a_file_or_a_relative_link_stays_inside", dev_as_a_file_or_a_relative_link_stays_inside),
    ("volume_targets_through_links_stay_inside", volume_targets_through_links_stay_inside),
    ("volumes_never_hide_proc_or_the_root", volumes_never_hide_proc_or_the_root),
    ("a_sub_path_never_leaves_its_volume", a_sub_path_never_leaves_its_volume),
    ("a_working_directory_through_links_stays_inside", a_working_directory_through_links_stays_inside),
    ("no_descriptor_is_inherited", no_descriptor_is_inherited),
    ("a_fifo_as_passwd_does_not_hang", a_fifo_as_passwd_does_not_hang),
    ("a_null_that_is_something_else_is_not_used", a_null_that_is_something_else_is_not_used),
    ("the_hosts_null_keeps_its_mode", the_hosts_null_keeps_its_mode),
];

fn tricked(change: impl FnOnce(&Path, &Path)) -> Host {
    Host::with(&Limits::default(), change)
}

fn dev_proc_sys_and_etc_as_links_stay_inside() {
    let host = tricked(|layer, canary| {
        fs::rename(layer.join("etc"), layer.join("etc-real")).unwrap();
        for name in ["dev", "proc", "sys", "etc"] {
            symlink(canary, layer.join(name)).unwrap();
        }
    });
    let hosts = host.path("hosts");
    fs::write(&hosts, "hosts").unwrap();
    let script = "[ -c /dev/null ] && [ -d /proc/self ] && [ -d /sys/class ] && cat /etc/hosts; touch /dev/x";
    let (code, said) = host.run(&container(script, "", "{}"), &[bind(&hosts, "/etc/hosts")]).unwrap();
    assert_eq!((code, said.as_str()), (0, "hosts"));
}

fn dev_as_a_file_or_a_relative_link_stays_inside() {
    let host = tricked(|layer, _| {
        symlink("../canary", layer.join("dev")).unwrap();
        fs::write(layer.join("proc"), "").unwrap();
        symlink("proc", layer.join("sys")).unwrap();
    });
    let (code, said) = host.script("[ -c /dev/null ] && [ -d /proc/self ] && [ -d /sys/class ]");
    assert_eq!((code, said.as_str()), (0, ""));
}

fn volume_targets_through_links_stay_inside() {
    let host = tricked(|layer, canary| {
        symlink(canary, layer.join("data")).unwrap();
        symlink("../../../canary/inner", layer.join("relative")).unwrap();
        symlink("../run/nothing/resolv.conf", layer.join("etc/resolv.conf")).unwrap();
    });
    let (volume, file) = (host.path("volume"), host.path("resolv"));
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("here"), "").unwrap();
    fs::write(&file, "names").unwrap();
    let binds = [bind(&volume, "/data/deep"), bind(&volume, "/relative"), bind(&file, "/etc/resolv.conf")];
    let script = "ls /data/deep /relative; cat /etc/resolv.conf; touch /data/new";
    let (code, said) = host.run(&container(script, "", "{}"), &binds).unwrap();
    assert_eq!((code, said.as_str()), (0, "/data/deep:\nhere\n\n/relative:\nhere\nnames"));
}

fn volumes_never_hide_proc_or_the_root() {
    for target in ["/proc", "/proc/self/attr", "/", "/..", "/bin/..", "/proc/sys/kernel"] {
        let host = tricked(|_, _| {});
        let volume = host.path("volume");
        fs::create_dir(&volume).unwrap();
        let error = host.run(&container("true", "", "{}"), &[bind(&volume, target)]).unwrap_err();
        assert!(matches!(error, Error::Step { stage: Stage::Volume, .. }), "{target}: {error}");
    }
}

fn a_sub_path_never_leaves_its_volume() {
    for below in ["out", "../canary", "up", "/etc"] {
        let host = tricked(|_, _| {});
        let volume = host.path("volume");
        fs::create_dir(&volume).unwrap();
        symlink(host.path("canary"), volume.join("out")).unwrap();
        symlink("../canary/inner", volume.join("up")).unwrap();
        let mut bind = bind(&volume, "/data");
        bind.sub_path = Some(below);
        let error = host.run(&container("touch /data/x", "", "{}"), &[bind]).unwrap_err();
        assert!(matches!(error, Error::Step { stage: Stage::Volume, .. }), "{below}: {error}");
    }
}

fn a_working_directory_through_links_stays_inside() {
    let host = tricked(|layer, canary| symlink(canary, layer.join("work")).unwrap());
    let (code, said) =
        host.run(&container("pwd; touch new; echo $?", r#","workingDir":"/work/sub""#, "{}"), &[]).unwrap();
    assert_eq!((code, said.lines().last()), (0, Some("0")), "{said}");
    for directory in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/root/tmp"] {
        let fields = format!(r#","workingDir":"{directory}""#);
        let error = Host::new().run(&container("pwd", &fields, "{}"), &[]).unwrap_err();
        assert!(matches!(error, Error::Step { stage: Stage::Directory, .. }), "{directory}: {error}");
    }
}

fn no_descriptor_is_inherited() {
    let host = Host::new();
    let secret = fs::File::open(host.path("canary")).unwrap();
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).unwrap();
    let (_, said) = host.script("i=0; while [ $i -lt 64 ]; do [ -e /proc/$$/fd/$i ] && echo $i; i=$((i+1)); done");
    assert_eq!(said, "0\n1\n2\n");
    drop(secret);
}

fn a_fifo_as_passwd_does_not_hang() {
    let host = tricked(|layer, _| {
        fs::remove_file(layer.join("etc/passwd")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, layer.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        symlink("/fifo", layer.join("etc/passwd")).unwrap();
    });
    let error = host.run(&container("true", "", "{}"), &[]).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

fn a_null_that_is_something_else_is_not_used() {
    let host = Host::new();
    let container = container("sleep 60", "", "{}");
    let streams = lamina::runtime::launch::Stdio::Fds { stdin: None, stdout: None, stderr: None };
    let init = host.start(&container, &[], streams).unwrap();
    let busybox = "/bin/busybox";
    let (code, said) =
        host.exec(&init, &container, &format!("{busybox} rm /dev/null; {busybox} mkfifo /dev/null")).unwrap();
    assert_eq!((code, said.as_str()), (0, ""));
    let (code, said) = host.exec(&init, &container, "cat; echo done").unwrap();
    assert_eq!((code, said.as_str()), (0, "done\n"));
    rustix::process::pidfd_send_signal(&init.pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(end(&init), 137);
}

fn the_hosts_null_keeps_its_mode() {
    use std::os::unix::fs::MetadataExt as _;
    let mode = || fs::metadata("/dev/null").unwrap().mode();
    let before = mode();
    let host = Host::new();
    let _ = host.script("/bin/busybox chmod 0 /dev/null /proc/self/fd/0");
    let init = host.start(
        &container("sleep 60", "", "{}"),
        &[],
        lamina::runtime::launch::Stdio::Fds { stdin: None, stdout: None, stderr: None },
    );
    drop(init.map(|init| {
        let _ = host.exec(&init, &container("true", "", "{}"), "/bin/busybox chmod 0 /proc/self/fd/0");
        rustix::process::pidfd_send_signal(&init.pidfd, rustix::process::Signal::KILL).unwrap();
        assert_eq!(end(&init), 137);
    }));
    assert_eq!(mode(), before);
}
