//! What a request to the node can fail with, sorted by what a client may do about it.

use std::path::PathBuf;

/// Why a request to the node failed. `Display` is one line for a person; the chain of sources has the rest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent holds the store.
    #[error("{} is in use by another agent ({holder})", root.display())]
    Locked {
        /// The store's root.
        root: PathBuf,
        /// Who holds it, as the lock file says.
        holder: String,
    },
    /// There is no such object.
    #[error("{kind} {name} not found")]
    NotFound {
        /// As in `pod`.
        kind: &'static str,
        /// As the client named it.
        name: String,
    },
    /// The request makes no sense for the object as it is.
    #[error("cannot {action} {name}: {reason}")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// On what.
        name: String,
        /// Why not.
        reason: String,
    },
    /// What the client sent is not valid; one line a problem.
    #[error("{}", problems.join("\n"))]
    Invalid {
        /// Every problem found, each naming its field.
        problems: Vec<String>,
    },
    /// A process in a container did not start.
    #[error("cannot run {}{name}: {reason}", if command.is_empty() { String::new() } else { format!("{command:?} in ") })]
    Command {
        /// `namespace/pod/container`.
        name: String,
        /// The command's first word; empty for a container's own, which `reason` names where it is at fault.
        command: String,
        /// Why not.
        reason: String,
        /// 126: it cannot be executed; 127: it is not there; 125: anything else.
        status: i32,
    },
    /// A step of the node's own failed.
    #[error("cannot {action}")]
    Failed {
        /// What was attempted.
        action: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// A mapper for `map_err`: what was attempted when a lower module failed.
    pub(crate) fn failed<E>(action: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Failed { action: action.into(), source: source.into() }
    }
}
