//! `lamina shim`: one pod's shim (hidden).

use std::env::ArgsOs;
use std::process::ExitCode;

/// Runs the shim with the arguments after the verb.
pub(crate) fn main(_arguments: ArgsOs) -> ExitCode {
    ExitCode::FAILURE
}
