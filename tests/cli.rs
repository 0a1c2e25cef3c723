//! The command line as scripts see it: exit statuses, where text goes, formats, and an agent of its own behind it.
//!
//! Needs root, as the agent does; each test has its own directories, socket and port.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LAMINA: &str = env!("CARGO_BIN_EXE_lamina");

/// How long an agent may take to be up on a busy machine.
const UP: Duration = Duration::from_mins(1);

fn lamina(run: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(LAMINA);
    command.args(arguments).env("LAMINA_RUN", run).env_remove("LAMINA_ROOT").stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// An agent without pods; stopped and waited for when this is dropped.
struct Agent {
    child: Child,
    dir: tempfile::TempDir,
    metrics: String,
}

fn arguments(dir: &Path) -> Vec<String> {
    std::fs::create_dir_all(dir.join("manifests")).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let mut all = vec!["agent".to_owned()];
    for (flag, value) in [
        ("--root", at("root")),
        ("--run", at("run")),
        ("--log-dir", at("log")),
        ("--manifests", at("manifests")),
        ("--images", at("image-files")),
        ("--registry-config", at("registries.yaml")),
        ("--metrics", "127.0.0.1:0".to_owned()),
        ("--log-format", "json".to_owned()),
        // The disk of the machine may be fuller than a node would like.
        ("--gc-high", "100".to_owned()),
        ("--gc-low", "99".to_owned()),
        ("--eviction-hard", "none".to_owned()),
    ] {
        all.extend([flag.to_owned(), value]);
    }
    all
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(LAMINA)
            .args(arguments(dir.path()))
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let began = Instant::now();
        let metrics = loop {
            assert!(began.elapsed() < UP, "the agent is not up: {said:?}");
            let line = lines.next().unwrap_or_else(|| panic!("the agent ended: {said:?}")).unwrap();
            if let Some((_, rest)) = line.split_once("\"metrics\":\"") {
                break rest.split('"').next().unwrap().to_owned();
            }
            said.push(line);
        };
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || lines.count());
        Self { child, dir, metrics }
    }

    fn run(&self) -> std::path::PathBuf {
        self.dir.path().join("run")
    }

    fn lamina(&self, arguments: &[&str]) -> Output {
        lamina(&self.run(), arguments)
    }

    fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.metrics).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        // One that has ended already has its status still.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn help_and_version_are_data_and_success() {
    let run = Path::new("/nonexistent");
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["help", "get"]] {
        let output = lamina(run, arguments);
        assert_eq!(status(&output), 0, "{arguments:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_wrong_line_is_status_2_and_says_so_on_standard_error() {
    for arguments in [&["frobnicate"][..], &["get", "pods", "-o", "xml"], &[]] {
        let output = lamina(Path::new("/nonexistent"), arguments);
        assert_eq!(status(&output), 2, "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn without_an_agent_every_verb_is_status_3_with_a_hint() {
    let run = Path::new("/nonexistent-lamina");
    for arguments in [
        &["get", "pods"][..],
        &["info"],
        &["run", "--rm", "busybox"],
        &["exec", "web", "--", "true"],
        &["logs", "web", "-f"],
        &["pull", "busybox"],
        &["gc"],
        &["why", "abcdef", "--root", "/nonexistent-lamina"],
    ] {
        let output = lamina(run, arguments);
        assert_eq!(status(&output), 3, "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("\nhint: "), "{arguments:?}");
    }
}

#[test]
fn what_needs_no_agent_works_without_one() {
    let run = Path::new("/nonexistent-lamina");
    for (arguments, holds) in [
        (&["completion", "bash"][..], "_lamina"),
        (&["completion", "zsh"], "#compdef lamina"),
        (&["completion", "fish"], "complete -c lamina"),
        (&["crd", "nodereports"], "name: nodereports.lamina.dev"),
        (&["explain", "pod.spec.hostNetwork"], "honoured"),
        (&["docs", "settings"], "`--gc-grace DURATION`"),
        (&["docs", "verbs"], "`lamina apply`"),
    ] {
        let output = lamina(run, arguments);
        assert_eq!(status(&output), 0, "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains(holds), "{arguments:?}");
    }
    assert_eq!(status(&lamina(run, &["explain", "pod.spec.nonsense"])), 4);
}

#[test]
fn a_reader_that_goes_away_is_success() {
    let mut child = Command::new(LAMINA).args(["completion", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn settings_that_make_no_sense_are_status_2_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, "gc-grase: 1h\n").unwrap();
    let output = lamina(dir.path(), &["agent", "--config", file.to_str().unwrap()]);
    assert_eq!(status(&output), 2);
    assert!(text(&output.stderr).contains("gc-grase"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_agent_serves_its_socket_its_metrics_and_stops_when_told() {
    let mut agent = Agent::start();
    let socket = agent.run().join("agent.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(agent.run()).unwrap().permissions().mode() & 0o777, 0o700);

    assert!(agent.http("/healthz").contains("200 OK"));
    let metrics = agent.http("/metrics");
    for family in ["lamina_build_info{", "process_open_fds ", "node_cpu_usage_seconds_total ", "lamina_layers{"] {
        assert!(metrics.contains(family), "{family} is not in {metrics}");
    }

    // Any HTTP client can speak to it.
    let mut raw = UnixStream::connect(&socket).unwrap();
    raw.write_all(b"GET /v1/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"kind\":\"List\""), "{answer}");

    // A second one is told who is there.
    let second = lamina(&agent.run(), &arguments(agent.dir.path()).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(status(&second), 3, "{}", text(&second.stderr));

    assert_eq!(agent.stop(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn lists_have_every_format_and_nothing_found_is_no_data() {
    let agent = Agent::start();
    for kind in ["pods", "containers", "images", "layers", "volumes", "events", "manifests"] {
        let table = agent.lamina(&["get", kind, "-A"]);
        assert_eq!((status(&table), text(&table.stdout)), (0, String::new()), "{kind}: {}", text(&table.stderr));
        let json = agent.lamina(&["get", kind, "-o", "json"]);
        let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((value["kind"].as_str(), value["apiVersion"].as_str()), (Some("List"), Some("v1")), "{kind}");
        assert!(text(&agent.lamina(&["get", kind, "-o", "yaml"]).stdout).contains("kind: List"), "{kind}");
        assert!(agent.lamina(&["get", kind, "-o", "name"]).stdout.is_empty(), "{kind}");
    }
    assert_eq!(status(&agent.lamina(&["get", "pods", "-l", "=x"])), 2);
}

#[test]
fn what_is_not_there_is_status_4_everywhere() {
    let agent = Agent::start();
    for arguments in [
        &["get", "pod", "none"][..],
        &["describe", "pod/none"],
        &["describe", "image/none:1"],
        &["logs", "none"],
        &["delete", "pod/none"],
        &["why", "none:1"],
        &["history", "none:1"],
        &["export", "none"],
        &["diff", "none", "none:1"],
        &["tag", "none:1", "x:1"],
        &["rmi", "none:1"],
        &["pin", "none:1"],
    ] {
        let output = agent.lamina(arguments);
        assert_eq!(status(&output), 4, "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{arguments:?}");
    }
    // Before a command runs, every failure of ours is 125.
    assert_eq!(status(&agent.lamina(&["exec", "none", "--", "true"])), 125);
    assert_eq!(status(&agent.lamina(&["attach", "none"])), 125);
    // One that is gone is what such a wait is for.
    assert_eq!(status(&agent.lamina(&["wait", "pod/none", "--for", "deleted"])), 0);
}

#[test]
fn a_bad_manifest_is_status_2_names_its_field_and_changes_nothing() {
    let agent = Agent::start();
    let file = agent.dir.path().join("web.yaml");
    std::fs::write(
        &file,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: app, image: x, imagee: y}]\n",
    )
    .unwrap();
    let output = agent.lamina(&["apply", "-f", file.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(status(&output), 2, "{said}");
    assert!(said.contains("web.yaml") && said.contains("imagee"), "{said}");
    let left = agent.lamina(&["get", "manifests", "-A", "-o", "name"]);
    assert_eq!(text(&left.stdout), "");
    let missing = agent.lamina(&["apply", "-f", "/nonexistent.yaml"]);
    assert_eq!(status(&missing), 2);
    assert!(text(&missing.stderr).contains("/nonexistent.yaml"));
}

#[test]
fn a_config_map_is_applied_listed_changed_and_deleted() {
    let agent = Agent::start();
    let file = agent.dir.path().join("map.yaml");
    let path = file.to_str().unwrap();
    let write = |value: &str| {
        let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{k: {value:?}}}\n");
        std::fs::write(&file, text).unwrap();
    };
    write("1");
    for (arguments, said) in [
        (
            &["apply", "-f", path, "--dry-run"][..],
            "configmap/m would be created\nno pod would change\nnothing was changed (dry run)\n",
        ),
        (&["apply", "-f", path], "configmap/m created\n"),
        (&["apply", "-f", path], "configmap/m unchanged\n"),
    ] {
        let output = agent.lamina(arguments);
        assert_eq!((status(&output), text(&output.stdout).as_str()), (0, said), "{}", text(&output.stderr));
    }
    write("2");
    assert_eq!(text(&agent.lamina(&["apply", "-f", path]).stdout), "configmap/m configured\n");
    assert_eq!(text(&agent.lamina(&["delete", "configmap/m"]).stdout), "configmap/m deleted\n");
    assert_eq!(status(&agent.lamina(&["delete", "configmap/m"])), 4);
}

#[test]
fn the_store_of_a_stopped_agent_can_be_checked_and_asked() {
    let mut agent = Agent::start();
    assert_eq!(agent.stop(), Some(0));
    let root = agent.dir.path().join("root");
    let root = root.to_str().unwrap();
    for arguments in
        [&["check", "--root", root][..], &["check", "--full", "--root", root], &["gc", "--dry-run", "--root", root]]
    {
        let output = agent.lamina(arguments);
        assert_eq!(status(&output), 0, "{arguments:?}: {}", text(&output.stderr));
    }
    assert_eq!(status(&agent.lamina(&["why", "none:1", "--root", root])), 4);
    // What changes the store needs the agent.
    assert_eq!(status(&agent.lamina(&["gc", "--root", root])), 3);
    assert_eq!(status(&agent.lamina(&["check", "--repair", "--root", root])), 3);
}

#[test]
fn a_stream_that_is_not_asked_for_as_one_is_refused_in_words() {
    let agent = Agent::start();
    let mut raw = UnixStream::connect(agent.run().join("agent.sock")).unwrap();
    raw.write_all(b"POST /v1/exec HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("lamina-stream/1"), "{answer}");
}
