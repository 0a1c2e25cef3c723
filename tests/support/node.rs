//! A node under a temporary directory: the agent as a process, and the command line against it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::image::{Config, Layer, Layout};
use super::{leftovers, registry, wait};

/// The binary under test, built by cargo for this test.
pub(crate) const LAMINA: &str = env!("CARGO_BIN_EXE_lamina");

/// A running agent with everything it owns below one temporary directory.
#[derive(Debug)]
pub(crate) struct Node {
    /// Before the directory that it lies in.
    disk: Option<Disk>,
    dir: Option<tempfile::TempDir>,
    binary: PathBuf,
    agent: Option<Child>,
    metrics: u16,
    flags: Vec<String>,
    starts: u32,
}

/// A tmpfs, mounted until it is dropped.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "lamina-test"]).arg(&at).status().unwrap();
        assert!(status.success(), "mount at {}", at.display());
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// The exit status.
    pub status: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Node {
    /// Starts an agent and waits until it is ready.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Node::start`], with a state directory on a file system of its own of so many bytes.
    pub(crate) fn on_a_disk_of(bytes: u64) -> Self {
        Self::on_a_disk_with(bytes, &[])
    }

    /// The same, with more flags for the agent.
    pub(crate) fn on_a_disk_with(bytes: u64, flags: &[&str]) -> Self {
        let mut node = Self::prepared(flags);
        node.disk = Some(Disk::mount(node.path("root"), bytes));
        node.start_agent();
        node
    }

    /// As [`Node::start`], with more flags for the agent.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut node = Self::prepared(flags);
        node.start_agent();
        node
    }

    fn prepared(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("lamina-e2e-").tempdir().unwrap();
        for sub in ["root", "run", "log", "manifests", "image-files"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Self {
            disk: None,
            dir: Some(dir),
            binary: LAMINA.into(),
            agent: None,
            metrics: registry::free_port(),
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            starts: 0,
        }
    }

    /// The temporary directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// A path below the temporary directory.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir().join(below)
    }

    /// Starts the agent (again) and waits until it is ready.
    pub(crate) fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "the agent runs");
        self.starts += 1;
        let log = File::create(self.path(&format!("agent-{}.log", self.starts))).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("agent");
        for (flag, sub) in [("--root", "root"), ("--run", "run"), ("--log-dir", "log"), ("--manifests", "manifests")] {
            command.arg(flag).arg(self.path(sub));
        }
        // An older agent may know nothing of these: it takes no flag that it does not know. The disk of the machine may be
        // fuller than a node would like.
        command.env("LAMINA_IMAGES", self.path("image-files")).env("LAMINA_EVICTION_HARD", "none");
        // Pods reach it only where it listens on more than the loopback.
        let host = if self.flags.iter().any(|f| f == "--metrics-insecure") { "0.0.0.0" } else { "127.0.0.1" };
        command.args(["--metrics", &format!("{host}:{}", self.metrics)]);
        if !self.flags.iter().any(|f| f == "--node-name") {
            command.args(["--node-name", "test-node"]);
        }
        command.args(["--log-level", "debug", "--gc-high", "100", "--gc-low", "99"]).args(&self.flags);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
        wait("the agent is ready", || {
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                panic!("the agent ended with {status}:\n{}", self.agent_log());
            }
            self.http("/readyz").filter(|(status, _)| *status == 200)
        });
    }

    /// The agent's process id.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Kills the agent with SIGKILL; its pods must not notice.
    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Ends the agent, and starts it with these flags instead of those that it had.
    pub(crate) fn restart_with(&mut self, flags: &[&str]) {
        self.stop_agent();
        self.flags = flags.iter().map(|f| (*f).to_owned()).collect();
        self.start_agent();
    }

    /// Ends the agent with SIGTERM; its pods must not notice.
    pub(crate) fn stop_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let status = Command::new("kill").args(["-TERM", &agent.id().to_string()]).status().unwrap();
        assert!(status.success());
        let status = wait("the agent ends", || agent.try_wait().unwrap());
        assert!(status.success(), "the agent ended with {status}:\n{}", self.agent_log());
    }

    /// From the next start on the agent is another build: the same program with other bytes at its end.
    pub(crate) fn upgrade(&mut self) {
        let upgraded = self.path(&format!("lamina-{}", self.starts));
        let mut bytes = fs::read(&self.binary).unwrap();
        bytes.extend_from_slice(b"another build");
        fs::write(&upgraded, bytes).unwrap();
        fs::set_permissions(&upgraded, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        self.run_as(&upgraded);
    }

    /// From the next start on the agent is this program.
    pub(crate) fn run_as(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// What the agent logged since its last start.
    pub(crate) fn agent_log(&self) -> String {
        fs::read_to_string(self.path(&format!("agent-{}.log", self.starts))).unwrap_or_default()
    }

    /// Runs `lamina ARGS` against this node.
    pub(crate) fn lamina<S: AsRef<OsStr>>(&self, args: &[S]) -> Said {
        self.command(args).output().unwrap().into()
    }

    /// The command line `lamina ARGS` against this node, not yet started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("LAMINA_RUN", self.path("run")).env("NO_COLOR", "1").stdin(Stdio::null()).args(args);
        command
    }

    /// Runs `lamina ARGS`, which must succeed, and gives its standard output.
    pub(crate) fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> String {
        let said = self.lamina(args);
        assert_eq!(said.status, 0, "lamina {args:?}: {}{}\n{}", said.out, said.err, self.agent_log());
        said.out
    }

    /// Runs `lamina ARGS -o json`, which must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// Writes a manifest into the watched directory.
    pub(crate) fn manifest(&self, name: &str, yaml: &str) {
        let tmp = self.path(&format!(".{name}"));
        fs::write(&tmp, yaml).unwrap();
        fs::rename(tmp, self.path("manifests").join(name)).unwrap();
    }

    /// Takes a manifest out of the watched directory.
    pub(crate) fn remove_manifest(&self, name: &str) {
        fs::remove_file(self.path("manifests").join(name)).unwrap();
    }

    /// A pod as `lamina get` gives it, if it is there.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        let said = self.lamina(&["get", "pods", name, "-n", namespace, "-o", "json"]);
        (said.status == 0).then(|| serde_json::from_str(&said.out).unwrap())
    }

    /// Waits until a pod satisfies `is`.
    pub(crate) fn until(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while std::time::Instant::now() < deadline {
            last = self.pod(name);
            if let Some(pod) = &last
                && is(pod)
            {
                return last.unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("pod {name} is not {what}: {}\n{}", last.unwrap_or_default(), self.agent_log());
    }

    /// Waits until every container of a pod runs.
    pub(crate) fn running(&self, name: &str) -> Value {
        self.until(name, "running", |pod| {
            let containers = pod["spec"]["containers"].as_array().unwrap().len();
            let statuses = pod["status"]["containerStatuses"].as_array();
            statuses.is_some_and(|s| s.len() == containers && s.iter().all(|c| c["state"]["running"].is_object()))
        })
    }

    /// Waits until a pod is gone.
    pub(crate) fn gone(&self, name: &str) {
        wait(&format!("pod {name} is gone"), || self.pod(name).is_none().then_some(()));
    }

    /// The host process id of a container's first process.
    pub(crate) fn pid(&self, pod: &str, container: &str) -> u32 {
        let uid = self.pod(pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        *leftovers::pids(&uid, container).first().unwrap_or_else(|| panic!("{pod}/{container} has no process"))
    }

    /// Layers in the store, by key.
    pub(crate) fn layers(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("root/layers"))
            .map(|dir| dir.flatten().map(|e| e.file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    /// A layout below the node's directory with the image `busybox`; gives the layout and the image's name.
    pub(crate) fn busybox(&self) -> (Layout, String) {
        let mut layout = Layout::create(&self.path("images"));
        let name = layout.add("busybox", &[Layer::busybox()], Config::default());
        (layout, name)
    }

    /// Asks the metrics listener; `None` while nothing answers.
    pub(crate) fn http(&self, path: &str) -> Option<(u16, String)> {
        if self.flags.iter().any(|f| f == "--tls-cert") {
            return self.https(path, None);
        }
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.metrics)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The same over TLS, with a token; whoever answers is believed.
    pub(crate) fn https(&self, path: &str, token: Option<&str>) -> Option<(u16, String)> {
        let mut command = Command::new("curl");
        command.args(["-sk", "-m", "20", "-w", "\n%{http_code}"]);
        if let Some(token) = token {
            command.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        let out = command.arg(format!("https://127.0.0.1:{}{path}", self.metrics)).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n')?;
        Some((status.parse().ok().filter(|_| out.status.success())?, body.to_owned()))
    }

    /// The port of the metrics listener.
    pub(crate) fn metrics_port(&self) -> u16 {
        self.metrics
    }

    fn instance(&self) -> Option<String> {
        let format = fs::read_to_string(self.path("root/format.json")).ok()?;
        let format: Value = serde_json::from_str(&format).ok()?;
        Some(format["instance"].as_str()?.to_owned())
    }

    /// Removes everything that is desired, waits until it has stopped, ends the agent, and checks that nothing is
    /// left over (I3). Called at the end of every test that passed.
    pub(crate) fn finish(mut self) {
        for entry in fs::read_dir(self.path("manifests")).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
        if self.agent.is_none() {
            self.start_agent();
        }
        let pods = self.json(&["get", "pods", "-A"]);
        for pod in pods["items"].as_array().unwrap() {
            // Pods of controllers and of the directory refuse, and go by themselves.
            let (name, namespace) = (&pod["metadata"]["name"], &pod["metadata"]["namespace"]);
            let name = format!("pod/{}", name.as_str().unwrap());
            self.lamina(&["delete", &name, "-n", namespace.as_str().unwrap()]);
        }
        wait("all pods are gone", || {
            let pods = self.json(&["get", "pods", "-A"]);
            pods["items"].as_array().unwrap().is_empty().then_some(())
        });
        let instance = self.instance();
        for left in ["staging", "trash"] {
            wait(&format!("{left} is empty"), || {
                fs::read_dir(self.path("root").join(left)).unwrap().next().is_none().then_some(())
            });
        }
        self.stop_agent();
        self.disk = None;
        let dir = self.dir().to_owned();
        leftovers::none(&dir, instance.as_deref());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Only a test that failed comes here with an agent: end what it started, in the order that leaves least.
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let dir = self.dir().to_owned();
        if std::thread::panicking()
            && let Some(instance) = self.instance()
        {
            leftovers::end(&instance);
        }
        for left in leftovers::of(&dir, None) {
            if let Some(pid) = left.strip_prefix("process ").and_then(|l| l.split(':').next()) {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
        }
    }
}
