//! A pod for a test: a directory, a shim, an image; and a look at what is left when it is dropped.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lamina::runtime::client::{Client, Events};
use lamina::runtime::protocol::{
    Attach, ContainerStatus, Event, ExecRequest, Exit, Rootfs, StartRequest, Stdio, Target,
};
use lamina::runtime::shim::{Config, Network};
use lamina::runtime::spec::{ContainerSpec, ProcessSpec};
use lamina::sys::cgroup::{Cgroup, Hierarchies, Limits};
use lamina::sys::mount::{Mount, Tier};
use serde_json::json;
use tempfile::TempDir;

/// A test waits this long only when it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A pod whose shim runs.
pub(crate) struct Pod {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) events: Events,
    #[expect(dead_code, reason = "there for its end")]
    guard: Guard,
}

/// Ends the pod of a test that failed, so that it does not live on.
struct Guard(PathBuf);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let group = Cgroup::open(&Hierarchies::probe().unwrap(), self.0.to_str().unwrap());
            let _ = group.kill();
            while group.pids().is_ok_and(|pids| !pids.is_empty()) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = group.remove_with_parents();
        }
    }
}

/// A start that can still be changed.
pub(crate) struct Start {
    pub(crate) request: StartRequest,
    pub(crate) attached: Vec<OwnedFd>,
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lamina"))
}

fn config(dir: &Path) -> Config {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pod = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let run = dir.join("run");
    fs::create_dir_all(&run).unwrap();
    Config {
        title: format!("test/{pod}"),
        boot: "this boot".into(),
        build: "this build".into(),
        run,
        log_dir: dir.join("logs"),
        log_name: PathBuf::from(format!("test_pod_{pod}")),
        cgroup: PathBuf::from(format!("/lamina-test-{pod}/pod{pod}")),
        network: Network::Loopback,
        hostname: Some("in-a-test".into()),
        host_ipc: false,
        share_pid: false,
        users: None,
        sysctls: Vec::new(),
        limits: lamina::sys::cgroup::Limits::default(),
        pod,
    }
}

impl Pod {
    /// A shim that keeps the one layer that every test's containers are made of.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("lamina-shim-").tempdir().unwrap();
        let config = config(dir.path());
        let (client, events) = Client::spawn(binary(), &config).await.unwrap();
        let guard = Guard(config.cgroup.clone());
        let pod = Self { dir, config, client, events, guard };
        pod.client.keep(vec![("layer".into(), pod.layer())]).await.unwrap();
        pod
    }

    /// A layer with busybox and a user or two.
    fn layer(&self) -> OwnedFd {
        let layer = self.dir.path().join("layer");
        for dir in ["bin", "etc", "tmp"] {
            fs::create_dir_all(layer.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("the package busybox-static");
        let names =
            ["sh", "cat", "echo", "env", "false", "head", "hostname", "id", "ip", "kill", "ls", "mkfifo", "mknod"];
        let more = ["ps", "seq", "sleep", "stty", "tail", "touch", "true", "tty", "yes", "dd", "od", "printf", "wc"];
        for name in names.iter().chain(&more) {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::write(layer.join("bin/not-executable"), "").unwrap();
        Mount::clone_path(&layer, false).unwrap().into_fd()
    }

    /// The host's view of an attempt's state directory.
    pub(crate) fn state(&self, name: &str, attempt: u32) -> PathBuf {
        self.dir.path().join("containers").join(name).join(attempt.to_string())
    }

    /// A container that runs a shell script.
    pub(crate) fn sh(&self, name: &str, attempt: u32, script: &str) -> Start {
        self.command(name, attempt, &["/bin/sh", "-c", script])
    }

    /// A container that runs a command.
    pub(crate) fn command(&self, name: &str, attempt: u32, args: &[&str]) -> Start {
        let state = self.state(name, attempt);
        for dir in ["upper", "work"] {
            fs::create_dir_all(state.join(dir)).unwrap();
        }
        let oci = json!({
            "ociVersion": "1.2.0",
            "process": {
                "args": args, "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "user": {"uid": 0, "gid": 0},
                "noNewPrivileges": true, "oomScoreAdj": 1000,
                "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES}
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
            ],
            "linux": {"resources": {"devices": [
                {"allow": true, "type": "c", "access": "m"}, {"allow": true, "type": "b", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"}
            ]}, "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]}
        });
        let container: ContainerSpec = serde_json::from_value(json!({ "oci": oci })).unwrap();
        let request = StartRequest {
            name: name.into(),
            attempt,
            root: Rootfs {
                layers: vec!["layer".into()],
                upper: state.join("upper"),
                work: state.join("work"),
                tier: Tier::probe().unwrap(),
            },
            state,
            container,
            limits: Limits::default(),
            volumes: Vec::new(),
            stdin: false,
            stdin_once: false,
            size: None,
            attach: Attach::default(),
        };
        Start { request, attached: Vec::new() }
    }

    /// Starts it.
    pub(crate) async fn start(&self, start: Start) -> ContainerStatus {
        self.client.start(start.request, start.attached).await.unwrap()
    }

    /// Starts it and waits for its end.
    pub(crate) async fn run(&mut self, start: Start) -> Exit {
        let (name, attempt) = (start.request.name.clone(), start.request.attempt);
        self.start(start).await;
        self.exit(&name, attempt).await
    }

    /// Waits for the end of an attempt; other events are dropped.
    pub(crate) async fn exit(&mut self, name: &str, attempt: u32) -> Exit {
        loop {
            match self.event().await {
                Event::Exited { name: n, attempt: a, exit } if n == name && a == attempt => return exit,
                _ => {}
            }
        }
    }

    /// Waits for the end of an exec.
    pub(crate) async fn exec_exit(&mut self, exec: u64) -> Exit {
        loop {
            match self.event().await {
                Event::ExecExited { id, exit } if id == exec => return exit,
                _ => {}
            }
        }
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.next()).await.expect("an event in time").expect("a shim")
    }

    /// The text of a container's log, without times, streams and tags; parts of lines joined.
    pub(crate) fn log(&self, name: &str, attempt: u32) -> String {
        let mut text = Vec::new();
        let container = self.config.container_logs(name);
        lamina::runtime::logs::read(&container, attempt, &lamina::runtime::logs::Query::default(), &mut |line| {
            line.print(&mut text, false).unwrap();
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Waits until the log says something.
    pub(crate) async fn says(&self, name: &str, attempt: u32, what: &str) {
        until(what, || self.log(name, attempt).contains(what)).await;
    }

    /// Ends the pod as an agent would, and looks.
    pub(crate) async fn end(self) {
        self.client.shutdown().await.unwrap();
        self.nothing_is_left().await;
    }

    /// Ends what a lost shim left behind, and looks.
    pub(crate) async fn end_lost(self) {
        let (run, cgroup) = (self.config.run.clone(), self.config.cgroup.clone());
        lamina::runtime::client::kill_lost_pod(run, cgroup).await.unwrap();
        self.nothing_is_left().await;
    }

    async fn nothing_is_left(self) {
        until("the processes to end", || processes(&self.config.pod).is_empty()).await;
        assert_eq!(cgroups(self.config.cgroup.parent().unwrap()), Vec::<PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
        let left: Vec<_> = fs::read_dir(&self.config.run).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
        // Namespaces end with their processes; an overlay that lived on would keep its work directory busy.
        self.dir.close().unwrap();
    }
}

/// Capabilities as containerd gives them.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

impl Start {
    pub(crate) fn tty(mut self, columns: u16, rows: u16) -> Self {
        self.request.container.oci.process_mut().as_mut().unwrap().set_terminal(Some(true));
        self.request.size = Some((columns, rows));
        self
    }

    pub(crate) fn stdin(mut self, once: bool) -> Self {
        self.request.stdin = true;
        self.request.stdin_once = once;
        self
    }

    pub(crate) fn attach(mut self, attach: Attach, fds: Vec<OwnedFd>) -> Self {
        self.request.attach = attach;
        self.attached = fds;
        self
    }

    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.request.limits.memory_max = Some(bytes);
        self.request.limits.swap_max = Some(0);
        self
    }
}

/// A process for a container.
pub(crate) fn exec(name: &str, attempt: u32, args: &[&str], stdio: Stdio) -> ExecRequest {
    let process = json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": true,
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES}
    });
    let process: ProcessSpec = serde_json::from_value(json!({ "process": process })).unwrap();
    ExecRequest { name: name.into(), attempt, process, size: None, stdio }
}

pub(crate) fn target(name: &str, attempt: u32) -> Target {
    Target::container(name, attempt)
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The processes in the pod's cgroup, or with its name in their arguments.
pub(crate) fn processes(pod: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.parse::<u32>().is_err_and(|_| true) || name == std::process::id().to_string() {
            continue;
        }
        let (cgroup, line) = (read("cgroup"), read("cmdline"));
        let has = |text: &[u8]| String::from_utf8_lossy(text).contains(pod);
        if has(&cgroup) || has(&line) {
            found.push(format!("{name}: {}", String::from_utf8_lossy(&line).replace('\0', " ")));
        }
    }
    found
}

/// Where a cgroup exists.
fn cgroups(path: &Path) -> Vec<PathBuf> {
    let below = path.strip_prefix("/").unwrap();
    let mut tops = vec![PathBuf::from("/sys/fs/cgroup")];
    tops.extend(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path()));
    tops.into_iter().map(|top| top.join(below)).filter(|dir| dir.is_dir()).collect()
}
