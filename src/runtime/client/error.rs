//! Why a shim could not be reached, or did not do what was asked.

use std::io;
use std::path::PathBuf;

use crate::runtime::protocol::{Failure, frame};

/// Why a shim could not be reached or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be started.
    #[error("cannot start the shim of pod {pod}")]
    Spawn {
        /// The pod's uid.
        pod: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The process started and gave up.
    #[error("the shim of pod {pod} did not start: {message}")]
    Setup {
        /// The pod's uid.
        pod: String,
        /// What it said.
        message: String,
    },
    /// Nobody listens at the socket.
    #[error("cannot connect to the shim at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It listens and does not answer.
    #[error("the shim at {} does not answer", socket.display())]
    Unresponsive {
        /// The socket.
        socket: PathBuf,
    },
    /// What answered is of another pod, or of a release too far from this one.
    #[error("the shim at {} cannot be used: {reason}", socket.display())]
    Foreign {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The shim is gone, and what it held.
    #[error("the shim of pod {pod} is gone")]
    Lost {
        /// The pod's uid.
        pod: String,
    },
    /// A message could not be sent.
    #[error("cannot talk to the shim of pod {pod}")]
    Talk {
        /// The pod's uid.
        pod: String,
        /// What is wrong.
        source: frame::Error,
    },
    /// It answered something else than was asked.
    #[error("the shim of pod {pod} gave an answer that does not fit the request")]
    Confused {
        /// The pod's uid.
        pod: String,
    },
    /// The shim says no.
    #[error(transparent)]
    Refused(#[from] Failure),
}

impl Error {
    /// Whether the shim is gone, so that its pod's processes have to be ended by their cgroup.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Connect { .. })
    }
}
