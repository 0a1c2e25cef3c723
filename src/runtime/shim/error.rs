//! Why a shim could not be set up, or could not go on.

use std::io;
use std::path::PathBuf;

use crate::sys::{cgroup, mount};

/// Why a shim could not be set up, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its standard input is not a configuration.
    #[error("cannot read the shim's configuration")]
    Configuration {
        /// What is wrong with it.
        source: io::Error,
    },
    /// Another shim holds the pod's directory.
    #[error("another shim holds {}", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory is in the way.
    #[error("cannot {action} {}", path.display())]
    Path {
        /// The step.
        action: &'static str,
        /// Its subject.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused something that has no path.
    #[error("cannot {action}")]
    Kernel {
        /// The step.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pod's cgroup could not be made or entered.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The pod's mount namespace could not be made.
    #[error(transparent)]
    Mount(#[from] mount::Error),
}

impl Error {
    /// A mapper for `map_err`.
    pub(super) fn kernel<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Kernel { action, source: e.into() }
    }

    /// A mapper for `map_err`.
    pub(super) fn path<E: Into<io::Error>>(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |e| Self::Path { action, path, source: e.into() }
    }
}
