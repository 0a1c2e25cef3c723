//! `exec`: a command in the container, by its shim.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::{Outcome, Place};
use crate::runtime::client;
use crate::runtime::protocol::{Event, ExecRequest, Stdio, Target};
use crate::runtime::spec::ContainerSpec;

/// How much of what a command says is kept, as a kubelet has it.
const MAX_OUTPUT: usize = 10 << 10;
const SIGKILL: i32 = 9;

/// Runs a command and waits for its end; one that takes longer than `timeout` is killed.
pub(super) async fn run(command: &[String], place: &Place, timeout: Duration) -> Outcome {
    let text = match tokio::fs::read(&place.spec).await {
        Ok(text) => text,
        Err(e) => return Outcome::Unknown(format!("the container's spec cannot be read: {e}")),
    };
    let spec: ContainerSpec = match serde_json::from_slice(&text) {
        Ok(spec) => spec,
        Err(e) => return Outcome::Unknown(format!("the container's spec cannot be read: {e}")),
    };
    let Ok((mut output, ends)) = pipes() else { return Outcome::Unknown("cannot make a pipe".to_owned()) };
    let request = ExecRequest {
        name: place.container.clone(),
        attempt: place.attempt,
        process: spec.process(command.to_vec(), false),
        size: None,
        stdio: Stdio { stdin: false, stdout: true, stderr: true },
    };
    // Listening begins before there is anything to hear.
    let mut told = place.told.subscribe();
    let id = match place.client.exec(request, ends).await {
        Ok(execed) => execed.id,
        Err(client::Error::Refused(failure)) => return Outcome::Unknown(failure.message),
        Err(error) => return Outcome::Unknown(error.to_string()),
    };
    let ended = async {
        loop {
            match told.recv().await {
                Ok(Event::ExecExited { id: ended, exit }) if ended == id => return Some(exit.code),
                Ok(_) => {}
                // Too much was told at once, or the shim is gone.
                Err(_) => return None,
            }
        }
    };
    let mut said = Vec::new();
    let waited = async {
        let mut open = true;
        let mut buffer = [0; 1024];
        tokio::pin!(ended);
        loop {
            tokio::select! {
                code = &mut ended => {
                    // What it wrote last is in the pipe; what it left running may hold the pipe open for long. Tokio
                    // may not have been told of it yet, and would not ask: the kernel is asked.
                    while let Ok(n @ 1..) = rustix::io::read(&output, &mut buffer) {
                        keep(&mut said, &buffer[..n]);
                    }
                    return code;
                }
                read = output.read(&mut buffer), if open => match read {
                    Ok(n @ 1..) => keep(&mut said, &buffer[..n]),
                    _ => open = false,
                },
            }
        }
    };
    let code = tokio::time::timeout(timeout, waited).await;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    match code {
        Ok(Some(0)) => Outcome::Success,
        Ok(Some(code)) if said.is_empty() => Outcome::Failure(format!("exit status {code}")),
        Ok(Some(_)) => Outcome::Failure(said),
        Ok(None) => Outcome::Unknown("how the command ended is not known".to_owned()),
        Err(_) => {
            // It may have ended at this very moment.
            let _ = place.client.signal(Target::Exec { id }, SIGKILL, false).await;
            Outcome::Failure(format!("the command timed out after {} s", timeout.as_secs()))
        }
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    let room = MAX_OUTPUT.saturating_sub(said.len());
    said.extend_from_slice(&more[..more.len().min(room)]);
}

/// Our end of a pipe, and the command's two.
fn pipes() -> std::io::Result<(pipe::Receiver, Vec<OwnedFd>)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let again = write.try_clone()?;
    Ok((pipe::Receiver::from_owned_fd(read)?, vec![write, again]))
}
