//! The last steps of every process: limits, user, capabilities, filter, directory, program.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::{LinuxSeccomp, Process};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fstat, openat};

use super::report::Reporter;
use super::terminal::Streams;
use super::user::{self, Resolved};
use super::{Error, Stage, filter};
use crate::runtime::spec::{DEFAULT_PATH, UserRequest};
use crate::sys::capability::{self, Capabilities};
use crate::sys::process;

/// The file mode mask that a program begins with.
const UMASK: u32 = 0o022;

/// Becomes the program. The root is the container's by now.
pub(super) fn execute(
    running: &Process,
    user: &UserRequest,
    seccomp: Option<&LinuxSeccomp>,
    streams: Streams,
    report: &Reporter,
) -> Result<Infallible, Error> {
    let root: OwnedFd = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::at(Stage::User, ""))?;
    let who = user::resolve(user, &root).map_err(user::Error::into_launch)?;
    limits(running)?;
    // Compiled before anything is given up, loaded as late as the privileges for it allow.
    let program = seccomp.map(filter::compile).transpose()?;
    let command = Command::new(running, &who)?;
    place(&streams, who.uid)?;

    let fail = || Error::at::<io::Error>(Stage::Privileges, "");
    let load = |program: &crate::sys::seccomp::Program| {
        program.load().map_err(|e| match e {
            crate::sys::seccomp::Error::Load { source } => Error::at(Stage::Privileges, "(filter)")(source),
            other => Error::refuse(Stage::Privileges, format!("({other})"), libc::EINVAL),
        })
    };
    let sets = Sets::of(running)?;
    capability::bound(sets.bounding).map_err(fail())?;
    capability::keep_across_user_change().map_err(fail())?;
    become_user(&who)?;
    let no_new_privileges = running.no_new_privileges() == Some(true);
    let all = capability::permitted().map_err(fail())?;
    if let Some(program) = program.as_ref().filter(|_| !no_new_privileges) {
        // Loading needs CAP_SYS_ADMIN, which the container is about to lose.
        capability::set(all, all).map_err(fail())?;
        load(program)?;
    }
    let permitted = sets.permitted.both(all);
    capability::set(permitted, sets.effective.both(permitted)).map_err(fail())?;

    if let Some(profile) = running.apparmor_profile().as_ref().filter(|p| !p.is_empty()) {
        // From the next program on.
        let fail =
            Error::at::<io::Error>(Stage::Privileges, format!("(the AppArmor profile {profile:?}: is it loaded?)"));
        std::fs::write("/proc/thread-self/attr/apparmor/exec", format!("exec {profile}")).map_err(fail)?;
    }
    if let Some(label) = running.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        let fail = Error::at::<io::Error>(Stage::Privileges, format!("(the SELinux label {label:?})"));
        std::fs::write("/proc/thread-self/attr/exec", label).map_err(fail)?;
    }
    enter_directory(running)?;
    rustix::process::umask(Mode::from_raw_mode(running.user().umask().unwrap_or(UMASK) & 0o777));
    process::close_on_exec_from(3).map_err(Error::at(Stage::Stdio, ""))?;
    report.ready().map_err(Error::at(Stage::Exec, ""))?;
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(Error::at(Stage::Privileges, ""))?;
        if let Some(program) = &program {
            load(program)?;
        }
    }
    Err(command.execute())
}

/// The capability sets of the spec.
struct Sets {
    bounding: Capabilities,
    permitted: Capabilities,
    effective: Capabilities,
}

impl Sets {
    fn of(running: &Process) -> Result<Self, Error> {
        let collect = |names: &Option<oci_spec::runtime::Capabilities>| {
            let mut set = Capabilities::EMPTY;
            for name in names.iter().flatten() {
                let name = name.to_string();
                let unknown = || Error::refuse(Stage::Privileges, format!("(unknown capability {name})"), libc::EINVAL);
                set = set.with(Capabilities::named(&name).ok_or_else(unknown)?);
            }
            Ok(set)
        };
        let Some(sets) = running.capabilities() else {
            return Ok(Self {
                bounding: Capabilities::EMPTY,
                permitted: Capabilities::EMPTY,
                effective: Capabilities::EMPTY,
            });
        };
        Ok(Self {
            bounding: collect(sets.bounding())?,
            permitted: collect(sets.permitted())?,
            effective: collect(sets.effective())?,
        })
    }
}

fn limits(running: &Process) -> Result<(), Error> {
    for limit in running.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        process::set_limit(&name, limit.soft(), limit.hard()).map_err(Error::at(Stage::Limit, name))?;
    }
    Ok(())
}

/// Puts the streams at 0, 1 and 2 and gives them to the user, who may open `/dev/stdout` again by name.
fn place(streams: &Streams, uid: u32) -> Result<(), Error> {
    for (number, fd) in (0..).zip(&streams.fds) {
        let stat = fstat(fd).map_err(Error::at(Stage::Stdio, ""))?;
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && !streams.is_terminal;
        if !is_null && stat.st_uid != uid {
            // Read-only file systems and foreign owners refuse; the stream works without.
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
        process::place_at(fd.as_fd(), number).map_err(Error::at(Stage::Stdio, ""))?;
    }
    Ok(())
}

fn become_user(who: &Resolved) -> Result<(), Error> {
    let fail = || Error::at::<rustix::io::Errno>(Stage::User, who.uid);
    let groups: Vec<Gid> = who.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(fail())?;
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(fail())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(fail())
}

fn enter_directory(running: &Process) -> Result<(), Error> {
    let directory = running.cwd();
    let fail = || Error::at::<rustix::io::Errno>(Stage::Directory, directory.display());
    rustix::process::chdir(directory).map_err(fail())?;
    // A directory outside the root has no name inside it.
    let name = rustix::process::getcwd(Vec::new()).map_err(fail())?;
    if name.as_bytes().first() != Some(&b'/') {
        return Err(Error::refuse(Stage::Directory, directory.display(), libc::ENOENT));
    }
    Ok(())
}

/// Arguments and environment as the kernel takes them.
struct Command {
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// The places to look at, or the program itself.
    candidates: Vec<CString>,
}

impl Command {
    fn new(running: &Process, who: &Resolved) -> Result<Self, Error> {
        let text = |s: String| {
            CString::new(s).map_err(|e| {
                let shown = String::from_utf8_lossy(&e.into_vec()).into_owned();
                Error::refuse(Stage::Exec, format!("{shown:?}: a NUL byte in an argument or variable"), libc::EINVAL)
            })
        };
        let arguments = running.args().clone().unwrap_or_default();
        let environment = running.env().clone().unwrap_or_default();
        let Some(name) = arguments.first().filter(|name| !name.is_empty()).cloned() else {
            return Err(Error::refuse(Stage::Exec, "nothing: no command is given", libc::ENOENT));
        };
        let candidates = if name.contains('/') {
            vec![name]
        } else {
            let path = environment.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
            path.split(':').map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir })).collect()
        };
        let home = (!environment.iter().any(|e| e.starts_with("HOME="))).then(|| format!("HOME={}", who.home));
        Ok(Self {
            arguments: arguments.into_iter().map(text).collect::<Result<_, _>>()?,
            environment: environment.into_iter().chain(home).map(text).collect::<Result<_, _>>()?,
            candidates: candidates.into_iter().map(text).collect::<Result<_, _>>()?,
        })
    }

    /// Tries each place as a shell does: one that may not be executed is remembered, and the search goes on.
    fn execute(&self) -> Error {
        let mut result = io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in &self.candidates {
            let error = process::execute(candidate, &self.arguments, &self.environment);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => result = error,
                _ => {
                    result = error;
                    break;
                }
            }
        }
        let name = self.arguments.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Error::at(Stage::Exec, format!("{name:?}"))(result)
    }
}
