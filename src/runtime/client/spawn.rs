//! Starting a shim: run the binary, hand it its configuration, wait until it says that it is ready.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::Error;
use crate::runtime::shim::{Config, READY};

/// How long a shim may take until it listens; it only makes namespaces and cgroups.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest complaint that is read of a shim that did not start.
const MAX_COMPLAINT: u64 = 64 << 10;

/// Runs `binary shim <title> <uid>` and returns when it listens.
pub(super) async fn shim(binary: &Path, config: &Config) -> Result<(), Error> {
    let failed = |source| Error::Spawn { pod: config.pod.clone(), source };
    let text = serde_json::to_vec(config).map_err(|e| failed(io::Error::from(e)))?;
    let mut child = Command::new(binary)
        .args(["shim", &config.title, &config.pod])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let conversation = async {
        if let Some(mut stdin) = stdin {
            // A shim that gave up before it read all of this says why on the other pipe.
            let _ = stdin.write_all(&text).await;
        }
        let mut said = String::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_COMPLAINT).read_to_string(&mut said).await?;
        }
        // The process that was started has forked the one that stays.
        child.wait().await?;
        Ok::<_, io::Error>(said)
    };
    let said = tokio::time::timeout(SETUP_TIMEOUT, conversation)
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    match said.trim() {
        READY => Ok(()),
        "" => Err(Error::Setup { pod: config.pod.clone(), message: "it ended without a word".to_owned() }),
        message => Err(Error::Setup { pod: config.pod.clone(), message: message.to_owned() }),
    }
}
