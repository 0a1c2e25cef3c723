//! `lamina shim TITLE UID`: one pod's shim (hidden). Dispatched before any parser or runtime has touched memory; the
//! arguments are only there for people who list processes, the configuration comes by standard input.

use std::env::ArgsOs;
use std::process::ExitCode;

/// Runs the shim; what goes wrong before it is ready has been told to whoever started it.
pub(crate) fn main(_arguments: ArgsOs) -> ExitCode {
    match lamina::runtime::shim::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
