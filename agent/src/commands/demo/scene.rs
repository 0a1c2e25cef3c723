//! What the acts play on: a temporary root, the agent, a way to show a command and run it.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::Images;

/// How long anything in the demo may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);
/// The moment of reading between acts.
const PAUSE: Duration = Duration::from_millis(1200);

/// The temporary node and how the acts speak to it and to the reader.
#[derive(Debug)]
pub(super) struct Scene {
    dir: PathBuf,
    binary: PathBuf,
    agent: Option<Child>,
    metrics: u16,
    pub(super) images: Images,
    pause: Option<Duration>,
    colour: bool,
    interrupted: Arc<AtomicBool>,
    claims: u32,
}

impl Scene {
    /// Makes the directories and starts the agent.
    pub(super) fn open(images: Images, no_pause: bool, interrupted: Arc<AtomicBool>) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("lamina-demo-{}", std::process::id()));
        for sub in ["root", "run", "log", "manifests"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let terminal = std::io::stdout().is_terminal();
        let mut scene = Self {
            binary: std::env::current_exe().context("cannot find this program's own file")?,
            agent: None,
            metrics: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
            images,
            pause: (terminal && !no_pause).then_some(PAUSE),
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
            interrupted,
            claims: 0,
            dir,
        };
        if let Err(e) = scene.start_agent() {
            let log = fs::read_to_string(scene.dir.join("agent.log")).unwrap_or_default();
            scene.close()?;
            return Err(e.context(format!("the agent does not start:\n{log}")));
        }
        Ok(scene)
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        let log = File::create(self.dir.join("agent.log"))?;
        let mut command = Command::new(&self.binary);
        command.arg("agent");
        for (flag, sub) in [
            ("--root", "root"),
            ("--run", "run"),
            ("--log-dir", "log"),
            ("--manifests", "manifests"),
            ("--images", "images"),
        ] {
            command.arg(flag).arg(self.dir.join(sub));
        }
        command.arg("--metrics").arg(format!("127.0.0.1:{}", self.metrics));
        // Whoever tries this may have a fuller machine than a node would like.
        command.args(["--eviction-hard", "none"]);
        // A process group of its own: a terminal's Ctrl-C must not end the agent before its pods.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.agent = Some(command.spawn().context("cannot start the agent")?);
        self.until("the agent is ready", |scene| Ok(scene.http("/readyz").is_some()))
    }

    /// A heading.
    pub(super) fn act(&mut self, title: &str) -> anyhow::Result<()> {
        if let Some(pause) = self.pause {
            std::thread::sleep(pause);
        }
        let line = if self.colour { format!("\n\x1b[1m== {title}\x1b[0m\n") } else { format!("\n== {title}\n") };
        self.print(&line)
    }

    /// A sentence to the reader.
    pub(super) fn tell(&self, text: &str) -> anyhow::Result<()> {
        self.print(&format!("{text}\n"))
    }

    /// A claim that was checked; a false one ends the demo.
    pub(super) fn claim(&mut self, holds: bool, text: &str) -> anyhow::Result<()> {
        ensure!(holds, "the claim does not hold: {text}");
        self.claims += 1;
        let mark = if self.colour { "\x1b[32m✓\x1b[0m" } else { "✓" };
        self.print(&format!("{mark} {text}\n"))
    }

    /// How many claims held.
    pub(super) const fn claims(&self) -> u32 {
        self.claims
    }

    fn print(&self, text: &str) -> anyhow::Result<()> {
        self.go_on()?;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
    }

    fn go_on(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Shows a command as a user would type it, runs it, and lets its output through. It must succeed.
    pub(super) fn show(&self, args: &[&str]) -> anyhow::Result<()> {
        let shown: Vec<String> = args.iter().map(|a| quoted(a)).collect();
        self.print(&format!("$ lamina {}\n", shown.join(" ")))?;
        let status = self.command(args).status().with_context(|| format!("cannot run lamina {}", args.join(" ")))?;
        self.go_on()?;
        ensure!(status.success(), "lamina {} ended with {status}", args.join(" "));
        Ok(())
    }

    /// Runs a command quietly and gives what it printed.
    pub(super) fn quiet(&self, args: &[&str]) -> anyhow::Result<String> {
        self.go_on()?;
        let out = self.command(args).output().with_context(|| format!("cannot run lamina {}", args.join(" ")))?;
        let error = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "lamina {} ended with {}: {error}", args.join(" "), out.status);
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// An object or a list, as JSON.
    pub(super) fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.quiet(&all)?)?)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("LAMINA_RUN", self.dir.join("run")).stdin(Stdio::null()).args(args);
        command
    }

    /// Writes a manifest into the watched directory, and shows it.
    pub(super) fn declare(&self, file: &str, yaml: &str) -> anyhow::Result<()> {
        let indented: Vec<String> = yaml.lines().map(|l| format!("    {l}")).collect();
        self.print(&format!("$ cat {file}\n{}\n", indented.join("\n")))?;
        let tmp = self.dir.join(format!(".{file}"));
        fs::write(&tmp, yaml)?;
        fs::rename(tmp, self.dir.join("manifests").join(file))?;
        self.print(&format!("$ cp {file} /etc/lamina/manifests/\n"))
    }

    /// Takes a manifest away.
    pub(super) fn withdraw(&self, file: &str) -> anyhow::Result<()> {
        self.print(&format!("$ rm /etc/lamina/manifests/{file}\n"))?;
        fs::remove_file(self.dir.join("manifests").join(file))?;
        Ok(())
    }

    /// Waits until something holds.
    pub(super) fn until(&self, what: &str, holds: impl Fn(&Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.go_on()?;
            if holds(self)? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// The names of the layers in the store.
    pub(super) fn layers(&self) -> anyhow::Result<Vec<String>> {
        let list = self.json(&["get", "layers"])?;
        let names = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(names.iter().filter_map(|l| l["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// The value of a metric's only or first series that starts with `name`.
    pub(super) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.http("/metrics").context("the metrics listener does not answer")?;
        let line = text.lines().find(|l| l.starts_with(name)).with_context(|| format!("no metric {name}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    /// Lines of the metrics page that start with one of `names`.
    pub(super) fn metric_lines(&self, names: &[&str]) -> anyhow::Result<Vec<String>> {
        let text = self.http("/metrics").context("the metrics listener does not answer")?;
        let wanted = |l: &&str| names.iter().any(|n| l.starts_with(n));
        Ok(text.lines().filter(wanted).map(str::to_owned).collect())
    }

    /// The port of the metrics listener.
    pub(super) const fn metrics_port(&self) -> u16 {
        self.metrics
    }

    fn http(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// Stops pods and agent and removes the directories; also after an interruption.
    pub(super) fn close(&mut self) -> anyhow::Result<()> {
        self.interrupted.store(false, Ordering::Relaxed);
        for entry in fs::read_dir(self.dir.join("manifests")).into_iter().flatten().flatten() {
            fs::remove_file(entry.path())?;
        }
        let stopped = if self.agent.is_some() {
            self.until("all pods have stopped", |scene| {
                Ok(scene.quiet(&["get", "pods", "-A", "-o", "name"])?.is_empty())
            })
        } else {
            Ok(())
        };
        if let Some(mut agent) = self.agent.take() {
            let pid = i32::try_from(agent.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
            agent.wait()?;
        }
        stopped?;
        remove_tree(&self.dir)
    }
}

fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// An argument as a shell would need it.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%,+".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) { argument.to_owned() } else { format!("'{argument}'") }
}
