//! The command line's grammar, and the way from a parsed line to its verb.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::client::Client;
use crate::commands;
use crate::failure;
use crate::output::{self, Terminal};

/// Where an agent's socket is when nothing says otherwise.
pub(crate) const RUN: &str = "/run/lamina";

/// Runs pods from Kubernetes YAML on shared, immutable image layers.
#[derive(Debug, Parser)]
#[command(name = "lamina", version, about, max_term_width = 120, propagate_version = false)]
#[command(
    after_help = "Exit status: 0 done · 1 failed · 2 usage or bad input · 3 agent already running or not running · \
    4 not found · 5 a wait timed out. `run`, `exec` and `attach` hand on the command's own status; before it runs: \
    125 ours, 126 cannot be executed, 127 not found."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The run directory of the agent to talk to: sockets and live state [default: /run/lamina]
    #[arg(long, global = true, env = "LAMINA_RUN", value_name = "DIR", help_heading = "Global options")]
    pub(crate) run: Option<PathBuf>,
    /// No progress bars, also on a terminal
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_progress: bool,
}

impl Global {
    /// The run directory.
    pub(crate) fn run(&self) -> &Path {
        self.run.as_deref().unwrap_or_else(|| Path::new(RUN))
    }
}

/// The verbs, in the order of a pod's life.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the node agent in the foreground
    Agent(Box<commands::agent::Arguments>),
    /// In a cluster: grant nodes the revisions that they may run, and sum up status
    Controller(commands::controller::Arguments),
    /// Add or change desired objects
    Apply(commands::apply::Arguments),
    /// Remove desired objects
    Delete(commands::delete::Arguments),
    /// End pods and make them anew
    Restart(commands::restart::Arguments),
    /// Change how many pods a workload has
    Scale(commands::scale::Arguments),
    /// Follow, undo and list changes of a workload's template
    Rollout(commands::rollout::Arguments),
    /// Stop all pods with their grace periods, and keep them stopped until --undo
    Drain(commands::drain::Arguments),
    /// Run a one-off pod: its output, its exit status
    Run(Box<commands::run::Arguments>),
    /// List objects: pods, workloads, containers, images, layers, volumes, events, manifests
    Get(commands::get::Arguments),
    /// Show one object: its conditions, its events, what it holds and what holds it
    Describe(commands::describe::Arguments),
    /// Print a container's output
    Logs(commands::logs::Arguments),
    /// Run a command in a container
    Exec(commands::exec::Arguments),
    /// Connect to a container's own process
    Attach(commands::attach::Arguments),
    /// Copy files and directories in and out of a running container
    Cp(commands::cp::Arguments),
    /// Forward ports of this machine to a pod
    PortForward(commands::port_forward::Arguments),
    /// Wait until an object is ready, has succeeded or is gone
    Wait(commands::wait::Arguments),
    /// Live cpu, memory, writable layer and network of pods, or of the node
    Top(commands::top::Arguments),
    /// Fetch an image; what a person pulled stays until `rmi`
    Pull(commands::pull::Arguments),
    /// Read an image from an OCI layout or a docker archive, a directory or a tar
    Load(commands::load::Arguments),
    /// Write images as one archive, an OCI layout or what `docker save` writes
    Save(commands::save::Arguments),
    /// Write the merged tree of a container or an image as a tar
    Export(commands::export::Arguments),
    /// Give an image another name
    Tag(commands::tag::Arguments),
    /// Remove a name of an image, and the image with its last one
    Rmi(commands::rmi::Arguments),
    /// Images as stacks of layers, and who shares each
    Image(commands::image::Arguments),
    /// An image's layers: size, shared by how many, what made them
    History(commands::history::Arguments),
    /// What a container or image changed against an image: A, C and D lines
    Diff(commands::diff::Arguments),
    /// Disk use: total, shared, unique, reclaimable
    Df(commands::df::Arguments),
    /// The chain that keeps a layer or an image
    Why(commands::why::Arguments),
    /// Keep an image whatever else happens
    Pin(commands::pin::Arguments),
    /// Keep it no longer
    Unpin(commands::pin::Arguments),
    /// Free what nothing refers to
    Gc(commands::gc::Arguments),
    /// Is the store sound; --repair fetches again what is damaged
    Check(commands::check::Arguments),
    /// What a field of a manifest does here
    Explain(commands::explain::Arguments),
    /// Version, node, kernel features found and missing, drivers, limits, paths
    Info(commands::info::Arguments),
    /// The CustomResourceDefinitions of NodeWorkload and NodeReport as YAML
    Crd(commands::crd::Arguments),
    /// The completion script of a shell
    Completion(commands::completion::Arguments),
    /// The guided run of the README: an agent under a temporary root, and each claim checked
    Demo(commands::demo::Arguments),
    /// Tables of the README, made from the code
    #[command(hide = true)]
    Docs(commands::docs::Arguments),
}

/// What a verb works with besides its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    /// The agent.
    pub(crate) agent: Client,
    /// How to print.
    pub(crate) terminal: Terminal,
}

/// Parses the command line and runs its verb.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    failure::report(dispatch(cli), &mut std::io::stderr())
}

/// Help and version are data, and success; everything else is a usage error.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Help that cannot be printed has no other way to say so.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => failure::Status::Usage.into(),
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let context = Context { agent: Client::new(cli.global.run()), terminal: Terminal::detect(cli.global.no_progress) };
    // The daemon has a runtime of its own, and some verbs need neither a runtime nor an agent.
    match cli.verb {
        Verb::Agent(arguments) => commands::agent::run(*arguments, cli.global.run),
        Verb::Completion(arguments) => commands::completion::run(&arguments),
        Verb::Controller(arguments) => commands::controller::run(arguments),
        Verb::Crd(arguments) => commands::crd::run(&arguments),
        Verb::Demo(arguments) => commands::demo::run(arguments),
        Verb::Docs(arguments) => commands::docs::run(&arguments),
        Verb::Explain(arguments) => commands::explain::run(&arguments),
        verb => {
            // One thread: a client waits for one agent, and threads would cost more time than its whole work.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(client(verb, &context));
            // A thread may still wait for a line of standard input; nobody waits for it.
            runtime.shutdown_background();
            output::flush()?;
            result
        }
    }
}

async fn client(verb: Verb, context: &Context) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Apply(a) => commands::apply::run(a, context).await,
        Verb::Delete(a) => commands::delete::run(a, context).await,
        Verb::Restart(a) => commands::restart::run(a, context).await,
        Verb::Scale(a) => commands::scale::run(a, context).await,
        Verb::Rollout(a) => commands::rollout::run(a, context).await,
        Verb::Drain(a) => commands::drain::run(a, context).await,
        Verb::Run(a) => commands::run::run(*a, context).await,
        Verb::Get(a) => commands::get::run(a, context).await,
        Verb::Describe(a) => commands::describe::run(a, context).await,
        Verb::Logs(a) => commands::logs::run(a, context).await,
        Verb::Exec(a) => commands::exec::run(a, context).await,
        Verb::Attach(a) => commands::attach::run(a, context).await,
        Verb::Cp(a) => commands::cp::run(a, context).await,
        Verb::PortForward(a) => commands::port_forward::run(a, context).await,
        Verb::Wait(a) => commands::wait::run(a, context).await,
        Verb::Top(a) => commands::top::run(a, context).await,
        Verb::Pull(a) => commands::pull::run(a, context).await,
        Verb::Load(a) => commands::load::run(a, context).await,
        Verb::Save(a) => commands::save::run(a, context).await,
        Verb::Export(a) => commands::export::run(a, context).await,
        Verb::Tag(a) => commands::tag::run(a, context).await,
        Verb::Rmi(a) => commands::rmi::run(a, context).await,
        Verb::Image(a) => commands::image::run(a, context).await,
        Verb::History(a) => commands::history::run(a, context).await,
        Verb::Diff(a) => commands::diff::run(a, context).await,
        Verb::Df(a) => commands::df::run(a, context).await,
        Verb::Why(a) => commands::why::run(a, context).await,
        Verb::Pin(a) => commands::pin::run(a, true, context).await,
        Verb::Unpin(a) => commands::pin::run(a, false, context).await,
        Verb::Gc(a) => commands::gc::run(a, context).await,
        Verb::Check(a) => commands::check::run(a, context).await,
        Verb::Info(a) => commands::info::run(a, context).await,
        Verb::Agent(_)
        | Verb::Completion(_)
        | Verb::Controller(_)
        | Verb::Crd(_)
        | Verb::Demo(_)
        | Verb::Docs(_)
        | Verb::Explain(_) => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests;
