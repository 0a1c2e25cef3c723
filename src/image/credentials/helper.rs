//! Credential helpers: `docker-credential-<name> get`, the server's name on its input, JSON on its output.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Credential, Secret};
use crate::sys::host;

/// How long a helper may take: some ask a service of a cloud.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer: tokens of some clouds have several KiB.
const MAX_ANSWER: u64 = 64 << 10;

/// Why a helper gave no credential. Never holds what it wrote: that may be one.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelperError {
    /// It could not be started or spoken to.
    #[error("cannot run credential helper docker-credential-{name}")]
    Run {
        /// The helper.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("credential helper docker-credential-{name} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// The helper.
        name: String,
    },
    /// It failed, or its answer is not what helpers say.
    #[error("credential helper docker-credential-{name} failed: {reason}")]
    Answer {
        /// The helper.
        name: String,
        /// `exit status 3`, `no valid answer`, …
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// Whether a helper's name is only a name, so that no path of the configuration's making is run.
pub(in crate::image) fn helper_name_ok(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !name.starts_with(['.', '-'])
}

/// Asks a helper for `server`'s credential; `None` where it has none.
pub(super) async fn ask(name: &str, server: &str) -> Result<Option<Credential>, HelperError> {
    if !helper_name_ok(name) {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a helper's name");
        return Err(HelperError::Run { name: name.to_owned(), source });
    }
    run(name, format!("docker-credential-{name}").as_ref(), server).await
}

async fn run(name: &str, program: &Path, server: &str) -> Result<Option<Credential>, HelperError> {
    let run = |source| HelperError::Run { name: name.to_owned(), source };
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", host::PATH);
    }
    let runtime = tokio::runtime::Handle::current();
    let started = host::within(move || {
        // It is the runtime that hears of its end.
        let _runtime = runtime.enter();
        command.spawn()
    });
    let mut child = started.and_then(|started| started).map_err(run)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut stdin) = stdin {
            // A helper that does not read its input may have closed it: its answer decides.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        }
        child.wait().await.map(|status| (status, answer))
    };
    let (status, answer) = match tokio::time::timeout(TIMEOUT, talk).await {
        Ok(done) => done.map_err(run)?,
        Err(_) => return Err(HelperError::Timeout { name: name.to_owned() }),
    };
    let failed = |reason: String| HelperError::Answer { name: name.to_owned(), reason };
    if !status.success() {
        // The one failure that the protocol names: nothing stored for that server.
        if String::from_utf8_lossy(&answer).contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(status.to_string()));
    }
    let answer: Answer = serde_json::from_slice(&answer).map_err(|_| failed("no valid answer".to_owned()))?;
    Ok(Some(if answer.username == "<token>" {
        Credential::Identity { token: answer.secret }
    } else {
        Credential::Basic { username: answer.username, password: answer.secret }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A helper in a directory of its own, run by its path's name only.
    async fn with(script: &str) -> Result<Option<Credential>, HelperError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-x");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        loop {
            match run("x", &path, "r.example").await {
                // Another test's fork still has the script open for writing.
                Err(HelperError::Run { source, .. }) if source.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    tokio::task::yield_now().await;
                }
                other => return other,
            }
        }
    }

    #[tokio::test]
    async fn a_helper_is_told_the_server_and_its_answer_is_read() {
        let echo = r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"u-$s\",\"Secret\":\"pw\"}""#;
        let found = with(echo).await.unwrap().unwrap();
        assert_eq!(found.parts(), ("u-r.example", "pw"));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert!(matches!(with(token).await.unwrap(), Some(Credential::Identity { .. })));
    }

    #[tokio::test]
    async fn a_helper_without_a_credential_is_no_error_and_a_broken_one_is() {
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert_eq!(with(none).await.unwrap(), None);
        for broken in ["exit 3", "echo canary", "head -c 200000 /dev/zero"] {
            let error = with(broken).await.unwrap_err();
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn a_helpers_name_is_no_path() {
        for name in ["", "../x", "a/b", ".x", "-x", "a b"] {
            assert!(!helper_name_ok(name), "{name}");
        }
        assert!(helper_name_ok("ecr-login"));
    }
}
