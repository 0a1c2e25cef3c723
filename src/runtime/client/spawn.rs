//! Starting a shim: run the binary, hand it its configuration, wait until it says that it is ready.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::mount::MountAttrFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::Error;
use crate::runtime::shim::{Config, READY};
use crate::sys::mount::Mount;

/// How long a shim may take until it listens; it only makes namespaces and cgroups.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest complaint that is read of a shim that did not start.
const MAX_COMPLAINT: u64 = 64 << 10;

/// Runs `binary shim <title> <uid>` and returns when it listens.
///
/// The shim is in a session, a cgroup and namespaces of its own and, where it could be born in its cgroup, no child of the
/// caller: nothing ties it. Until it listens it dies with the process that was started.
pub(super) async fn shim(binary: &Path, config: &Config) -> Result<(), Error> {
    let failed = |source| Error::Spawn { pod: config.pod.clone(), source };
    let text = serde_json::to_vec(config).map_err(|e| failed(io::Error::from(e)))?;
    let program = sealed(binary).map_err(failed)?;
    let child = Command::new(program.proc_path())
        .arg0("lamina")
        .args(["shim", &config.title, &config.pod])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut child = Unready(Some(child));
    let Some(process) = child.0.as_mut() else { return Ok(()) };
    let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
    let conversation = async {
        if let Some(mut stdin) = stdin {
            // A shim that gave up before it read all of this says why on the other pipe.
            let _ = stdin.write_all(&text).await;
        }
        let mut said = String::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_COMPLAINT).read_to_string(&mut said).await?;
        }
        Ok::<_, io::Error>(said)
    };
    let said = tokio::time::timeout(SETUP_TIMEOUT, conversation)
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    match said.trim() {
        READY => {
            // It lives its own life from here on.
            child.0.take();
            Ok(())
        }
        said => {
            if let Some(mut process) = child.0.take() {
                // It has closed its output, so this is the last of it.
                let _ = process.start_kill();
                let _ = process.wait().await;
            }
            let message = if said.is_empty() { "it ended without a word" } else { said };
            Err(Error::Setup { pod: config.pod.clone(), message: message.to_owned() })
        }
    }
}

/// The binary through a read-only mount that nobody else sees: `/proc/<pid>/exe` of the shim, and of a container's
/// process before it has executed its own program, can then never be opened for writing.
fn sealed(binary: &Path) -> io::Result<Mount> {
    let into = |e: crate::sys::mount::Error| io::Error::other(crate::api::problem::chain(&e));
    let mount = Mount::clone_path(binary, false).map_err(into)?;
    mount.set_attributes(MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(into)?;
    Ok(mount)
}

/// A shim that has not said yet that it is ready: killed if nobody waits for that any more.
struct Unready(Option<Child>);

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.start_kill();
        }
    }
}
