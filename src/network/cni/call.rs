//! One call of a plugin: a program that gets its task by variables and on its input, and has so long for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Error;
use super::list::{Network, Version, kind};
use crate::sys::host;

/// How much a plugin may say; results are a few hundred bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How much of what it says beside its answer is shown.
const MAX_SHOWN: usize = 512;

/// What a plugin is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Task {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// Whom a call is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Whom<'a> {
    pub(super) container: &'a str,
    /// The namespace; empty once it is gone.
    pub(super) namespace: &'a str,
    pub(super) interface: &'a str,
    pub(super) arguments: &'a str,
}

/// Where plugins are, and how long one may take.
#[derive(Debug)]
pub(super) struct Caller {
    dirs: Vec<PathBuf>,
    limit: Duration,
    /// The versions that a program speaks, by its path and when it was changed.
    versions: Mutex<HashMap<(PathBuf, i128), Vec<Version>>>,
}

/// What a plugin says when it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: Option<u32>,
    msg: String,
    details: String,
}

impl Caller {
    pub(super) fn new(dirs: Vec<PathBuf>, limit: Duration) -> Self {
        Self { dirs, limit, versions: Mutex::default() }
    }

    /// The program of a plugin.
    pub(super) fn find(&self, network: &Network, plugin: &Map<String, Value>) -> Result<PathBuf, Error> {
        let name = kind(plugin);
        let mut places = self.dirs.iter().map(|dir| dir.join(name));
        let failed = |source| {
            let (network, plugin) = (network.name.clone(), name.to_owned());
            Error::Run { network, plugin, task: "find", source }
        };
        let found = host::within(|| places.find(|path| path.is_file())).map_err(failed)?;
        found.ok_or_else(|| Error::NoPlugin {
            network: network.name.clone(),
            plugin: name.to_owned(),
            dirs: self.dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Has a plugin do a task; gives what it says, nothing if it says nothing.
    pub(super) fn call(
        &self,
        network: &Network,
        plugin: &Map<String, Value>,
        task: Task,
        whom: &Whom<'_>,
        input: &Value,
    ) -> Result<Option<Value>, Error> {
        let program = self.find(network, plugin)?;
        self.run(&network.name, &program, task, whom, input)
    }

    /// The newest version that a network may be spoken with and all of its plugins speak.
    pub(super) fn version(&self, network: &Network) -> Result<Version, Error> {
        let mut spoken = Vec::new();
        for plugin in &network.plugins {
            let program = self.find(network, plugin)?;
            spoken.push((kind(plugin), self.spoken(&network.name, &program)?));
        }
        let all = |version: &&Version| spoken.iter().all(|(_, versions)| versions.contains(*version));
        if let Some(version) = network.versions.iter().find(all) {
            return Ok(*version);
        }
        let list = |versions: &[Version]| versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let none = |v: &[Version]| network.versions.iter().all(|wanted| !v.contains(wanted));
        let (plugin, versions) =
            spoken.iter().find(|(_, v)| none(v)).or_else(|| spoken.first()).cloned().unwrap_or_default();
        Err(Error::Version {
            network: network.name.clone(),
            wanted: list(&network.versions),
            plugin: plugin.to_owned(),
            spoken: list(&versions),
        })
    }

    fn spoken(&self, network: &str, program: &Path) -> Result<Vec<Version>, Error> {
        let changed = host::within(|| program.metadata().and_then(|m| m.modified()).ok()).ok().flatten();
        let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let key = (program.to_owned(), changed.and_then(|d| i128::try_from(d.as_nanos()).ok()).unwrap_or_default());
        let known = || self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = known().get(&key) {
            return Ok(versions.clone());
        }
        let newest = Version::WITH_GC.to_string();
        let said = self.run(network, program, Task::Version, &Whom::default(), &json!({ "cniVersion": newest }))?;
        let list = said.as_ref().and_then(|s| s.get("supportedVersions")).and_then(Value::as_array);
        // One that is not known here is no reason not to use another.
        let versions: Vec<Version> = list.into_iter().flatten().filter_map(|v| v.as_str()?.parse().ok()).collect();
        known().insert(key, versions.clone());
        Ok(versions)
    }

    fn run(
        &self,
        network: &str,
        program: &Path,
        task: Task,
        whom: &Whom<'_>,
        input: &Value,
    ) -> Result<Option<Value>, Error> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let at = || (network.to_owned(), name.clone(), task.name());
        let failed = |source| {
            let (network, plugin, task) = at();
            Error::Run { network, plugin, task, source }
        };
        let (stdout, stderr) = (memory(None).map_err(failed)?, memory(None).map_err(failed)?);
        let mut command = Command::new(program);
        command
            .stdin(Stdio::from(memory(Some(input.to_string().as_bytes())).map_err(failed)?))
            .stdout(Stdio::from(stdout.try_clone().map_err(failed)?))
            .stderr(Stdio::from(stderr.try_clone().map_err(failed)?))
            .env("CNI_COMMAND", task.name())
            .env("CNI_PATH", std::env::join_paths(&self.dirs).unwrap_or_default())
            // A group of its own, so that what it starts ends with it.
            .process_group(0)
            .current_dir("/");
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", host::PATH);
        }
        for (variable, value) in [
            ("CNI_CONTAINERID", whom.container),
            ("CNI_NETNS", whom.namespace),
            ("CNI_IFNAME", whom.interface),
            ("CNI_ARGS", whom.arguments),
        ] {
            if value.is_empty() {
                command.env_remove(variable);
            } else {
                command.env(variable, value);
            }
        }
        let mut child = host::within(|| command.spawn()).and_then(|started| started).map_err(failed)?;
        let in_time = finished(&child, self.limit).map_err(failed);
        if !matches!(in_time, Ok(true)) {
            kill(&child);
            let _ = child.wait();
            in_time?;
            let (network, plugin, task) = at();
            return Err(Error::Timeout { network, plugin, task, seconds: self.limit.as_secs() });
        }
        let status = child.wait().map_err(failed)?;
        let said = text(stdout).map_err(failed)?;
        if status.success() {
            let said = said.trim();
            if said.is_empty() {
                return Ok(None);
            }
            return serde_json::from_str(said).map(Some).map_err(|e| failed(e.into()));
        }
        let (network, plugin, task) = at();
        let refusal: Refusal = serde_json::from_str(said.trim()).unwrap_or_default();
        let mut reason = refusal.msg;
        if !refusal.details.is_empty() {
            reason = if reason.is_empty() { refusal.details } else { format!("{reason}: {}", refusal.details) };
        }
        if reason.is_empty() {
            let more = text(stderr).unwrap_or_default();
            let end = more.trim().lines().next_back().unwrap_or_default().chars().take(MAX_SHOWN).collect::<String>();
            let how = match status.signal() {
                Some(signal) => format!("it was ended by signal {signal}"),
                None => format!("it ended with status {}", status.code().unwrap_or_default()),
            };
            reason = if end.is_empty() { how } else { format!("{how}: {end}") };
        }
        Err(Error::Refused { network, plugin, task, code: refusal.code, reason })
    }
}

/// A file in memory: with a content to read, or to be written, and then no larger than an answer may be. So that nobody
/// need read what a plugin writes while it runs, nor wait for whoever else holds the other end.
fn memory(content: Option<&[u8]>) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("cni", flags)?);
    if let Some(content) = content {
        file.write_all(content)?;
        file.rewind()?;
    } else {
        file.set_len(MAX_ANSWER)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW)?;
    }
    Ok(file)
}

/// What was written into a file in memory: the rest of it is zeros.
fn text(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Whether a child ends in time.
fn finished(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = pid(child).ok_or(io::ErrorKind::NotFound)?;
    let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&wait)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn kill(child: &Child) {
    if let Some(pid) = pid(child) {
        // It is gone, or will be.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}
