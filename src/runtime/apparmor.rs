//! The AppArmor profile of containers that ask for `RuntimeDefault`.
//!
//! The kernel takes profiles in a compiled form alone, so the host's `apparmor_parser` loads it, once in the life of an
//! agent and when it is first wanted. It allows what containerd's profile allows, so that what runs there runs here.

use std::io::{self, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::host;

/// The name of our profile.
const NAME: &str = "lamina-default";
/// The one that containerd loads: what there is on a node without the program that loads ours.
const CONTAINERDS: &str = "cri-containerd.apparmor.d";
/// The program.
const PARSER: &str = "apparmor_parser";
/// With these features all versions since 3.0 mean the same by the rules.
const FEATURES: &str = "/etc/apparmor.d/abi/3.0";

/// What is in the profile. Whatever a container may do otherwise, it neither mounts nor changes the kernel by `/proc` and
/// `/sys`: all but processes, `/proc/sys/kernel/shm*` and cgroups is closed to writers. Signals and traces stay among
/// containers, save signals of the host.
const RULES: &str = "\
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send, receive) peer=lamina-default,
  ptrace (trace, read, tracedby, readby) peer=lamina-default,
  deny mount,

  deny /proc/* w,
  deny /proc/{[^0-9st],s[^ye],sy[^s],t[^h]}*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/{sysrq-trigger,kcore,mem,kmem} rwklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
";

/// How long the program has.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Why the profile is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be run.
    #[error("cannot load the AppArmor profile {NAME} with {PARSER}")]
    Run {
        /// What went wrong.
        source: io::Error,
    },
    /// The program did not load it.
    #[error("{PARSER} does not load the AppArmor profile {NAME}: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

fn profile(with_features: bool) -> String {
    let features = if with_features { "abi <abi/3.0>,\n" } else { "" };
    format!("{features}profile {NAME} flags=(attach_disconnected,mediate_deleted) {{\n{RULES}}}\n")
}

/// Loads the profile; gives the name of the one to use. Blocks.
///
/// # Errors
/// If the program is there and does not load it.
pub fn load() -> Result<&'static str, Error> {
    let started = host::within(|| {
        let mut command = Command::new(PARSER);
        command.arg("--replace").arg("--skip-cache").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", host::PATH);
        }
        (command.spawn(), profile(std::path::Path::new(FEATURES).exists()))
    });
    let (started, text) = started.map_err(|source| Error::Run { source })?;
    let parser = match started {
        Ok(parser) => parser,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(CONTAINERDS),
        Err(source) => return Err(Error::Run { source }),
    };
    let said = feed(parser, &text, PATIENCE).map_err(|source| Error::Run { source })?;
    if said.status.success() {
        return Ok(NAME);
    }
    Err(Error::Refused { reason: String::from_utf8_lossy(&said.stderr).trim().replace('\n', "; ") })
}

/// Gives a program its input, which fits into a pipe, and waits for its end; one that takes longer than it has is killed.
fn feed(mut program: Child, input: &str, patience: Duration) -> io::Result<Output> {
    // One that does not read says why.
    let _ = program.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let begin = Instant::now();
    while program.try_wait()?.is_none() {
        if begin.elapsed() > patience {
            program.kill()?;
            program.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {patience:?}")));
        }
        thread::sleep(LOOK);
    }
    program.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, patience: Duration) -> io::Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        feed(command.spawn().unwrap(), &profile(true), patience)
    }

    #[test]
    fn a_program_is_fed_heard_and_ended() {
        let said = shell("grep lamina-default >&2; exit 3", PATIENCE).unwrap();
        assert_eq!(said.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&said.stderr).contains("profile lamina-default flags="));
        assert!(shell("exit 0", PATIENCE).unwrap().status.success(), "one that does not read is no error of ours");
        let error = shell("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
