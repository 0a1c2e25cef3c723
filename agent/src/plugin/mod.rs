//! `kubectl lamina`: the same binary under the name `kubectl-lamina` on the PATH. It asks the agents of a cluster's
//! nodes, over TLS and with the caller's own token, what no object of the API server holds: containers, images, layers,
//! logs, a command in a container.
//!
//! ```text
//! kubeconfig ──▶ NodeReports (which node has the pod, where its agent answers) ──▶ the agent's own API, verb by verb
//! ```

mod cluster;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::cluster::Cluster;
use crate::cli::{self, Context};
use crate::client::Client;
use crate::commands;
use crate::failure;
use crate::output::{self, Terminal};

/// The name under which kubectl finds the binary.
const NAME: &str = "kubectl-lamina";

/// Asks the Lamina agents of a cluster's nodes.
#[derive(Debug, Parser)]
#[command(name = NAME, bin_name = "kubectl lamina", version, max_term_width = 120)]
#[command(
    after_help = "Nodes and the addresses of their agents are in `kubectl get nodereports`. You ask with your own \
    token: what you may see is what the API server says of you."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// The kubeconfig file [default: as kubectl: $KUBECONFIG, ~/.kube/config, in a pod its service account]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    context: Option<String>,
    /// Only this node's agent [default: all nodes, or the one that has the pod]
    #[arg(long, global = true, value_name = "NODE", help_heading = "Global options")]
    node: Option<String>,
    /// Whose token to ask with, instead of the kubeconfig's user
    #[arg(
        long,
        global = true,
        env = "LAMINA_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Global options"
    )]
    token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List pods, containers, images, layers, volumes, events on the nodes
    Get(commands::get::Arguments),
    /// One object of a node in full
    Describe(commands::describe::Arguments),
    /// A container's output
    Logs(commands::logs::Arguments),
    /// Run a command in a container
    Exec(commands::exec::Arguments),
    /// Disk use of a node
    Df(commands::df::Arguments),
    /// The chain that keeps a layer or an image on a node
    Why(commands::why::Arguments),
    /// Version, kernel features, drivers, limits and paths of a node
    Info(commands::info::Arguments),
}

/// Whether the binary was started under the plugin's name.
pub(crate) fn is_meant(program: Option<&OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(NAME)))
}

/// Parses the command line and runs its verb.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::usage(&error),
    };
    failure::report(run(cli.global), &mut std::io::stderr())
}

fn run(global: Global) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let cluster = Cluster::open(global.kubeconfig.as_deref(), global.context.as_deref(), global.token).await?;
        // What is meant where no namespace is named is known only now.
        let verb = Cli::from_arg_matches(&in_namespace(Cli::command(), cluster.namespace()).get_matches())?.verb;
        dispatch(verb, &cluster, global.node.as_deref()).await
    });
    // A thread may still wait for a line of standard input; nobody waits for it.
    runtime.shutdown_background();
    output::flush()?;
    result
}

/// The same grammar with another default namespace.
fn in_namespace(command: Command, namespace: &str) -> Command {
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    verbs.into_iter().fold(command, |command, verb| {
        let namespace = namespace.to_owned();
        command.mut_subcommand(verb, |verb| {
            if verb.get_arguments().any(|a| a.get_id() == "namespace") {
                verb.mut_arg("namespace", |argument| argument.default_value(namespace))
            } else {
                verb
            }
        })
    })
}

async fn dispatch(verb: Verb, cluster: &Cluster, node: Option<&str>) -> anyhow::Result<ExitCode> {
    let context = |agent: Client| Context { agent, terminal: Terminal::detect(false) };
    match verb {
        Verb::Get(arguments) => {
            let agents = match node {
                Some(node) => vec![(node.to_owned(), cluster.node(node).await?)],
                None => cluster.nodes().await?,
            };
            commands::get::across(arguments, agents).await
        }
        Verb::Describe(arguments) => {
            let agent = match arguments.pod() {
                Some((namespace, pod)) => cluster.of_pod(namespace, pod, node).await?,
                None => cluster.only(node, "describe").await?,
            };
            commands::describe::run(arguments, &context(agent)).await
        }
        Verb::Logs(arguments) => {
            let (namespace, pod) = arguments.pod();
            let agent = cluster.of_pod(namespace, pod, node).await?;
            commands::logs::run(arguments, &context(agent)).await
        }
        Verb::Exec(arguments) => {
            let (namespace, pod) = arguments.pod();
            let agent = cluster.of_pod(namespace, pod, node).await?;
            commands::exec::run(arguments, &context(agent)).await
        }
        Verb::Df(arguments) => commands::df::run(arguments, &context(cluster.only(node, "df").await?)).await,
        Verb::Why(arguments) => commands::why::run(arguments, &context(cluster.only(node, "why").await?)).await,
        Verb::Info(arguments) => commands::info::run(arguments, &context(cluster.only(node, "info").await?)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_wherever_the_binary_lies() {
        for (program, meant) in
            [("kubectl-lamina", true), ("/usr/local/bin/kubectl-lamina", true), ("lamina", false), ("kubectl", false)]
        {
            assert_eq!(is_meant(Some(OsStr::new(program))), meant, "{program}");
        }
        assert!(!is_meant(None));
    }

    #[test]
    fn the_grammar_is_sound_and_the_namespace_of_the_context_is_the_default() {
        Cli::command().debug_assert();
        let parse = |line: &str| {
            let words = std::iter::once(NAME).chain(line.split_whitespace());
            Cli::from_arg_matches(&in_namespace(Cli::command(), "arena").get_matches_from(words)).unwrap()
        };
        let Verb::Logs(logs) = parse("logs game -f --node n1").verb else { panic!("not logs") };
        assert_eq!(logs.pod(), ("arena", "game"));
        let Verb::Logs(logs) = parse("logs game -n other").verb else { panic!("not logs") };
        assert_eq!(logs.pod(), ("other", "game"));
        let Verb::Exec(exec) = parse("exec -it third/game -- sh -c true").verb else { panic!("not exec") };
        assert_eq!(exec.pod(), ("third", "game"));
        assert_eq!(parse("get images --node n1").global.node.as_deref(), Some("n1"));
        assert!(matches!(parse("get pods -A --context prod").verb, Verb::Get(_)));
    }
}
