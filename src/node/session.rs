//! A conversation with one process in a container: its streams, its size, its end.

use std::os::fd::OwnedFd;

use super::Error;

/// The agent's ends of a process's streams; whoever holds the session copies them to and from its client.
#[derive(Debug)]
pub enum Streams {
    /// One pipe a stream; `None` where it was not asked for.
    Pipes {
        /// Write end.
        stdin: Option<OwnedFd>,
        /// Read end.
        stdout: Option<OwnedFd>,
        /// Read end.
        stderr: Option<OwnedFd>,
    },
    /// The master of the process's terminal.
    Tty(OwnedFd),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessExit {
    /// Its status; 128 + the signal when a signal ended it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
}

/// What a client wants to be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// Send to its standard input.
    pub stdin: bool,
    /// Receive its standard output.
    pub stdout: bool,
    /// Receive its standard error (with a terminal it is one with the output).
    pub stderr: bool,
    /// Give it a terminal.
    pub tty: bool,
}

/// A process that a client is connected to. Dropping it closes the streams and leaves the process alone, but for the
/// pod of `run --rm`, which is removed.
#[derive(Debug)]
pub struct Session {
    /// Taken by whoever copies them.
    pub streams: Option<Streams>,
    /// `namespace/pod`.
    pub pod: String,
    /// The container's name.
    pub container: String,
}

impl Session {
    /// Waits for the process to end. Cancel-safe.
    ///
    /// # Errors
    /// If the pod's shim is lost.
    pub async fn wait(&mut self) -> Result<ProcessExit, Error> {
        std::future::pending().await
    }

    /// Tells the terminal its size.
    ///
    /// # Errors
    /// If there is no terminal or the shim is lost.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let _ = (columns, rows);
        Ok(())
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// If it is gone or the shim is lost.
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let _ = signal;
        Ok(())
    }
}
