//! `lamina`: the node agent, its shim and its command line in one binary.
//!
//! ```text
//! main ─┬─ `lamina shim …`   commands::shim   single-threaded, before clap or any runtime has touched memory
//!       ├─ `lamina agent …`  commands::agent  the daemon: a multi-threaded runtime, the node, the server
//!       └─ all other verbs   commands::<verb> a client on one thread: parse → ask the agent → print
//! ```

mod cli;
mod client;
mod commands;
mod failure;
mod output;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|verb| verb == "shim") {
        return commands::shim::main(arguments);
    }
    cli::main()
}
