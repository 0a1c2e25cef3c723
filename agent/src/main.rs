//! `lamina`: the node agent, its shim and its command line in one binary.
//!
//! ```text
//! main ─┬─ `kubectl-lamina`  plugin          the name kubectl knows: asks the agents of a cluster's nodes
//!       ├─ `lamina shim …`   commands::shim   single-threaded, before clap or any runtime has touched memory
//!       ├─ `lamina agent …`  commands::agent  the daemon: a multi-threaded runtime, the node, the server
//!       └─ all other verbs   commands::<verb> a client on one thread: parse → ask the agent → print
//! ```

mod cli;
mod client;
mod commands;
mod failure;
mod output;
mod plugin;
mod remote;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if plugin::is_meant(arguments.next().as_deref()) {
        return plugin::main();
    }
    if arguments.next().is_some_and(|verb| verb == "shim") {
        return commands::shim::main(arguments);
    }
    cli::main()
}
