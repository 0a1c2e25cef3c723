//! Starting containers, and processes in them: gathers what the launch needs, and keeps what comes of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use jiff::Timestamp;
use rustix::pipe::{PipeFlags, pipe_with};

use super::input::Input;
use super::output::Outputs;
use super::pod::{Container, Exec, Pod};
use super::requests::failed;
use super::volumes::{self, Opened};
use crate::runtime::launch::{self, Bind, Child, ExecLaunch, Launch, Lower, Root};
use crate::runtime::logs::{Rotation, Stream, Writer};
use crate::runtime::protocol::{ContainerStatus, ExecRequest, Failure, FailureKind, Reply, StartRequest};
use crate::runtime::spec;
use crate::sys::cgroup::Cgroup;
use crate::sys::mount::Tier;

/// The shim's ends of a container's streams.
#[derive(Debug, Default)]
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The container's ends; closed once it has them.
#[derive(Debug)]
struct Given {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pod {
    /// Starts a container.
    pub(super) fn start(&mut self, request: StartRequest, fds: Vec<OwnedFd>) -> Result<ContainerStatus, Failure> {
        let StartRequest { name, attempt, .. } = &request;
        if !is_label(name) {
            return Err(Failure::new(FailureKind::Invalid, format!("{name:?} is no name of a container")));
        }
        for other in self.containers.values().filter(|c| c.name == *name) {
            if other.attempt == *attempt {
                let message = format!("container {name} (attempt {attempt}) is there already");
                return Err(Failure::new(FailureKind::Exists, message));
            }
            if other.exit.is_none() {
                let message = format!("container {name} still runs as attempt {}", other.attempt);
                return Err(Failure::new(FailureKind::Exists, message));
            }
        }
        let path = format!("{}/{name}-{attempt}", self.config.cgroup.display());
        let (cgroup, missing) =
            Cgroup::create(&self.place.hierarchies, &path, &request.limits).map_err(|e| failed(&e))?;
        let mut warnings: Vec<_> = missing.into_iter().map(|w| w.0).collect();
        let allowed = restrict(&request, &cgroup);
        match allowed.and_then(|()| self.launch(&request, fds, &cgroup, &mut warnings)) {
            Ok((number, child, streams)) => {
                let container = Container {
                    name: request.name,
                    attempt: request.attempt,
                    state: request.state,
                    pid: child.pid,
                    pidfd: child.pidfd,
                    cgroup,
                    started_at: streams.started_at,
                    exit: None,
                    recorded: false,
                    layers: request.root.layers,
                    terminal: streams.terminal,
                    outputs: streams.outputs,
                    input: streams.input,
                    warnings,
                    deleting: Vec::new(),
                };
                let status = container.status();
                self.containers.insert(number, container);
                Ok(status)
            }
            Err(failure) => {
                // Whatever was in it has been killed and reaped by the launch.
                if let Err(e) = cgroup.kill().and_then(|()| cgroup.remove()) {
                    super::note(&crate::api::problem::chain(&e));
                }
                Err(failure)
            }
        }
    }

    /// Everything of a start that can fail once there is a cgroup.
    fn launch(
        &mut self,
        request: &StartRequest,
        attached: Vec<OwnedFd>,
        cgroup: &Cgroup,
        warnings: &mut Vec<String>,
    ) -> Result<(u64, Child, Streams), Failure> {
        let number = self.number();
        let log = PathBuf::from(&self.config.log_name).join(&request.name);
        let log =
            Writer::open(&self.config.log_dir, &log, request.attempt, Rotation::default()).map_err(|e| failed(&e))?;
        let mut streams =
            Streams { outputs: Outputs::new(number, log), input: None, terminal: None, started_at: Timestamp::now() };
        let spec = &request.container.oci;
        let has_terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);

        let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
        let volumes: Vec<Opened> = request
            .volumes
            .iter()
            .map(|bind| volumes::open(&mut self.mounts, &self.place, bind, (request.root.tier, label)))
            .collect::<Result<_, _>>()?;
        let binds: Vec<Bind<'_>> = request
            .volumes
            .iter()
            .zip(&volumes)
            .map(|(bind, opened)| Bind {
                target: &bind.target,
                source: opened.source(),
                sub_path: opened.sub_path(bind),
                read_only: bind.read_only,
                recursive: bind.recursive,
                propagation: bind.propagation,
                options: &bind.options,
            })
            .collect();

        let layers = &request.root.layers;
        let (mut fds, mut paths, mut target) = (Vec::new(), Vec::new(), PathBuf::new());
        if request.root.tier == Tier::Attached {
            paths = layers.iter().map(|name| self.mounts.place(name)).collect::<Result<_, _>>()?;
            target = self.mounts.root()?;
        } else {
            fds = layers.iter().map(|name| self.mounts.fd(name)).collect::<Result<_, _>>()?;
        }
        let lower = match request.root.tier {
            Tier::Attached => Lower::Paths { layers: &paths, target: &target },
            Tier::Detached => Lower::Fds(&fds),
        };
        let (ends, given) = if has_terminal {
            (Ends::default(), None)
        } else {
            let (ends, given) = pipes(request.stdin).map_err(|e| failed(&e))?;
            (ends, Some(given))
        };
        let stdio = match &given {
            Some(given) => launch::Stdio::Fds {
                stdin: given.stdin.as_ref().map(AsFd::as_fd),
                stdout: Some(given.stdout.as_fd()),
                stderr: Some(given.stderr.as_fd()),
            },
            None => launch::Stdio::Terminal { size: request.size.map(|(columns, rows)| (rows, columns)) },
        };
        let root = Root { lower, upper: &request.root.upper, work: &request.root.work };
        let pid_of = self.place.init.as_ref().map(|init| init.pidfd.as_fd());
        let container = &request.container;
        let users = self.place.users.as_ref();
        let users = users.map(|(namespace, first)| launch::Users { namespace: namespace.as_fd(), first: *first });
        let started = launch::start(&Launch { container, root, binds: &binds, cgroup, stdio, pid_of, users });
        let mut child = started.map_err(|e| refused(&e))?;
        drop(given);
        streams.started_at = Timestamp::now();
        let joined = self
            .stream(number, &mut streams, ends, child.terminal.take(), request)
            .map_err(|e| failed(&e))
            .and_then(|()| self.connect_first(&mut streams, request, attached));
        if let Err(failure) = joined {
            // It runs, so this is no reason to end it: it is one to say what will be missing.
            warnings.push(failure.to_string());
        }
        streams.outputs.settle(&mut self.reactor);
        Ok((number, child, streams))
    }

    /// Watches the shim's ends.
    fn stream(
        &mut self,
        number: u64,
        streams: &mut Streams,
        ends: Ends,
        terminal: Option<OwnedFd>,
        request: &StartRequest,
    ) -> std::io::Result<()> {
        if let Some(terminal) = terminal {
            // One open file, three descriptors: to read, to write, and to resize.
            streams.outputs.add(&mut self.reactor, Stream::Stdout, terminal.try_clone()?)?;
            streams.input = Some(Input::new(number, terminal.try_clone()?, request.stdin_once)?);
            streams.terminal = Some(terminal);
            return Ok(());
        }
        for (stream, fd) in [(Stream::Stdout, ends.stdout), (Stream::Stderr, ends.stderr)] {
            if let Some(fd) = fd {
                streams.outputs.add(&mut self.reactor, stream, fd)?;
            }
        }
        streams.input = ends.stdin.map(|to| Input::new(number, to, request.stdin_once)).transpose()?;
        Ok(())
    }

    /// Connects the streams that the request brought descriptors for.
    fn connect_first(
        &mut self,
        streams: &mut Streams,
        request: &StartRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        super::requests::connect(&mut self.reactor, &mut streams.outputs, streams.input.as_mut(), request.attach, fds)
    }

    /// Runs a process in a container.
    pub(super) fn exec(
        &mut self,
        request: &ExecRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), Failure> {
        let target = crate::runtime::protocol::Target::container(&request.name, request.attempt);
        let number = self.find(&target)?;
        let Some(container) = self.containers.get(&number).filter(|c| c.exit.is_none()) else {
            return Err(Failure::new(FailureKind::NotRunning, format!("{target} has ended")));
        };
        if fds.len() != request.stdio.fds() {
            let message = format!("{} descriptors came where {} were announced", fds.len(), request.stdio.fds());
            return Err(Failure::new(FailureKind::Invalid, message));
        }
        let mut fds = fds.into_iter();
        let mut next = |wanted: bool| if wanted { fds.next() } else { None };
        let (stdin, stdout, stderr) =
            (next(request.stdio.stdin), next(request.stdio.stdout), next(request.stdio.stderr));
        let stdio = if request.process.process.terminal().unwrap_or(false) {
            launch::Stdio::Terminal { size: request.size.map(|(columns, rows)| (rows, columns)) }
        } else {
            launch::Stdio::Fds {
                stdin: stdin.as_ref().map(AsFd::as_fd),
                stdout: stdout.as_ref().map(AsFd::as_fd),
                stderr: stderr.as_ref().map(AsFd::as_fd),
            }
        };
        let started_at = Timestamp::now();
        let child = launch::exec(&ExecLaunch {
            init: container.pidfd.as_fd(),
            process: &request.process,
            cgroup: &container.cgroup,
            stdio,
            users: self.place.users.as_ref().map(|(_, first)| *first),
        })
        .map_err(|e| refused(&e))?;
        let id = self.number();
        let reply = Reply::Execed { id, pid: child.pid.unsigned_abs() };
        self.execs.insert(id, Exec { pid: child.pid, pidfd: child.pidfd, started_at });
        Ok((reply, child.terminal))
    }
}

/// What is kept of a container's streams.
struct Streams {
    outputs: Outputs,
    input: Option<Input>,
    terminal: Option<OwnedFd>,
    started_at: Timestamp,
}

fn pipes(stdin: bool) -> Result<(Ends, Given), rustix::io::Errno> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let (stdin_read, stdin_write) = if stdin { pipe().map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
    let ((stdout_read, stdout), (stderr_read, stderr)) = (pipe()?, pipe()?);
    let ends = Ends { stdin: stdin_write, stdout: Some(stdout_read), stderr: Some(stderr_read) };
    Ok((ends, Given { stdin: stdin_read, stdout, stderr }))
}

/// Forbids the devices that are not the container's.
fn restrict(request: &StartRequest, cgroup: &Cgroup) -> Result<(), Failure> {
    let rules = spec::device_rules(&request.container.oci)
        .map_err(|e| Failure::new(FailureKind::Invalid, crate::api::problem::chain(&e)))?;
    rules.map_or(Ok(()), |rules| cgroup.restrict_devices(&rules).map_err(|e| failed(&e)))
}

/// Names become part of paths, so the shim looks for itself.
fn is_label(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn refused(error: &launch::Error) -> Failure {
    let kind = match error.exit_code() {
        127 => FailureKind::CommandNotFound,
        126 => FailureKind::CommandNotExecutable,
        _ => FailureKind::Failed,
    };
    Failure { kind, reason: Some(error.reason().to_owned()), message: crate::api::problem::chain(error) }
}
