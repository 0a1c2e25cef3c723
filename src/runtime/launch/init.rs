//! A container's first process, from the fork to its program.

use std::io::Write as _;
use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;

use super::mapped::Parts;
use super::report::Reporter;
use super::{Error, Launch, Stage, devices, filesystems, mask, program, root, terminal, volume};
use crate::runtime::spec;
use crate::sys::inside;
use crate::sys::namespace::{self, Namespace};
use crate::sys::process;

/// Runs in the child; returns only an error.
pub(super) fn run(launch: &Launch<'_>, report: &Reporter) -> Error {
    match prepare(launch, report) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn prepare(launch: &Launch<'_>, report: &Reporter) -> Result<std::convert::Infallible, Error> {
    enter(launch)?;
    inside(launch, None, report)
}

/// Takes the process to the container's cgroup.
pub(super) fn enter(launch: &Launch<'_>) -> Result<(), Error> {
    let oci = &launch.container.oci;
    begin(oci.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj))?;
    launch.cgroup.join_v1().map_err(|e| Error::cgroup(&e))?;
    if spec::has_namespace(oci, LinuxNamespaceType::Cgroup) {
        namespace::unshare(&[Namespace::Cgroup]).map_err(Error::at(Stage::Namespace, "(cgroup)"))?;
    }
    Ok(())
}

/// Mounts everything and becomes the program. `parts`: what only the host's root could make, made by it.
pub(super) fn inside(
    launch: &Launch<'_>,
    parts: Option<Parts>,
    report: &Reporter,
) -> Result<std::convert::Infallible, Error> {
    let oci = &launch.container.oci;
    let Some(running) = oci.process() else {
        return Err(Error::refuse(Stage::Exec, "nothing: the spec has no process", libc::EINVAL));
    };
    let root = if let Some(parts) = parts {
        let root = root::attach(parts.root)?;
        filesystems::mount_all(&root, oci, launch.cgroup, parts.filesystems)?;
        volume::attach_all(&root, launch.binds, parts.volumes)?;
        root
    } else {
        let root = root::mount(&launch.root, filesystems::label(oci))?;
        filesystems::mount_all(&root, oci, launch.cgroup, Vec::new())?;
        devices::make(&root, oci, launch.container.privileged)?;
        let volumes = volume::prepare_all(launch.binds, None)?;
        volume::attach_all(&root, launch.binds, volumes)?;
        root
    };
    mask::apply(&root, oci)?;
    inside::make_directories(&root, running.cwd(), 0o755)
        .map_err(Error::at(Stage::Directory, running.cwd().display()))?;
    let stdio = terminal::open(&root, launch.stdio, report, true)?;
    root::pivot(&root, oci.root().as_ref().is_some_and(|root| root.readonly() == Some(true)))?;

    let filter = oci.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    program::execute(running, &launch.container.user, filter, stdio, report)
}

/// What both kinds of process do first, while the caller's `/proc` is still in sight.
pub(super) fn begin(oom_score_adj: Option<i32>) -> Result<(), Error> {
    process::set_dumpable(false).map_err(Error::at(Stage::Privileges, ""))?;
    process::reset_signals();
    rustix::process::setsid().map_err(Error::at(Stage::Stdio, "(new session)"))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    // Without a keyring in the kernel there is no other process' key to see either.
    let _ = process::new_session_keyring();
    if let Some(score) = oom_score_adj {
        let path = Path::new("/proc/self/oom_score_adj");
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(score.to_string().as_bytes()));
        match written {
            // Lower than the caller's own needs CAP_SYS_RESOURCE, which an agent in a container may lack.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
            result => result.map_err(Error::at(Stage::Limit, "oom_score_adj"))?,
        }
    }
    Ok(())
}
