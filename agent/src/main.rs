//! `lamina`: the node agent, its shim and its command line in one binary.

mod commands;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|verb| verb == "shim") {
        return commands::shim::main(arguments);
    }
    ExitCode::FAILURE
}
