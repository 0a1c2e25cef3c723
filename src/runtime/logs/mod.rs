//! Container logs in CRI format, rotated by size, never written or read through a link that someone planted.
//!
//! ```text
//! <log-dir>/<namespace>_<name>_<uid>/<container>/
//!   <attempt>.log          what is written now
//!   <attempt>.log.1 … .4   what was, the newest first
//!
//! 2026-11-23T15:02:06.123456789Z stdout F a whole line
//! 2026-11-23T15:02:06.123456789Z stderr P the first 16 KiB of a long one
//! ```
//!
//! Containers may have the log directory mounted, so whatever lies in it is untrusted: directories are entered step by
//! step and files opened without following links; a file that is not an ordinary one with a single name is put aside.
//! The shim is the only writer of an attempt's files; any number of readers may read them.

mod directory;
mod follow;
mod last;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod writer;

pub use directory::remove;
pub use follow::Follow;
pub use last::last;
pub use read::{Query, read};
pub use record::Line;
pub use writer::{Rotation, Writer};

use serde::{Deserialize, Serialize};

/// The longest part of a line in one record; what kubelets and log collectors expect.
pub const MAX_LINE: usize = 16 << 10;

/// Which of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Its standard output, or its terminal.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    /// As it stands in a record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Why logs could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct Error {
    /// The step.
    pub action: &'static str,
    /// The file or directory of that step.
    pub path: std::path::PathBuf,
    /// What the kernel said.
    pub source: std::io::Error,
}
