//! A small image, a place to run it, and what must be as it was afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::core::v1::Pod;
use lamina::runtime::launch::{self, Bind, Child, Error, ExecLaunch, Launch, Lower, Root, Stdio};
use lamina::runtime::spec::{self, ContainerSpec, SpecInput};
use lamina::sys::cgroup::{Cgroup, Hierarchies, Limits};
use lamina::sys::mount::{self, Mount};
use lamina::sys::namespace::{self, Namespace};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// Namespaces as a shim has them.
pub(crate) fn become_shim() {
    namespace::unshare(&[Namespace::Net, Namespace::Ipc, Namespace::Uts]).unwrap();
    mount::private_namespace().unwrap();
    namespace::set_host_name("lamina-test").unwrap();
    namespace::loopback_up().unwrap();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// What a test may not leave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Leftovers {
    mounts: String,
    children: String,
    descriptors: usize,
    cgroups: Vec<PathBuf>,
}

impl Leftovers {
    pub(crate) fn look() -> Self {
        let mut cgroups = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let dir = hierarchy.unwrap().path();
            let groups = fs::read_dir(&dir).into_iter().flatten().map(|entry| entry.unwrap().path());
            cgroups.extend(groups.filter(|path| path.to_string_lossy().contains(&group())));
        }
        Self {
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap(),
            children: fs::read_to_string("/proc/thread-self/children").unwrap(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            cgroups,
        }
    }
}

fn group() -> String {
    format!("lamina-launch-{}", std::process::id())
}

/// Everything about a tree that a container could have changed.
fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let m = fs::symlink_metadata(&path).unwrap();
        let content = if m.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
        let text = format!("{:o} {} {} {} {} {content}", m.mode(), m.uid(), m.gid(), m.rdev(), m.nlink());
        if m.is_dir() {
            found.extend(fingerprint(&path));
        }
        found.insert(path, text);
    }
    found
}

/// An image of one layer with a container's directories beside it, and a canary that nothing may touch.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: Cgroup,
    canary: BTreeMap<PathBuf, String>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Host {
    /// An image with busybox, changed by `change`, which gets the image's directory and the canary's.
    pub(crate) fn with(limits: &Limits, change: impl FnOnce(&Path, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (layer, canary) = (dir.path().join("layer"), dir.path().join("canary"));
        for sub in ["layer/bin", "layer/etc", "layer/tmp", "layer/root", "upper", "work", "canary/inner"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
        fs::copy(busybox, layer.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "ls", "id", "mknod", "mount", "true", "sleep", "tail", "touch", "tty", "stty"] {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:1002:app\n").unwrap();
        fs::write(layer.join("not-executable"), "x").unwrap();
        for name in ["file", "inner/null", "ptmx", "passwd"] {
            fs::write(canary.join(name), "canary").unwrap();
        }
        change(&layer, &canary);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/{}/pod{number}/app-0", group());
        let (cgroup, warnings) = Cgroup::create(&Hierarchies::probe().unwrap(), &path, limits).unwrap();
        assert_eq!(warnings, []);
        let canary = fingerprint(&canary);
        Self { dir, cgroup, canary }
    }

    pub(crate) fn new() -> Self {
        Self::with(&Limits::default(), |_, _| {})
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a container.
    pub(crate) fn start(
        &self,
        container: &ContainerSpec,
        binds: &[Bind<'_>],
        stdio: Stdio<'_>,
    ) -> Result<Child, Error> {
        if let Some(rules) = spec::device_rules(&container.oci).unwrap() {
            self.cgroup.restrict_devices(&rules).unwrap();
        }
        let layer = Mount::clone_path(&self.path("layer"), false).unwrap();
        let (upper, work) = (self.path("upper"), self.path("work"));
        let root = Root { lower: Lower::Fds(&[layer.as_fd()]), upper: &upper, work: &work };
        launch::start(&Launch { container, root, binds, cgroup: &self.cgroup, stdio, pid_of: None, users: None })
    }

    /// Runs a container to its end: its exit code and what it said.
    pub(crate) fn run(&self, container: &ContainerSpec, binds: &[Bind<'_>]) -> Result<(i32, String), Error> {
        let (read, write) = pipe();
        let stdio = Stdio::Fds { stdin: None, stdout: Some(write.as_fd()), stderr: Some(write.as_fd()) };
        let child = self.start(container, binds, stdio)?;
        drop(write);
        let said = said(read);
        Ok((end(&child), said))
    }

    /// Runs a shell script in a plain container.
    pub(crate) fn script(&self, script: &str) -> (i32, String) {
        self.run(&container(script, "", "{}"), &[]).unwrap()
    }

    /// Runs a process in a running container to its end.
    pub(crate) fn exec(&self, init: &Child, container: &ContainerSpec, script: &str) -> Result<(i32, String), Error> {
        let (read, write) = pipe();
        let process = container.process(["/bin/sh", "-c", script].map(str::to_owned).to_vec(), false);
        let child = launch::exec(&ExecLaunch {
            init: init.pidfd.as_fd(),
            process: &process,
            cgroup: &self.cgroup,
            stdio: Stdio::Fds { stdin: None, stdout: Some(write.as_fd()), stderr: Some(write.as_fd()) },
            users: None,
        })?;
        drop(write);
        let said = said(read);
        Ok((end(&child), said))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        self.cgroup.remove_with_parents().unwrap();
        if !std::thread::panicking() {
            assert_eq!(fingerprint(&self.path("canary")), self.canary, "the canary was touched");
        }
    }
}

/// A container that runs a script; `fields` are more fields of the container (each with a comma before it).
pub(crate) fn container(script: &str, fields: &str, pod_context: &str) -> ContainerSpec {
    let script = serde_json::to_string(script).unwrap();
    built(&format!(r#""command":["/bin/sh","-c",{script}]{fields}"#), pod_context, "")
}

/// A container from its fields, with an image whose `USER` is `user`.
pub(crate) fn built(fields: &str, pod_context: &str, user: &str) -> ContainerSpec {
    let pod: Pod = serde_json::from_str(&format!(
        r#"{{"metadata":{{"name":"p"}},"spec":{{"securityContext":{pod_context},
            "containers":[{{"name":"c","image":"i",{fields}}}]}}}}"#
    ))
    .unwrap();
    let image = serde_json::from_str(&format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},
            "config":{{"User":{}}}}}"#,
        serde_json::to_string(user).unwrap()
    ))
    .unwrap();
    let container = pod.spec.as_ref().unwrap().containers.first().unwrap();
    spec::build(&SpecInput {
        pod: &pod,
        container,
        image: &image,
        env: &[],
        command: container.command.as_deref().unwrap_or_default(),
        args: &[],
        host_name: "p",
        node_memory: 1 << 34,
        localhost_seccomp: None,
        default_app_armor: None,
        selinux: None,
    })
    .unwrap()
}

/// A plain bind of a path of the host.
pub(crate) fn bind<'a>(source: &'a Path, target: &'a str) -> Bind<'a> {
    Bind {
        target,
        source: launch::Source::Path(source),
        sub_path: None,
        read_only: false,
        recursive: false,
        propagation: spec::Propagation::None,
        options: &[],
    }
}

pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// All that comes until the other side closes; a terminal ends with an error.
pub(crate) fn said(from: OwnedFd) -> String {
    let mut text = Vec::new();
    let _ = File::from(from).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

/// Waits for a process, as a shell would report it.
pub(crate) fn end(child: &Child) -> i32 {
    let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

pub(crate) fn kill(child: &Child) {
    pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    assert_eq!(end(child), 137);
}
