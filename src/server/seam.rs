//! What the server asks of the node, and how the node's errors become refusals.

use super::problem::{Problem, Reason};
use crate::api::problem::chain;
use crate::node::Error;

/// The status that a process which could not be executed leaves in a shell.
const NOT_EXECUTABLE: i32 = 126;

/// The status of a command that is not there.
const NO_COMMAND: i32 = 127;

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let reason = match &error {
            Error::NotFound { .. } => Reason::NotFound,
            Error::Refused { .. } => Reason::Refused,
            Error::Invalid { .. } => Reason::Invalid,
            Error::Command { status: NOT_EXECUTABLE, .. } => Reason::NotExecutable,
            Error::Command { status: NO_COMMAND, .. } => Reason::NoCommand,
            _ => Reason::Failed,
        };
        let problem = Self::new(reason, chain(&error));
        match reason {
            Reason::NotFound => problem.hint("lamina get pods -A lists what there is"),
            Reason::NoCommand => problem.hint("is the command in the image, and on its PATH?"),
            _ => problem,
        }
    }
}
